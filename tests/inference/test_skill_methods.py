"""The rule ``skill`` on methods: through fitting, prediction, checkpoints, export, compilation, runs."""

from __future__ import annotations

import json
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
from equimodal.export import export
from equimodal.fusion import Concat
from equimodal.inference import JOINT
from equimodal.methods import Joint, Method, MultiLoss, outputs_on
from equimodal.studies import DataConfig, ModelConfig, RunConfig, TrainingConfig, load_run, predict_run, run
from equimodal.studies.runs import load_weights, save_weights
from tests.helpers import CLASSES, NAMES, make_batch, make_method, make_model, plain_model, split
from tests.task_helpers import TASKS, task_batch, task_method

F64 = torch.float64
METHODS = ("Joint", "MultiLoss", "Ensemble", "PretrainFinetune", "ModalityDropout", "MLA", "CGGM", "MIE")
WITHOUT_HEAD = ("Ensemble", "MLA", "MIE")


def fitted(name: str = "MultiLoss", count: int = 3, size: int = 40, rule: Any = "skill") -> tuple[Method, Batch]:
    method, batch = make_method(name, count, inference=rule), make_batch(count, size)
    method.fit_inference([batch])
    return method, batch


def pool_of(method: Method) -> Any:
    assert method.inference.pool is not None
    return method.inference.pool


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
    method, batch = make_method("MultiLoss", 3), make_batch(3)
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


def strong_and_weak() -> tuple[MultiLoss, Batch]:
    """Two modalities that are logits, one of them clearer; the joint head adds them."""
    g = torch.Generator().manual_seed(0)
    y = torch.randint(0, CLASSES, (200,), generator=g)
    onehot = nn.functional.one_hot(y, CLASSES).to(F64)
    inputs = {m: k * onehot + torch.randn(200, CLASSES, generator=g, dtype=F64) for m, k in (("a", 2.5), ("b", 1.5))}
    encoders = {m: nn.Linear(CLASSES, CLASSES, bias=False) for m in "ab"}
    head = nn.Linear(2 * CLASSES, CLASSES, bias=False)
    heads = {m: nn.Linear(CLASSES, CLASSES, bias=False) for m in "ab"}
    eye = torch.eye(CLASSES)
    with torch.no_grad():
        for module in (*encoders.values(), *heads.values()):
            module.weight.copy_(eye)
        head.weight.copy_(torch.cat([eye, eye], 1))
    model = MultimodalModel(encoders, Concat({"a": CLASSES, "b": CLASSES}), head).double()
    method = MultiLoss(model, Classification(CLASSES), heads=heads, inference="skill").double()
    return method, Batch(inputs, y)


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


# ---- checkpoints, export, compilation -------------------------------------------------------------------------------


def test_it_is_saved_with_the_weights(tmp_path: Path) -> None:
    method, batch = fitted()
    path = save_weights(method, tmp_path / "weights.safetensors")
    torch.save(method.state_dict(), tmp_path / "state.pt")
    for load in ("safetensors", "state"):
        other = make_method("MultiLoss", 3, seed=9, inference="skill")
        if load == "safetensors":
            load_weights(other, path)
        else:
            other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        assert other.inference.pool == method.inference.pool
        assert other.inference.scores == method.inference.scores
        assert torch.equal(other.predict(batch.inputs).output, method.predict(batch.inputs).output)
        assert json.loads(json.dumps(other.inference.record())) == method.inference.record()


def test_checkpoints_of_earlier_versions_load() -> None:
    method, batch = fitted()
    state = method.state_dict()
    state["inference._extra_state"] = {"chosen": "product"}  # all that they held
    other = make_method("MultiLoss", 3, inference="auto")
    other.load_state_dict(state)
    assert other.predict(batch.inputs).rule == "product"
    assert other.inference.pool is None
    assert other.inference.scores == {}
    skill = make_method("MultiLoss", 3, inference="skill")
    skill.load_state_dict(state)
    assert skill.predict(batch.inputs).rule == "skill"  # equal weights, as before any fit


EXPORTS = [("classification", "MultiLoss", False), ("classification", "MultiLoss", True), ("multilabel", "MLA", True),
           ("l1", "MultiLoss", True), ("gaussian", "MultiLoss", True), ("segmentation", "MultiLoss", True)]  # fmt: skip


@pytest.mark.parametrize(("task", "name", "presence"), EXPORTS)
def test_export(task: str, name: str, presence: bool, tmp_path: Path) -> None:
    method = task_method(name, task, 2, inference="skill").float()
    batch = task_batch(task, method.task, 2, absent=0.0)
    x = {m: t.float() for m, t in batch.inputs.items()}
    target = batch.target if batch.target is None or not batch.target.is_floating_point() else batch.target.float()
    method.fit_inference([Batch(x, target, batch.present)] * 3)
    program = torch.export.load(export(method, x, tmp_path / "model.pt2", presence=presence))
    size = len(batch)
    present = {m: torch.ones(size, dtype=torch.bool) for m in x}
    present[NAMES[0]][2:4] = False
    found = program.module()(*((x, present) if presence else (x,)))["output"]
    assert torch.allclose(found, method.predict(x, present if presence else None).output, atol=1e-4)


def test_export_with_a_modality_left_out_for_good(tmp_path: Path) -> None:
    method, batch = strong_and_weak()
    method = method.float()
    x = {m: t.float() for m, t in batch.inputs.items()}
    method.fit_inference([Batch(x, batch.target)])
    for keep in (True, False):
        object.__setattr__(method.inference.pool, "joint_for_incomplete", keep)
        one = {"b": x["b"]}
        path = export(method, one, tmp_path / f"{keep}.pt2")
        found = torch.export.load(path).module()(one)["output"]
        assert torch.allclose(found, method.predict(one).output, atol=1e-5)


@pytest.mark.parametrize("task", ["classification", "gaussian"])
def test_export_to_onnx(task: str, tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    import onnxruntime

    method = task_method("MultiLoss", task, 2, inference="skill").float()
    batch = task_batch(task, method.task, 2)
    x = {m: t.float() for m, t in batch.inputs.items()}
    target = batch.target if task == "classification" else batch.target.float()  # type: ignore[union-attr]
    method.fit_inference([Batch(x, target)] * 3)
    path = export(method, x, tmp_path / "model.onnx", "onnx", presence=True)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    present = {m: torch.arange(len(batch)) % 3 != i for i, m in enumerate(x)}
    feed = {m: t.numpy() for m, t in x.items()} | {f"present.{m}": t.numpy() for m, t in present.items()}
    found = torch.from_numpy(session.run(["output"], feed)[0])
    assert torch.allclose(found, method.predict(x, present).output, atol=1e-4)


@pytest.mark.filterwarnings("ignore::equimodal.errors.BelowSingleWarning")  # nothing is trained
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("task", ["classification", "multilabel", "l1", "gaussian", "segmentation"])
def test_half_precision(task: str, dtype: torch.dtype) -> None:
    method = task_method("MultiLoss", task, 2, inference="skill")
    batches = [task_batch(task, method.task, 2, seed=s) for s in range(3)]
    joined = [method.outputs(b.inputs) for b in batches]
    fused = torch.cat([j for j, _, _ in joined if j is not None]).detach()
    alone = {m: torch.cat([a[m] for _, a, _ in joined]).detach() for m in NAMES[:2]}
    y = torch.cat([b.target for b in batches if b.target is not None])
    exact = method.inference
    exact.fit(method.task, fused, alone, None, y)
    rough = Inference(exact.modalities, "skill", distribution=exact.distribution)
    rough.fit(method.task, fused.to(dtype), {m: z.to(dtype) for m, z in alone.items()}, None, y)
    assert rough.pool is not None
    small = rough(fused.to(dtype), {m: z.to(dtype) for m, z in alone.items()}, None).output
    assert small.dtype == torch.float32
    assert (small - exact(fused, alone, None).output).abs().max() < 0.2
    before = pool_of(method)
    assert method.to(dtype).inference.pool == before  # plain numbers: no cast rounds them


def test_compiled_it_gives_the_same() -> None:
    torch.compiler.reset()
    method, batch = fitted()
    fused, alone, _ = method.outputs(batch.inputs)
    assert fused is not None
    fused, alone = fused.detach(), {m: z.detach() for m, z in alone.items()}
    mask = {NAMES[0]: torch.arange(40) % 3 != 0}

    def call(z: Tensor) -> Tensor:
        output: Tensor = method.inference(z, alone, mask).output
        return output

    compiled = torch.compile(call, backend="eager", fullgraph=True)
    assert (compiled(fused) - call(fused)).abs().max() < 1e-12
    torch.compiler.reset()


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
