"""Modules that keep still in a phase: no dropout, no statistics, no graph; and everything as it was afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from equimodal import Batch, Classification, MultimodalModel, PlainEngine, Sharpness
from equimodal.engine import Objective, Phase, Survey, evaluating, modules_of
from equimodal.errors import MethodError
from equimodal.fusion import Concat
from equimodal.methods import EpochContext, PretrainFinetune
from tests.features.users import indexed, user
from tests.helpers import CLASSES, assert_identical, sgd, split, weights


class Noisy(nn.Module):
    """Batch and instance statistics, dropout; writes down what it gave and whether it asks for a gradient."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, 6)
        self.norm = nn.BatchNorm1d(6)
        self.instance = nn.InstanceNorm1d(3, affine=True, track_running_stats=True)
        self.drop = nn.Dropout(0.5)
        self.seen: list[Tensor] = []
        self.asked: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.norm(self.first(x))
        h = self.drop(self.instance(h.view(-1, 3, 2)).flatten(1))
        self.seen.append(h.detach())
        self.asked.append(h.requires_grad)
        return h


class OwnModel(nn.Module):
    """A user's model: no `encoder(modality)`, encoders of several modules, one dropout in the open."""

    modalities = ("a", "keys")
    feature_sizes: Mapping[str, Any] = {"a": 6, "keys": 6}

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.other = nn.Linear(5, 5), Noisy(5), Noisy(3)
        self.head = nn.Sequential(nn.BatchNorm1d(12), nn.Dropout(0.3), nn.Linear(12, CLASSES))

    def encode(self, inputs: Any, present: Any = None, modalities: Any = None) -> dict[str, Tensor]:
        features = {"a": lambda: self.body(self.stem(inputs["a"])), "keys": lambda: self.other(inputs["keys"])}
        return {m: features[m]() for m in (modalities or self.modalities)}

    def fuse(self, features: Mapping[str, Tensor], present: Any = None) -> Tensor:
        return torch.cat([features[m] for m in self.modalities], 1)

    def parameters_of(self, modality: str) -> list[nn.Parameter]:
        of: dict[str, list[nn.Module]] = {"a": [self.stem, self.body], "keys": [self.other]}
        parts = of[modality]
        return [p for part in parts for p in part.parameters()]


def own_batch(seed: int = 0) -> Batch:
    batch = indexed(12, seed)
    return Batch({m: batch.inputs[m] for m in OwnModel.modalities}, batch.target)


def frozen_method(model: nn.Module | None = None, **options: Any) -> PretrainFinetune:
    """In the joint part, with frozen encoders."""
    torch.manual_seed(0)
    method = PretrainFinetune(OwnModel() if model is None else model, Classification(CLASSES), freeze=True, **options)
    method = method.double().train()
    method.on_train_epoch_start(EpochContext(5, 10))
    assert method.pretraining is False
    return method


def moves(name: str) -> bool:
    """A bias before a normalisation has no gradient."""
    return name.endswith(("weight", "running_mean"))


def split_by_owner(method: PretrainFinetune) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """State of the encoders, and of the rest of the model."""
    state = {n: t for n, t in weights(method.model).items() if not n.startswith("heads")}
    inside = {n: t for n, t in state.items() if not n.startswith("head.")}
    return inside, {n: t for n, t in state.items() if n not in inside}


def test_frozen_encoders_of_any_model_keep_still_to_the_bit() -> None:
    """Weights and running statistics; dropout is off, so that seeds do not matter; heads keep their own."""
    method = frozen_method()
    engine = sgd(method)
    encoders, rest = split_by_owner(method)
    model: Any = method.model
    for seed in (1, 2):
        torch.manual_seed(seed)
        method.training_step(own_batch(), engine)
    after, moved = split_by_owner(method)
    assert any("running_mean" in n for n in encoders)
    assert_identical(encoders, after)
    assert all(not torch.equal(moved[n], rest[n]) for n in rest)  # the head's weights, and its own statistics
    for noisy in (model.body, model.other):
        assert torch.equal(noisy.seen[0], noisy.seen[1])
        assert noisy.asked == [False, False]  # no graph was built
    assert all(m.training for m in method.modules())
    assert all(p.requires_grad for p in method.parameters())
    alone = {m: t.clone() for m, t in model.encode(own_batch().inputs).items()}  # in training mode: other features
    assert not torch.equal(alone["a"], model.body.seen[0])


def test_before_the_joint_part_nothing_keeps_still() -> None:
    method = frozen_method()
    method.on_train_epoch_start(EpochContext(0, 10))
    before, _ = split_by_owner(method)
    method.training_step(own_batch(), sgd(method))
    after, _ = split_by_owner(method)
    assert all(not torch.equal(after[n], before[n]) for n in before if moves(n))


def test_it_equals_training_on_features_that_were_made_once() -> None:
    """What a frozen control means: the encoders' features in evaluation mode are the data."""
    method, reference = frozen_method(), frozen_method()
    engine = sgd(method, clip_norm=0.5)
    with torch.no_grad(), evaluating(reference):
        features = [reference.multimodal.fuse(reference.multimodal.encode(own_batch(s).inputs)) for s in range(3)]
    head = reference.multimodal.head
    optimizer = torch.optim.SGD(head.parameters(), lr=0.05, momentum=0.9)
    for seed in range(3):
        torch.manual_seed(seed)
        method.training_step(own_batch(seed), engine)
        torch.manual_seed(seed)
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(features[seed]), own_batch(seed).target).backward()  # type: ignore[arg-type, no-untyped-call]
        nn.utils.clip_grad_norm_(head.parameters(), 0.5)
        optimizer.step()
    assert_identical(weights(method.multimodal.head), weights(head))


def test_each_submodule_has_its_own_mode_again() -> None:
    """Also one that the user had put into evaluation mode or frozen; and after an exception in any pass."""
    model: Any = OwnModel()
    method = frozen_method(model)
    model.body.norm.eval()
    model.stem.weight.requires_grad_(False)
    modes = {n: m.training for n, m in method.named_modules()}
    asking = {n: p.requires_grad for n, p in method.named_parameters()}

    def unchanged() -> None:
        assert {n: m.training for n, m in method.named_modules()} == modes
        assert {n: p.requires_grad for n, p in method.named_parameters()} == asking

    batch = own_batch()
    method.training_step(batch, sgd(method))
    unchanged()
    handle = model.other.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("on purpose")))
    with pytest.raises(RuntimeError, match="on purpose"):
        method.training_step(batch, sgd(method))
    unchanged()
    handle.remove()
    method.training_step(split(batch, 2), sgd(method))
    unchanged()


@pytest.mark.parametrize("mode", ["full", "every_k"])
def test_in_the_passes_of_sharpness_and_survey_too(mode: Any) -> None:
    method = frozen_method(sharpness=Sharpness(mode, radius=0.1))
    model: Any = method.model
    method.training_step(own_batch(), sgd(method))
    assert len(model.body.seen) == 2
    assert torch.equal(model.body.seen[0], model.body.seen[1])
    modes: list[bool] = []
    still = Noisy(5).train()
    x = nn.Parameter(torch.ones(1))

    def gather(_: Batch) -> dict[str, Tensor]:
        modes.append(still.norm.training)
        return {"n": torch.ones(1)}

    phase = Phase("p", lambda _: Objective((x * still(torch.ones(4, 5)).sum()).sum()), [x], frozen=[still],
                  survey=Survey(gather, lambda _: None, always=True))  # fmt: skip
    PlainEngine(torch.optim.SGD([x], lr=0.1)).descend(phase, [own_batch()])
    assert modes == [False]
    assert still.norm.training


def test_a_gradient_flows_through_to_what_is_before() -> None:
    """Parameters before a frozen module are trained through it, exactly as without."""
    torch.manual_seed(0)
    first, middle, last = nn.Linear(5, 5).double(), Noisy(5).double().eval(), nn.Linear(6, 1).double()
    trained = [*first.parameters(), *last.parameters()]

    def objective(batch: Batch) -> Objective:
        return Objective(last(middle(first(batch.inputs["a"]))).square().mean())

    found = []
    for frozen in ((), (middle,)):
        engine = PlainEngine(torch.optim.SGD([*trained, *middle.parameters()], lr=0.1))
        engine.descend(Phase("p", objective, trained, frozen=frozen), [own_batch()])
        assert all(p.grad is None for p in middle.parameters())
        found.append([p.grad for p in trained])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_frozen_module_is_not_trained_by_its_phase() -> None:
    layer = nn.Linear(2, 2)
    weight, _ = layer.parameters()
    phase = Phase("p", lambda _: Objective(weight.sum()), [weight], frozen=[layer])
    with pytest.raises(MethodError, match=r"`frozen` \(phase 'p'\).*Found 1 of their parameters"):
        PlainEngine(torch.optim.SGD(layer.parameters(), lr=0.1)).descend(phase, [own_batch()])
    assert layer.weight.requires_grad


def test_a_loss_without_a_graph_trains_nothing() -> None:
    """A micro-batch may reach frozen modules only; without frozen ones a loss without a graph is refused."""
    x, still = nn.Parameter(torch.ones(2)), nn.Linear(2, 2)

    def objective(ask: bool, _: Batch) -> Objective:
        loss = still(torch.ones(2)).sum()
        return Objective(loss, parts={"still": loss} if ask else {})

    for ask in (False, True):
        phase = Phase("p", partial(objective, ask), [x], frozen=[still])
        PlainEngine(torch.optim.SGD([x], lr=0.1)).descend(phase, [own_batch()])
        assert x.grad is None
    bare = Phase("p", lambda _: Objective(x.detach().sum()), [x])
    with pytest.raises(MethodError, match="without a graph"):
        PlainEngine(torch.optim.SGD([x], lr=0.1)).descend(bare, [own_batch()])


# ---- compiled code ---------------------------------------------------------------------------------------------------


@pytest.fixture
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


class Normed(nn.Sequential):
    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, 6), nn.BatchNorm1d(6), nn.Dropout(0.5))


def normed_model(wrap: Any) -> MultimodalModel:
    torch.manual_seed(0)
    encoders: dict[str, nn.Module] = {"a": wrap(Normed(5)), "keys": wrap(Normed(3))}
    return MultimodalModel(encoders, Concat({"a": 6, "keys": 6}), nn.Linear(12, CLASSES))


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("way", ["torch.compile", "Module.compile", "whole loss"])
def test_compiled_encoders_follow(way: str) -> None:
    """Trained first, so that code for training mode is there; then frozen; then predicting and training again."""

    def wrap(encoder: nn.Module) -> nn.Module:
        if way == "torch.compile":
            made: Any = torch.compile(encoder, backend="eager", fullgraph=True)
            encoder = made
        if way == "Module.compile":
            encoder.compile(backend="eager", fullgraph=True)
        return encoder

    method, eager = frozen_method(normed_model(wrap)), frozen_method(normed_model(lambda e: e))
    options: dict[str, Any] = {"compile": {"backend": "eager", "fullgraph": True}} if way == "whole loss" else {}
    for m, engine in ((method, sgd(method, **options)), (eager, sgd(eager))):
        for epoch in (0, 5, 0, 5):
            m.on_train_epoch_start(EpochContext(epoch, 10, engine=engine))
            before = {n: t for n, t in weights(m.model).items() if n.startswith("encoders")}
            for seed in (0, 1):
                torch.manual_seed(seed)
                m.training_step(own_batch(seed), engine)
            after = {n: t for n, t in weights(m.model).items() if n in before}
            if epoch == 5:
                assert_identical(before, after)
            else:
                assert all(not torch.equal(after[n], before[n]) for n in before if moves(n))
            m.predict(own_batch().inputs)
    ours = {n.replace("_orig_mod.", ""): t for n, t in weights(method.model).items()}
    assert max(float((t - ours[n]).abs().max()) for n, t in weights(eager.model).items()) < 1e-9


# ---- finding modules -------------------------------------------------------------------------------------------------


def test_modules_are_found_by_object() -> None:
    model = OwnModel()
    assert modules_of(model, model.parameters_of("a")) == [model.stem, model.body]
    assert modules_of(model, model.parameters_of("keys")) == [model.other]
    assert modules_of(model, model.parameters()) == [model]
    assert modules_of(model, []) == []
    some = [*model.body.first.parameters(), *list(model.other.norm.parameters())[:1]]
    assert modules_of(model, some) == [model.body.first]
    ours = normed_model(lambda e: e)
    assert modules_of(ours, ours.parameters_of("a")) == [ours.encoder("a")]
    every = [p for m in ours.modalities for p in ours.parameters_of(m)]
    assert modules_of(ours, every) == [ours.encoders]
    assert all(isinstance(m, nn.Module) for m in modules_of(ours, every))


def test_evaluating_is_to_be_had_from_the_methods_too() -> None:
    from equimodal import engine, methods

    assert methods.evaluating is engine.evaluating
    net: Sequence[nn.Module] = [nn.Dropout(), nn.Dropout().eval()]
    whole = nn.ModuleList(net)
    with pytest.raises(RuntimeError), evaluating(whole):
        assert not any(m.training for m in whole.modules())
        raise RuntimeError
    assert [m.training for m in (whole, *net)] == [True, True, False]


def test_a_user_of_it_reports_as_others_do() -> None:
    method = user("frozen modules", norm=True)
    report = method.training_step(indexed(), sgd(method))
    assert report.phases == ["heads"]
    assert {"fused", "a"} <= set(report.losses)
