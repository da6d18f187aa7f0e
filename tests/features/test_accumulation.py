"""k micro-batches count as one batch: one update, the same weights."""

from __future__ import annotations

import pytest
import torch

from equimodal.errors import UnsupportedError
from tests.features.helpers import Setting, data, departure, every_setting, plain_method, tensors
from tests.helpers import assert_near, sgd, split, train


@every_setting
@pytest.mark.parametrize("parts", [3, 4])
def test_accumulation(setting: Setting, parts: int) -> None:
    """Twelve samples in equal and in unequal parts."""
    kind = departure(setting, "accumulation")
    micro, whole = plain_method(setting), plain_method(setting)
    engine, reference = sgd(micro, clip_norm=0.5), sgd(whole, clip_norm=0.5)
    steps = [0, 0]
    engine.optimizers[0].register_step_pre_hook(lambda *_: steps.__setitem__(0, steps[0] + 1))
    reference.optimizers[0].register_step_pre_hook(lambda *_: steps.__setitem__(1, steps[1] + 1))
    batches = [data(12 if parts == 3 else 11, seed) for seed in range(3)]
    if kind == "refused":
        before = tensors(micro)
        with pytest.raises(UnsupportedError):
            train(micro, engine, range(2), [split(b, parts) for b in batches], total=2)
        assert all(torch.equal(t, before[n]) for n, t in tensors(micro).items())
        return
    train(micro, engine, range(2), [split(b, parts) for b in batches], total=2)
    train(whole, reference, range(2), batches, total=2)
    assert steps[0] == steps[1]
    assert all(torch.isfinite(p).all() for p in micro.parameters())
    if kind is None:
        assert_near(dict(micro.named_parameters()), dict(whole.named_parameters()))
