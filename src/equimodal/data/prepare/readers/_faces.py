"""The face in each frame of a clip, cut out as a square."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from equimodal.data.prepare import ArraySpec
from equimodal.data.prepare.readers._images import resize
from equimodal.errors import DataError

Array = npt.NDArray[Any]
WHOLE, NEIGHBOUR, FOUND = 0, 1, 2
_SHORTER = 320  # pixels; a larger frame is searched in this size
_SMALLEST = 1 / 8  # of the shorter side; the smallest face that is looked for
_STEP = 1.1  # from one size of the search window to the next
_VOTES = 6  # windows that have to agree on a face; 4 let pass 7 instead of 1 of 100 pictures without one
_AGREE = 0.5  # intersection over union of two windows of the same face


class Square(NamedTuple):
    """A part of a frame, in pixels."""

    top: float
    left: float
    size: float


class Cut(NamedTuple):
    """What is left of the frames of a clip.

    Args:
        frames: squares, each of its own size; where the clip shows no face at all, the whole frames.
        origin: (T,), uint8, where each square comes from: ``FOUND`` in the frame itself, ``NEIGHBOUR``: the place of
            the face in the nearest frame that shows one (of two the earlier), ``WHOLE``: the whole frame.
    """

    frames: list[Array]
    origin: Array


class Faces:
    """Cuts faces out of clips, and keeps the last clip: two arrays of a bundle are made of it.

    Args:
        margin: on each side, as a share of the face's size.
    """

    def __init__(self, margin: float) -> None:
        self.margin = margin
        self._last: tuple[str, Cut] | None = None

    def of(self, key: str, read: Callable[[], Sequence[Array]]) -> Cut:
        """The faces of the clip ``key``, whose frames ``read`` gives."""
        if self._last is None or self._last[0] != key:
            self._last = key, cut_faces(read(), self.margin)
        return self._last[1]


def check_margin(margin: float) -> None:
    """Refuse a margin that is no share."""
    if not 0 <= margin <= 2:
        raise DataError(f"`margin`: expected a number from 0 to 2, a share of the face's size. Found {margin!r}.")


def face_array(frames: int) -> ArraySpec:
    """How :attr:`Cut.origin` is stored beside ``video``."""
    how = (
        f"{FOUND}: face found in the frame, {NEIGHBOUR}: its place in the nearest frame, {WHOLE}: no face, nothing cut"
    )
    return ArraySpec((frames,), "uint8", description=how, of="video")


def cut_faces(frames: Sequence[Array], margin: float) -> Cut:
    """The largest face of each frame (H, W, 3), uint8, with a margin: a square that never leaves the frame."""
    faces = {i: face for i, frame in enumerate(frames) if (face := find_face(frame)) is not None}
    if not faces:
        return Cut(list(frames), np.full(len(frames), WHOLE, np.uint8))
    nearest = [faces[min(faces, key=lambda other: abs(other - i))] for i in range(len(frames))]
    squares = [_square(frame, face, margin) for frame, face in zip(frames, nearest, strict=True)]
    return Cut(squares, np.array([FOUND if i in faces else NEIGHBOUR for i in range(len(frames))], np.uint8))


def find_face(frame: Array) -> Square | None:
    """The largest frontal face in a frame (H, W, 3), uint8, from about the forehead to the chin.

    The detector is scikit-image's cascade of local binary patterns, which comes with its training. The same frame
    gives the same face, whatever the number of threads.
    """
    height, width = frame.shape[:2]
    scale = min(1.0, _SHORTER / min(height, width))
    face = largest(_windows(resize(frame, round(height * scale), round(width * scale))))
    return None if face is None else Square(*(value / scale for value in face))


def largest(windows: Array) -> Square | None:
    """The largest mean of windows (N, 3) of top, left and size that agree, if enough of them do."""
    left = windows[np.lexsort(windows.T[::-1])].astype(np.float64)  # threads give them in any order
    found = None
    while len(left):
        close = _overlap(left) > _AGREE
        votes = close.sum(1)
        best = votes.argmax()
        if votes[best] < _VOTES:
            break
        face = Square(*left[close[best]].mean(0).tolist())
        found = face if found is None or face.size > found.size else found
        left = left[~close[best]]
    return found


def _overlap(windows: Array) -> Array:
    """Intersection over union of every two windows (N, N)."""
    (top, left), area = windows.T[:2], np.square(windows[:, 2])
    bottom, right = top + windows[:, 2], left + windows[:, 2]
    rows = np.minimum.outer(bottom, bottom) - np.maximum.outer(top, top)
    columns = np.minimum.outer(right, right) - np.maximum.outer(left, left)
    both = rows.clip(0) * columns.clip(0)
    shares: Array = both / (area[:, None] + area - both)
    return shares


def _windows(frame: Array) -> Array:
    """Every window that the cascade takes for a face: (N, 3) of top, left and size, in any order."""
    side = min(frame.shape[:2])
    # the detector's own grouping depends on the order in which its threads end, so it is switched off
    found = _cascade().detect_multi_scale(
        frame, _STEP, 1, (side * _SMALLEST,) * 2, (side,) * 2, min_neighbor_number=1, intersection_score_threshold=2
    )
    return np.array([(window["r"], window["c"], window["height"]) for window in found], np.int64).reshape(-1, 3)


@cache
def _cascade() -> Any:
    data, feature = importlib.import_module("skimage.data"), importlib.import_module("skimage.feature")
    return feature.Cascade(data.lbp_frontal_face_cascade_filename())


def _square(frame: Array, face: Square, margin: float) -> Array:
    """The face and its margin; moved where the frame ends, and smaller only where it does not fit at all."""
    height, width = frame.shape[:2]
    side = max(1, min(round(face.size * (1 + 2 * margin)), height, width))
    top, left = (
        min(max(0, round(start + (face.size - side) / 2)), end - side)
        for start, end in ((face.top, height), (face.left, width))
    )
    return np.ascontiguousarray(frame[top : top + side, left : left + side])
