"""What processes tell each other from host to host: numbers that are known without asking a device."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist


class Channel(NamedTuple):
    """Where host numbers travel.

    Args:
        group: the process group; ``None`` is the default one.
        device: of the tensors that carry them.
    """

    group: Any
    device: torch.device


_CHANNELS: weakref.WeakKeyDictionary[Any, Channel] = weakref.WeakKeyDictionary()


def _channel(device: torch.device) -> Channel:
    """The default group where it takes tensors of the host, else a gloo group beside it, which all processes make.

    A build of torch without gloo has no such group: the numbers then travel over ``device``, which is waited for.
    """
    world = dist.group.WORLD
    found = _CHANNELS.get(world)
    if found is None:
        host = torch.device("cpu")
        if "cpu:" in dist.get_backend_config():
            found = Channel(None, host)
        elif dist.is_gloo_available():
            found = Channel(dist.new_group(backend="gloo"), host)
        else:
            return Channel(None, device)
        _CHANNELS[world] = found
    return found


def host_sum(numbers: Sequence[int], device: torch.device) -> list[int]:
    """Sum whole numbers over processes; every process must give equally many.

    Args:
        numbers: of this process.
        device: that of the model, used only where hosts have no way of their own.
    """
    return _reduced(numbers, device, dist.ReduceOp.SUM)


def host_max(numbers: Sequence[int], device: torch.device) -> list[int]:
    """As :func:`host_sum`, the largest of each."""
    return _reduced(numbers, device, dist.ReduceOp.MAX)


def _reduced(numbers: Sequence[int], device: torch.device, how: Any) -> list[int]:
    channel = _channel(device)
    told = torch.tensor(numbers, dtype=torch.int64, device=channel.device)
    dist.all_reduce(told, op=how, group=channel.group)
    return told.tolist()


def host_gather(text: bytes, longest: int, device: torch.device) -> list[bytes]:
    """The text of every process, in their order, without spaces at its end; none is longer than ``longest``."""
    channel = _channel(device)
    mine = torch.tensor(list(text.ljust(longest)), dtype=torch.uint8, device=channel.device)
    every = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(every, mine, group=channel.group)
    return [bytes(t.tolist()).rstrip() for t in every]
