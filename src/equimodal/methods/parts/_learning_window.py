"""Encoders that take in much new information, by the trace of their Fisher information from epoch to epoch."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from equimodal.engine import local, total_norm
from equimodal.methods._base import Stateful
from equimodal.model import Multimodal


class LearningWindow(Stateful, nn.Module):
    r"""Which encoders are in their prime window, :math:`(T^{t-1} - T^{t-2}) / T^{t-1} > K`, and their weights then.

    T is the squared norm of the encoder's gradient, the mean over the steps of an epoch.

    Args:
        model: gives the encoders.
        threshold: K.
    """

    state = ("_start", "_history", "_open")
    traces: Tensor

    def __init__(self, model: Multimodal, threshold: float) -> None:
        super().__init__()
        self.__dict__["_model"] = model  # no part of its own: it belongs to the method
        self._names, self._threshold = tuple(model.modalities), threshold
        # of the running epoch: squared norms, and how many steps had a gradient
        like = next(iter(model.parameters_of(self._names[0]))).detach()
        self.register_buffer("traces", like.new_zeros(2, len(self._names), dtype=torch.float64))
        self._history: dict[str, list[float]] = {m: [] for m in self._names}
        self._open: dict[str, bool] = dict.fromkeys(self._names, False)
        self._start: dict[str, Tensor] = {}

    def _encoder(self, modality: str) -> list[nn.Parameter]:
        return list(cast(Multimodal, self.__dict__["_model"]).parameters_of(modality))

    def begin_epoch(self) -> None:
        """Which encoders are in their window; their weights now."""
        self._start = {}
        for position, m in enumerate(self._names):
            past = self._history[m][-2:]
            self._open[m] = len(past) == 2 and past[1] - past[0] > self._threshold * past[1]
            if self._open[m]:
                for number, p in enumerate(self._encoder(m)):
                    self._start[f"{position}.{number}"] = p.detach().clone()

    def end_epoch(self) -> None:
        """The traces of the epoch. Waits for a device."""
        sums, counts = self.traces.tolist()
        for m, total, count in zip(self._names, sums, counts, strict=True):
            if count:
                self._history[m] = [*self._history[m][-1:], total / count]
        self.traces.zero_()

    def is_open(self, modality: str) -> bool:
        """Whether the encoder is in its window in this epoch."""
        return self._open[modality]

    @torch.no_grad()
    def hold_back(self, strength: Tensor) -> Tensor:
        r"""Note the traces of a step, then add :math:`a_m (\theta_m - \theta_m^{epoch})` to gradients in their window.

        Args:
            strength: a, (M,).

        Returns:
            (M,) the strengths in force: 0 outside of the window.
        """
        for position, m in enumerate(self._names):
            parameters = self._encoder(m)
            gradients = [p.grad for p in parameters if p.grad is not None]
            if not gradients:
                continue
            trace = total_norm(gradients).square()
            self.traces[:, position] += torch.stack([trace, torch.ones_like(trace)]).to(self.traces)
            for number, p in enumerate(parameters if self._open[m] else ()):
                if p.grad is not None:
                    distance = local(p) - local(self._start[f"{position}.{number}"]).to(p.device)
                    local(p.grad).add_(distance * strength[position].to(distance.dtype))
        return torch.stack([a * self._open[m] for m, a in zip(self._names, strength.unbind(), strict=True)])
