"""The state of random generators: of all that a run may draw from, for a checkpoint; of those of one forward pass."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def save_random_state(device: torch.device | None = None) -> dict[str, Any]:
    """State of torch (CPU and ``device``), of :mod:`random` and of numpy's global generator.

    Only tensors, numbers and strings, so that a checkpoint loads without executing code.
    """
    version, numbers, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002 (its global state)
    state: dict[str, Any] = {
        "cpu": torch.get_rng_state(),
        "python": [version, torch.tensor(numbers), gauss],
        "numpy": [str(kind), torch.from_numpy(np.asarray(keys).astype(np.int64)), int(position), int(has_gauss),
                  float(cached)],
    }  # fmt: skip
    if device is not None and device.type != "cpu":
        state[device.type] = torch.get_device_module(device).get_rng_state(device)
    return state


def load_random_state(state: Mapping[str, Any], device: torch.device | None = None) -> None:
    """Set what :func:`save_random_state` gave; what ``state`` lacks stays as it is."""
    if "cpu" in state:
        torch.set_rng_state(state["cpu"].cpu())
    if "python" in state:
        version, numbers, gauss = state["python"]
        random.setstate((version, tuple(numbers.tolist()), gauss))
    if "numpy" in state:
        kind, keys, position, has_gauss, cached = state["numpy"]
        np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    if device is not None and device.type != "cpu" and device.type in state:
        torch.get_device_module(device).set_rng_state(state[device.type].cpu(), device)


def random_state(parameters: Sequence[Tensor]) -> dict[str, Tensor]:
    """State of the generators that a forward pass on the parameters' devices draws from."""
    state = {"cpu": torch.get_rng_state()}
    for device in {p.device for p in parameters if not p.is_cpu}:
        state[str(device)] = torch.get_device_module(device).get_rng_state(device)
    return state


def restore_random_state(state: dict[str, Tensor]) -> None:
    """Set what :func:`random_state` gave."""
    for name, value in state.items():
        if name == "cpu":
            torch.set_rng_state(value)
        else:
            torch.get_device_module(torch.device(name)).set_rng_state(value, torch.device(name))
