"""Where unimodal outputs come from: heads of their own, or the exact split of an additive head."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from equimodal.batch import Batch
from equimodal.engine import Objective, Phase
from equimodal.errors import ModelError
from equimodal.fusion import Concat, Sum
from equimodal.model import Multimodal
from equimodal.tasks import Task


class Heads(nn.Module):
    """One head per modality, kept by position because modality names are free text.

    Args:
        model: gives the modalities and their feature widths.
        heads: modality -> module from (B, d_m) to (B, C), or ``None`` for ``build(d_m)`` each.
        build: makes the head of one width.
    """

    def __init__(
        self, model: Multimodal, heads: Mapping[str, nn.Module] | None, build: Callable[[int], nn.Module]
    ) -> None:
        super().__init__()
        self.names = tuple(model.modalities)
        if heads is not None and set(heads) != set(self.names):
            raise ModelError(f"`heads`: expected one per modality {list(self.names)}. Found {sorted(heads)}.")
        self.heads = nn.ModuleList(heads[m] if heads is not None else build(model.feature_sizes[m]) for m in self.names)
        like_model(self, model)

    def __getitem__(self, modality: str) -> nn.Module:
        return self.heads[self.names.index(modality)]

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs of the modalities in ``features``, each from its own head."""
        return {m: self[m](h) for m, h in features.items()}


def linear_heads(model: Multimodal, task: Task, heads: Mapping[str, nn.Module] | None = None) -> Heads:
    """A linear layer d_m -> C per modality, unless ``heads`` are given."""
    return Heads(model, heads, lambda width: nn.Linear(width, task.outputs))


def published_classifier(width: int, outputs: int) -> nn.Sequential:
    """d -> 256 -> 64 -> C with one ReLU after the first layer, as in the released models of MIE."""
    return nn.Sequential(nn.Linear(width, 256), nn.ReLU(), nn.Linear(256, 64), nn.Linear(64, outputs))


def can_split(model: Multimodal) -> bool:
    """Whether the fused output is a sum of one affine map per modality."""
    return isinstance(model.head, nn.Linear) and isinstance(getattr(model, "fusion", None), (Concat, Sum))


def split_outputs(model: Multimodal, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
    r"""Unimodal outputs of an additive head: :math:`u_m = W_m h_m + b / M`, which sum to the fused output exactly.

    Defined up to constants that sum to zero (the split of the bias is a convention).

    Raises:
        ModelError: the head is not linear, or the fusion neither concat nor sum.
    """
    fusion, head = getattr(model, "fusion", None), model.head
    if not isinstance(head, nn.Linear) or not isinstance(fusion, (Concat, Sum)):
        raise ModelError(
            "`head`: expected a linear layer on Concat or Sum, from which unimodal outputs can be split exactly. "
            f"Found {type(head).__name__} on {type(fusion).__name__}. Use a method with heads of its own (MultiLoss)."
        )
    count = len(model.modalities)
    bias = None if head.bias is None else head.bias / count
    weight = {m: head.weight[:, fusion.columns(m)] if isinstance(fusion, Concat) else head.weight for m in features}
    return {m: nn.functional.linear(h, weight[m], bias) for m, h in features.items()}


def masked_loss(task: Task, output: Tensor, batch: Batch, modality: str) -> tuple[Tensor, Tensor, Tensor]:
    """Loss of one modality's output over the rows that have it, with those rows of output and target.

    With no such row the loss is an exact 0 that still reaches the head, so that gradients exist.
    """
    target = batch.target
    if target is None:
        raise ModelError("`target`: expected a tensor for training. Found None.")
    rows = batch.rows(modality) if modality in batch.inputs else None
    if rows is not None:
        output, target = output.index_select(0, rows), target.index_select(0, rows)
    if output.shape[0] == 0:
        return output.sum() * 0, output, target
    return task.loss(output, target), output, target


def unimodal_phase(
    model: Multimodal, task: Task, modality: str, head: nn.Module, observe: Callable[[Tensor], Mapping[str, Tensor]]
) -> Phase:
    """The phase that trains one encoder and head on the samples that have the modality.

    Args:
        model: encodes.
        task: gives loss and score.
        modality: whose turn it is.
        head: maps its features to the output.
        observe: statistics of the features (n, d), added to the objective's sums.
    """

    def objective(batch: Batch) -> Objective:
        own = batch.only(modality)
        if own is None or own.target is None:
            raise ModelError(f"`batch`: expected samples with modality {modality!r} and a target. Found none.")
        feature = model.encode(own.inputs, None, [modality])[modality]
        output = head(feature)
        loss = task.loss(output, own.target)
        with torch.no_grad():
            numerator, denominator = task.score_terms(output.detach(), own.target)
            sums = {"numerator": numerator, "denominator": denominator, **observe(feature.detach())}
        return Objective(loss, {}, sums)

    return Phase(
        name=modality,
        objective=objective,
        parameters=[*model.parameters_of(modality), *head.parameters()],
        count=lambda batch: batch.count(modality) if modality in batch.inputs else 0,
        modality=modality,
    )


def nothing(_: Tensor) -> Mapping[str, Tensor]:
    """No statistics."""
    return {}


def like_model(module: nn.Module, model: Multimodal) -> nn.Module:
    """``module`` on the device and in the floating-point type of the model's first parameter."""
    first = next((p for m in model.modalities for p in model.parameters_of(m)), None)
    return module if first is None or not first.is_floating_point() else module.to(first.device, first.dtype)
