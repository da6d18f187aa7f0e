"""A finished run, from its folder: nothing in it is executed; what it declares is compared before memory is taken."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from equimodal._utils.outside import check_folder, size_text
from equimodal.data import Dataset
from equimodal.errors import ModelError
from equimodal.methods import Method
from equimodal.studies.runs._companions import WEIGHTS
from equimodal.studies.runs._identity import check_fingerprint, check_finished, located
from equimodal.studies.runs._randomness import own_randomness
from equimodal.studies.runs._seal import verify, warn_versions
from equimodal.studies.runs._stored import named, stored_config
from equimodal.studies.runs._weights import load_weights
from equimodal.studies.setup import RunConfig, build_data, check_trust, seeded, trusting

_LEAST, _TIMES = 256 << 20, 8
_MAKERS = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.arange, torch.eye}


class AllocationLimit(TorchFunctionMode):
    """Refuses a tensor that is larger than what a model needs whose weights have a known size.

    Args:
        limit: bytes.
        what: whose they are, for the message.
    """

    def __init__(self, limit: int, what: str) -> None:
        super().__init__()
        self._limit, self._what = limit, what

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Look at the size before the tensor is made."""
        given = kwargs or {}
        if func in _MAKERS:
            size = given.get("size", args[0] if args and isinstance(args[0], (tuple, list)) else args)
            numbers = [int(n) for n in size if isinstance(n, int) and not isinstance(n, bool)]
            asked = 4 * math.prod(numbers)
            if asked > self._limit:
                raise ModelError(
                    f"{self._what}: expected a model whose parts take at most {size_text(self._limit)}, by the size of "
                    f"its weights. Found one of {size_text(asked)}."
                )
        return func(*args, **given)


def load_run(folder: Path | str) -> tuple[RunConfig, Dataset, Method]:
    """Configuration, data and trained method of a finished run.

    Raises:
        DataError: the folder holds no finished run, something leads out of it, or its data or one of its files have
            changed since.
        CheckpointError: its weights are not those of its configuration.
        MethodError: its model is code that the caller has not named, see :func:`~equimodal.studies.trusting`.

    Warns:
        EquimodalWarning: it was made with other versions of this library or of torch.
    """
    folder = Path(folder)
    check_folder(folder)
    check_finished(folder)
    verify(folder)
    warn_versions([folder])
    config = stored_config(folder)
    check_trust(config.model.own_encoders, config.model.own_model)
    limit = _LEAST + _TIMES * (folder / WEIGHTS).stat().st_size
    with named(folder / "config.yaml"):
        data = build_data(located(config.data, folder))
        check_fingerprint(folder, data)
        with own_randomness(), trusting((), folder), AllocationLimit(limit, f"`{folder / 'config.yaml'}`"):
            method = seeded(config, data)
    load_weights(method, folder / WEIGHTS)
    return config, data, method
