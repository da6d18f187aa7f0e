"""CGGM's direction term, also of a batch that comes in parts (micro-batches, processes)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from equimodal.batch import Batch
from equimodal.errors import ModelError
from equimodal.features import Channels, Rows
from equimodal.functional import direction_loss, output_weight_gradient
from equimodal.fusion import Concat
from equimodal.model import Multimodal
from equimodal.operators import Layer, channels_as_rows, input_width, layer_inputs
from equimodal.protocol import Survey
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


Forward = Callable[[Batch], tuple[Seen, dict[str, Seen]]]
"""From a batch to what it showed of the head and, per modality with samples, of its classifier."""


class _Whole(NamedTuple):
    samples: Tensor
    weight: Tensor
    gradient: Tensor
    own: list[Tensor]
    complete: Tensor


class Direction:
    r"""The direction term between the head's output layer and those of the classifiers.

    A cosine of sums is not the sum of cosines. Where a batch comes in parts b, the sums :math:`G = \sum_b w_b G_b`
    over all of them, and the same of each :math:`G_m`, are gathered first (:meth:`survey`); a part then uses the value
    of the sum and the derivative of its own share, :math:`G + w_b (G_b - \mathrm{const}(G_b))`, and the derivatives of
    the parts add up to that of the whole.

    Args:
        task: gives residuals.
        layer: the head's output layer.
        own: modality -> its classifier's output layer.
        blocks: modality -> its columns of the head's weight; ``None`` compares with all of it.
    """

    def __init__(
        self, task: Task, layer: Layer, own: Mapping[str, Layer], blocks: Mapping[str, slice] | None = None
    ) -> None:
        self.task, self.layer, self.own, self.blocks = task, layer, dict(own), blocks
        self._whole: _Whole | None = None

    def gradient(self, layer: Layer, seen: Seen) -> Tensor:
        """Gradient of the loss of an output with respect to the weight of the layer that made it, (C, D)."""
        residual = channels_as_rows(self.task.residual(seen.output, seen.target))
        return output_weight_gradient(residual, layer_inputs(layer, seen.inputs))

    def survey(self, forward: Forward) -> Survey:
        """Sums over the parts of a batch, for a new step."""
        self._whole = None

        def gather(batch: Batch) -> dict[str, Tensor]:
            fused, own = forward(batch)
            sums = {"samples": _count(fused.target)}
            layers = {"": self.layer, **{f"/{m}": layer for m, layer in self.own.items()}}
            shown = {"": fused, **{f"/{m}": seen for m, seen in self._shown(own).items()}}
            for name, layer in layers.items():
                seen = shown.get(name)
                if seen is None:
                    weight = torch.zeros_like(sums["samples"])
                    gradient = layer.weight.new_zeros(layer.weight.shape[0], input_width(layer))
                else:
                    weight = self._weight(seen.target)
                    gradient = self.gradient(layer, seen).to(layer.weight.dtype) * weight.to(layer.weight.dtype)
                sums[f"weight{name}"], sums[f"gradient{name}"] = weight, gradient
            return sums

        return Survey(gather, self._receive)

    def _receive(self, totals: Mapping[str, Tensor]) -> None:
        names = ["", *(f"/{m}" for m in self.own)]
        means = [totals[f"gradient{n}"] / totals[f"weight{n}"].to(self.layer.weight.dtype).clamp_min(1e-30)
                 for n in names]  # fmt: skip
        complete = torch.cat([totals[f"weight{n}"] for n in names]).gt(0).all()
        self._whole = _Whole(totals["samples"], totals["weight"], means[0], means[1:], complete)

    def _weight(self, target: Tensor) -> Tensor:
        """(1,) what a mean loss of these targets weighs in that of the whole batch."""
        weigh: Callable[[Tensor], Tensor | None] = getattr(self.task, "loss_weights", lambda _: None)
        weights = weigh(target)
        return _count(target) if weights is None else weights[-1:]

    def loss(self, fused: Seen, own: Mapping[str, Seen], balance: Tensor) -> Tensor | None:
        """The term; ``None`` where a modality is missing from the whole batch.

        Args:
            fused: of the head, with its graph.
            own: of the classifiers.
            balance: B of the step before, (M,).
        """
        gradient, whole = self.gradient(self.layer, fused), self._whole
        if whole is None:
            shown = self._shown(own)
            if len(shown) < len(self.own):
                return None
            with torch.no_grad():
                others = [self.gradient(layer, shown[m]) for m, layer in self.own.items()]
            return direction_loss(self._parts(gradient), others, balance)
        share = self._weight(fused.target) / whole.weight
        part = gradient * share.to(gradient.dtype)
        value = direction_loss(self._parts(whole.gradient + (part - part.detach())), whole.own, balance)
        # an engine weighs a part by its samples, as is right for a mean; derivatives of a whole are a plain sum
        plain = (whole.samples / _count(fused.target))[0].to(value.dtype)
        return whole.complete * (value.detach() + (value - value.detach()) * plain)

    def _shown(self, own: Mapping[str, Seen]) -> dict[str, Seen]:
        return {m: seen for m, seen in own.items() if seen.output.shape[0]}

    def _parts(self, gradient: Tensor) -> Any:
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
