"""All checks together: what is healthy, what is left alone, what is refused, what others add."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from equimodal import Classification, MultimodalModel, PlainEngine
from equimodal.data import Dataset, loader, synthetic
from equimodal.diagnostics import Report, check
from equimodal.diagnostics.checks import Check, Severity, checks, get, register
from equimodal.diagnostics.checks import _registry as registry
from equimodal.errors import MethodError, ModelError, UnknownNameError
from equimodal.fusion import Concat
from equimodal.methods import Ensemble, EpochContext, Joint, Method
from tests.diagnostics.checks.constructed import batches, data, labels, logits, told


def trained(kind: type[Method], dataset: Dataset) -> tuple[Method, torch.optim.Optimizer, list[Mapping[str, Any]]]:
    torch.manual_seed(0)
    encoders = {m: nn.Sequential(nn.Flatten(), nn.Linear(32, 32), nn.ReLU()) for m in dataset.modalities}
    model = MultimodalModel(encoders, Concat(dict.fromkeys(encoders, 32)), nn.Linear(64, dataset.task.outputs))
    method = kind(model, dataset.task)
    optimizer = torch.optim.AdamW(method.parameter_groups(), lr=1e-2)
    engine, batches, history = PlainEngine(optimizer), loader(dataset.train, 32), list[Mapping[str, Any]]()
    for epoch in range(6):
        method.train()
        context = EpochContext(epoch, epochs=6, steps=len(batches), loader=batches, engine=engine)
        method.on_train_epoch_start(context)
        for batch in batches:
            method.training_step(batch, engine)
        method.on_train_epoch_end(context)
        history.append({"epoch": epoch, "validation": {"unimodal": {"m1": 0.5 + epoch / 20, "m2": 0.5 + epoch / 20}}})
    method.fit_inference(loader(dataset.validation, 128))
    return method, optimizer, history


@pytest.fixture(scope="module")
def easy() -> Dataset:
    """Both modalities know the class, and are learnt equally fast."""
    return synthetic(2, information=1.0, redundancy=0.0, speed=1.0, train=600, validation=300, test=400)


@pytest.fixture(scope="module")
def healthy(easy: Dataset) -> Report:
    """Joint training on them, with everything that a check may ask for."""
    method, optimizer, history = trained(Joint, easy)
    alone, _, _ = trained(Ensemble, easy)
    groups = {p: {"speaker": [f"{p}{i}" for i in range(n)]} for p, n in easy.parts.items()}
    return check(
        method, easy.train, easy.validation, easy.test, alone=alone, rivals={"Ensemble": alone}, optimizer=optimizer,
        history=history, groups=groups,
    )  # fmt: skip


def test_nothing_is_found_in_a_healthy_model(healthy: Report) -> None:
    assert healthy.findings == ()
    assert {u.code for u in healthy.unchecked} == {"EQ006", "EQ014"}  # it scales and projects no gradient
    assert len(healthy.passed) == len(checks()) - 2
    assert "nothing found" in str(healthy)


def test_there_are_the_checks_of_the_list_and_more() -> None:
    assert checks()[:16] == tuple(f"EQ{n:03d}" for n in range(1, 17))
    assert len(checks()) >= 18
    assert len({get(code).title for code in checks()}) == len(checks())


@pytest.mark.parametrize("code", checks())
def test_every_threshold_has_a_range_and_a_source(code: str) -> None:
    kind = get(code)
    names = [f.name for f in dataclasses.fields(kind)]
    assert set(kind.ranges()) == set(kind.sources()) == set(names)
    for name in names:
        with pytest.raises(MethodError, match=name):
            kind(**{name: -1})


def test_a_check_leaves_no_trace() -> None:
    method = told()
    optimizer = torch.optim.Adam(method.parameter_groups(), lr=1e-3)
    method.train()
    before, mode = copy.deepcopy(method.state_dict()), [m.training for m in method.modules()]
    state = torch.get_rng_state()
    training = loader(synthetic(2, train=64, validation=32, test=32).train, 16)
    position = training.state_dict()
    report = check(method, **data(), optimizer=optimizer)
    assert len(report.passed) > 10
    assert torch.equal(state, torch.get_rng_state())
    assert [m.training for m in method.modules()] == mode
    after = method.state_dict()
    assert all(torch.equal(v, before[k]) for k, v in after.items() if isinstance(v, torch.Tensor))
    assert all(p.grad is None for p in method.parameters())
    assert not optimizer.state
    check(method_of(training), training, training)
    assert training.state_dict() == position


def method_of(training: Any) -> Method:
    encoders = {m: nn.Sequential(nn.Flatten(), nn.Linear(32, 4)) for m in training.split.modalities}
    model = MultimodalModel(encoders, Concat(dict.fromkeys(encoders, 4)), nn.Linear(8, 4))
    return Joint(model, Classification(4))


def test_codes_are_muted_in_any_case_and_unknown_ones_refused() -> None:
    parts = data()
    found = check(told((1.0, 0.0)), **parts, fast=True)
    assert {"EQ010", "EQ017"} <= set(found.codes)
    muted = check(told((1.0, 0.0)), **parts, fast=True, ignore=["eq010", "EQ017"])
    assert muted.ignored == ("EQ010", "EQ017")
    assert not {"EQ010", "EQ017"} & {*muted.codes, *muted.passed, *(u.code for u in muted.unchecked)}
    with pytest.raises(UnknownNameError, match="EQ010"):
        check(told(), **parts, ignore=["EQ01"])


def test_fast_mode_names_what_it_leaves_out() -> None:
    why = {u.code: u.why for u in check(told(), **data(), fast=True).unchecked}
    assert {c for c, w in why.items() if "fast mode" in w} == {"EQ001", "EQ006", "EQ007", "EQ012", "EQ015"}


def test_thresholds_are_the_callers() -> None:
    made: Any = get("EQ010")
    made = made(weight=0.9)
    report = check(told((0.5, 0.5)), **data(), using=[made])
    assert report.codes == ("EQ010",)
    assert {f.threshold for f in report.findings} == {0.9}


def test_errors_come_first_and_every_finding_ends_with_a_next_step() -> None:
    parts = data()
    report = check(told((1.0, 0.0)), parts["train"], parts["validation"], parts["train"])
    order = [f.severity for f in report.findings]
    assert order[0] == "error"
    assert order == sorted(order, key=["error", "warning", "note"].index)
    for f in report.findings:
        assert f.next_step
        assert f.page == f"docs/checks/{f.code.lower()}.md"
        assert f.record()["number"] == f.number
    assert f"mute: --ignore {report.findings[0].code}" in str(report)


def test_a_plain_model_is_looked_at_with_its_task() -> None:
    model = told((1.0, 0.0)).model
    assert "EQ010" in check(model, **data(), task=Classification(3), fast=True).codes
    with pytest.raises(MethodError, match="`task`"):
        check(model, **data())


def test_what_is_no_model_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match="parameters_of"):
        check(nn.Linear(2, 2), **data())
    with pytest.raises(MethodError, match="check_run"):
        check("runs/one")  # type: ignore[arg-type]
    with pytest.raises(MethodError, match="dict"):
        check({})  # type: ignore[arg-type]


def test_a_model_that_refuses_subsets_keeps_its_other_checks() -> None:
    class Needy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no head")

    model: Any = told().model
    model.head = Needy()
    report = check(Joint(model, Classification(3)), **data(), fast=True)
    assert any(u.why == "the model refused: RuntimeError: no head" for u in report.unchecked)
    assert "EQ016" in report.passed


def test_iterators_are_read_once_for_all_checks() -> None:
    parts: dict[str, Any] = {part: iter(found) for part, found in data().items()}
    report = check(told(), **parts, fast=True)
    assert {"EQ008", "EQ016", "EQ018"} <= set(report.passed)


def test_data_that_are_not_given_are_named() -> None:
    why = {u.code: u.why for u in check(told(), test=data()["test"], fast=True).unchecked}
    assert why["EQ016"] == "needs the train data; give train="
    assert "validation=" in why["EQ005"]


@pytest.fixture
def known() -> Iterator[None]:
    """The registry as it was, afterwards."""
    before = dict(registry._KNOWN)
    yield
    registry._KNOWN.clear()
    registry._KNOWN.update(before)


@pytest.mark.usefixtures("known")
def test_others_register_their_checks() -> None:
    @register
    @dataclasses.dataclass(frozen=True)
    class FewModalities(Check):
        """The model has fewer than three modalities."""

        code: ClassVar[str] = "MY001"
        title: ClassVar[str] = "Few modalities"
        severity: ClassVar[Severity] = "note"

        def run(self, subject: Any) -> Any:
            count = len(subject.modalities)
            if count < 3:
                yield self.finding(count, 3, f"{count} modalities", "Add one.")

    (found,) = check(told(), **data(), fast=True).of("MY001")
    assert (found.number, found.threshold) == (2.0, 3.0)
    with pytest.raises(MethodError, match="MY001"):

        @register
        @dataclasses.dataclass(frozen=True)
        class Another(FewModalities):
            """The same code."""


def test_a_malformed_check_is_refused() -> None:
    for parts, word in (
        ({"code": "my1"}, "code"),
        ({"code": "MY002", "severity": "note"}, "title"),
        ({"code": "MY002", "title": "x", "severity": "fatal"}, "severity"),
    ):
        kind = type("Malformed", (Check,), {**parts, "__doc__": "Text.", "run": lambda self, subject: ()})
        with pytest.raises(MethodError, match=word):
            register(kind)


def test_unimodal_models_are_not_judged_as_fusions() -> None:
    from equimodal.methods import Unimodal

    model = told().model
    report = check(Unimodal(model, Classification(3), modality="a"), **data(), fast=True)
    why = {u.code: u.why for u in report.unchecked}
    assert all("one trained modality" in why[code] for code in ("EQ002", "EQ010", "EQ017", "EQ019", "EQ020"))


def test_absent_modalities_are_no_obstacle() -> None:
    target = labels(192)
    present = torch.rand(192, generator=torch.Generator().manual_seed(0)) < 0.7
    parts: dict[str, Any] = {}
    for seed, part in enumerate(("train", "validation", "test")):
        inputs = {m: logits(target, seed=10 * seed + i) for i, m in enumerate("ab")}
        inputs["b"][~present] = float("nan")
        parts[part] = batches(target, inputs, b=present)
    report = check(told(), **parts, optimizer=torch.optim.SGD(told().parameters(), lr=0.1))
    assert report.findings == ()
    assert not [u for u in report.unchecked if "refused" in u.why]
