"""Checks of what subsets of the modalities can do: shares of the score, leaks, what only all modalities reach."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from equimodal.diagnostics._paired import sample_counts
from equimodal.diagnostics.checks._finding import Finding, NotApplicable, Severity
from equimodal.diagnostics.checks._formulas import best_by, shapley, wilson
from equimodal.diagnostics.checks._registry import Check, register
from equimodal.diagnostics.checks._scores import mean_score, paired
from equimodal.diagnostics.checks._subject import Subject
from equimodal.methods import Within

_DRAWS = 1000


@register
@dataclass(frozen=True)
class OneCarriesAll(Check):
    """Nearly all of the score comes from one modality.

    Number:
        Shapley share of the modality: its mean gain over all orders in which modalities may come, over the gain of
        all of them ([Hu2022]). A subset is worth the score of the prediction from it; nothing is worth the score of
        the mean prediction. The 95 % interval is a bootstrap over samples; its lower end must not be above the
        threshold. Up to six modalities.

    Why:
        This is the imbalance, measured from outside: it needs no heads and no knowledge of the method. A share of
        nearly 1 means a unimodal model with attachments ([Wei2024]).

    Next:
        If the others know something (their probes and own scores say so: EQ001), balance the training: `equimodal
        compare`. If not, the data are unimodal, and a smaller model will do.

    References:
        Hu, Li and Zhou, SHAPE: a unified approach to evaluate the contribution and cooperation of individual
        modalities, IJCAI 2022 [Hu2022]. Wei et al., Enhancing multimodal cooperation via sample-level modality
        valuation, CVPR 2024 [Wei2024].
    """

    code: ClassVar[str] = "EQ017"
    title: ClassVar[str] = "One modality carries nearly all of the score"
    severity: ClassVar[Severity] = "warning"
    page: ClassVar[str] = "docs/checks/eq017.md"
    share: Annotated[float, Within(above=0, at_most=1), "nine tenths of the gain"] = 0.9
    gain: Annotated[float, Within(at_least=0), "five points above knowing nothing: shares of less are noise"] = 0.05

    def run(self, subject: Subject) -> Iterable[Finding]:
        """The largest share."""
        subject.several()
        subsets, names = subject.subsets, subject.modalities
        total = float(subsets[names].score()) - float(subsets[()].score())
        if total < self.gain * subject.unit(float(subsets[()].score())):
            raise NotApplicable(f"does not apply: the model gains {subject.shown(total)} over a constant prediction")
        values = {m: float(v) for m, v in shapley(lambda s: np.asarray(subsets[s].score()), names).items()}
        best = best_by(values)
        counts = sample_counts(len(subsets[names].numerator), _DRAWS)
        drawn = shapley(lambda s: subsets[s].score(counts), names)
        gains = np.sum(list(drawn.values()), axis=0)
        low, high = (float(v) for v in np.nanpercentile(drawn[best][gains > 0] / gains[gains > 0], [2.5, 97.5]))
        if low > self.share:
            shares = ", ".join(f"{m} {v / total:.2f}" for m, v in values.items())
            yield self.finding(
                values[best] / total, self.share,
                f"Of {subject.shown(total)} gained over a constant prediction, the Shapley shares are: {shares}.",
                "See whether the others know something (equimodal evaluate RUN --subsets); if so, balance the "
                "training: equimodal compare.",
                interval=(low, high), where=best,
            )  # fmt: skip


@register
@dataclass(frozen=True)
class Leak(Check):
    """One modality alone is perfect, and the others are far from it: it may contain the answer.

    Number:
        Score of the best modality alone. It is told when the lower end of its Wilson interval is above `perfect` and
        the next best modality is more than `apart` below it.

    Why:
        Real measurements are rarely perfect. A file name, an identifier, a column that was made after the label, or a
        caption that names the class reach 100 % and teach the model nothing ([Kaufman2012]).

    Next:
        Look at what the modality holds: `equimodal data describe DATA`. If it is a leak, leave it out: `modalities:`
        of the protocol in the data's card.

    References:
        Kaufman et al., Leakage in data mining, ACM TKDD 6, 2012 [Kaufman2012].
    """

    code: ClassVar[str] = "EQ019"
    title: ClassVar[str] = "One modality alone is perfect: does it contain the answer?"
    severity: ClassVar[Severity] = "warning"
    page: ClassVar[str] = "docs/checks/eq019.md"
    perfect: Annotated[float, Within(above=0, below=1), "less than one error in a hundred"] = 0.99
    apart: Annotated[float, Within(above=0, below=1), "twenty points: where all are perfect, the task is easy"] = 0.2

    def run(self, subject: Subject) -> Iterable[Finding]:
        """The best modality and the next."""
        if not subject.share:
            raise NotApplicable("does not apply: the score is no share, so there is no perfect one")
        scores = {m: mean_score(subject.single(m)) for m in subject.several()}
        best = best_by(scores)
        next_best = max(score for m, score in scores.items() if m != best)
        counted = int((subject.single(best)[0].denominator.sum(1) > 0).sum())
        low, high = wilson(min(1.0, scores[best]) * counted, counted)
        if low > self.perfect and scores[best] - next_best > self.apart:
            yield self.finding(
                scores[best], self.perfect,
                f"{best!r} alone scores {subject.shown(scores[best])} on {counted} samples, the next best modality "
                f"{subject.shown(next_best)}.",
                "Look at what it holds (equimodal data describe DATA), and leave it out if it is a leak: `modalities` "
                "of the protocol in the card.",
                interval=(low, high), where=best,
            )  # fmt: skip


@register
@dataclass(frozen=True)
class NeedsAll(Check):
    """The score is reached with all modalities only: a prediction that lacks one is far worse.

    Number:
        Score from all modalities minus that of the best smaller subset, the synergy of the model; the lower end of the
        paired 95 % interval must not be above the threshold. Up to six modalities.

    Why:
        It is good news, if it is synergy: the modalities tell together what none tells alone ([Liang2023]). In use it
        is a risk, since one missing modality takes the score away, and a model trained without missing modalities
        does this also where the others would be enough ([Ma2022]).

    Next:
        `equimodal evaluate RUN --missing-rates 0.1,...,0.9` shows what a missing modality costs; train with some
        missing (`--data.missing audio=0.3`) if that will happen in use.

    References:
        Liang et al., Quantifying and modeling multimodal interactions, NeurIPS 2023 [Liang2023].
        Ma et al., Are multimodal transformers robust to missing modality?, CVPR 2022 [Ma2022].
    """

    code: ClassVar[str] = "EQ020"
    title: ClassVar[str] = "No smaller set of modalities reaches the score"
    severity: ClassVar[Severity] = "note"
    page: ClassVar[str] = "docs/checks/eq020.md"
    synergy: Annotated[float, Within(at_least=0), "ten points: then a missing modality decides"] = 0.1

    def run(self, subject: Subject) -> Iterable[Finding]:
        """The gain over the best smaller subset."""
        subject.several()
        subsets, names = subject.subsets, subject.modalities
        smaller = {s: float(o.score()) for s, o in subsets.items() if s and s != names}
        best = max(smaller, key=lambda s: smaller[s])
        found = paired(subject, [subsets[names]], [subsets[best]])
        score = float(subsets[names].score())
        if found.low > self.synergy * subject.unit(score):
            yield self.finding(
                found.mean, self.synergy,
                f"All modalities score {subject.shown(score)}, the best smaller set, {' + '.join(best)}, "
                f"{subject.shown(smaller[best])}.",
                "See what missing modalities cost: equimodal evaluate RUN --missing-rates 0.1,...,0.9; train with some "
                "missing (--data.missing) if it will happen in use.",
                interval=(found.low, found.high), where=" + ".join(best),
            )  # fmt: skip
