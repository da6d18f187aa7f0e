"""Which precision a device has, and buffers that keep theirs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def widest_float(device: torch.device) -> torch.dtype:
    """float64, or float32 on a device that has no float64.

    Example:
        >>> widest_float(torch.device("cpu")), widest_float(torch.device("mps"))
        (torch.float64, torch.float32)
    """
    return torch.float32 if device.type == "mps" else torch.float64


def in_dtype(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """``tensor.to(dtype)``, which takes as long as a small kernel where there is nothing to do.

    Example:
        >>> in_dtype(torch.ones(1), torch.float64)
        tensor([1.], dtype=torch.float64)
    """
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


class Float32Buffers(nn.Module):
    """Buffers that stay in float32 at least when the module is cast to a half precision."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, value in self._buffers.items():
            old = before[name]
            if value is not None and old is not None and value.dtype in (torch.float16, torch.bfloat16):
                self._buffers[name] = old.to(value.device)
        return self
