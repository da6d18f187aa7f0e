"""CREMA-D: emotion of acted sentences, voice and face."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt

from equimodal.data.prepare import ArraySpec, Index, Item, Problem, SplitSpec, Target
from equimodal.data.prepare.datasets._audio_video import AudioVideo, ClipParameters
from equimodal.data.prepare.datasets._splits import hash_parts
from equimodal.data.prepare.readers import Cut, Faces, check_margin, face_array, read_text
from equimodal.errors import DataError

Array = npt.NDArray[Any]
CLASSES = ("neutral", "happy", "sad", "fear", "disgust", "anger")  # order of the authors' lists
_CODES = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")
_NAME = re.compile(r"(\d{4})_([A-Z]{3})_(NEU|HAP|SAD|FEA|DIS|ANG)_(LO|MD|HI|XX?)")
_CARVE = {"carve": 0.1, "seed": 0, "by": "class"}


@dataclass(frozen=True)
class Parameters(ClipParameters):
    """How clips are stored.

    Args:
        sample_rate: of the sound, in Hz. Source: OGM-GE, dataset/CramedDataset.py.
        seconds: length of the sound; a shorter clip is repeated, a longer one cut. Source: OGM-GE, as above.
        n_fft: samples per Fourier transform. Source: OGM-GE, as above.
        hop: samples between two transforms. Source: OGM-GE, as above.
        fps: frames per second that are looked at. Source: OGM-GE, data/CREMAD/video_preprocessing.py.
        frames: of these, how many are kept, evenly from the first. Source: MLA, dataset/dataset.py.
        size: height and width of a stored frame; the aspect of a whole frame is not kept. Source: OGM-GE,
            dataset/CramedDataset.py.
        crop: ``none``: whole frames; ``face``: a square around the largest face, by scikit-image's detector. Source:
            OGM-GE, data/CREMAD/video_preprocessing.py, whose whole frames MLA and MIE take over.
        margin: around a face, on each side, as a share of what the detector finds. Source: ours.
        lists: folder with the authors' train.csv and test.csv (clip,label per line), which makes the protocol
            ``shared``. Source: GeWu-Lab/OGM-GE_CVPR2022, data/CREMAD.
    """

    crop: Literal["none", "face"] = "none"
    margin: float = 0.25
    lists: str = field(default="", metadata={"path": True})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_margin(self.margin)


class CremaD(AudioVideo[Parameters]):
    """CREMA-D from ``AudioWAV/*.wav`` and ``VideoFlash/*.flv``."""

    name = "crema-d"
    Parameters = Parameters

    def index(self) -> Index:
        """Clips of either folder; label and actor are in the file name."""
        folders = {"audio": (self.raw / "AudioWAV", ".wav"), "video": (self.raw / "VideoFlash", ".flv")}
        found: dict[str, dict[str, str]] = {}
        ignored = []
        for name, (folder, suffix) in folders.items():
            if not folder.is_dir():
                raise self.source_error(folder, "the folder of CREMA-D", "no folder")
            for path in sorted(folder.iterdir()):
                if path.suffix.lower() == suffix and _NAME.fullmatch(path.stem):
                    clip = path.stem + "X" * path.stem.endswith("_X")  # the old name of one file
                    found.setdefault(clip, {})[name] = f"{folder.name}/{path.name}"
                else:
                    reason = f"expected ACTOR_SENTENCE_EMOTION_LEVEL{suffix}"
                    ignored.append(Problem(f"{folder.name}/{path.name}", reason))
        clips = sorted(found)
        actors = sorted({clip[:4] for clip in clips})
        independent = hash_parts(self.name, actors, one_in=7)  # of all 91: 13 for testing, 13 for validation
        listed, missing = self._lists(set(clips))
        items = []
        for clip in clips:
            columns: dict[str, int | str] = {
                "emotion": _CODES.index(clip.split("_")[2]),
                "actor": clip[:4],
                "sentence": clip.split("_")[1],
                "speaker_independent": independent[clip[:4]],
            }
            if self.parameters.lists:
                columns["shared"] = listed.get(clip, "unlisted")
            files = {n: (found[clip].get(n, f"{d.name}/{clip}{end}"),) for n, (d, end) in folders.items()}
            if self.parameters.crop == "face":
                files["face"] = files["video"]
            items.append(Item(clip, files, columns))
        return Index(
            items=tuple(items),
            targets={"emotion": Target("emotion", classes=CLASSES, description="what the actor was asked to show")},
            protocols=self._protocols(actors),
            groups=("actor", "sentence"),
            missing=missing,
            ignored=tuple(ignored),
            notes={"actors": len(actors), "clips": len(clips)},
        )

    def _protocols(self, actors: list[str]) -> dict[str, SplitSpec]:
        protocols = {}
        if len(actors) >= 3:
            protocols["speaker-independent"] = SplitSpec(
                "speaker_independent", ("train",), ("validation",), ("test",),
                description="actors of test and validation are not in training: by order of the SHA-256 of the actor",
                groups=("actor",),
            )  # fmt: skip
        if self.parameters.lists:
            protocols["shared"] = SplitSpec(
                "shared", ("train",), _CARVE, ("test",), groups=("actor",), overlapping=True,
                description="the authors' lists of OGM-GE: the same actors on both sides; validation is 10 % of train",
            )  # fmt: skip
        if not protocols:
            raise DataError(
                f"{self.raw}: expected clips of at least 3 actors, or `lists`. Found {len(actors)} actor(s)."
            )
        return protocols

    def _lists(self, clips: set[str]) -> tuple[dict[str, str], tuple[Problem, ...]]:
        """Clip -> part by the authors' lists, and the listed clips that are nowhere in the source."""
        if not self.parameters.lists:
            return {}, ()
        parts: dict[str, str] = {}
        missing = []
        for part in ("train", "test"):
            path = Path(self.parameters.lists) / f"{part}.csv"
            if not path.is_file():
                raise DataError(f"`lists`: expected a folder with train.csv and test.csv. Found no {path}.")
            rows = [row for row in csv.reader(read_text(path).splitlines()) if row]
            for number, row in enumerate(rows, 1):
                match = _NAME.fullmatch(row[0].strip())
                if match is None or (len(row) > 1 and row[1].strip() != match[3]):
                    found = ",".join(row)[:60]
                    raise DataError(
                        f"{path}: line {number}: expected CLIP,EMOTION as in the clip's name. Found {found!r}."
                    )
                if parts.setdefault(match[0], part) != part:
                    raise DataError(
                        f"{path}: line {number}: expected a clip that is not in train.csv. Found {match[0]}."
                    )
                if match[0] not in clips:
                    missing.append(Problem(f"AudioWAV/{match[0]}.wav", f"in {path.name}, and in neither folder"))
        return parts, tuple(missing)

    def needs(self) -> tuple[str, ...]:
        """The detector of faces only where they are cut out."""
        return (*self.packages, "skimage") if self.parameters.crop == "face" else self.packages

    def arrays(self) -> Mapping[str, ArraySpec]:
        """Log spectrogram (1, F, T) and frames (3, frames, size, size); with faces also where they come from."""
        specs, p = dict(super().arrays()), self.parameters
        if p.crop == "face":
            how = f"{p.frames} frames of those at {p.fps:g} per second, cut to the face, RGB"
            specs |= {"video": replace(specs["video"], description=how), "face": face_array(p.frames)}
        return specs

    def decode(self, item: Item, name: str) -> Array:
        """One array of one clip."""
        if name == "face":
            return self._cut(item).origin
        return super().decode(item, name)

    def frames(self, item: Item) -> list[Array]:
        """Whole frames, or faces."""
        return super().frames(item) if self.parameters.crop == "none" else self._cut(item).frames

    def _cut(self, item: Item) -> Cut:
        return self._faces.of(item.key, partial(super().frames, item))

    @cached_property
    def _faces(self) -> Faces:
        return Faces(self.parameters.margin)
