"""Checks of the data: groups on two sides, few validation samples, presence that differs, duplicates."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, ClassVar

import numpy as np
import torch

from equimodal.batch import Tree, tree_tensors
from equimodal.diagnostics._outcomes import Outcomes
from equimodal.diagnostics._paired import paired_difference
from equimodal.diagnostics.checks._finding import Finding, NotMeasured, Severity
from equimodal.diagnostics.checks._formulas import newcombe, shared_share, wilson
from equimodal.diagnostics.checks._registry import Check, register
from equimodal.diagnostics.checks._subject import Subject
from equimodal.methods import Within


@register
@dataclass(frozen=True)
class GroupsOnBothSides(Check):
    """Samples of one group (a speaker, a patient) are in the training data and in the data that are judged.

    Number:
        The share of test samples (of validation samples) whose group has training samples too. Any is too many: the
        threshold is 0, and it is a fact, not an estimate.

    Why:
        Samples of one group are alike. A model that recognises the speaker scores on test data what it will not score
        on a new speaker, and modalities that identify people gain most ([Kaufman2012]).

    Next:
        Split by group: name it under `groups` of the protocol in the data's card (docs/data.md), or choose a protocol
        that does, `equimodal train --protocol NAME`.

    References:
        Kaufman et al., Leakage in data mining, ACM TKDD 6, 2012 [Kaufman2012].
    """

    code: ClassVar[str] = "EQ004"
    title: ClassVar[str] = "Groups are on both sides of the split"
    severity: ClassVar[Severity] = "error"
    page: ClassVar[str] = "docs/checks/eq004.md"
    allowed: Annotated[float, Within(at_least=0, at_most=1), "none: one shared group is a leak"] = 0.0

    def run(self, subject: Subject) -> Iterable[Finding]:
        """Every kind of group, in validation and test data."""
        train = subject.groups("train")
        if not train:
            raise NotMeasured("needs groups; name them in the data's card (groups:), or give groups=")
        for part in ("test", "validation"):
            for kind, labels in subject.groups(part).items():
                known = train.get(kind, ())
                share = shared_share(labels, known)
                if share > self.allowed:
                    both = len(set(labels) & set(known))
                    yield self.finding(
                        share, self.allowed,
                        f"{100 * share:.1f} % of the {part} samples are of a {kind} with training samples ({both} "
                        f"{kind} groups on both sides).",
                        f"Split by {kind}: name it under `groups` of the protocol in the data's card (docs/data.md), "
                        "or choose a protocol that does: equimodal train --protocol NAME.",
                        where=f"{kind}, {part}",
                    )  # fmt: skip


@register
@dataclass(frozen=True)
class FewValidationSamples(Check):
    """Epochs, rules and settings were chosen on so few samples that the choice is mostly luck.

    Number:
        Half the width of the 95 % interval of the validation score: Wilson's for a share, from the score and the number
        of samples; else a bootstrap over the samples, as a share of the score.

    Why:
        Of models whose scores are within the interval the best one on validation data is a random one, and its
        validation score is too high. What is chosen between (epochs, rules, methods) is often closer than that.

    Next:
        More validation data: `validation: {carve: 0.2}` in the data's card takes them from the training data. Or choose
        less: `--training.selection last` takes the last epoch.
    """

    code: ClassVar[str] = "EQ005"
    title: ClassVar[str] = "Chosen on few validation samples"
    severity: ClassVar[Severity] = "warning"
    page: ClassVar[str] = "docs/checks/eq005.md"
    half_width: Annotated[
        float, Within(above=0), "five points: most differences between methods in this field are smaller"
    ] = 0.05

    def run(self, subject: Subject) -> Iterable[Finding]:
        """The widest interval over the seeds."""
        score, samples, low, high = max(self._intervals(subject), key=lambda found: found[3] - found[2])
        half = (high - low) / 2
        if half > self.half_width * subject.unit(score):
            yield self.finding(
                half / subject.unit(score), self.half_width,
                f"The validation score {subject.shown(score)} is of {samples} samples: 95 % interval "
                f"[{subject.shown(low)}, {subject.shown(high)}]. Choices between scores inside it are luck.",
                "Take more validation data (validation: {carve: 0.2} in the data's card, docs/data.md), or choose "
                "less: --training.selection last.",
                interval=(low, high), where="validation",
            )  # fmt: skip

    def _intervals(self, subject: Subject) -> list[tuple[float, int, float, float]]:
        if subject.records.validation:
            if not subject.share:
                raise NotMeasured(
                    "needs the validation outcomes, as the score is no share; check the run with its data"
                )
            return [(s, n, *wilson(min(1.0, max(0.0, s)) * n, n)) for s, n in subject.records.validation]
        from equimodal.diagnostics._evaluate import sample_outcomes

        own = sample_outcomes(subject.method, subject.batches("validation"))["prediction"]
        samples, score = len(own.numerator), float(own.score())
        if subject.share and own.numerator.shape[1] == 1:
            return [(score, samples, *wilson(score * samples, samples))]
        found = paired_difference([own], [Outcomes(np.zeros_like(own.numerator), own.denominator)])
        return [(score, samples, found.low, found.high)]


@register
@dataclass(frozen=True)
class PresenceDiffers(Check):
    """A modality is there more often in one part of the data than in another.

    Number:
        The difference of the shares of samples that have the modality, between two parts; its 95 % interval (Newcombe)
        must not lie beyond the threshold.

    Why:
        A model learns how often a modality is missing. Where that changes, it is asked for predictions that it has not
        practised, and scores of parts are not comparable; a modality that is missing more often for some classes also
        gives the class away.

    Next:
        `equimodal data describe DATA` shows the shares. Train with modalities missing (`--data.missing audio=0.5`, or
        a method that leaves modalities out, docs/methods/index.md), or split so that the parts are alike.

    References:
        Ma et al., Are multimodal transformers robust to missing modality?, CVPR 2022.
    """

    code: ClassVar[str] = "EQ008"
    title: ClassVar[str] = "Presence of a modality differs between parts"
    severity: ClassVar[Severity] = "warning"
    page: ClassVar[str] = "docs/checks/eq008.md"
    difference: Annotated[float, Within(at_least=0), "five points: less hardly moves a score"] = 0.05

    def run(self, subject: Subject) -> Iterable[Finding]:
        """Every modality: the two parts that differ most."""
        presence = subject.presence
        for m in subject.modalities:
            worst = None
            for a, b in combinations(presence, 2):
                first, second = presence[a][m], presence[b][m]
                low, high = newcombe(first, second)
                apart = max(low, -high)
                if apart > self.difference and (worst is None or apart > worst[0]):
                    worst = (apart, a, b, first[0], second[0], (low, high))
            if worst is not None:
                _, a, b, p, q, interval = worst
                yield self.finding(
                    p - q, self.difference,
                    f"{100 * p:.1f} % of the {a} samples have {m!r}, {100 * q:.1f} % of the {b} samples.",
                    f"Train with {m!r} missing as often as in use (--data.missing {m}=RATE; "
                    "docs/missing-modalities.md), or split so that the parts are alike.",
                    interval=interval, where=m,
                )  # fmt: skip


@register
@dataclass(frozen=True)
class Duplicates(Check):
    """The same sample is in the training data and in the test data.

    Number:
        The share of test samples all of whose modalities are, to the last bit, those of one training sample; and that
        of each modality alone. Only where nearly all training samples differ, so that equal ones are no coincidence
        of columns with few values. Threshold 0.

    Why:
        A model may answer from memory, and the larger it is the better it does ([Barz2020]: 3 to 10 % of the test
        images of CIFAR are in the training data).

    Next:
        Remove them from the training data; `Finding.reason` counts them, and `equimodal data describe DATA` shows where
        the arrays come from.

    References:
        Barz and Denzler, Do we train on test data?, Journal of Imaging 6, 2020 [Barz2020].
    """

    code: ClassVar[str] = "EQ016"
    title: ClassVar[str] = "Test samples are among the training samples"
    severity: ClassVar[Severity] = "error"
    page: ClassVar[str] = "docs/checks/eq016.md"
    allowed: Annotated[float, Within(at_least=0, at_most=1), "none: a copy is a leak"] = 0.0
    distinct: Annotated[
        float, Within(at_least=0, at_most=1), "nine of ten training samples differ: equal ones are copies then"
    ] = 0.9

    def run(self, subject: Subject) -> Iterable[Finding]:
        """Whole samples, and each modality."""
        train, test = (_hashes(subject, part) for part in ("train", "test"))
        whole = "the whole sample"
        for name in (whole, *subject.modalities):
            pick = (lambda row: tuple(row.items())) if name == whole else (lambda row, m=name: row.get(m))
            seen, asked = ([v for v in map(pick, rows) if v] for rows in (train, test))
            if not asked or len(set(seen)) < self.distinct * len(seen):
                continue
            share = shared_share(asked, seen)
            if share > self.allowed:
                count, what = round(share * len(asked)), name if name == whole else repr(name)
                yield self.finding(
                    share, self.allowed,
                    f"{count} of {len(asked)} test samples ({100 * share:.1f} %) have {what} "
                    "of a training sample, to the last bit.",
                    "Remove them from the training data and train again; see docs/data.md for splits by group.",
                    where=name,
                )  # fmt: skip
                if name == whole:  # its modalities are too
                    return


def _hashes(subject: Subject, part: str) -> list[dict[str, str]]:
    """Modality -> hash of what each sample has of it, in the order of the samples."""
    found: list[dict[str, str]] = []
    for batch in subject.samples(part):
        rows: list[dict[str, str]] = [{} for _ in range(len(batch))]
        for m, inputs in sorted(batch.inputs.items()):
            mask = None if batch.present is None else batch.present.get(m)
            there = [True] * len(batch) if mask is None else mask.tolist()
            for row, code, is_there in zip(rows, _row_hashes(inputs), there, strict=True):
                if is_there:
                    row[m] = code
        found += rows
    return found


def _row_hashes(inputs: Tree) -> Sequence[str]:
    columns = []
    for tensor in tree_tensors(inputs):
        own = tensor.detach().cpu().contiguous()
        own = own + 0.0 if own.is_floating_point() else own  # -0.0 is 0.0
        flat = own.reshape(len(own), -1)
        columns.append(flat.view(torch.uint8).numpy() if flat.dtype != torch.bool else flat.numpy().view(np.uint8))
    return [hashlib.sha256(b"|".join(c[i].tobytes() for c in columns)).hexdigest() for i in range(len(columns[0]))]
