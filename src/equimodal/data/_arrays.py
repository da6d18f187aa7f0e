"""Plain arrays of a bundle, from one .npz or from a folder of .npy files; nothing in them is ever executed."""

from __future__ import annotations

import lzma
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from equimodal._utils.arrays import check_npy, check_npz
from equimodal._utils.files import standing
from equimodal._utils.foreign import kind_of_file
from equimodal.errors import DataError, did_you_mean

Array = npt.NDArray[Any]
_BROKEN = (
    ValueError, OSError, EOFError, KeyError, TypeError, SyntaxError, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
    NotImplementedError, RuntimeError, MemoryError, OverflowError, struct.error, tokenize.TokenError,
)  # fmt: skip


class Arrays(Mapping[str, Array]):
    """The arrays of a bundle by name, each read at its first use.

    A folder is memory-mapped; an .npz is read into memory. Pickled objects are refused.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = standing(Path(path))
        self.mapped = self.path.is_dir()
        self._cache: dict[str, Array] = {}
        if self.mapped:
            self._names = sorted(p.stem for p in self.path.glob("*.npy"))
            if not self._names:
                raise DataError(f"{self.path}: expected a folder with .npy files. Found none.")
            return
        if not self.path.exists():
            folder = self.path.parent
            present = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
            raise DataError(
                f"{self.path}: expected a .npz file or a folder of .npy files. Found nothing there."
                f"{did_you_mean(self.path.name, present)}"
            )
        self._names = self._read(None)

    @overload
    def _read(self, name: None) -> list[str]: ...
    @overload
    def _read(self, name: str) -> Array: ...
    def _read(self, name: str | None) -> list[str] | Array:
        """Names in the .npz file, or one of its arrays; the file is closed again in any case."""
        check_npz(self.path, name)
        try:
            with self.path.open("rb") as file:
                content = np.load(file, allow_pickle=False)
                if isinstance(content, np.lib.npyio.NpzFile):
                    self._refuse_other_archives(content)
                    return content.files if name is None else np.asarray(content[name])
        except _BROKEN as error:
            raise self._broken("the file" if name is None else f"array `{name}`", error) from error
        raise DataError(f"{self.path}: expected an .npz file (several named arrays). Found a single array.")

    def _refuse_other_archives(self, content: Any) -> None:
        """A zip archive with other files than arrays, such as weights of torch."""
        other = [name for name in content.zip.namelist() if not name.endswith(".npy")]
        if other:
            raise DataError(
                f"{self.path}: expected an .npz file, with arrays alone. Found {kind_of_file(self.path)} with "
                f"{other[0]!r} in it. Save plain arrays: np.savez(path, name=array)."
            )

    def _mapped(self, name: str) -> Array:
        check_npy(self.path / f"{name}.npy", f"{self.path}: array `{name}`", inside=self.path)
        try:
            return np.load(self.path / f"{name}.npy", mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
        except _BROKEN as error:
            raise self._broken(f"array `{name}`", error) from error

    def _broken(self, what: str, error: Exception) -> DataError:
        text = str(error)
        file = self.path / f"{what.removeprefix('array `').removesuffix('`')}.npy" if self.mapped else self.path
        try:
            found = kind_of_file(file)
        except OSError:
            found = "a file that cannot be read"
        numpy = found.startswith(("a zip archive", "a single NumPy"))
        if ("pickle" in text or "Python object" in text) and (numpy or found == "a pickle"):
            return DataError(
                f"{self.path}: {what}: expected plain numbers or text. Found pickled Python objects, which can run "
                "code when they are read; refused. Save plain arrays: np.savez(path, name=array) with a numeric dtype."
            )
        return DataError(
            f"{self.path}: {what}: expected readable NumPy data. Found a truncated, corrupt or foreign file"
            f"{f' ({text})' if numpy else f': {found}'}. Copy or download it again."
        )

    def __getitem__(self, name: str) -> Array:
        if name not in self._cache:
            if name not in self._names:
                raise KeyError(name)
            array = self._mapped(name) if self.mapped else self._read(name)
            if array.dtype.kind not in "biufSU":
                raise DataError(f"{self.path}: array `{name}`: expected numbers or text. Found dtype {array.dtype}.")
            self._cache[name] = array
        return self._cache[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def take(arrays: Mapping[str, Array], name: str, where: str, file: str, origin: str) -> Array:
    """``arrays[name]``, or the error that says which field of which card asked for it."""
    if name in arrays:
        return arrays[name]
    hint = did_you_mean(name, arrays)
    raise DataError(
        f"{origin}: expected an array `{name}`, which field `{where}` of {file} asks for. "
        f"Found the arrays {sorted(arrays)}.{hint}"
    )
