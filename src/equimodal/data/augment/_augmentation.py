"""Operations per modality, as a configuration says, applied to training batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equimodal.batch import Batch, Tokens
from equimodal.data._splits import Split, TrainSplit, require
from equimodal.data.augment._geometry import Crop, Flip, QuarterTurns, Rotate
from equimodal.data.augment._operation import Geometry, Operation, Value
from equimodal.data.augment._values import Colour, Noise, SpecMask
from equimodal.errors import DataError, unknown_name

TOGETHER = "together"
"""Name in a configuration under which geometric operations move all images and the segmentation mask alike."""

_KNOWN: dict[str, type[Operation]] = {
    kind.name: kind for kind in (Colour, Crop, Flip, Noise, QuarterTurns, Rotate, SpecMask)
}


def available() -> list[str]:
    """Names of the operations.

    Example:
        >>> available()
        ['colour', 'crop', 'flip', 'noise', 'quarter_turns', 'rotate', 'spec_mask']
    """
    return sorted(_KNOWN)


@dataclass(frozen=True)
class Augmentation:
    """Operations of each modality, in order.

    Args:
        operations: modality -> operations; under ``"together"`` the geometric ones that move every image, video and
            volume of a sample, and its segmentation mask, in the same way.

    Example:
        >>> Augmentation.of({"image": ["flip", {"crop": {"scale": [0.5, 1.0]}}]}).operations["image"][1].scale
        (0.5, 1.0)
    """

    operations: Mapping[str, tuple[Operation, ...]]

    @classmethod
    def of(cls, config: Augmentation | Mapping[str, Any]) -> Augmentation:
        """From plain values: modality -> list of names, or of one name with its options.

        Raises:
            DataError: another structure, or an option out of range.
            UnknownNameError: no such operation or option; the message names near ones.
        """
        if isinstance(config, Augmentation):
            return config
        if not isinstance(config, Mapping):
            raise DataError(f"`augment`: expected modality: [operations]. Found {type(config).__name__}.")
        return cls({str(name): tuple(_operations(entries, str(name))) for name, entries in config.items()})

    def plain(self) -> dict[str, list[dict[str, dict[str, Any]]]]:
        """The resolved configuration as plain values, from which :meth:`of` makes it again."""
        return {
            name: [{op.name: _listed(dataclasses.asdict(op))} for op in own]  # type: ignore[call-overload]
            for name, own in self.operations.items()
        }

    def bind(self, split: Split) -> Bound:
        """This augmentation for a training split.

        Raises:
            DataError: not the training split, an operation that does not fit a modality, or a geometric operation of
                one modality alone although the target is a mask.
            UnknownNameError: no such modality.
            MissingExtraError: an operation needs a package that is not installed.
        """
        train = require(split, TrainSplit, "split")
        store = train._store
        shapes = {m: (source.card.kind, source.shape) for m, source in store.sources.items()}
        masks = store.target.ndim > 2
        for name, operations in self.operations.items():
            if name not in (*shapes, TOGETHER):
                raise unknown_name("modality to augment", name, (*shapes, TOGETHER))
            spatial = {m for m, (kind, _) in shapes.items() if kind in Geometry.kinds}
            for operation in operations:
                if name == TOGETHER:
                    if not isinstance(operation, Geometry) or not spatial:
                        raise DataError(
                            f"`augment.{TOGETHER}`: expected operations that move pixels ({', '.join(_geometric())}) "
                            f"and "
                            f"images. Found {operation.name!r} for the modalities {sorted(shapes)}."
                        )
                    for modality in spatial:
                        operation.check(shapes[modality][1], modality)
                    continue
                kind, shape = shapes[name]
                if kind not in operation.kinds:
                    raise DataError(
                        f"`augment.{name}`: expected operations for the kind {kind!r} "
                        f"({', '.join(_for(kind)) or 'none'}). "
                        f"Found {operation.name!r}."
                    )
                if masks and isinstance(operation, Geometry):
                    raise DataError(
                        f"`augment.{name}`: expected {operation.name!r} under {TOGETHER!r}, since the target is a "
                        f"mask that "
                        "has to move with the images."
                    )
                if isinstance(operation, Colour) and store.sources[name].card.standardise != "none":
                    raise DataError(
                        f"`augment.{name}`: expected pixels that the card normalises by fixed numbers, for 'colour'. "
                        f"Found `standardise: {store.sources[name].card.standardise}`. In the card set `standardise: "
                        "none` and `transforms: [{normalise: {mean: [...], std: [...]}}]`, one number per channel "
                        f"(write_bundle: standardise={{{name!r}: 'none'}}), or leave 'colour' out."
                    )
                operation.check(shape, name)
        pixels = {m: _pixels(source.card.transforms) for m, source in store.sources.items()}
        return Bound(self.operations, {m: kind for m, (kind, _) in shapes.items()}, pixels, masks)


@dataclass(frozen=True)
class Bound:
    """An augmentation together with what it has to know about the data; plain data, sent to worker processes."""

    operations: Mapping[str, tuple[Operation, ...]]
    kinds: Mapping[str, str]
    pixels: Mapping[str, tuple[Tensor, Tensor]]
    masks: bool

    def __call__(self, batch: Batch, seed: int, epoch: int, number: int) -> Batch:
        """``batch``, the ``number``-th of ``epoch``, changed; equal arguments give equal numbers, whoever calls.

        Rows in which a modality is absent stay as they are, whatever they hold.
        """
        inputs, target = dict(batch.inputs), batch.target
        for place, (name, operations) in enumerate(self.operations.items()):
            for position, operation in enumerate(operations):
                key = np.random.SeedSequence([seed, epoch, number, place, position, 0xA06])
                generator = torch.Generator().manual_seed(int(key.generate_state(1, np.uint64)[0]) >> 1)
                drawn = operation.draw(len(batch), generator)
                together = name == TOGETHER
                names = [m for m, kind in self.kinds.items() if kind in Geometry.kinds] if together else [name]
                for modality in names:
                    inputs[modality] = self._change(operation, modality, inputs[modality], drawn, batch.rows(modality))
                if together and self.masks and target is not None and isinstance(operation, Geometry):
                    flat = target if target.ndim == 4 else target[:, None]
                    target = operation.move(flat, drawn, True).reshape(target.shape)
        return dataclasses.replace(batch, inputs=inputs, target=target)

    def _change(self, operation: Operation, modality: str, x: Any, drawn: Tensor, rows: Tensor | None) -> Any:
        if isinstance(x, Tokens):
            values = self._change(operation, modality, x.values, drawn, rows)
            return Tokens(values.masked_fill(~x.mask[..., None], 0.0), x.mask)
        if rows is not None:
            if not len(rows):
                return x
            changed = self._apply(operation, modality, x.index_select(0, rows), drawn.index_select(0, rows))
            return x.index_copy(0, rows, changed)
        return self._apply(operation, modality, x, drawn)

    def _apply(self, operation: Operation, modality: str, x: Tensor, drawn: Tensor) -> Tensor:
        if isinstance(operation, Geometry):
            flat = x.reshape(len(x), -1, *x.shape[-2:])
            return operation.move(flat, drawn, False).reshape(x.shape)
        if not isinstance(operation, Value):
            raise TypeError(type(operation).__name__)
        if isinstance(operation, Colour):
            scale, offset = (t.reshape(1, -1, *(1,) * (x.ndim - 2)) for t in self.pixels[modality])
            return (operation.apply((x * scale + offset).clamp(0, 1), drawn, self.kinds[modality]) - offset) / scale
        return operation.apply(x, drawn, self.kinds[modality])


def _pixels(transforms: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Factor and offset that bring a channel back to [0, 1], by what the card's transforms did to pixels 0 to 255."""
    scale, offset = np.ones(1), np.zeros(1)
    for transform in reversed(transforms):
        if transform.name == "normalise":
            mean, deviation = np.asarray(transform.value).reshape(2, -1)
            scale, offset = scale * deviation, offset * deviation + mean
        elif transform.name == "scale":
            scale, offset = scale / transform.value[0], offset / transform.value[0]
        elif transform.name == "offset":
            offset = offset - transform.value[0]
    return torch.tensor(scale / 255, dtype=torch.float32), torch.tensor(offset / 255, dtype=torch.float32)


def _operations(entries: Any, modality: str) -> list[Operation]:
    if isinstance(entries, (str, Mapping)):
        entries = [entries]
    if not isinstance(entries, (list, tuple)):
        raise DataError(f"`augment.{modality}`: expected a list of operations. Found {type(entries).__name__}.")
    found = []
    for entry in entries:
        if isinstance(entry, Operation):
            found.append(entry)
            continue
        written = {entry: {}} if isinstance(entry, str) else entry
        name, options = next(iter(written.items())) if _single(written) else (None, None)
        options = {} if options is None else options
        if not isinstance(name, str) or not isinstance(options, Mapping):
            raise DataError(f"`augment.{modality}`: expected a name, or one name with its options. Found {entry!r}.")
        if name not in _KNOWN:
            raise unknown_name("augmentation", name, _KNOWN)
        kind = _KNOWN[name]
        known = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
        for option in options:
            if option not in known:
                raise unknown_name(f"option of augmentation {name!r}", str(option), known)
        try:
            found.append(kind(**options))
        except DataError as error:
            raise DataError(f"`augment.{modality}.{name}`: {error}") from error
    return found


def _single(entry: Any) -> bool:
    return isinstance(entry, Mapping) and len(entry) == 1


def _listed(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}


def _for(kind: str) -> list[str]:
    return [name for name in available() if kind in _KNOWN[name].kinds]


def _geometric() -> list[str]:
    return [name for name in available() if issubclass(_KNOWN[name], Geometry)]
