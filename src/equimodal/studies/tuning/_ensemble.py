"""Greedy selection of an ensemble of trained runs, on stored validation outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from equimodal.diagnostics import Difference, paired_difference
from equimodal.inference import apply_rule
from equimodal.studies.tuning._candidates import Bench
from equimodal.tasks import Task, distribution_of, score


@dataclass(frozen=True)
class RunEnsemble:
    """Runs whose predictions are averaged.

    Args:
        members: name of a run -> how often it counts.
        score: on validation data, of the choice that was made on the same data.
        cross_validated: the score where each fold is predicted by members that were chosen on the others.
        single: the same for one run that was chosen on the others.
        gain: the difference of the last two, with its interval.
    """

    members: Mapping[str, int]
    score: float
    cross_validated: float
    single: float
    gain: Difference

    @property
    def size(self) -> int:
        """How many different runs."""
        return len(self.members)

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "members": dict(self.members), "size": self.size, "score": self.score, "single": self.single,
            "cross_validated": self.cross_validated, "gain": vars(self.gain),
        }  # fmt: skip


def average(task: Task, outputs: Mapping[str, Tensor], members: Mapping[str, int]) -> Tensor:
    """(N, C, ...) mean of the predictions, each as often as it counts: of probabilities, or of numbers.

    Args:
        task: says what an output is.
        outputs: name -> (N, C, ...).
        members: name -> how often it counts.
    """
    repeated = {f"{name}/{i}": outputs[name] for name, times in members.items() for i in range(times)}
    return apply_rule("mean", repeated, None, distribution=distribution_of(task))[0]


def greedy_selection(task: Task, outputs: Mapping[str, Tensor], target: Tensor, size: int) -> dict[str, int]:
    """Members of an ensemble, chosen one by one and with replacement ([Caruana2004]_, sections 2.1 and 2.2).

    Each step adds the run that makes the mean prediction best; a tie goes to the lower loss, then to the earlier run.
    Of all steps the best one is kept, the earliest of equals.

    Args:
        task: gives score and loss.
        outputs: name -> (N, C, ...), in the order of preference.
        target: (N, ...).
        size: steps.

    Returns:
        Name -> how often it counts.

    References:
        .. [Caruana2004] Caruana et al., ensemble selection from libraries of models, ICML 2004.

    Example:
        >>> from equimodal import Classification
        >>> right, wrong = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
        >>> greedy_selection(Classification(2), {"a": wrong, "b": right}, torch.tensor([0]), 3)
        {'b': 1}
    """
    chosen: Counter[str] = Counter()
    best: tuple[float, dict[str, int]] | None = None
    for _ in range(size):
        keys: dict[str, tuple[float, float]] = {}
        for name in outputs:
            mean = average(task, outputs, chosen + Counter([name]))
            value = float(score(task, mean, target))
            keys[name] = (value if value == value else float("-inf"), -float(task.loss(mean, target)))
        name = max(keys, key=lambda n: keys[n])  # the first of equals
        chosen[name] += 1
        if best is None or keys[name][0] > best[0]:
            best = (keys[name][0], dict(chosen))
    return {} if best is None else best[1]


def select_ensemble(bench: Bench, outputs: Mapping[str, Tensor], size: int) -> RunEnsemble:
    """An ensemble of runs, and what it gains over one run, measured where it was not chosen.

    Args:
        bench: validation samples.
        outputs: name of a run -> (N, C, ...) of its prediction.
        size: largest number of members, repeats counted.
    """
    task, target = bench.task, bench.target
    members = greedy_selection(task, outputs, target, size)
    several, one = None, None
    for fold in range(int(bench.folds.max()) + 1):
        inside = bench.folds == fold
        outside = inside if bool(inside.all()) else ~inside
        seen = {name: z[outside] for name, z in outputs.items()}
        own = {name: z[inside] for name, z in outputs.items()}
        parts = [average(task, own, greedy_selection(task, seen, target[outside], steps)) for steps in (size, 1)]
        if several is None or one is None:
            several, one = (p.new_empty(len(inside), *p.shape[1:]) for p in parts)
        several[inside], one[inside] = parts
    if several is None or one is None:
        raise ValueError("no folds")
    gain = paired_difference([bench.outcomes(several)], [bench.outcomes(one)])
    return RunEnsemble(
        members, bench.score(average(task, outputs, members)), bench.score(several), bench.score(one), gain
    )
