"""Declared transforms of one modality, each over a whole array (N, ...); axes are counted without the sample axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from equimodal.data._schema import Node
from equimodal.errors import DataError

Array = npt.NDArray[Any]
Transform = Callable[[Array], Array]

STANDARDISE = ("none", "global", "per-feature", "per-channel")
OPERATIONS = (
    "cast", "scale", "offset", "clip", "sqrt", "log", "log1p", "centre_on", "reshape", "transpose", "flatten",
)  # fmt: skip


def read_transform(node: Node) -> tuple[Node, Transform]:
    """Field and function of one entry of ``transforms``: a name (``sqrt``), or a name with a value (``scale: 2``)."""
    if isinstance(node.value, str):
        name, value = node.choice(OPERATIONS), None
    elif isinstance(node.value, dict) and len(node.value) == 1:
        node.record((), OPERATIONS)
        name, value = next(iter(node.value.items()))
    else:
        raise node.error("exactly one operation per entry, as in `- {scale: 0.5}`")
    field = Node(value, node.file, f"{node.field}.{name}")
    return field, _read(name, field)


def _read(name: str, value: Node) -> Transform:
    if name == "cast":
        dtype = value.choice(("float32", "int64"))
        return lambda x: x.astype(dtype, copy=False)
    if name in ("sqrt", "log", "log1p"):
        if value.value not in (None, True):
            raise value.error(f"no value, as in `- {name}`")
        function: Callable[[Array], Array] = {"sqrt": np.sqrt, "log": np.log, "log1p": np.log1p}[name]
        return lambda x: _quiet(function, x)
    if name == "scale":
        factor = np.float32(value.number())
        return lambda x: x * factor
    if name == "offset":
        addend = np.float32(value.number())
        return lambda x: x + addend
    if name == "clip":
        bounds = [n.number() for n in value.items()]
        if len(bounds) != 2 or bounds[0] >= bounds[1]:
            raise value.error("[lowest, highest]")
        return lambda x: np.clip(x, np.float32(bounds[0]), np.float32(bounds[1]))
    if name == "centre_on":
        fields = value.record(("axis", "index"))
        axis, index = fields["axis"].integer(), fields["index"].integer()
        return lambda x: x - np.take(x, [index], axis=_axis(axis, x, fields["axis"]))
    if name == "flatten":
        start = 0 if value.value is None else value.integer()
        return lambda x: x.reshape(*x.shape[: _axis(start, x, value)], -1)
    axes = [n.integer() for n in value.items()]
    if name == "transpose":
        return lambda x: np.transpose(x, (0, *(_axis(a, x, value) for a in axes)))
    return lambda x: x.reshape(len(x), *axes)


def _axis(axis: int, x: Array, node: Node) -> int:
    if not 0 <= axis < x.ndim - 1:
        raise node.error(f"an axis of one sample (shape {x.shape[1:]}), counted from 0", str(axis))
    return axis + 1


def _quiet(function: Callable[[Array], Array], x: Array) -> Array:
    """``function`` without NumPy's warnings: absent rows may hold anything, present ones are checked afterwards."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return function(x)


def apply(transforms: list[tuple[Node, Transform]], x: Array, integer: bool) -> Array:
    """``x`` (N, ...) as float32 (or int64) after all transforms; an operation that does not fit names its field."""
    x = x.astype(np.int64 if integer else np.float32, copy=False)
    for node, transform in transforms:
        before = x.shape
        try:
            x = transform(x)
        except DataError:
            raise
        except (ValueError, IndexError) as error:
            raise node.error(f"an operation that fits samples of shape {before[1:]}", str(error)) from error
        if len(x) != before[0]:
            raise node.error("an operation that keeps the sample axis", f"{before} turned into {x.shape}")
    return x.astype(np.int64 if integer else np.float32, copy=False)


def reduction_axes(mode: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Axes of (N, *shape) over which the statistics of ``mode`` are taken."""
    axes = tuple(range(len(shape) + 1))
    if mode == "per-feature":
        return axes[:-1]
    if mode == "per-channel":
        return (0, *axes[2:])
    return axes
