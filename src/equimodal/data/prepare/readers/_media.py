"""Sound and video files through kept decoders; everything that is wrong with a file is an ``UnreadableError``."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from equimodal.data.prepare._interface import UnreadableError

Array = npt.NDArray[Any]
IMAGENET: Mapping[str, Any] = {"normalise": {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}}
"""Pixels 0 to 255 as torchvision's models take them: mean 0.485, 0.456, 0.406 and deviation 0.229, 0.224, 0.225."""
_LEAST, _LEAST_OF_FILE = 0.9, 0.75  # share of the length announced for the stream, or the file, that has to be there


def read_sound(path: Path, rate: int) -> Array:
    """Samples of a sound file, or of the first sound of a video, as mono float32 (n,) in [-1, 1] at ``rate`` Hz.

    Channels are averaged; resampling is soxr's high quality, which is what ``librosa.load`` does.

    Raises:
        UnreadableError: no sound in it, truncated, corrupt or of an unknown format.
    """
    samples, own = _wav(path) if path.suffix.lower() == ".wav" else _sound_of_video(path)
    if len(samples) == 0:
        raise UnreadableError("no sound in it")
    if own != rate:
        import soxr

        samples = soxr.resample(samples, own, rate, quality="HQ")
    clipped: Array = np.clip(samples, -1.0, 1.0).astype(np.float32)
    return clipped


def repeat(samples: Array, length: int) -> Array:
    """``samples`` (n,) repeated until there are ``length``, and cut there."""
    return np.tile(samples, -(-length // len(samples)))[:length]


def log_spectrogram(samples: Array, n_fft: int, hop: int, floor: float = 1e-7) -> Array:
    r"""Log magnitudes of the short-time Fourier transform: (1 + n_fft / 2, 1 + n / hop), float32.

    :math:`\log(|\mathrm{STFT}(x)| + 10^{-7})` with a periodic Hann window and zeros beyond both ends, which is
    ``numpy.log(numpy.abs(librosa.stft(x, n_fft=n_fft, hop_length=hop)) + 1e-7)``.
    """
    import torch

    signal = torch.from_numpy(np.ascontiguousarray(samples, np.float32))
    window = torch.hann_window(n_fft)
    spectrum = torch.stft(signal, n_fft, hop, window=window, center=True, pad_mode="constant", return_complex=True)
    values: Array = torch.log(spectrum.abs() + floor).numpy()
    return values


def grid_frames(path: Path, fps: float) -> list[Array]:
    """Frames (H, W, 3), uint8, RGB: the first one at or after 0, 1 / fps, 2 / fps ... seconds.

    Raises:
        UnreadableError: no video in it, truncated or corrupt.
    """
    step = 1 / Fraction(fps).limit_denominator(1000)
    found: list[Array] = []
    with _video(path) as (container, stream):
        first = last = None
        for frame in container.decode(stream):
            time = Fraction(frame.pts or 0) * Fraction(stream.time_base or 1)
            first = time if first is None else first
            last = time - first
            if last >= step * len(found):
                found.append(_pixels(frame))
        _complete(container, stream, last)
    return found


def frame_range(path: Path, start: int, count: int, gray: bool = False) -> Array:
    """Frames ``start`` to ``start + count - 1`` (count, H, W, 3), or (count, H, W) with ``gray``, uint8.

    Raises:
        UnreadableError: the video ends before, or cannot be decoded.
    """
    found: list[Array] = []
    with _video(path) as (container, stream):
        for number, frame in enumerate(container.decode(stream)):
            if number >= start:
                found.append(_pixels(frame, "gray" if gray else "rgb24"))
            if len(found) == count:
                break
        else:
            raise UnreadableError(f"has {number + 1} frames; frames {start} to {start + count - 1} are asked for")
    return np.stack(found)


def spread(frames: list[Array], count: int) -> list[Array]:
    """``count`` of the frames, every (n // count)-th from the first; the last one again where there are too few."""
    step = max(1, len(frames) // count)
    return [frames[min(i * step, len(frames) - 1)] for i in range(count)]


def resize(image: Array, height: int, width: int) -> Array:
    """(H, W, 3) or (H, W), uint8, in another size: bilinear with antialiasing, the aspect is not kept."""
    from PIL import Image

    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def channels_first(frames: Array) -> Array:
    """Frames (T, H, W, C) as a video is stored: (C, T, H, W), contiguous."""
    return np.ascontiguousarray(frames.transpose(3, 0, 1, 2))


def _pixels(frame: Any, form: str = "rgb24") -> Array:
    if frame.is_corrupt:
        raise UnreadableError("holds corrupt frames")
    pixels: Array = frame.to_ndarray(format=form)
    return pixels


def _wav(path: Path) -> tuple[Array, int]:
    import soundfile

    with path.open("rb") as file:
        head = file.read(12)
    if head[:4] == b"RIFF" and head[8:] == b"WAVE":
        announced = struct.unpack("<I", head[4:8])[0] + 8
        there = path.stat().st_size
        if announced < 1 << 32 and there < announced - 1:  # some writers leave out the padding byte
            raise UnreadableError(f"ends after {there} of {announced} bytes")
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, ValueError) as error:
        reason = getattr(error, "error_string", error)
        raise UnreadableError(f"no readable sound ({reason})") from error
    return samples.mean(1), int(rate)


def _sound_of_video(path: Path) -> tuple[Array, int]:
    import av

    pieces, rate = [], 0
    with _container(path) as container:
        if not container.streams.audio:
            raise UnreadableError("no sound in it")
        stream = container.streams.audio[0]
        convert = av.AudioResampler(format="fltp")
        for frame in container.decode(stream):
            rate = frame.sample_rate
            pieces += [part.to_ndarray().mean(0) for part in convert.resample(frame)]
        pieces += [part.to_ndarray().mean(0) for part in convert.resample(None)]
        seconds = sum(map(len, pieces)) / rate if rate else None
        _complete(container, stream, None if seconds is None else Fraction(seconds))
    return np.concatenate(pieces).astype(np.float32), rate


@contextmanager
def _container(path: Path) -> Iterator[Any]:
    import av

    try:
        with av.open(str(path)) as container:
            yield container
    except (av.FFmpegError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UnreadableError(f"cannot be decoded ({reason})") from error


@contextmanager
def _video(path: Path) -> Iterator[tuple[Any, Any]]:
    with _container(path) as container:
        if not container.streams.video:
            raise UnreadableError("no video in it")
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1  # processes are the parallelism here
        yield container, stream


def _complete(container: Any, stream: Any, seconds: Fraction | None) -> None:
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
