"""Frames of video files."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from equimodal.data.prepare import UnreadableError
from equimodal.data.prepare.readers._containers import check_length, open_video, timed

Array = npt.NDArray[Any]
_ROUNDING = Fraction(1, 10)  # seconds


def grid_frames(path: Path, fps: float) -> list[Array]:
    """Frames (H, W, 3), uint8, RGB: the first one at or after 0, 1 / fps, 2 / fps ... seconds.

    Raises:
        UnreadableError: no video in it, truncated or corrupt.
    """
    step = 1 / Fraction(fps).limit_denominator(1000)
    found: list[Array] = []
    with open_video(path) as (container, stream):
        end = None
        for time, duration, frame in timed(container, stream):
            end = time + duration
            if time >= step * len(found):
                found.append(_pixels(frame))
        check_length(container, stream, end)
    return found


def frame_range(path: Path, start: int, count: int, gray: bool = False) -> Array:
    """Frames ``start`` to ``start + count - 1`` (count, H, W, 3), or (count, H, W) with ``gray``, uint8.

    Raises:
        UnreadableError: the video ends before, or cannot be decoded.
    """
    found: list[Array] = []
    with open_video(path) as (container, stream):
        number = 0
        for number, frame in enumerate(container.decode(stream), 1):
            if number > start:
                found.append(_pixels(frame, "gray" if gray else "rgb24"))
            if len(found) == count:
                return np.stack(found)
    raise UnreadableError(f"has {number} frames; frames {start} to {start + count - 1} are asked for")


def frames_at(path: Path, seconds: Sequence[float]) -> list[Array]:
    """Frames (H, W, 3), uint8, RGB: at each of the ascending times the last one that has begun.

    Only this part of the file is decoded.

    Raises:
        UnreadableError: no video in it, it ends before, or it cannot be decoded.
    """
    wanted = [Fraction(s).limit_denominator(100_000) for s in seconds]
    found: list[Array] = []
    with open_video(path) as (container, stream):
        unit, begin = Fraction(stream.time_base or 1), stream.start_time or 0
        if wanted[0] > 1:  # files with an index go to the key frame before; others are read from their beginning
            container.seek(begin + int(wanted[0] / unit), stream=stream, backward=True)
        frame, end = None, Fraction(0)
        for time, duration, following in timed(container, stream, begin * unit):
            while len(found) < len(wanted) and time > wanted[len(found)]:
                found.append(_pixels(frame or following))
            # a little longer for a last frame whose end was rounded
            frame, end = following, time + duration + min(duration, _ROUNDING)
            if len(found) == len(wanted):
                return found
        while frame is not None and len(found) < len(wanted) and wanted[len(found)] < end:
            found.append(_pixels(frame))
    if len(found) < len(wanted):
        raise UnreadableError(f"ends before {float(wanted[len(found)]):.2f} s, which is asked for")
    return found


def even_frames(path: Path, count: int) -> list[Array]:
    """``count`` frames (H, W, 3), uint8, RGB: those shown in the middle of as many equal parts of the video.

    Its length is told by the times of its packets, which are read without decoding.

    Raises:
        UnreadableError: no video in it, none whose frames have times, truncated or corrupt.
    """
    with open_video(path) as (container, stream):
        unit = Fraction(stream.time_base or 1)
        times = [Fraction(packet.pts) * unit for packet in container.demux(stream) if packet.pts is not None]
    if not times:
        raise UnreadableError("holds no frames with times")
    span = max(times) - min(times)
    return frames_at(path, [float(span * Fraction(2 * i + 1, 2 * count)) for i in range(count)])


def spread(frames: list[Array], count: int) -> list[Array]:
    """``count`` of the frames, every (n // count)-th from the first; the last one again where there are too few."""
    step = max(1, len(frames) // count)
    return [frames[min(i * step, len(frames) - 1)] for i in range(count)]


def channels_first(frames: Array) -> Array:
    """Frames (T, H, W, C) as a video is stored: (C, T, H, W), contiguous."""
    return np.ascontiguousarray(frames.transpose(3, 0, 1, 2))


def _pixels(frame: Any, form: str = "rgb24") -> Array:
    """The picture as it is to be seen: turned and mirrored as its file says."""
    if frame.is_corrupt:
        raise UnreadableError("holds corrupt frames")
    pixels: Array = frame.to_ndarray(format=form)
    return upright(pixels, _display_matrix(frame))


def _display_matrix(frame: Any) -> Array | None:
    """[[a, b], [c, d]], by which (x, y) is shown at (a x + c y, b x + d y); ``None``: as it is stored."""
    data = frame.side_data.get("DISPLAYMATRIX")
    return None if data is None else np.frombuffer(bytes(data), np.int32)[:6].reshape(2, 3)[:, :2] / 65536


def upright(pixels: Array, matrix: Array | None) -> Array:
    """``pixels`` (H, W, ...) after a display matrix of quarter turns and mirrors.

    Raises:
        UnreadableError: a matrix of anything else.
    """
    if matrix is None:
        return pixels
    (a, b), (c, d) = np.round(matrix, 3)
    if abs(a) == abs(d) == 1 and b == c == 0:
        turned = pixels[:: int(d), :: int(a)]
    elif abs(b) == abs(c) == 1 and a == d == 0:
        turned = pixels.swapaxes(0, 1)[:: int(b), :: int(c)]
    else:
        raise UnreadableError(f"is to be seen through the matrix {matrix.tolist()}, which is no quarter turn")
    return np.ascontiguousarray(turned)
