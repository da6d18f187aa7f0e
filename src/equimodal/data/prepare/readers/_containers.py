"""Files of sound and video, opened through PyAV; everything that is wrong with one is an ``UnreadableError``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

from equimodal.data.prepare import UnreadableError

_LEAST, _LEAST_OF_FILE = 0.9, 0.75  # share of the length announced for the stream, or the file, that has to be there


@contextmanager
def open_container(path: Path) -> Iterator[Any]:
    """The container; an error of FFmpeg while it is open refuses the file."""
    import av

    try:
        with av.open(str(path)) as container:
            yield container
    except (av.FFmpegError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UnreadableError(f"cannot be decoded ({reason})") from error


@contextmanager
def open_video(path: Path) -> Iterator[tuple[Any, Any]]:
    """The container and its first video, which one thread decodes."""
    with open_container(path) as container:
        if not container.streams.video:
            raise UnreadableError("no video in it")
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1  # processes are the parallelism here
        yield container, stream


def check_length(container: Any, stream: Any, seconds: Fraction | None) -> None:
    """Refuse a file that is much shorter than its header says."""
    if seconds is None:
        raise UnreadableError("holds no frames")
    announced, least = None, _LEAST
    if stream.duration is not None and stream.time_base is not None:
        announced = Fraction(stream.duration) * stream.time_base
    elif container.duration is not None:
        announced, least = Fraction(container.duration, 1_000_000), _LEAST_OF_FILE
    # the last frame begins one frame before the end
    frame = 1 / Fraction(stream.average_rate) if getattr(stream, "average_rate", None) else Fraction(0)
    if announced is not None and seconds + frame < announced * Fraction(least):
        raise UnreadableError(f"ends after {float(seconds + frame):.2f} of {float(announced):.2f} seconds")
