"""What a student's features lack of its teacher's, per sample and over a batch in which modalities may be absent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from equimodal.batch import Batch, Tokens, Tree
from equimodal.errors import ModelError


def feature_gap(
    student: Tree, teacher: Tree, reduction: Literal["mean", "sum"] = "mean", name: str = "teacher"
) -> Tensor:
    r"""Squared difference between features of one sample, :math:`\|z - z^T\|^2` or its mean over the entries.

    Of tokens the real ones count; of multi-scale maps the scales are added up.

    Args:
        student: z, features of any kind, B samples; gets the gradient.
        teacher: :math:`z^T`, of the same kind and shape; constants.
        reduction: ``"mean"`` over the entries of a sample, or their ``"sum"``.
        name: whose features, for the message.

    Returns:
        (B,), in float32 at least, in the square of the features' unit.

    Raises:
        ModelError: the features differ in kind or shape.

    Example:
        >>> feature_gap(torch.ones(2, 4), torch.zeros(2, 4)), feature_gap(torch.ones(1, 4), torch.zeros(1, 4), "sum")
        (tensor([1., 1.]), tensor([4.]))
    """
    if isinstance(student, Tokens) and isinstance(teacher, Tokens) and student.values.shape == teacher.values.shape:
        real = student.mask[..., None]
        squares = torch.where(real, _square(student.values, teacher.values), 0.0).flatten(1).sum(1)
        count = student.mask.sum(1) * student.values.shape[2]
        return squares if reduction == "sum" else squares / count.clamp_min(1)
    if isinstance(student, Tensor) and isinstance(teacher, Tensor) and student.shape == teacher.shape:
        squares = _square(student, teacher).flatten(1)
        return squares.sum(1) if reduction == "sum" else squares.mean(1)
    pair = (tuple, list)
    scales = isinstance(student, pair) and isinstance(teacher, pair) and len(student) == len(teacher)
    if scales and not isinstance(student, Tokens) and not isinstance(teacher, Tokens):
        parts = [feature_gap(z, t, reduction, name) for z, t in zip(student, teacher, strict=True)]
        return torch.stack(parts).sum(0)
    raise ModelError(
        f"`{name}`: expected features like the student's, {_shape(student)}. Found {_shape(teacher)}. Train the "
        "teacher with an encoder of the same features."
    )


def _square(student: Tensor, teacher: Tensor) -> Tensor:
    dtype = torch.promote_types(student.dtype, torch.float32)
    return (student.to(dtype) - teacher.detach().to(dtype)).square()


def _shape(feature: Tree) -> str:
    if isinstance(feature, Tokens):
        return f"tokens {tuple(feature.values.shape)}"
    return str(tuple(feature.shape)) if isinstance(feature, Tensor) else str([_shape(f) for f in feature])


def mean_over_batch(values: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """The sum over modalities of numbers per sample (B, ...), those of absent ones left out, divided by B.

    A mean over all samples of a batch, so that micro-batches add up to it.
    """
    terms = []
    for m, value in values.items():
        per_sample = value.flatten(1).mean(1) if value.ndim > 1 else value
        mask = None if batch.present is None else batch.present.get(m)
        terms.append(per_sample if mask is None else torch.where(mask, per_sample, 0.0))
    return torch.stack(terms).sum(0).mean()
