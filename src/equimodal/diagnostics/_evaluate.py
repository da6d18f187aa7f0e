"""Scores of a method: fused, per modality, per inference rule."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from equimodal._utils.shapes import joined
from equimodal.diagnostics._details import score_details
from equimodal.diagnostics._outcomes import Outcomes, sample_terms
from equimodal.diagnostics._predictions import SamplePredictions
from equimodal.errors import BatchError, SmallValidationWarning
from equimodal.inference import Inference
from equimodal.methods import BatchLike, Method, evaluating, outputs_on
from equimodal.tasks import distribution_of, named_metrics, score


@dataclass(frozen=True)
class Evaluation:
    """Scores of a method on one split.

    Args:
        score: of the method's prediction (higher is better).
        loss: task loss of the prediction.
        unimodal: modality -> score of its own output, over the samples that have it; empty where the method has none.
        metrics: name -> value of the task's metrics.
        samples: how many samples were seen.
        rule: the inference rule in force.
        counts: modality -> how many samples have it, which are those that its own output is scored over.
        details: what stands behind the score, see :func:`~equimodal.diagnostics.score_details`; empty unless asked for.
    """

    score: float
    loss: float
    unimodal: Mapping[str, float]
    metrics: Mapping[str, float]
    samples: int
    rule: str
    counts: Mapping[str, int] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Collected:
    """All outputs of a method on some samples, as its rule reads and makes them."""

    fused: Tensor | None
    raw: dict[str, Tensor]
    output: Tensor
    unimodal: dict[str, Tensor]
    present: dict[str, Tensor]  # to the inference rule
    there: dict[str, Tensor]  # in the batches
    target: Tensor
    index: Tensor
    rule: str


@torch.no_grad()
def collect(method: Method, batches: Iterable[BatchLike]) -> Collected:
    """One pass over ``batches``, in evaluation mode."""
    device = next(method.parameters()).device
    fused: list[Tensor] = []
    output: list[Tensor] = []
    target: list[Tensor] = []
    raw: list[dict[str, Tensor]] = []
    unimodal: list[dict[str, Tensor]] = []
    present: dict[str, list[Tensor]] = {m: [] for m in method.modalities}
    there: dict[str, list[Tensor]] = {m: [] for m in method.modalities}
    index: list[Tensor] = []
    rule = ""
    for item in batches:
        batch = method.check_batch(item).to(device)
        with evaluating(method):
            joint, alone, presence = method.outputs(batch.inputs, batch.present)
            prediction = method.combine(joint, alone, presence)
        rule = prediction.rule
        output.append(prediction.output)
        if joint is not None:
            fused.append(joint)
        every = torch.ones(len(batch), dtype=torch.bool, device=device)
        for m in method.modalities:
            own = None if presence is None else presence.get(m)
            present[m].append(every if own is None else own)
            # a method of one modality has an output for samples without it, which says nothing about the modality
            rows = batch.present.get(m) if batch.present is not None else None
            there[m].append(torch.zeros_like(every) if m not in batch.inputs else every if rows is None else rows)
        raw.append({m: alone[m] for m in method.modalities if m in alone})
        unimodal.append({m: prediction.unimodal.get(m, z) for m, z in raw[-1].items()})
        target.append(cast(Tensor, batch.target))
        seen = sum(map(len, index))
        index.append(torch.arange(seen, seen + len(batch)) if batch.index is None else batch.index.cpu())
    if not target:
        raise BatchError("`batches`: expected at least one batch. Found none.")
    return Collected(
        torch.cat(fused) if fused else None,
        joined(raw),  # a batch may leave a modality out; its rows are not read
        torch.cat(output),
        joined(unimodal),
        {m: torch.cat(p) for m, p in present.items()},
        {m: torch.cat(p) for m, p in there.items()},
        torch.cat(target),
        torch.cat(index),
        rule,
    )


def _score(method: Method, output: Tensor, target: Tensor) -> float:
    return float(score(method.task, output, target))


def evaluate(
    method: Method,
    batches: Iterable[BatchLike],
    metrics: bool | Sequence[str] = False,
    details: bool = False,
    classes: Sequence[str] = (),
) -> Evaluation:
    """Scores of ``method`` over all samples of ``batches``, in evaluation mode.

    Args:
        method: trained.
        batches: any iterable of batches with targets; the whole of it counts, whatever the batch sizes.
        metrics: compute the task's torchmetrics too (needs the ``cli`` extra); names add others, as ``["f1",
            "auroc"]``, see :func:`equimodal.tasks.named_metrics`.
        details: say what stands behind the score too.
        classes: names of the classes, for the details.

    Raises:
        UnknownNameError: no such metric for the task.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from equimodal import Batch, Classification, MultimodalModel
        >>> from equimodal.fusion import Concat
        >>> from equimodal.methods import Ensemble
        >>> model = MultimodalModel({"a": nn.Linear(2, 2)}, Concat({"a": 2}), nn.Linear(2, 2))
        >>> evaluate(Ensemble(model, Classification(2)), [Batch({"a": torch.eye(2)}, torch.tensor([0, 1]))]).samples
        2
    """
    return evaluation_of(method, collect(method, batches), metrics, details, classes)


def evaluation_of(
    method: Method,
    found: Collected,
    metrics: bool | Sequence[str] = False,
    details: bool = False,
    classes: Sequence[str] = (),
) -> Evaluation:
    """As :func:`evaluate`, of outputs that are there already."""
    unimodal = {}
    for m, z in found.unimodal.items():
        rows = found.there[m]
        if bool(rows.any()):
            unimodal[m] = _score(method, z[rows], found.target[rows])
    values: dict[str, float] = {}
    if metrics:
        collection = method.task.metrics().to(found.output.device)
        probabilities, target = method.task.probabilities(found.output), found.target
        computed = collection(probabilities, target)
        values = {name: float(value) for name, value in computed.items()}
        others = named_metrics(method.task, [] if isinstance(metrics, bool) else metrics)
        values |= {name: metric(probabilities, target) for name, metric in others.items() if name not in values}
    return Evaluation(
        _score(method, found.output, found.target),
        float(method.task.loss(found.output, found.target)),
        unimodal,
        values,
        len(found.target),
        found.rule,
        {m: int(found.there[m].sum()) for m in unimodal},
        score_details(method.task, found.output, found.target, classes) if details else {},
    )


def rule_scores(
    method: Method, validation: Iterable[BatchLike], test: Iterable[BatchLike]
) -> dict[str, dict[str, float]]:
    """Score of one trained method under every inference rule it can use, plain and calibrated on validation data.

    What a rule fits is fitted on validation data; its validation score is of samples that it was not fitted on
    (cross-validation). A rule of your own is listed as it is in force.

    Returns:
        rule (``"skill"``, ``"mean"``, ``"mean+temperature"``, ``"alone:audio"`` ...) -> {"validation": score, "test":
        score}. Choose by the first.
    """
    results = rule_outcomes(method, validation, test)
    return {rule: {"validation": chosen, "test": float(found.score())} for rule, (chosen, found) in results.items()}


def rule_outcomes(
    method: Method,
    validation: Iterable[BatchLike],
    test: Iterable[BatchLike] | Collected,
    seen: Collected | None = None,
) -> dict[str, tuple[float, Outcomes]]:
    """As :func:`rule_scores`, with what each rule earned on every test sample.

    Args:
        method: trained.
        validation: what rules are fitted on.
        test: batches, or what was collected of them: then they are not read again.
        seen: what was collected of ``validation``, if it was.

    Returns:
        rule -> (validation score, outcomes on ``test``).
    """
    kind = distribution_of(method.task)
    known = outputs_on(method, validation, reduced=True)
    fit = Inference(method.modalities, "auto", distribution=kind)
    with warnings.catch_warnings():  # what is to be done about small data is said where a rule is fitted for use
        warnings.simplefilter("ignore", SmallValidationWarning)
        fit.fit(method.task, known.fused, known.unimodal, known.present, known.target, groups=known.groups,
                reduced=known.reduced)  # fmt: skip
    final = test if isinstance(test, Collected) else collect(method, test)
    results = {}
    for rule, found in fit.scores.items():
        output = fit.output_of(rule, final.fused, final.raw, final.present)
        results[rule] = (found.score, sample_terms(method.task, output, final.target))
    if method.inference.custom is not None:  # as it is: what it fits, it has fitted
        own = collect(method, validation) if seen is None else seen
        chosen = _score(method, own.output, own.target)
        results[method.inference.rule] = (chosen, sample_terms(method.task, final.output, final.target))
    return results


@torch.no_grad()
def sample_outcomes(method: Method, batches: Iterable[BatchLike]) -> dict[str, Outcomes]:
    """What the prediction and each unimodal output earned on every sample, in the order of ``batches``.

    Args:
        method: trained; its rule is the one in force.
        batches: with targets.

    Returns:
        ``"prediction"`` and ``"unimodal/MODALITY"`` -> outcomes; samples without the modality do not count there.
    """
    return outcomes_of(method, collect(method, batches))


@torch.no_grad()
def sample_records(method: Method, found: Collected) -> tuple[dict[str, Outcomes], SamplePredictions | None]:
    """As :func:`sample_outcomes`, with targets and predictions; ``None`` for maps, which would be as large as the data.

    Args:
        method: trained; its rule is the one in force.
        found: its outputs on the samples.
    """
    return outcomes_of(method, found), _predictions_of(method, found)


def _predictions_of(method: Method, found: Collected) -> SamplePredictions | None:
    """None for maps, and for a task whose targets and predictions cannot be told apart sample by sample."""
    kind, target = distribution_of(method.task), found.target
    if method.task.dense:
        return None
    if kind == "categorical":
        target = target.argmax(1) if target.is_floating_point() and target.ndim == 2 else target
    elif kind == "bernoulli":
        target = (target >= 0.5).long()
    else:
        target = target.reshape(len(target), -1)
    values: dict[str, Tensor] = {}
    confidence: dict[str, NDArray[np.float32]] = {}
    for name, output in {"prediction": found.output, **{f"unimodal/{m}": z for m, z in found.unimodal.items()}}.items():
        value = method.task.probabilities(output)
        if kind == "categorical" and value.ndim == 2:
            top = value.max(1)
            value, confidence[name] = top.indices, top.values.float().cpu().numpy()
        elif kind == "bernoulli":
            value = (value > 0.5).long()
        if value.numel() != target.numel():
            return None
        value = value.reshape(target.shape).clone()
        if name != "prediction":
            value[~found.there[name.removeprefix("unimodal/")]] = torch.nan if value.is_floating_point() else -1
        values[name] = value
    arrays = {name: _compact(value) for name, value in values.items()}
    return SamplePredictions(kind, found.index.numpy(), _compact(target), arrays, confidence)


def _compact(values: Tensor) -> NDArray[Any]:
    return values.cpu().numpy().astype(np.float32 if values.is_floating_point() else np.int32)


def outcomes_of(method: Method, found: Collected) -> dict[str, Outcomes]:
    """As :func:`sample_outcomes`, of outputs that are there already."""
    outcomes = {"prediction": sample_terms(method.task, found.output, found.target)}
    for m, z in found.unimodal.items():
        own = sample_terms(method.task, z, found.target)
        rows = found.there[m].cpu().numpy()[:, None]
        outcomes[f"unimodal/{m}"] = Outcomes(np.where(rows, own.numerator, 0), np.where(rows, own.denominator, 0))
    return outcomes
