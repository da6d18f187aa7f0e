"""Sums over modalities, and over the processes of a step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from equimodal._utils.shapes import line_up
from equimodal.engine import Descent, Engine, Objective, SampleValues
from equimodal.methods._base import Method


def present_sum(outputs: Mapping[str, Tensor], present: Mapping[str, Tensor] | None) -> tuple[Tensor, Tensor]:
    """Sum over the modalities that a sample has, and how many these are, of a shape that broadcasts to it.

    Args:
        outputs: modality -> (B, C, ...); what absent rows hold is not read.
        present: modality -> (B,) booleans; one without an entry is in every sample.

    Example:
        >>> outputs = {"a": torch.tensor([[1.0], [2.0]]), "b": torch.tensor([[10.0], [20.0]])}
        >>> total, count = present_sum(outputs, {"b": torch.tensor([False, True])})
        >>> total[:, 0].tolist(), count[:, 0].tolist()
        ([1.0, 22.0], [1.0, 2.0])
    """
    first = next(iter(outputs.values()))
    total, count = torch.zeros_like(first), first.new_zeros(len(first))
    for m, output in outputs.items():
        mask = None if present is None else present.get(m)
        total = total + (output if mask is None else torch.where(line_up(mask, output), output, 0))
        count = count + (1 if mask is None else mask.to(count.dtype))
    return total, line_up(count, first)


def weighted_objective(
    parts: Mapping[str, Tensor],
    weights: Mapping[str, float | Tensor] | None = None,
    sums: Mapping[str, Tensor] | None = None,
    rows: Mapping[str, SampleValues] | None = None,
) -> Objective:
    r"""The objective :math:`\sum_k w_k L_k`, with every :math:`L_k` in the report; one backward pass for all of them.

    :meth:`~equimodal.engine.Objective.sum_of` is for a method that asks for the gradient of each part.

    Args:
        parts: name -> :math:`L_k`, a scalar with its graph; at least one.
        weights: name -> :math:`w_k`; 1 where there is none, and those of other names are not read.
        sums: additive statistics.
        rows: numbers of single samples.

    Example:
        >>> objective = weighted_objective({"a": torch.tensor(2.0), "b": torch.tensor(3.0)}, {"b": 0.5, "c": 9.0})
        >>> objective.total, sorted(objective.losses)
        (tensor(3.5000), ['a', 'b'])
    """
    weights = {} if weights is None else weights
    addends = []
    for name, part in parts.items():
        weight = weights.get(name, 1.0)
        addends.append((weight.to(part.dtype) if isinstance(weight, Tensor) else weight) * part)
    losses = {name: part.detach() for name, part in parts.items()}
    return Objective(torch.stack(addends).sum(), losses, sums or {}, rows=rows or {})


def whole_sums(descent: Descent, engine: Engine, names: Iterable[str]) -> dict[str, Tensor]:
    """Scalar sums of a step over all processes, 0 where nobody has them."""
    loss = descent.loss
    zero = torch.zeros((), dtype=torch.promote_types(loss.dtype, torch.float32), device=loss.device)
    return engine.all_sum({n: descent.sums.get(n, zero) for n in names})


def per_modality(method: Method, value: float = 0.0) -> Tensor:
    """(M,) equal numbers, float32 at least, where the method's parameters are: the start of a buffer."""
    like = next(method.parameters()).detach()
    dtype = torch.promote_types(like.dtype, torch.float32)
    return torch.full((len(method.modalities),), value, dtype=dtype, device=like.device)
