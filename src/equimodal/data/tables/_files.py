"""Files that cells name: pictures, sound and arrays, one array per row; absent cells are never opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from equimodal.data.tables._table import Array, Mask, Table
from equimodal.errors import DataError, MissingExtraError, missing_extra

RATE = 16_000
BANDS = 64
SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "image": (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"),
    "audio": (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac"),
    "array": (".npy",),
}
VIDEO = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".mpg", ".mpeg")
Reader = Callable[[Path], Array]


def reader_of(kind: str, options: Mapping[str, Any]) -> Reader:
    """The function from a path to the array of one sample.

    Pictures are (3, S, S) uint8 with ``image_size`` S, the centre of the shorter side; sound is (T, 64) log-mel bands
    of ``audio_seconds`` at 16 kHz, cut or filled with silence; arrays are what the file holds.
    """
    from equimodal.data.prepare.readers import log_mel, read_array, read_image, read_sound

    if kind == "image":
        size = int(options["image_size"])
        return lambda path: read_image(path, size, "crop")
    if kind == "audio":
        length = round(float(options["audio_seconds"]) * RATE)

        def sound(path: Path) -> Array:
            samples = read_sound(path, RATE)[:length]
            return log_mel(np.pad(samples, (0, length - len(samples))), RATE, BANDS)

        return sound
    return read_array


def read_files(
    table: Table, column: str, kind: str, root: Path, options: Mapping[str, Any], shape: tuple[int, ...] | None = None
) -> tuple[Array, Mask]:
    """(N, ...) samples, zeros where the cell is empty, and which cells are.

    Args:
        table: with the paths.
        column: of the paths.
        kind: image, audio or array.
        root: folder that relative paths begin in.
        options: ``image_size`` and ``audio_seconds``.
        shape: of every sample; default that of the first one.

    Raises:
        DataError: a file that cannot be read or has another shape; names column, row and path.
    """
    gaps, nested = table.empty(column), kind == "array" and table.nested(column)
    read = reader_of(kind, options)
    cells: list[Any] = table.cells(column) if nested else list(table.texts(column))
    found: Array | None = None if shape is None else np.zeros((len(table), *shape), _TYPES[kind])
    for row in np.flatnonzero(~gaps):
        path = column if nested else root / cells[row]
        try:
            sample = _cell(cells[row]) if nested else read(root / cells[row])
        except MissingExtraError:
            raise
        except ImportError as error:
            raise missing_extra(str(error.name), "table", f"Column {column!r}") from error
        except (DataError, OSError) as error:
            step = f"Check the path (relative ones begin in {root}), or empty the cell: the modality is absent then."
            if nested:
                step = "Give numbers of one shape."
            raise table.refusal(column, int(row), f"a readable {_NAMES[kind]} ({error})", cells[row], step) from error
        if kind == "array":
            sample = _plain(table, column, int(row), path, sample)
        if found is None:
            found = np.zeros((len(table), *sample.shape), _TYPES[kind])
        if sample.shape != found.shape[1:]:
            expected = f"an array of shape {found.shape[1:]} as the first one"
            step = "Bring all files to one shape; sequences can be padded with zeros."
            raise table.refusal(column, int(row), expected, f"{sample.shape} in {path}", step)
        found[row] = sample
    if found is None:
        raise DataError(f"{table.where}: column {column!r}: expected at least one path. Found empty cells only.")
    return found, gaps


def _cell(value: Any) -> Array:
    """An array or list in a cell, as an array."""
    try:
        return np.asarray(value.tolist() if isinstance(value, np.ndarray) and value.dtype.kind == "O" else value)
    except ValueError as error:
        raise DataError(f"lists of different lengths: {error}") from error


def _plain(table: Table, column: str, row: int, path: Any, sample: Array) -> Array:
    if sample.dtype.kind not in "biuf" or not 1 <= sample.ndim <= 3:
        expected = "numbers (F,), (T, F) or (C, H, W)"
        raise table.refusal(column, row, expected, f"{sample.dtype} {sample.shape} in {path}", "Save another array.")
    if not np.isfinite(sample).all():
        raise table.refusal(column, row, "finite numbers", f"NaN or infinity in {path}", "Fill them.")
    return sample


_TYPES = {"image": np.uint8, "audio": np.float32, "array": np.float32}
_NAMES = {"image": "picture", "audio": "sound", "array": "array"}
