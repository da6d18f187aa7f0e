"""What several processes agree on: sums of statistics, averages of gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn


def is_distributed() -> bool:
    """Whether more than one process takes part."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def all_sum(sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Sum each tensor over processes; on one process, the tensors themselves."""
    result = dict(sums)
    if is_distributed():
        for name in sorted(result):
            result[name] = result[name].clone()
            dist.all_reduce(result[name])
    return result


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Average gradients over processes; one that is ``None`` on every process stays ``None``."""
    if not parameters:
        return
    used = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32, device=parameters[0].device)
    dist.all_reduce(used, op=dist.ReduceOp.MAX)
    active = [p for p, flag in zip(parameters, used.tolist(), strict=True) if flag]
    by_dtype: dict[torch.dtype, list[nn.Parameter]] = {}
    for p in active:
        by_dtype.setdefault(p.dtype, []).append(p)
    for group in by_dtype.values():
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in group]
        flat = torch.cat([g.reshape(-1) for g in grads])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        for p, g in zip(group, torch.split(flat, [p.numel() for p in group]), strict=True):
            p.grad = g.view_as(p)
