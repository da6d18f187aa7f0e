"""A loss on the direction of a gradient, also of a batch that comes in parts (micro-batches, processes)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from equimodal.batch import Batch
from equimodal.engine import Objective, Survey, is_distributed, recorded_call
from equimodal.errors import ModelError
from equimodal.features import Channels, Rows
from equimodal.functional import direction_loss, output_weight_gradient
from equimodal.fusion import Concat
from equimodal.methods._loss import own_rows, target_of
from equimodal.methods.parts._heads import Heads, detached, output_layer
from equimodal.model import Multimodal
from equimodal.projection import Layer, channels_as_rows, input_width, layer_inputs
from equimodal.tasks import Task, counting_dtype


class Seen(NamedTuple):
    """What a forward pass showed of one output layer.

    Args:
        output: what the layer made, of the samples that take part.
        target: of the same samples.
        inputs: what the layer was given, of the same samples.
    """

    output: Tensor
    target: Tensor
    inputs: Tensor


class Direction:
    r"""The term that turns the gradient of the head's output layer towards those of the classifiers' output layers.

    A cosine of sums is not the sum of cosines. Where a batch comes in parts b, the sums :math:`\sum_b w_b G_b` over all
    of them, and the same of each :math:`G_m`, are needed first; a part then uses the value of the sum and the
    derivative of its own share, :math:`G + w_b (G_b - \mathrm{const}(G_b))`, and the derivatives of the parts add up to
    that of the whole.

    Args:
        model: encodes, fuses, and has the head, which ends in an affine layer.
        task: gives residuals.
        classifiers: of detached features; each ends in an affine layer.
        kind: ``"penultimate"`` compares whole gradients, which have one shape, ``"block"`` the columns of one modality
            in the head's weight; ``None`` asks for neither and has no term.
        weight: of the term in the loss; 0 switches it off.
        scope: ``"batch"`` takes the cosine of the whole batch, ``"part"`` averages those of its parts.

    Raises:
        ModelError: the layers do not allow the comparison.
    """

    def __init__(
        self,
        model: Multimodal,
        task: Task,
        classifiers: Heads,
        *,
        kind: Literal["penultimate", "block"] | None,
        weight: float,
        scope: Literal["batch", "part"] = "batch",
    ) -> None:
        self.task, self.weight, self.scope = task, weight if kind else 0.0, scope
        self._model, self._classifiers = model, classifiers
        self.layer = output_layer(model.head, "the direction of its gradient")
        self.own = {m: output_layer(classifiers[m], "the direction of its gradient") for m in model.modalities}
        self.blocks = column_blocks(model, self.layer) if kind == "block" else None
        self.whole: Mapping[str, Tensor] | None = None
        width = input_width(self.layer)
        for m, layer in self.own.items() if kind == "penultimate" else ():
            if input_width(layer) != width:
                raise ModelError(
                    f"`classifiers[{m!r}]`: expected a last layer of {width} inputs, as the model's head has. "
                    f"Found {input_width(layer)}. Use direction='block' or None, or that width."
                )

    def forward(self, batch: Batch) -> tuple[Seen, dict[str, Seen]]:
        """The head on fused features and each classifier on detached ones, with the inputs of their output layers."""
        features = self._model.encode(batch.inputs, batch.present)
        fused = self._model.fuse(features, batch.present)
        shown = [m for m in self.own if m in features]
        output, (last,) = recorded_call(self._model.head, fused, [self.layer], detach=False)
        own: dict[str, Seen] = {}
        for m in shown:
            z, (given,) = recorded_call(self._classifiers[m], detached(features[m]), [self.own[m]], detach=False)
            u, rows = given[-1].detach(), batch.rows(m)
            own[m] = Seen(*own_rows(z, batch, m), u if rows is None else u.index_select(0, rows))
        return Seen(output, target_of(batch), last[-1]), own

    def gradient(self, layer: Layer, seen: Seen) -> Tensor:
        """Gradient of the loss of an output with respect to the weight of the layer that made it, (C, D)."""
        residual = channels_as_rows(self.task.residual(seen.output, seen.target))
        return output_weight_gradient(residual, layer_inputs(layer, seen.inputs))

    def survey(self, balance: Tensor) -> Survey | None:
        """How a new step learns the sums over all parts; ``None`` where it does not need them.

        Args:
            balance: B of the step before, (M,).
        """
        self.whole = None
        if not self.weight or self.scope == "part":
            return None

        def receive(totals: Mapping[str, Tensor]) -> None:
            self.whole = totals

        def couple(own: Mapping[str, Tensor], totals: Mapping[str, Tensor]) -> Objective:
            term = self.couple(own, totals, balance)
            return Objective(self.weight * term, {"direction": term.detach()})

        return Survey(lambda batch: self.sums(*self.forward(batch)), receive, couple)

    @property
    def waits(self) -> bool:
        """Whether the survey adds the term, once it knows the sums of several processes."""
        return bool(self.weight) and self.scope == "batch" and self.whole is None and is_distributed()

    def loss(self, fused: Seen, own: Mapping[str, Seen], balance: Tensor) -> Tensor | None:
        """The term: of the whole batch where its sums are known, else of what is seen.

        ``None`` where it is off, or what is seen lacks a modality.

        Args:
            fused: of the head, with its graph.
            own: of the classifiers.
            balance: B of the step before, (M,).
        """
        if not self.weight:
            return None
        if self.whole is not None:
            return self.couple(self.sums(fused, own), self.whole, balance)
        if any(m not in own or not own[m].output.shape[0] for m in self.own):
            return None
        with torch.no_grad():
            others = [self.gradient(layer, own[m]) for m, layer in self.own.items()]
        return direction_loss(self._blocks_of(self.gradient(self.layer, fused)), others, balance)

    def sums(self, fused: Seen, own: Mapping[str, Seen]) -> dict[str, Tensor]:
        """Sums over the samples that are seen: of gradients, that of the head with its graph, and of weights."""
        sums = {"samples": _count(fused.target)}
        self._add(sums, "", self.layer, fused)
        with torch.no_grad():
            for m, layer in self.own.items():
                self._add(sums, f"/{m}", layer, own.get(m))
        return sums

    def _add(self, sums: dict[str, Tensor], name: str, layer: Layer, seen: Seen | None) -> None:
        like = layer.weight
        if seen is None or not seen.output.shape[0]:
            sums[f"weight{name}"] = torch.zeros_like(sums["samples"])
            sums[f"gradient{name}"] = like.new_zeros(like.shape[0], input_width(layer))
            return
        weigh: Callable[[Tensor], Tensor | None] = getattr(self.task, "loss_weights", lambda _: None)
        weights = weigh(seen.target)
        weight = _count(seen.target) if weights is None else weights[-1:]
        sums[f"weight{name}"] = weight
        sums[f"gradient{name}"] = self.gradient(layer, seen).to(like.dtype) * weight.to(like.dtype)

    def couple(self, own: Mapping[str, Tensor], totals: Mapping[str, Tensor], balance: Tensor) -> Tensor:
        """The term of the whole batch, with the derivative of one part's share; 0 where it lacks a modality.

        Args:
            own: :meth:`sums` of the part.
            totals: of all parts.
            balance: B of the step before, (M,).
        """
        names = ["", *(f"/{m}" for m in self.own)]
        dtype = own["gradient"].dtype
        weights = [totals[f"weight{n}"].to(dtype).clamp_min(torch.finfo(dtype).tiny) for n in names]
        shared = totals["gradient"] + (own["gradient"] - own["gradient"].detach())
        others = [totals[f"gradient{n}"] / w for n, w in zip(names[1:], weights[1:], strict=True)]
        value = direction_loss(self._blocks_of(shared / weights[0]), others, balance)
        # an engine weighs a part by its samples, as is right for a mean; derivatives of a whole are a plain sum
        plain = (totals["samples"] / own["samples"])[0].to(dtype)
        complete = torch.cat([totals[f"weight{n}"] for n in names]).gt(0).all()
        return complete * (value.detach() + (value - value.detach()) * plain)

    def _blocks_of(self, gradient: Tensor) -> Any:
        return gradient if self.blocks is None else [gradient[:, self.blocks[m]] for m in self.own]


def _count(target: Tensor) -> Tensor:
    return torch.full((1,), float(target.shape[0]), dtype=counting_dtype(target.device), device=target.device)


def column_blocks(model: Multimodal, last: Layer) -> dict[str, slice]:
    """modality -> its columns of the weight of a head that is one affine layer on :class:`~equimodal.fusion.Concat`.

    Raises:
        ModelError: the head is more than that layer, or a column belongs to several modalities.
    """
    fusion = getattr(model, "fusion", None)
    layers = [m for m in model.head.modules() if not isinstance(m, (nn.Sequential, Rows, Channels))]
    if not isinstance(fusion, Concat) or layers != [last]:
        raise ModelError(
            "`direction`: 'block' needs a head of one linear layer or 1x1 convolution on Concat. Found "
            f"{type(model.head).__name__} on {type(fusion).__name__}. Use direction='penultimate'."
        )
    blocks = {m: fusion.columns(m) for m in model.modalities}
    if max(block.stop for block in blocks.values()) != input_width(last):
        raise ModelError(
            "`direction`: 'block' needs a Concat whose channels belong to one modality each. Found "
            f"sequences={fusion.sequences!r}. Use direction='penultimate'."
        )
    return blocks


def columns_of_head(model: Multimodal) -> tuple[Layer, dict[str, slice]] | None:
    """The layer and the columns of :func:`column_blocks`; ``None`` where a head has no columns of one modality each."""
    try:
        last = output_layer(model.head)
        return last, column_blocks(model, last)
    except ModelError:
        return None
