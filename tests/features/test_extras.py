"""Side information of a batch under every engine feature, by a method whose losses are weighted per sample."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import pytest
import torch

from equimodal import Batch, Classification, PlainEngine
from equimodal.data import loader
from equimodal.methods import ModalityDropout
from tests.features import workers
from tests.features.users_data import WeightedBranches, dataset, fit, model, weighted
from tests.helpers import CLASSES, assert_identical, assert_near, sgd, split, weights


def made(seed: int = 0, draw: bool = True) -> WeightedBranches:
    return WeightedBranches(model(seed), Classification(CLASSES), draw=draw).double()


def batches(missing: bool = True, size: int = 12) -> list[Batch]:
    return [weighted(b) for b in loader(dataset(missing=missing).train, size, seed=4)]


def test_the_loss_is_what_a_loop_over_samples_gives() -> None:
    method, (batch, _) = made(draw=False), batches()
    assert batch.target is not None
    losses = {}
    for m in method.modalities:
        total, count = 0.0, 0
        for i in range(len(batch)):
            if batch.present is not None and m in batch.present and not batch.present[m][i]:
                continue
            feature = method.multimodal.encode({m: batch.inputs[m][i : i + 1]}, None, [m])[m]
            p = method.heads[m](feature).softmax(1)[0, batch.target[i]]
            total += float(-p.detach().log() * batch.extras["weight"][i])
            count += 1
        losses[m] = total / count
    report = method.training_step(batch, sgd(method, lr=0.0, momentum=0.0))
    assert {m: float(v) for m, v in report.losses.items()} == pytest.approx(losses, abs=1e-12)
    assert count == batch.count("keys") < 12  # of the last modality, which some samples lack


@pytest.mark.parametrize("parts", [2, 5])
def test_micro_batches(parts: int) -> None:
    """Micro-batches equal their joined batch: what was drawn for a sample stays with it."""
    whole, apart = made(), made()
    engines = sgd(whole), sgd(apart)
    for batch in batches():
        whole.training_step(batch, engines[0])
        apart.training_step(split(batch, parts), engines[1])
    assert_near(weights(whole), weights(apart), 1e-12)


def test_compiled_losses() -> None:
    eager, compiled = made(), made()
    torch.compiler.reset()
    engines = sgd(eager), sgd(compiled, compile={"backend": "aot_eager", "fullgraph": True})
    for batch in batches():
        eager.training_step(batch, engines[0])
        compiled.training_step(batch, engines[1])
    torch.compiler.reset()
    assert_near(weights(eager), weights(compiled), 1e-9)


def test_compiled_loss_of_masks_with_absent_modalities() -> None:
    """ModalityDropout draws its masks into the extras; micro-batches and absent rows included."""
    eager, compiled = (ModalityDropout(model(), Classification(CLASSES), probability=0.5) for _ in range(2))
    torch.compiler.reset()
    engines = sgd(eager), sgd(compiled, compile={"backend": "eager", "fullgraph": True})
    before = weights(eager)
    for batch in batches():
        eager.training_step(split(batch, 2), engines[0])
        compiled.training_step(split(batch, 2), engines[1])
    torch.compiler.reset()
    assert_near(weights(eager), weights(compiled), 1e-9)
    assert any(not torch.equal(t, before[n]) for n, t in weights(eager).items())


def test_float16_under_a_loss_scale() -> None:
    """The same masks and weights as without it; where nothing overflows the weights are near."""
    half, full = (WeightedBranches(model(double=False), Classification(CLASSES)) for _ in range(2))
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    engine = sgd(half, autocast=torch.float16, scaler=scaler)
    other = sgd(full)
    for batch in batches():
        half.training_step(batch, engine)
        full.training_step(batch, other)
    assert scaler.get_scale() == 64
    assert_near(weights(half), weights(full), 2e-2)
    assert torch.equal(half._generator.get_state(), full._generator.get_state())


def test_resuming() -> None:
    """From a file, in the middle of an epoch: the loader, what it draws, the optimizer."""
    data = dataset(missing=True)

    def start(seed: int) -> tuple[WeightedBranches, PlainEngine, object]:
        method = made(seed)
        return method, sgd(method), loader(data.train, 5, seed=1)

    whole, engine, train = start(0)
    fit(whole, engine, train, change=weighted)
    first, engine, train = start(0)
    iterator = iter(train)  # type: ignore[call-overload]
    for _ in range(2):
        first.training_step(weighted(next(iterator)), engine)
    file = io.BytesIO()
    torch.save([first.state_dict(), engine.optimizers[0].state_dict(), train.state_dict()], file)  # type: ignore[attr-defined]
    file.seek(0)
    states = torch.load(file, weights_only=True)
    second, engine, train = start(1)
    for part, state in zip((second, engine.optimizers[0], train), states, strict=True):
        part.load_state_dict(state)  # type: ignore[attr-defined]
    fit(second, engine, train, change=weighted)
    assert_identical(weights(whole), weights(second))


# ---- processes -------------------------------------------------------------------------------------------------------


def train_shared(rank: int, world: int, folder: str, sharded: bool) -> None:
    """Half of every batch on each process, encoders sharded or not."""
    warnings.simplefilter("ignore")
    workers.start(rank, world, folder)
    method = made(draw=False)
    if sharded:
        shard(method)
    engine = sgd(method, clip_norm=0.5)
    for batch in batches():
        method.training_step(split(batch, world)[rank], engine)
    workers.finish(rank, folder, workers.whole_weights(method))


def shard(method: WeightedBranches) -> None:
    from torch.distributed.fsdp import fully_shard

    for m in method.modalities:
        fully_shard(method.model.encoder(m))  # type: ignore[operator]


@pytest.mark.distributed
@pytest.mark.parametrize("sharded", [False, True])
def test_two_processes(sharded: bool, tmp_path: Path) -> None:
    ours, theirs = workers.run(train_shared, tmp_path / "group", sharded)
    assert_identical(ours, theirs)
    whole = made(draw=False)
    engine = sgd(whole, clip_norm=0.5)
    for batch in batches():
        whole.training_step(batch, engine)
    assert_near(weights(whole), ours, 1e-9)
