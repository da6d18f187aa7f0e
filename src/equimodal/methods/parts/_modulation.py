"""Factors on the gradients, or the updates, of single encoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from equimodal._utils.precision import in_dtype
from equimodal.engine import Engine, UpdateScale, cancels_scale, local
from equimodal.errors import OptimizerWarning
from equimodal.methods._base import Method, StepReport, warn_once
from equimodal.projection import Layer

Target = Literal["auto", "gradient", "update"]
"""What a factor is for: the gradient, the optimizer's step, or the step where the optimizer cancels a gradient's."""


def scale_encoders(
    method: Method,
    engine: Engine,
    report: StepReport,
    factors: Mapping[str, Tensor],
    apply_to: Target = "auto",
    *,
    beside: Mapping[str, Sequence[nn.Parameter]] | None = None,
    columns: tuple[Layer, Mapping[str, slice]] | None = None,
) -> list[UpdateScale]:
    r"""Multiply what encoder m does by a factor: :math:`g_m \leftarrow s_m g_m`, or the same of its update.

    An optimizer that divides by a running size of the gradient (Adam and relatives) cancels a slowly varying factor, so
    ``"auto"`` scales the update there. To be returned from :meth:`Method.modify_gradients`.

    Args:
        method: whose encoders.
        engine: has the optimizers.
        report: gets the factors as the coefficients ``"scale"``.
        factors: s, modality -> scalar tensor; a modality that is left out keeps its gradient.
        apply_to: ``"gradient"``, ``"update"`` or ``"auto"``.
        beside: modality -> parameters that take its factor like those of its encoder.
        columns: a layer, and the columns of its weight that take the factor of each modality; together all of them.

    Warns:
        OptimizerWarning: ``"gradient"`` with an optimizer that cancels it.
    """
    report.coefficients["scale"] = dict(factors)
    model, optimizers = method.multimodal, engine.optimizers
    beside = {} if beside is None else beside
    of = {m: [p for p in (*model.parameters_of(m), *beside.get(m, ())) if p.grad is not None] for m in factors}
    if len(optimizers) == 1:  # which has all of them
        cancelled = dict.fromkeys(of, cancels_scale(optimizers, ()))
    else:
        cancelled = {m: cancels_scale(optimizers, parameters) for m, parameters in of.items()}
    if any(cancelled.values()) and apply_to == "gradient":
        warn_once(
            method,
            "apply_to='gradient': an Adam-type optimizer divides by the size of the gradient and so cancels "
            f"{type(method).__name__}'s scale. Use apply_to='update', or SGD.",
            OptimizerWarning,
        )
    scales = []
    for m, factor in factors.items():
        if cancelled[m] if apply_to == "auto" else apply_to == "update":
            scales.append(UpdateScale(of[m], factor))
        elif of[m]:
            scale_gradients([p.grad for p in of[m] if p.grad is not None], factor)
    return scales if columns is None else scales + _scale_columns(*columns, engine, factors, apply_to)


def _scale_columns(
    layer: Layer, blocks: Mapping[str, slice], engine: Engine, factors: Mapping[str, Tensor], apply_to: Target
) -> list[UpdateScale]:
    weight = cast(nn.Parameter, layer.weight)
    if weight.grad is None:
        return []
    placed = sorted(blocks.items(), key=lambda entry: entry[1].start)
    factor = torch.cat([factors[m].expand(block.stop - block.start) for m, block in placed])
    factor = factor.reshape(1, -1, *[1] * (weight.ndim - 2))
    if cancels_scale(engine.optimizers, [weight]) if apply_to == "auto" else apply_to == "update":
        return [UpdateScale([weight], factor)]
    weight.grad.mul_(factor.to(weight.grad.dtype))
    return []


def scale_gradients(gradients: Sequence[Tensor], factor: Tensor) -> None:
    """Multiply gradients by a factor, in place; of sharded ones the parts that are here."""
    parts = [local(g) for g in gradients]
    torch._foreach_mul_(parts, in_dtype(factor, parts[0].dtype))
