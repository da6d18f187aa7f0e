"""Predictions of a finished run as plain arrays, and as files."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from equimodal._utils.printing import table_cell
from equimodal.batch import Batch, Tokens, Tree, tree_map
from equimodal.data import Dataset, Split, loader
from equimodal.errors import BatchError, DataError, unknown_name
from equimodal.features import clean
from equimodal.studies.runs import ELSEWHERE, load_run, write_bytes, write_text
from equimodal.studies.setup import DataConfig, build_data
from equimodal.tasks import Regression, Task, distribution_of

Table = dict[str, npt.NDArray[Any]]
_PARTS = ("train", "validation", "test")
_COLUMNS = ("inputs", "task", "classes", "present", "root", "cache_bytes", "target")
"""Options of rows that say what a column is, or how it is read."""


def predict_run(
    folder: Path | str,
    data: DataConfig | None = None,
    parts: Sequence[str] = ("test",),
    modalities: Sequence[str] | None = None,
) -> Table:
    """Predictions of a finished run for every sample of some parts of a dataset.

    Args:
        folder: of the run.
        data: other data with the run's modalities; they are prepared with the statistics of the run's training data.
            Other rows for a run on rows need a name only: columns and targets are those of the run. Default: the run's
            own data.
        parts: of train, validation, test.
        modalities: use these only; samples that have none of them are left out. Default: all that a sample has.

    Returns:
        ``index`` (N,) row in the dataset, ``part`` (N,), ``target`` (N, ...), ``prediction`` (N, ...): the class, the
        labels, the numbers or the class of every pixel. Further ``probabilities`` (N, C, ...) where the task has them
        (a Gaussian regression has ``deviation``), ``classes`` (C,) and ``weight_MODALITY`` (N, ...) where the inference
        rule weighs modalities.

    Raises:
        DataError: no part or modality is named; the other data lack a modality, or have another shape or other classes.
        UnknownNameError: an unknown part or modality.
        BatchError: no sample has any of the modalities.
    """
    config, own, method = load_run(folder)
    names = list(own.modalities) if modalities is None else list(modalities)
    for option, listed in (("modalities", names), ("parts", parts)):
        if not listed:
            raise DataError(f"`{option}`: expected at least one name. Found none. Leave it out for the default.")
    for kind, given, known in (("modality", names, own.modalities), ("split", parts, _PARTS)):
        for name in given:
            if name not in known:
                raise unknown_name(kind, name, known)
    used = own if data is None else build_data(_with_columns(data, config.data))
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
            found: dict[str, Any] = {
                "index": kept.index,
                "part": np.full(len(kept), part),
                "target": kept.target,
                **_read(method.task, prediction.output),
                **{f"weight_{m}": w for m, w in prediction.weights.items()},
            }
            for name, value in found.items():
                columns.setdefault(name, []).append(value.cpu().numpy() if isinstance(value, Tensor) else value)
    if not columns:
        raise BatchError(f"`modalities`: expected samples that have some of {names}. Found none.")
    table = {name: np.concatenate(values) for name, values in columns.items()}
    return table | ({"classes": np.array(own.classes)} if own.classes else {})


def _with_columns(data: DataConfig, own: DataConfig) -> DataConfig:
    """Other rows with the columns of the run, where nothing is said of theirs; not with those that it was split by."""
    if data.target is not None or data.options or "inputs" not in own.options:
        return data
    options = {name: value for name, value in own.options.items() if name in _COLUMNS}
    return replace(data, target=own.target, options=options)


def _read(task: Task, output: Tensor) -> dict[str, Tensor]:
    """What an output says, by the kind of the task."""
    values = task.probabilities(output)
    kind = distribution_of(task)
    if kind == "categorical":
        return {"prediction": values.argmax(1), "probabilities": values}
    if kind == "bernoulli":
        return {"prediction": (values > 0.5).long(), "probabilities": values}
    if kind == "gaussian":
        deviation = (output[:, output.shape[1] // 2 :] / 2).exp()
        if isinstance(task, Regression):
            deviation = task.deviation_in_unit(deviation, values)
        return {"prediction": values, "deviation": deviation.reshape(values.shape)}
    return {"prediction": values}


def write_predictions(table: Table, path: Path) -> Path:
    """Write the arrays as .npz, or as .csv with one row per sample; whole or not at all.

    Raises:
        DataError: maps as .csv.
    """
    if path.suffix == ".npz":
        packed = io.BytesIO()
        np.savez_compressed(packed, allow_pickle=False, **table)
        return write_bytes(path, packed.getvalue(), ELSEWHERE)
    large = [n for n, values in table.items() if values.ndim > 2]
    if large:
        raise DataError(
            f"`{path}`: expected a name.npz, since {large} are maps, which have no place in a row of a table."
        )
    classes = [table_cell(str(c)) for c in table.get("classes", ())]
    columns: dict[str, list[Any]] = {}
    for name, values in table.items():
        if name == "classes":
            continue
        named = classes and name in ("target", "prediction") and values.ndim == 1
        if values.ndim == 2:
            titles = [f"p_{c}" for c in classes] if name == "probabilities" and classes else None
            for i, column in enumerate(values.T):
                columns[titles[i] if titles else f"{name}_{i}"] = _texts(column)
        else:
            columns[name] = [classes[v] for v in values] if named else _texts(values)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    order = sorted(columns, key=lambda n: n.startswith("p_"))  # probabilities last
    writer.writerow(order)
    writer.writerows(zip(*(columns[n] for n in order), strict=True))
    return write_text(path, text.getvalue(), ELSEWHERE)


def _texts(values: npt.NDArray[Any]) -> list[Any]:
    return [f"{v:.6g}" for v in values] if values.dtype.kind == "f" else list(values)


def _only(batch: Batch, names: Sequence[str], shift: dict[str, tuple[Tensor, Tensor]]) -> Batch | None:
    """The samples that have one of the modalities, with these alone."""
    inputs = {m: _shifted(batch.inputs[m], shift.get(m)) for m in names}
    if batch.present is None:
        return Batch(inputs, batch.target, None, batch.index)
    full = torch.ones(len(batch), dtype=torch.bool, device=next(iter(batch.present.values())).device)
    present = {m: batch.present.get(m, full) for m in names}
    rows = torch.stack(list(present.values())).any(0)
    if not bool(rows.any()):
        return None
    target, index = batch.target, batch.index
    return Batch(
        {m: tree_map(lambda t: t[rows], x) for m, x in inputs.items()},
        None if target is None else target[rows],
        {m: mask[rows] for m, mask in present.items()},
        None if index is None else index[rows],
    )


def _shifted(x: Tree, shift: tuple[Tensor, Tensor] | None) -> Tree:
    if shift is None:
        return x
    scale, offset = shift
    moved = tree_map(lambda t: t * scale.to(t.device) + offset.to(t.device) if t.is_floating_point() else t, x)
    return clean(moved) if isinstance(moved, Tokens) else moved


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
        (mean, scale), (own_mean, own_scale) = (d.standardisation(m, np.float64) for d in (other, own))
        # back to the bundle's numbers, x = y / scale + mean, and on with the run's statistics
        ratio, offset = own_scale / scale, (mean - own_mean) * own_scale
        found[m] = (torch.from_numpy(ratio.astype(np.float32)), torch.from_numpy(offset.astype(np.float32)))
    if own.classes != other.classes:
        raise DataError(f"{other.name}: expected the classes of the run, {own.classes}. Found {other.classes}.")
    return found
