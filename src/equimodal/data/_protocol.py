"""Named split protocols: which sample is in which part, checked against the groups that must not be shared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from equimodal.data._card import Carve, Part, ProtocolCard
from equimodal.data._source import Rows
from equimodal.errors import DataError

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Protocol:
    """How a dataset was split; its text is printed with every number.

    Args:
        name: name of the protocol.
        description: one sentence for people.
        groups: what may be shared between samples (speaker, patient ...); empty if the data name nothing.
        disjoint: the protocol claims that no group is on two sides.
        verified: the claim was checked on the arrays (an overlap raises, so this is the same as ``disjoint``).
        shared: group -> how many of its values occur in more than one part.
        validation: how the validation part was made.
        unused: samples in no part.
    """

    name: str
    description: str
    groups: tuple[str, ...]
    disjoint: bool
    verified: bool
    shared: Mapping[str, int]
    validation: str
    unused: int

    def __str__(self) -> str:
        if not self.groups:
            state = "no groups declared"
        elif self.disjoint:
            state = f"disjoint in {' and '.join(self.groups)} (verified)"
        else:
            state = "OVERLAPPING: " + ", ".join(f"{n} {g} in more than one part" for g, n in self.shared.items())
        return f"{self.name} ({state}; validation: {self.validation})"


def split_rows(
    card: ProtocolCard, values: Array, target: Array | None, groups: Mapping[str, Array], origin: str, file: str
) -> tuple[dict[Part, Rows], Protocol]:
    """Rows of each part under ``card``, and the record of how they were made.

    Args:
        card: the protocol.
        values: (N,) split value of each sample.
        target: (N,) class of each sample, if the target is a class.
        groups: group name -> (N,) value of each sample.
        origin: the data, for messages.
        file: the card, for messages; empty where arguments are in its place.

    Raises:
        DataError: an empty part, a group on two sides, or a carving that leaves a part empty.
    """
    rows: dict[Part, Rows] = {}
    for part, listed in card.values.items():
        mask = np.zeros(len(values), dtype=bool)
        for value in listed:
            # comparing text with numbers would be silently false everywhere
            mask |= values == (str(value) if values.dtype.kind == "U" else value)
        rows[part] = np.flatnonzero(mask)
        if not mask.any():
            if not file:
                raise DataError(
                    f"{origin}: `split`: expected at least one {part} sample ({listed[0]!r}). Found the values "
                    f"{np.unique(values)[:12].tolist()}. Mark some."
                )
            raise DataError(
                f"{origin}: split {part!r} of protocol {card.name!r}: expected at least one sample with "
                f"`{card.column.array}` in {list(listed)}. Found an empty split; the array holds "
                f"{np.unique(values)[:12].tolist()}. Correct `protocols.{card.name}.{part}` of {file}."
            )
    if card.carve is None:
        how = f"the samples with `{card.column.array}` in {list(card.values['validation'])}"
    else:
        where = f"protocol {card.name!r}: expected `validation: {{carve: {card.carve.fraction}}}`"
        where = where if file else f"`validation`: expected a share of {card.carve.fraction}"
        rows["train"], rows["validation"], how = _carve(card.carve, rows["train"], target, groups, f"{origin}: {where}")
    return rows, Protocol(
        name=card.name,
        description=card.description,
        groups=card.groups,
        disjoint=bool(card.groups) and not card.overlapping,
        verified=bool(card.groups) and not card.overlapping,
        shared=_shared(card, rows, groups, origin, file),
        validation=how,
        unused=len(values) - sum(len(r) for r in rows.values()),
    )


def _carve(
    carve: Carve, train: Rows, target: Array | None, groups: Mapping[str, Array], where: str
) -> tuple[Rows, Rows, str]:
    generator = np.random.default_rng(carve.seed)
    wanted = round(carve.fraction * len(train))
    if carve.by in groups:
        values = groups[carve.by][train]
        names = generator.permutation(np.unique(values))
        # whole groups until the share is reached; the last one is left for training in any case
        sizes = np.cumsum([(values == name).sum() for name in names[:-1]])
        chosen = np.isin(values, names[: int(np.searchsorted(sizes, wanted)) + 1][: len(names) - 1])
        unit = f"whole values of group {carve.by!r}"
    else:
        strata = target[train] if carve.by == "class" and target is not None else np.zeros(len(train), np.int64)
        chosen = np.zeros(len(train), dtype=bool)
        for stratum in np.unique(strata):
            members = generator.permutation(np.flatnonzero(strata == stratum))
            chosen[members[: min(round(carve.fraction * len(members)), len(members) - 1)]] = True
        unit = "stratified by class" if carve.by == "class" and target is not None else "drawn at random"
    if not chosen.any() or chosen.all():
        raise DataError(
            f"{where} to leave samples on both sides. Found {int(chosen.sum())} of {len(train)} training samples taken "
            f"({unit}). Change the share."
        )
    how = f"{int(chosen.sum())} of {len(train)} training samples, {unit} (share {carve.fraction}, seed {carve.seed})"
    return train[~chosen], train[chosen], how


def _shared(
    card: ProtocolCard, rows: Mapping[Part, Rows], groups: Mapping[str, Array], origin: str, file: str
) -> dict[str, int]:
    shared: dict[str, int] = {}
    for group in card.groups:
        parts = {part: np.unique(groups[group][r]) for part, r in rows.items()}
        names, counts = np.unique(np.concatenate(list(parts.values())), return_counts=True)
        both = names[counts > 1]
        if len(both) and not card.overlapping:
            sides = [part for part, own in parts.items() if np.isin(both[:1], own).any()]
            where, declared = (
                (f"protocol {card.name!r}", "overlapping: true") if file else ("`split`", "overlapping=True")
            )
            raise DataError(
                f"{origin}: {where}: expected no {group} in more than one split. Found {len(both)}: "
                f"{both[:8].tolist()} (the first one in {' and '.join(sides)}). Split by {group}, or declare "
                f"`{declared}`, which is then printed with every number."
            )
        shared[group] = len(both)
    return shared
