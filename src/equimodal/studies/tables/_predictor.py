"""A trained model with its preparation: frames in, predictions out, without the training data."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from equimodal.batch import Tree, tree_map
from equimodal.data import Dataset, from_arrays
from equimodal.data.tables import Preparation, Table, as_table, read_pieces, unit_options
from equimodal.errors import DataError, DataWarning, StorageError, unknown_name
from equimodal.export import Format
from equimodal.methods import Method
from equimodal.studies.runs import content_of, load_weights, own_randomness, read_json, read_yaml, verify, warn_versions
from equimodal.studies.setup import RunConfig, check_trust, seeded, trusting
from equimodal.studies.tables._graph import export_table

PREPARATION = "preparation.json"
TABLE = "table.json"
PIECE = 512
"""Rows that are prepared and predicted at a time."""


class Predictor:
    """Predicts rows of tables. :func:`equimodal.load` makes one of a run folder.

    Args:
        method: trained.
        preparation: of its inputs and target.
        report: what was found in the training table, as text.
        test: the test score in the unit of the target.
    """

    def __init__(
        self, method: Method, preparation: Preparation, report: str = "", test: dict[str, float] | None = None
    ) -> None:
        self.method = method
        self.preparation = preparation
        self.report = report
        self.test = dict(test or {})

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; empty for a regression."""
        return tuple(self.preparation.target.get("classes", ()))

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities."""
        return tuple(self.preparation.modalities)

    def predict(self, frame: Any, *, modalities: Sequence[str] | None = None, root: str | Path | None = None) -> Any:
        """Predictions of new rows, from what each row has.

        Args:
            frame: of pandas or polars. Columns may be in any order; others than those of the training are not looked
                at. A modality without any of its columns is absent in every row.
            modalities: use these only; nothing of the others is opened.
            root: folder that relative paths begin in; default the current one.

        Returns:
            A pandas frame with the index of ``frame`` and one row for each: ``prediction``; ``p_CLASS``, the
            probability of each class; ``prediction_MODALITY``, what a modality says alone, empty where it is absent or
            the method has no such output; ``weight_MODALITY`` (and ``weight_joint``) where the inference rule weighs;
            ``present_MODALITY``. A row without any modality has an empty prediction.

        Raises:
            DataError: no row, no modality, some but not all columns of a modality, or a cell that cannot be read; names
                column, row and value.
            UnknownNameError: an unknown modality.

        Warns:
            DataWarning: modalities of which the frame has no column, and rows without any modality.
        """
        import pandas

        table = as_table(frame)
        if len(table) == 0:
            raise DataError(f"{table.where}: expected rows to predict. Found none.")
        wanted = self._wanted(table, modalities)
        folder = Path.cwd() if root is None else Path(root)
        pieces = []
        for start in range(0, len(table), PIECE):
            rows = np.arange(start, min(len(table), start + PIECE))
            pieces.append(self._piece(table.take(rows), folder, wanted))
        found = pandas.concat(pieces, ignore_index=True)
        bare = int(found["prediction"].isna().sum())
        if bare:
            text = f"{table.where}: {bare} row(s) have no modality that the model knows; their prediction is empty."
            warnings.warn(text, DataWarning, stacklevel=2)
        return found.set_index(table.frame.index)

    def predict_file(
        self,
        path: str | Path,
        out: str | Path,
        *,
        modalities: Sequence[str] | None = None,
        root: str | Path | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Path:
        """Predictions of a .csv, .tsv or .parquet file as a .csv file, piece by piece, whole or not at all.

        Memory does not grow with the number of rows.

        Args:
            path: of the table.
            out: file to write, one row per row of the table; an earlier one stays if it fails.
            modalities: use these only.
            root: folder that relative paths begin in; default that of the table.
            progress: called with the number of rows that are done.

        Raises:
            DataError: as :meth:`predict`, or ``out`` is no name.csv.
            StorageError: the file could not be written.
        """
        path, out = Path(path), Path(out)
        if out.suffix != ".csv":
            raise DataError(f"`out`: expected a name.csv. Found {str(out)!r}.")
        folder = path.parent if root is None else Path(root)
        done = bare = 0
        wanted: set[str] | None = None
        with _whole(out) as partial:
            for table in read_pieces(path, PIECE):
                if len(table) == 0:
                    raise DataError(f"{path}: expected rows to predict. Found a header only.")
                wanted = self._wanted(table, modalities) if wanted is None else wanted
                found = self._piece(table, folder, wanted)
                bare += int(found["prediction"].isna().sum())
                try:
                    found.to_csv(partial, mode="a", header=done == 0, index=False, float_format="%.6g")
                except OSError as error:
                    raise StorageError(
                        f"`{out}`: could not be written ({error}). Free space or choose another."
                    ) from error
                done += len(table)
                if progress is not None:
                    progress(done)
        if bare:
            text = f"{path}: {bare} row(s) have no modality that the model knows; their prediction is empty."
            warnings.warn(text, DataWarning, stacklevel=2)
        return out

    def export(
        self,
        path: str | Path,
        format: Format = "onnx",  # noqa: A002 (the word users look for)
        *,
        modalities: Sequence[str] | None = None,
    ) -> Path:
        """Write the model with its preparation as one graph that runs without this library, in any number of rows.

        In the graph: empty cells, means and deviations, places of categories, sines and cosines of dates, padding and
        presence, standardisation of pictures, sound and arrays, the model and its inference rule, the unit of the
        target. Before it: text to ids, categories to places, files to arrays
        (:func:`equimodal.data.tables.raw_inputs`). What that needs is in the file's metadata, ``preparation``.

        Args:
            path: file to write, whole or not at all: ``.onnx``, or ``.pt2`` for torch.
            format: ``"onnx"`` or ``"torch"``.
            modalities: the ones that the graph takes; default all. A row's absent ones are NaN (a text: padding).

        Returns:
            ``path``. Outputs are ``prediction`` and, of classes, ``probabilities``; a row without anything has NaN and
            the class -1.

        Raises:
            UnknownNameError: an unknown modality.
            ModelError, UnsupportedError, MissingExtraError, StorageError: see :func:`equimodal.export.export`.
        """
        return export_table(self.method, self.preparation, path, format, modalities)

    def _wanted(self, table: Table, modalities: Sequence[str] | None) -> set[str]:
        """The modalities to use, of those that the table has."""
        for name in modalities or ():
            if name not in self.modalities:
                raise unknown_name("modality", name, self.modalities)
        asked = list(self.modalities if modalities is None else modalities)
        missing = [name for name in self.preparation.missing(table) if name in asked]
        columns = {name: list(self.preparation.modalities[name]["columns"]) for name in asked}
        if not asked or len(missing) == len(asked):
            raise DataError(
                f"{table.where}: expected columns of at least one modality, {columns}. Found the columns "
                f"{table.columns[:12]}."
            )
        if missing:
            text = f"{table.where}: no column of {missing}: absent in every row ({ {m: columns[m] for m in missing} })."
            warnings.warn(text, DataWarning, stacklevel=3)
        return set(asked) - set(missing)

    @cached_property
    def experts(self) -> tuple[str, ...]:
        """What the inference rule weighs: modalities, and the joint head under its key; empty if it weighs nothing."""
        arrays = {n: np.zeros((1, *m["shape"]), _type(m)) for n, m in self.preparation.modalities.items()}
        return tuple(self.method.predict(self._tensors(arrays)).weights)

    def _tensors(self, arrays: Mapping[str, Any]) -> dict[str, Tree]:
        """Prepared samples on the device of the model."""
        device = next(self.method.parameters()).device
        made = {n: self.preparation.tensor(n, x) for n, x in arrays.items()}
        return {n: tree_map(lambda t: t.to(device), x) for n, x in made.items()}

    @torch.no_grad()
    def _piece(self, table: Table, root: Path, wanted: set[str]) -> Any:
        """The output frame of a few rows."""
        import pandas

        arrays, present = self.preparation.inputs(table, root, wanted)
        some = np.stack(list(present.values())).any(0)
        rows = np.flatnonzero(some)
        columns: dict[str, Any] = {"prediction": self._blank(len(table))}
        columns |= {f"p_{c}": np.full(len(table), np.nan) for c in self.classes}
        columns |= {f"prediction_{m}": self._blank(len(table)) for m in self.modalities}
        columns |= {f"weight_{e.strip('()')}": np.full(len(table), np.nan) for e in self.experts}
        if len(rows):
            self._predict(arrays, present, rows, columns)
        columns |= {f"present_{m}": present[m] for m in self.modalities}
        return pandas.DataFrame(columns)

    def _predict(self, arrays: Any, present: Any, rows: Any, columns: dict[str, Any]) -> None:
        device = next(self.method.parameters()).device
        inputs = self._tensors({m: x[rows] for m, x in arrays.items()})
        masks = {m: torch.from_numpy(mask[rows]).to(device) for m, mask in present.items()}
        prediction = self.method.predict(inputs, masks)
        values = self.method.task.probabilities(prediction.output).cpu().double().numpy()
        columns["prediction"][rows] = self._named(values)
        for i, name in enumerate(self.classes):
            columns[f"p_{name}"][rows] = values[:, i]
        for m in self.modalities:
            if m in prediction.unimodal:
                have = present[m][rows]
                alone = self.method.task.probabilities(prediction.unimodal[m]).cpu().double().numpy()
                columns[f"prediction_{m}"][rows[have]] = self._named(alone[have])
        for expert, weight in prediction.weights.items():
            columns[f"weight_{expert.strip('()')}"][rows] = weight.cpu().double().numpy().reshape(len(rows), -1).mean(1)

    def _blank(self, size: int) -> Any:
        return np.full(size, None, dtype=object) if self.classes else np.full(size, np.nan)

    def _named(self, values: Any) -> Any:
        """Names of classes, or numbers, which the task gives in the unit of the target."""
        if self.classes:
            return np.array(self.classes, dtype=object)[values.argmax(1)]
        return values


def load(folder: str | Path) -> Predictor:
    """The predictor of a run folder that ``equimodal fit`` or :func:`equimodal.studies.fit_table` left.

    The training data are not needed. Nothing in the folder is executed.

    Raises:
        DataError: no finished run, one that was not made from a table, or a file that has changed since.
        CheckpointError: weights that are not those of the run.
        MethodError: its model is code that the caller has not named, see :func:`equimodal.studies.trusting`.

    Warns:
        EquimodalWarning: it was made with other versions of this library or of torch.
    """
    folder = Path(folder)
    if not (folder / PREPARATION).is_file() or not (folder / "weights.safetensors").is_file():
        found, step = content_of(folder)
        if (folder / "weights.safetensors").is_file():
            found = f"a run without {PREPARATION}, which was not made from a table"
            step = "Other data for it: equimodal predict RUN --data NEW --split train,validation,test"
        raise DataError(f"`{folder}`: expected a finished run of `equimodal fit`. Found {found}. {step}.")
    verify(folder)
    warn_versions([folder])
    config = RunConfig.from_dict(read_yaml(folder / "config.yaml"))
    check_trust(config.model.own_encoders, config.model.own_model)
    preparation = Preparation.from_dict(read_json(folder / PREPARATION))
    data = blank(preparation)
    data.choose_task(**{**unit_options(preparation.target), **config.data.task})
    with own_randomness(), trusting((), folder):
        method = seeded(config, data)
    load_weights(method, folder / "weights.safetensors")
    known = read_json(folder / TABLE) if (folder / TABLE).is_file() else {}
    return Predictor(method.eval(), preparation, str(known.get("text", "")), known.get("test"))


def blank(preparation: Preparation) -> Dataset:
    """Zeros of the shapes and classes of the training data, from which a model of the same structure is built."""
    target = preparation.target
    count = max(2, len(target.get("classes", ())))
    rows = count + 1
    inputs = {name: np.zeros((rows, *own["shape"]), _type(own)) for name, own in preparation.modalities.items()}
    values = np.append(np.arange(count), 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        return from_arrays(
            inputs,
            values if target["task"] == "classification" else values.astype(np.float32),
            np.array(["train"] * count + ["validation"]),
            task=target["task"],
            kinds={name: preparation.kind(name) for name in inputs},
            standardise=dict.fromkeys(inputs, "none"),
            masks={name: np.full(rows, own["shape"][0]) for name, own in preparation.modalities.items()
                   if preparation.steps(name)},
            classes=target.get("classes") or None,
        )  # fmt: skip


def _type(modality: Mapping[str, Any]) -> type[Any]:
    return np.int64 if modality["kind"] == "text" else np.float32


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A file to write beside ``path``, which takes its place at the end, or is removed."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)
        partial.touch()
        yield partial
        partial.replace(path)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"`{path}`: could not be written ({error}). Free space or choose another file.") from error
    finally:
        partial.unlink(missing_ok=True)
