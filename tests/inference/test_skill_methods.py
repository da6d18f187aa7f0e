"""The rule ``skill`` on methods: through fitting, prediction, checkpoints, export, compilation, runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from equimodal import Batch, Classification, Inference, MultimodalModel, Regression
from equimodal.data import Dataset, from_arrays, load_avdigits, loader, synthetic
from equimodal.diagnostics import rule_scores
from equimodal.errors import UnsupportedError
from equimodal.fusion import Concat
from equimodal.inference import JOINT, Evidence, Expert, SkillPool
from equimodal.methods import Joint, MultiLoss, outputs_on
from equimodal.studies import DataConfig, ModelConfig, RunConfig, TrainingConfig, load_run, predict_run, run
from tests.helpers import CLASSES, NAMES, WIDTH, make_batch, make_method, make_model, plain_model, split
from tests.inference.fitted import fitted, pool_of, strong_and_weak
from tests.task_helpers import TASKS, task_batch, task_method

F64 = torch.float64
METHODS = ("Joint", "MultiLoss", "Ensemble", "PretrainFinetune", "ModalityDropout", "MLA", "CGGM", "MIE")
WITHOUT_HEAD = ("Ensemble", "MLA", "MIE")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_it(name: str) -> None:
    method, batch = fitted(name)
    prediction = method.predict(batch.inputs)
    modalities = list(NAMES[:3])
    assert prediction.rule == "skill"
    assert list(prediction.weights) == (modalities if name in WITHOUT_HEAD else [JOINT, *modalities])
    assert (torch.stack(list(prediction.weights.values())).sum(0) - 1).abs().max() < 1e-12
    assert set(prediction.unimodal) == set(modalities)
    one = method.predict({NAMES[1]: batch.inputs[NAMES[1]]})
    assert torch.isfinite(one.output).all()


@pytest.mark.filterwarnings("ignore::equimodal.errors.BelowSingleWarning")  # nothing is trained
@pytest.mark.parametrize("task", list(TASKS))
@pytest.mark.parametrize("name", ["MultiLoss", "MLA"])
def test_every_task_has_it(name: str, task: str) -> None:
    method = task_method(name, task, 2, inference="skill")
    batches = [task_batch(task, method.task, 2, seed=s, absent=0.0) for s in range(4)]
    method.fit_inference(batches)
    prediction = method.predict(batches[0].inputs, batches[0].present)
    assert torch.isfinite(method.task.probabilities(prediction.output)).all()
    assert all(w.shape == (len(batches[0]),) for w in prediction.weights.values())


def test_a_joint_head_alone_is_calibrated() -> None:
    """Of a regression without unimodal outputs the offset is left."""
    method = task_method("Joint", "l1", 2, inference="skill")
    batches = [task_batch("l1", method.task, 2, seed=s) for s in range(5)]
    method.fit_inference(batches)
    joint = torch.cat([method.outputs(b.inputs)[0] for b in batches])  # type: ignore[misc]
    target = torch.cat([b.target.reshape(len(b), -1) for b in batches])  # type: ignore[union-attr]
    found = torch.cat([method.predict(b.inputs).output for b in batches])
    assert (found - joint - (target - joint).mean(0)).abs().max() < 1e-10
    assert list(method.predict(batches[0].inputs).weights) == [JOINT]


def test_addends_of_a_number_are_no_experts() -> None:
    model = plain_model({"a": 4, "b": 3}, 6, 1)
    with pytest.raises(UnsupportedError, match="'skill' needs unimodal predictions"):
        Joint(model, Regression(), inference="skill", unimodal="split")


def test_batch_sizes_do_not_matter() -> None:
    whole, batch = fitted()
    parts = make_method("MultiLoss", 3, inference="skill")
    parts.fit_inference(split(batch, 7))
    for e, own in pool_of(whole).experts.items():
        assert own.weight == pytest.approx(pool_of(parts).experts[e].weight, abs=1e-9)
    assert pool_of(parts).slope == pytest.approx(pool_of(whole).slope, abs=1e-9)


# ---- absent modalities ----------------------------------------------------------------------------------------------


def test_what_the_joint_head_says_of_less_is_what_it_would_predict() -> None:
    model = make_model(3)
    model.fusion = Concat(dict.fromkeys(NAMES[:3], WIDTH), fill="learnt").double()
    for p in model.fusion.parameters():
        nn.init.normal_(p, generator=torch.Generator().manual_seed(0))
    method, batch = MultiLoss(model, Classification(CLASSES)).double(), make_batch(3)
    mask = torch.arange(12) % 3 != 0
    batch = Batch(batch.inputs, batch.target, {NAMES[0]: mask})
    found = outputs_on(method, split(batch, 5), reduced=True)
    assert len(found.reduced) == 6
    method.eval()
    for kept, output in found.reduced.items():
        there = torch.stack([found.present[m] for m in kept]).any(0)
        inputs = {m: x[there] for m, x in batch.inputs.items() if m in kept}
        present = {m: found.present[m][there] for m in kept}
        expected, _, _ = method.outputs(inputs, present)
        assert expected is not None
        assert (output[there] - expected).abs().max() < 1e-12
    assert outputs_on(method, [batch]).reduced == {}


def test_the_joint_head_is_told_what_is_missing() -> None:
    class Counting(MultiLoss):
        def fused_output(self, features: Any, present: Any) -> Tensor:
            here = torch.stack([present[m] for m in NAMES[:3]]).sum(0)
            return here[:, None].expand(-1, CLASSES).to(F64)

    method, batch = Counting(make_model(3), Classification(CLASSES)).double(), make_batch(3)
    everyone = torch.arange(12) >= 0
    masks = {NAMES[0]: torch.arange(12) % 3 != 0, NAMES[1]: torch.arange(12) > 0, NAMES[2]: everyone}
    batch = Batch(batch.inputs, batch.target, masks)
    for kept, output in outputs_on(method, [batch], reduced=True).reduced.items():
        here = sum((masks[m].double() for m in kept), torch.zeros(12, dtype=F64))
        assert output[:, 0].tolist() == here.tolist()


def test_whether_the_joint_head_stays_is_learnt_from_samples_without_a_modality() -> None:
    _, batch = strong_and_weak()
    a, b = batch.inputs["a"], batch.inputs["b"]
    without_b, y = {"b": torch.zeros(200, dtype=torch.bool)}, batch.target
    assert y is not None
    for less, stays in ((-4 * a, False), (4 * a + b, True)):  # what the joint head says where b is missing
        rule = Inference(("a", "b"), "skill")
        rule.fit(Classification(CLASSES), a + b, {"a": a, "b": b}, None, y, reduced={("a",): less, ("b",): b})
        assert rule.pool is not None
        assert rule.pool.joint_for_incomplete == stays
        weights = rule(less, {"a": a}, without_b).weights
        assert (float(weights[JOINT].max()) > 0) == stays
        assert float(rule(a + b, {"a": a, "b": b}, None).weights[JOINT].min()) > 0
    # a number: it stays, unless it is worse without a modality
    g = torch.Generator().manual_seed(0)
    y = torch.randn(200, generator=g, dtype=F64)
    f = {m: (y + s * torch.randn(200, generator=g, dtype=F64))[:, None] for m, s in (("a", 0.5), ("b", 0.8))}
    for shift, stays in ((0.0, True), (9.0, False)):
        point = Inference(("a", "b"), "skill", distribution="point")
        reduced: dict[tuple[str, ...], Tensor] = {(m,): (z + y[:, None]) / 2 + shift for m, z in f.items()}
        point.fit(Regression(), (f["a"] + f["b"]) / 2, f, None, y, reduced=reduced)
        assert point.pool is not None
        assert point.pool.joint_for_incomplete == stays
    assert point(f["a"], {}, without_b).weights == {JOINT: pytest.approx(torch.ones(200))}  # nothing else is there


def test_the_joint_head_counts_where_nothing_else_is_there() -> None:
    """Of two modalities one has no output of its own."""
    z = {JOINT: torch.randn(3, 2, dtype=F64), "b": torch.randn(3, 2, dtype=F64)}
    pool = SkillPool({JOINT: Expert(0.5), "b": Expert(0.5)}, joint_for_incomplete=False)
    here = {"a": torch.tensor([True, True, False]), "b": torch.tensor([True, False, True])}
    assert pool.weights(z, here)[JOINT].tolist() == [0.5, 1.0, 0.0]


def test_each_loss_of_a_modality_counts_once() -> None:
    target = torch.arange(4) % 2
    present = {"a": torch.tensor([True, True, False, True]), "b": torch.tensor([True, True, True, False])}
    outputs = {e: torch.randn(4, 2, dtype=F64) for e in (JOINT, "a", "b")}
    reduced: dict[tuple[str, ...], Tensor] = {("a",): torch.full((4, 2), 7.0), ("b",): torch.full((4, 2), 8.0)}
    found = Evidence(Classification(2), "categorical", outputs, present, target, None, reduced).incomplete()
    assert found is not None
    # samples 2 and 3 as they are, then samples 0 and 1 with a alone and with b alone
    assert found.outputs[JOINT][2:, 0].tolist() == [7, 7, 8, 8]
    assert torch.equal(found.outputs[JOINT][:2], outputs[JOINT][2:].double())
    assert found.present["a"].tolist() == [False, True, True, True, False, False]


def test_incomplete_validation_samples_count_as_they_are() -> None:
    method, batch = strong_and_weak()
    mask = torch.arange(200) % 2 == 0
    method.fit_inference([Batch(batch.inputs, batch.target, {"a": mask})])
    experts = pool_of(method).experts
    assert experts["a"].samples == 100
    assert experts["b"].samples == 200
    assert experts[JOINT].samples == (200 if pool_of(method).joint_for_incomplete else 100)


# ---- groups ---------------------------------------------------------------------------------------------------------


def test_groups_come_from_the_dataset() -> None:
    data = load_avdigits()
    known = data.validation.group_labels
    assert known is not None
    found = outputs_on(Joint(digits_model(data), data.task), loader(data.validation, 50))
    assert torch.equal(found.groups, known[data.validation.rows])  # type: ignore[arg-type]
    assert 1 < len(set(found.groups.tolist())) < len(data.validation)  # type: ignore[union-attr]
    method = Joint(digits_model(data), data.task, inference="auto")
    method.fit_inference(loader(data.validation, 50))
    by_group = method.inference.scores["fused"]
    method.fit_inference(loader(data.validation, 50), groups=list(range(len(data.validation))))
    assert method.inference.scores["fused"].score == by_group.score
    assert synthetic(2, train=32, validation=8, test=8).validation.group_labels is None


def digits_model(data: Dataset) -> MultimodalModel:
    torch.manual_seed(0)
    encoders = {
        m: nn.Sequential(nn.Flatten(), nn.Linear(math.prod(spec.shape), 6)) for m, spec in data.modalities.items()
    }
    return MultimodalModel(encoders, Concat(dict.fromkeys(encoders, 6)), nn.Linear(12, 10))


def test_the_coarsest_of_several_groups_is_taken() -> None:
    n = 40
    x = torch.randn(n, 3, generator=torch.Generator().manual_seed(0)).numpy()
    part = ["train"] * 20 + ["validation"] * 12 + ["test"] * 8
    data = from_arrays(
        {"a": x}, [i % 2 for i in range(n)], part,
        groups={"clip": [f"c{i // 2}" for i in range(n)], "person": [f"p{i // 4}" for i in range(n)],
                "site": [part[i] for i in range(n)]},
    )  # fmt: skip
    known = data.validation.group_labels
    assert known is not None
    assert len(set(known[data.validation.rows].tolist())) == 3  # people; all validation samples are of one site


# ---- runs -----------------------------------------------------------------------------------------------------------


def test_what_is_shown() -> None:
    method, batch = fitted()
    shown = repr(method.inference)
    assert "rule='skill'" in shown
    assert f"{JOINT}: " in shown
    record = method.inference.record()
    assert set(record["pool"]["weights"]) == {JOINT, *NAMES[:3]}
    assert record["rule"] == "skill"
    scores = rule_scores(method, [batch], [make_batch(3, 40, seed=1)])
    assert set(scores) == set(method.inference.scores)
    assert {n: s["validation"] for n, s in scores.items()} == {n: s.score for n, s in method.inference.scores.items()}
    chosen, _ = fitted(rule="auto")
    assert "chosen=" in repr(chosen.inference)


def test_a_run_with_it(tmp_path: Path) -> None:
    config = RunConfig(
        "MultiLoss",
        {"inference": "skill"},
        DataConfig("synthetic", options={"train": 96, "validation": 48, "test": 32}),
        ModelConfig(feature_size=6, size="small"),
        TrainingConfig(epochs=1, batch_size=32),
    )
    metrics = run(config, tmp_path / "run", loggers=False)
    assert metrics["rule"] == "skill"
    assert metrics["rules"]["skill"]["test"] == pytest.approx(metrics["test"]["score"])
    assert {"fused", "mean", "skill"} <= set(metrics["inference"]["scores"])
    weights = metrics["inference"]["pool"]["weights"]
    assert sum(weights.values()) == pytest.approx(1)
    _, data, method = load_run(tmp_path / "run")
    assert method.inference.record() == metrics["inference"]
    table = predict_run(tmp_path / "run")
    assert f"weight_{JOINT}" in table
    assert table[f"weight_{JOINT}"][0] == pytest.approx(weights[JOINT], abs=1e-6)
    assert len(table["index"]) == len(data.test)


def test_the_model_may_have_one_modality() -> None:
    model = make_model(1)
    method = MultiLoss(model, Classification(CLASSES), inference="skill").double()
    method.fit_inference([make_batch(1, 40)])
    assert list(method.predict(make_batch(1).inputs).weights) == [JOINT, NAMES[0]]
