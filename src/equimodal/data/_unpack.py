"""From one .npz to a folder of .npy files, which is memory-mapped when it is loaded."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from equimodal._utils.files import replace_folder
from equimodal.data._arrays import Arrays
from equimodal.data._bundle import find_card, load_bundle, load_card
from equimodal.data._write import write_folder, yaml_of
from equimodal.errors import DataError, StorageError


def unpack_bundle(path: str | Path, out: str | Path, card: str | Path | Mapping[str, Any] | None = None) -> Path:
    """Write the arrays of ``NAME.npz`` as a folder of .npy files with its card: the same data, read as they are needed.

    Only arrays that the card asks for are written. The folder appears whole or not at all, after it was loaded under
    every protocol; its :attr:`Dataset.fingerprint` is that of the .npz.

    Args:
        path: the .npz file.
        out: the folder; must not exist.
        card: its card, as for :func:`load_bundle`.

    Raises:
        DataError: no .npz file, something in it that :func:`load_bundle` refuses, or ``out`` exists.
        StorageError: the folder could not be written; nothing is left behind.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from equimodal.data import write_bundle
        >>> split = ["train"] * 2 + ["validation"] * 2 + ["test"] * 2
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "mine.npz"
        ...     _ = write_bundle(path, inputs={"a": np.eye(6)}, target=["no", "yes"] * 3, split=split)
        ...     out = unpack_bundle(path, Path(folder) / "mine")
        ...     load_bundle(out).fingerprint == load_bundle(path).fingerprint
        True
    """
    path, out = Path(path), Path(out)
    if path.is_dir() or path.suffix != ".npz":
        raise DataError(f"`path`: expected NAME.npz. Found {path}; a folder of .npy files is unpacked already.")
    if out.exists() or out.suffix:
        raise DataError(f"`out`: expected a new folder without a suffix. Found {out}.")
    found = load_card(card if card is not None else find_card(path))
    arrays = Arrays(path)
    named = {name: arrays[name] for name in sorted(_named(found.raw) & set(arrays))}
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        workplace = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise StorageError(f"{out}: the folder could not be made ({error}).") from error
    try:
        new = workplace / out.name
        try:
            write_folder(new, named, yaml_of(found.raw))
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        for protocol in found.protocols:
            load_bundle(new, protocol=protocol)
        replace_folder(new, out)
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"{out}: could not be written ({error}). Nothing is left; choose another folder.") from error
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
    return out


def _named(value: Any) -> set[str]:
    """Every text in a card: the names of its arrays are among them."""
    if isinstance(value, Mapping):
        return set().union(*(_named(entry) for entry in value.values()))
    if isinstance(value, (list, tuple)):
        return set().union(*(_named(entry) for entry in value))
    return {value} if isinstance(value, str) else set()
