"""What one modality is made of: a column, its kind, and how a content becomes an array."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from equimodal._utils.arrays import npy_of
from equimodal.data._generated_card import STANDARDISE
from equimodal.data._modality import KINDS, Kind
from equimodal.data._transforms import STANDARDISE as MODES
from equimodal.data.records._arrow import NPY
from equimodal.errors import DataError, did_you_mean, missing_extra

Array = npt.NDArray[Any]


class DecodeError(Exception):
    """A function of the user's failed, or made no array; holds its error, and what was found instead of an array."""

    def __init__(self, reason: Exception, found: str | None = None) -> None:
        super().__init__(reason)
        said = " ".join(str(reason).split())
        self.reason = reason
        self.found = found or (f"{type(reason).__name__}: {said}" if said else type(reason).__name__)


@dataclass(frozen=True)
class Field:
    """A modality of :func:`from_rows`.

    Args:
        kind: as in :class:`Modality`.
        column: where its contents are; default the name of the modality. Several columns of single numbers make one
            vector, which a row lacks if it lacks one of them; their numbers must fit into memory, or a cache.
        decode: what makes an array of one content; it is never called for an absent one. Default: numbers and nested
            lists of one shape as they are, the content of a .npy file, and for ``kind="image"`` also the content of a
            picture file, its path, or a picture of Pillow. With worker processes that are not forked it must be a
            function of a module.
        length: steps of a sequence or tokens whose contents differ in length. What is behind them is left out, shorter
            ones are filled up, and the input is :class:`~equimodal.batch.Tokens`.
        size: height and width of pictures that the default decodes; the centre is cut out.
        standardise: ``none``, ``global``, ``per-feature`` or ``per-channel``, by the mean and deviation of training
            samples. Default: per channel for images, per feature for vectors and sequences, else none.
        units: units of the recording.

    Raises:
        DataError: an unknown kind, or a length or size that cannot be.

    Example:
        >>> Field("tokens", "review", decode=lambda text: [ord(c) for c in text], length=80).kind
        'tokens'
    """

    kind: Kind
    column: str | Sequence[str] | None = None
    decode: Callable[[Any], npt.ArrayLike] | None = None
    length: int | None = None
    size: int = 64
    standardise: str | None = None
    units: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            hint = did_you_mean(self.kind, KINDS)
            raise DataError(f"`kind`: expected one of {list(KINDS)}. Found {self.kind!r}.{hint}")
        listed = self.column if isinstance(self.column, (list, tuple)) else [self.column or ""]
        if not all(isinstance(name, str) for name in listed):
            raise DataError(f"`column`: expected the name of a column, or several. Found {self.column!r}.")
        if self.decode is not None and not callable(self.decode):
            raise DataError(f"`decode`: expected a function of one content. Found {self.decode!r}.")
        if self.standardise is not None and self.standardise not in MODES:
            hint = did_you_mean(self.standardise, MODES)
            raise DataError(f"`standardise`: expected one of {list(MODES)}. Found {self.standardise!r}.{hint}")
        if self.length is not None and (self.kind not in ("sequence", "tokens") or not is_whole(self.length, 1)):
            raise DataError(
                f"`length`: expected a whole number from 1, of a sequence or tokens. Found {self.length!r} for "
                f"{self.kind!r}."
            )
        several = self.column is not None and not isinstance(self.column, str)
        if several and (self.kind != "vector" or self.decode is not None or not self.column):
            raise DataError(
                f"`column`: expected several columns for a vector of numbers only, without `decode`. Found "
                f"{self.column!r} for {self.kind!r}."
            )
        if not is_whole(self.size, 8):
            raise DataError(f"`size`: expected a whole number from 8. Found {self.size!r}.")

    @classmethod
    def of(cls, value: Any, name: str) -> Field:
        """``value`` as a field: one, the name of a kind, or a mapping of its arguments."""
        if isinstance(value, cls):
            return value
        known = [f.name for f in fields(cls)]
        wrong = [a for a in value if a not in known] if isinstance(value, Mapping) else []
        if not isinstance(value, (str, Mapping)) or wrong or (isinstance(value, Mapping) and "kind" not in value):
            raise DataError(
                f"`inputs[{name!r}]`: expected a kind, as 'image', a Field, or a mapping of its arguments {known}, "
                f"of which kind is needed. Found {value!r}.{did_you_mean(wrong, known)}"
            )
        try:
            return cls(cast(Kind, value)) if isinstance(value, str) else cls(**value)
        except DataError as error:
            raise DataError(f"`inputs[{name!r}]`: {error}") from error

    def array_of(self, content: Any, root: Path | None) -> Array:
        """One content as an array.

        Raises:
            DecodeError: ``decode`` failed.
            ValueError: it is none; :class:`Contents` says which row it is.
        """
        if self.decode is not None:
            try:
                made = self.decode(content)
            except Exception as error:
                raise DecodeError(error) from error
            try:
                return _array(made)
            except ValueError as error:
                raise DecodeError(error, str(error).split(". Give decode=")[0]) from error
        if isinstance(content, bytes) and content[: len(NPY)] == NPY:
            return np.asarray(npy_of(content, "the content"))
        if self.kind == "image" and not isinstance(content, (np.ndarray, list)):
            return _picture(content, self.size, root)
        if isinstance(content, (str, bytes, Mapping)):
            raise ValueError(
                f"{type(content).__name__} ({str(content)[:40]!r}). Give decode=, which makes an array of it"
            )
        return _array(content)

    def columns(self, name: str) -> tuple[str, ...]:
        """The columns of the modality of that name."""
        own = name if self.column is None else self.column
        return (own,) if isinstance(own, str) else tuple(own)

    def default_standardise(self) -> str:
        """How samples are standardised."""
        return self.standardise or STANDARDISE.get(self.kind, "none")

    def text(self) -> str:
        """Equal for fields that make the same of a content, as far as the name of a function says."""
        how = self.decode
        named = None if how is None else f"{getattr(how, '__module__', '')}.{getattr(how, '__qualname__', repr(how))}"
        return repr((self.kind, named, self.length, self.size))


def _array(content: Any) -> Array:
    """Numbers of one shape.

    Raises:
        ValueError: it is something else.
    """
    try:
        array = np.asarray(content)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise ValueError(
            f"{type(content).__name__} that is no array of one shape ({str(error).rstrip('.')}). Give decode=, which "
            "makes one of it"
        ) from error
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"something else than plain numbers (NumPy makes {array.dtype} {array.shape} of {str(content)[:40]}). Give "
            "decode=, which makes numbers of it"
        )
    return array


def is_whole(value: object, least: int) -> bool:
    """Whether a value is a whole number, and not below the least."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _picture(content: Any, size: int, root: Path | None) -> Array:
    """(3, size, size) uint8 of a picture's bytes, path, both in a mapping (as Hugging Face stores them), or Pillow."""
    try:
        import PIL.Image
    except ImportError as error:
        raise missing_extra("pillow", "rows", "Reading pictures") from error
    from equimodal.data.prepare import UnreadableError
    from equimodal.data.prepare.readers import read_image

    if isinstance(content, Mapping):
        names, content = sorted(map(str, content)), content.get("bytes") or content.get("path")
        if not content:
            raise ValueError(
                f"a mapping of {names} with neither bytes nor path. Correct it, or put None there if the row has no "
                "picture"
            )
    if isinstance(content, PIL.Image.Image):
        content = _png(content)
    if isinstance(content, str):
        content = Path(content) if root is None else root / content
    if not isinstance(content, (bytes, Path)):
        raise ValueError(f"{type(content).__name__}. Give decode=, which makes an array of it")
    try:
        return read_image(content, size, "crop")
    except UnreadableError as error:
        where = f": {content}" if isinstance(content, Path) else ""
        raise ValueError(f"{error}{where}. Correct it, or put None there if the row has no picture") from error


def _png(picture: Any) -> bytes:
    import io

    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
