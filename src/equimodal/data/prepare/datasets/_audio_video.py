"""What the datasets of short clips share: parameters and arrays of their sound and frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from equimodal.data.prepare import ArraySpec, Item, Preparation
from equimodal.data.prepare.datasets._parameters import check_parameters
from equimodal.data.prepare.readers import (
    IMAGENET,
    channels_first,
    grid_frames,
    log_spectrogram,
    read_sound,
    repeat,
    resize,
    spread,
)

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ClipParameters:
    """Parameters of every dataset of clips; each gives them its own defaults and sources.

    Args:
        sample_rate: of the sound, in Hz.
        seconds: length of the sound; a shorter clip is repeated, a longer one cut.
        n_fft: samples per Fourier transform.
        hop: samples between two transforms.
        fps: frames per second that are looked at.
        frames: of these, how many are kept, evenly from the first.
        size: height and width of a frame, of which the aspect is not kept.
    """

    sample_rate: int = 22050
    seconds: float = 3.0
    n_fft: int = 512
    hop: int = 353
    fps: float = 1.0
    frames: int = 3
    size: int = 224

    def __post_init__(self) -> None:
        check_parameters(self, sample_rate=1, seconds=0, n_fft=1, hop=1, fps=0, frames=1, size=1)

    @property
    def length(self) -> int:
        """Samples of sound per clip."""
        return int(self.sample_rate * self.seconds)


P = TypeVar("P", bound=ClipParameters)


class AudioVideo(Preparation[P]):
    """Sound and frames of a clip; a subclass gives the items, with a file for ``audio`` and one for ``video``."""

    packages = ("av", "PIL", "soundfile", "soxr")

    def arrays(self) -> Mapping[str, ArraySpec]:
        """Log spectrogram (1, F, T) and frames (3, frames, size, size)."""
        p = self.parameters
        return {
            "audio": ArraySpec(
                (1, 1 + p.n_fft // 2, 1 + p.length // p.hop), "float32", "image", units="log magnitude",
                description=f"log STFT, {p.sample_rate} Hz, {p.n_fft} samples every {p.hop}, {p.seconds:g} s",
            ),
            "video": ArraySpec(
                (3, p.frames, p.size, p.size), "uint8", "video", units="ImageNet deviations", transforms=(IMAGENET,),
                description=f"{p.frames} whole frames of those at {p.fps:g} per second, RGB",
            ),
        }  # fmt: skip

    def decode(self, item: Item, name: str) -> Array:
        """One modality of one clip."""
        p = self.parameters
        if name == "audio":
            samples = repeat(read_sound(self.path(item.files[name][0]), p.sample_rate), p.length)
            return log_spectrogram(samples, p.n_fft, p.hop)[None]
        return channels_first(np.stack([resize(frame, p.size, p.size) for frame in self.frames(item)]))

    def frames(self, item: Item) -> list[Array]:
        """The frames of a clip that are stored, each in its own size."""
        return spread(grid_frames(self.path(item.files["video"][0]), self.parameters.fps), self.parameters.frames)
