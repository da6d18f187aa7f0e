"""Frames of video files."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from equimodal.data.prepare import UnreadableError
from equimodal.data.prepare.readers._containers import check_length, open_video

Array = npt.NDArray[Any]


def grid_frames(path: Path, fps: float) -> list[Array]:
    """Frames (H, W, 3), uint8, RGB: the first one at or after 0, 1 / fps, 2 / fps ... seconds.

    Raises:
        UnreadableError: no video in it, truncated or corrupt.
    """
    step = 1 / Fraction(fps).limit_denominator(1000)
    found: list[Array] = []
    with open_video(path) as (container, stream):
        first = last = None
        for frame in container.decode(stream):
            time = Fraction(frame.pts or 0) * Fraction(stream.time_base or 1)
            first = time if first is None else first
            last = time - first
            if last >= step * len(found):
                found.append(_pixels(frame))
        check_length(container, stream, last)
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
        frame, time = None, Fraction(0)
        for following in container.decode(stream):
            time = ((following.pts or 0) - begin) * unit
            while len(found) < len(wanted) and time > wanted[len(found)]:
                found.append(_pixels(frame or following))
            frame = following
            if len(found) == len(wanted):
                return found
        step = 1 / Fraction(stream.average_rate) if stream.average_rate else Fraction(1, 25)
        while frame is not None and len(found) < len(wanted) and wanted[len(found)] < time + 2 * step:
            found.append(_pixels(frame))  # the last frame lasts one step
    if len(found) < len(wanted):
        raise UnreadableError(f"ends before {float(wanted[len(found)]):.2f} s, which is asked for")
    return found


def spread(frames: list[Array], count: int) -> list[Array]:
    """``count`` of the frames, every (n // count)-th from the first; the last one again where there are too few."""
    step = max(1, len(frames) // count)
    return [frames[min(i * step, len(frames) - 1)] for i in range(count)]


def channels_first(frames: Array) -> Array:
    """Frames (T, H, W, C) as a video is stored: (C, T, H, W), contiguous."""
    return np.ascontiguousarray(frames.transpose(3, 0, 1, 2))


def _pixels(frame: Any, form: str = "rgb24") -> Array:
    if frame.is_corrupt:
        raise UnreadableError("holds corrupt frames")
    pixels: Array = frame.to_ndarray(format=form)
    return pixels
