"""Order of an update, sharpness-aware passes, optimizers, and losses that are not finite, for every method."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from equimodal import PlainEngine
from equimodal.engine import Objective, Phase, UpdateScale
from equimodal.engine._optimizers import has_momentum, is_scale_invariant, is_schedule_free
from tests.features.helpers import (
    OPTIMIZERS,
    Setting,
    data,
    every_setting,
    plain_method,
    tensors,
)
from tests.helpers import any_batch, assert_identical, case_of, prove

# a setting that says so: the optimizers of these tests cancel it
pytestmark = pytest.mark.filterwarnings("ignore:apply_to='gradient':equimodal.errors.OptimizerWarning")

# ---- order -----------------------------------------------------------------------------------------------------------


@every_setting
def test_order(setting: Setting) -> None:
    """Average, unscale, modify, clip, step, then the method's own state; in every phase."""
    prove("order_of_an_update", case_of(setting))


# ---- sharpness -------------------------------------------------------------------------------------------------------


@every_setting
@pytest.mark.parametrize("mode", ["full", "every_k", "momentum"])
def test_sharpness(setting: Setting, mode: str) -> None:
    """With a rate of 0 nothing but statistics moves: weights come back to the bit, statistics are counted once."""
    prove("sharpness_counts_once", case_of(setting), mode)


# ---- optimizers ------------------------------------------------------------------------------------------------------


@every_setting
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizers(setting: Setting, optimizer: str) -> None:
    """Each trains, and what a phase leaves out keeps still, with its state."""
    prove("optimizers", case_of(setting), optimizer)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_constant_coefficient_of_a_tenth_moves_a_tenth(optimizer: str) -> None:
    """Scaled by the engine; for schedule-free the averaged point, which is what is evaluated, moves a tenth too."""
    ends = []
    for factor in (1.0, 0.1):
        p = nn.Parameter(torch.linspace(0.5, 1, 5, dtype=torch.float64))
        made: Any = OPTIMIZERS[optimizer]([p])
        engine = PlainEngine(made)
        moves = []
        for step in range(6):
            phase = Phase("joint", lambda b, s=step, q=p: Objective((q.sin() * (1 + s % 3)).sum()), [p])  # type: ignore[misc]
            point, before = made.state.get(p, {}).get("z"), p.detach().clone()
            z = before.clone() if point is None else point.clone()
            engine.descend(phase, [any_batch()])
            engine.step(phase, [UpdateScale([p], torch.tensor(factor))])
            moves.append(p.detach() - before)
            if optimizer == "schedule-free":
                y = p.detach().clone()
                made.eval()
                moves.append(p.detach() - ((before - 0.1 * z) / 0.9))  # where the average was
                made.train()
                assert (p.detach() - y).abs().max() < 1e-12
                made.state[p]["z"].copy_(z)
            with torch.no_grad():
                p.copy_(before)  # from the same place, so that only the factor differs
        ends.append(moves)
    for full, small in zip(*ends, strict=True):
        where = full.abs() > 1e-9
        assert where.any() or optimizer == "schedule-free"
        assert ((small / full)[where] - 0.1).abs().max() < 1e-6 if where.any() else True


def test_what_an_engine_knows_about_optimizers() -> None:
    p = [nn.Parameter(torch.ones(1))]
    known = {name: (is_scale_invariant(o), has_momentum(o), is_schedule_free(o)) for name, make in OPTIMIZERS.items()
             for o in [make(p)]}  # fmt: skip
    assert known == {
        "sgd": (False, True, False),
        "adamw": (True, True, False),
        "lion": (True, True, False),
        "schedule-free": (False, False, True),
    }
    assert not has_momentum(torch.optim.SGD(p, lr=0.1))


# ---- losses that are not finite --------------------------------------------------------------------------------------


@every_setting
def test_nonfinite(setting: Setting) -> None:
    """A NaN in the inputs: an error that names it; weights, optimizer, statistics and method as before."""
    prove("a_nan_changes_nothing", case_of(setting))


def test_an_error_of_the_model_leaves_batch_statistics_as_they_were() -> None:
    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fail = False
            self.head = nn.Linear(18, 3)

        def forward(self, x: Tensor) -> Tensor:
            if self.fail:
                raise RuntimeError("on purpose")
            out: Tensor = self.head(x)
            return out

    method = plain_method(("Joint", {}), norm=True)
    late = Late().double()
    setattr(method.model, "head", late)  # noqa: B010
    engine = PlainEngine(torch.optim.SGD(method.parameters(), lr=0.1))
    method.training_step(data(), engine)
    before = tensors(method)
    late.fail = True
    with pytest.raises(RuntimeError, match="on purpose"):
        method.training_step(data(), engine)
    assert_identical(before, tensors(method))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_factor_for_each_entry_moves_each_by_its_own(optimizer: str) -> None:
    p, q = (nn.Parameter(torch.linspace(0.5, 1, 6, dtype=torch.float64).reshape(2, 3)) for _ in range(2))
    factor, moves = torch.tensor([[1.0, 0.1, 3.0]]), []
    for parameter, scales in ((p, [UpdateScale([p], factor)]), (q, [])):
        engine, before = PlainEngine(OPTIMIZERS[optimizer]([parameter])), parameter.detach().clone()
        phase = Phase("joint", lambda b, x=parameter: Objective(x.sin().sum()), [parameter])  # type: ignore[misc]
        engine.descend(phase, [any_batch()])
        engine.step(phase, scales)
        moves.append(parameter.detach() - before)
    assert (moves[0] - factor * moves[1]).abs().max() < 1e-15
