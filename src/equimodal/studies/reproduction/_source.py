"""The data that a table needs: a bundle, or a raw download, of which a few samples tell what a joint step takes."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from equimodal.data import load, load_card, loader, prepare
from equimodal.engine import PlainEngine
from equimodal.errors import DataError
from equimodal.report import required_controls
from equimodal.studies.reproduction._table import Column
from equimodal.studies.setup import DataConfig, RunConfig, build_data, fixed_rate, optimizer_factory, seeded

_SAMPLES = 48
"""Raw samples that are decoded to measure a step."""


@dataclass(frozen=True)
class Source:
    """What a folder holds for a column.

    Args:
        path: the folder.
        prepared: whether it is a bundle; else the raw download.
        training: protocol -> number of training samples, of the protocols that there are.
        samples: all of them.
    """

    path: Path
    prepared: bool
    training: Mapping[str, int]
    samples: int


def source_of(column: Column, path: Path, parameters: Mapping[str, Any]) -> Source:
    """Look at a folder; nothing is decoded.

    Args:
        column: whose data.
        path: a bundle, or the raw download.
        parameters: of the preparation, on top of the column's.

    Raises:
        DataError: the folder is neither, with what the raw download looks like.
    """
    if (path / "card.yaml").is_file():
        names = load_card(path / "card.yaml").protocols
        sizes = {name: len(load(path, protocol=name).train) for name in column.protocols if name in names}
        whole = load(path)
        return Source(path, True, sizes, sum(len(part) for part in (whole.train, whole.validation, whole.test)))
    index = _index(column, path, parameters)
    sizes = {}
    for name in column.protocols:
        spec = index.protocols.get(name)
        if spec is not None:
            count = sum(item.columns.get(spec.column) in spec.train for item in index.items)
            carved = spec.validation.get("carve", 0.0) if isinstance(spec.validation, Mapping) else 0.0
            sizes[name] = round(count * (1 - carved))
    return Source(path, False, sizes, len(index.items))


def joint_step_seconds(column: Column, source: Source, parameters: Mapping[str, Any], steps: int = 3) -> float:
    """Seconds of a step of joint training with the column's encoders and batch size, here and now.

    Of a raw download, a few samples are decoded into a folder that is removed again. A batch repeats samples where
    there are fewer than it takes.

    Raises:
        DataError, MissingExtraError: the samples cannot be decoded.
    """
    if source.prepared:
        return _measured(column, source.path, steps)
    index = _index(column, source.path, parameters)
    chosen = index.items[:: max(1, len(index.items) // _SAMPLES)]
    with tempfile.TemporaryDirectory() as folder:
        few = Path(folder) / "raw"
        for file in sorted({file for item in chosen for part in item.files.values() for file in part}):
            (few / file).parent.mkdir(parents=True, exist_ok=True)
            (few / file).symlink_to((source.path / file).resolve())
        own = {k: v for k, v in {**column.prepare, **parameters}.items() if k != "lists"}
        prepare.prepare(column.dataset, few, Path(folder) / "bundle", workers=0, **own)
        return _measured(column, Path(folder) / "bundle", steps)


def _measured(column: Column, path: Path, steps: int) -> float:
    data = build_data(DataConfig(str(path)))
    method = seeded(RunConfig(required_controls()["reference"], model=column.model), data).train()
    engine = PlainEngine(optimizer_factory(column.training)(method.parameter_groups(fixed_rate(column.training))))
    size = column.training.batch_size
    batch = next(iter(loader(data.train, size, indices=[i % len(data.train) for i in range(size)])))
    seconds = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        method.training_step(batch, engine)
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def _index(column: Column, path: Path, parameters: Mapping[str, Any]) -> prepare.Index:
    if not path.is_dir():
        raise DataError(f"`data`: expected the folder of a bundle or of a raw download. Found no folder {path}.")
    kind = prepare.get(column.dataset)
    return kind(path, kind.Parameters(**{**column.prepare, **parameters})).index()
