"""Datasets by name, bundles by path."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from equimodal._utils.files import standing
from equimodal.data._avdigits import load_avdigits
from equimodal.data._bundle import load_bundle
from equimodal.data._dataset import Dataset
from equimodal.data._synthetic import synthetic
from equimodal.data.records import from_rows
from equimodal.data.tables import FORMATS, load_table
from equimodal.errors import DataError, unknown_name

_BUILT_IN: dict[str, Callable[..., Dataset]] = {"avdigits": load_avdigits, "synthetic": synthetic}


def available() -> list[str]:
    """Names of the built-in datasets, which need no file.

    Example:
        >>> available()
        ['avdigits', 'synthetic']
    """
    return sorted(_BUILT_IN)


def load(
    name_or_path: str | Path,
    *,
    card: str | Path | Mapping[str, Any] | None = None,
    protocol: str | None = None,
    **options: Any,
) -> Dataset:
    """The built-in dataset of a name, or the bundle at a path.

    Anything with a path separator or a suffix, and any ``Path``, is a path; a bare name is a built-in dataset first and
    an existing file or folder second.

    Args:
        name_or_path: ``"avdigits"``, ``"synthetic"``, or the path of an .npz file, a folder of .npy files, a table
            (.csv, .tsv, .parquet); or, with the option ``inputs``, of what :func:`from_rows` reads.
        card: card of a bundle; see :func:`load_bundle`.
        protocol: name of the split protocol; the default one otherwise.
        options: further arguments of :func:`load_avdigits`, :func:`synthetic`, :func:`load_bundle`; for a table
            ``target`` and the options of :func:`from_dataframe`, or ``target``, ``inputs`` and the options of
            :func:`from_rows`, which reads samples when a batch asks for them.

    Raises:
        UnknownNameError: no such built-in dataset, file or folder.
        DataError: an option the dataset does not have, or anything :func:`load_bundle` refuses.

    Example:
        >>> load("avdigits").name
        'avdigits'
    """
    text = os.fspath(name_or_path)
    is_path = isinstance(name_or_path, Path) or Path(text).suffix != "" or any(s in text for s in ("/", os.sep))
    if not is_path and text in _BUILT_IN:
        if card is not None:
            raise DataError(f"`card`: expected no card for the built-in dataset {text!r}. Found {card!r}.")
        if protocol is not None:
            options["protocol"] = protocol
        return _call(_BUILT_IN[text], text, options)
    if not is_path and not standing(Path(text)).exists():
        raise unknown_name("dataset (a built-in name, or the path of a bundle)", text, _BUILT_IN)
    if "inputs" in options:
        if card is not None or protocol is not None:
            raise DataError(f"{text}: expected neither `card` nor `protocol` for rows. Found one of them.")
        return _call(from_rows, text, {"name": Path(text).stem, **options}, rows=text)
    if Path(text).suffix.lower() in FORMATS:
        if card is not None or protocol is not None:
            raise DataError(f"{text}: expected neither `card` nor `protocol` for a table. Found one of them.")
        return load_table(text, **options)
    return _call(load_bundle, text, {"path": text, "card": card, "protocol": protocol, **options})


def _call(function: Callable[..., Dataset], name: str, options: dict[str, Any], **fixed: Any) -> Dataset:
    import inspect

    known = inspect.signature(function).parameters
    for option in options:
        if option not in known:
            raise unknown_name(f"option of dataset {name}:", option, known)
    return function(**fixed, **options)
