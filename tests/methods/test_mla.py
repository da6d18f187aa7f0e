"""MLA against an independent writing-out of the paper, and its options."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from equimodal import Batch, Classification, MultimodalModel, PlainEngine
from equimodal.errors import EquimodalWarning, MethodError, ModelError, ScheduleWarning, UnsupportedError
from equimodal.fusion import Concat
from equimodal.methods import MLA, EpochContext, Method
from equimodal.projection import Orthogonal, OrthogonalProjector, projectable_layers
from tests import formulas
from tests.helpers import (
    CLASSES,
    NAMES,
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
LR, MOMENTUM, DECAY = 0.05, 0.9, 1e-3


def projectors(method: Method) -> list[OrthogonalProjector]:
    """Those of the head's layers."""
    assert isinstance(method.projection, Orthogonal)
    return list(method.projection)


def build(inputs: dict[str, int], head: nn.Module | None = None, **options: Any) -> tuple[MLA, list[Batch]]:
    torch.manual_seed(3)
    model = plain_model(inputs, 6, 4)
    method = MLA(model, Classification(4), head=head, **options).double().train()
    return method, [plain_batch(inputs, 4, 8, seed) for seed in range(3)]


class Sgd:
    """SGD with momentum and weight decay, written out."""

    def __init__(self) -> None:
        self.buffers: dict[int, Tensor] = {}

    def step(self, parameters: list[nn.Parameter], gradients: list[Tensor]) -> None:
        with torch.no_grad():
            for p, g in zip(parameters, gradients, strict=True):
                g = g + DECAY * p
                v = MOMENTUM * self.buffers[id(p)] + g if id(p) in self.buffers else g.clone()
                self.buffers[id(p)] = v
                p -= LR * v  # type: ignore[misc]


def engine_for(method: nn.Module) -> PlainEngine:
    return PlainEngine(torch.optim.SGD(method.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY))


def reference(
    method: MLA, batches: list[Batch], epochs: int, projector: str | None, alpha: float = 0.1
) -> tuple[MLA, dict[int, Tensor]]:
    """Section 3 of the paper with plain torch; the copy's modules only serve as containers of weights."""
    copied = copy.deepcopy(method)
    encoders = {m: copied.model.encoder(m) for m in copied.modalities}  # type: ignore[operator]
    linear = [m for m in copied.head.modules() if isinstance(m, nn.Linear)]
    optimizer = Sgd()
    p = {i: torch.eye(layer.in_features, dtype=torch.float64) for i, layer in enumerate(linear)}
    flat = {
        m: {i: torch.eye(layer.in_features, dtype=torch.float64) for i, layer in enumerate(linear)} for m in encoders
    }
    for _ in range(epochs):
        moments: dict[str, dict[int, list[Tensor]]] = {m: {i: [] for i in p} for m in encoders}
        for b, batch in enumerate(batches):
            a = alpha ** (1 + b / len(batches))
            for m, encoder in encoders.items():
                u = encoder(batch.inputs[m])
                inputs: list[Tensor] = []
                for layer in copied.head if isinstance(copied.head, nn.Sequential) else [copied.head]:
                    if isinstance(layer, nn.Linear):
                        inputs.append(u.detach())
                    u = layer(u)
                loss = -torch.log_softmax(u, 1)[torch.arange(8), batch.target].mean()
                parameters = [*encoder.parameters(), *copied.head.parameters()]
                gradients = list(torch.autograd.grad(loss, parameters))
                for i, layer in enumerate(linear):
                    where = next(k for k, q in enumerate(parameters) if q is layer.weight)
                    if projector == "orthogonal":
                        gradients[where] = gradients[where] @ p[i]
                    elif projector == "flat":
                        gradients[where] = gradients[where] @ flat[m][i]
                optimizer.step(parameters, gradients)
                for i, x in enumerate(inputs):
                    h = x.mean(0, keepdim=True)
                    k = p[i] @ h.T / (a + h @ p[i] @ h.T)
                    p[i] = p[i] - k @ (h @ p[i])
                    moments[m][i].append(x.T @ x / len(x))
        for m in encoders:
            for i in p:
                c = torch.stack([torch.stack(moments[o][i]).mean(0) for o in encoders if o != m]).mean(0)
                lam, v = np.linalg.eigh(c.numpy())
                w = np.exp(-0.4 * (lam - lam.min()) / (lam.max() - lam.min()))
                flat[m][i] = torch.from_numpy(v @ np.diag(w) @ v.T)
    return copied, p


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("projector", ["orthogonal", "flat", None])
def test_against_the_paper(count: int, deep: bool, projector: Any) -> None:
    torch.manual_seed(1)
    head = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 4)).double() if deep else None
    method, batches = build(dict(list(INPUTS.items())[:count]), head, projector=projector)
    expected, p = reference(method, batches, 3, projector)
    before = weights(method)
    train(method, engine_for(method), range(3), batches)
    ours = dict(method.named_parameters())
    theirs = dict(expected.named_parameters())
    assert_near(ours, theirs, 1e-6)
    assert_near(ours, theirs, 1e-10)
    assert max(float(t.abs().max()) for t in moved(before, method).values()) > 1e-2  # something was learnt
    if projector == "orthogonal":
        for i, matrix in enumerate(projectors(method)):
            assert (matrix.matrix - p[i]).abs().max() < 1e-10


def test_the_projection_matters() -> None:
    results = []
    for projector in ("orthogonal", "flat", None):
        method, batches = build(INPUTS, projector=projector)
        train(method, engine_for(method), range(2), batches)
        results.append(projectable_layers(method.head)[0].weight.detach().clone())
    assert (results[0] - results[2]).abs().max() > 1e-3
    assert (results[1] - results[2]).abs().max() > 1e-3
    assert (results[0] - results[1]).abs().max() > 1e-3


def test_the_first_step_of_all_is_not_projected() -> None:
    """P takes in a modality's features only after its step."""
    method, batches = build(INPUTS)
    plain, _ = build(INPUTS, projector=None)
    for m in (method, plain):
        m.on_train_epoch_start(EpochContext(0, 1, 1))
    engines = [sgd(method, momentum=0.0), sgd(plain, momentum=0.0)]
    for one, engine in zip((method, plain), engines, strict=True):
        phase = next(iter(one.phases(batches[:1])))
        descent = engine.descend(phase, batches[:1])
        from equimodal.methods import StepReport

        one.modify_gradients(phase, descent, engine, StepReport())
    first, second = (projectable_layers(m.head)[0].weight.grad for m in (method, plain))
    assert first is not None
    assert second is not None
    assert torch.equal(first, second)


def test_the_bias_is_not_projected() -> None:
    method, batches = build(INPUTS)
    with torch.no_grad():
        projectors(method)[0].matrix.zero_()
    method.on_train_epoch_start(EpochContext(0, 1, 1))
    before = weights(method.head)
    method.training_step(batches[0], sgd(method, momentum=0.0))
    after = weights(method.head)
    assert torch.equal(before["1.weight"], after["1.weight"])
    assert not torch.equal(before["1.bias"], after["1.bias"])


def test_an_encoder_gets_no_gradient_from_another_modalitys_loss() -> None:
    method, batches = build(INPUTS)
    engine = engine_for(method)
    for phase in method.phases(batches[:1]):
        engine.descend(phase, batches[:1])
        for m in method.modalities:
            grads = [p.grad for p in method.multimodal.parameters_of(m)]
            assert all((g is not None) == (m == phase.modality) for g in grads)


def test_released_is_no_projection_and_one_weight_per_batch() -> None:
    released, batches = build(INPUTS, variant="released")
    plain, _ = build(INPUTS, projector=None)
    train(released, engine_for(released), range(2), batches)
    train(plain, engine_for(plain), range(2), batches)
    assert_identical(weights(released), weights(plain))
    prediction = released.predict(batches[0].inputs)
    z = {m: u.numpy() for m, u in prediction.unimodal.items()}
    assert_near(dict(plain.predict(batches[0].inputs).unimodal), dict(prediction.unimodal), 0)
    e = []
    for u in z.values():
        q = formulas.softmax(u, axis=0)  # over the batch
        e.append(-(q * np.log(q)).sum())
    w = np.exp(np.max(e) - np.array(e))
    w /= w.sum()
    fused = sum(v * formulas.softmax(u, axis=1) for v, u in zip(w, z.values(), strict=True))
    assert np.abs(torch.softmax(prediction.output, 1).numpy() - fused).max() < 1e-6
    assert (torch.softmax(released(batches[0].inputs), 1) - torch.softmax(prediction.output, 1)).abs().max() < 1e-12
    for v, m in zip(w, z, strict=True):
        assert prediction.weights[m].tolist() == pytest.approx([v] * 8, abs=1e-6)
    # and so a prediction depends on its batch, which the paper's does not
    first = Batch({m: x[:3] for m, x in batches[0].inputs.items()})
    alone = released.predict(first.inputs)
    assert (alone.output - prediction.output[:3]).abs().max() > 1e-4


def test_the_papers_weights_per_sample() -> None:
    method, batches = build(INPUTS)
    prediction = method.predict(batches[0].inputs)
    p = np.stack([formulas.softmax(u.numpy(), 1) for u in prediction.unimodal.values()])
    e = -(p * np.log(p)).sum(2)
    w = np.exp(e.max(0) - e)
    w /= w.sum(0)
    assert np.abs(torch.softmax(prediction.output, 1).numpy() - (w[:, :, None] * p).sum(0)).max() < 1e-12


def test_alpha_schedule() -> None:
    method, batches = build(INPUTS, alpha=0.2)
    method.on_train_epoch_start(EpochContext(0, 2, 4))
    engine, seen = engine_for(method), []
    for _ in range(5):
        seen.append(method.current_alpha())
        method.training_step(batches[0], engine)
    assert seen == pytest.approx([0.2 ** (1 + b / 4) for b in (0, 1, 2, 3, 4)])
    method.on_train_epoch_start(EpochContext(1, 2, 4))
    assert method.current_alpha() == pytest.approx(0.2)
    constant, _ = build(INPUTS, alpha=0.3, alpha_schedule="constant")
    constant.training_step(batches[0], engine_for(constant))
    assert constant.current_alpha() == 0.3


def test_without_an_announced_epoch_there_is_one_warning() -> None:
    method, batches = build(INPUTS)
    engine = engine_for(method)
    with pytest.warns(ScheduleWarning, match="alpha_schedule='constant'"):
        method.training_step(batches[0], engine)
    method.training_step(batches[0], engine)  # a second warning would be an error


@pytest.mark.parametrize("reset", ["never", "epoch", "cycle"])
def test_projector_reset(reset: Any) -> None:
    method, batches = build(INPUTS, projector_reset=reset)
    eye = torch.eye(6, dtype=torch.float64)
    matrix = projectors(method)[0].matrix
    seen: list[bool] = []
    train(method, engine_for(method), range(2), batches, after_step=lambda: seen.append(torch.equal(matrix, eye)))
    assert seen == [reset == "cycle"] * 6
    method.on_train_epoch_start(EpochContext(2, 3, 3))
    assert torch.equal(matrix, eye) == (reset != "never")


def test_plasticity_falls_and_is_reported() -> None:
    method, batches = build(INPUTS)
    method.on_train_epoch_start(EpochContext(0, 1, 12))
    engine = engine_for(method)
    remaining = [float(method.training_step(batches[i % 3], engine).extras["plasticity/0"]) for i in range(12)]
    assert remaining == sorted(remaining, reverse=True)
    assert 0 < remaining[-1] < remaining[0] < 1
    report = method.training_step(batches[0], engine)
    assert float(report.extras["plasticity/0"]) == pytest.approx(float(projectors(method)[0].matrix.trace()) / 6)
    assert "alpha_over_energy/0" in report.extras


def test_micro_batches_make_the_same_projector() -> None:
    whole, batches = build(INPUTS)
    micro, _ = build(INPUTS)
    train(whole, engine_for(whole), range(2), batches)
    train(micro, engine_for(micro), range(2), [split(b, 3) for b in batches])
    assert_near(weights(whole), weights(micro))


def test_absent_rows_enter_neither_the_loss_nor_the_feature_mean() -> None:
    method, batches = build(INPUTS)
    mask = torch.tensor([True, False] * 4)
    x = dict(batches[0].inputs)
    x["the keys"] = torch.where(mask[:, None], x["the keys"], math.nan)
    method.on_train_epoch_start(EpochContext(0, 1, 1))
    engine = engine_for(method)
    phases = {p.modality: p for p in method.phases([batches[0]])}
    sums = engine.descend(phases["the keys"], [Batch(x, batches[0].target, {"the keys": mask})]).sums
    h = method.model.encoder("the keys")(batches[0].inputs["the keys"][mask]).detach()  # type: ignore[operator]
    assert (sums["statistic/0"] - h.sum(0)).abs().max() < 1e-12
    assert float(sums["rows/0"]) == 4


def test_order_is_shuffled_by_its_own_generator() -> None:
    state = torch.get_rng_state()
    method = make_method("MLA", 5, order="shuffled", seed=4)
    other = make_method("MLA", 5, order="shuffled", seed=4)
    torch.set_rng_state(state)
    orders = []
    for one in (method, other):
        one.on_train_epoch_start(EpochContext(0, 1, 6))
        engine = sgd(one)
        orders.append([tuple(one.training_step(make_batch(5), engine).losses) for _ in range(6)])
    assert torch.equal(torch.get_rng_state(), state)
    assert orders[0] == orders[1]
    assert len(set(orders[0])) > 1
    assert all(sorted(o) == sorted(NAMES) for o in orders[0])


def test_unequal_feature_widths_are_refused() -> None:
    encoders = {"a": nn.Linear(2, 3), "b": nn.Linear(2, 4)}
    model = MultimodalModel(encoders, Concat({"a": 3, "b": 4}), nn.Linear(7, 2))
    with pytest.raises(ModelError, match=r"equal feature width. Found \{'a': 3, 'b': 4\}"):
        MLA(model, Classification(2))


def test_a_head_without_a_linear_layer() -> None:
    class Prototypes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.centres = nn.Parameter(torch.randn(CLASSES, 6))

        def forward(self, h: Tensor) -> Tensor:
            return -torch.cdist(h, self.centres)

    with pytest.raises(ModelError, match="`head`"):
        MLA(make_model(2), Classification(CLASSES), head=Prototypes())
    method = MLA(make_model(2), Classification(CLASSES), head=Prototypes(), projector=None).double()
    method.training_step(make_batch(2), sgd(method))


def test_a_frozen_encoder_warns_and_trains_the_head() -> None:
    model = make_model(2)
    model.encoder(NAMES[1]).requires_grad_(False)
    with pytest.warns(EquimodalWarning, match="'the keys' is frozen"):
        method = MLA(model, Classification(CLASSES)).double().train()
    method.on_train_epoch_start(EpochContext(0, 1, 1))
    before = weights(method)
    method.training_step(make_batch(2), sgd(method))
    after = weights(method)
    assert_identical(*({n: t for n, t in w.items() if n.startswith("model.encoders.1")} for w in (before, after)))
    assert not torch.equal(before["head.1.weight"], after["head.1.weight"])


def test_one_modality_is_refused() -> None:
    with pytest.raises(ModelError, match="at least 2 modalities"):
        make_method("MLA", 1)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"projector": "none"}, "projector"),
        ({"alpha": 0.0}, "alpha"),
        ({"alpha": 1.0}, "alpha"),
        ({"alpha": math.nan}, "alpha"),
        ({"alpha_schedule": "step"}, "alpha_schedule"),
        ({"alpha_scale": "log"}, "alpha_scale"),
        ({"projector_reset": "batch"}, "projector_reset"),
        ({"temperature": -0.1}, "temperature"),
        ({"order": "random"}, "order"),
        ({"variant": "publ"}, "variant"),
        ({"inference": "vote"}, "inference"),
        ({"sharpness": 0.05}, "sharpness"),
    ],
)
def test_bad_hyperparameters(options: dict[str, Any], name: str) -> None:
    with pytest.raises(MethodError, match=f"`{name}`"):
        make_method("MLA", 2, **options)
    with pytest.raises(UnsupportedError, match="`inference`"):
        make_method("MLA", 2, inference="fused")
