"""Every prediction that trained weights allow, scored on stored validation outputs: no training, no second look."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import Tensor

from equimodal.diagnostics import Outcomes, paired_difference, sample_terms
from equimodal.errors import EquimodalError
from equimodal.inference import Inference, Rule, rules_for
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
        self.groups = None if groups is None else groups.tolist()

    def output(self, outputs: Outputs, rule: Rule, calibrated: bool) -> Tensor | None:
        """(N, C, ...) predicted by a rule; ``None`` where these outputs do not allow it.

        A rule that fits something predicts each fold by what it fits on the others.
        """
        whole = self._fitted(outputs, rule, calibrated, self.target)
        if whole is None:
            return None
        inference, changed = whole
        if not changed or int(self.folds.max()) == 0:
            return self._apply(inference, outputs)
        found: Tensor | None = None
        for fold in range(int(self.folds.max()) + 1):
            inside = self.folds == fold
            part = self._fitted(outputs.select(~inside), rule, calibrated, self.target[~inside])
            if part is None:
                return None
            own = self._apply(part[0], outputs.select(inside))
            found = own.new_empty(len(inside), *own.shape[1:]) if found is None else found
            found[inside] = own
        return found

    def _fitted(self, outputs: Outputs, rule: Rule, calibrated: bool, target: Tensor) -> tuple[Inference, bool] | None:
        """The rule after fitting, and whether fitting changed it."""
        try:
            inference = Inference(
                list(outputs.present), rule, calibrated=calibrated, distribution=distribution_of(self.task)
            )
            inference.resolve(outputs.fused is not None, bool(outputs.unimodal))
            before = copy.deepcopy(inference.state_dict())
            inference.fit(self.task, outputs.fused, outputs.unimodal, outputs.present, target)
        except EquimodalError:  # these outputs do not allow it
            return None
        return inference, not _same(before, inference.state_dict())

    def _apply(self, inference: Inference, outputs: Outputs) -> Tensor:
        with torch.no_grad():
            output: Tensor = inference(outputs.fused, outputs.unimodal, outputs.present).output
        return output

    def score(self, output: Tensor) -> float:
        """Of the task; NaN where the output is not finite."""
        return float(score(self.task, output, self.target)) if bool(output.isfinite().all()) else math.nan

    def outcomes(self, output: Tensor) -> Outcomes:
        """Terms of the score, sample by sample."""
        return sample_terms(self.task, output, self.target)

    def better(self, first: Outcomes, second: Outcomes, level: float = ONE_ERROR) -> bool:
        """Whether the first is better by more than the interval, groups being drawn as wholes."""
        return paired_difference([first], [second], groups=self.groups, level=level).better


def _same(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    def equal(a: Any, b: Any) -> bool:
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            return a.shape == b.shape and torch.equal(a, b)
        return bool(a == b)

    return before.keys() == after.keys() and all(equal(value, after[name]) for name, value in before.items())


def candidates(
    bench: Bench, stored: Mapping[str, Outputs], own: Candidate, rules: bool = True
) -> Iterator[tuple[Candidate, Tensor]]:
    """What can be predicted, with its output: first as the run does it, then from the simple to what depends on more.

    Args:
        bench: validation samples.
        stored: selection -> outputs.
        own: what the run does without being told; its score is not read.
        rules: whether the method takes another rule than its own.
    """
    kind = distribution_of(bench.task)
    ways = [(own.rule, own.calibrated)]
    if rules:
        ways += [(rule, calibrated) for calibrated in (False, True) for rule in rules_for(kind)
                 if not (calibrated and (rule == "fused" or kind == "point"))]  # fmt: skip
    for selection in [own.selection, *(s for s in stored if s != own.selection)]:
        if selection not in stored:
            continue
        for rule, calibrated in dict.fromkeys(ways):
            output = bench.output(stored[selection], cast(Rule, rule), calibrated)
            value = math.nan if output is None else bench.score(output)
            if output is not None and not math.isnan(value):
                default = (selection, rule, calibrated) == (own.selection, own.rule, own.calibrated)
                yield Candidate(selection, rule, calibrated, value, default), output


def simplest(bench: Bench, found: Sequence[tuple[Candidate, Tensor]]) -> int:
    """Position of the first candidate that is within one standard error of the best.

    Args:
        bench: validation samples.
        found: candidates and outputs, in the order of preference.
    """
    best = max(range(len(found)), key=lambda i: (found[i][0].score, -i))
    top = bench.outcomes(found[best][1])
    for position in range(best):
        if found[position][0].score == found[best][0].score:
            return position
        if not bench.better(top, bench.outcomes(found[position][1])):
            return position
    return best
