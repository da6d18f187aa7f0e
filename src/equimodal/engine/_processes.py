"""What several processes agree on: sums of statistics, averages of gradients, who reads which samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Sized

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import Sampler

from equimodal.batch import Batch
from equimodal.engine._apart import PartGradients
from equimodal.engine._host import host_gather, host_max, host_sum
from equimodal.engine._protocol import Phase
from equimodal.engine._sharding import is_sharded
from equimodal.errors import DataError, UnsupportedError

_AVAILABLE = dist.is_available()  # of this build of torch


def is_distributed() -> bool:
    """Whether more than one process takes part."""
    return _AVAILABLE and dist.is_initialized() and dist.get_world_size() > 1


def all_sum(sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Sum each tensor over processes, in one reduction per type; on one process, the tensors themselves."""
    result = dict(sums)
    if not is_distributed():
        return result
    groups: dict[tuple[torch.dtype, torch.device], list[str]] = {}
    for name in sorted(result):
        groups.setdefault((result[name].dtype, result[name].device), []).append(name)
    for key in sorted(groups, key=str):
        flat = torch.cat([result[name].reshape(-1) for name in groups[key]])
        dist.all_reduce(flat)
        parts = torch.split(flat, [result[name].numel() for name in groups[key]])
        for name, part in zip(groups[key], parts, strict=True):
            result[name] = part.view_as(result[name])
    return result


def count_samples(phase: Phase, batches: Sequence[Batch], shared: bool) -> tuple[int, bool]:
    """How many samples take part in the phase on all processes, and whether any has several micro-batches.

    Args:
        phase: counts.
        batches: the micro-batches of this process.
        shared: there is more than one process.
    """
    if not shared:
        return sum(map(phase.count, batches)), len(batches) > 1
    total, parts = host_sum([sum(map(phase.count, batches)), int(len(batches) > 1)], phase.device)
    return total, parts > 0


def broadcast(module: nn.Module) -> None:
    """Give every process the weights and buffers of process 0; sharded weights are one already."""
    if is_distributed():
        for tensor in (*module.parameters(), *module.buffers()):
            if not is_sharded(tensor):
                dist.broadcast(tensor.data, src=0)


def average_gradients(
    parameters: Sequence[nn.Parameter], failed: bool = False, parts: PartGradients | None = None
) -> bool:
    """Average gradients over processes; one that is ``None`` on every process stays ``None``.

    Args:
        parameters: the same ones, in the same order, on every process; sharded ones have their average already.
        failed: this process has no gradients to give, because something went wrong.
        parts: gradients of the parts of the loss, which every process gets to know and averages along. It costs one
            small exchange more where any process has some.

    Returns:
        Whether any process failed. Nothing is averaged then, and every process knows; the flag travels with the one
        that says which parameters have gradients, so agreeing costs no reduction of its own.
    """
    if not parameters:
        return failed
    layout = b"" if parts is None else parts.layout()
    flags = [*(p.grad is not None for p in parameters), failed, len(layout)]
    *active_flags, any_failed, longest = host_max(flags, parameters[0].device)
    if any_failed:
        return True
    active: list[Tensor] = [p for p, flag in zip(parameters, active_flags, strict=True) if flag]
    if longest and parts is not None:
        active += parts.agree(host_gather(layout, longest, parameters[0].device))
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for p in active:
        if not is_sharded(p):
            by_dtype.setdefault(p.dtype, []).append(p)
    for group in by_dtype.values():
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in group]
        flat = torch.cat([g.reshape(-1) for g in grads])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        for p, g in zip(group, torch.split(flat, [p.numel() for p in group]), strict=True):
            p.grad = g.view_as(p)
    return False


def gather_rows(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Join the rows of every process, in the order of the processes; on one process, the tensors themselves.

    Args:
        tensors: (n, ...), with equally many rows each; n may differ between processes and be 0. Every process must give
            the same number of tensors, of the same types and row shapes.

    Example:
        >>> [t.tolist() for t in gather_rows([torch.tensor([3, 1])])]
        [[3, 1]]
    """
    if not is_distributed():
        return list(tensors)
    own = [len(tensors[0]) if rank == dist.get_rank() else 0 for rank in range(dist.get_world_size())]
    sizes = host_sum(own, tensors[0].device)
    joined = []
    for tensor in tensors:
        padded = tensor.new_zeros((max(sizes), *tensor.shape[1:]))
        padded[: len(tensor)] = tensor
        every = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(every, padded)
        joined.append(torch.cat([part[:n] for part, n in zip(every, sizes, strict=True)]))
    return joined


@torch.no_grad()
def average_statistics(module: nn.Module) -> None:
    """Average the running statistics of normalisation layers over processes, so that all evaluate the same model.

    Each process counts the samples that it sees. Call it before evaluating; the adapter to Lightning does.
    """
    if not is_distributed():
        return
    layers = [m for m in module.modules() if getattr(m, "track_running_stats", False) is True]
    buffers = [b for m in layers for b in m.buffers(recurse=False) if b.is_floating_point()]
    sums = all_sum({str(i): b for i, b in enumerate(buffers)})
    for i, buffer in enumerate(buffers):
        buffer.copy_(sums[str(i)] / dist.get_world_size())


def check_wrappers(module: nn.Module) -> None:
    """Refuse a wrapper that averages gradients too.

    Raises:
        UnsupportedError: a part of ``module`` is in ``DistributedDataParallel``.
    """
    if any(type(m).__name__ == "DistributedDataParallel" for m in module.modules()):
        raise UnsupportedError(
            "`model`: expected modules without DistributedDataParallel. Found one. The engine averages gradients over "
            "processes itself, phase by phase; wrap nothing."
        )


class ExactSampler(Sampler[int]):
    """Every sample on exactly one process, none twice: what evaluation needs.

    ``torch.utils.data.DistributedSampler`` repeats samples until all processes have equally many. Processes may differ
    by one sample here, so this is for evaluation, where nothing waits for the others in a batch.

    Args:
        data: what is sampled; only its length counts.
        rank: number of this process; default: of the running process group, else 0.
        processes: how many there are; default: of the running process group, else 1.

    Raises:
        DataError: ``rank`` is not among the processes.

    Example:
        >>> [list(ExactSampler(range(7), rank, 2)) for rank in (0, 1)]
        [[0, 2, 4, 6], [1, 3, 5]]
    """

    def __init__(self, data: Sized, rank: int | None = None, processes: int | None = None) -> None:
        here = dist.is_available() and dist.is_initialized()
        self.rank = rank if rank is not None else dist.get_rank() if here else 0
        self.processes = processes if processes is not None else dist.get_world_size() if here else 1
        if not 0 <= self.rank < self.processes:
            raise DataError(f"`rank`: expected a number from 0 to {self.processes - 1}. Found {self.rank}.")
        self._samples = range(self.rank, len(data), self.processes)

    def __iter__(self) -> Iterator[int]:
        return iter(self._samples)

    def __len__(self) -> int:
        return len(self._samples)
