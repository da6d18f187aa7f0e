"""Photographs through Pillow; everything that is wrong with a file is an ``UnreadableError``."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from equimodal.data.prepare import UnreadableError

Array = npt.NDArray[Any]
Fit = Literal["squash", "crop"]
Interpolation = Literal["bilinear", "bicubic"]
IMAGENET: Mapping[str, Any] = {"normalise": {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}}
"""Pixels 0 to 255 as torchvision's models take them: mean 0.485, 0.456, 0.406 and deviation 0.229, 0.224, 0.225."""
# what Pillow's decoders raise on broken files, besides OSError
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, struct.error, zlib.error, MemoryError)


def read_image(
    path: Path, size: int, fit: Fit = "squash", shorter: int = 0, interpolation: Interpolation = "bilinear"
) -> Array:
    """The picture as (3, size, size), uint8, RGB.

    Grey, palette, CMYK and 16-bit pictures are converted; transparency is dropped, and the orientation that a camera
    noted is not applied (both as in the papers' loaders). Of several frames the first is taken.

    Args:
        path: any format that Pillow reads, whatever its name says.
        size: height and width of the result.
        fit: ``"squash"``: resized without keeping the aspect; ``"crop"``: the shorter side is resized to ``shorter``,
            then the centre is cut out.
        shorter: for ``"crop"``; 0 is ``size``.
        interpolation: with antialiasing when a picture gets smaller.

    Raises:
        UnreadableError: no picture, truncated, corrupt, or larger than Pillow's limit against decompression bombs.
    """
    from PIL import Image, UnidentifiedImageError

    how = Image.Resampling.BILINEAR if interpolation == "bilinear" else Image.Resampling.BICUBIC
    try:
        with Image.open(path) as picture:
            picture.load()
            pixels = _rgb(picture)
            if fit == "squash":
                result = pixels.resize((size, size), how)
            else:
                result = _centre(pixels, size, shorter or size, how)
    except UnidentifiedImageError as error:
        raise UnreadableError(f"no picture but {_looks_like(path)}") from error
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
    if picture.mode.startswith("I"):  # 16 bits and more: Pillow would clip at 255
        from PIL import Image

        values = np.asarray(picture).astype(np.int64)
        return Image.fromarray((values.clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    return picture.convert("RGB")


def _centre(picture: Any, size: int, shorter: int, how: Any) -> Any:
    width, height = picture.size
    if width <= height:
        width, height = shorter, max(size, int(shorter * height / width))
    else:
        width, height = max(size, int(shorter * width / height)), shorter
    left, top = round((width - size) / 2), round((height - size) / 2)
    return picture.resize((width, height), how).crop((left, top, left + size, top + size))


def _looks_like(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(64).lstrip()
    if head[:1] == b"<":
        return "a web page"
    return f"a file that begins with {head[:8]!r}"
