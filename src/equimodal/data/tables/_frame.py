"""A frame or a table file as a :class:`Dataset`, with the preparation that new rows need."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from equimodal.data._dataset import Dataset
from equimodal.data._write import from_arrays
from equimodal.data.tables._kinds import propose
from equimodal.data.tables._preparation import Preparation, fit_preparation
from equimodal.data.tables._report import TableReport, table_report
from equimodal.data.tables._split import drawn_split, split_by_column, strata_of
from equimodal.data.tables._table import Array, Table, as_table, read_table
from equimodal.data.tables._target import TaskName, fit_target, target_values, unit_options, with_moments
from equimodal.errors import DataError, DataWarning, unknown_name

if TYPE_CHECKING:
    from equimodal.tasks import Task

SHARES = (0.7, 0.15, 0.15)


class TableDataset(Dataset):
    """A dataset of :func:`from_dataframe`, which knows how new rows are prepared and what was found in the table.

    ``preparation`` is what was learnt from the training rows, as plain values; ``report`` says what was found. Scores
    and predictions of numbers are in the unit of the target column; losses are of the standardised numbers.
    """

    def __init__(self, base: Dataset, preparation: Preparation, report: TableReport) -> None:
        super().__init__(
            base._store, base._modalities, base._rows, base._protocol, base._card, base._target, base._arrays,
            base._options,
        )  # fmt: skip
        self.preparation = preparation
        self.report = report

    def _make_task(self, options: Mapping[str, Any]) -> Task:
        return super()._make_task({**unit_options(self.preparation.target), **options})


def from_dataframe(
    frame: Any,
    target: str,
    *,
    columns: Mapping[str, str | Sequence[str]] | None = None,
    root: str | Path | None = None,
    group: str | None = None,
    split: str | None = None,
    shares: Sequence[float] = SHARES,
    seed: int = 0,
    task: TaskName = "auto",
    log_target: bool = False,
    class_weight: Literal["balanced"] | None = None,
    unlabelled: Literal["refuse", "drop"] = "refuse",
    image_size: int = 64,
    audio_seconds: float = 4.0,
    video_frames: int = 8,
    vocabulary: int = 4000,
    tokenizer: str | Path | None = None,
    text_length: int = 128,
    sequence_length: int = 1000,
    name: str = "table",
) -> TableDataset:
    """A table of your own as a dataset: one column group is one modality.

    Numbers, categories and dates make one modality, ``table``; each column of text, of paths of pictures, sound,
    videos or .npy arrays, or of lists is one of its own. ``print(data.report)`` shows what was inferred and found. An
    empty cell of a text or path column means that the row does not have the modality; nothing of it is opened.

    Everything that is learnt (means, categories, tokenizer) is learnt from the training rows.

    Args:
        frame: of pandas or polars, or a mapping from names to columns.
        target: column to predict. Numbers are classes where they are whole and at most 20 different ones.
        columns: what the columns are, where the proposal is wrong: column -> ``number``, ``category``, ``date``,
            ``text``, ``image``, ``audio``, ``video``, ``array`` or ``ignore``; or modality -> its columns, as
            ``{"photo": "image", "text": ["title", "body"]}``.
        root: folder that relative paths begin in; default the current one.
        group: column whose equal values stay in one part (patient, speaker ...).
        split: column with the words train, validation and test (or 0, 1, 2). Default: drawn.
        shares: of training, validation and test rows, where the split is drawn; each class has them.
        seed: decides the draw.
        task: ``classification``, ``regression``, or ``auto``.
        log_target: learn the logarithm of a regression's target.
        class_weight: ``balanced`` weighs each class by N / (C n_c) of the training rows.
        unlabelled: what becomes of rows without a target: ``refuse`` or ``drop``.
        image_size: height and width of pictures and videos; the centre is cut out.
        audio_seconds: length of sound; it is cut, or filled with silence. 64 log-mel bands at 16 kHz.
        video_frames: frames that are taken of a video, evenly over its length.
        vocabulary: largest number of ids of the text's BPE tokenizer.
        tokenizer: folder with the ``tokenizer.json`` of a Hugging Face tokenizer, which is used instead of one learnt
            from the training rows. It is kept with the preparation.
        text_length: most ids per text; less where 95 % of the training texts have less.
        sequence_length: most steps of sequences of several lengths; what is behind them is not read.
        name: of the dataset.

    Raises:
        UnknownNameError: a column or kind that does not exist.
        DataError: the table cannot be used; names file or argument, column, row, value and the next step.
        MissingExtraError: a library that a column needs is not installed.

    Warns:
        DataWarning: something that will surprise: rows dropped, rare classes, columns that say nothing.

    Example:
        >>> data = from_dataframe({"a": [0.1, 2.0, 0.3, 1.9] * 6, "b": ["x", "y"] * 12, "label": ["no", "yes"] * 12},
        ...                       target="label")
        >>> data.modalities["table"].shape, data.classes, data.parts
        ((3,), ('no', 'yes'), {'train': 16, 'validation': 4, 'test': 4})
    """
    table = _labelled(as_table(frame), target, unlabelled)
    whole: dict[str, tuple[Any, int, int]] = {
        "image_size": (image_size, 8, 2048), "video_frames": (video_frames, 1, 1024),
        "vocabulary": (vocabulary, 300, 1_000_000), "text_length": (text_length, 16, 4096),
        "sequence_length": (sequence_length, 8, 1_000_000), "seed": (seed, 0, 2**63 - 1),
    }  # fmt: skip
    _check_options(whole, audio_seconds, class_weight)
    if tokenizer is not None and not isinstance(tokenizer, (str, Path)):
        raise DataError(f"`tokenizer`: expected the path of a folder. Found {tokenizer!r}.")
    folder = Path.cwd() if root is None else Path(root)
    goal = fit_target(table, target, task, log_target)
    values = target_values(goal, table)
    names = _column(table, group, "group")
    groups = None if names is None else table.texts(names)
    if names is not None and table.empty(names).any():
        row = int(np.flatnonzero(table.empty(names))[0])
        raise table.refusal(names, row, "the name of a group in every row", None, "Fill it.")
    if _column(table, split, "split") is None:
        strata = strata_of(values, len(goal["classes"]))
        parts: Array = drawn_split(strata, groups, shares, seed)
    else:
        parts = split_by_column(table, str(split))
    train = np.flatnonzero(parts == "train")
    if len(train) == 0 or not (parts == "validation").any():
        raise DataError(
            f"{table.where}: expected rows for training and validation. Found {len(train)} and "
            f"{int((parts == 'validation').sum())} of {len(table)}. Give more rows, or a `split` column."
        )
    if goal["task"] == "regression":
        goal = with_moments(goal, values, train)
    proposal = propose(table.take(train), columns, [c for c in (target, group, split) if c is not None])
    options = {
        "image_size": image_size, "audio_seconds": audio_seconds, "video_frames": video_frames,
        "vocabulary": vocabulary, "tokenizer": tokenizer, "text_length": text_length,
        "sequence_length": sequence_length,
    }  # fmt: skip
    made, inputs, present = fit_preparation(table, proposal, goal, train, folder, options)
    _some_modality(table, present)
    report = table_report(table, proposal, made, values, parts, present)
    base = from_arrays(
        {n: np.nan_to_num(x) if made.steps(n) else x for n, x in inputs.items()},
        values, parts, name=name, task=goal["task"],
        present={n: mask for n, mask in present.items() if not mask.all()},
        groups=None if groups is None else {name_of_group(str(group)): np.array(groups)},
        kinds={n: made.kind(n) for n in inputs},
        standardise={n: _standardise(made.kind(n), made.modalities[n]["kind"]) for n in inputs},
        classes=goal["classes"] or None,
        masks={n: (~np.isnan(inputs[n][..., 0])).sum(1) for n in inputs if made.steps(n)},
    )  # fmt: skip
    for modality, own in made.modalities.items():
        if own["kind"] not in ("table", "text"):
            mean, scale = base.standardisation(modality, np.float64)
            own["mean"], own["scale"] = mean.tolist(), scale.tolist()
    data = TableDataset(base, made, report)
    if class_weight == "balanced" and goal["classes"]:
        data.choose_task(class_weight=balanced_weights(values[train], len(goal["classes"])))
    return data


def balanced_weights(labels: Array, classes: int) -> list[float]:
    """Weight of each class, N / (C n_c).

    Example:
        >>> balanced_weights(np.array([0, 0, 0, 1]), 2)
        [0.6666666666666666, 2.0]
    """
    counts = np.bincount(labels, minlength=classes)
    return [float(len(labels) / (classes * max(1, n))) for n in counts]


def load_table(path: str | Path, target: str | None = None, **options: Any) -> TableDataset:
    """The dataset of a .csv, .tsv or .parquet file; the options are those of :func:`from_dataframe`.

    Relative paths in its cells begin in the folder of the file, unless ``root`` says another.

    Raises:
        DataError: the file cannot be read, no target is named, or anything that :func:`from_dataframe` refuses.
    """
    if target is None:
        raise DataError(f"{path}: expected the name of the column to predict. Found none. Give it as `target`.")
    path = Path(path)
    options.setdefault("root", path.parent)
    return from_dataframe(read_table(path), target, **{"name": path.stem, **options})


def name_of_group(column: str) -> str:
    """The name of a group in a card."""
    return "".join(c if c.isalnum() else "_" for c in column)


def _column(table: Table, column: str | None, argument: str) -> str | None:
    if column is not None and column not in table.columns:
        raise unknown_name(f"column of {table.where} in `{argument}`:", column, table.columns)
    return column


def _labelled(table: Table, target: str, unlabelled: str) -> Table:
    if len(table) == 0:
        raise DataError(f"{table.where}: expected rows. Found a table with the columns {table.columns[:8]} and no row.")
    if unlabelled not in ("refuse", "drop"):
        raise unknown_name("`unlabelled`", str(unlabelled), ("refuse", "drop"))
    if unlabelled == "drop" and target in table.columns:
        gaps = table.empty(target)
        if gaps.all():
            raise DataError(f"{table.where}: column {target!r}: expected targets. Found empty cells only.")
        if gaps.any():
            text = f"{table.where}: column {target!r}: {int(gaps.sum())} row(s) without a target were left out."
            warnings.warn(text, DataWarning, stacklevel=4)
            return table.take(np.flatnonzero(~gaps))
    return table


def _some_modality(table: Table, present: Mapping[str, Array]) -> None:
    bare = np.flatnonzero(~np.stack(list(present.values())).any(0))
    if len(bare):
        raise DataError(
            f"{table.where}: row {table.number(int(bare[0]))}: expected at least one filled input. Found none in "
            f"{len(bare)} row(s), first {[table.number(int(r)) for r in bare[:5]]}. Leave these rows out."
        )


def _standardise(kind: str, own: str) -> str:
    if own in ("table", "text"):
        return "none"
    return "per-channel" if kind in ("image", "video") else "per-feature"


def _check_options(whole: Mapping[str, tuple[Any, int, int]], audio_seconds: Any, class_weight: Any) -> None:
    for name, (value, low, high) in whole.items():
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise DataError(f"`{name}`: expected a whole number from {low} to {high}. Found {value!r}.")
    if not isinstance(audio_seconds, (int, float)) or not 0.1 <= audio_seconds <= 600:
        raise DataError(f"`audio_seconds`: expected a number from 0.1 to 600. Found {audio_seconds!r}.")
    if class_weight not in (None, "balanced"):
        raise unknown_name("`class_weight`", str(class_weight), ("balanced",))
