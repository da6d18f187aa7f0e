"""Checks of how training went: what was learnt and lost again, and what is left of projectors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from equimodal.diagnostics.checks._finding import Finding, NotApplicable, NotMeasured, Severity
from equimodal.diagnostics.checks._formulas import drop, newcombe
from equimodal.diagnostics.checks._registry import Check, register
from equimodal.diagnostics.checks._subject import Subject
from equimodal.methods import Within
from equimodal.projection import FlatProjector, OrthogonalProjector


@register
@dataclass(frozen=True)
class Forgetting(Check):
    """A modality was learnt, and had been lost again when training ended.

    Number:
        The best validation score that a modality's own output had in an epoch before the chosen one, minus its score
        in the chosen epoch. For shares the interval of the difference (Newcombe, its level corrected for the number
        of epochs that the best was taken from) must lie above 0, and the difference above the threshold; other scores
        are compared as shares of the score, without an interval, as records hold no outcomes of single epochs.

    Why:
        In joint training a modality may be learnt first and then unlearnt, when another one takes over what it was used
        for; alternating methods forget at a shared head ([Zhang2024]).

    Next:
        Fewer epochs or early stopping (`--training.patience 5`); a method that keeps what was learnt
        (docs/methods/index.md). `equimodal report STUDY` draws the curves.

    References:
        Zhang et al., Multimodal representation learning by alternating unimodal adaptation, CVPR 2024 [Zhang2024].
    """

    code: ClassVar[str] = "EQ013"
    title: ClassVar[str] = "A modality was forgotten in the course of training"
    severity: ClassVar[Severity] = "warning"
    page: ClassVar[str] = "docs/checks/eq013.md"
    drop: Annotated[float, Within(above=0), "five points: curves of small validation data move by less"] = 0.05

    def run(self, subject: Subject) -> Iterable[Finding]:
        """The largest loss of each modality over the seeds."""
        if not subject.records.history:
            raise NotMeasured("needs the validation scores of the epochs; give history=, or check a run's folder")
        worst: dict[str, tuple[float, int, int, tuple[float, float] | None]] = {}
        seen = False
        for seed, epochs in enumerate(subject.records.history):
            last = subject.records.selected[seed] if seed < len(subject.records.selected) else len(epochs) - 1
            position = next((i for i, e in enumerate(epochs) if e.get("epoch") == last), len(epochs) - 1)
            samples = subject.records.validation[seed][1] if seed < len(subject.records.validation) else 0
            for m in subject.modalities:
                curve = [_own_score(epoch, m) for epoch in epochs]
                seen = seen or any(v is not None for v in curve)
                lost, best = drop(curve, position)
                interval = self._interval(subject, curve, best, position, samples)
                shown = lost / subject.unit(curve[position] or 0.0)
                if shown > self.drop and (interval is None or interval[0] > 0) and lost > worst.get(m, (0.0,))[0]:
                    worst[m] = (lost, best, position, interval)
        if not seen:
            raise NotApplicable("does not apply: the method has no output of a modality alone")
        for m, (lost, best, position, interval) in worst.items():
            yield self.finding(
                lost, self.drop,
                f"The own output of {m!r} was better by {subject.shown(lost)} in epoch {best} than in the chosen epoch "
                f"{position} (validation data).",
                "Stop earlier (--training.patience 5), or take a method that keeps what was learnt "
                "(docs/methods/index.md).",
                interval=interval, where=m,
            )  # fmt: skip

    def _interval(
        self, subject: Subject, curve: Sequence[float | None], best: int, last: int, samples: int
    ) -> tuple[float, float] | None:
        high, now = curve[best], curve[last]
        if not subject.share or not samples or high is None or now is None:
            return None
        return newcombe((_clipped(high), samples), (_clipped(now), samples), 1 - 0.05 / max(1, last))


def _own_score(epoch: Mapping[str, Any], modality: str) -> float | None:
    value = epoch.get("validation", {}).get("unimodal", {}).get(modality)
    return None if value is None else float(value)


def _clipped(share: float) -> float:
    return min(1.0, max(0.0, share))


@register
@dataclass(frozen=True)
class ProjectorExhausted(Check):
    """A gradient projector has so few directions left that its layer hardly learns any more.

    Number:
        trace(P) / d, the mean share of a direction that a projector of width d lets through: 1 at the start, 0 when
        nothing can be learnt. Of a model the projectors are read; of a run, the mean over its last epoch
        (`plasticity/...` in `history.jsonl`).

    Why:
        Projections that protect what one modality has learnt take directions away, step by step. When they are used up,
        later batches change nothing: this looks like convergence ([Zhang2024]; the released code of projections in
        continual learning meets the same).

    Next:
        Renew it each epoch (`--options.projector_reset epoch`), or a softer one (`--options.alpha_scale relative`);
        `--recommended` does both.

    References:
        Zhang et al., Multimodal representation learning by alternating unimodal adaptation, CVPR 2024 [Zhang2024].
    """

    code: ClassVar[str] = "EQ014"
    title: ClassVar[str] = "A projector is exhausted"
    severity: ClassVar[Severity] = "warning"
    page: ClassVar[str] = "docs/checks/eq014.md"
    left: Annotated[float, Within(above=0, below=1), "a tenth: steps are then a tenth of what the gradient asks"] = 0.1

    def run(self, subject: Subject) -> Iterable[Finding]:
        """The smallest number of each projector."""
        found = _from_history(subject) if subject.records.history else {}
        if not found:
            found = _from_model(subject)
        if not found:
            raise NotApplicable("does not apply: the method projects no gradient")
        for name, share in found.items():
            if share < self.left:
                yield self.finding(
                    share, self.left,
                    f"Projector {name} lets {100 * share:.1f} % of a gradient through.",
                    "Renew it each epoch (--options.projector_reset epoch) or make it softer (--options.alpha_scale "
                    "relative); equimodal train --recommended does both.",
                    where=name,
                )  # fmt: skip


def _from_history(subject: Subject) -> dict[str, float]:
    found: dict[str, float] = {}
    for epochs in subject.records.history:
        for name, value in (epochs[-1].get("extras", {}) if epochs else {}).items():
            if name.startswith("plasticity/") and value is not None:
                key = name.removeprefix("plasticity/")
                found[key] = min(float(value), found.get(key, 1.0))
    return found


def _from_model(subject: Subject) -> dict[str, float]:
    kinds = (OrthogonalProjector, FlatProjector)
    projectors = [m for m in subject.method.modules() if isinstance(m, kinds)]
    return {str(number): float(p.plasticity()) for number, p in enumerate(projectors)}
