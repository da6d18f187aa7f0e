"""The learning rate of a run from a range test on its training data."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from equimodal.data import Dataset, loader
from equimodal.diagnostics import RateTest, find_rate
from equimodal.errors import MethodError
from equimodal.methods import refuse_incomplete
from equimodal.studies.runs._companions import load_companions
from equimodal.studies.runs._randomness import own_randomness
from equimodal.studies.runs._stored import stored_config
from equimodal.studies.setup import RunConfig, build_data, optimizer_factory, seeded

RATE = "rate.json"
_REFERENCE = 1e-3


def suggest_rate(config: RunConfig, data: Dataset | None = None, *, folder: Path | str = ".") -> RateTest:
    """A learning rate for a run, by :func:`equimodal.diagnostics.find_rate` on its training data; nothing is written.

    The steps are those of the run: its method, optimizer, batches, augmentation, clipping and accumulation, in float32.
    ``training.lr`` of ``config`` does not count.

    Args:
        config: of the run.
        data: the dataset, if it is loaded already.
        folder: where relative paths in ``config.uses`` begin.

    Raises:
        MethodError: no rate lowers the training loss.
        UnsupportedError: the model cannot be copied.
    """
    settings = dataclasses.replace(config.training, lr=_REFERENCE)
    data = build_data(config.data) if data is None else data
    with own_randomness():
        method = seeded(config, data, load_companions(config, data, Path(folder)))
        refuse_incomplete(method, data.train.present)
        size = settings.batch_size
        batches = loader(data.train, size, shuffle=True, seed=config.seed, drop_last=len(data.train) > size,
                         augment=settings.augment)  # fmt: skip
        return find_rate(
            method, batches, optimizer_factory(settings), lr=_REFERENCE, clip_norm=settings.clip_norm,
            accumulate=settings.accumulate, validation=loader(data.validation, max(256, size)),
        )  # fmt: skip


def with_rate(
    config: RunConfig, folder: Path, data: Dataset | None, resume: bool
) -> tuple[RunConfig, dict[str, Any] | None]:
    """``config`` with a number for ``training.lr``, and the record of the test, if one was made for it."""
    if config.training.lr != "auto":
        return config, None
    found = None
    if resume and (folder / "config.yaml").exists():
        rate = stored_config(folder).training.lr
    else:
        found = suggest_rate(config, data, folder=folder)
        rate = found.suggestion
    if rate == "auto":
        raise MethodError(f"`training.lr`: expected a number in {folder / 'config.yaml'}. Found 'auto'. Run anew.")
    training = dataclasses.replace(config.training, lr=rate)
    return dataclasses.replace(config, training=training), None if found is None else dataclasses.asdict(found)
