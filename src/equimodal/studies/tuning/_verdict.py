"""Which composition wins, and whether that is more than chance: chosen on validation data, told on test data once."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from equimodal.data import Dataset, TestSplit, loader, require
from equimodal.diagnostics import Difference, Outcomes, exchange_p, paired_difference
from equimodal.errors import MethodError
from equimodal.inference import Inference, Rule
from equimodal.methods import Method, default_method
from equimodal.studies.runs import (
    OUTCOMES,
    conclude,
    is_finished,
    load_selected,
    locked,
    own_randomness,
    prepare_folder,
    read_metrics,
    read_outcomes,
    verify,
)
from equimodal.studies.setup import RunConfig, seeded
from equimodal.studies.tuning._candidates import Bench, Candidate
from equimodal.studies.tuning._ensemble import RunEnsemble, average
from equimodal.studies.tuning._outputs import collect, groups_of, read_outputs
from equimodal.studies.tuning._trial import OUTPUTS, with_candidate
from equimodal.tasks import distribution_of, score


@dataclass(frozen=True)
class Finished:
    """A trial that was trained to its end, with the way to predict that was chosen for it.

    Args:
        number: of the trial.
        config: of its run.
        folder: of its run.
        pick: the chosen candidate.
        control: whether it is one of the controls as they are.
    """

    number: int
    config: RunConfig
    folder: Path
    pick: Candidate
    control: bool

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.config.method} (trial {self.number})"


@dataclass(frozen=True)
class Verdict:
    """What to take.

    Args:
        winner: the best trial on validation data.
        control: the best control on validation data.
        default: the control that is taken where nothing is better than chance; ``None`` if it was not trained.
        validation: winner minus control there, with its interval; ``None`` where the winner is the control.
        over_default: control minus default there; ``None`` where the two are one.
        taken: the winner if it is clearly above the control; else the default, unless the control is clearly above it.
        p: one-sided, of exchanging winner and control sample by sample, or group by group; ``None`` where nothing is
            compared.
        compositions: how many the winner is the best of, for which the interval is corrected (Bonferroni).
    """

    winner: Finished
    control: Finished
    validation: Difference | None
    taken: Finished
    p: float | None = None
    compositions: int = 1
    default: Finished | None = None
    over_default: Difference | None = None


def judge(bench: Bench, finished: Sequence[Finished]) -> Verdict:
    r"""Winner, best control, and what to take.

    The default of the library is one of the controls, and is taken unless something is
    better by more than chance: which method holds on many data is known before the search, and a search on a few
    validation samples, with trials that are shorter than a training, says less than that. The winner is taken if it is
    clearly above the best control, the best control if it is clearly above the default.

    The best of k is above another by chance more often than one is. Its interval therefore has the level
    :math:`1 - 0.05 / k` (Bonferroni), and k times as many draws, so that its ends are as exact. With few groups a
    bootstrap interval is too narrow, so that an :func:`~equimodal.diagnostics.exchange_p` test must agree.

    Args:
        bench: validation samples.
        finished: all trials that were trained to their end.

    Raises:
        MethodError: no control among them.
    """
    controls = [f for f in finished if f.control]
    if not controls:
        raise MethodError(
            "`training`: expected at least one control that trains to its end. Found none; the journal says why. "
            "Change what they share: data, model or training."
        )
    order = sorted(finished, key=lambda f: (not f.control, f.number))  # of equals the control, then the earlier one
    winner = max(order, key=lambda f: f.pick.score)
    default = next((f for f in controls if f.config.method == default_method()), None)
    # of equal controls the default, then the earlier one
    control = max(sorted(controls, key=lambda f: (f is not default, f.number)), key=lambda f: f.pick.score)
    winner = control if winner.pick.score == control.pick.score else winner
    fallback, over_default = control, None
    if default is not None and default is not control:
        over_default, _, clear = _clearly(bench, control, default, len(controls) - 1)
        fallback = control if clear else default
    if winner is control:
        return Verdict(winner, control, None, fallback, default=default, over_default=over_default)
    count = len(finished) - len(controls)
    difference, p, clear = _clearly(bench, winner, control, count)
    return Verdict(winner, control, difference, winner if clear else fallback, p, count, default, over_default)


def _clearly(bench: Bench, first: Finished, second: Finished, count: int) -> tuple[Difference, float, bool]:
    """First minus second, p of an exchange, and whether the first, the best of ``count``, is above by both."""
    ours, theirs = _earned(bench, first), _earned(bench, second)
    difference = paired_difference([ours], [theirs], level=1 - 0.05 / count, draws=2000 * count)
    p = exchange_p(ours, theirs, draws=2000 * count)
    return difference, p, difference.better and p <= 0.025 / count


def _earned(bench: Bench, trial: Finished) -> Outcomes:
    """What the chosen candidate of a trial earns on validation data."""
    pick = trial.pick
    stored = read_outputs(trial.folder / OUTPUTS).get(pick.selection)
    found = {} if stored is None else bench.compared(stored, (pick.rule, pick.calibrated))
    if (pick.rule, pick.calibrated) not in found:
        raise MethodError(
            f"`{trial.folder / OUTPUTS}`: expected outputs of the {pick.selection} weights for the rule {pick.rule!r}. "
            "Found none. Start anew in another folder."
        )
    return found[pick.rule, pick.calibrated]


def validation_output(bench: Bench, trial: Finished) -> Tensor:
    """(N, C, ...) of the chosen candidate of a trial, each fold predicted by what was fitted on the others."""
    stored = read_outputs(trial.folder / OUTPUTS)[trial.pick.selection]
    output = bench.output(stored, cast(Rule, trial.pick.rule), trial.pick.calibrated)
    if output is None:
        raise MethodError(f"`{trial.folder / OUTPUTS}`: expected outputs for the rule {trial.pick.rule!r}. Found none.")
    return output


def finish(trial: Finished, folder: Path, data: Dataset) -> dict[str, Any]:
    """Make a finished run of a trial, with its rule fitted on validation data, and read the test split for it.

    Args:
        trial: that is told.
        folder: of the finished run; one that is there already is not made again.
        data: of the tuning.

    Returns:
        The content of its ``metrics.json``.
    """
    config = with_candidate(trial.config, trial.pick)
    if is_finished(folder):
        verify(folder)
        known: dict[str, Any] = read_metrics(folder, config)
        return known
    with own_randomness():
        method = seeded(trial.config, data)
        found = load_selected(method, trial.folder, trial.pick.selection)
        _use(method, trial.pick)
        with locked(folder):
            prepare_folder(config, folder, data, resume=True)
            shutil.copyfile(trial.folder / "history.jsonl", folder / "history.jsonl")
            return conclude(method, data, config, folder, found)


def _use(method: Method, pick: Candidate) -> None:
    """Give a trained method its rule; built in, the checkpoint would lack what the rule keeps."""
    if not pick.default:
        method.inference = Inference(
            method.modalities, cast(Rule, pick.rule), calibrated=pick.calibrated,
            distribution=distribution_of(method.task),
        ).to(next(method.parameters()).device)  # fmt: skip


def difference_on_test(data: Dataset, first: Path, second: Path) -> Difference:
    """Difference of two finished runs on the test samples, groups being drawn as wholes."""
    one, other = (read_outcomes(folder / OUTCOMES)["prediction"] for folder in (first, second))
    groups = groups_of(data.test)
    return paired_difference([one], [other], groups=None if groups is None else groups.tolist())


def ensemble_on_test(trials: Mapping[str, Finished], chosen: RunEnsemble, data: Dataset) -> float:
    """Test score of the ensemble; each member's rule is fitted on validation data.

    Args:
        trials: name -> trial.
        chosen: of these.
        data: of the tuning.
    """
    outputs = {}
    for name in chosen.members:
        trial = trials[name]
        with own_randomness():
            method = seeded(trial.config, data)
            load_selected(method, trial.folder, trial.pick.selection)
        _use(method, trial.pick)
        method.fit_inference(loader(data.validation, 256))
        seen = collect(method, loader(require(data.test, TestSplit, "test"), 256))
        with torch.no_grad():
            outputs[name] = method.inference(seen.fused, seen.unimodal, seen.present).output
    return float(score(data.task, average(data.task, outputs, chosen.members), data.test.target))


def in_words(verdict: Verdict, test: Mapping[str, Any] | None, percent: bool) -> str:
    """The verdict as sentences.

    Args:
        verdict: on validation data.
        test: scores and differences, as ``tune.json`` has them; ``None`` where the test split was not read.
        percent: whether scores are shares.
    """
    control, winner, default = verdict.control, verdict.winner, verdict.default
    said = []
    if verdict.taken is winner and verdict.validation is not None:
        above = _with_interval(verdict.validation, percent, verdict.compositions)
        said.append(
            f"Take {winner.label}: on validation data it is {above} above the best control, {control.config.method}, "
            "and the interval lies above zero."
        )
    else:
        kind = "default" if verdict.taken is default else "control"
        said.append(f"Take the {kind} {verdict.taken.config.method}: {_why_not(verdict, percent)}.")
    if test is None:
        return " ".join(said)
    for key, who in (("difference", "composition"), ("default_difference", "default")):
        if test.get(key) is not None:
            difference = Difference(**test[key])
            check = "the interval lies above zero" if difference.better else (
                "the interval lies below zero" if difference.worse else "the interval includes zero"
            )  # fmt: skip
            above = _with_interval(difference, percent)
            said.append(f"On test data the {who} is {above} above the best control, {control.config.method}; {check}.")
    return " ".join(said)


def _why_not(verdict: Verdict, percent: bool) -> str:
    """Why the winner is not taken, and of best control and default this one."""
    control, reasons = verdict.control, []
    if verdict.over_default is not None and verdict.default is not None:
        above = _with_interval(verdict.over_default, percent)
        clear = verdict.taken is control
        reasons.append(
            f"the best control, {control.config.method}, is {above} above "
            f"{'the default, ' + verdict.default.config.method + ',' if clear else 'it'} on validation data, "
            + ("and the interval lies above zero" if clear else "which may be chance")
        )
    if verdict.validation is None:
        reasons.append("no composition scored higher on validation data")
    else:
        chance = "and the interval includes zero"
        if verdict.validation.better:
            chance = f"but exchanging the two group by group gives as much too often (p = {verdict.p:.3f})"
        above = _with_interval(verdict.validation, percent, verdict.compositions)
        whom = control.config.method if reasons else "it"
        reasons.append(
            f"the best composition, {verdict.winner.label}, is {above} above {whom} on validation data, {chance}"
        )
    return "; ".join(reasons)


def _with_interval(difference: Difference, percent: bool, compositions: int = 1) -> str:
    factor, digits, unit = (100, 1, " points") if percent else (1, 3, "")
    low, high = difference.low * factor, difference.high * factor
    corrected = f", corrected for {compositions} compositions" if compositions > 1 else ""
    return (
        f"{difference.mean * factor:.{digits}f}{unit} (95 % interval {low:.{digits}f} to {high:.{digits}f}{corrected})"
    )


def plain_difference(difference: Difference | None) -> dict[str, Any] | None:
    """As plain values."""
    return None if difference is None else asdict(difference)
