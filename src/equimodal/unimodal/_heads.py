from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from torch import Tensor, nn

from equimodal.errors import ModelError
from equimodal.features import affine_head
from equimodal.fusion import Late
from equimodal.tasks import Task
from equimodal.unimodal._base import Features, Masks, UnimodalOutputs


class OwnHeads(UnimodalOutputs):
    r"""A head of its own per modality (P2): :math:`u_m = g_m(h_m)`. Heads need a loss of their own.

    Args:
        model: gives the features.
        task: gives the number of outputs.
        heads: modality -> module from its features to (B, C, ...). Default: the heads inside a
            :class:`~equimodal.fusion.Late` fusion, which the fused loss trains; otherwise new affine heads, which are
            parameters of this object and useless until they are trained (the method ``MultiLoss`` does that).

    Raises:
        ModelError: ``heads`` of other modalities, or multi-scale features without ``heads``.
    """

    name = "heads"

    def __init__(self, model: nn.Module, task: Task, heads: Mapping[str, nn.Module] | None = None) -> None:
        super().__init__(model)
        names = tuple(self.model.modalities)
        if heads is not None and set(heads) != set(names):
            raise ModelError(f"`heads`: expected one per modality {list(names)}. Found {sorted(heads)}.")
        self._late = heads is None and isinstance(getattr(model, "fusion", None), Late)
        self._names = names
        dense = bool(getattr(task, "dense", False))
        self.heads = nn.ModuleList(
            heads[m] if heads is not None else affine_head(self.model.feature_sizes[m], task.outputs, dense)
            for m in (() if self._late else names)
        )

    def forward(self, features: Features, present: Masks = None) -> dict[str, Tensor]:
        """Each head's output."""
        if self._late:
            return cast(Late, getattr(self.model, "fusion")).outputs(features)  # noqa: B009
        return {m: self.heads[self._names.index(m)](f) for m, f in features.items()}
