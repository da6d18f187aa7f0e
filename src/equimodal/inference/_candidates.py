"""Every rule that a method could use, compared on its validation samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from equimodal.functional import Measure
from equimodal.inference._comparison import Terms, difference, group_terms, interval_factor, score_of, within_one_error
from equimodal.inference._evidence import Evidence
from equimodal.inference._folds import folds_of
from equimodal.inference._rules import ALONE, apply_rule, rules_for
from equimodal.inference._skill import JOINT, Expert, SkillPool, kind_of
from equimodal.inference._skill_fit import SkillFit
from equimodal.inference._temperature import at_temperature, fitted_temperature
from equimodal.tasks import Distribution

TEMPERED = "+temperature"
"""Suffix of the rules that read outputs at their temperatures."""
ORDER = ("skill", "fused", "mean", "product", "precision", "uncertainty")
"""Rules from the one that did not fail anywhere to those that depend on more; then the same at temperatures, then
single modalities. ``auto`` takes the first that is within one standard error of the best."""


@dataclass(frozen=True)
class RuleScore:
    """What a rule was worth on validation samples; where it fits something, without the fold that it predicts.

    Args:
        score: of the task, higher is better.
        loss: the task's loss.
        behind: score of the best rule minus this one.
        error: standard error of ``behind``, over groups of samples that belong together; infinite with fewer than two.
    """

    score: float
    loss: float
    behind: float = 0.0
    error: float = 0.0

    def state(self) -> dict[str, Any]:
        """Plain values; ``None`` for an infinite error."""
        return {k: v if math.isfinite(v) else None for k, v in asdict(self).items()}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> RuleScore:
        """What :meth:`state` gave."""
        return cls(**{k: math.inf if v is None else float(v) for k, v in state.items()})


def alone(modality: str, outputs: Mapping[str, Tensor], present: Mapping[str, Tensor] | None, distribution: Distribution
          ) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
    """The prediction of one modality, and for samples without it the equal pool of what they have; and the weights."""
    unimodal = {m: z for m, z in outputs.items() if m != JOINT}
    pool = SkillPool({m: Expert(float(m == modality)) for m in unimodal})
    own = None if present is None else {m: mask for m, mask in present.items() if m in unimodal}
    return pool(unimodal, own, kind_of(distribution, unimodal[modality]))


def labels_for(distribution: Distribution, experts: Sequence[str]) -> list[str]:
    """Names of all rules for these experts, in the order in which ``auto`` prefers them."""
    modalities = [e for e in experts if e != JOINT]
    single = [*(["fused"] if JOINT in experts else []), *(f"{ALONE}{m}" for m in modalities)]
    if len(experts) == 1:  # what there is comes before what can be fitted to it
        return [*single, "skill", *(["mean"] if modalities else [])]
    concrete = [r for r in ORDER if r in rules_for(distribution) and r not in ("skill", "fused")] if modalities else []
    tempered = [f"{r}{TEMPERED}" for r in concrete] if distribution != "point" else []
    fused = ["fused"] if JOINT in experts else []
    return ["skill", *fused, *concrete, *tempered, *(f"{ALONE}{m}" for m in modalities)]


def rule_output(
    label: str,
    outputs: Mapping[str, Tensor],
    present: Mapping[str, Tensor] | None,
    distribution: Distribution,
    measure: Measure = "entropy",
    temperature: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Output of a rule that is not fitted, by its label.

    Args:
        label: of :func:`labels_for`, but ``"skill"``.
        outputs: expert -> (B, C, ...), before any temperature.
        present: modality -> (B,).
        distribution: what an output is.
        measure: of the rule ``uncertainty``.
        temperature: modality -> scalar; needed for labels with a temperature.
    """
    if label == "fused":
        return outputs[JOINT]
    if label.startswith(ALONE):
        return alone(label.removeprefix(ALONE), outputs, present, distribution)[0]
    unimodal = {m: z for m, z in outputs.items() if m != JOINT}
    if label.endswith(TEMPERED) and temperature is not None:
        unimodal = {m: at_temperature(z, temperature[m], distribution) for m, z in unimodal.items()}
    return apply_rule(label.removesuffix(TEMPERED), unimodal, present, measure, distribution)[0]


def temperatures(data: Evidence) -> dict[str, Tensor]:
    """One per modality, on the samples that have it; pixels are thinned out."""
    data = data.fewer_pixels()
    found = {}
    for m, z in data.outputs.items():
        if m != JOINT:
            mask = data.has(m)
            found[m] = fitted_temperature(z[mask], data.compared[mask], data.distribution)
    return found


@dataclass(frozen=True)
class Comparison:
    """All rules on the same validation samples.

    Args:
        labels: in the order in which ``auto`` prefers them.
        terms: of the score, per group.
        losses: of each.
    """

    labels: Sequence[str]
    terms: Mapping[str, Terms]
    losses: Mapping[str, float]

    def scores(self) -> dict[str, RuleScore]:
        """Score, loss and distance to the best of each."""
        names = list(self.terms)
        if not names:
            return {}
        _, behind = within_one_error([self.terms[n] for n in names], [self.losses[n] for n in names])
        return {
            n: RuleScore(score_of(self.terms[n]), self.losses[n], *gap) for n, gap in zip(names, behind, strict=True)
        }

    def choice(self) -> str | None:
        """The first rule within one standard error of the best; ``None`` where nothing can be judged.

        A rule that is below the best single output by more than chance is passed over.
        """
        scores = self.scores()
        near = (n for n in self.labels if n in scores and scores[n].behind <= scores[n].error)
        return next((n for n in near if self.below_single(n) is None), None)

    def below_single(self, label: str) -> tuple[str, float, float] | None:
        """The best single output, how far a rule is below it, and half of the 95 % interval; ``None`` if it is not."""
        singles = [n for n in self.terms if n == "fused" or n.startswith(ALONE)]
        if label not in self.terms or not singles:
            return None
        best, _ = within_one_error([self.terms[n] for n in singles], [self.losses[n] for n in singles])
        gap, error = difference(self.terms[singles[best]], self.terms[label])
        half = error * interval_factor(len(self.terms[label][0]))
        return (singles[best], gap, half) if gap > half else None


def compare(
    data: Evidence, measure: Measure, skill: SkillFit | None, custom: Mapping[str, Tensor] | None = None
) -> Comparison:
    """Score and loss of every rule on validation outputs; rules with NaN or infinity are left out.

    Temperatures and the skill pool are fitted without the fold that they predict (:data:`FOLDS` folds, groups kept
    together), so that fitting something is no advantage by itself.

    Args:
        data: what the method says.
        measure: of the rule ``uncertainty``.
        skill: the fitted pool, or ``None`` where it cannot be fitted.
        custom: name -> output of a rule of one's own.
    """
    data = data.readable()
    labels = labels_for(data.distribution, list(data.outputs))
    broken = set(data.infinite())
    found: dict[str, Tensor] = dict(custom or {})
    for label in labels:
        single = JOINT if label == "fused" else label.removeprefix(ALONE)
        needed = {single} if single in data.outputs else set(data.outputs) - {JOINT}
        if label == "skill" or label.endswith(TEMPERED) or needed & broken:
            continue
        found[label] = rule_output(label, data.outputs, data.present, data.distribution, measure)
    if skill is not None:
        found["skill"] = skill.held_out(data)
    tempered = [label for label in labels if label.endswith(TEMPERED)]
    if tempered and not (broken - {JOINT}):
        found |= _tempered(data, tempered, measure, skill)
    terms, losses = {}, {}
    for label, output in found.items():
        own = group_terms(data.task, output, data.target, data.groups)
        loss = float(data.task.loss(output, data.target))
        if math.isfinite(score_of(own)) and math.isfinite(loss):
            terms[label], losses[label] = own, loss
    return Comparison(labels, terms, losses)


def _tempered(data: Evidence, labels: Sequence[str], measure: Measure, skill: SkillFit | None) -> dict[str, Tensor]:
    if skill is not None:
        folds = skill.folds
    else:
        folds = folds_of(data.groups, data.target, data.outputs, {e: data.has(e) for e in data.outputs})
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {label: [] for label in labels}
    for number in range(int(folds.max()) + 1):
        inside = folds == number
        outside = data if bool(inside.all()) else data.select(~inside)
        temperature, part = temperatures(outside), data.select(inside)
        for label in labels:
            output = rule_output(label, part.outputs, part.present, data.distribution, measure, temperature)
            parts[label].append((inside.nonzero()[:, 0].to(output.device), output))
    found = {}
    for label, pieces in parts.items():
        rows, outputs = torch.cat([p[0] for p in pieces]), torch.cat([p[1] for p in pieces])
        found[label] = torch.empty_like(outputs).index_copy_(0, rows, outputs)
    return found
