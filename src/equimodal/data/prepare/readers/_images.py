"""Photographs through Pillow; everything that is wrong with a file is an ``UnreadableError``."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from equimodal._utils.foreign import kind_of_file
from equimodal.data.prepare import UnreadableError
from equimodal.data.prepare.readers._gate import check_file

Array = npt.NDArray[Any]
Fit = Literal["squash", "crop"]
Interpolation = Literal["bilinear", "bicubic"]
IMAGENET: Mapping[str, Any] = {"normalise": {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}}
"""Pixels 0 to 255 as torchvision's models take them: mean 0.485, 0.456, 0.406 and deviation 0.229, 0.224, 0.225."""
# what Pillow's decoders raise on broken files, besides OSError
_WHITE = (255, 65535)
_LEAST_OF_16_BITS = 4096  # less at the brightest point are 10 or 12 bits, or a very dark picture
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, struct.error, zlib.error, MemoryError)


def read_image(
    path: Path | bytes, size: int, fit: Fit = "squash", shorter: int = 0, interpolation: Interpolation = "bilinear"
) -> Array:
    """The picture as (3, size, size), uint8, RGB.

    Grey, palette, CMYK and 16-bit pictures are converted; floats 0 to 1 or 0 to 255, and wide whole numbers 0 to 255,
    are read as what they are. A picture is turned as its camera noted. Transparency is dropped (as in the papers'
    loaders). Of several frames the first is taken.

    Args:
        path: of any format that Pillow reads, whatever its name says; or the content of such a file.
        size: height and width of the result.
        fit: ``"squash"``: resized without keeping the aspect; ``"crop"``: the shorter side is resized to ``shorter``,
            then the centre is cut out.
        shorter: for ``"crop"``; 0 is ``size``.
        interpolation: with antialiasing when a picture gets smaller.

    Raises:
        UnreadableError: no picture, truncated, corrupt, of numbers whose range is not known, or larger than Pillow's
            limit against decompression bombs.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if isinstance(path, Path):
        check_file(path)
    how = Image.Resampling.BILINEAR if interpolation == "bilinear" else Image.Resampling.BICUBIC
    try:
        with Image.open(path if isinstance(path, Path) else io.BytesIO(path)) as picture:
            picture.load()
            pixels = _rgb(ImageOps.exif_transpose(picture))
            if fit == "squash":
                result = pixels.resize((size, size), how)
            else:
                result = _centre(pixels, size, shorter or size, how)
    except UnidentifiedImageError as error:
        other = f" but {kind_of_file(path)}" if isinstance(path, Path) else ""
        raise UnreadableError(f"no picture{other}") from error
    except Image.DecompressionBombError as error:
        raise UnreadableError("more pixels than Pillow's limit against decompression bombs") from error
    except _BROKEN as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk, and no property of the picture
            raise
        raise UnreadableError(f"a picture that cannot be decoded ({error})") from error
    return np.ascontiguousarray(np.asarray(result).transpose(2, 0, 1))


def resize(image: Array, height: int, width: int) -> Array:
    """(H, W, 3) or (H, W), uint8, in another size: bilinear with antialiasing, the aspect is not kept."""
    from PIL import Image

    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def _rgb(picture: Any) -> Any:
    """RGB of 8 bits; the range of wider numbers is told by the numbers, since no mode says it."""
    if not picture.mode.startswith(("I", "F")):
        return picture.convert("RGB")
    from PIL import Image

    values = np.asarray(picture).astype(np.float64)
    if not np.isfinite(values).all():
        raise UnreadableError("holds NaN or infinity")
    low, high = float(values.min()), float(values.max())
    whole = bool((values == np.floor(values)).all())
    if (
        low < 0
        or high > _WHITE[-1]
        or (whole and _WHITE[0] < high < _LEAST_OF_16_BITS)
        or (not whole and high > _WHITE[0])
    ):
        raise UnreadableError(f"a picture of numbers from {low:g} to {high:g}, of which nothing says what is white")
    if not whole and high <= 1:
        values = values * _WHITE[0]
    elif high > _WHITE[0]:
        values = np.floor(values / 256)
    return Image.fromarray(np.round(values).astype(np.uint8)).convert("RGB")


def _centre(picture: Any, size: int, shorter: int, how: Any) -> Any:
    width, height = picture.size
    if width <= height:
        width, height = shorter, max(size, int(shorter * height / width))
    else:
        width, height = max(size, int(shorter * width / height)), shorter
    left, top = round((width - size) / 2), round((height - size) / 2)
    return picture.resize((width, height), how).crop((left, top, left + size, top + size))
