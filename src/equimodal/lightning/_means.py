"""Means over an epoch of what its steps report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from equimodal.methods import StepReport


class EpochMeans:
    """Sums of reported values on the training device, read once per epoch.

    Example:
        >>> means = EpochMeans()
        >>> for value in (1.0, 3.0):
        ...     means.add(StepReport({"joint": torch.tensor(value)}, phases=["joint"]))
        >>> means.read()
        {'loss/joint': 2.0, 'loss': 2.0}
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._phases: dict[str, None] = {}

    @property
    def phases(self) -> list[str]:
        """Names of the phases that were stepped."""
        return [*self._phases]

    def clear(self) -> None:
        """Begin an epoch."""
        self._sums, self._counts, self._phases = {}, {}, {}

    def add(self, report: StepReport) -> None:
        """Add what a step reported; no synchronisation."""
        self._phases.update(dict.fromkeys(report.phases))
        for name, value in flatten(report).items():
            value = value.detach()
            if name.startswith("score/"):  # NaN where a batch shows nothing that could be scored: it does not count
                some = ~value.isnan()
                self._add(f"count/{name}", some.to(value.dtype))
                value = torch.where(some, value, 0)
            self._add(name, value)
            self._counts[name] = self._counts.get(name, 0) + 1

    def _add(self, name: str, value: Tensor) -> None:
        known = self._sums.get(name)
        self._sums[name] = value if known is None else known.to(value.device) + value

    def read(self) -> dict[str, float]:
        """Name -> mean over the steps that reported it; synchronises."""
        means = {name: float(total) / self._counts[name] for name, total in self._sums.items() if name in self._counts}
        for name in [n for n in means if n.startswith("score/")]:
            counted = float(self._sums[f"count/{name}"])
            if counted:
                means[name] = float(self._sums[name]) / counted
            else:
                del means[name]
        return means

    def state_dict(self) -> dict[str, Any]:
        """The sums, for a checkpoint inside an epoch."""
        return {"sums": dict(self._sums), "counts": dict(self._counts), "phases": self.phases}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self._sums, self._counts = dict(state["sums"]), dict(state["counts"])
        self._phases = dict.fromkeys(state.get("phases", ()))  # checkpoints of 0.1 lack them


def flatten(report: StepReport) -> dict[str, Tensor]:
    """Flat names for everything that a step reports; ``loss`` is the sum over the phases."""
    flat = {f"loss/{k}": v for k, v in report.losses.items()}
    flat |= {f"score/{k}": v for k, v in report.scores.items()}
    flat |= {f"coefficient/{k}/{m}": v for k, by in report.coefficients.items() for m, v in by.items()}
    flat |= {f"extra/{k}": v for k, v in report.extras.items()}
    if report.phases:
        flat["loss"] = report.loss
    return flat
