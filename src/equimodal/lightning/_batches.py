"""Batches and loaders as the Trainer has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, cast

from torch import Tensor

from equimodal.batch import Batch, tree_map
from equimodal.data import WithoutPadding, real_samples
from equimodal.errors import UnsupportedError
from equimodal.methods import BatchLike, part_of


def in_double(batch: Any) -> Batch:
    """The batch with its floating-point numbers in float64."""

    def double(t: Tensor) -> Tensor:
        return t.double() if t.is_floating_point() else t

    checked = Batch.of(batch)
    return replace(
        checked,
        inputs={m: tree_map(double, x) for m, x in checked.inputs.items()},
        target=None if checked.target is None else double(checked.target),
        extras={name: double(t) for name, t in checked.extras.items()},
    )


def validation_batches(loaders: Any) -> Iterable[BatchLike] | None:
    """What a method may choose on between epochs: one loader, of anything but training samples."""
    if loaders is None or isinstance(loaders, (list, tuple, Mapping)) or part_of(loaders) == "train":
        return None
    return cast("Iterable[BatchLike]", loaders) if real_samples(loaders) is None else WithoutPadding(loaders)


def one_loader(loaders: Any, name: str) -> Any:
    """The loader itself, also where the Trainer holds it in a list.

    Raises:
        UnsupportedError: several loaders, whose scores would be mixed.
    """
    if not isinstance(loaders, (list, tuple, Mapping)):
        return loaders
    each = list(loaders.values() if isinstance(loaders, Mapping) else loaders)
    if len(each) != 1:
        raise UnsupportedError(
            f"`{name}`: expected one loader. Found {len(each)}, whose samples would be scored together. Give them one "
            "after the other, or a DataLoader over the list of batches: DataLoader(batches, batch_size=None)."
        )
    return each[0]
