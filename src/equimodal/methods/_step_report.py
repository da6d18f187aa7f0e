"""What a training step tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from equimodal.engine import Descent
from equimodal.tasks import Task, mean_ratio


class StepReport:
    """What happened in one step, as detached tensors on the training device; reading one synchronises, so read rarely.

    Scores, and extras of which nothing else is made, are computed when they are read.

    Args:
        losses: name -> scalar.
        scores: modality -> scalar, the training score of its unimodal output where the method computes one.
        coefficients: name -> modality -> scalar, what the method multiplied or weighted with.
        extras: further scalars (remaining plasticity, gradient norms ...).
        phases: names of the phases that were stepped, in order; their losses are in ``losses``, beside parts of them.
    """

    def __init__(
        self,
        losses: dict[str, Tensor] | None = None,
        scores: dict[str, Tensor] | None = None,
        coefficients: dict[str, dict[str, Tensor]] | None = None,
        extras: dict[str, Tensor] | None = None,
        phases: list[str] | None = None,
    ) -> None:
        self.losses = {} if losses is None else losses
        self.coefficients = {} if coefficients is None else coefficients
        self.phases = [] if phases is None else phases
        self._scores = {} if scores is None else scores
        self._extras = {} if extras is None else extras
        self._unread_scores: dict[str, Callable[[], Tensor]] = {}
        self._unread_extras: dict[str, Callable[[], Tensor]] = {}
        self._targets: list[tuple[Tensor, Tensor]] = []

    def __repr__(self) -> str:
        known = ("losses", "scores", "coefficients", "extras", "phases")
        return f"StepReport({', '.join(f'{name}={getattr(self, name)}' for name in known)})"

    def add_score(self, modality: str, task: Task, descent: Descent) -> None:
        """The training score of a unimodal phase, unless all of its samples are on other processes."""
        if descent.score_inputs and task.dense:  # maps are not kept for later
            self._scores[modality] = _score(task, descent.score_inputs)
        elif descent.score_inputs:
            seen = [(output, self._kept(target)) for output, target in descent.score_inputs]
            self.score_later(modality, partial(_score, task, seen))
        elif "numerator" in descent.sums:
            self.score_later(modality, partial(mean_ratio, descent.sums["numerator"], descent.sums["denominator"]))

    def _kept(self, target: Tensor) -> Tensor:
        """A copy, as a loader may use the memory of targets again; one serves all modalities of a batch."""
        for given, copy in self._targets:
            if given is target:
                return copy
        self._targets.append((target, target.clone()))
        return self._targets[-1][1]

    def score_later(self, modality: str, score: Callable[[], Tensor]) -> None:
        """The score of a modality, which is computed where scores are read."""
        self._unread_scores[modality] = score

    def extras_later(self, extras: Mapping[str, Callable[[], Tensor]]) -> None:
        """Further scalars, which are computed where extras are read; from numbers that nobody changes until then."""
        self._unread_extras.update(extras)

    @property
    def scores(self) -> dict[str, Tensor]:
        """modality -> scalar; see above."""
        return _computed(self._scores, self._unread_scores)

    @scores.setter
    def scores(self, scores: dict[str, Tensor]) -> None:
        self._scores, self._unread_scores = scores, {}

    @property
    def extras(self) -> dict[str, Tensor]:
        """name -> scalar; see above."""
        return _computed(self._extras, self._unread_extras)

    @extras.setter
    def extras(self, extras: dict[str, Tensor]) -> None:
        self._extras, self._unread_extras = extras, {}

    @property
    def loss(self) -> Tensor:
        """Sum of the phases' losses; 0 where no sample took part in any."""
        values = [self.losses[name].float() for name in self.phases]
        return torch.stack(values).sum() if values else torch.zeros(())


def _computed(known: dict[str, Tensor], unread: dict[str, Callable[[], Tensor]]) -> dict[str, Tensor]:
    """What is known, and what was put off until now."""
    for name in list(unread):
        known[name] = unread[name]()
        del unread[name]  # only now: what fails does so at every reading
    return known


def _score(task: Task, seen: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Of several micro-batches together."""
    numerator, denominator = task.score_terms(*seen[0])
    for output, target in seen[1:]:
        more, samples = task.score_terms(output, target)
        numerator, denominator = numerator + more, denominator + samples
    return mean_ratio(numerator, denominator)
