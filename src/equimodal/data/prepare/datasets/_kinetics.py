"""Kinetics-Sounds: 31 actions of Kinetics-400 that can be seen and heard."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from equimodal.data.prepare import Index, Item, Problem, SplitSpec, Target
from equimodal.data.prepare.datasets._audio_video import AudioVideo, ClipParameters
from equimodal.data.prepare.readers import read_text
from equimodal.errors import DataError

_PARTS = {"train": "train", "val": "validation", "valid": "validation", "validate": "validation",
          "validation": "validation", "test": "test"}  # fmt: skip
_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi")
_CLIP = re.compile(r"(.{11})(?:[_-]+(\d+)[_-]+(\d+))?")


@dataclass(frozen=True)
class Parameters(ClipParameters):
    """How clips are stored.

    Args:
        sample_rate: of the sound, in Hz. Source: MIE (IGM), datasets/KS.py.
        seconds: length of the sound; a shorter clip is repeated, a longer one cut. Source: MIE, as above.
        n_fft: samples per Fourier transform. Source: MIE, as above.
        hop: samples between two transforms. Source: MIE, as above.
        fps: frames per second that are looked at. Source: MIE (IGM), folder Image-01-FPS of its README.
        frames: of these, how many are kept, evenly from the first. Source: MIE, datasets/KS.py, evaluation.
        size: height and width of a frame, of which the aspect is not kept. Source: MIE, as above.
        annotations: folder with train.csv, val.csv (or validate.csv) and test.csv of Kinetics (label, youtube_id,
            time_start, time_end); then clips that are not there are counted as missing. Source: Kinetics-400.
    """

    sample_rate: int = 35400
    seconds: float = 10.0
    annotations: str = field(default="", metadata={"path": True})


@dataclass(frozen=True)
class _Clip:
    video: str
    label: str
    part: str
    path: str


class KineticsSounds(AudioVideo[Parameters]):
    """Kinetics-Sounds from a folder in Kinetics layout: ``train/CLASS/ID_START_END.mp4``, or with the csv files."""

    name = "kinetics-sounds"
    Parameters = Parameters
    max_missing = 0.3

    def index(self) -> Index:
        """Clips of the 31 classes, from the csv files if they are given, else from the folders."""
        files = sorted(p for p in self.raw.rglob("*") if p.suffix.lower() in _SUFFIXES)
        clips, missing, ignored = self._listed(files) if self.parameters.annotations else self._found(files)
        if not clips:
            there = f"{len(files)} video files, none of them of its {len(self.facts.classes)} classes"
            raise self.source_error(self.raw, f"clips of Kinetics-Sounds ({', '.join(_SUFFIXES)})", there)
        items, seen = [], dict[str, str]()
        classes, counts = self.facts.classes, {label: Counter[str]() for label in self.facts.classes}
        for clip in clips:
            stem = Path(clip.path).stem
            if stem in seen:
                ignored.append(Problem(clip.path, f"the same clip as {seen[stem]}"))
                continue
            seen[stem] = clip.path
            counts[clip.label][clip.part] += 1
            columns: dict[str, int | str] = {
                "action": classes.index(clip.label), "youtube": clip.video, "part": clip.part,
            }  # fmt: skip
            items.append(Item(stem, {"audio": (clip.path,), "video": (clip.path,)}, columns))
        return Index(
            items=tuple(items),
            targets={"action": Target("action", classes=classes)},
            protocols=_protocols(items),
            groups=("youtube",),
            missing=tuple(missing),
            ignored=tuple(ignored),
            notes={"found": counts},
        )

    def _found(self, files: list[Path]) -> tuple[list[_Clip], list[Problem], list[Problem]]:
        """By folders: the class is the folder of the file, the part is a folder above it."""
        clips, ignored = [], []
        for file in files:
            relative = file.relative_to(self.raw)
            label = self._label(relative.parent.name)
            part = next((_PARTS[p.lower()] for p in relative.parts[:-1] if p.lower() in _PARTS), None)
            match = _CLIP.fullmatch(file.stem)
            if label is None:
                continue  # another class of Kinetics
            if match is None or part is None:
                reason = "expected train|val|test/CLASS/ID_START_END" + file.suffix
                ignored.append(Problem(relative.as_posix(), reason))
                continue
            clips.append(_Clip(match[1], label, part, relative.as_posix()))
        return clips, [], ignored

    def _listed(self, files: list[Path]) -> tuple[list[_Clip], list[Problem], list[Problem]]:
        """By the csv files: a clip is the file whose name begins with its video and holds its times, if any."""
        there: dict[str, list[tuple[str, Path]]] = {}
        for file in files:
            match = _CLIP.fullmatch(file.stem)
            if match is not None:
                start = str(int(match[2])) if match[2] else ""
                there.setdefault(match[1], []).append((start, file.relative_to(self.raw)))
        clips, missing = [], []
        for source, part, row in _rows(Path(self.parameters.annotations)):
            label = self._label(row["label"])
            if label is None:
                continue
            start = str(int(float(row["time_start"])))
            own = [path for begin, path in there.get(row["youtube_id"], ()) if begin in ("", start)]
            if own:
                clips.append(_Clip(row["youtube_id"], label, part, own[0].as_posix()))
            else:
                name = f"{row['youtube_id']}_{int(float(row['time_start'])):06d}_{int(float(row['time_end'])):06d}"
                missing.append(Problem(name, f"in {source}, and nowhere in the source folder"))
        return clips, missing, []

    def _label(self, text: str) -> str | None:
        """The class of a folder or csv label; ``_`` stands for a space. ``None``: not in Kinetics-Sounds."""
        label = " ".join(text.replace("_", " ").lower().split())
        return label if label in self.facts.classes else None


def _rows(folder: Path) -> Iterator[tuple[str, str, dict[str, str]]]:
    """(file, part, row) of the csv files."""
    wanted = ("label", "youtube_id", "time_start", "time_end")
    found = sorted(p for p in folder.glob("*.csv") if p.stem.lower() in _PARTS)
    if not found:
        raise DataError(
            f"`annotations`: expected a folder with train.csv, val.csv and test.csv. Found none in {folder}."
        )
    for path in found:
        reader = csv.DictReader(read_text(path).splitlines())
        lacking = [c for c in wanted if c not in (reader.fieldnames or ())]
        if lacking:
            raise DataError(f"{path}: expected the columns {list(wanted)}. Found {reader.fieldnames}.")
        for row in reader:
            try:
                float(row["time_start"]), float(row["time_end"])
            except (TypeError, ValueError) as error:
                raise DataError(f"{path}: line {reader.line_num}: expected times in seconds. Found {row}.") from error
            yield path.name, _PARTS[path.stem.lower()], row


def _protocols(items: list[Item]) -> dict[str, SplitSpec]:
    parts = {str(item.columns["part"]) for item in items}
    if "train" not in parts or not parts & {"validation", "test"}:
        raise DataError(
            f"kinetics-sounds: expected clips for training, and for validation or test. Found only {sorted(parts)}."
        )
    carve = {"carve": 0.1, "seed": 0, "by": "class"}

    def split(validation: Any, test: tuple[str, ...], description: str) -> SplitSpec:
        used = {"train", *test, *(validation if isinstance(validation, tuple) else ())}
        overlapping = _shared(items, used)
        return SplitSpec("part", ("train",), validation, test, description, ("youtube",), overlapping)

    protocols = {}
    if {"validation", "test"} <= parts:
        protocols["kinetics"] = split(("validation",), ("test",), "the three parts of Kinetics-400")
    last = "validation" if "validation" in parts else "test"
    protocols["train-val"] = split(
        carve, (last,), f"the {last} part of Kinetics-400 is the test; validation is 10 % of train"
    )
    return protocols


def _shared(items: list[Item], parts: set[str]) -> bool:
    """Whether some video is in several of the parts: it should not be, and then it is said with every number."""
    seen: dict[str, str] = {}
    for item in items:
        part = str(item.columns["part"])
        if part in parts and seen.setdefault(str(item.columns["youtube"]), part) != part:
            return True
    return False
