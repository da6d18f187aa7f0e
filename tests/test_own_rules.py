"""Inference rules of one's own: through prediction, fitting, saving, export, scores, and by name from a package."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from equimodal import Batch, Classification, Inference, MultiLabel, Regression
from equimodal.diagnostics import evaluate, rule_scores
from equimodal.errors import DataError, MethodError, NonFiniteError, PluginError, PluginWarning, UnsupportedError
from equimodal.export import export
from equimodal.functional import fuse
from equimodal.inference import InferenceRule, needs_of, rule_name, rule_names
from equimodal.methods import CGGM, MIE, MLA, Ensemble, Joint, MultiLoss
from equimodal.studies import DataConfig, RunConfig, run
from equimodal.studies.runs._weights import load_weights, save_weights
from tests.cli.helpers import CLI, TINY
from tests.helpers import (
    CLASSES,
    NAMES,
    assert_identical,
    make_batch,
    make_method,
    make_model,
    plain_batch,
    plain_model,
)
from tests.packages import install, on_the_path

F64 = torch.float64
Weights = Mapping[str, Tensor]
TWO = {"a": 4, "b": 3}


def energy(unimodal: Weights, present: Weights, fused: Any, distribution: Any) -> tuple[Tensor, Weights]:
    """The rule of QMF: logits, each times a tenth of its logsumexp."""
    weights = {m: torch.where(present[m], 0.1 * z.logsumexp(1), 0.0) for m, z in unimodal.items()}
    return fuse(unimodal, weights, "logit"), weights


class Opinions:
    """Dempster's rule over Dirichlet opinions of each modality and of the joint head, as in ETMC."""

    name = "opinions"
    needs = ("fused", "unimodal")
    distributions = ("categorical",)

    def __call__(self, unimodal: Weights, present: Weights, fused: Any, distribution: Any) -> tuple[Tensor, Weights]:
        classes = fused.shape[1]
        belief, doubt = fused.new_zeros(fused.shape), fused.new_ones(fused.shape[0], 1)
        everybody = torch.ones_like(fused[:, 0], dtype=torch.bool)
        for z, here in [*((z, present[m]) for m, z in unimodal.items()), (fused, everybody)]:
            evidence = nn.functional.softplus(z) * here[:, None]
            strength = evidence.sum(1, keepdim=True) + classes
            b, u = evidence / strength, classes / strength
            conflict = belief.sum(1, keepdim=True) * b.sum(1, keepdim=True) - (belief * b).sum(1, keepdim=True)
            belief, doubt = (belief * b + belief * u + b * doubt) / (1 - conflict), doubt * u / (1 - conflict)
        return (belief + doubt / classes).log(), {}


class Accuracy(nn.Module):
    """Weighs each modality by how often it was right on validation data."""

    distributions = ("categorical",)
    share: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.register_buffer("share", torch.full((count,), 1 / count))

    def fit(self, unimodal: Weights, present: Weights, fused: Any, target: Tensor, task: Any) -> None:
        right = [(z.argmax(1) == target)[present[m]].double().mean() for m, z in unimodal.items()]
        self.share.copy_(torch.stack(right) / torch.stack(right).sum())

    def forward(self, unimodal: Weights, present: Weights, fused: Any, distribution: Any) -> tuple[Tensor, Weights]:
        masked = {m: s * present[m] for m, s in zip(unimodal, self.share, strict=True)}
        total = torch.stack(list(masked.values())).sum(0)
        weights = {m: w / total for m, w in masked.items()}
        return fuse(unimodal, weights).log(), weights


class FromHead:
    """Half of the joint head's output."""

    name = "half"
    needs = ("fused",)

    def __call__(self, unimodal: Weights, present: Weights, fused: Any, distribution: Any) -> tuple[Tensor, Weights]:
        assert not unimodal
        assert not present
        return fused / 2, {}


def returns(output: Any, weights: Any = None) -> InferenceRule:
    """A rule that returns this."""

    def rule(*_: Any) -> Any:
        return output if weights is None else (output, weights)

    return rule


# ---- prediction -----------------------------------------------------------------------------------------------------


def test_a_function_is_called_with_what_it_needs() -> None:
    z = {"a": torch.tensor([[2.0, 0.0], [1.0, 3.0]], dtype=F64), "b": torch.tensor([[0.0, 4.0], [5.0, 5.0]], dtype=F64)}
    mask = torch.tensor([True, False])
    prediction = Inference(("a", "b"), energy)(None, z, {"b": mask})
    first = [math.log(math.exp(2) + 1) / 10, math.log(1 + math.exp(4)) / 10]
    second = math.log(math.exp(1) + math.exp(3)) / 10
    assert prediction.rule == "energy"
    by_hand = torch.tensor([[2 * first[0], 4 * first[1]], [second, 3 * second]], dtype=F64)
    assert (prediction.output - by_hand).abs().max() < 1e-12
    assert (prediction.weights["b"] - torch.tensor([first[1], 0.0], dtype=F64)).abs().max() < 1e-12
    assert torch.equal(prediction.unimodal["b"][1], torch.zeros(2, dtype=F64))


def test_temperatures_come_before_the_rule() -> None:
    z = {m: torch.randn(6, 3, dtype=F64) for m in "ab"}
    inference = Inference(("a", "b"), energy, calibrated=True)
    inference.temperature.copy_(torch.tensor([2.0, 0.5]))
    plain = Inference(("a", "b"), energy)
    assert torch.equal(inference(None, z, None).output, plain(None, {"a": z["a"] / 2, "b": z["b"] * 2}, None).output)


@pytest.mark.parametrize("name", ["Ensemble", "MultiLoss", "MLA", "CGGM", "MIE", "Joint"])
def test_every_method_takes_a_rule(name: str) -> None:
    method, batch = make_method(name, 3, inference=energy), make_batch(3)
    mask = torch.arange(12) % 3 != 0
    prediction = method.predict(batch.inputs, {NAMES[1]: mask})
    assert prediction.rule == "energy"
    assert (prediction.weights[NAMES[1]][~mask] == 0).all()
    assert method.fit_inference([batch]) == "energy"
    without = method.predict({m: x for m, x in batch.inputs.items() if m != NAMES[1]})
    assert (prediction.output[~mask] - without.output[~mask]).abs().max() < 1e-9


def test_absent_content_does_not_reach_a_rule() -> None:
    method, batch = accuracy_method()
    mask = torch.arange(12) % 3 != 0
    dirty = {**batch.inputs, NAMES[0]: torch.where(mask[:, None], batch.inputs[NAMES[0]], math.nan)}
    ends = []
    for inputs in (batch.inputs, dirty):
        method.fit_inference([Batch(inputs, batch.target, {NAMES[0]: mask})])
        output = method.predict(inputs, {NAMES[0]: mask}).output
        ends.append({"share": method.inference.custom.share.clone(), "output": output})
    assert_identical(ends[0], ends[1])


def test_opinions_of_head_and_modalities() -> None:
    """Dempster's rule is associative: another order of the modalities gives the same."""
    z = {m: torch.randn(5, 3, generator=torch.Generator().manual_seed(i), dtype=F64) for i, m in enumerate("ab")}
    fused = torch.randn(5, 3, dtype=F64)
    ours = Inference(("a", "b"), Opinions())(fused, z, None)
    turned = Inference(("b", "a"), Opinions())(fused, {m: z[m] for m in "ba"}, None)
    assert (ours.probabilities - turned.probabilities).abs().max() < 1e-12
    assert (ours.probabilities.sum(1) - 1).abs().max() < 1e-12
    method = make_method("MultiLoss", 2, inference=Opinions())
    assert method.predict(make_batch(2).inputs).rule == "opinions"


def test_what_a_method_does_not_have_is_refused() -> None:
    for kind in (Ensemble, MLA, MIE):
        for rule in (Opinions(), FromHead()):
            with pytest.raises(UnsupportedError, match="no joint head"):
                kind(make_model(2), Classification(CLASSES), inference=rule)
    deep = plain_model(TWO, 6, 3, nn.Sequential(nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 3)).double())
    with pytest.raises(UnsupportedError, match="'energy' needs unimodal outputs"):
        Joint(deep, Classification(3), inference=energy)
    method, batch = Joint(deep, Classification(3), inference=FromHead()), plain_batch(TWO, 3, 4, 0)
    assert torch.equal(
        method.predict(batch.inputs).output * 2, Joint(deep, Classification(3)).predict(batch.inputs).output
    )
    with pytest.raises(UnsupportedError, match="the rule 'opinions' is for outputs of the kind categorical"):
        MultiLoss(plain_model(TWO, 6, 3), MultiLabel(3), inference=Opinions())
    task = Regression(1, loss="gaussian_nll")
    assert CGGM(plain_model(TWO, 6, 2), task, inference=FromHead()).predict(batch.inputs).rule == "half"


# ---- fitting, saving, export ----------------------------------------------------------------------------------------


def accuracy_method() -> tuple[Any, Batch]:
    return make_method("Ensemble", 2, inference=Accuracy(2)), make_batch(2)


def test_what_it_fits_is_saved_with_the_weights(tmp_path: Path) -> None:
    method, batch = accuracy_method()
    assert method.fit_inference([batch]) == "Accuracy"
    alone = [evaluate(method, [batch]).unimodal[m] for m in NAMES[:2]]
    share = torch.tensor(alone, dtype=F64) / sum(alone)
    assert (method.inference.custom.share - share).abs().max() < 1e-12
    path = save_weights(method, tmp_path / "weights.safetensors")
    other, _ = accuracy_method()
    assert not torch.equal(other.predict(batch.inputs).output, method.predict(batch.inputs).output)
    load_weights(other, path)
    assert torch.equal(other.predict(batch.inputs).output, method.predict(batch.inputs).output)
    third, _ = accuracy_method()
    third.load_state_dict(method.state_dict())
    assert torch.equal(third.predict(batch.inputs).output, method.predict(batch.inputs).output)
    twin = copy.deepcopy(method)
    twin.inference.custom.share.fill_(0.5)
    assert not torch.equal(twin.inference.custom.share, method.inference.custom.share)


def test_fitting_takes_validation_data_only_and_sees_temperatures() -> None:
    seen = []

    class Watch(Accuracy):
        def fit(self, unimodal: Weights, present: Weights, fused: Any, target: Tensor, task: Any) -> None:
            seen.append((dict(unimodal), dict(present), fused, target, task))

    method, batch = make_method("Ensemble", 2, inference=Watch(2), calibrated=True), make_batch(2)
    method.fit_inference([batch])
    unimodal, present, fused, target, task = seen[0]
    assert fused is None
    assert torch.equal(target, batch.target)  # type: ignore[arg-type]
    assert task is method.task
    assert all(mask.all() for mask in present.values())
    assert_identical(unimodal, dict(method.predict(batch.inputs).unimodal))
    assert not torch.equal(method.inference.temperature, torch.ones(2))


@pytest.mark.parametrize("presence", [False, True])
@pytest.mark.parametrize("rule", [energy, Accuracy(2), Opinions(), FromHead()], ids=rule_name)
def test_export(rule: Any, presence: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    method = MultiLoss(plain_model(TWO, 6, 3).float(), Classification(3), inference=rule)
    x = {m: t.float() for m, t in plain_batch(TWO, 3, 6, 0).inputs.items()}
    program = torch.export.load(export(method, x, tmp_path / "model.pt2", presence=presence))
    present = {m: torch.ones(6, dtype=torch.bool) for m in TWO}
    present["a"][2:4] = False
    found = program.module()(*((x, present) if presence else (x,)))["output"]
    assert torch.allclose(found, method.predict(x, present if presence else None).output, atol=1e-6)


def test_a_compiled_rule_gives_the_same() -> None:
    torch.compiler.reset()
    inference = Inference(("a", "b"), energy)
    z = {m: torch.randn(6, 3, dtype=F64) for m in "ab"}
    compiled = torch.compile(lambda: inference(None, z, None).output, backend="eager", fullgraph=True)
    assert (compiled() - inference(None, z, None).output).abs().max() < 1e-12
    torch.compiler.reset()


def test_scores_of_the_rules_list_it() -> None:
    method, batch = accuracy_method()
    method.fit_inference([batch])
    scores = rule_scores(method, [batch], [make_batch(2, seed=1)])
    assert scores["Accuracy"]["test"] == evaluate(method, [make_batch(2, seed=1)]).score
    assert set(scores) > {"mean", "product", "Accuracy"}


# ---- what is refused ------------------------------------------------------------------------------------------------

Z = {"a": torch.zeros(4, 3), "b": torch.zeros(4, 3)}
GOOD = torch.zeros(4, 3)


@pytest.mark.parametrize(
    ("rule", "error", "text"),
    [
        (returns(GOOD), MethodError, "to return \\(output, weights\\).*Found Tensor"),
        (returns(GOOD, GOOD), MethodError, "to return \\(output, weights\\)"),
        (returns(GOOD[:3], {}), MethodError, r"output of the shape \(4, 3\). Found \(3, 3\)"),
        (returns(3.0, {}), MethodError, r"Found float"),
        (returns(GOOD, {"c": torch.ones(4)}), MethodError, r"weights of \['a', 'b'\].*for 'c'"),
        (returns(GOOD, {"a": torch.ones(3)}), MethodError, r"each of 4 samples. Found \(3,\) for 'a'"),
        (returns(GOOD, {"a": 1.0}), MethodError, r"Found float for 'a'"),
        (returns(GOOD / 0, {}), NonFiniteError, "NaN or infinity in 12 of 12 numbers of 'output'"),
        (returns(GOOD, {"a": torch.tensor([1, 1, math.inf, 1])}), NonFiniteError, "in 1 of 4 numbers of 'a'"),
    ],
    ids=range(9),
)  # fmt: skip
def test_what_a_rule_returns_is_checked(rule: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match="`inference`: expected the rule 'rule'.*" + text):
        Inference(("a", "b"), rule)(None, Z, None)


@pytest.mark.parametrize("where", ["a", "b", "present", "fused"])
def test_a_rule_that_writes_into_what_it_is_given_is_refused(where: str) -> None:
    """Also with a method, whose other outputs and scores it would change; taking entries out of a mapping is fine."""

    def rule(unimodal: Any, present: Any, fused: Any, distribution: str) -> Any:
        given = {**unimodal, "present": present["a"], "fused": fused}
        given[where][0] = 0
        return next(iter(unimodal.values())).clone(), {}

    def greedy(unimodal: Any, present: Any, fused: Any, distribution: str) -> Any:
        unimodal.pop("b")
        present.clear()
        return unimodal["a"], {}

    rule.needs = ("fused", "unimodal")  # type: ignore[attr-defined]
    outputs = {m: torch.ones(4, 3) for m in ("a", "b")}
    masks = {m: torch.ones(4, dtype=torch.bool) for m in outputs}
    with pytest.raises(MethodError, match=f"leave what it is given as it is.*wrote into '{where}'"):
        Inference(("a", "b"), rule)(torch.ones(4, 3), outputs, masks)
    prediction = Inference(("a", "b"), greedy)(None, outputs, masks)
    assert set(prediction.unimodal) == set(masks) == {"a", "b"}


def declaring(**attributes: Any) -> Any:
    rule = returns(GOOD, {})
    for name, value in attributes.items():
        setattr(rule, name, value)
    return rule


class Trained(nn.Linear):
    name = "trained"


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (3, "or a rule of your own, which is called. Found 3"),
        ("vote", "expected one of fused, mean.*Found 'vote'"),
        (declaring(name="mean"), "a name of its own for the rule. Found 'mean'"),
        (declaring(needs="fused"), "`needs` of the rule 'rule' as some of"),
        (declaring(needs=("features",)), "Found \\('features',\\)"),
        (declaring(distributions=()), "`distributions` of the rule"),
        (declaring(fit=print), "would not be saved.*nn.Module"),
        (Trained(2, 2), "'trained' has parameters.*buffers"),
    ],
    ids=range(8),
)  # fmt: skip
def test_what_a_rule_declares_is_checked(rule: Any, text: str) -> None:
    with pytest.raises(MethodError, match=f"`inference`: .*{text}"):
        Ensemble(make_model(2), Classification(CLASSES), inference=rule)


def test_names_and_needs() -> None:
    assert [rule_name(r) for r in ("mean", energy, Opinions(), Accuracy(2))] == [
        "mean",
        "energy",
        "opinions",
        "Accuracy",
    ]
    assert needs_of("mean") == needs_of(energy) == {"unimodal"}
    assert needs_of(Opinions()) == {"fused", "unimodal"}


# ---- by name from a package -----------------------------------------------------------------------------------------

PACKAGE = """
import torch
from torch import nn
from equimodal.functional import fuse

def loudness(unimodal, present, fused, distribution):
    weights = {m: torch.where(present[m], 0.1 * z.logsumexp(1), 0.0) for m, z in unimodal.items()}
    return fuse(unimodal, weights, "logit"), weights

class Sharpen(nn.Module):
    name = "sharpen"
    def __init__(self):
        super().__init__()
        self.register_buffer("power", torch.ones(()))
    def fit(self, unimodal, present, fused, target, task):
        self.power.fill_(2.0)
    def forward(self, unimodal, present, fused, distribution):
        total = sum(z * present[m][:, None] for m, z in unimodal.items())
        return self.power * total, {}
"""
POINTS = {
    "equimodal.rules": {"loudness": "rules_outside:loudness", "sharpen": "rules_outside:Sharpen", "oops": "gone:oops"}
}


def test_a_rule_of_a_package_is_used_by_name(tmp_path: Path, cli: CLI) -> None:
    install(tmp_path / "site", "rules_outside", PACKAGE, POINTS)
    with on_the_path(tmp_path / "site"):
        with pytest.warns(PluginWarning, match="package rules_outside 1.0 registers the inference rule 'oops'"):
            assert rule_names()[-2:] == ("loudness", "sharpen")
        first, second = make_method("Ensemble", 2, inference="sharpen"), make_method("Ensemble", 2, inference="sharpen")
        first.fit_inference([make_batch(2)])
        assert first.inference.custom.power == 2  # type: ignore[union-attr]
        assert second.inference.custom.power == 1  # type: ignore[union-attr]
        with pytest.raises(PluginError, match="oops"):
            make_method("Ensemble", 2, inference="oops")
        with pytest.raises(MethodError, match="Found 'enrgy'"):
            make_method("Ensemble", 2, inference="enrgy")
        assert "loudness" in cli(["describe", "Ensemble"])
        run = tmp_path / "run"
        text = cli(["train", "--method", "Ensemble", "--options.inference", "sharpen", "--out", str(run), *TINY])
        assert "by rule 'sharpen'" in text
        metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
        assert metrics["rule"] == "sharpen"
        assert metrics["rules"]["sharpen"]["test"] == pytest.approx(metrics["test"]["score"], abs=1e-6)
        assert "by rule 'sharpen'" in cli(["evaluate", str(run)])
        assert "inference" in cli.error(["train", "--method", "Ensemble", "--options.inference", "enrgy", *TINY], 2)


def test_an_object_in_a_configuration_is_refused(tmp_path: Path) -> None:
    """A run is written down, and continued from what is written."""
    data = DataConfig("synthetic", options={"train": 32, "validation": 16, "test": 16})
    with pytest.raises(DataError, match=r"`config.yaml`: expected plain values.*energy.*'equimodal.rules'"):
        run(RunConfig("Ensemble", {"inference": energy}, data), tmp_path / "run", loggers=False)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> CLI:
    return CLI(capsys)
