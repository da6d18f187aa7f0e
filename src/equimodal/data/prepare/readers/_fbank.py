"""Log-mel filter banks as Kaldi makes them, and frames of a part of a long video."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from equimodal.data.prepare._interface import UnreadableError

Array = npt.NDArray[Any]
FRAME, SHIFT, LOWEST = 0.025, 0.010, 20.0  # seconds, seconds, Hz
_EMPHASIS = 0.97
_FLOOR = float(np.finfo(np.float32).eps)


def log_mel(samples: Array, rate: int, bands: int) -> Array:
    r"""Logarithm of the energy in ``bands`` mel bands, every 10 ms over 25 ms: (frames, bands), float32.

    Kaldi's ``compute-fbank-feats`` with a Hann window and no dither: only whole frames; of each its mean is taken off,
    it is emphasised by :math:`x_t - 0.97\, x_{t-1}`, and its power spectrum (512 points at 16 kHz) goes through
    triangles that are even in :math:`1127 \ln(1 + f / 700)` from 20 Hz to half the rate.
    """
    size, step = round(FRAME * rate), round(SHIFT * rate)
    if len(samples) < size:
        raise UnreadableError(f"lasts {len(samples) / rate:.3f} s, less than one frame of {FRAME} s")
    signal = np.asarray(samples, np.float64)
    signal = signal - signal.mean()
    frames = np.lib.stride_tricks.sliding_window_view(signal, size)[::step]
    frames = frames - frames.mean(1, keepdims=True)
    before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    points = 1 << (size - 1).bit_length()
    spectrum = np.fft.rfft((frames - _EMPHASIS * before) * np.hanning(size), points)
    power = np.square(np.abs(spectrum[:, : points // 2]))
    found: Array = np.log(np.maximum(power @ _triangles(bands, points, rate).T, _FLOOR)).astype(np.float32)
    return found


@lru_cache(maxsize=4)
def _triangles(bands: int, points: int, rate: int) -> Array:
    """(bands, points / 2) weights."""
    low, high = _mel(LOWEST), _mel(rate / 2)
    width = (high - low) / (bands + 1)
    mels = _mel(np.arange(points // 2) * rate / points)
    left = low + width * np.arange(bands)[:, None]
    found: Array = np.maximum(0.0, np.minimum((mels - left) / width, (left + 2 * width - mels) / width))
    return found


def _mel(frequency: Any) -> Any:
    return 1127.0 * np.log1p(np.asarray(frequency) / 700.0)


def frames_at(path: Path, seconds: Sequence[float]) -> list[Array]:
    """Frames (H, W, 3), uint8, RGB: at each of the ascending times the last one that has begun.

    Only this part of the file is decoded.

    Raises:
        UnreadableError: no video in it, it ends before, or it cannot be decoded.
    """
    import av

    wanted = [Fraction(s).limit_denominator(100_000) for s in seconds]
    found: list[Array] = []
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UnreadableError("no video in it")
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            unit = Fraction(stream.time_base or 1)
            begin = stream.start_time or 0
            if wanted[0] > 1:  # files with an index go to the key frame before; others are read from their beginning
                container.seek(begin + int(wanted[0] / unit), stream=stream, backward=True)
            frame, end = None, None
            for following in container.decode(stream):
                time = ((following.pts or 0) - begin) * unit
                while len(found) < len(wanted) and time > wanted[len(found)]:
                    found.append(_pixels(frame or following))
                frame, end = following, time
                if len(found) == len(wanted):
                    break
            step = 1 / Fraction(stream.average_rate) if stream.average_rate else Fraction(1, 25)
            while (
                frame is not None
                and end is not None
                and len(found) < len(wanted)
                and wanted[len(found)] < end + 2 * step
            ):
                found.append(_pixels(frame))  # the last frame lasts one step
    except (av.FFmpegError, UnicodeDecodeError, ValueError) as error:
        if isinstance(error, UnreadableError):
            raise
        raise UnreadableError(f"cannot be decoded ({error})") from error
    if len(found) < len(wanted):
        raise UnreadableError(f"ends before {float(wanted[len(found)]):.2f} s, which is asked for")
    return found


def _pixels(frame: Any) -> Array:
    if frame.is_corrupt:
        raise UnreadableError("holds corrupt frames")
    pixels: Array = frame.to_ndarray(format="rgb24")
    return pixels
