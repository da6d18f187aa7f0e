from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from equimodal.batch import tree_map
from equimodal.errors import ModelError
from equimodal.features import Channels, Rows, kind_of, pool
from equimodal.fusion import Concat, Fusion, Sum
from equimodal.model import check_pooled
from equimodal.unimodal._base import Features, Masks, UnimodalOutputs

_AFFINE = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Identity, nn.Flatten,
    nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.Upsample, Rows,
    Channels,
)  # fmt: skip


class Split(UnimodalOutputs):
    r"""The exact split of an additive output (P1): :math:`u_m = W_m h_m + b/M`, so that :math:`\sum_m u_m = u`.

    For any affine head f on an additive fusion with addends :math:`a_m`: :math:`u_m = f(a_m) - f(0) + f(0)/M`. Free.
    Defined up to constants that sum to zero: how the bias is shared out is a convention.

    Args:
        model: an additive fusion (``Concat``, ``Sum``, ``Late``) and an affine head.

    Raises:
        ModelError: the fusion is not additive, or the head is not affine.

    Example:
        >>> from equimodal import MultimodalModel
        >>> encoders = {"audio": nn.Linear(5, 4), "video": nn.Linear(3, 4)}
        >>> model = MultimodalModel(encoders, Concat({"audio": 4, "video": 4}), nn.Linear(8, 2))
        >>> x = {"audio": torch.ones(6, 5), "video": torch.ones(6, 3)}
        >>> alone = Split(model)(model.encode(x))
        >>> torch.allclose(alone["audio"] + alone["video"], model(x))
        True
    """

    name = "split"

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        reason = self.refusal(model)
        if reason is not None:
            raise ModelError(reason)

    @staticmethod
    def refusal(model: object) -> str | None:
        """Why the outputs of ``model`` cannot be split, as a sentence; ``None`` when they can."""
        fusion, head = getattr(model, "fusion", None), getattr(model, "head", None)
        if isinstance(fusion, Fusion) and fusion.additive and is_affine(head):
            return None
        return (
            "`head`: expected a linear layer on Concat or Sum (or another affine head on an additive fusion), from "
            f"which unimodal outputs can be split exactly. Found {type(head).__name__} on {type(fusion).__name__}. Use "
            "masked outputs or Shapley values, or a method with heads of its own (MultiLoss)."
        )

    def forward(self, features: Features, present: Masks = None) -> dict[str, Tensor]:
        """Each modality's addend of the output."""
        fusion, head = cast(Fusion, getattr(self.model, "fusion")), self.model.head  # noqa: B009 (not in the protocol)
        count = len(fusion.feature_sizes)
        if isinstance(head, nn.Linear) and isinstance(fusion, (Concat, Sum)):
            filled = dict(zip(fusion.feature_sizes, fusion.prepare(features, present), strict=True))
            if fusion.sequences == "pool" and {kind_of(f) for f in filled.values()} <= {"vector", "tokens"}:
                bias = None if head.bias is None else head.bias / count
                side = isinstance(fusion, Concat)
                weight = {m: head.weight[:, fusion.columns(m)] if side else head.weight for m in features}
                return {m: nn.functional.linear(pool(filled[m]), weight[m], bias) for m in features}
        parts = fusion.parts(features, present)
        sample = tree_map(lambda t: torch.zeros_like(t[:1]), next(iter(parts.values())))
        check_pooled(head, sample)
        constant = head(sample)
        return {m: head(parts[m]) - constant * (1 - 1 / count) for m in features}


def is_affine(head: object) -> bool:
    """Whether ``head`` is made of layers that are affine in their input, by type (dropout and norms are not)."""
    if isinstance(head, nn.Sequential):
        return all(is_affine(layer) for layer in head)
    return isinstance(head, _AFFINE)
