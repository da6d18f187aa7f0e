"""The rule ``skill`` outlives its process: checkpoints, exported models, compiled and half-precision predictions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from equimodal import Batch, Inference
from equimodal.export import export
from equimodal.studies.runs import load_weights, save_weights
from tests.helpers import NAMES, make_method
from tests.inference.fitted import fitted, pool_of, strong_and_weak
from tests.task_helpers import task_batch, task_method

F64 = torch.float64


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
    head: Any = method.multimodal.head
    with torch.no_grad():
        head.weight.mul_(0.3)  # so that the joint head says something of its own
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
