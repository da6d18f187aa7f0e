"""Heads: of unimodal outputs, each its own or the exact split of an additive one; and the last layer of the model's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import cast

from torch import Tensor, nn

from equimodal._utils.modules import QuickParameters, parameters_in
from equimodal.batch import Batch, Tree, tree_map
from equimodal.engine import Objective, Phase
from equimodal.errors import ModelError, UnsupportedError
from equimodal.features import Channels, Width, on_rows, single_width
from equimodal.fusion import Late
from equimodal.inference import Rule, needs_of, rule_name
from equimodal.methods._base import Method
from equimodal.methods._loss import count_of
from equimodal.model import Multimodal
from equimodal.projection import Layer, is_pointwise
from equimodal.tasks import Task, distribution_of
from equimodal.unimodal import OwnHeads, Shapley, Split, UnimodalOutputs


class Heads(QuickParameters):
    """One head per modality, kept by position because modality names are free text.

    Args:
        model: gives the modalities and their feature widths.
        heads: modality -> module from its features to (B, C), or ``None`` for ``build(d_m)`` each.
        build: makes the head of one width.
    """

    def __init__(
        self, model: Multimodal, heads: Mapping[str, nn.Module] | None, build: Callable[[Width], nn.Module]
    ) -> None:
        super().__init__()
        self.names = tuple(model.modalities)
        if heads is not None and set(heads) != set(self.names):
            raise ModelError(f"`heads`: expected one per modality {list(self.names)}. Found {sorted(heads)}.")
        self.heads = nn.ModuleList(heads[m] if heads is not None else build(model.feature_sizes[m]) for m in self.names)
        like_model(self, model)

    def __getitem__(self, modality: str) -> nn.Module:
        head: nn.Module = self._modules["heads"]._modules[str(self.names.index(modality))]  # type: ignore[union-attr, assignment]
        return head  # of self.heads, without the search

    def forward(self, features: Mapping[str, Tree]) -> dict[str, Tensor]:
        """Outputs of the modalities in ``features``, each from its own head."""
        return {m: self[m](h) for m, h in features.items()}


def linear_heads(model: Multimodal, task: Task, heads: Mapping[str, nn.Module] | None = None) -> Heads:
    """:func:`default_head` per modality, unless ``heads`` are given."""
    return Heads(model, heads, lambda width: default_head(width, task))


def default_head(width: Width, task: Task) -> nn.Module:
    """An affine map from one modality's features of any kind to the task's outputs.

    A vector goes through ``nn.Linear(d, C)``; tokens are averaged first (padding left out); a map is averaged over its
    positions, or, for a task with one output per position, read position by position (a 1x1 convolution).

    Raises:
        ModelError: multi-scale features, for which there is no usual head: give ``heads=``.
    """
    return adapted(nn.Linear(single_width(width, "feature_sizes"), task.outputs), task)


def adapted(body: nn.Module, task: Task) -> nn.Module:
    """``body``, linear layers over the last axis, as a head for features of any kind (see :func:`default_head`).

    The layers in it are called with rows: (B, d), or (B, *spatial, d) for a task with one output per position.
    """
    return on_rows(body, bool(getattr(task, "dense", False)))


def published_classifier(width: int, outputs: int) -> nn.Sequential:
    """d -> 256 -> 64 -> C with one ReLU after the first layer, as in a published model."""
    return nn.Sequential(nn.Linear(width, 256), nn.ReLU(), nn.Linear(256, 64), nn.Linear(64, outputs))


def published_head(width: Width, task: Task) -> nn.Module:
    """:func:`published_classifier` on features of any kind; where every position has an output, one linear map.

    A hidden layer of 256 at each position would cost several times what a U-Net does, and nothing is published for it.
    """
    size = single_width(width, "feature_sizes")
    return adapted(nn.Linear(size, task.outputs) if task.dense else published_classifier(size, task.outputs), task)


def usual_way(model: Multimodal, task: Task) -> UnimodalOutputs | None:
    """Outputs of single modalities that a jointly trained model has by itself, if any.

    The heads of a late fusion; else the exact split of an additive head, except for a regression, where the addends are
    shares of the number and none of them predicts it.
    """
    module = cast(nn.Module, model)
    if isinstance(getattr(model, "fusion", None), Late):
        return OwnHeads(module, task)
    if distribution_of(task) in SHARED or Split.refusal(model) is not None:
        return None
    return Split(module)


def required_way(method: Method, instead: str) -> UnimodalOutputs:
    """:func:`usual_way` of a method that needs it.

    Args:
        method: named in the error.
        instead: what to use where there is none.

    Raises:
        ModelError: there is none.
    """
    way = usual_way(method.multimodal, method.task)
    if way is None:
        fusion, head = getattr(method.model, "fusion", None), method.multimodal.head
        raise ModelError(
            f"`model`: {type(method).__name__} needs outputs of single modalities: a linear head on Concat or Sum, or "
            f"a Late fusion. Found {type(head).__name__} on {type(fusion).__name__}. Use {instead}."
        )
    return way


SHARED = ("gaussian", "point")
"""Outputs whose addends are no predictions."""


def check_way(way: object, task: Task, inference: Rule) -> None:
    """Refuse a rule that would average addends as if each were a prediction.

    Raises:
        UnsupportedError: a regression whose unimodal outputs are a split or Shapley values, with another rule than
            ``"fused"``.
    """
    reads = inference in ("auto", "skill") or "unimodal" in needs_of(inference)
    if reads and isinstance(way, (Split, Shapley)) and distribution_of(task) in SHARED:
        raise UnsupportedError(
            f"`inference`: {rule_name(inference)!r} needs unimodal predictions, and unimodal={way.name!r} gives shares "
            "of the number, which sum to it. Use unimodal='masked', 'fused', or a method with unimodal losses."
        )


def unimodal_phase(method: Method, modality: str, head: nn.Module) -> Phase:
    """The phase that trains one encoder and head on the samples that have the modality, and reports their score.

    Args:
        method: encodes, and gives loss and score.
        modality: whose turn it is.
        head: maps its features to the output.
    """

    def objective(own: Batch, batch: Batch) -> Objective:
        output = head(method.multimodal.encode(own.inputs, None, [modality])[modality])
        loss, seen = method.loss(output, batch, modality), method.score_inputs(output, batch, modality)
        return Objective(loss, score_inputs=seen)

    return branch_phase(method.multimodal, modality, head, objective)


def branch_phase(
    model: Multimodal,
    modality: str,
    head: nn.Module,
    objective: Callable[[Batch, Batch], Objective],
    second: Callable[[Batch, Batch], Objective] | None = None,
) -> Phase:
    """A phase about one encoder and its head, on the samples that have the modality.

    Args:
        model: owns the encoder.
        modality: whose turn it is.
        head: trained with the encoder.
        objective: called with the samples that have the modality, and with the whole batch.
        second: the same for a second pass, see :class:`~equimodal.engine.Phase`.
    """

    def of_samples(compute: Callable[[Batch, Batch], Objective], batch: Batch) -> Objective:
        own = batch.only(modality)
        if own is None or own.target is None:
            raise ModelError(f"`batch`: expected samples with modality {modality!r} and a target. Found none.")
        return compute(own, batch)

    return Phase(
        name=modality,
        objective=partial(of_samples, objective),
        second=None if second is None else partial(of_samples, second),
        parameters=[*model.parameters_of(modality), *parameters_in(head)],
        count=lambda batch: count_of(batch, modality),
        modality=modality,
    )


def like_model(module: nn.Module, model: Multimodal) -> nn.Module:
    """``module`` on the device and in the floating-point type of the model's first parameter."""
    first = next((p for m in model.modalities for p in model.parameters_of(m)), None)
    return module if first is None or not first.is_floating_point() else module.to(first.device, first.dtype)


def encoder_parameters(method: Method) -> list[nn.Parameter]:
    """The parameters of all encoders, in the order of the modalities."""
    return [p for m in method.modalities for p in method.multimodal.parameters_of(m)]


def detached(feature: Tree) -> Tree:
    """The same features, through which no gradient flows."""
    return tree_map(lambda t: t.detach(), feature)


def output_layer(head: nn.Module, purpose: str = "this method") -> Layer:
    """The affine layer at the end of ``head``: linear, or a 1x1 convolution of 1 to 3 dimensions.

    Args:
        head: of a model.
        purpose: who needs it, for the message.

    Raises:
        ModelError: the last module is neither.
    """
    last = head
    while isinstance(last, nn.Sequential) and len(last):
        last = last[-2] if isinstance(last[-1], Channels) and len(last) > 1 else last[-1]
    if isinstance(last, nn.Linear) or is_pointwise(last):
        return cast(Layer, last)
    raise ModelError(
        f"`head`: {purpose} needs a head that ends in an affine layer (nn.Linear, a 1x1 convolution, or an "
        f"nn.Sequential that ends in one). Found {type(last).__name__}."
    )


def equal_width(model: Multimodal, purpose: str) -> Width:
    """The feature width that all encoders have.

    Args:
        model: gives the widths.
        purpose: who needs it, for the message.

    Raises:
        ModelError: they differ.
    """
    widths = dict(model.feature_sizes)
    if len(set(widths.values())) != 1:
        raise ModelError(
            f"`model`: {purpose} needs encoders of equal feature width. Found {widths}. "
            "Add a linear layer to the encoders that differ."
        )
    return next(iter(widths.values()))
