"""Checks that compare scores on the same samples: with probes, single modalities, ensembles, controls, other rules."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from equimodal.diagnostics._outcomes import Outcomes
from equimodal.diagnostics._paired import Difference, paired_difference
from equimodal.diagnostics.checks._finding import Finding, NotApplicable, NotMeasured, Severity
from equimodal.diagnostics.checks._formulas import best_by
from equimodal.diagnostics.checks._registry import Check, control, register
from equimodal.diagnostics.checks._subject import Named, Subject
from equimodal.methods import Within

_CEILING = "two points below a perfect score there is nothing to gain that a test set of usual size could show"


def mean_score(outcomes: Sequence[Outcomes]) -> float:
    """Mean over the seeds."""
    return sum(float(o.score()) for o in outcomes) / len(outcomes)


def interval_text(subject: Subject, found: Difference) -> str:
    """A difference with its interval, for people."""
    seeds = f", {found.seeds} seeds" if found.seeds > 1 else ""
    return f"{subject.shown(found.mean)} [{subject.shown(found.low)}, {subject.shown(found.high)}]{seeds}"


def nothing_to_gain(subject: Subject, score: float, ceiling: float) -> bool:
    """Whether a share is so near 1 that a difference to it says nothing."""
    return subject.share and score > 1 - ceiling


def paired(subject: Subject, first: Sequence[Outcomes], second: Sequence[Outcomes]) -> Difference:
    """The paired difference on the judged samples; groups are drawn as a whole where they are known."""
    return paired_difference(first, second, groups=subject.clusters)


@register
@dataclass(frozen=True)
class BelowProbe(Check):
    """The model gets less out of a modality than a linear probe of that modality does.

    Number:
        The score of a linear probe of the modality's features minus what the model says of that modality alone (its own
        output, or the prediction from it only), on the same samples. Where there is a model whose modalities were
        trained each by itself, also: the probe of that model's encoder minus the probe of this one's. The 95 % interval
        is a paired bootstrap over seeds and samples; its lower end is compared with the threshold.

    Why:
        Training on one joint loss stops learning a modality once another one explains the labels ([Wang2020],
        [Peng2022]). The features may know more than the head reads (first comparison), or the encoder itself was left
        behind (second).

    Next:
        Head too weak: `equimodal train --method {baseline}`, which gives each modality a loss of its own. Encoder left
        behind: compare a balancing method with the controls, `equimodal compare`.

    References:
        Wang, Tran and Feiszli, What makes training multi-modal classification networks hard?, CVPR 2020 [Wang2020].
        Peng et al., Balanced multimodal learning via on-the-fly gradient modulation, CVPR 2022 [Peng2022].
    """

    code: ClassVar[str] = "EQ001"
    title: ClassVar[str] = "A modality is below its own unimodal probe"
    severity: ClassVar[Severity] = "warning"
    page: ClassVar[str] = "docs/checks/eq001.md"
    margin: Annotated[
        float, Within(at_least=0), "three points: less is within what another seed of the probe's own data gives"
    ] = 0.03

    def run(self, subject: Subject) -> Iterable[Finding]:
        """Both comparisons, as far as they can be made."""
        missing: list[NotMeasured] = []
        made = 0
        for compare in (self._head, self._encoder):
            for m in subject.trained:
                try:
                    found = list(compare(subject, m))
                except NotMeasured as why:
                    missing.append(why)
                    continue
                made += 1
                yield from found
        if not made:
            raise missing[0] if missing else NotMeasured("needs a trained modality")

    def _head(self, subject: Subject, m: str) -> Iterable[Finding]:
        probe, own = _named(subject.probes, m, "probe"), subject.single(m)
        found = paired(subject, probe, own)
        if found.low > self.margin * subject.unit(mean_score(own)):
            yield self.finding(
                found.mean, self.margin,
                f"A linear probe of the features of {m!r} scores {subject.shown(mean_score(probe))}, the model from "
                f"{m!r} alone {subject.shown(mean_score(own))}: {interval_text(subject, found)} less.",
                f"Give each modality a loss and a head of its own: equimodal train --method {control('baseline')}.",
                interval=(found.low, found.high), where=m,
            )  # fmt: skip

    def _encoder(self, subject: Subject, m: str) -> Iterable[Finding]:
        reference, own = _named(subject.alone, f"probe/{m}", "reference probe"), _named(subject.probes, m, "probe")
        found = paired(subject, reference, own)
        if found.low > self.margin * subject.unit(mean_score(own)):
            yield self.finding(
                found.mean, self.margin,
                f"The encoder of {m!r} probes at {subject.shown(mean_score(own))}, the same encoder trained alone at "
                f"{subject.shown(mean_score(reference))}: it is left under-trained by {interval_text(subject, found)}.",
                "Compare methods that balance modalities with the controls: equimodal compare (docs/methods/index.md "
                "says which).",
                title="The encoder of a modality is left under-trained", interval=(found.low, found.high), where=m,
            )  # fmt: skip


def _named(seeds: Sequence[Named], name: str, what: str) -> list[Outcomes]:
    if not all(name in found for found in seeds):
        raise NotMeasured(f"needs the {what} of every modality, which is not on record")
    return [found[name] for found in seeds]


@register
@dataclass(frozen=True)
class NotAboveSingle(Check):
    """The prediction from all modalities is not better than the best modality alone.

    Number:
        Score of the prediction minus that of the best single modality (its own output, or the prediction from it only),
        with the 95 % interval of the paired bootstrap. The lower end must be above 0. Of the model's own single
        outputs the best one is taken on the data that are judged, which is the hardest to beat. Where this one is
        within `ceiling` of a perfect score nothing is said.

    Why:
        Then the other modalities cost data, encoders and time, and give nothing. A joint model below the best single
        modality is the observation that began this field ([Wang2020]).

    Next:
        `equimodal evaluate RUN --subsets` shows what each subset does. Try the fitted rule (`--options.inference
        skill`) and the best modality alone (`--method {single} --options.modality NAME`).

    References:
        Wang, Tran and Feiszli, What makes training multi-modal classification networks hard?, CVPR 2020 [Wang2020].
    """

    code: ClassVar[str] = "EQ002"
    title: ClassVar[str] = "The fused prediction is not above the best single modality"
    severity: ClassVar[Severity] = "warning"
    page: ClassVar[str] = "docs/checks/eq002.md"
    ceiling: Annotated[float, Within(at_least=0, below=1), _CEILING] = 0.02

    def run(self, subject: Subject) -> Iterable[Finding]:
        """The difference to the best single modality."""
        singles = {m: subject.single(m) for m in subject.several()}
        best = best_by({m: mean_score(o) for m, o in singles.items()})
        score = mean_score(singles[best])
        if nothing_to_gain(subject, score, self.ceiling):
            return
        prediction = subject.named("prediction")
        found = paired(subject, prediction, singles[best])
        if not found.better:
            below = found.worse
            yield self.finding(
                found.mean, 0.0,
                f"All modalities score {subject.shown(mean_score(prediction))}, {best!r} alone {subject.shown(score)}: "
                f"{interval_text(subject, found)}, {'below it' if below else 'no difference'} beyond chance.",
                f"Try the fitted rule (--options.inference skill), or take {best!r} alone: equimodal train --method "
                f"{control('single')} --options.modality {best}.",
                title="The fused prediction is below the best single modality" if below else None,
                interval=(found.low, found.high), where=best,
            )  # fmt: skip


@register
@dataclass(frozen=True)
class EnsembleBetter(Check):
    """Models of one modality each, trained apart and averaged, are better than the model.

    Number:
        Score of the independent model (`{independent}`, or what was given as `alone=`) minus the score of this one,
        on the same samples; the lower end of the paired 95 % interval must not be above 0.

    Why:
        An ensemble of unimodal models needs no joint training at all. A multimodal method that it beats has learnt
        nothing from the modalities being there together ([Hessel2020], [Hua2024]).

    Next:
        Use the ensemble: `equimodal train --method {independent}`; or pool this model's own outputs with
        `--options.inference skill`.

    References:
        Hessel and Lee, Does my multimodal model learn cross-modal interactions?, EMNLP 2020 [Hessel2020].
        Hua et al., Boosting can achieve modality reconcilement, ICML 2024 [Hua2024].
    """

    code: ClassVar[str] = "EQ003"
    title: ClassVar[str] = "An ensemble of unimodal models is better"
    severity: ClassVar[Severity] = "warning"
    page: ClassVar[str] = "docs/checks/eq003.md"

    def run(self, subject: Subject) -> Iterable[Finding]:
        """The difference to the independent model."""
        theirs, own = _named(subject.alone, "prediction", "prediction"), subject.named("prediction")
        found = paired(subject, theirs, own)
        if found.better:
            yield self.finding(
                found.mean, 0.0,
                f"Models of one modality each, averaged, score {subject.shown(mean_score(theirs))}, this model "
                f"{subject.shown(mean_score(own))}: {interval_text(subject, found)} less.",
                f"Use the ensemble (equimodal train --method {control('independent')}), or pool this model's outputs: "
                "--options.inference skill.",
                interval=(found.low, found.high),
            )  # fmt: skip


@register
@dataclass(frozen=True)
class GainWithinNoise(Check):
    """The gain over the best control is no larger than chance allows.

    Number:
        Score of the model minus that of the best control (the one with the highest mean), with the paired 95 % interval
        over seeds and samples. Its lower end must be above 0. With one seed the interval knows nothing of the
        spread between trainings: then a gain is a note. Nothing is said of controls themselves, nor where the best
        control is within `ceiling` of a perfect score.

    Why:
        Seeds move a score by as much as many published gains. A gain that its own interval does not confirm will not be
        there for the next person ([Bouthillier2021]).

    Next:
        More seeds: `equimodal compare --out STUDY --seeds 0,1,2,3,4` runs only what is not there.

    References:
        Bouthillier et al., Accounting for variance in machine learning benchmarks, MLSys 2021 [Bouthillier2021].
    """

    code: ClassVar[str] = "EQ009"
    title: ClassVar[str] = "The gain over the best control is within noise"
    severity: ClassVar[Severity] = "warning"
    page: ClassVar[str] = "docs/checks/eq009.md"
    ceiling: Annotated[float, Within(at_least=0, below=1), _CEILING] = 0.02

    def run(self, subject: Subject) -> Iterable[Finding]:
        """The difference to the best control."""
        rivals = {name: _named(o, "prediction", "prediction") for name, o in subject.rivals.items()}
        best = best_by({name: mean_score(o) for name, o in rivals.items()})
        if nothing_to_gain(subject, mean_score(rivals[best]), self.ceiling):
            return
        found = paired(subject, subject.named("prediction"), rivals[best])
        shown = f"Against the best control, {best}: {interval_text(subject, found)}"
        more = "More seeds: equimodal compare --out STUDY --seeds 0,1,2,3,4 (what is finished is not run again)."
        if not found.better:
            worse = "The control is better" if found.worse else "No difference beyond chance"
            yield self.finding(
                found.mean, 0.0, f"{shown}. {worse}.", more if not found.worse else f"Take the control {best}. {more}",
                title="The best control is better" if found.worse else None, interval=(found.low, found.high),
            )  # fmt: skip
        elif found.seeds == 1:
            yield self.finding(
                found.mean, 0.0, f"{shown}, on one seed: how much trainings differ is not in this interval.", more,
                title="The gain rests on one seed", severity="note", interval=(found.low, found.high),
            )  # fmt: skip


@register
@dataclass(frozen=True)
class BetterRule(Check):
    """Another inference rule makes a better prediction of the same outputs.

    Number:
        Score of the rule that is best on validation data minus the score of the rule in force, on the test samples; the
        lower end of the paired 95 % interval must not be above 0. The rule is chosen on validation data only, so that
        the difference on test data is an honest one.

    Why:
        How outputs become a prediction costs no training, and is often worth more than the choice of the method: a
        paper's own rule may leave points on the table.

    Next:
        `--options.inference RULE` at the next training; for a model in memory `method.inference = Inference(...)` and
        `method.fit_inference(validation)` (docs/inference.md).
    """

    code: ClassVar[str] = "EQ021"
    title: ClassVar[str] = "Another inference rule is better"
    severity: ClassVar[Severity] = "warning"
    page: ClassVar[str] = "docs/checks/eq021.md"

    def run(self, subject: Subject) -> Iterable[Finding]:
        """The difference of the rule that validation data choose."""
        rules = subject.rules
        common = [r for r in rules[0][1] if all(r in scores and r in outcomes for _, scores, outcomes in rules)]
        if len(common) < 2:
            raise NotApplicable("does not apply: the model's outputs allow one rule only")
        best = best_by({r: sum(scores[r] for _, scores, _ in rules) / len(rules) for r in common})
        found = paired(subject, [outcomes[best] for _, _, outcomes in rules], subject.named("prediction"))
        if found.better:
            option, calibrated = best.removesuffix("+temperature"), best.endswith("+temperature")
            yield self.finding(
                found.mean, 0.0,
                f"Rule {best!r}, the best on validation data, is better than {rules[0][0]!r}, which is in force, by "
                f"{interval_text(subject, found)}.",
                f"Train with --options.inference {option}{' --options.calibrated true' if calibrated else ''}; for a "
                "model in memory see docs/inference.md.",
                interval=(found.low, found.high), where=best,
            )  # fmt: skip
