from __future__ import annotations

import math
from itertools import combinations
from typing import cast

import torch
from torch import Tensor, nn

from equimodal.engine import paused_statistics
from equimodal.errors import ModelError, UnsupportedError
from equimodal.unimodal._base import (
    Features,
    Masks,
    UnimodalOutputs,
    device_of,
    nothing_like,
    require_fill,
    samples_of,
)


class Shapley(UnimodalOutputs):
    r"""Shapley values of the output (P4): what each modality adds, averaged over the orders in which they may come.

    .. math:: u_m = \sum_{S \not\ni m} \frac{|S|!\,(M-|S|-1)!}{M!} \big(u(S \cup m) - u(S)\big),
        \qquad \sum_m u_m = u(\text{all}) - u(\emptyset)

    u(S) is the output when the modalities outside S are absent, which the fusion fills by its declared rule. Works with
    any fusion; 2^M passes of fusion and head. A modality that a sample does not have gets exactly 0.

    Args:
        model: any.
        most: largest number of modalities, against 2^M passes by accident.

    Raises:
        ModelError: the fusion does not declare how it fills (attribute ``fill``), or gives no finite output without any
            modality.
        UnsupportedError: more than ``most`` modalities.
    """

    name = "shapley"

    def __init__(self, model: nn.Module, most: int = 6) -> None:
        super().__init__(model)
        require_fill(model, "Shapley", "Masked with baseline='zeros'")
        count = len(self.model.modalities)
        if count > most:
            raise UnsupportedError(
                f"`model`: Shapley values take 2^M passes, here {2**count} for {count} modalities. Raise `most` (now "
                f"{most}), or use Masked, which takes {count}."
            )

    def forward(self, features: Features, present: Masks = None) -> dict[str, Tensor]:
        """The Shapley value of every modality."""
        names = tuple(features)
        with paused_statistics(cast(nn.Module, self.model)):
            value = {
                subset: self._of(subset, features, present)
                for size in range(len(names) + 1)
                for subset in combinations(names, size)
            }
        looked_at = value[()].device.type == "cpu" and not torch.compiler.is_compiling()
        if looked_at and not bool(torch.isfinite(value[()]).all()):
            raise ModelError(
                "`model`: expected a finite output when every modality is absent, which Shapley values start from. "
                "Found NaN or infinity. Divide by at least 1 in `fuse`, or use Masked."
            )
        found = {}
        for m in names:
            others = tuple(n for n in names if n != m)
            terms = []
            for size in range(len(others) + 1):
                weight = math.factorial(size) * math.factorial(len(names) - size - 1) / math.factorial(len(names))
                for subset in combinations(others, size):
                    joined = tuple(n for n in names if n in subset or n == m)
                    terms.append(weight * (value[joined] - value[subset]))
            found[m] = torch.stack(terms).sum(0)
        return found

    def _of(self, subset: tuple[str, ...], features: Features, present: Masks) -> Tensor:
        first = next(iter(features.values()))
        everyone = torch.ones(samples_of(first), dtype=torch.bool, device=device_of(first))
        masks = {}
        for m in self.model.modalities:
            own = None if present is None else present.get(m)
            inside = m in subset
            masks[m] = (everyone if own is None else own) if inside else ~everyone
        return self._output({m: f if m in subset else nothing_like(f, True) for m, f in features.items()}, masks)
