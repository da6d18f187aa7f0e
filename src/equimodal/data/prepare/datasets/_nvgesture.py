"""NVGesture: 25 hand gestures in a car; colour, optical flow and depth."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from equimodal.data.prepare import (
    ArraySpec,
    Index,
    Item,
    Preparation,
    SplitSpec,
    Target,
    UnreadableError,
)
from equimodal.data.prepare.datasets._parameters import check_parameters
from equimodal.data.prepare.readers import IMAGENET, channels_first, frame_range, read_array, read_text, resize
from equimodal.errors import DataError, unknown_name

Array = npt.NDArray[Any]
Flow = Literal["computed", "given"]
CLASSES = tuple(f"gesture {n}" for n in range(1, 26))
_SENSORS = ("color", "depth")


@dataclass(frozen=True)
class Parameters:
    """How gestures are stored.

    Args:
        frames: of those a list gives for a gesture (80), the middle ones; MIE trains on 64 in a row, chosen at random.
            Source: MIE (IGM), datasets/nvGesture.py.
        resize: height and width that a frame is brought to, of which the aspect is not kept. Source: MIE, as above.
        size: height and width of the middle that is cut out of it. Source: MIE, as above, evaluation.
        flow: ``computed`` from colour (OpenCV's DIS, medium), or ``given`` as Video_data/flow_data/PART/LINE.npy,
            (H, W, 2, T). Source: MIE takes given ones, of which it does not say how they were made; computed: ours.
        flow_bound: pixels per frame that become 1 in computed flow; larger ones are cut. Source: I3D, released code.
    """

    frames: int = 64
    resize: int = 256
    size: int = 224
    flow: Flow = "computed"
    flow_bound: float = 20.0

    def __post_init__(self) -> None:
        if self.flow not in get_args(Flow):
            raise unknown_name("`flow`:", self.flow, get_args(Flow))
        check_parameters(self, frames=1, resize=1, size=1, flow_bound=0)
        if self.size > self.resize:
            raise DataError(f"`size`: expected at most `resize`, {self.resize}. Found {self.size}.")


class NVGesture(Preparation[Parameters]):
    """NVGesture from its two ``.lst`` files and the ``.avi`` files that they name."""

    name = "nvgesture"
    Parameters = Parameters
    packages = ("av", "PIL", "cv2")

    def index(self) -> Index:
        """The lines of both lists."""
        items, used = [], {}
        for part in ("train", "test"):
            path = self._list(part)
            used[part] = path.name
            for number, entry in enumerate(_read(path)):
                files = {
                    "color": (f"{entry['path']}/{entry['color']}.avi",),
                    "flow": (f"{entry['path']}/{entry['color']}.avi",),
                    "depth": (f"{entry['path']}/{entry['depth']}.avi",),
                }
                if self.parameters.flow == "given":
                    files["flow"] = (f"Video_data/flow_data/{part}/{number}.npy",)
                columns: dict[str, int | str] = {
                    "gesture": int(entry["label"]) - 1,
                    "subject": entry["subject"],
                    "part": part,
                    **{f"{s}_{end}": int(entry[f"{s}_{end}"]) for s in _SENSORS for end in ("start", "end")},
                }
                items.append(Item(f"{entry['path']}@{int(entry['color_start']):05d}", files, columns))
        people = {p: {str(i.columns["subject"]) for i in items if i.columns["part"] == p} for p in ("train", "test")}
        both = sorted(people["train"] & people["test"])
        official = SplitSpec(
            "part", ("train",), {"carve": 0.15, "seed": 0, "by": "subject"}, ("test",),
            "the official lists; validation is whole people of the training list", ("subject",), bool(both),
        )  # fmt: skip
        return Index(
            items=tuple(items),
            targets={"gesture": Target("gesture", classes=CLASSES)},
            protocols={"official": official},
            groups=("subject",),
            notes={"lists": used, "people in both lists": both},
        )

    def _list(self, part: str) -> Path:
        found = sorted(self.raw.glob(f"nvgesture_{part}*.lst"))
        if not found:
            raise self.source_error(self.raw, f"nvgesture_{part}*.lst", "none")
        return found[-1]  # the corrected version 2, where there are two

    def arrays(self) -> Mapping[str, ArraySpec]:
        """Colour (3, T, S, S), flow (2, T, S, S) and depth (1, T, S, S)."""
        p = self.parameters
        sides = (p.frames, p.size, p.size)
        unit = ({"clip": [-p.flow_bound, p.flow_bound]}, {"scale": 1 / p.flow_bound})
        return {
            "color": ArraySpec(
                (3, *sides), "uint8", "video", units="ImageNet deviations", transforms=(IMAGENET,), description="RGB"
            ),
            "flow": ArraySpec(
                (2, *sides), "float16", "video", transforms=unit if p.flow == "computed" else (),
                units=f"{p.flow_bound:g} pixels per frame" if p.flow == "computed" else "as given",
                description="optical flow to the next frame, x and y",
            ),
            "depth": ArraySpec(
                (1, *sides), "uint8", "video", transforms=({"scale": 1 / 255},), units="share of the sensor's range",
                description="depth camera",
            ),
        }  # fmt: skip

    def decode(self, item: Item, name: str) -> Array:
        """One modality of one gesture."""
        if name == "flow":
            return self._flow(item)
        frames = self._frames(item, name)
        return channels_first(frames) if name == "color" else frames[None]

    def _frames(self, item: Item, sensor: str) -> Array:
        """The middle frames (T, S, S, 3) or (T, S, S)."""
        p, path = self.parameters, self.path(item.files[sensor][0])
        start, end = int(str(item.columns[f"{sensor}_start"])), int(str(item.columns[f"{sensor}_end"]))
        if end - start < p.frames:
            raise UnreadableError(f"the list gives {end - start} frames, and {p.frames} are asked for")
        frames = frame_range(path, start + (end - start - p.frames) // 2, p.frames, gray=sensor == "depth")
        resized = np.stack([resize(frame, p.resize, p.resize) for frame in frames])
        return self._middle(resized, 1, 2)

    def _middle(self, array: Array, *axes: int) -> Array:
        size, before = self.parameters.size, (self.parameters.resize - self.parameters.size) // 2
        for axis in axes:
            array = np.take(array, range(before, before + size), axis)
        return array

    def _flow(self, item: Item) -> Array:
        import cv2

        p = self.parameters
        if p.flow == "given":
            return self._given(item)
        cv2.setNumThreads(1)  # processes are the parallelism here
        gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in self._frames(item, "color")]
        method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        empty = np.zeros((p.size, p.size, 2), np.float32)
        fields = [np.asarray(method.calc(a, b, empty.copy())) for a, b in pairwise(gray)] or [empty]
        return channels_first(np.stack([*fields, fields[-1]][: p.frames])).astype(np.float16)

    def _given(self, item: Item) -> Array:
        p, path = self.parameters, self.path(item.files["flow"][0])
        fields = read_array(path)
        if fields.dtype.kind not in "biuf":
            raise UnreadableError("an array of texts")
        if fields.ndim != 4 or fields.shape[:3] != (p.resize, p.resize, 2) or fields.shape[3] < p.frames - 1:
            raise UnreadableError(
                f"expected an array ({p.resize}, {p.resize}, 2, at least {p.frames - 1}), found {fields.shape}"
            )
        start = max(0, (fields.shape[3] - p.frames) // 2)
        rows = np.minimum(np.arange(start, start + p.frames), fields.shape[3] - 1)
        return self._middle(fields[..., rows], 0, 1).transpose(2, 3, 0, 1).astype(np.float16)


def _read(path: Path) -> Iterator[dict[str, str]]:
    """The lines of a list as fields."""
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        fields: dict[str, str] = {}
        for word in line.split():
            key, _, value = word.partition(":")
            if key in _SENSORS:
                match = re.fullmatch(r"([^:]+):(\d+):(\d+)", value)
                if match is not None:
                    fields |= {key: match[1], f"{key}_start": match[2], f"{key}_end": match[3]}
            else:
                fields[key] = value
        subject = re.search(r"(subject\d+)_r\d+$", fields.get("path", ""))
        label = fields.get("label", "")
        lacking = [key for key in ("path", *_SENSORS) if key not in fields]
        if lacking or subject is None or not label.isdigit() or not 1 <= int(label) <= len(CLASSES):
            raise DataError(
                f"{path}: line {number}: expected path:.../subjectN_rM depth:NAME:START:END color:NAME:START:END "
                f"label:1 to 25. Found {line.strip()[:100]!r}."
            )
        yield {**fields, "path": fields["path"].removeprefix("./"), "subject": subject[1]}
