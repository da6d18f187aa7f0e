"""Encoders sharded by FSDP2 (``torch.distributed.fsdp.fully_shard``): which they are, the part of them that is here.

A sharded parameter is split along its first axis, one part per process. What a method does to a gradient, a factor, a
sum, or a projection G P of the input axis, it does to each part on its own; norms are summed over the parts. Nothing
is gathered beyond what a forward pass gathers anyway.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from equimodal.batch import Batch
from equimodal.engine._host import host_max
from equimodal.errors import BatchError, UnsupportedError

_WHOLE = {Tensor, nn.Parameter}  # types that need no closer look


def is_sharded(tensor: Tensor) -> bool:
    """Whether only a part of the tensor is on this process."""
    if type(tensor) in _WHOLE:
        return False
    module: Any = sys.modules.get("torch.distributed.tensor")  # not loaded: nothing is sharded
    return module is not None and isinstance(tensor, module.DTensor)


def any_sharded(tensors: Sequence[Tensor]) -> bool:
    """Whether :func:`is_sharded` holds for one of them."""
    return not _WHOLE.issuperset(map(type, tensors)) and any(map(is_sharded, tensors))


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds, sharing its memory; a whole tensor as it is."""
    if not is_sharded(tensor):
        return tensor
    sharded: Any = tensor.detach()
    part: Tensor = sharded.to_local()
    return part


def local_parts(tensors: Sequence[Tensor]) -> list[Tensor]:
    """:func:`local` of each."""
    return [local(t) for t in tensors] if any_sharded(tensors) else list(tensors)


def total_norm(tensors: Sequence[Tensor]) -> Tensor:
    """2-norm of all tensors together. Every process must ask for the same ones if some of them are sharded."""
    norms = torch.stack(torch._foreach_norm(local_parts(tensors)))
    if not any_sharded(tensors):
        whole: Tensor = torch.linalg.vector_norm(norms)
        return whole
    split = torch.tensor([is_sharded(t) for t in tensors]).to(norms.device, non_blocking=True)
    elsewhere = torch.where(split, norms, 0).square().sum()
    dist.all_reduce(elsewhere)
    return (elsewhere + torch.where(split, 0, norms).square().sum()).sqrt()


@torch.no_grad()
def gradient_norm(gradients: Sequence[Tensor]) -> Tensor:
    """2-norm of all gradients together, as torch clips by it, whether or not some are sharded."""
    return total_norm(gradients) if any_sharded(gradients) else nn.utils.get_total_norm(gradients)


@torch.no_grad()
def clip_gradients(parameters: Sequence[nn.Parameter], norm: Tensor, most: float) -> None:
    """Clip gradients to a 2-norm of ``most`` together, by torch's rule, whether or not some are sharded.

    Args:
        parameters: whose gradients.
        norm: of them, by :func:`gradient_norm`.
        most: where to clip.
    """
    if norm.is_cpu and 1.01 * float(norm) + 1e-6 <= most:
        return  # the factor would be 1, also as it is rounded in half precision
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not any_sharded(gradients):
        nn.utils.clip_grads_with_norm_(parameters, most, norm)
        return
    factor = (most / (norm + 1e-6)).clamp(max=1)
    torch._foreach_mul_(local_parts(gradients), factor)


def sharded_modules(module: nn.Module) -> list[Any]:
    """The modules that ``fully_shard`` was applied to."""
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")
    kind = getattr(fsdp, "FSDPModule", None)
    return [] if kind is None else [m for m in module.modules() if isinstance(m, kind)]


def reshard(module: nn.Module) -> None:
    """Free what a forward pass without a backward pass left gathered; the weights would be out of date after a step."""
    for part in sharded_modules(module):
        part.reshard()


def check_sharding(module: nn.Module) -> tuple[str, ...]:
    """The modalities whose encoders are sharded.

    Args:
        module: a method, which tells by ``module.multimodal`` which parameters are an encoder's.

    Raises:
        UnsupportedError: sharded otherwise than by ``fully_shard`` on encoders, over all processes.
    """
    sharded: dict[str, Any] = {name: p for name, p in module.named_parameters() if is_sharded(p)}
    if any(type(m).__name__ == "FullyShardedDataParallel" for m in module.modules()):
        raise UnsupportedError(
            "`model`: expected encoders sharded by torch.distributed.fsdp.fully_shard, or none. Found "
            "FullyShardedDataParallel, which flattens weights. Call fully_shard(encoder) instead."
        )
    if not sharded:
        return ()
    model: Any = getattr(module, "multimodal", None)
    owned = {} if model is None else {m: model.parameters_of(m) for m in model.modalities}
    inside = {id(p) for found in owned.values() for p in found}
    outside = [name for name, p in sharded.items() if id(p) not in inside]
    if outside:
        raise UnsupportedError(
            f"`model`: expected sharded parameters in encoders only. Found {outside[0]!r} sharded. Fusions and "
            "heads are called in parts, not through the module that gathers them. Call fully_shard on encoders."
        )
    world, by_fsdp = dist.get_world_size(), bool(sharded_modules(module))
    for name, p in sharded.items():
        along = [getattr(place, "dim", None) for place in p.placements]
        if along != [0] or p.device_mesh.size() != world or not by_fsdp:
            raise UnsupportedError(
                f"`model`: expected parameters sharded by fully_shard over all {world} processes. Found {name!r} with "
                f"placements {p.placements} over {p.device_mesh.size()}. Use fully_shard(encoder) on a mesh of "
                "one dimension, without tensor parallelism."
            )
    return tuple(m for m, found in owned.items() if any(is_sharded(p) for p in found))


def check_samples(modalities: Sequence[str], phase: str, batches: Sequence[Batch], device: torch.device) -> None:
    """Refuse, on all processes, a batch for which some of them would gather an encoder that others do not run.

    Args:
        modalities: the sharded ones that the phase is about.
        phase: its name.
        batches: the micro-batches of this process.
        device: for the reduction.

    Raises:
        BatchError: on all processes alike.
    """
    idle = [m for m in modalities if any(m not in b.inputs or b.count(m) == 0 for b in batches)]
    any_idle, most, least = host_max([len(idle), len(batches), -len(batches)], device)
    if any_idle or most != -least:
        what = (
            f"micro-batches without a sample of {idle}" if idle
            else "one on another process that lacks such a sample" if any_idle
            else f"{-least} to {most} micro-batches"
        )  # fmt: skip
        raise BatchError(
            f"`batch` (phase {phase!r}): expected equally many micro-batches on every process, each with a sample of "
            f"every sharded encoder's modality. Found {what}. A process that does not run an encoder would leave the "
            "others waiting for its part. Draw batches that have them, or shard only encoders of complete modalities."
        )
