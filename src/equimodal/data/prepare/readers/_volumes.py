"""Volumes on disk (NIfTI), standardised and cut."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from equimodal.data.prepare import UnreadableError
from equimodal.data.prepare.readers._gate import check_file, instead

Array = npt.NDArray[Any]


_AXES = ("L", "P", "S")  # of the BraTS files: towards the left, the back and the top of the patient
_NEAR = 0.1  # of a voxel; two volumes on one grid are nearer


class Volume(NamedTuple):
    """Numbers (X, Y, Z) and where they lie.

    Args:
        values: in the order left, back, top, as far as the file says where these are.
        affine: (4, 4), from voxels to millimetres; ``None``: the file does not say.
    """

    values: Array
    affine: Array | None


def read_volume(path: Path) -> Volume:
    """The numbers of a NIfTI file, scaled as its header says, turned and mirrored to the order left, back, top.

    Raises:
        UnreadableError: truncated, corrupt, not three-dimensional, not finite, or nowhere (an affine without inverse).
    """
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    check_file(path)
    try:
        image: Any = nibabel.load(path)
        values = np.asarray(image.dataobj)
        placed = any(int(image.header.get(code, 1)) > 0 for code in ("sform_code", "qform_code"))
        affine = np.array(image.affine, np.float64) if placed and image.affine is not None else None
    except (ImageFileError, OSError, EOFError, ValueError, KeyError, AttributeError, zlib.error) as error:
        raise UnreadableError(f"is no readable NIfTI file but {instead(path, error)}") from error
    if values.ndim != 3 or 0 in values.shape or values.dtype.kind not in "biuf":
        raise UnreadableError(f"holds {values.dtype} {values.shape}; a volume of numbers is expected")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise UnreadableError("holds NaN or infinity")
    if affine is None:
        return Volume(values, None)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise UnreadableError("has an affine without inverse, so that nothing says where it lies")
    orientations: Any = nibabel.orientations
    change = orientations.ornt_transform(
        orientations.io_orientation(affine), orientations.axcodes2ornt(_AXES, (("L", "R"), ("P", "A"), ("I", "S")))
    )
    turned = orientations.apply_orientation(values, change)
    return Volume(turned, affine @ orientations.inv_ornt_aff(change, values.shape))


def same_place(volume: Volume, other: Volume) -> None:
    """Refuse a volume whose voxels are not where those of the ``other`` are.

    Raises:
        UnreadableError: another shape, another place, or no place where the other has one.
    """
    if volume.values.shape != other.values.shape:
        raise UnreadableError(f"is {volume.values.shape}; the outline is {other.values.shape}")
    if volume.affine is None or other.affine is None:
        if volume.affine is not other.affine:
            raise UnreadableError("does not say where it lies, as the outline does, or says it alone")
        return
    corners = np.array([[x, y, z, 1] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float64)
    corners[:, :3] *= np.array(other.values.shape) - 1
    apart = np.linalg.inv(other.affine) @ volume.affine @ corners.T - corners.T
    if np.abs(apart).max() > _NEAR:
        raise UnreadableError(f"lies up to {float(np.abs(apart).max()):.1f} voxels beside the outline")


def whole_numbers(volume: Array, tolerance: float = 0.01) -> Array:
    """Labels that were stored as scaled or rounded floats, as whole numbers.

    Raises:
        UnreadableError: some number is no label.
    """
    if volume.dtype.kind in "biu":
        return volume
    found = np.rint(volume)
    wrong = np.abs(volume - found) > tolerance
    if wrong.any():
        shown = ", ".join(f"{v:.6g}" for v in np.unique(volume[wrong])[:4])
        raise UnreadableError(f"has numbers that are no labels: {shown}")
    return found.astype(np.int64)


def standardised(volume: Array) -> Array:
    """Mean 0 and deviation 1 over the voxels that are not 0, as float32; the others, the background, are 0.

    Raises:
        UnreadableError: all voxels 0 or equal, or a background of another number than 0.
    """
    corners = volume[tuple(slice(None, None, max(1, n - 1)) for n in volume.shape)]
    if (corners == corners.flat[0]).all() and corners.flat[0] != 0:
        raise UnreadableError(f"has a background of {float(corners.flat[0]):g}; 0 is expected around the head")
    inside = volume != 0
    own = volume[inside].astype(np.float64)
    if not len(own) or own.std() == 0:
        raise UnreadableError("is empty or constant")
    found = np.zeros(volume.shape, np.float32)
    found[inside] = (own - own.mean()) / own.std()
    return found


def cut(volume: Array, middle: Sequence[int], shape: Sequence[int]) -> Array:
    """The part of ``shape`` that begins ``shape // 2`` before ``middle``; zeros where it goes beyond the volume."""
    out = np.zeros(tuple(shape), volume.dtype)
    source, target = [], []
    for centre, length, there in zip(middle, shape, volume.shape, strict=True):
        start = centre - length // 2
        begin, end = max(start, 0), min(start + length, there)
        source.append(slice(begin, max(end, begin)))
        target.append(slice(begin - start, max(end, begin) - start))
    out[tuple(target)] = volume[tuple(source)]
    return out
