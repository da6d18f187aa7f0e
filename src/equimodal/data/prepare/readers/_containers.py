"""Files of sound and video, opened through PyAV; everything that is wrong with one is an ``UnreadableError``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

from equimodal.data.prepare import UnreadableError
from equimodal.data.prepare.readers._gate import check_file

_LEAST, _LEAST_OF_FILE = 0.9, 0.75  # share of the length announced for the stream, or the file, that has to be there


@contextmanager
def open_container(path: Path) -> Iterator[Any]:
    """The container; an error of FFmpeg while it is open refuses the file."""
    import av

    check_file(path)
    try:
        with av.open(str(path)) as container:
            yield container
    except (av.FFmpegError, UnicodeDecodeError, OverflowError, ZeroDivisionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UnreadableError(f"cannot be decoded ({reason})") from error


@contextmanager
def open_video(path: Path) -> Iterator[tuple[Any, Any]]:
    """The container and its first video, which one thread decodes."""
    with open_container(path) as container:
        if not container.streams.video:
            raise UnreadableError("no video in it")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise UnreadableError("a video that no decoder is known for")
        stream.codec_context.thread_count = 1  # processes are the parallelism here
        yield container, stream


def timed(container: Any, stream: Any, begin: Fraction | None = None) -> Iterator[tuple[Fraction, Fraction, Any]]:
    """Time, duration (both in seconds) and each frame of a video; a frame has its own time and unit of time.

    Args:
        container: that is open.
        stream: its video.
        begin: what is second 0; by default the first frame.

    Raises:
        UnreadableError: frames without times, or times that go back.
    """
    usual = 1 / Fraction(stream.average_rate) if stream.average_rate else Fraction(0)
    last: Fraction | None = None
    for frame in container.decode(stream):
        unit = Fraction(frame.time_base or stream.time_base or 0)
        if frame.pts is None or unit <= 0:
            if last is None or not usual:
                raise UnreadableError("holds frames without times")
            time = last + usual  # a single one that its container did not say
        else:
            time = Fraction(frame.pts) * unit
            begin = time if begin is None else begin
            time -= begin
        if last is not None and time < last:
            raise UnreadableError(f"its times go back from {float(last):.2f} to {float(time):.2f} s")
        last = time
        yield time, Fraction(frame.duration or 0) * unit or usual, frame


def check_length(container: Any, stream: Any, seconds: Fraction | None) -> None:
    """Refuse a file that is much shorter than its header says.

    Args:
        container: that is open.
        stream: of it.
        seconds: to the end of the last frame; ``None``: there was none.
    """
    if seconds is None:
        raise UnreadableError("holds no frames")
    announced, least = None, _LEAST
    if stream.duration is not None and stream.time_base is not None:
        announced = Fraction(stream.duration) * stream.time_base
    elif container.duration is not None:
        announced, least = Fraction(container.duration, 1_000_000), _LEAST_OF_FILE
    if announced is not None and seconds < announced * Fraction(least):
        raise UnreadableError(f"ends after {float(seconds):.2f} of {float(announced):.2f} seconds")
