"""Linear probes: what each encoder's features can do, measured the same way for every method."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from equimodal._utils.precision import widest_float
from equimodal.diagnostics._outcomes import Outcomes, sample_terms
from equimodal.errors import MethodError, UnsupportedError
from equimodal.features import kind_of, pool
from equimodal.methods import BatchLike, Method, evaluating
from equimodal.tasks import Task, score

_PER_SAMPLE = 512  # pixels of each sample that a probe of a segmentation sees, evenly spaced
_MOST_PIXELS = 1 << 16  # and how many of all of them it is fitted on


def probe_scores(
    method: Method,
    train: Iterable[BatchLike],
    validation: Iterable[BatchLike],
    test: Iterable[BatchLike],
    penalties: Sequence[float] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0),
) -> dict[str, float]:
    r"""Test score of an affine map from the frozen, standardised features of each modality to the task's outputs.

    For classes this is multinomial logistic regression and its accuracy; in general the task's own loss and score
    (minus the MAE, the Dice of a 1x1 convolution ...). A penalty :math:`\frac\kappa2 \|W\|^2` is added, the sum is
    minimised by L-BFGS on training features, and :math:`\kappa` is chosen on validation data, an infinite one
    (a constant) among them. Features beyond the range of the training features count as its end. The same measure for
    every method, whatever heads it trained. Tokens are averaged first; so are maps, unless the task has one output per
    pixel.

    Args:
        method: trained; its encoders are not changed.
        train: batches to fit on; of segmentations, here and below, evenly spaced pixels (about 500 a sample).
        validation: batches to choose the penalty on.
        test: batches to report on.
        penalties: the values of kappa to choose from.

    Returns:
        modality -> score, higher is better; without those that one of the three parts has no sample of.

    Raises:
        MethodError: no penalty.
        UnsupportedError: features of several scales for a task with one output per pixel.
    """
    found = _probes(method, train, validation, test, penalties)
    return {m: float(score(method.task, output, target)) for m, (output, target, _, _) in found.items()}


def probe_outcomes(
    method: Method,
    train: Iterable[BatchLike],
    validation: Iterable[BatchLike],
    test: Iterable[BatchLike],
    penalties: Sequence[float] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0),
) -> dict[str, Outcomes]:
    """What the probe of each modality earned on every test sample; arguments as :func:`probe_scores`.

    Returns:
        modality -> outcomes in the order of ``test``; samples without the modality do not count there.
    """
    outcomes = {}
    for m, (output, target, rows, count) in _probes(method, train, validation, test, penalties).items():
        own = sample_terms(method.task, output, target)
        numerator = np.zeros((count, own.numerator.shape[1]), np.float32)
        denominator = np.zeros_like(numerator)
        numerator[rows], denominator[rows] = own.numerator, own.denominator
        outcomes[m] = Outcomes(numerator, denominator)
    return outcomes


_Probed = tuple[Tensor, Tensor, NDArray[np.int64], int]
"""Output and target of the test samples that have a modality, their positions, and how many there are in all."""


def _probes(
    method: Method,
    train: Iterable[BatchLike],
    validation: Iterable[BatchLike],
    test: Iterable[BatchLike],
    penalties: Sequence[float],
) -> dict[str, _Probed]:
    parts = [_features(method, batches) for batches in (train, validation, test)]
    _, _, rows, count = parts[-1]
    found = {}
    for m in method.modalities:
        if all(m in features for features, *_ in parts):
            own = [(features[m], targets[m]) for features, targets, *_ in parts]
            found[m] = (_probe(m, own, method.task, penalties), own[-1][1], np.asarray(rows[m], np.int64), count)
    return found


def under_training(probes: Mapping[str, float], reference: Mapping[str, float]) -> dict[str, float]:
    """How much each modality was left under-trained: the probe of an encoder trained alone minus this method's.

    Args:
        probes: of the method, from :func:`probe_scores`.
        reference: of encoders trained independently on the same data and budget (a control).

    Example:
        >>> under_training({"audio": 0.5}, {"audio": 0.75})
        {'audio': 0.25}
    """
    missing = sorted(set(probes) - set(reference))
    if missing:
        raise MethodError(f"`reference`: expected an entry for {missing}. Found {sorted(reference)}.")
    return {m: reference[m] - value for m, value in probes.items()}


@torch.no_grad()
def _features(
    method: Method, batches: Iterable[BatchLike]
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, list[int]], int]:
    """Features and targets by modality, the positions of these samples, and the number of all samples."""
    device = next(method.parameters()).device
    features: dict[str, list[Tensor]] = {m: [] for m in method.modalities}
    targets: dict[str, list[Tensor]] = {m: [] for m in method.modalities}
    rows: dict[str, list[int]] = {m: [] for m in method.modalities}
    position = 0
    with evaluating(method):
        for item in batches:
            batch = method.check_batch(item).to(device)
            for m in batch.inputs:
                own = batch.only(m)
                if own is None or own.target is None:
                    continue
                feature = method.multimodal.encode(own.inputs, None, [m])[m]
                if not method.task.dense:
                    feature = pool(feature)
                elif kind_of(feature) != "map":
                    raise UnsupportedError(
                        f"A probe of {m!r} needs one map per sample, since the task has one output per pixel. Found "
                        f"{kind_of(feature)} features. Switch probes off (probe=False)."
                    )
                feature, target = _spaced(feature.float(), own.target)
                features[m].append(feature)
                targets[m].append(target)
                mask = None if batch.present is None else batch.present.get(m)
                here = torch.ones(len(batch), dtype=torch.bool) if mask is None else mask.cpu()
                rows[m] += [position + i for i in here.nonzero()[:, 0].tolist()]
            position += len(batch)
    return (
        {m: torch.cat(h) for m, h in features.items() if h},
        {m: torch.cat(y) for m, y in targets.items() if y},
        rows,
        position,
    )


def _probe(modality: str, parts: Sequence[tuple[Tensor, Tensor]], task: Task, penalties: Sequence[float]) -> Tensor:
    """The output on the last part, of the penalty that is best on the second."""
    (x, y), validation, test = parts
    standardised = _Standardised(x)
    x, y = _thinned(x, y)
    x = standardised(x)
    constant = _fit(x[:, :0], y, task, 0.0, None)[1]
    best: tuple[float, Tensor] | None = None
    weight: Tensor | None = None
    # from the strongest penalty on, each begins where the last one ended; an infinite one leaves the constant
    for penalty in (math.inf, *sorted(penalties, reverse=True)):
        bias = constant
        if penalty < math.inf:
            weight, bias = _fit(x, y, task, penalty, weight)
        own = weight if weight is not None else x.new_zeros(task.outputs, x.shape[1])
        chosen = float(score(task, _apply(standardised(validation[0]), own, bias), validation[1]))
        if best is None or chosen > best[0]:
            best = (chosen, _apply(standardised(test[0]), own, bias))
    if best is None or not penalties:
        raise MethodError(f"`penalties`: expected at least one number to probe {modality!r}. Found none.")
    return best[1]


class _Standardised:
    """Features with the mean and deviation of the training features, and never beyond the range of these.

    An affine map says nothing about features that no training sample had: one that was almost constant in training, and
    is not later, would otherwise decide everything alone.
    """

    def __init__(self, x: Tensor) -> None:
        self.axes = [0, *range(2, x.ndim)]
        wide = x.to(widest_float(x.device))
        self.mean = wide.mean(self.axes, keepdim=True)
        deviation = wide.std(self.axes, unbiased=False, keepdim=True)
        constant = deviation <= 4 * torch.finfo(x.dtype).eps * self.mean.abs()
        self.scale = torch.where(constant, 0, 1 / torch.where(constant, 1, deviation))
        low, high = wide.amin(self.axes, keepdim=True), wide.amax(self.axes, keepdim=True)
        self.low, self.high = (((end - self.mean) * self.scale).to(x.dtype) for end in (low, high))

    def __call__(self, x: Tensor) -> Tensor:
        values = ((x.to(self.mean.dtype) - self.mean) * self.scale).to(x.dtype)
        return values.clamp(self.low, self.high)


def _spaced(feature: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Maps (B, d, *pixels) as (B, d, n, 1) of evenly spaced pixels, targets as (B, n, 1); vectors as they are."""
    if feature.ndim == 2:
        return feature, target
    step = _odd(-(-target[0].numel() // _PER_SAMPLE))
    return feature.flatten(2)[:, :, ::step, None].contiguous(), target.flatten(1)[:, ::step, None]


def _odd(step: int) -> int:
    """An even step would meet the same columns of every image."""
    return step + (step % 2 == 0)


def _thinned(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Maps (N, d, *pixels) as one map (1, d, n, 1) of some of the pixels; vectors as they are."""
    if x.ndim == 2:
        return x, y
    rows, labels = x.movedim(1, -1).flatten(0, -2), y.flatten()
    step = _odd(-(-len(labels) // _MOST_PIXELS))
    return rows[::step].mT[None, :, :, None], labels[::step][None, :, None]


def _apply(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The affine map at every sample or pixel."""
    if x.ndim == 2:
        return x @ weight.T + bias
    return torch.einsum("nd...,cd->nc...", x, weight) + bias.reshape(1, -1, *([1] * (x.ndim - 2)))


def _fit(x: Tensor, y: Tensor, task: Task, penalty: float, start: Tensor | None) -> tuple[Tensor, Tensor]:
    weight = torch.zeros(task.outputs, x.shape[1], device=x.device) if start is None else start.clone()
    weight.requires_grad_()
    bias = torch.zeros(task.outputs, device=x.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = task.loss(_apply(x, weight, bias), y) + penalty / 2 * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()
