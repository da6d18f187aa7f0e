"""The latent variable model of the synthetic data: what is drawn, what each modality shows, and what can be known."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Kind = Literal["classification", "multilabel", "regression", "segmentation"]
Regime = Literal["noise", "weak", "redundant", "synergy"]

_AMPLITUDE = 3.0  # of the code at speed 1, against a deviation of 1 of the nuisance
_DEPTH = 3  # nonlinear layers as speed goes to 0
_SLOPE = 0.3  # of the leaky rectifier; positive, so that every layer can be undone
_GRID = 2  # objects per row and per column of an image


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
    task: Kind = "classification"
    size: int = 0  # pixels per side of a segmentation


def regime_dials(regime: Regime | None, modalities: int) -> dict[str, Any]:
    """Information, redundancy and synergy of a named setting; of none the general ones."""
    others = modalities - 1
    settings: Mapping[Regime | None, dict[str, Any]] = {
        None: {"information": 0.7, "redundancy": 0.3, "synergy": 0.0},
        "noise": {"information": [0.8, *[0.0] * others], "redundancy": 0.0, "synergy": 0.0},
        "weak": {"information": [0.8, *[0.3] * others], "redundancy": 0.0, "synergy": 0.0},
        "redundant": {"information": 0.7, "redundancy": 1.0, "synergy": 0.0},
        "synergy": {"information": 0.4, "redundancy": 0.0, "synergy": 0.5},
    }
    return settings[regime]


# ---- what is drawn ---------------------------------------------------------------------------------------------------


def draw(dials: Dials, counts: Sequence[int]) -> tuple[Array, Array]:
    """Targets of all samples, and what each modality shows of them, (N, M, ...)."""
    makers = {"multilabel": _draw_labels, "regression": _draw_numbers, "segmentation": _draw_maps}
    return makers.get(dials.task, _draw_classes)(dials, counts)


def _draw_classes(dials: Dials, counts: Sequence[int]) -> tuple[Array, Array]:
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


def _draw_labels(dials: Dials, counts: Sequence[int]) -> tuple[Array, Array]:
    """(N, L) labels, and (N, M, L, 2) signs: of the label, and of a share; 0 where it is not shown."""
    rng = np.random.default_rng([dials.seed, 0])
    size, count = sum(counts), len(dials.modalities)
    labels = rng.integers(2, size=(size, dials.classes))
    truth = 2 * labels[:, None] - 1
    own, common = rng.random((size, count, dials.classes)), rng.random((size, 1, dials.classes))
    luck = np.where(rng.random((size, 1, dials.classes)) < dials.redundancy, common, own)
    plain = np.where(luck < np.array(dials.information)[:, None], truth, 0)
    shares = 2 * rng.integers(2, size=(size, count, dials.classes)) - 1
    shares[:, -1] = truth[:, 0] * shares[:, :-1].prod(1)
    together = rng.random((size, 1, dials.classes)) < dials.synergy
    return labels, np.stack([np.where(together, 0, plain), np.where(together, shares, 0)], axis=-1)


def _draw_numbers(dials: Dials, counts: Sequence[int]) -> tuple[Array, Array]:
    """(N,) numbers of variance 1, and (N, M, 2): a noisy view of the plain part, and a sign of the synergistic one."""
    rng = np.random.default_rng([dials.seed, 0])
    size, count = sum(counts), len(dials.modalities)
    plain, own = rng.standard_normal(size), rng.standard_normal((size, count))
    steps, signs = rng.standard_normal((size, count)), 2.0 * rng.integers(2, size=(size, count)) - 1
    information = np.array(dials.information)
    noise = _noise(dials)
    order = np.argsort(noise)
    common = np.zeros((size, count))  # of one random walk: what is noisier knows nothing more
    common[:, order] = np.cumsum(steps * np.sqrt(np.diff(noise[order], prepend=0.0)), axis=1)
    views = plain[:, None] + np.sqrt(dials.redundancy) * common
    views = np.sqrt(information) * (views + np.sqrt((1 - dials.redundancy) * noise) * own)
    views = np.where(information > 0, views, own)
    target = np.sqrt(1 - dials.synergy) * plain + np.sqrt(dials.synergy) * signs.prod(1)
    return target, np.stack([views, signs], axis=-1)


def _noise(dials: Dials) -> Array:
    """Variance of the noise with which each modality sees the plain part; 0 stands for one that sees none of it."""
    information = np.array(dials.information)
    return np.where(information > 0, (1 - information) / np.where(information > 0, information, 1), 0.0)


def _draw_maps(dials: Dials, counts: Sequence[int]) -> tuple[Array, Array]:
    """(N, H, W) classes and (N, M, H, W) symbols: objects, each as a sample of :func:`_draw_classes`, on background."""
    objects = _GRID * _GRID
    labels, symbols = _draw_classes(dials, [objects * n for n in counts])
    rng = np.random.default_rng([dials.seed, 3])
    count, cell = len(labels), dials.size // _GRID
    sides = rng.integers(cell // 2, cell + 1, size=(count, 2))
    starts = rng.integers(0, cell - sides + 1)
    place = np.arange(cell)
    inside = (place >= starts[..., None]) & (place < (starts + sides)[..., None])  # (objects, axis, cell)
    shape = inside[:, 0, :, None] & inside[:, 1, None, :]
    target = np.where(shape, labels[:, None, None], 0)
    shown = np.where(shape[:, None], symbols[:, :, None, None], dials.classes)
    return _tiled(target[:, None])[:, 0], _tiled(shown)


def _tiled(cells: Array) -> Array:
    """(N, channels, H, W) images from the cells (N * objects, channels, cell, cell) of each."""
    channels, cell = cells.shape[1], cells.shape[2]
    grid = cells.reshape(-1, _GRID, _GRID, channels, cell, cell).transpose(0, 3, 1, 4, 2, 5)
    return grid.reshape(len(grid), channels, _GRID * cell, _GRID * cell)


# ---- what a modality's input is --------------------------------------------------------------------------------------


def code_size(task: Kind, classes: int) -> int:
    """Features that the code takes."""
    return {"multilabel": 2 * classes, "regression": 2}.get(task, 2 * classes + 1)


def embed(symbols: Array, dials: Dials, modality: int) -> Array:
    """Inputs that show ``symbols`` (N, ...): vectors (N, features), or images (N, features, H, W)."""
    symbolic = dials.task in ("classification", "segmentation")
    rows: Array = symbols.reshape(-1, 1) if symbolic else symbols.reshape(len(symbols), -1)
    rng = np.random.default_rng([dials.seed, 2, modality])
    values = rng.standard_normal((len(rows), dials.features))
    size = dials.speed[modality] * _AMPLITUDE
    if symbolic:
        codes = code_size(dials.task, dials.classes)
        values[:, :codes] = size * np.eye(codes)[rows[:, 0]]
    else:
        columns = rows.shape[1] if dials.task == "multilabel" or dials.synergy > 0 else 1
        values[:, :columns] = size * rows[:, :columns]
    for number, (matrix, shift) in enumerate(_layers(dials, modality)):
        if number:
            values = np.where(values > 0, values, _SLOPE * values)
        values = values @ matrix + shift
    inputs = values.astype(np.float32)
    if dials.task != "segmentation":
        return inputs
    return np.ascontiguousarray(inputs.reshape(*symbols.shape, -1).transpose(0, 3, 1, 2))


def recover(inputs: Array, dials: Dials, modality: int) -> Array:
    """The symbols of a classification (N,) or segmentation (N, H, W), from the inputs of :func:`embed`."""
    if inputs.ndim == 4:
        rows = inputs.transpose(0, 2, 3, 1)
        return recover(rows.reshape(-1, rows.shape[-1]), dials, modality).reshape(rows.shape[:-1])
    return np.asarray(unmixed(inputs, dials, modality)[:, : 2 * dials.classes + 1].argmax(1))


def unmixed(inputs: Array, dials: Dials, modality: int) -> Array:
    """Code and nuisance (N, features): the map undone."""
    values = inputs.astype(np.float64)
    for number, (matrix, shift) in reversed(list(enumerate(_layers(dials, modality)))):
        values = (values - shift) @ matrix.T
        if number:
            values = np.where(values > 0, values, values / _SLOPE)
    return values


def _layers(dials: Dials, modality: int) -> list[tuple[Array, Array]]:
    """Orthogonal matrices and shifts of the map; a leaky rectifier stands between two of them."""
    rng = np.random.default_rng([dials.seed, 1, modality])
    depth = round(_DEPTH * (1 - dials.speed[modality]))
    size = dials.features
    return [
        (np.linalg.qr(rng.standard_normal((size, size)))[0], 0.5 * rng.standard_normal(size)) for _ in range(depth + 1)
    ]


# ---- what can be known -----------------------------------------------------------------------------------------------


def best_accuracy(dials: Dials, subset: Collection[str]) -> float:
    """Of the best classifier of a class, or of each label, that sees ``subset``."""
    own = [a for name, a in zip(dials.modalities, dials.information, strict=True) if name in subset]
    chance = 0.5 if dials.task == "multilabel" else 1 / dials.classes
    hidden = dials.redundancy * (1 - max(own, default=0.0)) + (1 - dials.redundancy) * prod(1 - a for a in own)
    together = 1.0 if len(set(subset)) == len(dials.modalities) else chance
    return (1 - dials.synergy) * (1 - (1 - chance) * hidden) + dials.synergy * together


def best_explained(dials: Dials, subset: Collection[str]) -> float:
    """Share of a number's variance that its conditional mean, given ``subset``, explains."""
    informative = [i for i, name in enumerate(dials.modalities) if name in subset and dials.information[i] > 0]
    noise = _noise(dials)[informative]
    covariance = dials.redundancy * np.minimum.outer(noise, noise) + (1 - dials.redundancy) * np.diag(noise)
    if (noise == 0).any():
        plain = 1.0
    else:
        precision = float(np.linalg.pinv(covariance).sum())  # of equal views the pseudo-inverse counts one
        plain = precision / (1 + precision)
    together = 1.0 if len(set(subset)) == len(dials.modalities) else 0.0
    return (1 - dials.synergy) * plain + dials.synergy * together
