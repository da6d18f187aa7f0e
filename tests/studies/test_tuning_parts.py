"""What a tuning is made of: ranges, rungs, candidates on stored outputs, ensembles, importance."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch
from torch import Tensor

from equimodal import Classification, Regression
from equimodal.diagnostics import Outcomes
from equimodal.errors import CheckpointError, EquimodalError, MethodError, UnknownNameError
from equimodal.inference import Inference
from equimodal.methods import Within, available, check_options, get
from equimodal.studies import TrainingConfig, TuneConfig, build_data
from equimodal.studies.comparisons import count_operations, declared_cost
from equimodal.studies.setup import method_options
from equimodal.studies.tuning import greedy_selection, importance, option_space
from equimodal.studies.tuning._candidates import Bench, Candidate, candidates, simplest
from equimodal.studies.tuning._ensemble import average, select_ensemble
from equimodal.studies.tuning._journal import ranges_of
from equimodal.studies.tuning._outputs import Outputs, folds, groups_of, read_outputs, write_outputs
from equimodal.studies.tuning._plan import rungs, trial_length
from equimodal.studies.tuning._space import Choice, Range, drawn, number_range
from tests.studies.helpers import config


@pytest.mark.parametrize(
    ("within", "default", "expected"),
    [
        (Within(above=0), 2.0, Range(0.2, 20.0, log=True)),
        (Within(at_least=0), 0.0, Range(0.0, 1.0)),
        (Within(at_least=0, at_most=1), 0.1, Range(0.01, 1.0, log=True)),  # a small share: its size matters
        (Within(above=0, below=1), 0.5, Range(0.001, 0.999)),
        (Within(at_least=0, at_most=1), 0.0, Range(0.0, 1.0)),
        (Within(at_least=1, whole=True), 10, Range(2.5 // 1 + 1, 40, log=True, whole=True)),
        (Within(above=0, whole=True), 1, Range(1, 4, whole=True)),
        (Within(at_least=1, at_most=1, whole=True), 1, None),
        (Within(above=0), None, None),
        (Within(above=0), True, None),
    ],
)
def test_ranges_of_numbers(within: Within, default: Any, expected: Range | None) -> None:
    assert number_range(within, default) == expected


@pytest.mark.parametrize("name", available(outside=False))
def test_every_method_takes_the_ends_of_its_ranges(name: str) -> None:
    usual = {n: p.default for n, p in method_options(name).items()}
    for option, entry in option_space(name).items():
        ends = entry.values if isinstance(entry, Choice) else (entry.low, entry.high)
        assert len(set(ends)) > 1
        for value in ends:
            check_options(get(name).__init__, {**usual, "self": None, "model": None, "task": None, option: value})


def test_the_range_of_an_option_is_checked_as_the_method_does() -> None:
    """The test above can fail: a value beyond its range is refused."""

    def constructor(*, alpha: Annotated[float, Within(above=0, below=1)] = 0.5) -> None: ...

    with pytest.raises(MethodError):
        check_options(constructor, {"alpha": 1.0})


@pytest.mark.parametrize(
    ("length", "reduction", "expected"),
    [(20, 3, [3, 9, 20]), (9, 3, [1, 3, 9]), (10, 2, [3, 6, 10]), (3, 3, [1, 3]), (1, 3, [1])],
)
def test_rungs(length: int, reduction: int, expected: list[int]) -> None:
    assert rungs(length, reduction) == expected


@pytest.mark.parametrize(
    ("budget", "epochs", "length", "expected"),
    [
        (60, 20, None, 11),  # two thirds of 60, by 3.5 joint steps per epoch
        (600, 20, None, 20),
        (70, 20, 20, 20),  # the controls may take all, if that is asked for
    ],
)
def test_the_length_of_a_trial(budget: float, epochs: int, length: int | None, expected: int) -> None:
    settings = TuneConfig(budget, training=TrainingConfig(epochs=epochs), length=length)
    assert trial_length(settings, {"a": 1.0, "b": 1.0, "c": 1.5}) == expected


def test_a_budget_that_is_too_small_is_refused() -> None:
    costs = {"a": 1.0, "b": 1.0}
    with pytest.raises(
        MethodError, match=r"`budget`: expected at least 20 joint epochs, which one control.*Found 19.5"
    ):
        trial_length(TuneConfig(19.5, training=TrainingConfig(epochs=20)), costs)
    settings = TuneConfig(39.9, training=TrainingConfig(epochs=20), length=20)
    with pytest.raises(MethodError, match=r"expected at least 40 joint epochs, which the controls a, b take over 20"):
        trial_length(settings, costs)
    with pytest.raises(MethodError, match="expected at least 2 joint epochs"):
        trial_length(TuneConfig(1.0, training=TrainingConfig(epochs=1)), costs)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"budget": 0}, MethodError, r"`budget`: expected a number > 0. Found 0"),
        ({"budget": float("nan")}, MethodError, r"`budget`: expected a number > 0. Found nan"),
        ({"lr_span": 1.0}, MethodError, r"`lr_span`: expected a number > 1"),
        ({"reduction": 1}, MethodError, r"`reduction`: expected a whole number >= 2"),
        ({"ensemble": -1}, MethodError, r"`ensemble`"),
        ({"length": 31}, MethodError, r"`length`: expected at most training.epochs, which is 30"),
        ({"cost": "guessed"}, UnknownNameError, "Known: declared, measured"),
        ({"methods": ["MLAA"]}, UnknownNameError, "Unknown method 'MLAA'. Did you mean 'MLA'"),
        ({"fusions": ["Sums"]}, UnknownNameError, "Unknown fusion 'Sums'. Did you mean 'Sum'"),
        ({"training": TrainingConfig(lr=0)}, MethodError, r"`training.lr`: expected a number > 0"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, Any], error: type[EquimodalError], message: str) -> None:
    with pytest.raises(error, match=message):
        TuneConfig(**changes)


def test_methods_that_do_not_fit_are_refused_by_name_and_left_out_otherwise() -> None:
    data = build_data(config().data)
    with pytest.raises(MethodError, match=r"`methods`: .*Found Unimodal"):
        TuneConfig(methods=["Unimodal", "MLA"]).searched(data)
    every = TuneConfig().searched(data)
    assert "Unimodal" not in every
    assert set(every) >= {"Joint", "MultiLoss", "Ensemble", "MLA", "CGGM", "MIE"}
    assert TuneConfig(methods=["mla"]).searched(data) == ["Joint", "MultiLoss", "Ensemble", "ExpertPool", "MLA"]


def test_the_cost_of_a_step_counts_what_options_add() -> None:
    data = build_data(config().data)
    plain, sharp = config(), config(options={"sharpness": {"mode": "full"}})
    assert count_operations(data, sharp) == 2 * count_operations(data, plain)  # two passes
    assert declared_cost(plain, 2) == 1.0
    assert declared_cost(sharp, 2) == 2.0
    assert declared_cost(config("Unimodal"), 4) == 0.25
    assert declared_cost(config("MIE"), 2) == 2.0


@pytest.mark.parametrize(
    ("then", "now"),
    [
        (Choice(("a", "b")), Choice(("a", "b", "c"))),
        (Range(0.1, 10.0, log=True), Range(0.0, 1.0)),
        (Range(1, 16, whole=True), Range(8, 64, log=True, whole=True)),
    ],
)
def test_a_parameter_is_drawn_from_what_it_was_drawn_from_first(then: Choice | Range, now: Choice | Range) -> None:
    study = pytest.importorskip("optuna").create_study()
    drawn(study.ask(), "x", then)
    assert ranges_of(study) == {"x": then}
    with pytest.raises(ValueError, match="does not support|Cannot set different"):
        drawn(study.ask(), "x", now)
    drawn(study.ask(), "x", ranges_of(study)["x"])


# ---- stored outputs --------------------------------------------------------------------------------------------------


def stored(seed: int = 0, count: int = 40) -> tuple[Outputs, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = torch.arange(count) % 3
    hot = torch.nn.functional.one_hot(target, 3).double()
    unimodal = {m: 2 * hot + torch.randn(count, 3, generator=generator, dtype=torch.float64) for m in ("a", "b")}
    present = {"a": torch.arange(count) % 5 != 0, "b": torch.ones(count, dtype=torch.bool)}
    fused = hot + torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return Outputs(fused, unimodal, present), target


def test_outputs_come_back_as_they_were(tmp_path: Path) -> None:
    outputs, _ = stored()
    write_outputs(tmp_path / "o", {"last": outputs, "best": Outputs(None, outputs.unimodal, outputs.present)})
    found = read_outputs(tmp_path / "o")
    assert found["best"].fused is None
    assert torch.equal(found["last"].fused, outputs.fused)  # type: ignore[arg-type]
    assert all(torch.equal(found["best"].unimodal[m], z) for m, z in outputs.unimodal.items())
    assert all(torch.equal(found["last"].present[m], z) for m, z in outputs.present.items())
    (tmp_path / "o").write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="expected outputs written by equimodal"):
        read_outputs(tmp_path / "o")
    with pytest.raises(CheckpointError, match="none"):
        read_outputs(tmp_path / "none")


def test_what_is_fitted_predicts_samples_that_it_was_not_fitted_on() -> None:
    outputs, target = stored()
    parts = torch.arange(40) % 4
    found = Bench(Classification(3), target, parts, None).output(outputs, "mean", True)
    assert found is not None
    for k in range(4):
        inference = Inference(["a", "b"], "mean", calibrated=True)
        rest = outputs.select(parts != k)
        inference.fit(Classification(3), rest.fused, rest.unimodal, rest.present, target[parts != k])
        own = outputs.select(parts == k)
        expected = inference(own.fused, own.unimodal, own.present).output
        assert torch.equal(found[parts == k], expected)
    everything = Inference(["a", "b"], "mean", calibrated=True)
    everything.fit(Classification(3), outputs.fused, outputs.unimodal, outputs.present, target)
    assert not torch.equal(found, everything(outputs.fused, outputs.unimodal, outputs.present).output)


def test_all_rules_are_candidates_and_the_own_one_comes_first() -> None:
    outputs, target = stored()
    bench = Bench(Classification(3), target, torch.arange(40) % 5, None)
    own = Candidate("last", "product", False, 0.0)
    both = {"last": outputs, "average": outputs}
    found = [c for c, _ in candidates(bench, both, own)]
    assert (found[0].rule, found[0].selection, found[0].default) == ("product", "last", True)
    assert sum(c.default for c in found) == 1
    for selection in both:
        ways = {(c.rule, c.calibrated) for c in found if c.selection == selection}
        assert ways >= {("fused", False), ("mean", True), ("mean", False), ("uncertainty", True), ("product", True)}
        assert ("fused", True) not in ways
    assert all(0 < c.score <= 1 for c in found)
    alone = [c for c, _ in candidates(bench, both, own, rules=False)]
    assert {c.rule for c in alone} == {"product"}


def test_outputs_that_are_not_finite_are_no_candidates() -> None:
    outputs, target = stored()
    assert outputs.fused is not None
    outputs.fused[3, 0] = torch.inf
    bench = Bench(Classification(3), target, torch.arange(40) % 5, None)
    found = [c for c, _ in candidates(bench, {"last": outputs}, Candidate("last", "fused", False, 0.0))]
    assert found
    assert "fused" not in {c.rule for c in found}


def test_the_simplest_candidate_within_one_standard_error_is_taken() -> None:
    target = torch.zeros(100, dtype=torch.int64)
    bench = Bench(Classification(2), target, torch.zeros(100, dtype=torch.int64), None)

    def right(count: int) -> tuple[Candidate, Outcomes]:
        output = torch.zeros(100, 2)
        output[:count, 0], output[count:, 1] = 1.0, 1.0
        return Candidate("last", f"right {count}", False, count / 100), bench.outcomes(output)

    assert simplest(bench, [right(90), right(95)]) == 1  # 5 points, the standard error is 2.2
    assert simplest(bench, [right(94), right(95)]) == 0  # 1 point, the standard error is 1
    assert simplest(bench, [right(80), right(94), right(95), right(60)]) == 1
    assert simplest(bench, [right(95), right(95)]) == 0


def test_groups_stay_in_one_fold() -> None:
    data = build_data(config().data)
    assert groups_of(data.validation) is None
    balanced = folds(data.validation)
    counts = torch.stack([torch.bincount(data.validation.target[balanced == k], minlength=3) for k in range(5)])
    assert int((counts.max(0).values - counts.min(0).values).max()) <= 1

    class Split:
        group_labels = torch.tensor([0] * 5 + [1] * 4 + [2] * 2 + [3])
        rows = torch.arange(12)

        def __len__(self) -> int:
            return 12

    split: Any = Split()
    assert folds(split, 2).tolist() == [0] * 5 + [1] * 4 + [1] * 2 + [0]  # 5, 4, 2 and 1 to what has least


# ---- ensembles -------------------------------------------------------------------------------------------------------


def test_an_average_is_the_mean_of_probabilities() -> None:
    a, b = (torch.randn(5, 3, dtype=torch.float64) for _ in range(2))
    mean = average(Classification(3), {"a": a, "b": b}, {"a": 2, "b": 1})
    torch.testing.assert_close(mean.softmax(1), (2 * a.softmax(1) + b.softmax(1)) / 3, rtol=1e-12, atol=1e-12)
    numbers = {"a": torch.tensor([[1.0]]), "b": torch.tensor([[4.0]])}
    assert average(Regression(1), numbers, {"a": 1, "b": 2}).item() == pytest.approx(3.0)


def test_the_greedy_choice_is_that_of_a_plain_loop() -> None:
    task, target = Classification(3), torch.arange(30) % 3
    generator = torch.Generator().manual_seed(1)
    outputs = {
        name: torch.randn(30, 3, generator=generator, dtype=torch.float64)
        + 1.2 * torch.nn.functional.one_hot(target, 3)
        for name in "abcd"
    }

    def quality(members: tuple[str, ...]) -> tuple[float, float]:
        p = torch.stack([outputs[m].softmax(1) for m in members]).mean(0)
        hits = float((p.argmax(1) == target).double().mean())
        return round(hits, 9), round(float(p[torch.arange(30), target].log().mean()), 9)

    chosen: tuple[str, ...] = ()
    steps = []
    for _ in range(6):
        chosen = max(((*chosen, name) for name in "abcd"), key=quality)
        steps.append((quality(chosen)[0], chosen))
    best = max(steps, key=lambda step: (step[0], -len(step[1])))[1]
    found = greedy_selection(task, outputs, target, 6)
    assert found == {name: best.count(name) for name in dict.fromkeys(best)}
    assert len(best) > 1  # several are better than one here
    single = greedy_selection(task, outputs, target, 1)
    assert single == {max("abcd", key=lambda n: quality((n,))): 1}


def test_the_gain_of_an_ensemble_is_measured_where_it_was_not_chosen() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(60) % 2
    noise = {str(i): torch.randn(60, 2, generator=generator) for i in range(12)}  # nothing to be found
    bench = Bench(Classification(2), target, torch.arange(60) // 2 % 5, None)
    found = select_ensemble(bench, noise, 5)
    assert found.score > found.cross_validated + 0.1  # chosen and measured on the same samples
    assert found.gain.mean == pytest.approx(found.cross_validated - found.single)
    assert not found.gain.better
    assert found.size == len(found.members)


# ---- importance ------------------------------------------------------------------------------------------------------


def test_importance_by_hand() -> None:
    points = [{"a": "x"}, {"a": "x"}, {"a": "y"}, {"a": "y"}]
    # within 2 + 2 over 2, in all 20 over 3
    assert importance(points, [1.0, 3.0, 5.0, 7.0]) == {"a": pytest.approx(1 - 2 / (20 / 3))}
    assert importance(points, [1.0, 7.0, 1.0, 7.0]) == {"a": 0.0}
    assert importance(points, [1.0, 1.0, 1.0, 1.0]) == {"a": 0.0}
    assert importance([{"a": "x"}] * 4, [1.0, 2.0, 3.0, 4.0]) == {}  # one value says nothing
    assert importance([{"a": i} for i in "wxyz"], [1.0, 2.0, 3.0, 4.0]) == {}  # nor do as many as there are trials
    numbers = [{"lr": 0.1 * i} for i in range(6)]  # three bins of two
    assert importance(numbers, [0.0, 0.0, 1.0, 1.0, 5.0, 5.0]) == {"lr": 1.0}


def test_importance_is_sorted_and_counts_the_trials_that_made_a_choice() -> None:
    scores = [0.0, 1.0, 0.0, 1.0, 0.5]
    points = [{"a": "x", "b": "p"}, {"a": "x", "b": "q"}, {"a": "y", "b": "p"}, {"a": "y", "b": "q"}, {"a": "x"}]
    found = importance(points, scores)
    assert list(found) == ["b", "a"]
    assert found["b"] == 1.0
    for order in itertools.permutations(range(5), 5):
        again = importance([points[i] for i in order], [scores[i] for i in order])
        assert again == pytest.approx(found)
