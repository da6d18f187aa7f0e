"""Random numbers of a run are its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from equimodal.engine import load_random_state, save_random_state


@contextlib.contextmanager
def own_randomness() -> Iterator[None]:
    """Leave the generators of the caller as they were."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    state = save_random_state()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        load_random_state(state)
