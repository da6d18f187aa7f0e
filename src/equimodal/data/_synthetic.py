"""Data drawn from a latent variable model whose best possible result is known for every subset of modalities."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from equimodal._utils.arguments import one_of
from equimodal._utils.arrays import memory_limit
from equimodal.data._card import parse_card
from equimodal.data._dataset import Dataset, build
from equimodal.data._missing import Missing
from equimodal.data._synthetic_model import (
    Dials,
    Kind,
    Regime,
    best_accuracy,
    best_explained,
    code_size,
    draw,
    embed,
    regime_dials,
)
from equimodal.errors import DataError, MethodError, UnsupportedError, unknown_name

Array = npt.NDArray[Any]
PerModality = float | Sequence[float] | Mapping[str, float]


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
        """What each modality shows of each sample.

        Classes: (N, M) symbols, 0 to C - 1 the class, C nothing, from C + 1 a share. Segmentations: the same of every
        pixel, (N, M, H, W). Labels: (N, M, L, 2), the sign of a label and the sign of a share, 0 where it is not
        shown. Numbers: (N, M, 2), a noisy view of the plain part and a sign.
        """
        return self._symbols.copy()

    def bayes_accuracy(self, subset: Collection[str] | None = None) -> float:
        r"""The accuracy of the best classifier that sees the modalities in ``subset``; all by default.

        .. math:: (1 - q)\,[1 - (1 - c)\,E(S)] + q\,[S = \text{all} \;?\; 1 : c],\quad
            E(S) = r\,(1 - \max_{m \in S} a_m) + (1 - r) \prod_{m \in S} (1 - a_m)

        with information a, redundancy r, synergy q and chance c, 1/C of C classes or 1/2 of a label; E(S) is the
        probability that no modality of S shows the class of a sample that is not synergistic. Exact, since the inputs
        determine the symbols. Of a multi-label task it is the accuracy of each label.

        Raises:
            UnknownNameError: an unknown modality.
            UnsupportedError: a regression, see :meth:`bayes_r2`; or a segmentation, whose score has no closed form.

        Example:
            >>> synthetic(2, information=0.5, redundancy=0.0, classes=2).bayes_accuracy()
            0.875
        """
        if self.dials.task not in ("classification", "multilabel"):
            raise UnsupportedError(
                f"`bayes_accuracy`: expected classes or labels. Found a {self.dials.task}. A regression has bayes_r2; "
                "of a segmentation the best result is not known."
            )
        return best_accuracy(self.dials, self._subset(subset))

    def bayes_r2(self, subset: Collection[str] | None = None) -> float:
        r"""The share of a number's variance that the best prediction from ``subset`` explains; all by default.

        .. math:: (1 - q)\,\frac{p}{1 + p} + q\,[S = \text{all}], \quad p = \mathbf 1^\top \Sigma^{-1} \mathbf 1, \quad
            \Sigma_{ij} = r \min(v_i, v_j) + (1 - r)\,v_i\,\delta_{ij}, \quad v_m = (1 - a_m) / a_m

        over the modalities of the subset with :math:`a_m > 0`.

        Raises:
            UnknownNameError: an unknown modality.
            UnsupportedError: no regression.

        Example:
            >>> synthetic(2, task="regression", information=0.5, redundancy=0.0).bayes_r2()
            0.6666666666666666
        """
        if self.dials.task != "regression":
            raise UnsupportedError(f"`bayes_r2`: expected a regression. Found a {self.dials.task}.")
        return best_explained(self.dials, self._subset(subset))

    def _subset(self, subset: Collection[str] | None) -> set[str]:
        names = set(self.dials.modalities if subset is None else subset)
        for name in sorted(names - set(self.dials.modalities)):
            raise unknown_name("modality", name, self.dials.modalities)
        return names

    def bayes_accuracies(self) -> dict[tuple[str, ...], float]:
        """:meth:`bayes_accuracy` of every non-empty subset."""
        names = self.dials.modalities
        subsets = [c for size in range(1, len(names) + 1) for c in combinations(names, size)]
        return {subset: self.bayes_accuracy(subset) for subset in subsets}


def synthetic(
    modalities: int | Sequence[str] = 2,
    *,
    task: Kind = "classification",
    regime: Regime | None = None,
    classes: int = 4,
    information: PerModality | None = None,
    redundancy: float | None = None,
    synergy: float | None = None,
    speed: PerModality | None = None,
    features: int | None = None,
    size: int = 16,
    train: int = 2000,
    validation: int = 500,
    test: int = 1000,
    seed: int = 0,
    protocol: str | None = None,
    missing: Missing | Mapping[str, Any] | str | None = None,
) -> SyntheticDataset:
    r"""Data with dials for what each modality knows, what they share, what only all know, and how fast each is learnt.

    A sample has a class y, uniform over C. With probability ``synergy`` it is synergistic: each modality gets a random
    share, and the shares add up to y modulo C, so that any strict subset knows nothing. Otherwise modality m shows y
    with probability ``information[m]`` and nothing else; with probability ``redundancy`` the modalities use the same
    random number for that, so that the one that knows more knows all that the other knows. What a modality shows is a
    code among Gaussian nuisance features, mixed by an invertible map: nothing is lost, and the best accuracy is known.

    The same of other tasks. *Multi-label*: every label is a class of two. *Segmentation*: every image has four objects,
    each with a class (0 is that of the background), a code in every pixel, and its own luck. *Regression*: the number
    is :math:`\sqrt{1-q}\,t + \sqrt q \prod_m b_m` with t normal and :math:`b_m = \pm 1`; modality m shows
    :math:`b_m` and t with so much noise that alone it explains the share ``information[m]`` of t's variance, and the
    noise has the share ``redundancy`` in common.

    Args:
        modalities: how many (named ``m1``, ``m2`` ...), or their names. One is enough.
        task: kind of the target.
        regime: information, redundancy and synergy of a named setting; what is given beside it counts.
            ``"noise"``: the first modality knows 0.8, the others nothing. ``"weak"``: 0.8, and 0.3 each.
            ``"redundant"``: 0.7 each, redundancy 1. ``"synergy"``: 0.4 each, synergy 0.5: half of it is exclusive or.
        classes: C, at least 2; the labels of a multi-label task. A regression has none.
        information: a, 0 to 1, per modality: alone it reaches (1 - q)(a + (1 - a) / C) + q / C. By default 0.7.
        redundancy: r, 0 to 1. Leaves what each modality reaches alone as it is. By default 0.3.
        synergy: q, 0 to 1; with one modality it must be 0. By default 0.
        speed: above 0, up to 1, per modality: at 1 the map is linear and the code is three times as large as the
            nuisance; lower values shrink the code in proportion and add up to three nonlinear layers. By default from
            1 for the first to 0.3 for the last modality.
        features: numbers per modality (of a segmentation, per pixel), at least 2 C + 1, or 2 of a regression. By
            default 32, and as few as possible of a segmentation.
        size: pixels per side of a segmentation, even, at least 4.
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
        >>> synthetic(3, task="regression", regime="noise").bayes_r2()
        0.8
    """
    names = _names(modalities)
    _choice("task", task, get_args(Kind))
    _choice("regime", regime, (*get_args(Regime), None))
    for name, value, least in (
        ("classes", classes, 2),
        ("train", train, 1),
        ("validation", validation, 1),
        ("seed", seed, 0),
    ):
        _whole(name, value, least)
    _whole("test", test, 1)
    code = code_size(task, classes)
    features = (code if task == "segmentation" else max(32, code)) if features is None else features
    _whole("features", features, code)
    _whole("size", size, 4)
    if size % 2:
        raise DataError(f"`size`: expected an even number of pixels. Found {size}.")
    usual = regime_dials(regime, len(names))
    speeds = np.linspace(1.0, 0.3, len(names)).tolist() if speed is None else speed
    dials = Dials(
        modalities=names,
        classes=classes,
        information=_per_modality(
            "information", usual["information"] if information is None else information, names, 0.0
        ),
        redundancy=_share("redundancy", usual["redundancy"] if redundancy is None else redundancy),
        synergy=_share("synergy", usual["synergy"] if synergy is None else synergy),
        speed=_per_modality("speed", speeds, names, 1e-3),
        features=features,
        seed=seed,
        task=task,
        size=size if task == "segmentation" else 0,
    )
    if len(names) == 1 and dials.synergy > 0:
        raise DataError(f"`synergy`: expected 0 with one modality, which cannot need another. Found {dials.synergy}.")
    counts = (train, validation, test)
    _fits_memory(dials, sum(counts))
    target, symbols = draw(dials, counts)
    arrays = {f"input_{n}": embed(symbols[:, i], dials, i) for i, n in enumerate(names)}
    arrays |= {"target": target, "split": np.repeat(np.arange(3), counts)}
    # dials that say nothing are no options: the fingerprints of a classification are those of earlier versions
    said = {n: v for n, v in asdict(dials).items() if task != "classification" or n not in ("task", "size")}
    base = build(
        arrays,
        parse_card(_card(dials), "card synthetic"),
        origin="synthetic",
        protocol=protocol,
        options={**said, "counts": counts},
        missing=missing,
    )
    return SyntheticDataset(base, dials, symbols)


def _fits_memory(dials: Dials, count: int) -> None:
    """Refuse sizes for which there is no memory, before anything is drawn."""
    pixels = dials.size**2 if dials.size else 1
    needed = 8 * len(dials.modalities) * (2 * count * pixels * dials.features + dials.features**2)
    if needed > memory_limit():
        raise DataError(
            f"`train`, `validation`, `test`, `features`, `size`: expected data that fit half of the memory. Found "
            f"{count} samples of {len(dials.modalities)} modalities with {dials.features} numbers"
            f"{f' in each of {pixels} pixels' if dials.size else ''}, about {needed / 2**30:.3g} GiB while they are "
            "made. Choose smaller ones."
        )


def _card(dials: Dials) -> dict[str, Any]:
    names = {} if dials.task == "regression" else {"classes": [str(i) for i in range(dials.classes)]}
    kind = "image" if dials.task == "segmentation" else "vector"
    return {
        "format": 1,
        "name": "synthetic",
        "description": "Latent variable model with known best accuracy.",
        "source": "drawn on loading",
        "licence": "Apache-2.0",
        "modalities": {n: {"array": f"input_{n}", "kind": kind} for n in dials.modalities},
        "targets": {"target": {"array": "target", "task": dials.task, **names}},
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


def _choice(name: str, value: object, choices: tuple[Any, ...]) -> None:
    try:
        one_of(name, value, choices)
    except MethodError as error:
        raise DataError(str(error)) from None


def _names(modalities: int | Sequence[str]) -> tuple[str, ...]:
    if isinstance(modalities, int) and not isinstance(modalities, bool):
        _whole("modalities", modalities, 1)
        return tuple(f"m{i + 1}" for i in range(modalities))
    names = tuple(modalities) if isinstance(modalities, Sequence) and not isinstance(modalities, str) else ()
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
