"""Which reader a collection of rows gets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from equimodal._utils.files import standing
from equimodal.data.records._huggingface import HuggingFaceReader
from equimodal.data.records._parquet import ParquetReader
from equimodal.data.records._reader import JoinedReader, Reader, SequenceReader
from equimodal.data.records._tar import TarReader
from equimodal.data.tables import PART_NAMES
from equimodal.errors import DataError

_FILES = {".parquet": ParquetReader, ".tar": TarReader}


def reader_of(rows: Any, where: str = "`rows`") -> Reader:
    """The reader of a path, several paths, a dataset of Hugging Face, or a sequence of mappings.

    Raises:
        DataError: something else, or a collection whose rows cannot be read by their numbers.
    """
    if isinstance(rows, (str, Path)):
        return _of_paths(rows)
    if isinstance(rows, (list, tuple)) and rows and all(isinstance(r, (str, Path)) for r in rows):
        readers = [_of_paths(r) for r in rows]
        return readers[0] if len(readers) == 1 else JoinedReader(readers)
    by_number = hasattr(rows, "__getitem__") and hasattr(rows, "__len__") and not isinstance(rows, Mapping)
    if not by_number:
        raise DataError(
            f"{where}: expected rows that can be read by their numbers: a Parquet or tar file, a dataset of Hugging "
            f"Face, a list. Found {type(rows).__name__}, whose rows come one after the other. Every epoch has an order "
            "of its own and continues where it stopped, which a stream cannot give. Write the rows once: "
            "datasets.load_dataset without streaming=True, or a Parquet file."
        )
    if len(rows) == 0:
        raise DataError(f"{where}: expected at least one row. Found none.")
    if type(rows).__module__.split(".")[0] == "datasets" and hasattr(rows, "with_format"):
        return HuggingFaceReader(rows, where)
    return SequenceReader(rows, where)


def readers_of_parts(rows: Mapping[Any, Any]) -> dict[str, Reader]:
    """The readers of a mapping from parts to collections, as ``datasets.load_dataset`` gives it.

    Raises:
        DataError: a name that is no part, or a part twice.
    """
    found: dict[str, Reader] = {}
    for name, own in rows.items():
        part = PART_NAMES.get(str(name).lower())
        if part is None or part in found:
            raise DataError(
                f"`rows`: expected a mapping from train, validation and test to rows. Found {list(rows)}. Choose the "
                "ones that are meant: {'train': ..., 'validation': ..., 'test': ...}."
            )
        found[part] = reader_of(own, f"`rows[{name!r}]`")
    return found


def _of_paths(path: str | Path) -> Reader:
    path = standing(Path(os.fspath(path)))
    files = [path]
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix in _FILES)
        if not files or len({p.suffix for p in files}) > 1:
            raise DataError(f"{path}: expected a folder of .parquet or of .tar files. Found {len(files)} of them.")
    if path.suffix.lower() not in _FILES and not path.is_dir():
        raise DataError(f"{path}: expected rows, of {' or '.join(_FILES)}. Found the suffix {path.suffix!r}.")
    readers: list[Reader] = [_FILES[p.suffix.lower()](p) for p in files]
    readers = [r for r in readers if len(r)]
    if not readers:
        raise DataError(f"{path}: expected at least one row. Found none.")
    return readers[0] if len(readers) == 1 else JoinedReader(readers)
