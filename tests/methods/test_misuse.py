"""What a user may give by mistake, or in another way than the examples: refused by name, or done right."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from equimodal import Classification, MultimodalModel, PlainEngine
from equimodal._utils.arguments import check_number, one_of
from equimodal.engine._sharpness import Sharpness
from equimodal.errors import BatchError, MethodError, ModelError, ScheduleWarning, UnsupportedError
from equimodal.fusion import Concat
from equimodal.inference import Inference
from equimodal.methods import CGGM, MIE, MLA, EpochContext, Joint, available, get
from equimodal.tasks import MultiLabel, Regression, distribution_of
from tests.helpers import (
    CLASSES,
    NAMES,
    companions_of,
    make_batch,
    make_method,
    make_model,
    plain_batch,
    plain_model,
    sgd,
)

SIZES = {"audio": 5, "the keys": 3, "depth": 4}


def small(task: Any = None, outputs: int = 3) -> tuple[MultimodalModel, Any]:
    torch.manual_seed(0)
    encoders = {m: nn.Linear(n, 4) for m, n in SIZES.items()}
    model = MultimodalModel(encoders, Concat(dict.fromkeys(SIZES, 4)), nn.Linear(12, outputs))
    return model, Classification(3) if task is None else task


def needed(name: str) -> dict[str, Any]:
    """The options without which a method cannot be made."""
    build = companions_of(name)
    return {} if build is None else build(*small())


# ---- rules of inference ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [Regression(1), Regression(1, loss="gaussian_nll"), MultiLabel(3)])
def test_a_rule_for_another_kind_of_output_is_refused(task: Any) -> None:
    """Averaging numbers as if they were logits of classes would be wrong without a word."""
    model, _ = small(outputs=task.outputs)
    method = MLA(model, task)
    before = method.inference
    with pytest.raises(MethodError, match="distribution='" + distribution_of(task)):
        method.inference = Inference(method.modalities, "mean")
    assert method.inference is before
    method.inference = Inference(method.modalities, "mean", distribution=distribution_of(task))
    x = {m: torch.randn(4, n) for m, n in SIZES.items()}
    assert method.predict(x).rule == "mean"
    with pytest.raises(MethodError, match="`distribution`: expected one of 'categorical'.* Found 'regression'"):
        Inference(method.modalities, "mean", distribution="regression")  # type: ignore[arg-type]
    with pytest.raises(MethodError, match=r"\['foo'\]"):
        method.inference = Inference(("foo",), "mean", distribution=distribution_of(task))


# ---- what predict is given -------------------------------------------------------------------------------------------


def test_predict_names_what_is_wrong() -> None:
    method = make_method("Joint", 2)
    batch = make_batch(2, 6)
    x = dict(batch.inputs)
    given: Any
    for given, present, text in (
        (x, {"typo": torch.ones(6, dtype=torch.bool)}, r"`present`: .*unknown \['typo'\]"),
        (x, {NAMES[0]: torch.ones(4, dtype=torch.bool)}, "equally many samples"),
        ({**x, NAMES[1]: x[NAMES[1]][:3]}, None, "equally many samples"),
        (batch, None, "batch.inputs"),
        (x[NAMES[0]], None, "Found Tensor"),
        ({NAMES[0]: x[NAMES[0]].numpy()}, None, "Found ndarray"),
    ):
        with pytest.raises(BatchError, match=text):
            method.predict(given, present)


# ---- models of another structure -------------------------------------------------------------------------------------


class Shared(MultimodalModel):
    """Says of one encoder's parameters that they are every encoder's."""

    def parameters_of(self, modality: str) -> list[nn.Parameter]:
        return [*super().parameters_of(modality), *super().parameters_of(self.modalities[0])]


class Unsized(MultimodalModel):
    """Leaves out a feature size."""

    @property
    def feature_sizes(self) -> dict[str, Any]:
        return dict(list(super().feature_sizes.items())[1:])


@pytest.mark.parametrize("name", available())
def test_parts_of_a_model_are_checked(name: str) -> None:
    encoders = {m: nn.Linear(n, 4) for m, n in SIZES.items()}
    fusion, head = Concat(dict.fromkeys(SIZES, 4)), nn.Linear(12, 3)
    with pytest.raises(ModelError, match=r"`parameters_of\('the keys'\)`: .*'audio'"):
        get(name)(Shared(encoders, fusion, head), Classification(3), **needed(name))
    with pytest.raises(ModelError, match="`feature_sizes`"):
        get(name)(Unsized(encoders, fusion, head), Classification(3), **needed(name))


@pytest.mark.parametrize("name", available())
def test_a_method_is_where_its_model_is(name: str) -> None:
    """Buffers too: the device is tried with one that computes nothing, the type with float64."""
    model, task = small()
    method = get(name)(model.double(), task, **needed(name))
    wide = [b.dtype for n, b in method.named_buffers() if b.is_floating_point() and "temperature" not in n]
    assert set(wide) <= {torch.float64}
    model, task = small()
    method = get(name)(model.to("meta"), task, **needed(name))
    assert {t.device.type for t in (*method.parameters(), *method.buffers())} == {"meta"}


# ---- loops that give a method less than they could ------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"name": "MIE"}, {"name": "MLA", "projector": "flat"}])
def test_projectors_need_no_engine_in_the_context(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Covariances are summed over processes all the same, so that replicas stay equal."""
    asked: list[set[str]] = []

    def spy(sums: dict[str, Tensor]) -> dict[str, Tensor]:
        asked.append(set(sums))
        return dict(sums)

    options = dict(options)
    name = options.pop("name")
    monkeypatch.setattr("equimodal.projection._kinds.all_sum", spy)
    method = make_method(name, 2, **options)
    method.on_train_epoch_start(EpochContext(0, steps=1))
    method.training_step(make_batch(2), sgd(method))
    method.on_train_epoch_end(EpochContext(0, steps=1))
    assert any("total" in key for key in asked[-1])


def test_a_stage_without_an_engine_says_what_it_cannot_do() -> None:
    staged: dict[str, Any] = {"sam": None, "alternate": "stage", "stage_epochs": (1, 1), "projection": False}
    cases: list[tuple[str, dict[str, Any]]] = [("PretrainFinetune", {}), ("MIE", staged)]
    for name, options in cases:
        method = make_method(name, 2, **options)
        method.on_train_epoch_start(EpochContext(0, 2))
        method.training_step(make_batch(2), sgd(method))
        with pytest.warns(ScheduleWarning, match="engine=engine"):
            method.on_train_epoch_start(EpochContext(1, 2))


# ---- several optimizers ----------------------------------------------------------------------------------------------


def two_optimizers(method: CGGM) -> PlainEngine:
    model = torch.optim.SGD(method.model.parameters(), lr=0.05, momentum=0.9)
    return PlainEngine([model, torch.optim.Adam(method.classifiers.parameters(), lr=1e-3)])


def test_cggm_looks_at_the_optimizer_of_each_encoder(recwarn: pytest.WarningsRecorder) -> None:
    """Adam for the classifiers cancels nothing of the encoders, which SGD steps."""
    ends = []
    for way in ("auto", "gradient", "update"):
        torch.manual_seed(0)
        method = CGGM(plain_model(SIZES, 6, CLASSES), Classification(CLASSES), apply_to=way, window=1).double().train()
        engine = two_optimizers(method)
        for seed in range(4):
            method.training_step(plain_batch(SIZES, CLASSES, 12, seed), engine)
        ends.append([p.detach().clone() for p in method.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(ends[0], ends[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(ends[0], ends[2], strict=True))
    assert len(recwarn) == 0


# ---- numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "options", "text"),
    [
        (MLA, {"alpha": "0.1"}, r"`alpha`: expected a number in \(0, 1\). Found '0.1'"),
        (MLA, {"seed": 2**63}, "`seed`: expected an integer of at most 64 bits. Found 9223372036854775808"),
        (MLA, {"seed": 1.5}, "`seed`: expected an integer. Found 1.5"),
        (MLA, {"temperature": None}, "`temperature`: expected a number >= 0. Found None"),
        (CGGM, {"rho": float("inf")}, "`rho`: expected a number > 0. Found inf"),
        (CGGM, {"rho": -1}, "`rho`: expected a number > 0. Found -1"),
        (CGGM, {"window": 2.5}, "`window`: expected an integer >= 1. Found 2.5"),
        (CGGM, {"momentum": 1}, r"`momentum`: expected a number in \[0, 1\). Found 1"),
        (MIE, {"radius": float("nan")}, "`radius`: expected a number > 0. Found nan"),
        (MIE, {"stage_epochs": 25}, "`stage_epochs`: .*Found 25"),
        (MIE, {"sam_every": True}, "`sam_every`: expected an integer >= 1. Found True"),
        (Joint, {"calibrated": "yes"}, "`calibrated`: expected one of True, False. Found 'yes'"),
    ],
)
def test_numbers_say_what_they_may_be(method: Any, options: dict[str, Any], text: str) -> None:
    with pytest.raises(MethodError, match=text):
        method(make_model(2), Classification(CLASSES), **options)


def test_bounds_are_met_exactly() -> None:
    check_number("x", 0, at_least=0)
    check_number("x", torch.tensor(3.0).item(), at_most=3)
    check_number("x", 3, whole=True)
    for bounds in ({"above": 0}, {"below": 0}, {"at_least": 1}, {"at_most": -1}):
        with pytest.raises(MethodError, match="`x`"):
            check_number("x", 0, **bounds)  # type: ignore[arg-type]
    one_of("way", None, ("a", None))
    with pytest.raises(MethodError, match="'b'"):
        one_of("way", "b", ("a", None))
    with pytest.raises(MethodError, match="Found 1"):
        one_of("flag", 1, (True, False))
    with pytest.raises(MethodError, match="`radius`: expected a number > 0. Found 'a'"):
        Sharpness(radius="a")  # type: ignore[arg-type]
    with pytest.raises(MethodError, match="`clip_norm`: expected a number > 0. Found '1'"):
        PlainEngine(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1), clip_norm="1")  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match="LBFGS"):
        PlainEngine(torch.optim.LBFGS([nn.Parameter(torch.ones(1))]))
