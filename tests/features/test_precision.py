"""bfloat16, and float16 under a loss scale: unscaled gradients, overflows that leave no trace, one update per step."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from equimodal import Batch, PlainEngine
from equimodal.engine._loss_scale import LossScale
from equimodal.errors import MethodError, NonFiniteError, UnsupportedError
from equimodal.methods import EpochContext, Method
from equimodal.projection._layers import FlatProjector, InputCovariance, OrthogonalProjector
from tests.features.helpers import Setting, data, departure, every_setting, plain_method, single, tensors
from tests.helpers import assert_identical, assert_near, is_wild, sgd, train, weights
from tests.trees import assert_same_tree


def float32(setting: Setting, norm: bool = False) -> Method:
    return plain_method(setting, norm=norm).float()


def scaler(start: float = 2.0**12, every: int = 1000) -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", init_scale=start, growth_interval=every)


def half(method: Method, dtype: torch.dtype, **options: Any) -> PlainEngine:
    rate = 1e-3 if is_wild((type(method).__name__, {"variant": getattr(method, "variant", None)})) else 0.02
    return PlainEngine(torch.optim.SGD(method.parameters(), lr=rate, momentum=0.9), autocast=dtype, clip_norm=1.0,
                       **options)  # fmt: skip


def check_trained(method: Method, engine: PlainEngine, setting: Setting) -> None:
    batch = single(data(24))
    first = float(method.task.loss(method.predict(batch.inputs).output, batch.target))  # type: ignore[arg-type]
    train(method, engine, range(8), [batch] * 3, total=8)
    last = float(method.task.loss(method.predict(batch.inputs).output, batch.target))  # type: ignore[arg-type]
    assert all(t.dtype == torch.float32 for t in method.parameters())
    assert all(torch.isfinite(t).all() for t in weights(method).values())
    for module in method.modules():
        if isinstance(module, (OrthogonalProjector, FlatProjector, InputCovariance)):
            assert all(b.dtype != torch.bfloat16 and b.dtype != torch.float16 for b in module.buffers())
    assert is_wild(setting) or last < first


@every_setting
def test_bfloat16(setting: Setting) -> None:
    method = float32(setting)
    engine = half(method, torch.bfloat16)
    if departure(setting, "bfloat16") == "refused":
        with pytest.raises(UnsupportedError):
            train(method, engine, range(1), [single(data())], total=2)
        return
    check_trained(method, engine, setting)


@every_setting
def test_float16(setting: Setting) -> None:
    method = float32(setting)
    engine = half(method, torch.float16, scaler=scaler())
    if departure(setting, "float16") == "refused":
        with pytest.raises(UnsupportedError):
            train(method, engine, range(1), [single(data())], total=2)
        return
    check_trained(method, engine, setting)


@every_setting
def test_a_loss_scale_alone_changes_nothing(setting: Setting) -> None:
    """A power of two multiplies and divides without rounding, so methods see the very same gradients."""
    if departure(setting, "float16") == "refused":
        pytest.skip("refuses float16")
    plain, scaled = float32(setting), float32(setting)
    train(plain, sgd(plain, lr=1e-3, clip_norm=0.5), range(2), [single(data(seed=s)) for s in range(3)], total=2)
    engine = sgd(scaled, lr=1e-3, clip_norm=0.5, scaler=scaler(2.0**10))
    train(scaled, engine, range(2), [single(data(seed=s)) for s in range(3)], total=2)
    assert_identical(weights(plain), weights(scaled))


class Overflowing(PlainEngine):
    """Multiplies the loss of chosen backward passes by infinity, as a scale that is too large would."""

    bad: set[int] | None = None
    calls = 0

    def _backward(self, loss: Tensor, **options: Any) -> None:
        self.calls += 1
        super()._backward(loss * math.inf if self.bad is None or self.calls in self.bad else loss, **options)


@every_setting
def test_an_overflow_leaves_no_trace(setting: Setting) -> None:
    """Weights, optimizer, statistics of the method and of batch normalisation; the scale is halved once per step."""
    if departure(setting, "float16") is not None:
        pytest.skip("says that it departs")
    method = float32(setting, norm=True)
    optimizer = torch.optim.SGD(method.parameters(), lr=1e-3, momentum=0.9)
    scale = scaler(2.0**8)
    engine = Overflowing(optimizer, scaler=scale, clip_norm=1.0)
    engine.bad = set()
    train(method, engine, range(1), [single(data(seed=s)) for s in range(2)], total=4)
    context = EpochContext(1, 4, 2, [single(data())], engine)
    method.train()
    method.on_train_epoch_start(context)
    before, states = (
        {n: t for n, t in tensors(method).items() if "generator" not in n},
        copy.deepcopy(optimizer.state_dict()),
    )
    start = float(scale.get_scale())
    engine.bad = None
    report = method.training_step(single(data(seed=5)), engine)
    assert report.phases == []
    assert float(scale.get_scale()) == start / 2
    assert_identical(before, {n: t for n, t in tensors(method).items() if n in before})
    assert_same_tree(optimizer.state_dict(), states)
    assert all(p.grad is None for p in method.parameters())
    engine.bad = set()
    assert method.training_step(single(data(seed=5)), engine).phases  # and training goes on
    assert all(torch.isfinite(t).all() for t in weights(method).values())


def test_a_phase_that_overflows_does_not_stop_the_others() -> None:
    method = float32(("Ensemble", {}))
    engine = Overflowing(torch.optim.SGD(method.parameters(), lr=0.1), scaler=scaler(8.0))
    engine.bad = {2}
    before = weights(method)
    report = method.training_step(single(data()), engine)
    assert report.phases == ["a", "keys"]
    after = weights(method)
    changed = {
        n.split(".")[2] for n in after if n.startswith("model.encoders.") and not torch.equal(after[n], before[n])
    }
    assert changed == {"0", "2"}


def test_an_overflow_in_the_second_pass_restores_the_weights() -> None:
    from equimodal import Sharpness

    for bad in (1, 2):
        method = float32(("Joint", {"sharpness": Sharpness("every_k", every=2)}), norm=True)
        engine = Overflowing(torch.optim.SGD(method.parameters(), lr=0.1), scaler=scaler(8.0))
        engine.bad = {bad}
        before = tensors(method)
        assert method.training_step(single(data()), engine).phases == []
        assert_identical(before, tensors(method))
        assert method.sharpness is not None
        assert method.sharpness.due("joint")


def test_one_update_of_the_scale_per_step() -> None:
    scale = scaler(4.0, every=3)
    method = float32(("MLA", {}))
    engine = sgd(method, scaler=scale)
    method.on_train_epoch_start(EpochContext(0, 1, 9))
    seen = []
    for seed in range(6):
        method.training_step(single(data(seed=seed)), engine)
        seen.append(float(scale.get_scale()))
    assert seen == [4, 4, 8, 8, 8, 16]


def test_a_scale_that_shrinks_to_nothing_is_an_error() -> None:
    engine = Overflowing(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1), scaler=scaler(1e-7))
    engine._scale = LossScale(scaler(1e-7))
    with pytest.raises(NonFiniteError, match="every step overflows"):
        engine._scale.scaled(torch.ones(()))
        engine.raise_if_not_finite()


def test_float16_needs_a_scaler_and_float32_weights() -> None:
    method = float32(("Joint", {}))
    with pytest.raises(MethodError, match="scaler"):
        sgd(method, autocast=torch.float16)
    with pytest.raises(UnsupportedError, match="float16"):
        engine = sgd(method.half(), scaler=scaler())
        method.training_step(single(data()), engine)


def test_accumulated_micro_batches_share_one_scale() -> None:
    from tests.helpers import split

    a, b = float32(("Joint", {})).double(), float32(("Joint", {})).double()
    batch: Batch = data()
    sgd_a, sgd_b = sgd(a, scaler=scaler(2.0**6)), sgd(b)
    a.training_step(split(batch, 3), sgd_a)
    b.training_step(batch, sgd_b)
    assert_near(weights(a), weights(b))
