"""Modalities that are taken away from samples: at random with seeded rates, or as a mask file says."""

from __future__ import annotations

import copy
import hashlib
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from equimodal.data._card import Part
from equimodal.data._checks import Used
from equimodal.data._missing_file import read_mask
from equimodal.data._source import Rows
from equimodal.data._splits import S
from equimodal.errors import DataError, unknown_name

Mask = npt.NDArray[np.bool_]
PARTS: tuple[Part, ...] = ("train", "validation", "test")
ALL = "all"
"""Stands for every modality that has no rate of its own."""


@dataclass(frozen=True)
class Missing:
    r"""Which modalities samples lack, on top of what the data lack by themselves.

    Modality m of sample i has a number :math:`u_{im}`, uniform in [0, 1), that depends on ``seed``, the name of the
    modality and the row of the sample in the dataset alone. It is taken away if :math:`u_{im} < r_m`; a sample that
    would lose everything it has keeps :math:`\arg\max_m u_{im} / r_m`. So a sample lacks the same in every epoch, and
    what is absent at a rate is absent at every higher rate. Because one modality stays, the share that is absent is
    less than the rate: :math:`r - r^M / M` for M modalities of equal rate r.

    Args:
        rates: modality -> r in [0, 1]; ``"all"`` is every modality without a rate of its own. Or train, validation,
            test -> such a mapping, for rates that differ; a part without an entry loses nothing. Or the same as text:
            ``"audio=0.5,text=0.1"``, ``"train:audio=0.5;test:all=0.3"``.
        file: mask of what is present (.csv, .npz or .npy), applied before the rates; see
            ``docs/missing-modalities.md``.
        seed: of the random numbers.

    Raises:
        DataError: a rate outside [0, 1], a part or modality without a number, a seed below 0.

    Example:
        >>> Missing("train:audio=0.5,text=0.1;test:all=0.3").rates["train"]
        {'audio': 0.5, 'text': 0.1}
    """

    rates: Mapping[str, Any] | str = field(default_factory=dict)
    file: str | Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        given = _parse(self.rates) if isinstance(self.rates, str) else dict(self.rates)
        object.__setattr__(self, "rates", _by_part(given))
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise DataError(f"`missing_seed`: expected a whole number of at least 0. Found {self.seed!r}.")

    @classmethod
    def of(cls, value: Missing | Mapping[str, Any] | str | None) -> Missing | None:
        """``value`` as a :class:`Missing`; nothing and an empty text are ``None``."""
        if isinstance(value, Missing):
            return value
        return cls(value) if value else None

    def record(self) -> dict[str, Any]:
        """Plain values that say what is taken away; the file by its content, so that it may be moved."""
        digest = None if self.file is None else hashlib.sha256(Path(self.file).read_bytes()).hexdigest()
        return {"rates": self.rates, "seed": self.seed, "file_sha256": digest}

    def apply(
        self,
        present: Mapping[str, Mask],
        names: Sequence[str],
        rows: Mapping[Part, Rows],
        used: Used | None,
        size: int,
    ) -> dict[str, Mask]:
        """Modality -> (N,) presence, for the modalities that some sample lacks now.

        Raises:
            DataError: the file is malformed, or leaves a sample without anything.
            UnknownNameError: a rate for a modality that the data do not have.
        """
        table = np.stack([present.get(m, np.ones(size, np.bool_)) for m in names], axis=1)
        if self.file is not None:
            table &= read_mask(Path(self.file), names, size, used)
            _refuse_empty(table, rows, Path(self.file))
        draws = np.stack([uniforms(size, m, self.seed) for m in names], axis=1)
        for part, own in cast("dict[Part, dict[str, float]]", self.rates).items():
            if part in rows:
                rate = rates_of(own, names)
                table[rows[part]] = kept(table[rows[part]], rate, draws[rows[part]])
        return {m: np.ascontiguousarray(table[:, i]) for i, m in enumerate(names) if not table[:, i].all()}


def take_away(split: S, missing: Missing | Mapping[str, Any] | str) -> S:
    """The same part of a dataset, with further modalities absent; everything else stays as it was prepared.

    For evaluation: the model still gets inputs in the units that it was trained on. A mask file must name its
    samples by ``row``, or hold all of them.

    Args:
        split: part of a dataset; it is not changed.
        missing: what to take away; rates of other parts are ignored.

    Example:
        >>> from equimodal.data import load_avdigits
        >>> take_away(load_avdigits().test, "audio=1").present["audio"].any()
        tensor(False)
    """
    taken, store, names = Missing.of(missing), split._store, split.modalities
    if taken is None:
        return split
    known = {m: mask.numpy() for m, mask in store.present.items()}
    rows: dict[Part, Rows] = {cast(Part, split.part): split.rows.numpy()}
    present = taken.apply(known, names, rows, None, store.size)
    made: S = copy.copy(split)
    made._store = replace(store, present={m: torch.from_numpy(t) for m, t in present.items()})
    return made


def uniforms(size: int, modality: str, seed: int, draw: int = 0) -> npt.NDArray[np.float64]:
    """(size,) numbers in [0, 1), one per row of a dataset; a row's number does not depend on ``size``."""
    return np.random.default_rng([seed, draw, zlib.crc32(modality.encode())]).random(size)


def rates_of(rates: Mapping[str, float], names: Sequence[str]) -> npt.NDArray[np.float64]:
    """(M,) rates in the order of ``names``; a name that the data do not have is refused."""
    for name in rates:
        if name not in names and name != ALL:
            raise unknown_name("modality in the missing rates", name, [*names, ALL])
    return np.array([rates.get(m, rates.get(ALL, 0.0)) for m in names])


def kept(available: Mask, rates: npt.NDArray[np.float64], draws: npt.NDArray[np.float64]) -> Mask:
    """What is left: see :class:`Missing`.

    Args:
        available: (N, M) what the samples have.
        rates: (M,).
        draws: (N, M) uniform numbers.

    Returns:
        (N, M); a sample that had something has something.

    Example:
        >>> kept(np.ones((2, 2), bool), np.array([0.5, 0.5]), np.array([[0.2, 0.9], [0.3, 0.4]])).tolist()
        [[False, True], [False, True]]
    """
    left = available & (draws >= rates)
    last = np.where(available, draws / np.maximum(rates, 1e-300), -1.0).argmax(axis=1)
    empty = np.flatnonzero(~left.any(axis=1) & available.any(axis=1))
    left[empty, last[empty]] = True
    return np.asarray(left)


def in_training(present: Mapping[str, Mask], rows: Mapping[Part, Rows], origin: str) -> None:
    """Refuse a modality that no training sample has: its encoder would stay as it was initialised."""
    for name, mask in present.items():
        if not mask[rows["train"]].any():
            raise DataError(
                f"{origin}: modality {name!r}: expected training samples that have it. Found none of "
                f"{len(rows['train'])}. Leave it out (modalities=...), or lower its missing rate."
            )


def _refuse_empty(table: Mask, rows: Mapping[Part, Rows], file: Path) -> None:
    every = np.sort(np.concatenate(list(rows.values())))
    bad = every[~table[every].any(axis=1)]
    if len(bad):
        raise DataError(
            f"{file}: expected at least one modality per sample, with what the data lack by themselves. Found none for "
            f"{len(bad)} sample(s), first dataset rows {bad[:8].tolist()}. Mark one modality of each as present (1)."
        )


def _parse(text: str) -> dict[str, Any]:
    """``"audio=0.5,text=0.1"`` or ``"train:audio=0.5;test:all=0.3"`` as nested mappings."""
    pieces = [p for p in re.split(r"[;\n]", text) if p.strip()]
    found: dict[str, Any] = {}
    for piece in pieces:
        part, colon, entries = piece.rpartition(":")
        own: dict[str, Any] = {}
        for entry in entries.split(","):
            name, equals, value = entry.partition("=")
            if name.strip() in own:
                raise _wrong(f"{text!r}, in which {name.strip()!r} stands twice")
            try:
                own[name.strip()] = float(value)
            except ValueError:
                raise _wrong(f"{text!r} (at {entry.strip()!r})") from None
            if not equals or not name.strip():
                raise _wrong(f"{text!r} (at {entry.strip()!r})")
        twice = [n for n in own if n in found.get(part.strip(), {})] if colon else []
        if twice:
            raise _wrong(f"{text!r}, in which {part.strip()}:{twice[0]} stands twice")
        if colon:
            found.setdefault(part.strip(), {}).update(own)
        elif len(pieces) > 1:
            raise _wrong(f"{text!r}, of which only some have a part")
        else:
            found = own
    return found


def _wrong(found: str) -> DataError:
    return DataError(
        "`missing`: expected rates such as audio=0.5,text=0.1 for all parts, or train:audio=0.5;test:all=0.3. "
        f"Found {found}."
    )


def _by_part(given: Mapping[str, Any]) -> dict[Part, dict[str, float]]:
    nested = [isinstance(v, Mapping) for v in given.values()]
    if any(nested) and not all(nested):
        raise _wrong(f"{dict(given)!r}, of which only some have a part")
    if not any(nested):
        given = dict.fromkeys(PARTS, given) if given else {}
    found: dict[Part, dict[str, float]] = {}
    for part, rates in given.items():
        if part not in PARTS:
            raise unknown_name("part in the missing rates", part, PARTS)
        for name, rate in rates.items():
            if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate <= 1:
                raise DataError(f"`missing`: {part}: {name}: expected a rate from 0 to 1. Found {rate!r}.")
        found[part] = {str(m): float(r) for m, r in rates.items()}
    return found
