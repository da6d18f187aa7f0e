"""Sequences with padding, without a wait for the device: real steps first, lengths as tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from equimodal.batch import Tokens
from equimodal.encoders._checks import check_shape


def sequence(x: Any, features: int, shortest: int, hint: str) -> Tensor:
    """The values (B, T, F) of an input with ``features`` numbers per step, ``shortest`` steps, and a mask that fits.

    Raises:
        BatchError: it is of another shape; the message ends with ``hint``.
    """
    values: Tensor = x.values if isinstance(x, Tokens) else x
    check_shape(
        values.shape,
        values.ndim == 3 and values.shape[2] == features and values.shape[1] >= shortest,
        f"(B, T, {features}) with T >= {shortest}",
        hint,
    )
    if isinstance(x, Tokens):
        check_shape(
            x.mask.shape,
            x.mask.shape == values.shape[:2] and x.mask.dtype == torch.bool,
            f"a boolean mask {tuple(values.shape[:2])}",
            f"It is {x.mask.dtype}; True marks a real step.",
        )
    return values


def real_first(tokens: Tokens) -> tuple[Tensor, Tensor, Tensor]:
    """Values with the real steps of each sample first and zeros after, lengths (B,), and where each step came from.

    Works for any pattern of the mask; the order of the real steps is kept.
    """
    steps = torch.arange(tokens.mask.shape[1], device=tokens.mask.device)
    order = torch.where(tokens.mask, steps, steps + len(steps)).argsort(1)  # all different: ONNX has no stable sort
    lengths = tokens.mask.sum(1)
    values = tokens.values.gather(1, order[..., None].expand(-1, -1, tokens.values.shape[2]))
    return values.masked_fill(~within(lengths, values.shape[1])[..., None], 0.0), lengths, order


def as_before(values: Tensor, order: Tensor) -> Tensor:
    """Undo the order of :func:`real_first`."""
    return torch.empty_like(values).scatter_(1, order[..., None].expand_as(values), values)


def within(lengths: Tensor, steps: int) -> Tensor:
    """(B, T) boolean: step t is one of the first ``lengths[b]``."""
    return torch.arange(steps, device=lengths.device) < lengths[:, None]


def reverse(x: Tensor, lengths: Tensor | None) -> Tensor:
    """The first ``lengths[b]`` steps of each sample (B, T, d) in reverse order, the others in place."""
    if lengths is None:
        return x.flip(1)
    steps = torch.arange(x.shape[1], device=x.device)
    index = torch.where(steps < lengths[:, None], lengths[:, None] - 1 - steps, steps)
    return x.gather(1, index[..., None].expand_as(x))


def segment_means(x: Tensor, lengths: Tensor, segments: int) -> Tensor:
    """Means of ``segments`` parts of the first ``lengths[b]`` steps: (B, d, T) to (B, d * segments).

    Part s covers the steps from floor(s L / S) to ceil((s + 1) L / S), as ``nn.AdaptiveAvgPool1d`` has it.
    """
    part = torch.arange(segments, device=x.device)
    length = lengths[:, None]
    start, stop = (part * length) // segments, ((part + 1) * length + segments - 1) // segments
    steps = torch.arange(x.shape[2], device=x.device)
    inside = ((steps >= start[..., None]) & (steps < stop[..., None])).to(x.dtype)
    share = inside / inside.sum(2, keepdim=True).clamp_min(1)
    return (x @ share.mT).flatten(1)


def masked_norm(norm: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    """Batch or layer normalisation of (B, d, 1, T) with statistics of the steps in ``mask`` (B, 1, 1, T) alone."""
    if isinstance(norm, nn.GroupNorm):
        axes: tuple[int, ...] = (1, 2, 3)
        mean, variance, _ = _moments(x, mask, axes, x.shape[1])
    elif isinstance(norm, nn.BatchNorm2d) and norm.training:
        axes = (0, 2, 3)
        mean, variance, count = _moments(x, mask, axes, 1)
        _remember(norm, mean.flatten(), variance.flatten(), count.flatten())
    else:
        evaluated: Tensor = norm(x)
        return evaluated
    scale, shift = norm.weight.reshape(1, -1, 1, 1), norm.bias.reshape(1, -1, 1, 1)
    return (x - mean) * (variance + norm.eps).rsqrt() * scale + shift


def _moments(x: Tensor, mask: Tensor, axes: tuple[int, ...], factor: int) -> tuple[Tensor, Tensor, Tensor]:
    count = mask.sum(axes, keepdim=True).clamp_min(1).to(x.dtype) * factor
    mean = (x * mask).sum(axes, keepdim=True) / count
    variance = ((x - mean).square() * mask).sum(axes, keepdim=True) / count
    return mean, variance, count


@torch.no_grad()
def _remember(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: Tensor) -> None:
    """Move the running statistics as PyTorch does, with the unbiased variance."""
    if not norm.track_running_stats or norm.running_mean is None or norm.running_var is None:
        return
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    momentum = 0.1 if norm.momentum is None else norm.momentum
    unbiased = variance * count / (count - 1).clamp_min(1)
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), momentum)
    norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), momentum)
