"""What checks look at: a trained method with its data, or what is on record of one, or both."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from equimodal.batch import Batch
from equimodal.data import Loader, Split, loader
from equimodal.diagnostics._evaluate import Collected, collect, outcomes_of, rule_outcomes
from equimodal.diagnostics._outcomes import Outcomes, sample_terms
from equimodal.diagnostics._probe import probe_outcomes
from equimodal.diagnostics._subsets import subsets_of
from equimodal.diagnostics._sweep import readers
from equimodal.diagnostics.checks._finding import NotApplicable, NotMeasured
from equimodal.methods import BatchLike, Method
from equimodal.tasks import Task, distribution_of

T = TypeVar("T")
Data = Iterable[BatchLike] | Split
BySubset = Mapping[tuple[str, ...], Outcomes]
Named = Mapping[str, Outcomes]
MOST_MODALITIES = 6
"""Above it the subsets of the modalities are too many to look at all of them."""
MOST_BATCHES = 16
"""Training batches that gradients are looked at on."""
PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Records:
    """What is known of a model without the model: facts of its run or runs, one entry per seed.

    Args:
        outcomes: as ``outcomes.npz`` holds them: ``"prediction"``, ``"unimodal/M"``, ``"probe/M"``, ``"rule/NAME"``.
        history: the lines of ``history.jsonl`` per seed.
        selected: number of the chosen epoch per seed.
        rules: rule -> validation score per seed, and the rule in force.
        alone: outcomes of an independent model, of the same seeds.
        rivals: control -> its outcomes, of the same seeds.
        validation: (score, samples) per seed.
        presence: part -> modality -> (share, samples).
        weights: expert -> weight of the fitted rule, per seed.
        modalities: all of them.
        trained: those whose encoders were trained.
        share: the score is a share, 0 to 1.
        control: it is itself a control.
    """

    outcomes: Sequence[Named] = ()
    history: Sequence[Sequence[Mapping[str, Any]]] = ()
    selected: Sequence[int] = ()
    rules: Sequence[tuple[str, Mapping[str, float]]] = ()
    alone: Sequence[Named] = ()
    rivals: Mapping[str, Sequence[Named]] = field(default_factory=dict)
    validation: Sequence[tuple[float, int]] = ()
    presence: Mapping[str, Mapping[str, tuple[float, int]]] = field(default_factory=dict)
    weights: Sequence[Mapping[str, float]] = ()
    modalities: tuple[str, ...] = ()
    trained: tuple[str, ...] = ()
    share: bool | None = None
    control: bool = False


class Subject:
    """What a check may ask for; each fact is computed once, when it is first asked for, or read from the records.

    Args:
        label: for people.
        method: trained; ``None`` where only records are there.
        data: part (``"train"``, ``"validation"``, ``"test"``) -> batches with targets, or a split.
        records: what is known without computing.
        fast: refuse what trains or takes gradients.
        alone: a model whose modalities were trained each by itself, on the same data.
        rivals: name -> other trained methods on the same data, the controls.
        optimizer: makes an optimizer of parameter groups, or one that was used.
        groups: part -> kind of group -> labels of its samples.
        absence: why there is no method, for messages.

    Raises:
        NotMeasured: (when a fact is asked for) it is not on record and cannot be computed.
    """

    def __init__(
        self,
        label: str,
        method: Method | None = None,
        data: Mapping[str, Data] | None = None,
        *,
        records: Records | None = None,
        fast: bool = False,
        alone: Method | None = None,
        rivals: Mapping[str, Method] | None = None,
        optimizer: Optimizer | Callable[[list[dict[str, Any]]], Optimizer] | None = None,
        groups: Mapping[str, Mapping[str, Sequence[object]]] | None = None,
        absence: str = "the trained model is not at hand",
    ) -> None:
        self.label, self.records, self.fast, self.optimizer = label, records or Records(), fast, optimizer
        self._method, self._alone, self._rivals, self._absence = method, alone, dict(rivals or {}), absence
        # an iterator would be used up by the first check
        self._data = {k: list(v) if isinstance(v, Iterator) else v for k, v in (data or {}).items()}
        self._groups = {part: dict(kinds) for part, kinds in (groups or {}).items()}

    # ---- the model and its data --------------------------------------------------------------------------------------

    @property
    def method(self) -> Method:
        """The trained method."""
        if self._method is None:
            raise NotMeasured(f"needs the model; {self._absence}")
        return self._method

    def slow(self, what: str) -> None:
        """Refuse, in fast mode, what takes long."""
        if self.fast:
            raise NotMeasured(f"left out in fast mode, as it {what}")

    def batches(self, part: str) -> Iterable[BatchLike]:
        """The batches of a part in a fixed order, without moving on the loader that was given."""
        found = self._data.get(part)
        if found is None:
            raise NotMeasured(f"needs the {part} data; give {part}=")
        if isinstance(found, Split):
            return loader(found, 256, shuffle=False)
        return loader(found.split, found.batch_size, shuffle=False) if isinstance(found, Loader) else found

    @property
    def judged(self) -> str:
        """The part that scores are of: test data, or validation data where there are none."""
        return "validation" if "test" not in self._data and "validation" in self._data else "test"

    def split(self, part: str) -> Split | None:
        """The split behind a part, where there is one."""
        found: Any = self._data.get(part)
        found = found if isinstance(found, Split) else getattr(found, "split", None)
        return found if isinstance(found, Split) else None

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities."""
        return self._method.modalities if self._method is not None else self.records.modalities

    @property
    def trained(self) -> tuple[str, ...]:
        """The modalities whose encoders were trained."""
        return self._method.trained_modalities() if self._method is not None else self.records.trained

    def several(self) -> tuple[str, ...]:
        """The trained modalities, if there are at least two."""
        if len(self.trained) < 2:
            raise NotApplicable("does not apply to a model of one trained modality")
        return self.trained

    @property
    def share(self) -> bool:
        """Whether the score is a share, 0 to 1, as an accuracy is."""
        if self.records.share is not None:
            return self.records.share
        return not getattr(self.method.task, "relative_score", False)

    def unit(self, score: float) -> float:
        """What a margin is a share of: 1 for shares, else the size of the score."""
        return 1.0 if self.share else max(abs(score), 1e-12)

    def shown(self, score: float) -> str:
        """A score or a difference of scores for people."""
        return f"{100 * score:.1f} %" if self.share else f"{score:.4g}"

    # ---- outcomes ----------------------------------------------------------------------------------------------------

    @cached_property
    def collected(self) -> Collected:
        """All outputs on the judged part."""
        return collect(self.method, self.batches(self.judged))

    @cached_property
    def outcomes(self) -> Sequence[Named]:
        """``"prediction"``, ``"unimodal/M"`` ... -> outcomes on the judged part, one entry per seed."""
        if self.records.outcomes:
            return self.records.outcomes
        return [outcomes_of(self.method, self.collected)]

    def named(self, name: str) -> list[Outcomes]:
        """The outcomes of that name, one per seed."""
        if not all(name in found for found in self.outcomes):
            raise NotMeasured(f"needs the outcomes of {name!r}, which are not on record")
        return [found[name] for found in self.outcomes]

    @cached_property
    def subsets(self) -> BySubset:
        """Subset -> outcomes of the prediction from it alone, on the judged part; ``()`` is the mean prediction."""
        names = self.modalities
        if len(names) > MOST_MODALITIES:
            raise NotApplicable(f"looks at all subsets of the modalities, of at most {MOST_MODALITIES}")
        method, wanted = self.method, subsets_of(names)
        outputs: dict[tuple[str, ...], list[Tensor]] = {s: [] for s in wanted}
        rows: dict[tuple[str, ...], list[NDArray[np.bool_]]] = {s: [] for s in wanted}
        targets: list[Tensor] = []
        for reader in readers(method, self.batches(self.judged)):
            targets.append(reader.target)
            for subset in wanted:
                kept = reader.available & np.isin(reader.names, subset)
                there: NDArray[np.bool_] = np.asarray(kept.any(axis=1))
                rows[subset].append(there)
                if there.any():
                    outputs[subset].append(reader.predict(kept)[0])
        target = torch.cat(targets)
        nothing = sample_terms(method.task, constant(method.task, torch.cat(outputs[names]), len(target)), target)
        found: dict[tuple[str, ...], Outcomes] = {(): nothing}
        for subset in wanted:
            mask = np.concatenate(rows[subset])
            numerator, denominator = nothing.numerator.copy(), nothing.denominator.copy()
            if mask.any():
                own = sample_terms(method.task, torch.cat(outputs[subset]), target[torch.from_numpy(mask)])
                numerator[mask], denominator[mask] = own.numerator, own.denominator
            found[subset] = Outcomes(numerator, denominator)
        return found

    def single(self, modality: str) -> list[Outcomes]:
        """What the model says of a modality alone: its own output, or its prediction from that modality only."""
        if all(f"unimodal/{modality}" in found for found in self.outcomes):
            return self.named(f"unimodal/{modality}")
        if self._method is None:
            raise NotMeasured(f"needs what the model says of one modality alone, and has no record; {self._absence}")
        return [self.subsets[modality,]]

    @cached_property
    def probes(self) -> Sequence[Named]:
        """Modality -> outcomes of a linear probe of its features, one entry per seed."""
        if self.records.outcomes:
            return _part(self.records.outcomes, "probe/")
        self.slow("fits linear probes")
        if self.judged != "test":
            raise NotMeasured("needs test data beside the validation data that a probe is chosen on; give test=")
        return [self._probed(self.method)]

    def _probed(self, method: Method) -> dict[str, Outcomes]:
        train, validation, test = (self.batches(part) for part in PARTS)
        return probe_outcomes(method, train, validation, test)

    @cached_property
    def alone(self) -> Sequence[Named]:
        """Outcomes of the model whose modalities were trained each by itself, ``"probe/M"`` among them."""
        if self.records.alone:
            return self.records.alone
        if self._alone is None:
            raise NotMeasured(
                "needs a model whose modalities were trained each by itself; give alone=, or compare with the "
                "controls: equimodal compare"
            )
        found = outcomes_of(self._alone, collect(self._alone, self.batches(self.judged)))
        if not self.fast and self.judged == "test":
            found |= {f"probe/{m}": o for m, o in self._probed(self._alone).items()}
        return [found]

    @cached_property
    def rivals(self) -> Mapping[str, Sequence[Named]]:
        """Control -> its outcomes."""
        if self.records.control:
            raise NotApplicable("does not apply to a control")
        if self.records.rivals:
            return self.records.rivals
        if not self._rivals:
            raise NotMeasured("needs the controls; give rivals=, or compare with them: equimodal compare")
        judged = self.batches(self.judged)
        return {name: [outcomes_of(m, collect(m, judged))] for name, m in self._rivals.items()}

    @cached_property
    def rules(self) -> Sequence[tuple[str, Mapping[str, float], Named]]:
        """The rule in force, validation score of every rule, and the outcomes of each; one entry per seed."""
        if self.records.rules and self.records.outcomes:
            own = _part(self.records.outcomes, "rule/")
            return [(rule, scores, o) for (rule, scores), o in zip(self.records.rules, own, strict=True)]
        if self.judged != "test":
            raise NotMeasured("needs test data beside the validation data that a rule is chosen on; give test=")
        found = rule_outcomes(self.method, self.batches("validation"), self.batches("test"))
        scores = {rule: score for rule, (score, _) in found.items()}
        return [(self.method.inference.rule, scores, {rule: o for rule, (_, o) in found.items()})]

    @property
    def clusters(self) -> Sequence[object] | None:
        """Labels of the groups of the judged samples, which are drawn as a whole; ``None`` where none are known."""
        kinds = self.groups(self.judged)
        several = {k: v for k, v in kinds.items() if len(set(v)) > 1}
        count = len(self.outcomes[0]["prediction"].numerator)
        return next((list(v) for v in several.values() if len(v) == count and len(set(v)) >= 20), None)

    # ---- data --------------------------------------------------------------------------------------------------------

    def groups(self, part: str) -> Mapping[str, Sequence[object]]:
        """Kind of group -> label of each sample of a part."""
        split = self.split(part)
        known = {} if split is None else {k: v.tolist() for k, v in split.groups.items()}
        return {**known, **self._groups.get(part, {})}

    @cached_property
    def presence(self) -> Mapping[str, Mapping[str, tuple[float, int]]]:
        """Part -> modality -> share of its samples that have it, and how many samples."""
        if self.records.presence:
            return self.records.presence
        found = {}
        for part in PARTS:
            if part in self._data:
                total, had = 0, dict.fromkeys(self.modalities, 0)
                for batch in self.samples(part):
                    total += len(batch)
                    for m in self.modalities:
                        mask = None if batch.present is None else batch.present.get(m)
                        had[m] += 0 if m not in batch.inputs else len(batch) if mask is None else int(mask.sum())
                found[part] = {m: (n / total, total) for m, n in had.items()}
        if len(found) < 2:
            raise NotMeasured("needs two parts of the data; give train= and test=")
        return found

    def samples(self, part: str) -> Iterator[Batch]:
        """The batches of a part, as they are read for training or evaluation."""
        for item in self.batches(part):
            yield Batch.of(item)

    def training_batches(self) -> list[Batch]:
        """Some training batches on the model's device, evenly taken from all of them."""
        device = next(self.method.parameters()).device
        found: Iterable[BatchLike] = self.batches("train")
        split = self.split("train")
        if split is not None:  # in the order of the data, neighbours may be of one class
            given: Any = self._data["train"]
            size = min(given.batch_size if isinstance(given, Loader) else 64, max(2, len(split) // 4))
            found = loader(split, size, shuffle=True, seed=0)
        batches = []
        for item in found:
            batches.append(self.method.check_batch(item).to(device))
            if len(batches) == MOST_BATCHES:
                break
        return batches

    def twin(self) -> Method:
        """A copy of the method, for what leaves traces."""
        return copy.deepcopy(self.method)


def constant(task: Task, output: Tensor, count: int | None = None) -> Tensor:
    """The mean of predictions, which knows nothing of a sample, ``count`` times (as often as there are predictions)."""
    kind = distribution_of(task)
    if kind == "categorical":
        mean = torch.softmax(output, 1).mean(0, keepdim=True).log()
    elif kind == "bernoulli":
        mean = torch.logit(torch.sigmoid(output).mean(0, keepdim=True), eps=1e-6)
    else:
        mean = output.mean(0, keepdim=True)
    return mean.expand(len(output) if count is None else count, *output.shape[1:])


def _part(outcomes: Sequence[Named], prefix: str) -> list[dict[str, Outcomes]]:
    """The outcomes under a prefix, without it."""
    found = [{k.removeprefix(prefix): o for k, o in named.items() if k.startswith(prefix)} for named in outcomes]
    if not all(found):
        raise NotMeasured(f"needs {prefix.rstrip('/')} outcomes, which these records lack")
    return found
