"""Predictions of a finished run as plain arrays, and as files."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from equimodal.batch import Batch
from equimodal.data import Dataset, Split, loader
from equimodal.errors import BatchError, DataError, unknown_name
from equimodal.studies._build import build_data
from equimodal.studies._config import DataConfig
from equimodal.studies._records import write_bytes, write_text
from equimodal.studies._run import load_run

Table = dict[str, npt.NDArray[Any]]
_PARTS = ("train", "validation", "test")


def predict_run(
    folder: Path | str,
    data: DataConfig | None = None,
    parts: Sequence[str] = ("test",),
    modalities: Sequence[str] | None = None,
) -> Table:
    """Probabilities of a finished run for every sample of some parts of a dataset.

    Args:
        folder: of the run.
        data: other data with the run's modalities; they are prepared with the statistics of the run's training data.
            Default: the run's own data.
        parts: of train, validation, test.
        modalities: use these only; samples that have none of them are left out. Default: all that a sample has.

    Returns:
        ``index`` (N,) row in the dataset, ``part`` (N,), ``target`` (N,), ``prediction`` (N,), ``probabilities``
        (N, C), ``classes`` (C,) and ``weight_MODALITY`` (N,) where the inference rule weighs modalities.

    Raises:
        DataError: the other data lack a modality, or have another shape or other classes.
        UnknownNameError: an unknown part or modality.
        BatchError: no sample has any of the modalities.
    """
    _, own, method = load_run(folder)
    names = list(own.modalities) if modalities is None else list(modalities)
    for kind, given, known in (("modality", names, own.modalities), ("split", parts, _PARTS)):
        for name in given:
            if name not in known:
                raise unknown_name(kind, name, known)
    used = own if data is None else build_data(data)
    shift = {} if used is own else _shifts(own, used, names)
    device = next(method.parameters()).device
    columns: dict[str, list[Any]] = {}
    for part in parts:
        split: Split = getattr(used, part)
        for batch in loader(split, 256, shuffle=False):
            kept = _only(batch.to(device), names, shift)
            if kept is None:
                continue
            prediction = method.predict(kept.inputs, kept.present)
            probabilities = method.task.probabilities(prediction.output)
            found: dict[str, Any] = {
                "index": kept.index,
                "part": np.full(len(kept), part),
                "target": kept.target,
                "prediction": probabilities.argmax(1),
                "probabilities": probabilities,
                **{f"weight_{m}": w for m, w in prediction.weights.items()},
            }
            for name, value in found.items():
                columns.setdefault(name, []).append(value.cpu().numpy() if isinstance(value, Tensor) else value)
    if not columns:
        raise BatchError(f"`modalities`: expected samples that have some of {names}. Found none.")
    return {name: np.concatenate(values) for name, values in columns.items()} | {"classes": np.array(own.classes)}


def write_predictions(table: Table, path: Path) -> Path:
    """Write the arrays as .npz, or as .csv with one row per sample; whole or not at all."""
    if path.suffix == ".npz":
        packed = io.BytesIO()
        np.savez_compressed(packed, allow_pickle=False, **table)
        return write_bytes(path, packed.getvalue())
    classes = [str(c) for c in table["classes"]]
    scalars = [n for n in table if n not in ("classes", "probabilities")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*scalars, *(f"p_{c}" for c in classes)])
    for row, probabilities in enumerate(table["probabilities"]):
        values = [classes[table[n][row]] if n in ("target", "prediction") else table[n][row] for n in scalars]
        writer.writerow([*values, *(f"{p:.6g}" for p in probabilities)])
    return write_text(path, text.getvalue())


def _only(batch: Batch, names: Sequence[str], shift: dict[str, tuple[Tensor, Tensor]]) -> Batch | None:
    """The samples that have one of the modalities, with these alone."""
    inputs = {m: batch.inputs[m] for m in names}
    for m, (scale, offset) in shift.items():
        inputs[m] = inputs[m] * scale.to(inputs[m].device) + offset.to(inputs[m].device)
    if batch.present is None:
        return Batch(inputs, batch.target, None, batch.index)
    full = torch.ones(len(batch), dtype=torch.bool, device=next(iter(batch.present.values())).device)
    present = {m: batch.present.get(m, full) for m in names}
    rows = torch.stack(list(present.values())).any(0)
    if not bool(rows.any()):
        return None
    target, index = batch.target, batch.index
    return Batch(
        {m: x[rows] for m, x in inputs.items()},
        None if target is None else target[rows],
        {m: mask[rows] for m, mask in present.items()},
        None if index is None else index[rows],
    )


def _shifts(own: Dataset, other: Dataset, names: Sequence[str]) -> dict[str, tuple[Tensor, Tensor]]:
    """Modality -> (scale, offset) that take samples standardised by their own statistics to those of the run."""
    found = {}
    for m in names:
        have = other.modalities.get(m)
        if have is None or have.shape != own.modalities[m].shape:
            raise DataError(
                f"{other.name}: expected modality {m!r} of shape {own.modalities[m].shape}, as in the run. Found "
                f"{'none of that name' if have is None else have.shape}."
            )
        before, after = other._store.sources[m], own._store.sources[m]
        if before._mean is None and after._mean is None:
            continue
        zero, one = np.zeros(1, np.float32), np.ones(1, np.float32)
        scale = (one if after._scale is None else after._scale) / (one if before._scale is None else before._scale)
        mean = (zero if before._mean is None else before._mean) - (zero if after._mean is None else after._mean)
        offset = mean * (one if after._scale is None else after._scale)
        found[m] = (torch.from_numpy(np.asarray(scale)), torch.from_numpy(np.asarray(offset)))
    if own.classes != other.classes:
        raise DataError(f"{other.name}: expected the classes of the run, {own.classes}. Found {other.classes}.")
    return found
