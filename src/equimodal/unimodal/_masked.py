from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast

import torch
from torch import Tensor, nn

from equimodal.batch import Tokens, Tree
from equimodal.engine import paused_statistics
from equimodal.errors import ModelError
from equimodal.unimodal._base import (
    Features,
    Masks,
    UnimodalOutputs,
    device_of,
    nothing_like,
    require_fill,
    samples_of,
)


class Masked(UnimodalOutputs):
    r"""The whole model with every other modality taken away (P3): works with any fusion; M passes of fusion and head.

    Args:
        model: any.
        baseline: what the others are replaced by: ``"absent"``, whatever the fusion puts in place of an absent
            modality; ``"zeros"``, zero features that count as present; or modality -> feature (d_m,), for example the
            mean of the training features.

    Raises:
        ModelError: ``"absent"`` with a fusion that does not declare how it fills (attribute ``fill``), or a baseline
            of another modality or width.

    Running statistics of normalisation layers in fusion and head are left as they are.
    """

    name = "masked"

    def __init__(
        self, model: nn.Module, baseline: Literal["absent", "zeros"] | Mapping[str, Tensor] = "absent"
    ) -> None:
        super().__init__(model)
        if isinstance(baseline, str) and baseline not in ("absent", "zeros"):
            raise ModelError(f"`baseline`: expected 'absent', 'zeros' or modality -> feature. Found {baseline!r}.")
        if baseline == "absent":
            require_fill(model, "Masked", "baseline='zeros'")
        self.baseline = baseline if isinstance(baseline, str) else "given"
        self._names = tuple(self.model.modalities)
        if not isinstance(baseline, str):
            sizes = {m: (d,) for m, d in self.model.feature_sizes.items()}
            found = {m: tuple(v.shape) for m, v in baseline.items()}
            if found != sizes:
                raise ModelError(f"`baseline`: expected vectors of shape {sizes}. Found {found}.")
            for position, m in enumerate(self._names):
                self.register_buffer(f"given_{position}", baseline[m].detach().clone())

    def forward(self, features: Features, present: Masks = None) -> dict[str, Tensor]:
        """The fused output with one modality at a time."""
        with paused_statistics(cast(nn.Module, self.model)):
            return {m: self._alone(m, features) for m in features}

    def _alone(self, modality: str, features: Features) -> Tensor:
        kept = {m: f if m == modality else self._replaced(m, f) for m, f in features.items()}
        if self.baseline != "absent":
            return self._output(kept, None)
        # all rows count as having it: what is there for those that have not is not used, and must be finite
        size = samples_of(features[modality])
        everyone = torch.ones(size, dtype=torch.bool, device=device_of(features[modality]))
        masks = {m: everyone if m == modality else ~everyone for m in self._names}
        return self._output(kept, masks)

    def _replaced(self, modality: str, feature: Tree) -> Tree:
        if self.baseline != "given":
            return nothing_like(feature, self.baseline == "absent")
        value = getattr(self, f"given_{self._names.index(modality)}")
        if isinstance(feature, Tokens):
            return Tokens(value.to(feature.values.dtype).expand_as(feature.values), feature.mask)
        return value.to(feature.dtype).reshape(1, -1, *([1] * (feature.ndim - 2))).expand_as(feature)
