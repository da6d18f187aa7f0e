"""Writes small sound and video files with real encoders, as the downloads hold them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def tone(seconds: float, rate: int, pitch: float = 440.0, loud: float = 0.5) -> Array:
    """A sine, float32."""
    sine: Array = (loud * np.sin(2 * np.pi * pitch * np.arange(int(seconds * rate)) / rate)).astype(np.float32)
    return sine


def write_wav(path: Path, samples: Array, rate: int) -> Path:
    """16-bit PCM, as in CREMA-D."""
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, subtype="PCM_16")
    return path


def flat_frames(levels: list[int], height: int = 48, width: int = 64) -> list[Array]:
    """Frames of one gray level each, a little brighter in the right half."""
    frames = []
    for level in levels:
        frame = np.full((height, width, 3), level, np.uint8)
        frame[:, width // 2 :] += 20
        frames.append(frame)
    return frames


def write_video(
    path: Path, frames: list[Array], fps: int, codec: str, sound: Array | None = None, rate: int = 22050
) -> Path:
    """A video, with mp3 (flv) or AAC sound if there is any."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=fps)
        stream.height, stream.width = frames[0].shape[:2] if frames else (16, 16)
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.bit_rate = 4_000_000
        track: Any = None
        if sound is not None:
            track = container.add_stream("libmp3lame" if path.suffix == ".flv" else "aac", rate=rate)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
        if sound is not None:
            fifo = av.AudioFifo()
            part: Any = av.AudioFrame.from_ndarray(sound[None].astype(np.float32), format="fltp", layout="mono")
            part.sample_rate, part.time_base, part.pts = rate, Fraction(1, rate), 0
            fifo.write(part)
            size = track.codec_context.frame_size or 1152
            while (piece := fifo.read(size, partial=True)) is not None:
                for converted in av.AudioResampler(track.codec_context.format, "mono", rate).resample(piece):
                    container.mux(track.encode(converted))
            container.mux(track.encode(None))
    return path


def cut(path: Path, share: float) -> None:
    """Keep the first part of a file only, as an interrupted download does."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
