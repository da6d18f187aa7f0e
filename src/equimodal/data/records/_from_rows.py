"""A collection of rows as a :class:`Dataset` whose samples are decoded when a batch asks for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from equimodal.data._card import parse_card
from equimodal.data._dataset import Dataset, build
from equimodal.data._generated_card import TaskKind, describe_arrays, refuse_booleans
from equimodal.data._missing import Missing
from equimodal.data._splits import Blocks
from equimodal.data.records._arrow import Names, coded
from equimodal.data.records._collections import reader_of, readers_of_parts
from equimodal.data.records._contents import Contents
from equimodal.data.records._field import Field
from equimodal.data.records._numbers import NumberColumns
from equimodal.data.records._reader import Array, JoinedReader, Mask, Reader
from equimodal.data.records._unpacked import unpacked, whole
from equimodal.data.tables import PART_NAMES
from equimodal.errors import DataError, did_you_mean

SHARES = (0.7, 0.15, 0.15)
_PARTS = ("train", "validation", "test")
_MOST_BLOCKS = 16  # that are shuffled together; more would not make a better order of it
_IN_MEMORY = 4  # part of the cache that contents may have which are numbers already, and then are kept in memory


def from_rows(
    rows: Any,
    target: str | npt.ArrayLike,
    inputs: Mapping[str, str | Field | Mapping[str, Any]],
    *,
    split: str | npt.ArrayLike | None = None,
    shares: Sequence[float] = SHARES,
    seed: int = 0,
    validation: Mapping[str, Any] | None = None,
    groups: str | Sequence[str] = (),
    overlapping: bool = False,
    present: Mapping[str, str | npt.ArrayLike] | None = None,
    task: TaskKind = "classification",
    classes: Sequence[str] | None = None,
    missing: Missing | Mapping[str, Any] | str | None = None,
    root: str | Path | None = None,
    statistics: int = 10_000,
    cache_bytes: int = 1 << 29,
    cache: str | Path | None = None,
    name: str = "rows",
) -> Dataset:
    """A dataset of rows that stay where they are: Parquet, Hugging Face, WebDataset, or a sequence of mappings.

    Row i maps names to contents. A content that is None, or ``{"bytes": None, "path": None}`` as Hugging Face stores a
    missing file, is absent: the sample does not have the modality, and nothing of it is decoded. Contents are read and
    decoded when a batch asks for them, of a file with columns only those that are needed. Numbers that fit into a
    quarter of ``cache_bytes`` are kept in memory.

    Parquet is read by row groups. So many of them as fit into ``cache_bytes`` (16 at most) are shuffled together: an
    epoch has the row groups in a random order, and random rows of those that are read together. Each is decoded once in
    an epoch; contents of .npy files are so in half the time that lists of numbers take.

    Args:
        rows: path of a .parquet file or of a .tar file of WebDataset, a folder of them, or several; a
            ``datasets.Dataset``; anything with a length that gives a mapping for a number, as a list or a map-style
            dataset of PyTorch. Or a mapping from train, validation and test to such collections.
        target: column to predict, or (N, ...) targets. Every row has one.
        inputs: modality -> its kind, where the column has its name, or a :class:`Field`, or a mapping of its arguments.
        split: column or (N,) array with the words train, validation and test, or 0, 1, 2, for each row; default: drawn.
        shares: of training, validation and test rows, where the split is drawn; each class has them.
        seed: decides the draw.
        validation: how validation rows are taken from the training ones if ``split`` or ``rows`` has none; see
            :func:`write_bundle`.
        groups: columns whose equal values must not be in two parts (patient, speaker ...). A split that is drawn keeps
            the values of the first one together.
        overlapping: groups do occur in several parts, which is printed with every number.
        present: modality -> column or (N,) array of booleans that says which rows have it. Default: those whose content
            is not None; to know it a column with gaps is read once, a sequence in any case.
        task: see :func:`write_bundle`.
        classes: the same.
        missing: modalities to take away from samples, see :class:`Missing`.
        root: folder that relative paths of pictures begin in; default that of the file, or the current one.
        statistics: training rows at most that are decoded for the mean and deviation of a modality.
        cache_bytes: bytes of row groups that are kept in memory, in each process.
        cache: folder for decoded samples. What does not fit into memory is decoded once and written there; this run
            and later ones read it as a memory-mapped bundle, and shuffle all rows together.
        name: of the dataset.

    Raises:
        DataError: a collection that is a stream, a row without a target, contents that are no array or of several
            shapes, row groups that do not fit into ``cache_bytes``; names file, column and row.
        UnknownNameError: no such column.
        MissingExtraError: a library that a column needs is not installed.

    Example:
        >>> rows = [{"a": [i, 1.0], "b": None if i % 3 else [[0.5]], "label": "ny"[i % 2]} for i in range(40)]
        >>> data = from_rows(rows, "label", {"a": "vector", "b": "sequence"})
        >>> data.classes, data.parts, data.train.batch([0]).inputs["a"].shape
        (('n', 'y'), {'train': 28, 'validation': 6, 'test': 6}, torch.Size([1, 2]))
    """
    for argument, number, least in (("statistics", statistics, 1), ("cache_bytes", cache_bytes, 1), ("seed", seed, 0)):
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise DataError(f"`{argument}`: expected a whole number of at least {least}. Found {number!r}.")
    fields = _fields(inputs)
    _unknown("present", present or {}, fields)
    reader, given = _reader(rows)
    if given is not None and split is not None:
        raise DataError("`split`: expected None, since `rows` names the parts. Found one.")
    size = len(reader)
    found, labels = _values(reader, target, "target", size)
    listed, labels = _classes(found, labels, classes)
    columns = [groups] if isinstance(groups, str) else list(groups)
    own = {c: _values(reader, c, "groups", size)[1] for c in columns}
    strata = labels if task == "classification" and labels.ndim == 1 else None
    parts = _split(reader, split, given, strata, own, shares, seed, size)
    there = {m: _present(reader, m, f, present or {}, size) for m, f in fields.items()}
    if root is None and isinstance(rows, (str, Path)):
        root = Path(rows) if Path(rows).is_dir() else Path(rows).parent
    made = _contents(reader, fields, there, parts, None if root is None else Path(root), statistics)
    decoded = _decoded(reader, made, cache_bytes, cache)
    lazily = {m: contents for m, contents in made.items() if m not in decoded and isinstance(contents, Contents)}
    blocks = _window(reader, lazily, {m: fields[m].columns(m) for m in lazily}, cache_bytes)
    arrays, card = describe_arrays(
        {m: lazily[m] if m in lazily else decoded[m][0] for m in fields}, labels, parts, name, task,
        {m: mask for m, mask in there.items() if not mask.all()}, {_plain(c): v for c, v in own.items()}, overlapping,
        {m: f.kind for m, f in fields.items()}, {m: f.units for m, f in fields.items() if f.units},
        {m: f.default_standardise() for m, f in fields.items()}, listed, validation, {},
        {m: lengths for m, (_, lengths) in decoded.items() if lengths is not None},
    )  # fmt: skip
    # the checks above see arrays, and no longer that some are mapped
    arrays |= {f"input_{m}": values for m, (values, _) in decoded.items() if isinstance(values, np.memmap)}
    return build(arrays, parse_card(card, ""), origin=name, missing=missing, blocks=blocks)


def _fields(inputs: Mapping[str, Any]) -> dict[str, Field]:
    if not isinstance(inputs, Mapping) or not inputs:
        raise DataError(
            "`inputs`: expected a mapping from modality name to a kind or a Field, with at least one entry."
        )
    for name in inputs:
        if not isinstance(name, str) or not all(c.isascii() and (c.isalnum() or c in "_-") for c in name) or not name:
            raise DataError(
                f"`inputs`: expected names of letters, digits, '_' or '-' for modalities. Found {name!r}. Choose "
                f"one, and give that of the column: {{'name': Field(kind, column={name!r})}}."
            )
    return {m: Field.of(value, m) for m, value in inputs.items()}


def _reader(rows: Any) -> tuple[Reader, Array | None]:
    """The reader of all rows, and the part of each where the collection says it."""
    if not isinstance(rows, Mapping):
        return reader_of(rows), None
    readers = readers_of_parts(rows)
    parts = np.repeat([_PARTS.index(p) for p in readers], [len(r) for r in readers.values()])
    return JoinedReader(list(readers.values())), parts


def _values(reader: Reader, value: Any, argument: str, size: int) -> tuple[Names, Array]:
    """A column, or an array that was given; of texts the names, and the number of each."""
    if isinstance(value, str):
        reader.check(value, argument)
        return reader.values(value, argument)
    array = np.asarray(value)
    if len(array.shape) == 0 or len(array) != size:
        raise DataError(f"`{argument}`: expected a column of {reader.where}, or {size} values. Found {array.shape}.")
    return coded(array)


def _classes(found: Names, labels: Array, classes: Sequence[str] | None) -> tuple[Names, Array]:
    """Names of the classes that were found, in the order that was asked for."""
    if found is None or classes is None:
        return (found if classes is None else tuple(classes)), labels
    unknown = sorted(set(found) - set(classes))
    if unknown:
        raise DataError(f"`target`: expected names of `classes` {list(classes)[:12]}. Found {unknown[:6]}.")
    return tuple(classes), np.array([list(classes).index(name) for name in found])[labels]


def _split(
    reader: Reader, split: Any, given: Array | None, labels: Array | None, groups: Mapping[str, Array],
    shares: Sequence[float], seed: int, size: int,
) -> Array:  # fmt: skip
    """(N,) 0, 1 and 2 for training, validation and test."""
    if given is not None:
        return given
    if split is not None:
        return _parts(*_values(reader, split, "split", size))
    return drawn_parts(labels, next(iter(groups.values()), None), shares, seed, size)


def _parts(names: Names, found: Array) -> Array:
    """A split that was given as 0, 1 and 2.

    Raises:
        DataError: values of no part, or several for a row.
    """
    if found.ndim != 1:
        raise DataError(f"`split`: expected one value per row. Found {found.dtype} {found.shape}.")
    refuse_booleans(found, "row")
    if names is None:
        known, expected = np.isin(found, (0, 1, 2)), "0, 1 or 2 (train, validation or test)"
    else:
        parts = [PART_NAMES.get(name.lower()) for name in names]
        known, expected = np.array([p is not None for p in parts])[found], "train, validation or test"
    if not known.all():
        rows = np.flatnonzero(~known)
        wrong = found[rows].tolist()
        shown = list(dict.fromkeys(repr(value if names is None else names[value]) for value in wrong))
        more = f", first rows {rows[:5].tolist()}" if len(rows) > 1 else ""
        raise DataError(
            f"`split`: row {rows[0]}: expected {expected}. Found {', '.join(shown[:6])} in {len(rows)} "
            f"row(s){more}. Correct them, or leave these rows out."
        )
    made = found if names is None else np.array([_PARTS.index(str(p)) for p in parts])[found]
    if not (made == 0).any():
        raise DataError("`split`: expected training rows. Found none. Give some rows train, or 0.")
    return made


def drawn_parts(
    labels: Array | None, groups: Array | None, shares: Sequence[float], seed: int, size: int
) -> npt.NDArray[np.int64]:
    """(N,) 0, 1 and 2, drawn so that each class, or else the values of a group, have the ``shares``.

    Example:
        >>> drawn_parts(None, np.array([7, 7, 8, 9]), (0.5, 0.25, 0.25), 0, 4)
        array([1, 1, 2, 0])
    """
    plain = isinstance(shares, (list, tuple)) and all(isinstance(s, (int, float)) for s in shares)
    given = np.array(shares if plain else (), float)
    if given.shape != (3,) or not (given >= 0).all() or abs(given.sum() - 1) > 1e-6 or given.min() <= 0:
        raise DataError(f"`shares`: expected three numbers above 0 that sum to 1. Found {shares!r}.")
    random = np.random.default_rng(seed)
    units = np.arange(size) if groups is None else np.unique(groups, return_inverse=True)[1]
    count = int(units.max()) + 1
    strata = np.zeros(count, np.int64)
    if labels is not None and groups is None:
        strata = np.unique(labels, return_inverse=True)[1]
    mixed = random.permutation(count)
    mixed = mixed[np.argsort(strata[mixed], kind="stable")]
    counts = np.bincount(strata)
    place = np.arange(count) - np.repeat(np.cumsum(counts) - counts, counts)
    relative = (place + 0.5) / np.repeat(counts, counts)
    part = np.empty(count, np.int64)
    part[mixed] = np.searchsorted(np.cumsum(shares[:2]), relative, side="right")
    empty = [name for number, name in enumerate(_PARTS) if not (part == number).any()]
    if empty:
        kind = "rows" if groups is None else "values of the first of `groups`"
        among = f" in {len(counts)} classes" if len(counts) > 1 else ""
        raise DataError(
            f"`split`: expected enough {kind} for training, validation and test. Found {count}{among}, of which "
            f"{' and '.join(empty)} would have none. Give more, other `shares`, or the part of each row as `split`."
        )
    return part[units]


def _present(reader: Reader, modality: str, field: Field, given: Mapping[str, Any], size: int) -> Mask:
    columns = field.columns(modality)
    for column in columns:
        reader.check(column, f"inputs[{modality!r}]")
    if modality not in given:
        return np.asarray(np.stack([reader.present(column) for column in columns]).all(axis=0), bool)
    flags = _values(reader, given[modality], f"present[{modality!r}]", size)[1]
    if flags.dtype.kind not in "biu" or not np.isin(flags, (0, 1)).all():
        raise DataError(f"`present[{modality!r}]`: expected booleans, or 0 and 1. Found {flags.dtype}.")
    return flags.astype(bool)


def _contents(
    reader: Reader, fields: Mapping[str, Field], there: Mapping[str, Mask], parts: Array, root: Path | None,
    statistics: int,
) -> dict[str, Contents | NumberColumns]:  # fmt: skip
    """Modality -> its samples."""
    made: dict[str, Contents | NumberColumns] = {}
    for m, f in fields.items():
        own = np.flatnonzero(there[m] & (parts == 0))
        if len(own) == 0:
            raise DataError(f"modality {m!r}: expected training rows that have it. Found none. Leave it out.")
        listed = [Contents(reader, c, f, there[m], own, root, statistics, m) for c in f.columns(m)]
        made[m] = listed[0] if len(listed) == 1 else NumberColumns(listed)
    return made


def _decoded(
    reader: Reader, made: Mapping[str, Contents | NumberColumns], cache_bytes: int, cache: str | Path | None
) -> dict[str, tuple[Array, Array | None]]:
    """Modality -> samples and lengths, of those that are kept in memory, or in files if there is a ``cache``."""
    found, left = {}, cache_bytes // _IN_MEMORY
    for m, contents in made.items():
        needed = int(np.prod(contents.shape, dtype=np.float64)) * contents.element.itemsize
        if contents.plain and needed <= left:
            found[m], left = whole(contents), left - needed
        elif cache is not None:
            stamp = reader.stamp()
            if stamp is None:
                raise DataError(
                    f"`cache`: expected a collection on disk, which is known again: Parquet, tar files, a dataset of "
                    f"Hugging Face. Found {reader.where} of another kind. Leave `cache` out."
                )
            found[m] = unpacked(contents, Path(cache), stamp)
        elif isinstance(contents, NumberColumns):
            raise DataError(
                f"modality {m!r}: expected numbers of at most {left} bytes (a quarter of `cache_bytes`, less what "
                f"others take), since they are in several columns. Found {needed}. Give more (cache_bytes=...), or a "
                "folder (cache=...)."
            )
    return found


def _window(
    reader: Reader, lazily: Mapping[str, Contents], named: Mapping[str, Sequence[str]], cache_bytes: int
) -> Blocks | None:
    """Which blocks are shuffled together; their contents are kept while their rows are read.

    Args:
        reader: of the collection.
        lazily: modality -> its samples, which are read by blocks.
        named: modality -> its columns.
        cache_bytes: that the blocks may take, with one more that is being read.
    """
    if reader.starts is None or not lazily:
        return None
    columns = [c for m in lazily for c in named[m]]
    others = sum(contents.block_bytes() for contents in lazily.values() if not contents.row_bytes)
    rows = int(np.diff(reader.starts).max())
    # what a file says is the size of encoded numbers, which are fewer bytes where they repeat
    numbers = rows * sum(contents.row_bytes for contents in lazily.values())
    largest = max(1, reader.block_bytes(columns), numbers + others)
    if largest > cache_bytes:
        fit = max(1, rows * cache_bytes // largest // 4)  # so that some are shuffled together
        raise DataError(
            f"{reader.where}: expected row groups of at most {cache_bytes} bytes in the columns {columns}, which are "
            f"kept while their rows are read. Found one of {largest}. Write smaller ones "
            f"(pyarrow.parquet.write_table(table, path, row_group_size={fit})), give more (cache_bytes=...), or a "
            "folder for decoded samples (cache=...)."
        )
    window = min(_MOST_BLOCKS, max(1, cache_bytes // largest - 1))
    for contents in lazily.values():
        contents.keep(window)
    return Blocks(reader.starts, window)


def _plain(column: str) -> str:
    """The name of a group in a card."""
    return "".join(c if c.isalnum() else "_" for c in column)


def _unknown(argument: str, given: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    unknown = sorted(set(given) - set(known))
    if unknown:
        hint = did_you_mean(unknown, known)
        raise DataError(f"`{argument}`: expected modalities of `inputs` {sorted(known)}. Found {unknown}.{hint}")
