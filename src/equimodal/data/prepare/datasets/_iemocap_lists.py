"""Lists of IEMOCAP's utterances that papers publish."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from equimodal.data.prepare import Problem, UnreadableError, readers
from equimodal.errors import DataError

Array = npt.NDArray[Any]
_MLA = {"train": "my_train_iemo.txt", "test": "my_test_iemo.txt"}
FOLD = {"train": "trn", "validation": "val", "test": "tst"}
_SEPARATOR = "[split|sign]"


def read_lists(folder: str, known: Collection[str]) -> tuple[dict[str, dict[str, str]], tuple[Problem, ...]]:
    """Protocol -> utterance -> part, from MLA's text files (``mla``) and a fold of the feature files (``cggm``).

    Raises:
        DataError: neither is there, a line is malformed, or an utterance is in two parts.
    """
    if not folder:
        return {}, ()
    place, found = Path(folder), dict[str, dict[str, str]]()
    if all((place / name).is_file() for name in _MLA.values()):
        found["mla"] = _join({part: _read_text(place / name) for part, name in _MLA.items()}, place)
    if all((place / f"{stem}_int2name.npy").is_file() for stem in FOLD.values()):
        found["cggm"] = _join({part: read_names(place / f"{stem}_int2name.npy") for part, stem in FOLD.items()}, place)
    if not found:
        raise DataError(
            f"`lists`: expected my_train_iemo.txt and my_test_iemo.txt, or trn_int2name.npy, val_int2name.npy and "
            f"tst_int2name.npy. Found neither in {place}."
        )
    named = sorted({name for parts in found.values() for name in parts})
    missing = tuple(Problem(name, "in the lists, and not among the utterances") for name in named if name not in known)
    return found, missing


def _join(parts: dict[str, list[str]], place: Path) -> dict[str, str]:
    joined: dict[str, str] = {}
    for part, names in parts.items():
        for name in names:
            if joined.setdefault(name, part) != part:
                raise DataError(f"{place}: expected utterances that are in one part. Found {name} in two.")
    return joined


def _read_text(path: Path) -> list[str]:
    names = []
    for number, line in enumerate(readers.read_text(path).splitlines(), 1):
        name, separator, _ = line.partition(_SEPARATOR)
        if not line.strip():
            continue
        if not separator or not name.startswith("Ses"):
            raise DataError(f"{path}: line {number}: expected SesNNG_NAME.mp4 {_SEPARATOR} ... Found {line[:60]!r}.")
        names.append(name.strip().removesuffix(".mp4").removesuffix(".wav"))
    return names


def read_names(path: Path) -> list[str]:
    """Names in ``*_int2name.npy``: text or bytes, (N,) or (N, 1)."""
    found = read_array(path)
    if found.dtype.kind not in "SU" or found.size != len(found):
        raise DataError(f"{path}: expected one name per sample. Found {found.dtype} {found.shape}.")
    flat = found.reshape(-1)
    return [str(name) for name in (np.char.decode(flat, "utf-8") if flat.dtype.kind == "S" else flat)]


def read_array(path: Path) -> Array:
    """A plain array; a missing, corrupt or pickled one is refused."""
    try:
        found = readers.read_array(path)
    except UnreadableError as error:
        raise DataError(f"{path}: expected a plain array. Found: {error}.") from error
    if found.ndim == 0:
        raise DataError(f"{path}: expected samples on the first axis. Found a single value.")
    return found
