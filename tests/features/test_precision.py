"""bfloat16, and float16 under a loss scale: unscaled gradients, overflows that leave no trace, one update per step."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from equimodal import Batch
from equimodal.engine._loss_scale import LossScale
from equimodal.errors import MethodError, NonFiniteError, UnsupportedError
from equimodal.methods import EpochContext, Method
from equimodal.projection._layers import FlatProjector, InputCovariance, OrthogonalProjector
from equimodal.testing import Overflowing, scaler
from tests.features.helpers import Setting, data, every_setting, plain_method, single, tensors
from tests.helpers import assert_identical, assert_near, case_of, prove, sgd, train, weights


def float32(setting: Setting, norm: bool = False) -> Method:
    return plain_method(setting, norm=norm).float()


@every_setting
def test_bfloat16(setting: Setting) -> None:
    prove("bfloat16", case_of(setting))


@every_setting
def test_float16(setting: Setting) -> None:
    prove("float16", case_of(setting))


@every_setting
def test_a_loss_scale_alone_changes_nothing(setting: Setting) -> None:
    prove("a_loss_scale_alone_changes_nothing", case_of(setting))


@every_setting
def test_an_overflow_leaves_no_trace(setting: Setting) -> None:
    prove("an_overflow_leaves_no_trace", case_of(setting))


@pytest.mark.parametrize("options", [{"projector": "orthogonal"}, {"projector": "flat"}], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_projectors_stay_in_full_precision(options: dict[str, Any], dtype: torch.dtype) -> None:
    method = float32(("MLA", options))
    engine = sgd(method, autocast=dtype, scaler=scaler() if dtype == torch.float16 else None)
    train(method, engine, range(2), [single(data())], total=2)
    modules = [m for m in method.modules() if isinstance(m, (OrthogonalProjector, FlatProjector, InputCovariance))]
    assert modules
    assert all(b.dtype not in (torch.bfloat16, torch.float16) for m in modules for b in m.buffers())


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
