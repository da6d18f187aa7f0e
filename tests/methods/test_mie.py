"""MIE against an independent writing-out of the paper and of the released code, its schedule and its options."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from equimodal import Batch, Classification, PlainEngine
from equimodal.errors import BatchError, EquimodalWarning, MethodError, ScheduleWarning, UnsupportedError
from equimodal.methods import MIE, EpochContext, Method
from equimodal.projection import Flat
from tests.helpers import (
    CLASSES,
    NAMES,
    adamw,
    assert_identical,
    assert_near,
    make_batch,
    make_method,
    make_model,
    moved,
    plain_batch,
    plain_model,
    sgd,
    split,
    train,
    weights,
)

INPUTS = {"audio.raw": 5, "the keys": 3, "depth": 4}
LR, MOMENTUM, RADIUS, RATIO, TAU = 0.1, 0.9, 0.05, 0.3, 0.4


def flat(method: Method) -> Flat:
    """Its projection."""
    assert isinstance(method.projection, Flat)
    return method.projection


def small_heads(names: list[str]) -> dict[str, nn.Module]:
    """Two layers of one shape, so that correspondence by position matters."""
    return {
        m: nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 4)).double()
        for m in names
    }


def build(count: int = 3, **options: Any) -> tuple[MIE, list[Batch]]:
    torch.manual_seed(3)
    inputs = dict(list(INPUTS.items())[:count])
    model = plain_model(inputs, 6, 4)
    method = MIE(model, Classification(4), heads=small_heads(list(inputs)), **options).double().train()
    return method, [plain_batch(inputs, 4, 8, seed) for seed in range(3)]


def engine_for(method: nn.Module) -> PlainEngine:
    return PlainEngine(torch.optim.SGD(method.parameters(), lr=LR, momentum=MOMENTUM))


def spectrum(c: Tensor, tau: float = TAU) -> Tensor:
    lam, v = np.linalg.eigh(c.numpy())
    return torch.from_numpy(v @ np.diag(np.exp(-tau * (lam - lam.min()) / (lam.max() - lam.min()))) @ v.T)


def branch(method: MIE, m: str) -> list[nn.Module]:
    return [*method.model.encoder(m).children(), *method.heads[m].children()]  # type: ignore[operator]


def run(layers: list[nn.Module], x: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
    inputs = {}
    for i, layer in enumerate(layers):
        inputs[i] = x.detach()
        x = layer(x)
    return x, inputs


# A branch: 0 Linear(n, 8), 1 Tanh, 2 Linear(8, 6) of the encoder; 3 Linear(6, 6), 4, 5 Linear(6, 6), 6, 7 Linear(6, 4)
SHARED = (2, 3, 5, 7)  # layer 0 differs in shape between modalities


class Reference:
    """Sharpness, projection and momentum SGD, written out."""

    def __init__(self, method: MIE) -> None:
        self.copy = copy.deepcopy(method)
        self.names = method.modalities
        self.branches = {m: branch(self.copy, m) for m in self.names}
        self.p = {m: {i: torch.eye(self.width(m, i), dtype=torch.float64) for i in SHARED} for m in self.names}
        self.buffers: dict[int, Tensor] = {}
        self.moments: dict[str, dict[int, list[Tensor]]] = {}
        self.released = False

    def width(self, m: str, i: int) -> int:
        return int(self.branches[m][i].in_features)  # type: ignore[arg-type]

    def clear(self, m: str) -> None:
        self.moments[m] = {i: [] for i in SHARED}

    def parameters(self, m: str) -> list[nn.Parameter]:
        return [p for layer in self.branches[m] for p in layer.parameters()]

    def step(self, m: str, batch: Batch, sam: bool = True) -> None:
        parameters = self.parameters(m)
        assert batch.target is not None
        z, inputs = run(self.branches[m], batch.inputs[m])
        loss = nn.functional.cross_entropy(z, batch.target)
        if self.released:
            gradients = self.released_gradients(m, batch, loss, parameters)
        else:
            gradients = list(torch.autograd.grad(loss, parameters))
            if sam:
                norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
                with torch.no_grad():
                    saved = [p.clone() for p in parameters]
                    for p, g in zip(parameters, gradients, strict=True):
                        p += RADIUS * g / norm  # type: ignore[misc]
                sharp = torch.autograd.grad(
                    nn.functional.cross_entropy(run(self.branches[m], batch.inputs[m])[0], batch.target), parameters
                )
                with torch.no_grad():
                    for p, old in zip(parameters, saved, strict=True):
                        p.copy_(old)
                gradients = [(1 - RATIO) * g + RATIO * s for g, s in zip(gradients, sharp, strict=True)]
        for i in SHARED:
            where = next(k for k, p in enumerate(parameters) if p is self.branches[m][i].weight)
            matrices = [self.p[m][i]]
            if self.released:  # the projector of EVERY layer of equal shape
                shape = self.branches[m][i].weight.shape
                matrices = [self.p[m][j] for j in SHARED if self.branches[m][j].weight.shape == shape]
            for matrix in matrices:
                gradients[where] = gradients[where] @ matrix
        with torch.no_grad():
            for p, g in zip(parameters, gradients, strict=True):
                self.buffers[id(p)] = MOMENTUM * self.buffers[id(p)] + g if id(p) in self.buffers else g.clone()
                p -= LR * self.buffers[id(p)]  # type: ignore[misc]
        for i in SHARED:
            self.add(m, i, inputs[i])

    def add(self, m: str, i: int, u: Tensor) -> None:
        if self.released:
            u = u.mean(0, keepdim=True)
        self.moments[m][i].append(u)

    def released_gradients(self, m: str, batch: Batch, loss: Tensor, parameters: list[nn.Parameter]) -> list[Tensor]:
        """Loss of the head at theta + 1e-10 g/|g| per tensor, on the old features; never undone."""
        assert batch.target is not None
        first = torch.autograd.grad(loss, parameters, retain_graph=True)
        layers = self.branches[m]
        feature = run(layers[:3], batch.inputs[m])[0]
        plain = torch.autograd.grad(nn.functional.cross_entropy(run(layers[3:], feature)[0], batch.target), parameters,
                                    retain_graph=True)  # fmt: skip
        with torch.no_grad():
            old = [p.clone() for p in parameters]
            for p, g in zip(parameters, first, strict=True):
                p += 1e-10 * g / g.norm()  # type: ignore[misc]
            shifted = [p.clone() for p in parameters]
            for p, o, n in zip(parameters, old, shifted, strict=True):
                p.copy_(n if any(p is q for layer in layers[3:] for q in layer.parameters()) else o)
        feature = run(layers[:3], batch.inputs[m])[0]
        sharp = torch.autograd.grad(nn.functional.cross_entropy(run(layers[3:], feature)[0], batch.target), parameters)
        with torch.no_grad():
            for p, n in zip(parameters, shifted, strict=True):
                p.copy_(n)
        return [(1 - RATIO) * a + RATIO * b for a, b in zip(plain, sharp, strict=True)]

    def refresh(self, sources: str = "others", tau: float = TAU) -> None:
        for k, m in enumerate(self.names):
            others = [o for o in self.names if o != m] if sources == "others" else [self.names[k - 1]]
            for i in SHARED:
                seen = [torch.cat(self.moments[o][i]) for o in others if self.moments.get(o, {}).get(i)]
                if seen:
                    self.p[m][i] = spectrum(torch.stack([u.T @ u / len(u) for u in seen]).mean(0), tau)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sam": None},
        {"projection": False},
        {"sam": None, "sources": "previous"},
        {"sam": None, "temperature": 2.0},
        {"sam": None, "layers": "all"},
    ],
)
def test_against_the_paper_by_batch(count: int, options: dict[str, Any]) -> None:
    method, batches = build(count, **options)
    reference = Reference(method)
    for _ in range(3):
        for m in reference.names:
            reference.clear(m)
        for batch in batches:
            for m in reference.names:
                reference.step(m, batch, options.get("sam", "full") is not None)
        if options.get("projection", True):
            reference.refresh(options.get("sources", "others"), options.get("temperature", TAU))
    before = weights(method)
    train(method, engine_for(method), range(3), batches)
    assert_near(dict(method.named_parameters()), dict(reference.copy.named_parameters()), 1e-6)
    assert_near(dict(method.named_parameters()), dict(reference.copy.named_parameters()), 1e-9)
    assert max(float(t.abs().max()) for n, t in moved(before, method).items() if "model.head" not in n) > 1e-2


def test_against_the_paper_by_epoch() -> None:
    method, batches = build(3, alternate="epoch")
    reference = Reference(method)
    for epoch in range(5):
        m = reference.names[epoch % 3]
        reference.clear(m)
        for batch in batches:
            reference.step(m, batch)
        reference.refresh()
    train(method, engine_for(method), range(5), batches)
    assert_near(dict(method.named_parameters()), dict(reference.copy.named_parameters()), 1e-9)


def test_against_the_paper_by_stage() -> None:
    """Stages of (1, 2) epochs; each starts from the best model so far, with fresh momentum and new covariances."""
    method, batches = build(3, alternate="stage", stage_epochs=(1, 2))
    reference = Reference(method)
    scores = [0.3, 0.9, 0.5, 0.4, 0.8, 0.7]  # best after epoch 1, the first of the second stage
    stages = [0, 1, 1, 2, 3, 3]
    assert [method.stages.of(e) for e in range(6)] == stages
    kept: dict[str, Tensor] = {}
    best, last = -1.0, 0
    for stage, value in zip(stages, scores, strict=True):
        if stage != last:
            reference.copy.load_state_dict(kept, strict=False)
            k = reference.names[last % 3]
            reference.clear(k)
            for batch in batches:
                for i, u in run(reference.branches[k], batch.inputs[k])[1].items():
                    if i in SHARED:
                        reference.moments[k][i].append(u)
            reference.refresh()
            reference.buffers.clear()
            last = stage
        m = reference.names[stage % 3]
        scratch = reference.moments.get(m)
        reference.clear(m)
        for batch in batches:
            reference.step(m, batch)
        if scratch is None:
            del reference.moments[m]  # covariances come from the pass at the end of the stage only
        else:
            reference.moments[m] = scratch
        if value > best:
            best = value
            kept = {n: p.detach().clone() for n, p in reference.copy.named_parameters()}
    engine = engine_for(method)
    for epoch, value in enumerate(scores):
        context = EpochContext(epoch, 6, 3, batches, engine)
        method.train()
        method.on_train_epoch_start(context)
        for batch in batches:
            report = method.training_step(batch, engine)
            assert list(report.losses) == [reference.names[stages[epoch] % 3]]
        method.on_train_epoch_end(context)
        method.on_validation_end(value)
    assert_near(dict(method.named_parameters()), dict(reference.copy.named_parameters()), 1e-9)


@pytest.mark.parametrize("parts", [1, 2])
def test_against_the_released_code(parts: int) -> None:
    method, batches = build(2, variant="released")
    reference = Reference(method)
    reference.released = True
    for _ in range(3):
        for m in reference.names:
            reference.clear(m)
        for batch in batches:
            for m in reference.names:
                reference.step(m, batch)
        reference.refresh()
    data: list[Any] = [split(b, parts) for b in batches] if parts > 1 else list(batches)
    if parts > 1:  # covariances of batch MEANS depend on the batches: compare losses and weights of the first epoch
        reference = Reference(method)
        reference.released = True
        for m in reference.names:
            reference.clear(m)
        for batch in batches:
            for m in reference.names:
                reference.step(m, batch)
    train(method, engine_for(method), range(3 if parts == 1 else 1), data)
    assert_near(dict(method.named_parameters()), dict(reference.copy.named_parameters()), 1e-6)


def test_the_released_radius_does_nothing() -> None:
    a, batches = build(2, radius=1e-10)
    b, _ = build(2, sam=None)
    train(a, engine_for(a), range(2), batches)
    train(b, engine_for(b), range(2), batches)
    assert_near(weights(a), weights(b), 1e-8)
    c, _ = build(2, radius=0.5)
    train(c, engine_for(c), range(2), batches)
    assert max(float((p - q).detach().abs().max()) for p, q in zip(b.parameters(), c.parameters(), strict=True)) > 1e-3


def test_the_released_variant_refuses_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its perturbation along the process's own gradient, never undone, would let them drift apart."""
    method, batches = build(2, variant="released")
    monkeypatch.setattr("equimodal.methods.released._mie.is_distributed", lambda: True)
    with pytest.raises(UnsupportedError, match="one process"):
        method.training_step(batches[0], engine_for(method))


def test_zero_temperature_is_no_projection() -> None:
    a, batches = build(2, temperature=0.0, sam=None)
    b, _ = build(2, projection=False, sam=None)
    train(a, engine_for(a), range(2), batches)
    train(b, engine_for(b), range(2), batches)
    assert_near(dict(a.named_parameters()), dict(b.named_parameters()), 1e-12)


def test_published_classifier_and_prediction() -> None:
    method = make_method("MIE", 2, small=False)
    branch: Any = method.heads[NAMES[0]]  # type: ignore[index]
    shapes = [tuple(layer.weight.shape) for layer in branch.modules() if isinstance(layer, nn.Linear)]
    assert shapes == [(256, 6), (64, 256), (CLASSES, 64)]
    batch = make_batch(2)
    prediction = method.predict(batch.inputs)
    mean = torch.stack([torch.softmax(z, 1) for z in prediction.unimodal.values()]).mean(0)
    assert (torch.softmax(prediction.output, 1) - mean).abs().max() < 1e-12


def test_inactive_modalities_keep_still() -> None:
    method, batches = build(3, alternate="epoch")
    engine = adamw(method)
    for epoch in range(4):
        before = {n: p.detach().clone() for n, p in method.named_parameters()}
        states = {id(p): {k: v.clone() for k, v in engine.optimizers[0].state[p].items()} for p in method.parameters()}
        train(method, engine, [epoch], batches)
        active = method.modalities[epoch % 3]
        own = {id(p) for p in (*method.multimodal.parameters_of(active), *method.heads[active].parameters())}
        for n, p in method.named_parameters():
            if id(p) in own:
                assert not torch.equal(p, before[n]), n
                continue
            assert torch.equal(p, before[n]), n
            now = engine.optimizers[0].state[p]
            assert all(torch.equal(now[k], v) for k, v in states[id(p)].items())


def test_projectors_have_the_flat_spectrum() -> None:
    method, batches = build(3)
    train(method, engine_for(method), range(2), batches)
    assert flat(method).bank.keys["depth"] == tuple(flat(method).keyed["depth"])
    count = 0
    for row in flat(method).bank.projectors:
        for projector in row:  # type: ignore[attr-defined]
            values = np.linalg.eigvalsh(projector.matrix.numpy())
            assert values[0] == pytest.approx(math.exp(-TAU), abs=1e-9)
            assert values[-1] == pytest.approx(1.0, abs=1e-9)
            count += 1
    assert count == 3 * len(SHARED)


def test_layers_correspond_by_part_shape_and_position() -> None:
    only, _ = build(3, layers="classifier")
    assert {k[0] for k in flat(only).keyed["depth"]} == {"classifier"}
    assert len(flat(only).keyed["depth"]) == 3
    both, _ = build(3)
    assert [k for k in flat(both).keyed["depth"] if k[0] == "encoder"] == [("encoder", (6, 8), 0)]
    positions = [k[2] for k in flat(both).keyed["depth"] if k[1] == (6, 6)]
    assert positions == [0, 1]


def test_all_layers_include_convolutions() -> None:
    torch.manual_seed(0)
    from tests.helpers import Convolution

    encoders = {m: Convolution(6) for m in NAMES[:2]}
    from equimodal import MultimodalModel
    from equimodal.fusion import Concat

    model = MultimodalModel(encoders, Concat(dict.fromkeys(encoders, 6)), nn.Linear(12, 3)).double()
    method = MIE(model, Classification(3), layers="all", sam=None).double().train()
    g = torch.Generator().manual_seed(0)
    batch = Batch({m: torch.randn(6, 2, 9, generator=g, dtype=torch.float64) for m in encoders}, torch.arange(6) % 3)
    train(method, sgd(method), range(2), [batch])
    key = next(k for k in flat(method).keyed[NAMES[0]] if len(k[1]) == 3)
    assert float(flat(method).bank.projector(NAMES[0], key).plasticity()) < 1
    assert not [k for k in flat(make_method("MIE", 2)).keyed[NAMES[0]] if len(k[1]) > 2]


def test_layers_that_are_not_called_are_left_alone() -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(4, 6), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.used(x)
            return out

    from equimodal import MultimodalModel
    from equimodal.fusion import Concat

    encoders = {m: Spare() for m in NAMES[:2]}
    model = MultimodalModel(encoders, Concat(dict.fromkeys(encoders, 6)), nn.Linear(12, 3)).double()
    for options in ({}, {"alternate": "stage", "stage_epochs": (1,)}):
        method = MIE(copy.deepcopy(model), Classification(3), sam=None, **options).double().train()  # type: ignore[arg-type]
        x = {m: torch.randn(6, 4, dtype=torch.float64) for m in encoders}
        train(method, sgd(method), range(2), [Batch(x, torch.arange(6) % 3)])
        assert all(torch.isfinite(p).all() for p in method.parameters())


def test_mixup_mixes_inputs_and_targets_alike() -> None:
    method, batches = build(2, mixup_alpha=1.0, sam=None)
    (mixed,) = method.prepare(batches[:1])
    assert mixed.target is not None
    assert mixed.target.shape == (8, 4)
    assert torch.allclose(mixed.target.sum(1), torch.ones_like(mixed.target.sum(1)))
    onehot = nn.functional.one_hot(batches[0].target, 4).double()  # type: ignore[arg-type]
    # recover share and order from the inputs, then check the targets
    x, y = batches[0].inputs["audio.raw"], mixed.inputs["audio.raw"]
    for row in range(8):
        fits = []
        for other in range(8):
            d = x[row] - x[other]
            share = 1.0 if other == row else float(((y[row] - x[other]) * d).sum() / (d * d).sum())
            gap = float((share * x[row] + (1 - share) * x[other] - y[row]).abs().max())
            fits.append((gap, share, other))
        gap, share, other = min(fits)
        assert gap < 1e-10
        assert (mixed.target[row].double() - share * onehot[row] - (1 - share) * onehot[other]).abs().max() < 1e-6
    state = torch.get_rng_state()
    method.prepare(batches[:1])
    assert torch.equal(state, torch.get_rng_state())


def test_mixup_refuses_what_it_cannot_mix() -> None:
    method, batches = build(2, mixup_alpha=1.0)
    absent = {"the keys": torch.tensor([False] + [True] * 7)}
    with pytest.raises(BatchError, match="`mixup_alpha`"):
        method.training_step(Batch(batches[0].inputs, batches[0].target, absent), engine_for(method))
    tokens = {**batches[0].inputs, "the keys": torch.zeros(8, 3, dtype=torch.int64)}
    with pytest.raises(BatchError, match="integers"):
        method.training_step(Batch(tokens, batches[0].target), engine_for(method))


@pytest.mark.parametrize("alternate", ["epoch", "stage"])
def test_an_unannounced_epoch_is_an_error(alternate: Any) -> None:
    method, batches = build(2, alternate=alternate)
    with pytest.raises(MethodError, match="on_train_epoch_start"):
        method.training_step(batches[0], engine_for(method))


def test_stages_need_a_loader() -> None:
    method, batches = build(2, alternate="stage", stage_epochs=(1,))
    method.on_train_epoch_start(EpochContext(0))
    method.training_step(batches[0], engine_for(method))
    with pytest.raises(MethodError, match=r"`context\.loader`"):
        method.on_train_epoch_start(EpochContext(1))


def test_a_forgotten_epoch_end_is_said_after_a_while() -> None:
    method, batches = build(2, sam=None)
    method._steps = 998
    engine = engine_for(method)
    method.training_step(batches[0], engine)
    with pytest.warns(ScheduleWarning, match="on_train_epoch_end"):
        method.training_step(batches[0], engine)


def test_micro_batches_equal_the_joined_batch() -> None:
    whole, batches = build(3)
    micro, _ = build(3)
    train(whole, engine_for(whole), range(2), batches)
    train(micro, engine_for(micro), range(2), [split(b, 3) for b in batches])
    assert_near(weights(whole), weights(micro))


def test_a_frozen_encoder_warns_and_trains_the_classifier() -> None:
    model = make_model(2)
    model.encoder(NAMES[1]).requires_grad_(False)
    with pytest.warns(EquimodalWarning, match="'the keys' is frozen"):
        method = MIE(model, Classification(CLASSES)).double().train()
    before = weights(method)
    train(method, sgd(method), range(2), [make_batch(2)])
    after = weights(method)
    assert_identical(*({n: t for n, t in w.items() if n.startswith("model.encoders.1")} for w in (before, after)))


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"sam": "half"}, "sam"),
        ({"radius": 0.0}, "radius"),
        ({"radius": -1.0, "sam": None}, "radius"),
        ({"flat_ratio": 1.5}, "flat_ratio"),
        ({"sam_every": 0}, "sam_every"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"sources": "all"}, "sources"),
        ({"layers": "conv"}, "layers"),
        ({"alternate": "steps"}, "alternate"),
        ({"stage_epochs": ()}, "stage_epochs"),
        ({"stage_epochs": (2, 0)}, "stage_epochs"),
        ({"mixup_alpha": -0.5}, "mixup_alpha"),
        ({"variant": "publ"}, "variant"),
        ({"inference": "vote"}, "inference"),
    ],
)
def test_bad_hyperparameters(options: dict[str, Any], name: str) -> None:
    with pytest.raises(MethodError, match=f"`{name}`"):
        make_method("MIE", 2, **options)
    with pytest.raises(UnsupportedError, match="`inference`"):
        make_method("MIE", 2, inference="fused")
