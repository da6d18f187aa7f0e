"""Files that cells name: pictures, sound, videos and arrays, one array per row; absent cells are never opened."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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
    "video": (".mp4", ".avi", ".mkv", ".mov", ".webm", ".mpg", ".mpeg"),
    "array": (".npy",),
}
_TYPES = {"image": np.uint8, "audio": np.float32, "video": np.uint8, "array": np.float32}
_NAMES = {"image": "picture", "audio": "sound", "video": "video", "array": "array"}
_EXTRA = {"av": "data"}
Reader = Callable[[Path], Array]


def reader_of(kind: str, options: Mapping[str, Any]) -> Reader:
    """The function from a path to the array of one sample.

    Pictures are (3, S, S) uint8 with ``image_size`` S, the centre of the shorter side; sound is (T, 64) log-mel bands
    of ``audio_seconds`` at 16 kHz, cut or filled with silence; videos are (3, T, S, S) uint8, T = ``video_frames``
    spread evenly over the file; arrays are what the file holds.
    """
    from equimodal.data.prepare.readers import even_frames, log_mel, read_array, read_image, read_sound, resize

    if kind == "image":
        size = int(options["image_size"])
        return lambda path: read_image(path, size, "crop")
    if kind == "audio":
        length = round(float(options["audio_seconds"]) * RATE)

        def sound(path: Path) -> Array:
            samples = read_sound(path, RATE)[:length]
            return log_mel(np.pad(samples, (0, length - len(samples))), RATE, BANDS)

        return sound
    if kind == "video":
        side, count = int(options["image_size"]), int(options["video_frames"])

        def video(path: Path) -> Array:
            frames = [resize(_square(frame), side, side) for frame in even_frames(path, count)]
            return np.ascontiguousarray(np.stack(frames).transpose(3, 0, 1, 2))

        return video
    return read_array


def array_state(table: Table, column: str, root: Path, longest: int) -> dict[str, Any]:
    """Shape of the arrays of the training rows: ``shape``, and ``steps`` where they are sequences of several lengths.

    Lists (T,) and arrays (T, F) of several T are sequences (T, F) with F = 1 for lists.

    Args:
        table: the training rows.
        column: of paths, arrays or lists.
        root: folder that relative paths begin in.
        longest: most steps; what is behind them is not read.

    Raises:
        DataError: no filled cell, arrays of several forms, or one that cannot be read.
    """
    shapes = {row: sample.shape for row, _, sample in _samples(table, column, "array", root, {})}
    if not shapes:
        raise DataError(f"{table.where}: column {column!r}: expected at least one array. Found empty cells only.")
    first = next(iter(shapes.values()))
    if len(set(shapes.values())) == 1:
        return {"shape": list(first), "steps": None}
    for row, shape in shapes.items():
        if len(shape) != len(first) or len(first) > 2 or shape[1:] != first[1:]:
            expected = f"an array of shape {first} as the first one, or of another length along its first axis"
            step = "Bring all to one shape, or to sequences (T, F) with one F."
            raise table.refusal(column, row, expected, f"shape {shape}", step)
    steps = min(longest, max(shape[0] for shape in shapes.values()))
    return {"shape": [steps, first[1] if len(first) == 2 else 1], "steps": steps}


def read_files(
    table: Table, column: str, kind: str, root: Path, options: Mapping[str, Any], shape: tuple[int, ...] | None = None
) -> tuple[Array, Mask]:
    """(N, ...) samples, zeros where the cell is empty, and which cells are.

    Sequences of several lengths are (N, T, F), NaN behind the last step and where the cell is empty.

    Args:
        table: with the paths.
        column: of the paths.
        kind: image, audio, video or array.
        root: folder that relative paths begin in.
        options: what :func:`reader_of` asks for, and ``steps`` of :func:`array_state`.
        shape: of every sample; default that of the first one.

    Raises:
        DataError: a file that cannot be read or has another shape; names column, row and path.
    """
    steps = options.get("steps")
    found: Array | None = None
    if shape is not None:
        found = np.full((len(table), *shape), np.nan if steps else 0, _TYPES[kind])
    for row, path, sample in _samples(table, column, kind, root, options):
        own = sample[:steps].reshape(min(len(sample), steps), -1) if steps else sample
        if found is None:
            found = np.zeros((len(table), *own.shape), _TYPES[kind])
        fits = own.shape[1:] == found.shape[2:] if steps else own.shape == found.shape[1:]
        if not fits or (steps and sample.ndim > 2):
            expected = f"an array of shape {found.shape[1:]} as the training rows have"
            if steps:
                expected = f"a sequence (T, {found.shape[2]}) as the training rows have"
            raise table.refusal(column, row, expected, f"{sample.shape} in {path}", "Bring all arrays to one shape.")
        found[row, : len(own)] = own
    if found is None:
        raise DataError(f"{table.where}: column {column!r}: expected at least one path. Found empty cells only.")
    return found, _gaps(table, column, kind)


def _gaps(table: Table, column: str, kind: str) -> Mask:
    """Which cells are empty; an empty list is."""
    gaps = table.empty(column)
    if kind == "array" and table.nested(column):
        cells = table.cells(column)
        gaps = gaps | np.array([hasattr(cell, "__len__") and len(cell) == 0 for cell in cells], bool)
    return gaps


def _samples(
    table: Table, column: str, kind: str, root: Path, options: Mapping[str, Any]
) -> Iterator[tuple[int, Any, Array]]:
    """Row, path or column, and content of each filled cell."""
    gaps, nested = _gaps(table, column, kind), kind == "array" and table.nested(column)
    read = reader_of(kind, options)
    cells: list[Any] = table.cells(column) if nested else list(table.texts(column))
    for row in np.flatnonzero(~gaps).tolist():
        path = column if nested else root / cells[row]
        try:
            sample = _cell(cells[row]) if nested else read(root / cells[row])
        except MissingExtraError:
            raise
        except ImportError as error:
            name = str(error.name)
            raise missing_extra(name, _EXTRA.get(name, "table"), f"Column {column!r}") from error
        except (DataError, OSError) as error:
            step = f"Check the path (relative ones begin in {root}), or empty the cell: the modality is absent then."
            if nested:
                step = "Give numbers of one shape."
            raise table.refusal(column, row, f"a readable {_NAMES[kind]} ({error})", cells[row], step) from error
        yield row, path, _plain(table, column, row, path, sample) if kind == "array" else sample


def _square(frame: Array) -> Array:
    """The centre of the shorter side."""
    height, width = frame.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return np.ascontiguousarray(frame[top : top + side, left : left + side])


def _cell(value: Any) -> Array:
    """An array or list in a cell, as an array."""
    try:
        return np.asarray(value.tolist() if isinstance(value, np.ndarray) and value.dtype.kind == "O" else value)
    except ValueError as error:
        raise DataError(f"lists of different lengths inside one cell: {error}") from error


def _plain(table: Table, column: str, row: int, path: Any, sample: Array) -> Array:
    if sample.dtype.kind not in "biuf" or not 1 <= sample.ndim <= 3 or sample.size == 0:
        expected = "numbers (F,), (T, F) or (C, H, W)"
        raise table.refusal(column, row, expected, f"{sample.dtype} {sample.shape} in {path}", "Save another array.")
    if not np.isfinite(sample).all():
        raise table.refusal(column, row, "finite numbers", f"NaN or infinity in {path}", "Fill them.")
    return sample
