"""MLB: against a loop written out, the head's columns, the window, and the regimes at the edge."""

from __future__ import annotations

import copy
import math
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from equimodal import Batch, Classification, MultimodalModel, PlainEngine
from equimodal.errors import MethodError
from equimodal.fusion import Concat
from equimodal.methods import EpochContext, Method, get
from tests.helpers import assert_near, weights
from tests.methods.toys import CLASSES, RATE, WIDTH, features_of, mask_of, small_batch, small_method, small_model


def step_written_out(
    method: Any, batch: Batch, alpha: float, beta: float, *, modulated: bool = True
) -> dict[str, float]:
    """One step of SGD; the factors."""
    model, heads, y = method.model, method.heads, cast(Tensor, batch.target)
    features = features_of(model, batch)
    total = nn.functional.cross_entropy(model.head(torch.cat(list(features.values()), 1)), y)
    s = {}
    for m, h in features.items():
        mask = mask_of(batch, m)
        z = heads[m](h[mask])
        total = total + nn.functional.cross_entropy(z, y[mask])
        s[m] = float(z.detach().softmax(1)[torch.arange(int(mask.sum())), y[mask]].mean())
    k = {}
    for m in s:
        rho = sum(s[j] for j in s if j != m) / (len(s) - 1) / s[m]
        slope = math.tanh(alpha * (rho - 1))
        k[m] = 1 + ((beta - 1) * slope if rho > 1 else slope) if modulated else 1.0
    scale = {id(p): k[m] for m in s for p in model.encoder(m).parameters()}
    scale |= {id(p): k[m] for m in s for p in heads[m].parameters() if p.ndim > 1}  # the weight, not the bias
    parameters = list(method.parameters())
    gradients = torch.autograd.grad(total, parameters)
    with torch.no_grad():
        for p, g in zip(parameters, gradients, strict=True):
            factor: Any = scale.get(id(p), 1.0)
            if p is getattr(model.head, "weight", None):
                factor = torch.cat([torch.full((WIDTH,), k[m], dtype=torch.float64) for m in s])
            p.sub_(RATE * factor * g)
    return k


def engine_for(method: Method) -> PlainEngine:
    return PlainEngine(torch.optim.SGD(method.parameters(), lr=RATE))


@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize("count", [2, 3])
def test_three_steps_against_the_algorithm_written_out(count: int, absent: bool) -> None:
    method = small_method("MLB", count, alpha=2.0, beta=5.0)
    reference = copy.deepcopy(method)
    engine = engine_for(method)
    for step in range(3):
        batch = small_batch(count, step, absent)
        report = method.training_step(batch, engine)
        k = step_written_out(reference, batch, 2.0, 5.0)
        assert min(k.values()) < 0.98
        assert max(k.values()) > 1.02
        assert {m: float(v) for m, v in report.coefficients["scale"].items()} == pytest.approx(k, abs=1e-12)
        assert_near(weights(method), weights(reference), 1e-12)


def test_equal_scores_are_multi_loss() -> None:
    method, multi = small_method("MLB", 2, beta=10.0), small_method("MultiLoss", 2)
    for one in (method, multi):
        for p in cast(Any, one).heads.parameters():
            p.data.zero_()
    batch = small_batch(2, 0)
    for one in (method, multi):
        one.training_step(batch, engine_for(one))
    assert_near(weights(method), weights(multi), 1e-15)


def test_only_epochs_of_the_window_are_modulated() -> None:
    for epoch, modulated in ((0, False), (1, True), (2, False)):
        method = small_method("MLB", 2, start=1, end=1)
        reference = copy.deepcopy(method)
        method.on_train_epoch_start(EpochContext(epoch))
        batch = small_batch(2, 0)
        method.training_step(batch, engine_for(method))
        step_written_out(reference, batch, 0.5, 2.0, modulated=modulated)
        assert_near(weights(method), weights(reference), 1e-12)


def test_adam_takes_the_factors_on_the_update_of_encoders_heads_and_columns() -> None:
    method, multi = small_method("MLB", 3, alpha=3.0), small_method("MultiLoss", 3)
    multi.load_state_dict(method.state_dict(), strict=False)
    before, batch = weights(method), small_batch(3, 0)
    reports = [
        one.training_step(batch, PlainEngine(torch.optim.Adam(one.parameters(), lr=0.01))) for one in (method, multi)
    ]
    k = [float(v) for v in reports[0].coefficients["scale"].values()]
    a, b = weights(method), weights(multi)
    for name, start in before.items():
        factor: Any = 1.0
        if name.startswith("model.encoders") or (name.startswith("heads.") and start.ndim > 1):
            factor = k[int(name.split(".")[2])]
        elif name == "model.head.weight":
            factor = torch.tensor(k, dtype=torch.float64).repeat_interleave(WIDTH)
        assert (a[name] - start - factor * (b[name] - start)).abs().max() < 1e-15, name


def test_columns_belong_to_modalities_whatever_the_order_of_encoders() -> None:
    base = small_model(2)
    turned = MultimodalModel({m: base.encoder(m) for m in ("video", "audio")}, base.fusion, base.head)
    method = cast(Any, get("MLB"))(turned, Classification(CLASSES), alpha=3.0).double()
    before = cast(Tensor, base.head.weight).detach().clone()
    plain = cast(Any, get("MultiLoss"))(copy.deepcopy(turned), Classification(CLASSES)).double()
    plain.load_state_dict(method.state_dict(), strict=False)
    batch = small_batch(2, 0)
    report = method.training_step(batch, engine_for(method))
    plain.training_step(batch, engine_for(plain))
    ratio = (cast(Tensor, base.head.weight) - before) / (plain.model.head.weight - before)
    k = {m: float(v) for m, v in report.coefficients["scale"].items()}
    assert ratio[:, :WIDTH].detach().flatten().tolist() == pytest.approx([k["audio"]] * ratio[:, :WIDTH].numel())
    assert ratio[:, WIDTH:].detach().flatten().tolist() == pytest.approx([k["video"]] * ratio[:, WIDTH:].numel())


def test_a_head_without_columns_takes_its_plain_gradient() -> None:
    base = small_model(2)
    head = nn.Sequential(nn.Linear(2 * WIDTH, 5), nn.Tanh(), nn.Linear(5, CLASSES))
    encoders = {m: base.encoder(m) for m in base.modalities}
    model = MultimodalModel(encoders, Concat(dict.fromkeys(encoders, WIDTH)), head).double()
    method = cast(Any, get("MLB"))(model, Classification(CLASSES)).double()
    reference = copy.deepcopy(method)
    batch = small_batch(2, 0)
    method.training_step(batch, engine_for(method))
    step_written_out(reference, batch, 0.5, 2.0)
    assert_near(weights(method), weights(reference), 1e-12)


def test_a_modality_that_nobody_has_is_not_compared() -> None:
    method = small_method("MLB", 3)
    batch = small_batch(3, 0, absent=False)
    nobody = torch.zeros(12, dtype=torch.bool)
    report = method.training_step(Batch(batch.inputs, batch.target, {"audio": nobody}), engine_for(method))
    k = {m: float(v) for m, v in report.coefficients["scale"].items()}
    assert k["audio"] == 1
    assert (k["video"] - 1) * (k["text"] - 1) < 0
    alone = Batch(batch.inputs, batch.target, {"audio": nobody, "video": nobody})
    report = method.training_step(alone, engine_for(method))
    assert [float(v) for v in report.coefficients["scale"].values()] == [1, 1, 1]


def test_options_out_of_range() -> None:
    for options in ({"alpha": 0}, {"beta": 0}, {"start": -1}, {"end": 0.5}):
        with pytest.raises(MethodError, match=f"`{next(iter(options))}`"):
            small_method("MLB", 2, **options)
