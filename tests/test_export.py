"""Exported inference models: the method's numbers in a fresh process, and nothing that the rule does not need."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from equimodal import Classification, MultimodalModel
from equimodal.batch import Tokens
from equimodal.errors import BatchError, MissingExtraError, ModelError, StorageError, UnsupportedError
from equimodal.export import InferenceModel, export
from equimodal.features import affine_head
from equimodal.fusion import Concat, CrossAttention, Late
from equimodal.methods import CGGM, MLA, Joint, Method, MultiLoss, Unimodal
from tests.helpers import CLASSES, NAMES, make_batch, make_model, method_on

EXPORTED = ("Joint", "MLA", "CGGM", "MIE")
MARKER = 1234.5678
"""Stands in the example inputs of every file below."""
# the loader may know torch and nothing of this library; one process reads the files of all methods
FRESH = """
import json, sys, torch
sys.modules["equimodal"] = None
stored = torch.load("inputs.pt", weights_only=True)
results = {}
for name in sys.argv[1:]:
    files = {"equimodal.json": ""}
    model = torch.export.load(f"{name}.pt2", extra_files=files).module()
    results[name] = {"found": model(*stored), "about": json.loads(files["equimodal.json"])}
torch.save(results, "found.pt")
"""
# this one not even torch
FRESH_ONNX = """
import sys, numpy, onnxruntime
sys.modules["equimodal"] = sys.modules["torch"] = None
feed = dict(numpy.load("inputs.npz"))
results = {}
for name in sys.argv[1:]:
    session = onnxruntime.InferenceSession(f"{name}.onnx", providers=["CPUExecutionProvider"])
    found = session.run(["probabilities", "output"], {i.name: feed[i.name] for i in session.get_inputs()})
    results |= {f"{name}.probabilities": found[0], f"{name}.output": found[1]}
numpy.savez("found.npz", **results)
"""


def in_a_fresh_process(code: str, folder: Path) -> None:
    command = [sys.executable, "-c", code, *EXPORTED]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


def single(name: str, **options: Any) -> Method:
    """A method on two MLPs and a GRU, in float32, with every parameter away from its start."""
    method = method_on(make_model(2), name, **options).float()
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in method.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=g))
        method.inference.temperature.copy_(torch.tensor([0.7, 1.6]))
    return method.train()


def inputs(size: int, seed: int = 0) -> dict[str, Tensor]:
    """A vector, and a sequence of two steps: the exporters unroll the GRU, and each step takes them a second."""
    x = {m: x.float() for m, x in make_batch(2, size, seed).inputs.items()}
    return {**x, NAMES[1]: x[NAMES[1]][:, :2]}


def fresh_inputs() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Other samples than those of the example, and which of them have which modality."""
    return inputs(9, seed=1), {NAMES[0]: torch.arange(9) != 2, NAMES[1]: torch.arange(9) % 4 != 0}


@pytest.fixture(scope="module")
def torch_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``NAME.pt2`` of every method in EXPORTED, all of whose example inputs hold MARKER."""
    folder = tmp_path_factory.mktemp("torch")
    example = inputs(4)
    example[NAMES[0]][1, 2] = MARKER
    for name in EXPORTED:
        method, path = single(name), folder / f"{name}.pt2"
        assert export(method, example, path, presence=True, metadata={"classes": ["a", "b", "c"]}) == path
        assert method.training
        assert method.inference.temperature.requires_grad is False
    return folder


@pytest.fixture(scope="module")
def torch_results(torch_files: Path) -> dict[str, Any]:
    """What a process without this library reads and computes from the files; absent samples hold NaN."""
    fresh, present = fresh_inputs()
    spoilt = {m: torch.where(present[m].reshape(-1, *[1] * (x.ndim - 1)), x, math.nan) for m, x in fresh.items()}
    torch.save((spoilt, present), torch_files / "inputs.pt")
    in_a_fresh_process(FRESH, torch_files)
    found: dict[str, Any] = torch.load(torch_files / "found.pt", weights_only=True)
    return found


@pytest.fixture(scope="module")
def onnx_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``NAME.onnx`` of every method in EXPORTED, and ``found.npz``, what a process without torch computes from them."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("onnx")
    for name in EXPORTED:
        export(single(name), inputs(4), folder / f"{name}.onnx", "onnx", presence=True)
    fresh, present = fresh_inputs()
    feed: dict[str, Any] = {m: x.numpy() for m, x in fresh.items()}
    feed |= {f"present.{m}": x.numpy() for m, x in present.items()}
    np.savez(folder / "inputs.npz", **feed)
    in_a_fresh_process(FRESH_ONNX, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTED)
def test_round_trip_in_a_fresh_process(name: str, torch_results: dict[str, Any]) -> None:
    stored, expected = torch_results[name], single(name).predict(*fresh_inputs())
    assert torch.allclose(stored["found"]["output"], expected.output, atol=1e-5)
    assert torch.allclose(stored["found"]["probabilities"], expected.probabilities, atol=1e-5)
    rule = {"Joint": "fused", "CGGM": "fused", "MLA": "uncertainty", "MIE": "mean"}[name]
    assert stored["about"] == {
        "modalities": list(NAMES[:2]), "presence": True, "rule": rule, "task": "classification", "method": name,
        "classes": ["a", "b", "c"],
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTED)
def test_onnx_round_trip_in_a_fresh_process(name: str, onnx_files: Path) -> None:
    import onnx

    expected = single(name).predict(*fresh_inputs())
    with np.load(onnx_files / "found.npz") as found:
        assert torch.allclose(torch.from_numpy(found[f"{name}.output"]), expected.output, atol=1e-4)
        assert torch.allclose(torch.from_numpy(found[f"{name}.probabilities"]), expected.probabilities, atol=1e-4)
    made = onnx.load(onnx_files / f"{name}.onnx")
    assert json.loads({p.key: p.value for p in made.metadata_props}["equimodal.modalities"]) == list(NAMES[:2])
    assert {i.type.tensor_type.shape.dim[0].dim_param for i in made.graph.input} == {"batch"}
    weights = {n for i in made.graph.initializer for n in [i.name]}
    assert not [n for n in weights if "classifiers" in n or "project" in n or "covariance" in n]


def names_in(path: Path) -> set[str]:
    return set(torch.export.load(path).state_dict)


@pytest.mark.slow
def test_what_the_rule_does_not_use_is_gone(tmp_path: Path, torch_files: Path) -> None:
    cggm = names_in(torch_files / "CGGM.pt2")
    assert not [n for n in cggm if "classifiers" in n or "average" in n]
    assert [n for n in cggm if "model.head" in n]
    mla = names_in(torch_files / "MLA.pt2")
    assert not [n for n in mla if "model.head" in n or "projectors" in n]
    assert [n for n in mla if n.startswith("method.head")]
    mie = names_in(torch_files / "MIE.pt2")
    assert not [n for n in mie if "flat" in n or "model.head" in n]
    heads, x = single("MultiLoss", inference="mean"), inputs(4)
    kept = names_in(export(heads, x, tmp_path / "d.pt2"))
    assert not [n for n in kept if "model.head" in n]
    only = names_in(export(heads, {NAMES[1]: x[NAMES[1]]}, tmp_path / "e.pt2"))
    assert not [n for n in only if "encoders.0" in n or "heads.0" in n]
    assert len(only) < len(kept)
    model = torch.export.load(tmp_path / "e.pt2").module()
    alone = heads.predict({NAMES[1]: x[NAMES[1]]})
    assert torch.allclose(model({NAMES[1]: x[NAMES[1]]})["output"], alone.output, atol=1e-6)


@pytest.mark.parametrize("name", EXPORTED)
def test_no_sample_is_left_in_the_file(name: str, torch_files: Path) -> None:
    content = (torch_files / f"{name}.pt2").read_bytes()
    assert content
    assert torch.tensor([MARKER]).numpy().tobytes() not in content


@pytest.mark.parametrize("build", [Joint, MultiLoss, MLA, CGGM, Unimodal])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_inference_model_predicts_as_the_method(build: type[Method], count: int) -> None:
    """Without tracing: every kind of encoder, nested inputs, any pattern of absence, bit for bit in evaluation mode."""
    method = build(make_model(count), Classification(CLASSES)).double()
    batch = make_batch(count)
    rows = torch.arange(12)
    for present in (None, {NAMES[0]: rows % 3 != 0, NAMES[1]: rows % 3 != 1}):
        spoilt = dict(batch.inputs)
        for m, mask in (present or {}).items():
            spoilt[m] = torch.where(mask.reshape(-1, *[1] * (spoilt[m].ndim - 1)), spoilt[m], math.nan)
        found = InferenceModel(method, batch.inputs)(spoilt, present)
        assert torch.allclose(found["output"], method.predict(batch.inputs, present).output, atol=1e-12)


@pytest.mark.slow
def test_tokens_and_standardisation(tmp_path: Path) -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 4)

        def forward(self, x: Tokens) -> Tokens:
            return Tokens(torch.tanh(self.layer(x.values)), x.mask)

    torch.manual_seed(0)
    fusion = CrossAttention({"text": 4, "pulse": 4}, width=4, heads=2, layers=1)
    encoders = {"text": Words(), "pulse": nn.Linear(5, 4)}
    method = Joint(MultimodalModel(encoders, fusion, nn.Linear(8, 3)), Classification(3))
    text = Tokens.of_lengths(torch.randn(6, 7, 3), torch.tensor([7, 1, 3, 5, 2, 6]))
    x = {"text": text, "pulse": torch.randn(6, 5)}
    statistics = {"text": (torch.tensor([1.0, -2.0, 0.5]), torch.tensor([2.0, 0.5, 1.0]))}
    path = export(method, x, tmp_path / "model.pt2", standardise=statistics, presence=True)
    model = torch.export.load(path).module()
    mean, scale = statistics["text"]
    moved = {**x, "text": Tokens((text.values - mean) * scale, text.mask)}
    present = {"text": torch.arange(6) < 4, "pulse": torch.arange(6) > 0}
    found = model({"text": {"values": text.values, "mask": text.mask}, "pulse": x["pulse"]}, present)
    assert torch.allclose(found["output"], method.predict(moved, present).output, atol=1e-5)


@pytest.mark.slow
def test_dense_outputs(tmp_path: Path) -> None:
    segmentation = pytest.importorskip("equimodal.tasks").Segmentation
    encoders = {"t1": nn.Conv2d(1, 4, 3, padding=1), "flair": nn.Conv2d(1, 4, 3, padding=1)}
    for fusion, head in (
        (Concat({"t1": 4, "flair": 4}), nn.Conv2d(8, 3, 1)),
        (Late({"t1": 4, "flair": 4}, 3, dense=True), nn.Identity()),
        (Concat({"t1": 4, "flair": 4}), affine_head(8, 3, dense=True)),
    ):
        method = Joint(MultimodalModel(encoders, fusion, head), segmentation(3))
        x = {m: torch.randn(3, 1, 8, 8) for m in encoders}
        model = torch.export.load(export(method, x, tmp_path / "model.pt2", presence=True)).module()
        present = {"t1": torch.tensor([True, False, True, True, True]), "flair": torch.tensor([False] + [True] * 4)}
        fresh = {m: torch.randn(5, 1, 8, 8) for m in encoders}
        found = model(fresh, present)
        assert torch.allclose(found["output"], method.predict(fresh, present).output, atol=1e-5)
        assert found["probabilities"].shape == (5, 3, 8, 8)


def test_refusals(tmp_path: Path) -> None:
    method, x = single("Joint"), inputs(4)
    with pytest.raises(ModelError, match="expected 'torch' or 'onnx'. Found 'tf'"):
        export(method, x, tmp_path / "m.pt2", "tf")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"ends in \.pt2"):
        export(method, x, tmp_path / "m.bin")
    with pytest.raises(BatchError, match="`example_inputs`"):
        export(method, {"smell": torch.zeros(2, 1)}, tmp_path / "m.pt2")
    with pytest.raises(BatchError, match="`example_inputs`"):
        export(method, {}, tmp_path / "m.pt2")
    with pytest.raises(ModelError, match=r"Joint\(model, task\)"):
        export(method.model, x, tmp_path / "m.pt2")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="`standardise`"):
        export(method, x, tmp_path / "m.pt2", standardise={"smell": (0.0, 1.0)})
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("in the way")
    small = Joint(MultimodalModel({"a": nn.Linear(2, 2)}, Concat({"a": 2}), nn.Linear(2, 2)), Classification(2))
    with pytest.raises(StorageError, match="could not be written"):
        export(small, {"a": torch.ones(3, 2)}, tmp_path / "file" / "m.pt2")


def test_what_cannot_be_traced_is_refused(tmp_path: Path) -> None:
    class Choosy(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x if float(x.sum()) > 0 else -x)

    model = MultimodalModel({"a": Choosy(2, 2)}, Concat({"a": 2}), nn.Linear(2, 2))
    with pytest.raises(UnsupportedError, match="depend on the values of their input"):
        export(Joint(model, Classification(2)), {"a": torch.ones(3, 2)}, tmp_path / "m.pt2")
    assert not list(tmp_path.iterdir())


def test_onnx_without_its_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"equimodal\[export\]"):
        export(single("Joint"), inputs(4), tmp_path / "m.onnx", "onnx")


def test_a_batch_of_one_is_no_constant(tmp_path: Path) -> None:
    method = single("Joint")
    model = torch.export.load(export(method, inputs(1), tmp_path / "m.pt2")).module()
    fresh = inputs(5)
    assert torch.allclose(model(fresh)["output"], method.predict(fresh).output, atol=1e-5)
    fixed = torch.export.load(export(method, inputs(4), tmp_path / "n.pt2", dynamic_batch=False)).module()
    assert torch.allclose(fixed(inputs(4))["output"], method.predict(inputs(4)).output, atol=1e-5)
