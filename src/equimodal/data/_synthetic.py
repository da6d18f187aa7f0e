"""Data drawn from a latent variable model whose best possible accuracy is known for every subset of modalities."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from equimodal.data._card import parse_card
from equimodal.data._dataset import Dataset, build
from equimodal.data._missing import Missing
from equimodal.errors import DataError, unknown_name

Array = npt.NDArray[Any]
PerModality = float | Sequence[float] | Mapping[str, float]

_AMPLITUDE = 3.0  # of the code at speed 1, against a deviation of 1 of the nuisance
_DEPTH = 3  # nonlinear layers as speed goes to 0
_SLOPE = 0.3  # of the leaky rectifier; positive, so that every layer can be undone


@dataclass(frozen=True)
class Dials:
    """The parameters of the model, per modality where there are several values."""

    modalities: tuple[str, ...]
    classes: int
    information: tuple[float, ...]
    redundancy: float
    synergy: float
    speed: tuple[float, ...]
    features: int
    seed: int


class SyntheticDataset(Dataset):
    """A dataset of :func:`synthetic`, which knows the best accuracy any classifier can have."""

    def __init__(self, base: Dataset, dials: Dials, symbols: Array) -> None:
        super().__init__(
            base._store, base._modalities, base._rows, base._protocol, base._card, base._target, base._arrays,
            base._options,
        )  # fmt: skip
        self.dials = dials
        self._symbols = symbols

    @property
    def symbols(self) -> Array:
        """(N, M) latent symbol of each sample and modality: 0 to C - 1 the class, C nothing, from C + 1 a share."""
        return self._symbols.copy()

    def bayes_accuracy(self, subset: Collection[str] | None = None) -> float:
        r"""The accuracy of the best classifier that sees the modalities in ``subset``; all by default.

        .. math:: (1 - q)\,[1 - (1 - 1/C)\,E(S)] + q\,[S = \text{all} \;?\; 1 : 1/C],\quad
            E(S) = r\,(1 - \max_{m \in S} a_m) + (1 - r) \prod_{m \in S} (1 - a_m)

        with C classes, information a, redundancy r, synergy q; E(S) is the probability that no modality of S shows
        the class of a sample that is not synergistic. Exact, since the inputs determine the symbols.

        Raises:
            UnknownNameError: an unknown modality.

        Example:
            >>> synthetic(2, information=0.5, redundancy=0.0, classes=2).bayes_accuracy()
            0.875
        """
        dials = self.dials
        names = set(dials.modalities if subset is None else subset)
        for name in sorted(names - set(dials.modalities)):
            raise unknown_name("modality", name, dials.modalities)
        own = [a for name, a in zip(dials.modalities, dials.information, strict=True) if name in names]
        chance = 1 / dials.classes
        hidden = dials.redundancy * (1 - max(own, default=0.0)) + (1 - dials.redundancy) * prod(1 - a for a in own)
        together = 1.0 if len(names) == len(dials.modalities) else chance
        return (1 - dials.synergy) * (1 - (1 - chance) * hidden) + dials.synergy * together

    def bayes_accuracies(self) -> dict[tuple[str, ...], float]:
        """:meth:`bayes_accuracy` of every non-empty subset."""
        names = self.dials.modalities
        subsets = [c for size in range(1, len(names) + 1) for c in combinations(names, size)]
        return {subset: self.bayes_accuracy(subset) for subset in subsets}


def synthetic(
    modalities: int | Sequence[str] = 2,
    *,
    classes: int = 4,
    information: PerModality = 0.7,
    redundancy: float = 0.3,
    synergy: float = 0.0,
    speed: PerModality | None = None,
    features: int = 32,
    train: int = 2000,
    validation: int = 500,
    test: int = 1000,
    seed: int = 0,
    protocol: str | None = None,
    missing: Missing | Mapping[str, Any] | str | None = None,
) -> SyntheticDataset:
    """Data with dials for what each modality knows, what they share, what only all know, and how fast each is learnt.

    A sample has a class y, uniform over C. With probability ``synergy`` it is synergistic: each modality gets a random
    share, and the shares add up to y modulo C, so that any strict subset knows nothing. Otherwise modality m shows y
    with probability ``information[m]`` and nothing else; with probability ``redundancy`` the modalities use the same
    random number for that, so that the one that knows more knows all that the other knows. What a modality shows is a
    code among Gaussian nuisance features, mixed by an invertible map: nothing is lost, and the best accuracy is known.

    Args:
        modalities: how many (named ``m1``, ``m2`` ...), or their names. One is enough.
        classes: C, at least 2.
        information: a, 0 to 1, per modality: alone it reaches (1 - q)(a + (1 - a) / C) + q / C.
        redundancy: r, 0 to 1. Leaves the accuracy of each modality alone as it is.
        synergy: q, 0 to 1; with one modality it must be 0.
        speed: above 0, up to 1, per modality: at 1 the map is linear and the code is three times as large as the
            nuisance; lower values shrink the code in proportion and add up to three nonlinear layers. By default from
            1 for the first to 0.3 for the last modality.
        features: numbers per modality, at least 2 C + 1.
        train: training samples.
        validation: validation samples.
        test: test samples.
        seed: of everything drawn.
        protocol: ``"independent"``, the only one: all samples are independent draws.
        missing: modalities to take away from samples, see :class:`Missing`.

    Raises:
        DataError: a dial out of range.

    Example:
        >>> data = synthetic(["fast", "slow"], information={"fast": 0.6, "slow": 0.8}, speed=[1.0, 0.2])
        >>> round(data.bayes_accuracy(["fast"]), 6), round(data.bayes_accuracy(["slow"]), 6)
        (0.7, 0.85)
    """
    names = _names(modalities)
    for name, value, least in (
        ("classes", classes, 2),
        ("train", train, 1),
        ("validation", validation, 1),
        ("seed", seed, 0),
    ):
        _whole(name, value, least)
    _whole("test", test, 1)
    _whole("features", features, 2 * classes + 1)
    speeds = np.linspace(1.0, 0.3, len(names)).tolist() if speed is None else speed
    dials = Dials(
        modalities=names,
        classes=classes,
        information=_per_modality("information", information, names, 0.0),
        redundancy=_share("redundancy", redundancy),
        synergy=_share("synergy", synergy),
        speed=_per_modality("speed", speeds, names, 1e-3),
        features=features,
        seed=seed,
    )
    if len(names) == 1 and dials.synergy > 0:
        raise DataError(f"`synergy`: expected 0 with one modality, which cannot need another. Found {synergy}.")
    counts = (train, validation, test)
    labels, symbols = _draw(dials, counts)
    arrays = {f"input_{n}": embed(symbols[:, i], dials, i) for i, n in enumerate(names)}
    arrays |= {"target": labels, "split": np.repeat(np.arange(3), counts)}
    base = build(
        arrays,
        parse_card(_card(dials), "card synthetic"),
        origin="synthetic",
        protocol=protocol,
        options={**asdict(dials), "counts": counts},
        missing=missing,
    )
    return SyntheticDataset(base, dials, symbols)


def _draw(dials: Dials, counts: Sequence[int]) -> tuple[Array, Array]:
    """(N,) classes, balanced in each part, and (N, M) symbols."""
    rng = np.random.default_rng([dials.seed, 0])
    labels = np.concatenate([rng.permutation(np.arange(n) % dials.classes) for n in counts])
    size, count = len(labels), len(dials.modalities)
    own, common = rng.random((size, count)), rng.random((size, 1))
    luck = np.where(rng.random((size, 1)) < dials.redundancy, common, own)
    plain = np.where(luck < np.array(dials.information), labels[:, None], dials.classes)
    shares = rng.integers(dials.classes, size=(size, count))
    shares[:, -1] = (labels - shares[:, :-1].sum(1)) % dials.classes
    together = rng.random((size, 1)) < dials.synergy
    return labels, np.where(together, dials.classes + 1 + shares, plain)


def _layers(dials: Dials, modality: int) -> list[tuple[Array, Array]]:
    """Orthogonal matrices and shifts of the map; a leaky rectifier stands between two of them."""
    rng = np.random.default_rng([dials.seed, 1, modality])
    depth = round(_DEPTH * (1 - dials.speed[modality]))
    size = dials.features
    return [
        (np.linalg.qr(rng.standard_normal((size, size)))[0], 0.5 * rng.standard_normal(size)) for _ in range(depth + 1)
    ]


def embed(symbols: Array, dials: Dials, modality: int) -> Array:
    """(N, features) inputs that show ``symbols`` (N,)."""
    rng = np.random.default_rng([dials.seed, 2, modality])
    codes = 2 * dials.classes + 1
    values = rng.standard_normal((len(symbols), dials.features))
    values[:, :codes] = _AMPLITUDE * dials.speed[modality] * np.eye(codes)[symbols]
    for number, (matrix, shift) in enumerate(_layers(dials, modality)):
        if number:
            values = np.where(values > 0, values, _SLOPE * values)
        values = values @ matrix + shift
    return values.astype(np.float32)


def recover(inputs: Array, dials: Dials, modality: int) -> Array:
    """(N,) symbols from the inputs of :func:`embed`: the map undone."""
    values = inputs.astype(np.float64)
    for number, (matrix, shift) in reversed(list(enumerate(_layers(dials, modality)))):
        values = (values - shift) @ matrix.T
        if number:
            values = np.where(values > 0, values, values / _SLOPE)
    return np.asarray(values[:, : 2 * dials.classes + 1].argmax(1))


def _card(dials: Dials) -> dict[str, Any]:
    return {
        "format": 1,
        "name": "synthetic",
        "description": "Latent variable model with known best accuracy.",
        "source": "drawn on loading",
        "licence": "Apache-2.0",
        "modalities": {n: {"array": f"input_{n}", "kind": "vector"} for n in dials.modalities},
        "targets": {
            "target": {"array": "target", "task": "classification", "classes": [str(i) for i in range(dials.classes)]}
        },
        "protocols": {
            "independent": {
                "description": "independent draws",
                "array": "split",
                "train": 0,
                "validation": 1,
                "test": 2,
            }
        },
    }


def _names(modalities: int | Sequence[str]) -> tuple[str, ...]:
    if isinstance(modalities, int) and not isinstance(modalities, bool):
        _whole("modalities", modalities, 1)
        return tuple(f"m{i + 1}" for i in range(modalities))
    names = () if isinstance(modalities, (str, bool)) else tuple(modalities)
    if not names or len(set(names)) != len(names):
        raise DataError(f"`modalities`: expected a number of at least 1, or names that differ. Found {modalities!r}.")
    return names


def _per_modality(name: str, value: PerModality, names: tuple[str, ...], least: float) -> tuple[float, ...]:
    if isinstance(value, Mapping):
        if set(value) != set(names):
            raise DataError(f"`{name}`: expected a value for each of {list(names)}. Found {sorted(value)}.")
        return tuple(_share(f"{name}[{n!r}]", value[n], least) for n in names)
    if isinstance(value, Sequence):
        if len(value) != len(names):
            raise DataError(f"`{name}`: expected {len(names)} values, one per modality. Found {len(value)}.")
        return tuple(_share(f"{name}[{i}]", v, least) for i, v in enumerate(value))
    return (_share(name, value, least),) * len(names)


def _share(name: str, value: float, least: float = 0.0) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= 1:
        raise DataError(f"`{name}`: expected a number from {least:g} to 1. Found {value!r}.")
    return float(value)


def _whole(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise DataError(f"`{name}`: expected a whole number of at least {least}. Found {value!r}.")
