"""Declared transforms of one modality, each over a whole array (N, ...); axes are counted without the sample axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from equimodal.data._schema import Node
from equimodal.errors import DataError

Array = npt.NDArray[Any]

STANDARDISE = ("none", "global", "per-feature", "per-channel")
OPERATIONS = (
    "cast", "scale", "offset", "clip", "sqrt", "log", "log1p", "centre_on", "reshape", "transpose", "flatten",
    "normalise",
)  # fmt: skip
_ELEMENTWISE: dict[str, Callable[[Array, Array | None], Array]] = {"sqrt": np.sqrt, "log": np.log, "log1p": np.log1p}

_NEW = ("scale", "offset", "clip", "centre_on", "normalise", *_ELEMENTWISE)  # these never give a view


@dataclass(frozen=True)
class Transform:
    """One operation with its checked value; plain data, so that worker processes can receive it."""

    name: str
    value: tuple[float, ...]
    node: Node

    def __call__(self, x: Array, own: bool = False) -> Array:
        """``x`` (N, ...) after the operation; ``own``: nobody else holds ``x``, so it may be overwritten."""
        out = x if own else None
        if self.name in _ELEMENTWISE:
            # absent rows may hold anything; present ones are checked to be finite afterwards
            with np.errstate(invalid="ignore", divide="ignore"):
                return _ELEMENTWISE[self.name](x, out)
        if self.name == "scale":
            return np.asarray(np.multiply(x, x.dtype.type(self.value[0]), out=out))
        if self.name == "offset":
            return np.asarray(np.add(x, x.dtype.type(self.value[0]), out=out))
        if self.name == "clip":
            return np.clip(x, x.dtype.type(self.value[0]), x.dtype.type(self.value[1]), out=out)
        if self.name == "normalise":
            mean, deviation = np.asarray(self.value, x.dtype).reshape(2, -1, *(1,) * (x.ndim - 2))
            if x.ndim < 3 or x.shape[1] != len(mean):
                raise self.node.error(f"one entry per channel of samples of shape {x.shape[1:]}", f"{len(mean)}")
            centred = np.subtract(x, mean, out=out)
            return np.asarray(np.divide(centred, deviation, out=centred))
        whole = [int(v) for v in self.value]
        if self.name == "centre_on":
            return np.asarray(x - np.take(x, whole[1:], axis=self._axis(whole[0], x)))
        if self.name == "flatten":
            return x.reshape(*x.shape[: self._axis(whole[0], x)], -1)
        if self.name == "transpose":
            return np.transpose(x, (0, *(self._axis(a, x) for a in whole)))
        if self.name == "reshape":
            return x.reshape(len(x), *whole)
        return x  # cast: the kind of the modality decides, and was compared with the value when the card was read

    def _axis(self, axis: int, x: Array) -> int:
        if not 0 <= axis < x.ndim - 1:
            raise self.node.error(f"an axis of one sample (shape {x.shape[1:]}), counted from 0", str(axis))
        return axis + 1


def read_transform(node: Node, dtype: str = "float32") -> Transform:
    """One entry of ``transforms``: a name (``sqrt``), or one name with its value (``scale: 2``)."""
    if isinstance(node.value, str):
        name, given = node.choice(OPERATIONS), None
    elif isinstance(node.value, dict) and len(node.value) == 1:
        node.record((), OPERATIONS)
        name, given = next(iter(node.value.items()))
    else:
        raise node.error("exactly one operation per entry, as in `- {scale: 0.5}`")
    field = Node(given, node.file, f"{node.field}.{name}")
    return Transform(name, tuple(_value(name, field, dtype)), field)


def _value(name: str, field: Node, dtype: str) -> list[float]:
    if name == "cast":
        if field.choice(("float32", "int64")) != dtype:
            raise field.error(f"{dtype}, the type of this kind of modality")
        return []
    if name in _ELEMENTWISE:
        if field.value not in (None, True):
            raise field.error(f"no value, as in `- {name}`")
        return []
    if name in ("scale", "offset"):
        if name == "scale" and field.number() == 0:
            raise field.error("a number other than 0, which leaves nothing of the data")
        return [field.number()]
    if name == "clip":
        bounds = [n.number() for n in field.items()]
        if len(bounds) != 2 or bounds[0] >= bounds[1]:
            raise field.error("[lowest, highest]")
        return bounds
    if name == "centre_on":
        parts = field.record(("axis", "index"))
        return [parts["axis"].integer(), parts["index"].integer()]
    if name == "normalise":
        parts = field.record(("mean", "std"))
        mean, deviation = ([n.number() for n in parts[key].items()] for key in ("mean", "std"))
        if len(mean) != len(deviation) or min(deviation, default=0) <= 0:
            raise field.error("as many deviations above 0 as means, one per channel")
        return [*mean, *deviation]
    if name == "flatten":
        return [0 if field.value is None else field.integer()]
    return [n.integer() for n in field.items()]


def apply(transforms: Sequence[Transform], x: Array, kind: np.dtype[Any], own: bool = False) -> Array:
    """``x`` (N, ...) as ``kind`` (float32, float64 or int64) after all transforms.

    An operation that does not fit names its field. With ``own``, nobody else holds ``x``, so that it may be
    overwritten.
    """
    own = own or x.dtype != kind
    with np.errstate(over="ignore", invalid="ignore"):  # absent rows may hold anything, present ones are checked
        x = x.astype(kind, copy=False)
        for transform in transforms:
            before = x.shape
            try:
                x = transform(x, own)
                own = own or transform.name in _NEW
            except DataError:
                raise
            except (ValueError, IndexError) as error:
                expected = f"an operation that fits samples of shape {before[1:]}"
                raise transform.node.error(expected, str(error)) from error
        return x.astype(kind, copy=False)


def reduction_axes(mode: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Axes of (N, *shape) over which the statistics of ``mode`` are taken."""
    axes = tuple(range(len(shape) + 1))
    if mode == "per-feature":
        return axes[:-1]
    if mode == "per-channel":
        return (0, *axes[2:])
    return axes
