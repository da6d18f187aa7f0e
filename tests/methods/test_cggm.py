"""CGGM against an independent writing-out of the paper and of the released rule, and its options."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from equimodal import Batch, Classification, MultimodalModel, PlainEngine
from equimodal.engine import Descent, Engine, Phase, UpdateScale
from equimodal.errors import EquimodalWarning, MethodError, ModelError, OptimizerWarning
from equimodal.fusion import Concat, Sum
from equimodal.methods import CGGM, StepReport
from tests.helpers import (
    CLASSES,
    NAMES,
    adamw,
    assert_identical,
    assert_near,
    make_batch,
    make_method,
    make_model,
    mlp,
    moved,
    plain_batch,
    plain_model,
    sgd,
    split,
    take,
    weights,
)

INPUTS = {"audio.raw": 5, "the keys": 3, "depth": 4}
LR, MOMENTUM, CLIP, RHO, LAMBDA, FLOOR = 0.1, 0.9, 0.8, 1.3, 0.2, 1e-3


def build(count: int, deep: bool = True, **options: Any) -> CGGM:
    torch.manual_seed(3)
    inputs = dict(list(INPUTS.items())[:count])
    head = nn.Sequential(nn.Linear(6 * count, 9), nn.ReLU(), nn.Linear(9, 4)) if deep else None
    return CGGM(plain_model(inputs, 6, 4, head), Classification(4), **options).double().train()


def batches(count: int, number: int = 8) -> list[Batch]:
    inputs = dict(list(INPUTS.items())[:count])
    return [plain_batch(inputs, 4, 16, seed) for seed in range(number)]


def engine_for(method: nn.Module) -> PlainEngine:
    return PlainEngine(torch.optim.SGD(method.parameters(), lr=LR, momentum=MOMENTUM), clip_norm=CLIP)


def safe_balance(delta: np.ndarray) -> np.ndarray:
    count = len(delta)
    d = np.maximum(delta, 0)
    if d.sum() < 1e-8:
        return np.full(count, (count - 1) / count)
    b = (d.sum() + count * FLOOR - d - FLOOR) / (d.sum() + count * FLOOR)
    b = np.clip(b, 0, 1)
    return np.asarray(b * (count - 1) / b.sum())


def raw_balance(delta: np.ndarray) -> np.ndarray:
    total = delta.sum() + 1e-8
    return np.asarray((total - delta) / total)


def released_turn(w: Tensor, others: list[Tensor], balance: np.ndarray) -> Tensor:
    """Gradient of -(lambda / M) sum of B cos(w, v): d cos / dw = v / |w||v| - cos w / |w|^2."""
    turn = torch.zeros_like(w)
    for b, v in zip(balance, others, strict=True):
        cosine = (w * v).sum() / (w.norm() * v.norm())
        turn -= LAMBDA / len(others) * b * (v / (w.norm() * v.norm()) - cosine * w / w.norm() ** 2)
    return turn


def reference(
    method: CGGM,
    data: list[Batch],
    *,
    direction: str | None,
    released: bool = False,
    window: int = 1,
    momentum: float = 0.0,
) -> tuple[CGGM, list[np.ndarray]]:
    """The paper with plain torch, G from double backward; the copy only serves as a container of weights."""
    copied = copy.deepcopy(method)
    model, names = copied.model, copied.modalities
    count = len(names)
    encoders = {m: model.encoder(m) for m in names}  # type: ignore[operator]
    probes = {m: copied.classifiers[m] for m in names}
    layers = list(model.head) if isinstance(model.head, nn.Sequential) else [model.head]
    output = layers[-1]
    assert isinstance(output, nn.Linear)
    buffers: dict[int, Tensor] = {}
    balance = np.full(count, (count - 1) / count)
    average: np.ndarray | None = np.zeros(count) if released else None
    turn = torch.zeros_like(output.weight)
    pooled, history = [], []
    for batch in data:
        y = batch.target
        assert y is not None
        h = {m: encoders[m](batch.inputs[m]) for m in names}
        z = torch.cat(list(h.values()), 1)
        for layer in layers:
            z = layer(z)
        task = nn.functional.cross_entropy(z, y)
        logits = {m: probes[m](h[m].detach()) for m in names}
        own = {m: nn.functional.cross_entropy(u, y) for m, u in logits.items()}
        total = task
        if direction is not None:
            (g,) = torch.autograd.grad(task, output.weight, create_graph=True)
            terms = []
            for i, m in enumerate(names):
                last = [x for x in probes[m].modules() if isinstance(x, nn.Linear)][-1]
                (gm,) = torch.autograd.grad(own[m], last.weight, retain_graph=True)
                gi = g if direction == "penultimate" else g[:, 6 * i : 6 * (i + 1)]
                cosine = (gi * gm).sum() / (gi.norm() * gm.norm())
                terms.append(abs(balance[i]) - balance[i] * cosine)
            total = total + LAMBDA * torch.stack(terms).sum() / count
        trained = [p for m in names for p in encoders[m].parameters()] + list(model.head.parameters())
        gradients = list(torch.autograd.grad(total, trained))
        if released:  # that of the batch before
            gradients[-2] = gradients[-2] + turn
        heads = [p for m in names for p in probes[m].parameters()]
        head_gradients = list(torch.autograd.grad(torch.stack(list(own.values())).sum(), heads))
        # the balance of this batch
        pooled.append([float((u.argmax(1) == y).double().mean()) for u in logits.values()])
        if len(pooled) == window:
            score = np.mean(pooled, axis=0)
            pooled = []
            new = score if average is None else momentum * average + (1 - momentum) * score
            delta = np.zeros(count) if average is None else new - average
            average = new
            balance = raw_balance(delta) if released else safe_balance(delta)
        if released:
            others = [[x for x in probes[m].modules() if isinstance(x, nn.Linear)][-1].weight.detach() for m in names]
            turn = released_turn(output.weight.detach(), others, balance)
        history.append(balance)
        # magnitude, then clipping over the model, then momentum
        at = 0
        for i, m in enumerate(names):
            for _ in encoders[m].parameters():
                gradients[at] = gradients[at] * (RHO * balance[i])
                at += 1
        norm = torch.cat([g.flatten() for g in gradients]).norm()
        gradients = [g * min(1.0, CLIP / (float(norm) + 1e-6)) for g in gradients]
        with torch.no_grad():
            for p, g in zip(trained + heads, gradients + head_gradients, strict=True):
                buffers[id(p)] = MOMENTUM * buffers[id(p)] + g if id(p) in buffers else g.clone()
                p -= LR * buffers[id(p)]
    return copied, history


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize(
    ("direction", "deep", "window", "momentum"),
    [
        ("penultimate", True, 1, 0.0),
        ("penultimate", False, 1, 0.0),
        ("block", False, 1, 0.0),
        (None, True, 1, 0.0),
        ("penultimate", True, 3, 0.5),
    ],
)
def test_against_the_paper(count: int, direction: Any, deep: bool, window: int, momentum: float) -> None:
    method = build(
        count, deep, direction=direction, window=window, momentum=momentum, apply_to="gradient", rho=RHO,
        direction_weight=LAMBDA,
    )  # fmt: skip
    data = batches(count)
    expected, history = reference(method, data, direction=direction, window=window, momentum=momentum)
    before, engine = weights(method), engine_for(method)
    for batch, balance in zip(data, history, strict=True):
        report = method.training_step(batch, engine)
        ours = [float(b) for b in report.coefficients["balance"].values()]
        assert ours == pytest.approx(balance.tolist(), abs=1e-5)
    assert len({tuple(b.round(6)) for b in history}) > 1  # the balance did move
    assert_near(dict(method.named_parameters()), dict(expected.named_parameters()), 1e-6)
    assert max(float(t.abs().max()) for t in moved(before, method).values()) > 1e-2


@pytest.mark.parametrize("count", [2, 3])
def test_against_the_released_rule(count: int) -> None:
    method = build(count, variant="released", rho=RHO)
    inputs = dict(list(INPUTS.items())[:count])
    # sizes without a common factor, so that the sum of improvements is not exactly 0, where B would be +-1e8
    data = [plain_batch(inputs, 4, size, seed) for seed, size in enumerate((16, 13, 11, 7, 9))]
    expected, history = reference(method, data, direction=None, released=True)
    assert max(abs(b).max() for b in history) < 1e3
    assert min(b.min() for b in history) < 0  # the raw rule turns gradients round
    engine = engine_for(method)
    for batch, balance in zip(data, history, strict=True):
        report = method.training_step(batch, engine)
        ours = [float(b) for b in report.coefficients["balance"].values()]
        assert ours == pytest.approx(balance.tolist(), rel=1e-4, abs=1e-5)
    assert_near(dict(method.named_parameters()), dict(expected.named_parameters()), 1e-6)


def test_released_ignores_window_momentum_and_the_way_of_the_direction() -> None:
    a = build(2, variant="released")
    b = build(2, variant="released", window=7, momentum=0.9, direction=None, apply_to="update")
    engines = [engine_for(a), engine_for(b)]
    for batch in batches(2, 4):
        a.training_step(batch, engines[0])
        b.training_step(batch, engines[1])
    assert_identical(weights(a.model), weights(b.model))
    assert "direction" not in a.training_step(batch, engines[0]).losses


def test_the_released_direction_term_reaches_the_last_layer_and_no_encoder() -> None:
    """One batch late: the first two steps tell whether it is there, and where."""
    first, second = batches(2, 2)
    without, with_term = (build(2, variant="released", direction_weight=w, magnitude=False) for w in (0.0, 0.2))
    for method in (without, with_term):
        engine = PlainEngine(torch.optim.SGD(method.parameters(), lr=LR))
        method.training_step(first, engine)
    assert_identical(dict(without.named_parameters()), dict(with_term.named_parameters()))
    for method in (without, with_term):
        method.training_step(second, PlainEngine(torch.optim.SGD(method.parameters(), lr=LR)))
    changed = {n for n, p in with_term.named_parameters() if not torch.equal(p, dict(without.named_parameters())[n])}
    assert changed == {"model.head.2.weight"}


def test_encoders_get_no_gradient_from_the_classifiers_nor_they_from_the_task() -> None:
    method = build(3, direction=None)
    engine, batch = engine_for(method), batches(3, 1)[0]
    (phase,) = method.phases([batch])
    engine.descend(phase, [batch])
    target = batch.target
    assert target is not None
    task = nn.functional.cross_entropy(method.model(batch.inputs), target)
    for p, g in zip(method.model.parameters(), torch.autograd.grad(task, list(method.model.parameters())), strict=True):
        assert p.grad is not None
        assert (p.grad - g).abs().max() < 1e-14
    for m in method.modalities:
        h = method.multimodal.encode(batch.inputs)[m].detach()
        own = nn.functional.cross_entropy(method.classifiers[m](h), target)
        parameters = list(method.classifiers[m].parameters())
        for p, g in zip(parameters, torch.autograd.grad(own, parameters), strict=True):
            assert p.grad is not None
            assert (p.grad - g).abs().max() < 1e-14


def test_the_direction_term_moves_the_encoders_but_not_the_classifiers() -> None:
    gradients = []
    for weight in (0.0, 0.2):
        method = build(2, direction_weight=weight)
        batch = batches(2, 1)[0]
        (phase,) = method.phases([batch])
        engine_for(method).descend(phase, [batch])
        gradients.append({n: p.grad.clone() for n, p in method.named_parameters() if p.grad is not None})
    assert any((gradients[0][n] - gradients[1][n]).abs().max() > 1e-6 for n in gradients[0] if "encoders" in n)
    for n in gradients[0]:
        if n.startswith("classifiers"):
            assert torch.equal(gradients[0][n], gradients[1][n])


class Fixed(CGGM):
    """A balance that is given, not measured."""

    given: tuple[float, ...] = ()

    def modify_gradients(
        self, phase: Phase, descent: Descent, engine: Engine, report: StepReport
    ) -> Sequence[UpdateScale]:
        self.progress.update = lambda *_: self.progress.balance.copy_(torch.tensor(self.given))  # type: ignore[method-assign,assignment]
        return super().modify_gradients(phase, descent, engine, report)


def test_the_scale_acts_on_its_encoder_only() -> None:
    results: list[dict[str, Tensor]] = []
    for given in ((0.5, 0.5), (0.5, 0.25)):
        torch.manual_seed(3)
        inputs = dict(list(INPUTS.items())[:2])
        method = Fixed(plain_model(inputs, 6, 4), Classification(4), direction=None, rho=2.0).double().train()
        method.given = given
        before = weights(method)
        method.training_step(batches(2, 1)[0], sgd(method, lr=0.1, momentum=0.0))
        results.append(moved(before, method))
    for n in results[0]:
        ratio = 0.5 if n.startswith("model.encoders.1.") else 1.0
        assert (results[1][n] - ratio * results[0][n]).abs().max() < 1e-9, n


def test_the_mean_scale_is_rho_times_m_minus_one_over_m() -> None:
    method = build(3, window=1, momentum=0.0, rho=1.7)
    engine = engine_for(method)
    for batch in batches(3):
        report = method.training_step(batch, engine)
        scales = [float(v) for v in report.coefficients["scale"].values()]
        assert np.mean(scales) == pytest.approx(1.7 * 2 / 3, rel=1e-5)
        balance = [float(v) for v in report.coefficients["balance"].values()]
        assert sum(balance) == pytest.approx(2.0, abs=1e-5)
        assert all(0 <= b <= 1 for b in balance)


def test_direction_keeps_the_previous_balance() -> None:
    """B of this batch is not known before the backward pass."""
    method = build(2, window=1, momentum=0.0)
    engine = engine_for(method)
    data = batches(2)
    for batch in data:
        b = method.progress.balance.clone()
        losses = method.training_step(batch, engine).losses
        assert 0 <= float(losses["direction"]) <= 2 * float(b.abs().mean()) + 1e-6
    first = build(2, window=1, momentum=0.0)
    report = first.training_step(data[0], engine_for(first))
    total = report.losses["task"] + sum(v for n, v in report.losses.items() if n.startswith("unimodal/"))
    assert float(report.losses["joint"]) == pytest.approx(float(total + 0.2 * report.losses["direction"]), rel=1e-10)
    assert float(report.loss) == pytest.approx(float(report.losses["joint"]), rel=1e-6)


def test_scores_are_pooled_over_micro_batches() -> None:
    whole, micro = (build(2, window=1, momentum=0.0) for _ in range(2))
    engines = [engine_for(whole), engine_for(micro)]
    for batch in batches(2):
        a = whole.training_step(batch, engines[0])
        b = micro.training_step(split(batch, 3), engines[1])
        for m in whole.modalities:
            assert float(a.scores[m]) == pytest.approx(float(b.scores[m]), abs=1e-7)
    assert_near(weights(whole), weights(micro))


def directions_of(scope: str, parts: list[Batch]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gradients of the model from the direction term alone, and the losses of the step."""
    found = []
    for weight in (0.0, 1.0):
        method = build(2, direction_weight=weight, direction_scope=scope, magnitude=False)
        before = weights(method)
        report = method.training_step(parts, sgd(method, lr=1.0, momentum=0.0))
        found.append(({n: before[n] - p.detach() for n, p in method.model.named_parameters(prefix="model")}, report))
    (plain, _), (turned, report) = found
    return {n: turned[n] - plain[n] for n in plain}, report.losses


def test_the_direction_of_parts_is_that_of_the_whole_batch_or_their_mean() -> None:
    """By scope: the cosine of sums, or the mean of cosines weighted by samples."""
    batch = batches(2)[0]
    parts = [take(batch, torch.arange(0, 4)), take(batch, torch.arange(4, 16))]
    whole, losses = directions_of("batch", [batch])
    assert max(float(g.abs().max()) for g in whole.values()) > 1e-4
    for scope in ("batch", "part"):  # one part: nothing to choose
        alone, _ = directions_of(scope, [batch])
        assert_near(alone, whole, 1e-12)
    in_parts, losses_in_parts = directions_of("batch", parts)
    assert_near(in_parts, whole, 1e-12)
    assert float(losses_in_parts["direction"]) == pytest.approx(float(losses["direction"]), abs=1e-12)
    mean, losses_of_parts = directions_of("part", parts)
    (first, a), (second, b) = (directions_of("part", [p]) for p in parts)
    assert_near(mean, {n: (4 * first[n] + 12 * second[n]) / 16 for n in first}, 1e-12)
    assert float(losses_of_parts["direction"]) == pytest.approx(float(4 * a["direction"] + 12 * b["direction"]) / 16)
    assert max(float((mean[n] - whole[n]).abs().max()) for n in whole) > 1e-4


def test_the_pass_that_gathers_leaves_no_trace() -> None:
    """Same random numbers afterwards, statistics of batches counted once, and as many forward passes as stated."""
    ends = []
    for scope in ("batch", "part"):
        method = build(2, direction_scope=scope, direction_weight=1e-300)
        norm = nn.BatchNorm1d(6).double()
        calls: list[bool] = []
        encoders = cast(nn.ModuleList, method.model.encoders)
        encoders[0] = nn.Sequential(encoders[0], norm, nn.Dropout(0.5))
        norm.register_forward_hook(lambda *_, calls=calls: calls.append(torch.is_grad_enabled()))
        torch.manual_seed(3)
        method.training_step(split(batches(2)[0], 2), engine_for(method))
        ends.append((weights(method), torch.get_rng_state(), calls))
    assert_near(ends[0][0], ends[1][0], 0.0)
    assert torch.equal(ends[0][1], ends[1][1])
    assert (ends[0][2], ends[1][2]) == ([False, False, True, True], [True, True])


def test_a_modality_first_seen_late_has_not_improved() -> None:
    """Its first score is a beginning, not a leap from zero."""
    method = build(2, window=1, momentum=0.0, direction=None)
    engine = engine_for(method)
    data = batches(2)
    absent = {"the keys": torch.zeros(16, dtype=torch.bool)}
    method.training_step(Batch(data[0].inputs, data[0].target, absent), engine)
    method.training_step(data[0], engine)
    gained = method.progress.balance.tolist()
    assert gained[1] >= 0.5  # the late one is not punished with a small B
    assert torch.isfinite(method.progress.score_average).all()


def test_a_batch_without_a_modality_keeps_its_score() -> None:
    method = build(2, window=1, momentum=0.0)
    engine = engine_for(method)
    data = batches(2)
    method.training_step(data[0], engine)
    kept = method.progress.score_average.clone()
    absent = {"the keys": torch.zeros(16, dtype=torch.bool)}
    method.training_step(Batch(data[1].inputs, data[1].target, absent), engine)
    assert float(method.progress.score_average[1]) == float(kept[1])
    method.training_step(Batch({"audio.raw": data[2].inputs["audio.raw"]}, data[2].target), engine)
    assert float(method.progress.score_average[1]) == float(kept[1])


def test_frozen_encoder() -> None:
    model = make_model(2)
    model.encoder(NAMES[0]).requires_grad_(False)
    with pytest.warns(EquimodalWarning, match="cannot modulate"):
        method = CGGM(model, Classification(CLASSES)).double().train()
    before = weights(method)
    method.training_step(make_batch(2), adamw(method))
    change = moved(before, method)
    assert all(float(t.abs().max()) == 0 for n, t in change.items() if n.startswith("model.encoders.0."))
    assert float(change["model.head.weight"].abs().max()) > 0


def test_the_warning_comes_once() -> None:
    method = build(2, apply_to="gradient")
    engine = adamw(method)
    first, *others = batches(2, 3)
    with pytest.warns(OptimizerWarning):
        method.training_step(first, engine)
    for batch in others:  # a second warning would be an error
        method.training_step(batch, engine)


def test_parameter_groups() -> None:
    method = build(2)
    groups = method.parameter_groups(lr=0.2)
    assert [g["lr"] for g in groups] == [0.2, 0.1]
    ids = [id(p) for g in groups for p in g["params"]]
    assert sorted(ids) == sorted(id(p) for p in method.parameters())
    assert all("lr" not in g for g in method.parameter_groups())


def test_any_fusion_with_an_affine_end() -> None:
    encoders = {m: mlp(n, 6) for m, n in INPUTS.items()}
    head = nn.Sequential(nn.LayerNorm(6), nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 4)))
    model = MultimodalModel(encoders, Sum(dict.fromkeys(encoders, 6)), head).double()
    method = CGGM(model, Classification(4)).double()
    method.training_step(batches(3, 1)[0], engine_for(method))


@pytest.mark.parametrize("head", [nn.Sequential(nn.Linear(12, 4), nn.Softmax(1)), nn.Identity(), nn.Sequential()])
def test_a_head_that_does_not_end_affine_is_refused(head: nn.Module) -> None:
    encoders = {m: mlp(5, 6) for m in NAMES[:2]}
    with pytest.raises(ModelError, match="`head`"):
        CGGM(MultimodalModel(encoders, Concat(dict.fromkeys(encoders, 6)), head), Classification(4))


def test_block_needs_a_linear_head_on_concat() -> None:
    encoders = {m: mlp(5, 6) for m in NAMES[:2]}
    summed = MultimodalModel(encoders, Sum(dict.fromkeys(encoders, 6)), nn.Linear(6, 4))
    with pytest.raises(ModelError, match="`direction`"):
        CGGM(summed, Classification(4), direction="block")
    with pytest.raises(ModelError, match="`direction`"):
        build(2, True, direction="block")


def test_own_classifiers() -> None:
    def heads(width: int) -> dict[str, nn.Module]:
        return {m: nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 4)) for m in list(INPUTS)[:2]}

    method = build(2, classifiers=heads(9))
    method.training_step(batches(2, 1)[0], engine_for(method))
    with pytest.raises(ModelError, match=r"`classifiers\['audio.raw'\]`.*9 inputs"):
        build(2, classifiers=heads(8))
    build(2, classifiers=heads(8), direction=None)
    with pytest.raises(ModelError, match="`heads`"):
        build(2, classifiers={"audio.raw": nn.Linear(6, 4)})


def test_every_option_changes_something() -> None:
    changes: list[Callable[[], CGGM]] = [
        lambda: build(2, rho=1.1, window=1),
        lambda: build(2, direction_weight=0.5, window=1),
        lambda: build(2, magnitude=False, window=1),
        lambda: build(2, window=2),
        lambda: build(2, momentum=0.9, window=1),
        lambda: build(2, floor=0.1, window=1),
        lambda: build(2, maximum=0.55, floor=0.01, window=1),
        lambda: build(2, threshold=0.5, window=1),
        lambda: build(2, apply_to="update", window=1),
    ]
    ends = []
    for make in [lambda: build(2, window=1), *changes]:
        method = make()
        engine = engine_for(method)
        for batch in batches(2):
            method.training_step(batch, engine)
        ends.append(weights(method.model))
    for number, end in enumerate(ends[1:]):
        assert any(not torch.equal(end[n], ends[0][n]) for n in end), number


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"rho": 0.0}, "rho"),
        ({"rho": math.nan}, "rho"),
        ({"direction_weight": -1.0}, "direction_weight"),
        ({"direction": "blocks"}, "direction"),
        ({"window": 0}, "window"),
        ({"momentum": 1.0}, "momentum"),
        ({"momentum": -0.1}, "momentum"),
        ({"floor": 0.0}, "floor"),
        ({"maximum": 0.0}, "maximum"),
        ({"threshold": -1.0}, "threshold"),
        ({"apply_to": "updates"}, "apply_to"),
        ({"classifier_lr_ratio": 0.0}, "classifier_lr_ratio"),
        ({"variant": "publ"}, "variant"),
        ({"inference": "vote"}, "inference"),
        ({"sharpness": 0.05}, "sharpness"),
    ],
)
def test_bad_hyperparameters(options: dict[str, Any], name: str) -> None:
    with pytest.raises(MethodError, match=f"`{name}`"):
        make_method("CGGM", 2, **options)
