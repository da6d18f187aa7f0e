"""Checks of what the model puts out: weights of modalities, confidence, constant predictions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from equimodal.diagnostics._sweep import readers
from equimodal.diagnostics.checks._finding import Finding, NotApplicable, NotMeasured, Severity
from equimodal.diagnostics.checks._formulas import calibration_error, mean_interval
from equimodal.diagnostics.checks._registry import Check, register
from equimodal.diagnostics.checks._subject import Subject
from equimodal.inference import JOINT
from equimodal.methods import Method, Within
from equimodal.tasks import distribution_of


@register
@dataclass(frozen=True)
class NoWeight(Check):
    """The prediction hardly depends on a modality: its weight is next to nothing.

    Number:
        How far the prediction moves when the modality is taken away, as a mean over the samples that have it beside
        others: half the sum of absolute changes of the probabilities (classes), the mean absolute change (labels), or
        the absolute change over the spread of all predictions (numbers). From records alone: its weight in the fitted
        rule, where the joint head has none either.

    Why:
        A multimodal model may decide by one modality and carry the others along. Scores do not show it, since the fused
        score is that of the modality that decides; it shows when that one is missing or wrong ([Hessel2020]).

    Next:
        Look whether the modality knows anything: `equimodal evaluate RUN --subsets`. If it does, balance the training
        (docs/methods/index.md); if not, leave it out.

    References:
        Hessel and Lee, Does my multimodal model learn cross-modal interactions?, EMNLP 2020 [Hessel2020].
    """

    code: ClassVar[str] = "EQ010"
    title: ClassVar[str] = "A modality has next to no weight"
    severity: ClassVar[Severity] = "warning"
    page: ClassVar[str] = "docs/checks/eq010.md"
    weight: Annotated[float, Within(above=0, below=1), "a hundredth: it decides only where the rest is undecided"] = (
        0.01
    )

    def run(self, subject: Subject) -> Iterable[Finding]:
        """Every trained modality."""
        names = subject.several()
        try:
            changes: Mapping[str, float] = _changes(subject)
            how = "taking it away moves the prediction by"
        except NotMeasured:
            changes, how = _weights(subject), "its weight in the fitted rule is"
        for m in names:
            if m in changes and changes[m] < self.weight:
                yield self.finding(
                    changes[m], self.weight,
                    f"Modality {m!r}: {how} {changes[m]:.2g} (of 1).",
                    "See what it knows alone (equimodal evaluate RUN --subsets); then balance the training "
                    "(docs/methods/index.md), or leave it out.",
                    where=m,
                )  # fmt: skip


def _changes(subject: Subject) -> dict[str, float]:
    """Modality -> mean change of the prediction without it."""
    method = subject.method
    sums: dict[str, list[Tensor]] = {m: [] for m in subject.trained}
    everything: list[Tensor] = []
    for reader in readers(method, subject.batches(subject.judged)):
        everything.append(_said(method, reader.predict(reader.available)[0]))
        beside = reader.available.sum(1) > 1
        for position, m in enumerate(reader.names):
            rows = reader.available[:, position] & beside
            if m in sums and rows.any():
                given = reader.available & rows[:, None]  # samples without anything are left out of both
                less = given & (np.arange(len(reader.names)) != position)
                full, left = (_said(method, reader.predict(kept)[0]) for kept in (given, less))
                sums[m].append((left - full).abs())
    spread = torch.cat(everything).std(0).clamp_min(1e-12)
    kind = distribution_of(method.task)
    found = {}
    for m, changes in sums.items():
        if changes:
            change = torch.cat(changes)
            if kind == "categorical":
                found[m] = float(0.5 * change.sum(1).mean())
            else:
                found[m] = float((change if kind == "bernoulli" else change / spread).mean())
    return found


def _said(method: Method, output: Tensor) -> Tensor:
    """Probabilities of classes or labels, or numbers."""
    kind = distribution_of(method.task)
    if kind == "categorical":
        return torch.softmax(output.float(), 1)
    return torch.sigmoid(output.float()) if kind == "bernoulli" else method.task.probabilities(output).float()


def _weights(subject: Subject) -> Mapping[str, float]:
    """Mean weight in the fitted rule over the seeds, where the joint head, which may use every modality, has none."""
    if not subject.records.weights or not all(subject.records.weights):
        raise NotMeasured("needs the model, or a fitted rule on record")
    found: dict[str, float] = {}
    for weights in subject.records.weights:
        joint = float(weights.get(JOINT, 0.0))
        for m in subject.trained:
            found[m] = found.get(m, 0.0) + max(joint, float(weights.get(m, joint))) / len(subject.records.weights)
    return found


@register
@dataclass(frozen=True)
class OverConfident(Check):
    """An output is surer of itself than it is right.

    Number:
        Mean confidence (the largest probability) minus accuracy, of each modality's own output and of the prediction,
        on the samples that have the modality. The 95 % interval of the mean (Student's t) must not lie above the
        threshold. The reason also gives the expected calibration error in 15 bins ([Guo2017]).

    Why:
        Rules weigh outputs by what they say of themselves. An over-confident branch outvotes better ones, and its
        samples cannot be sorted by how sure they are ([Zhang2023]).

    Next:
        `--options.calibrated true` fits a temperature per modality on validation data; `--options.inference skill`
        weighs outputs by what they were worth.

    References:
        Guo et al., On calibration of modern neural networks, ICML 2017 [Guo2017].
        Zhang et al., Provable dynamic fusion for low-quality multimodal data, ICML 2023 [Zhang2023].
    """

    code: ClassVar[str] = "EQ011"
    title: ClassVar[str] = "An output is over-confident"
    severity: ClassVar[Severity] = "warning"
    page: ClassVar[str] = "docs/checks/eq011.md"
    gap: Annotated[float, Within(at_least=0, below=1), "five points, the order of what temperatures repair"] = 0.05

    def run(self, subject: Subject) -> Iterable[Finding]:
        """The prediction and every own output."""
        method = subject.method
        kind = distribution_of(method.task)
        if kind not in ("categorical", "bernoulli") or method.task.dense:
            raise NotApplicable("does not apply: it is about classes and labels of whole samples")
        found = subject.collected
        outputs = {"prediction": (found.output, None)} | {m: (z, found.there[m]) for m, z in found.unimodal.items()}
        for name, (output, there) in outputs.items():
            rows = torch.ones(len(output), dtype=torch.bool) if there is None else there.cpu()
            if int(rows.sum()) < 2:
                continue
            confidence, right = _confidence(kind, output.cpu()[rows], found.target.cpu()[rows])
            low, high = mean_interval((confidence - right).tolist())
            if low > self.gap:
                yield self.finding(
                    float((confidence - right).mean()), self.gap,
                    f"{'The prediction' if name == 'prediction' else f'The own output of {name!r}'} is "
                    f"{100 * float(confidence.mean()):.1f} % sure and {100 * float(right.mean()):.1f} % right "
                    f"(expected calibration error {calibration_error(confidence, right):.3f}, {len(right)} samples).",
                    "Fit temperatures on validation data: --options.calibrated true; or --options.inference skill.",
                    interval=(low, high), where=name,
                )  # fmt: skip


def _confidence(kind: str, output: Tensor, target: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(n,) how sure a prediction is, and 1 where it is right; of labels, means over the labels of a sample."""
    if kind == "categorical":
        sure, chosen = torch.softmax(output.double(), 1).max(1)
        right = (chosen == target).double()
    else:
        p = torch.sigmoid(output.double())
        sure, right = torch.maximum(p, 1 - p).mean(1), ((p > 0.5) == (target > 0.5)).double().mean(1)
    return sure.numpy(), right.numpy()


@register
@dataclass(frozen=True)
class NeverPredicted(Check):
    """A class is never predicted, or every prediction is the same.

    Number:
        How many classes with at least `samples` samples the prediction never gives; for labels, how many labels it
        never sets; for numbers, the spread of the predictions over that of the targets. Threshold: no such class; a
        spread of `spread`.

    Why:
        A collapsed model can have a fair score where classes are unequal. With five samples of a class and a recall
        of one half, none is predicted in 3 % of all test sets: five are enough to say so.

    Next:
        `--data.task.class_weight balanced` weighs classes by how few they are; look at the learning rate and at the
        losses in `history.jsonl`.
    """

    code: ClassVar[str] = "EQ018"
    title: ClassVar[str] = "A class is never predicted"
    severity: ClassVar[Severity] = "warning"
    page: ClassVar[str] = "docs/checks/eq018.md"
    samples: Annotated[int, Within(at_least=1, whole=True), "five: see above"] = 5
    spread: Annotated[float, Within(at_least=0, below=1), "a twentieth of the targets' spread is constant"] = 0.05

    def run(self, subject: Subject) -> Iterable[Finding]:
        """Classes, labels or numbers."""
        found, task = subject.collected, subject.method.task
        kind, target = distribution_of(task), found.target.cpu()
        advice = "Weigh classes by how few they are (--data.task.class_weight balanced); look at the learning rate."
        if kind in ("categorical", "bernoulli"):
            output = found.output.cpu()
            if kind == "categorical":
                hits = torch.bincount(output.argmax(1).flatten(), minlength=task.outputs)
                counts = torch.bincount(target.flatten().clamp_min(0), minlength=task.outputs)[: task.outputs]
            else:
                hits, counts = (
                    (output > 0).flatten(2).sum((0, 2)) if output.ndim > 2 else (output > 0).sum(0),
                    (target > 0.5).sum(0),
                )
            never = [c for c in range(task.outputs) if counts[c] >= self.samples and hits[c] == 0]
            if never:
                split = subject.split(subject.judged)
                names = split.classes if split is not None and len(split.classes) == task.outputs else ()
                shown = ", ".join(repr(names[c]) if names else str(c) for c in never[:10])
                constant = int((hits > 0).sum()) <= 1 and kind == "categorical"
                yield self.finding(
                    len(never), 0.0,
                    f"Never predicted: {shown}{' ...' if len(never) > 10 else ''}; {int(counts[never].sum())} samples "
                    f"are of {'these classes' if len(never) > 1 else 'this class'}.",
                    advice, title="Every prediction is the same class" if constant else None,
                    severity="error" if constant else None,
                )  # fmt: skip
            return
        said = task.probabilities(found.output).cpu().float()
        share = float(said.std(0).mean() / target.float().std(0).mean().clamp_min(1e-12))
        if share < self.spread:
            yield self.finding(
                share, self.spread, f"The predictions spread {share:.3f} times as wide as the targets.",
                "Look at the learning rate and the scale of the targets; equimodal data describe DATA shows it.",
                title="Every prediction is nearly the same number", severity="error",
            )  # fmt: skip
