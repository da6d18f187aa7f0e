"""Every prediction that trained weights allow, scored on stored validation outputs: no training, no second look."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from equimodal.diagnostics import Outcomes, paired_difference, sample_terms
from equimodal.errors import EquimodalError, EquimodalWarning
from equimodal.inference import JOINT, TEMPERED, Evidence, Inference, Rule, compare, fit_skill, rules_for
from equimodal.studies.tuning._outputs import Outputs
from equimodal.tasks import Task, distribution_of, score

ONE_ERROR = 0.6827
"""Level of an interval of one standard error to both sides."""


@dataclass(frozen=True)
class Candidate:
    """A way to predict with the weights of one training.

    Args:
        selection: which weights: best, last or average.
        rule: of inference.
        calibrated: at temperatures.
        score: on validation data; where something is fitted, each fold is predicted by a fit on the others.
        default: what the run does without being told.
    """

    selection: str
    rule: str
    calibrated: bool
    score: float
    default: bool = False

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @property
    def words(self) -> str:
        """For people."""
        return f"{self.rule}{', temperatures' if self.calibrated else ''}, {self.selection} weights"


class Bench:
    """Validation samples on which predictions are compared.

    Args:
        task: gives the score.
        target: (N, ...).
        folds: (N,) numbers of folds.
        groups: (N,) codes of what belongs together, or ``None``.
    """

    def __init__(self, task: Task, target: Tensor, folds: Tensor, groups: Tensor | None) -> None:
        self.task, self.target, self.folds = task, target, folds
        self.groups = None if groups is None else torch.unique(groups, return_inverse=True)[1]

    def compared(self, outputs: Outputs, own: tuple[str, bool]) -> dict[tuple[str, bool], Outcomes]:
        """Rule and whether at temperatures -> what it earns, the own one first, then those that the library prefers.

        What is fitted predicts each fold without it. Rules whose output is not finite are left out.

        Args:
            outputs: of one set of weights.
            own: the rule that the method has by itself, and whether it is calibrated.
        """
        kind = distribution_of(self.task)
        experts = ({} if outputs.fused is None else {JOINT: outputs.fused}) | outputs.unimodal
        evidence = Evidence(self.task, kind, experts, outputs.present, self.target, self.groups)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EquimodalWarning)  # of single rules: what they are worth is measured
            found = compare(evidence, "entropy", None if evidence.infinite() else fit_skill(evidence))
        ways: dict[tuple[str, bool], Outcomes] = {}
        for label in found.labels:
            rule = label.removesuffix(TEMPERED)
            if label in found.terms and rule in rules_for(kind):
                above, below = found.terms[label]
                ways[rule, label.endswith(TEMPERED)] = Outcomes(above.numpy(), below.numpy())
        if own not in ways:  # a rule of its own
            output = self.output(outputs, cast(Rule, own[0]), own[1])
            if output is not None and bool(output.isfinite().all()):
                ways[own] = self.outcomes(output)
        first = {own: ways[own]} if own in ways else {}
        return first | {way: outcomes for way, outcomes in ways.items() if way != own}

    def output(self, outputs: Outputs, rule: Rule, calibrated: bool) -> Tensor | None:
        """(N, C, ...) predicted by a rule; ``None`` where these outputs do not allow it.

        A rule that fits something predicts each fold by what it fits on the others.
        """
        whole = self._predicted(outputs, rule, calibrated, torch.ones_like(self.folds, dtype=torch.bool))
        if whole is None:
            return None
        found = whole.clone()
        for fold in range(int(self.folds.max()) + 1):
            inside = self.folds == fold
            if bool(inside.all()):
                break
            part = self._predicted(outputs, rule, calibrated, ~inside)
            if part is None:
                return None
            if fold == 0 and torch.equal(part[inside], whole[inside]):
                return whole  # nothing is fitted
            found[inside] = part[inside]
        return found

    def _predicted(self, outputs: Outputs, rule: Rule, calibrated: bool, rows: Tensor) -> Tensor | None:
        """What a rule that is fitted on some samples predicts for all."""
        seen = outputs.select(rows)
        groups = None if self.groups is None else self.groups[rows]
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore", EquimodalWarning)
                inference = Inference(
                    list(outputs.present), rule, calibrated=calibrated, distribution=distribution_of(self.task)
                )
                inference.fit(self.task, seen.fused, seen.unimodal, seen.present, self.target[rows], groups=groups)
                output: Tensor = inference(outputs.fused, outputs.unimodal, outputs.present).output
        except EquimodalError:  # these outputs do not allow it
            return None
        return output

    def score(self, output: Tensor) -> float:
        """Of the task; NaN where the output is not finite."""
        return float(score(self.task, output, self.target)) if bool(output.isfinite().all()) else math.nan

    def outcomes(self, output: Tensor) -> Outcomes:
        """Terms of the score, one row per group, or per sample where there are none."""
        each = sample_terms(self.task, output, self.target)
        if self.groups is None:
            return each
        shape = (int(self.groups.max()) + 1, each.numerator.shape[1])
        above, below = np.zeros(shape), np.zeros(shape)
        np.add.at(above, self.groups.numpy(), each.numerator)
        np.add.at(below, self.groups.numpy(), each.denominator)
        return Outcomes(above.astype(np.float32), below.astype(np.float32))

    def better(self, first: Outcomes, second: Outcomes, level: float = ONE_ERROR) -> bool:
        """Whether the first is better by more than the interval, groups being drawn as wholes."""
        return paired_difference([first], [second], level=level).better


def candidates(
    bench: Bench, stored: Mapping[str, Outputs], own: Candidate, rules: bool = True
) -> list[tuple[Candidate, Outcomes]]:
    """What can be predicted, with what it earns: first as the run does it, then in the order of the library's choice.

    Args:
        bench: validation samples.
        stored: selection -> outputs.
        own: what the run does without being told; its score is not read.
        rules: whether the method takes another rule than its own.
    """
    found = []
    for selection in [own.selection, *(s for s in stored if s != own.selection)]:
        if selection not in stored:
            continue
        for way, outcomes in bench.compared(stored[selection], (own.rule, own.calibrated)).items():
            if not rules and way != (own.rule, own.calibrated):
                continue
            value = float(outcomes.score())
            if not math.isnan(value):
                default = (selection, *way) == (own.selection, own.rule, own.calibrated)
                found.append((Candidate(selection, *way, value, default), outcomes))
    return found


def simplest(bench: Bench, found: Sequence[tuple[Candidate, Outcomes]]) -> int:
    """Position of the first candidate that is within one standard error of the best.

    Args:
        bench: validation samples.
        found: candidates and what they earn, in the order of preference.
    """
    best = max(range(len(found)), key=lambda i: (found[i][0].score, -i))
    for position in range(best):
        if not bench.better(found[best][1], found[position][1]):
            return position
    return best
