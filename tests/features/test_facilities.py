"""What the engine offers beside one loss per phase, each under every engine feature, by a small method that uses it."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import pytest
import torch

from equimodal import PlainEngine, Sharpness
from equimodal.errors import UnsupportedError
from equimodal.testing import Overflowing, scaler
from tests.features import facility_workers, workers
from tests.features.helpers import TWO, single, tensors
from tests.features.users import USERS, User, indexed, user
from tests.helpers import adamw, assert_identical, assert_near, sgd, split, weights
from tests.trees import assert_same_tree

every_user = pytest.mark.parametrize("name", USERS)
PERTURBED = ("perturbed encoder", "perturbed by a part")


def steps(method: User, engine: PlainEngine, seeds: range, parts: int = 1, **options: Any) -> None:
    """Some updates, each of one batch or of its micro-batches."""
    for seed in seeds:
        batch = indexed(12, seed, **options)
        method.training_step(split(batch, parts) if parts > 1 else batch, engine)


# ---- micro-batches ---------------------------------------------------------------------------------------------------


@every_user
@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize("parts", [3, 5])
def test_micro_batches_equal_the_joined_batch(name: str, uneven: bool, parts: int) -> None:
    whole, micro = user(name), user(name)
    steps(whole, sgd(whole, clip_norm=0.5), range(4), uneven=uneven)
    steps(micro, sgd(micro, clip_norm=0.5), range(4), parts, uneven=uneven)
    assert_near(weights(whole), weights(micro), 1e-12)


# ---- processes and shards --------------------------------------------------------------------------------------------


@pytest.mark.distributed
def test_two_processes_equal_one(tmp_path: Path) -> None:
    """Half batches, with absent modalities, in micro-batches, with sharded encoders, and through Lightning's DDP."""
    cases = [
        *((n, uneven, "plain") for n in USERS for uneven in (False, True)),
        *((n, True, way) for n in USERS for way in ("micro-batches", "sharded")),
        *((n, False, "trainer") for n in USERS),
    ]
    ranks = workers.run(facility_workers.train_users, tmp_path / "group", cases)
    for number, (name, uneven, way) in enumerate(cases):
        ours, theirs = (r[number] for r in ranks)
        label = f"{name}, uneven: {uneven}, {way}"
        if way == "sharded":
            assert ours.pop("all sharded"), label
            assert theirs.pop("all sharded"), label
        assert all(torch.equal(t, theirs[n]) for n, t in ours.items()), f"{label}: replicas differ"
        whole = user(name)
        engine = sgd(whole, clip_norm=0.5)
        for batch in facility_workers.batches(uneven):
            whole.training_step(batch, engine)
        try:
            assert_near(weights(whole), ours, 1e-9)
        except AssertionError as error:
            raise AssertionError(f"{label}: {error}") from error


@pytest.mark.distributed
def test_a_failure_on_one_process_stops_all_of_them(tmp_path: Path) -> None:
    """A NaN input, then a part that is NaN although the total is not; weights, statistics and modes are as before."""
    names = list(USERS)
    ranks = workers.run(facility_workers.fail_on_one, tmp_path / "group", names)
    for name, ours, theirs in zip(names, *ranks, strict=False):
        assert ours[0].startswith("NonFiniteError"), name
        assert "another process" in ours[0], name
        assert "inputs['a']" in theirs[0], name
        assert ours[1], name
        assert theirs[1], name
        shared = [n for n in ours[2] if "running_" not in n]
        assert all(torch.equal(ours[2][n], theirs[2][n]) for n in shared), name
    assert "another process" in ranks[0][-1]
    assert "phase 'joint', part 'a'" in ranks[1][-1]


# ---- precision -------------------------------------------------------------------------------------------------------


@every_user
def test_a_loss_scale_alone_changes_nothing(name: str) -> None:
    """A power of two multiplies and divides without rounding, so methods see the very same gradients of the parts."""
    plain, scaled = user(name).float(), user(name).float()
    a, b = sgd(plain, lr=1e-2, clip_norm=0.5), sgd(scaled, lr=1e-2, clip_norm=0.5, scaler=scaler(2.0**10))
    for seed in range(3):
        plain.training_step(split(single(indexed(12, seed)), 2), a)
        assert scaled.training_step(split(single(indexed(12, seed)), 2), b).phases
    assert_identical(weights(plain), weights(scaled))


@every_user
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mixed_precision_trains(name: str, dtype: torch.dtype) -> None:
    method, reference = user(name).float(), user(name).float()
    options: dict[str, Any] = {"scaler": scaler(2.0**8)} if dtype is torch.float16 else {}
    engine, plain = sgd(method, lr=1e-2, autocast=dtype, **options), sgd(reference, lr=1e-2)
    for seed in range(6):
        method.training_step(single(indexed(12, seed)), engine)
        reference.training_step(single(indexed(12, seed)), plain)
    assert all(p.dtype == torch.float32 and torch.isfinite(p).all() for p in method.parameters())
    gap = max(float((a - b).detach().abs().max()) for a, b in zip(method.parameters(), reference.parameters()))
    assert 0 < gap < 0.05


@every_user
def test_an_overflow_leaves_no_trace(name: str) -> None:
    """In any backward pass of the phase: of a part, of the total, of the second pass."""
    counted = user(name, norm=True).float()
    counter = Overflowing(torch.optim.SGD(counted.parameters(), lr=0.1), scaler=scaler(8.0))
    counter.bad = set()
    counted.training_step(single(indexed()), counter)
    for bad in range(1, counter.calls + 1):
        method = user(name, norm=True).float()
        optimizer = torch.optim.SGD(method.parameters(), lr=1e-2, momentum=0.9)
        scale = scaler(2.0**8)
        engine = Overflowing(optimizer, scaler=scale)
        engine.bad = set()
        method.training_step(single(indexed()), engine)
        before, states = tensors(method), copy.deepcopy(optimizer.state_dict())
        engine.bad, engine.calls = {bad}, 0
        report = method.training_step(single(indexed(12, 5)), engine)
        assert report.phases == [], bad
        assert float(scale.get_scale()) == 2.0**7
        assert_identical(before, tensors(method))
        assert_same_tree(optimizer.state_dict(), states)
        assert all(p.grad is None and p.requires_grad for p in method.parameters())
        assert all(m.training for m in method.modules())
        engine.bad = set()
        assert method.training_step(single(indexed(12, 5)), engine).phases


# ---- compilation -----------------------------------------------------------------------------------------------------


@every_user
@pytest.mark.usefixtures("fresh_compiler")
def test_encoders_compiled(name: str) -> None:
    eager, compiled = user(name, sizes=TWO, norm=True), user(name, sizes=TWO, norm=True, compiled="aot_eager")
    for method in (eager, compiled):
        engine = sgd(method, clip_norm=0.5)
        for seed in range(2):
            torch.manual_seed(seed)
            method.training_step(indexed(12, seed, TWO), engine)
    assert_near(weights(eager), {n.replace("_orig_mod.", ""): t for n, t in weights(compiled).items()}, 1e-9)


@every_user
@pytest.mark.usefixtures("fresh_compiler")
def test_the_whole_loss_compiled(name: str) -> None:
    """One graph: `fullgraph` makes a break an error."""
    eager, compiled = user(name, sizes=TWO), user(name, sizes=TWO)
    plain = sgd(eager, clip_norm=0.5)
    engine = sgd(compiled, clip_norm=0.5, compile={"backend": "aot_eager", "fullgraph": True})
    for method in (eager, compiled):
        method.predict(indexed(12, 0, TWO).inputs)
    steps(eager, plain, range(2), sizes=TWO)
    steps(compiled, engine, range(2), sizes=TWO)
    assert_near(weights(eager), weights(compiled), 1e-9)


# ---- the rest --------------------------------------------------------------------------------------------------------


@every_user
def test_a_run_that_was_cut_continues_bit_for_bit(name: str) -> None:
    whole = user(name, norm=True)
    engine = adamw(whole, clip_norm=0.5)
    torch.manual_seed(3)
    steps(whole, engine, range(3))
    file = io.BytesIO()
    torch.save({"method": whole.state_dict(), "optimizer": engine.optimizers[0].state_dict(),
                "random": torch.get_rng_state()}, file)  # fmt: skip
    steps(whole, engine, range(3, 6))
    file.seek(0)
    state = torch.load(file, weights_only=True)
    later = user(name, seed=1, norm=True)
    later.load_state_dict(state["method"])
    again = adamw(later, clip_norm=0.5)
    again.optimizers[0].load_state_dict(state["optimizer"])
    torch.set_rng_state(state["random"])
    steps(later, again, range(3, 6))
    assert_identical(tensors(whole), tensors(later))


@every_user
@pytest.mark.parametrize("mode", ["full", "every_k", "momentum"])
def test_passes_of_sharpness(name: str, mode: Any) -> None:
    """Weights come back to the bit, statistics are counted once; a phase that perturbs itself refuses it by name."""
    method, plain = user(name, norm=True), user(name, norm=True)
    method.sharpness = Sharpness(mode, radius=0.1, every=2)
    method.sharpness.attach(method)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.0, momentum=0.9) for m in (method, plain)]
    sharp, engine = (PlainEngine(o, clip_norm=0.5) for o in optimizers)
    before = {n: p.detach().clone() for n, p in method.named_parameters()}
    if name in PERTURBED:
        state = tensors(method)
        with pytest.raises(UnsupportedError, match=r"`sharpness`: expected None, as phase 'joint'"):
            method.training_step(indexed(), sharp)
        assert_identical(state, tensors(method))
        return
    for seed in range(3):
        for m, e in ((method, sharp), (plain, engine)):
            torch.manual_seed(seed)
            m.training_step(indexed(12, seed), e)
    assert_identical(before, dict(method.named_parameters()))
    if mode != "momentum":  # one pass, at the perturbed weights, whose statistics they are
        buffers = {n: t for n, t in tensors(plain).items() if "running_" in n or "num_batches" in n}
        assert buffers
        assert_identical(buffers, {n: t for n, t in tensors(method).items() if n in buffers})
