"""Fused and unimodal losses under multi-task optimizers: against TorchJD, plain loops, and what is refused."""

from __future__ import annotations

import builtins
import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from equimodal import Batch, Classification, PlainEngine
from equimodal.errors import MethodError, MissingExtraError
from equimodal.methods import MultiLoss, MultiTask
from tests.helpers import CLASSES, assert_near, make_method, plain_batch, plain_model, split, weights
from tests.methods.toys import random_absence

F64 = torch.float64
SIZES = {"a": 4, "b": 3, "c": 2}
TORCHJD = ("MGDA", "PCGrad", "UPGrad")


def batch_of(sizes: dict[str, int], seed: int, absent: bool) -> Batch:
    batch = plain_batch(sizes, CLASSES, 6, seed)
    return random_absence(batch, seed) if absent else batch


def losses_of(method: MultiTask, batch: Batch) -> dict[str, Tensor]:
    """Of a batch, written out; of the modalities that somebody has."""
    assert batch.target is not None
    features = method.multimodal.encode(batch.inputs, batch.present)
    output = method.multimodal.head(method.multimodal.fuse(features, batch.present))
    losses = {"fused": nn.functional.cross_entropy(output, batch.target)}
    for m, z in method.heads(features).items():
        rows = torch.arange(6) if batch.present is None else batch.present[m].nonzero()[:, 0]
        if len(rows):
            losses[f"unimodal/{m}"] = nn.functional.cross_entropy(z[rows], batch.target[rows])
    return losses


def model_of(method: MultiLoss) -> dict[str, Tensor]:
    return {n: t for n, t in weights(method).items() if n.startswith(("model.", "heads."))}


def encoders_of(method: MultiTask) -> list[nn.Parameter]:
    return [p for m in method.modalities for p in method.multimodal.parameters_of(m)]


@pytest.mark.parametrize("name", TORCHJD)
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("absent", [False, True])
def test_three_steps_of_torchjd(name: Any, count: int, absent: bool) -> None:
    """The encoders take what the aggregator makes of the Jacobian, everything else the gradient of its own loss."""
    torchjd = pytest.importorskip("torchjd.aggregation")
    sizes = dict(list(SIZES.items())[:count])
    ours = MultiTask(plain_model(sizes, 5, CLASSES), Classification(CLASSES), aggregator=name)
    theirs = copy.deepcopy(ours)
    aggregator, draws = getattr(torchjd, name)(), torch.Generator().manual_seed(0)
    engine = PlainEngine(torch.optim.SGD(ours.parameters(), lr=0.3))
    for seed in range(3):
        batch = batch_of(sizes, seed, absent)
        state = torch.get_rng_state()
        ours.training_step(batch, engine)
        assert torch.equal(torch.get_rng_state(), state)
        losses = losses_of(theirs, batch)
        shared = encoders_of(theirs)
        others = [p for p in theirs.parameters() if all(p is not q for q in shared)]
        rows = []
        for loss in losses.values():
            found = torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True)
            pairs = zip(shared, found, strict=True)
            rows.append(torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in pairs]))
        own = torch.autograd.grad(torch.stack(list(losses.values())).sum(), others, allow_unused=True)
        torch.manual_seed(int(torch.randint(2**31, (), generator=draws)))
        step = aggregator(torch.stack(rows))
        for p in shared:
            p.data -= 0.3 * step[: p.numel()].view_as(p)
            step = step[p.numel() :]
        for p, g in zip(others, own, strict=True):
            if g is not None:
                p.data -= 0.3 * g
        torch.set_rng_state(state)
    # the solver of UPGrad works on a Gram matrix that was added up in another order
    assert_near(weights(ours), weights(theirs), 1e-7 if name == "UPGrad" else 1e-12)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_famo_is_that_of_torchjd(count: int, decay: float) -> None:
    scalarization = pytest.importorskip("torchjd.scalarization")
    sizes = dict(list(SIZES.items())[:count])
    ours = MultiTask(plain_model(sizes, 5, CLASSES), Classification(CLASSES), rate=0.1, decay=decay)
    theirs = copy.deepcopy(ours)
    engine = PlainEngine(torch.optim.SGD(ours.parameters(), lr=0.3))
    famo, plain = (
        scalarization.FAMO(count + 1, lr=0.1, weight_decay=decay).double(),
        torch.optim.SGD(theirs.parameters(), lr=0.3),
    )
    for seed in range(4):
        batch = batch_of(sizes, seed, False)
        ours.training_step(batch, engine)
        plain.zero_grad()
        famo(torch.stack(list(losses_of(theirs, batch).values()))).backward()
        plain.step()
        famo.update(torch.stack(list(losses_of(theirs, batch).values())))
    assert ours.rates is not None
    assert torch.allclose(ours.rates.logits, famo._w, atol=1e-12)
    assert float(ours.rates.logits.abs().max()) > 0.05
    assert_near(model_of(ours), model_of(theirs), 1e-12)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("absent", [False, True])
def test_three_steps_of_famo(count: int, absent: bool) -> None:
    sizes = dict(list(SIZES.items())[:count])
    ours = MultiTask(plain_model(sizes, 5, CLASSES), Classification(CLASSES), rate=0.1, decay=0.01)
    theirs = copy.deepcopy(ours)
    logits, first, second = torch.zeros(3, count + 1, dtype=F64)
    engine, parameters = PlainEngine(torch.optim.SGD(ours.parameters(), lr=0.3)), list(theirs.parameters())
    for step in range(1, 4):
        batch = batch_of(sizes, step, absent)
        ours.training_step(batch, engine)
        before = losses_of(theirs, batch)
        z = dict(zip(ours.names, logits.softmax(0).tolist(), strict=True))
        shares = {n: z[n] / (x.item() + 1e-8) for n, x in before.items()}
        total = torch.stack([shares[n] / sum(shares.values()) * x for n, x in before.items()]).sum()
        for p, g in zip(parameters, torch.autograd.grad(total, parameters, allow_unused=True), strict=True):
            if g is not None:
                p.data -= 0.3 * g
        after = losses_of(theirs, batch)
        change = torch.zeros(count + 1, dtype=F64)
        for k, n in enumerate(ours.names):
            if n in before:
                change[k] = (torch.log(before[n] + 1e-8) - torch.log(after[n] + 1e-8)).item()
        p = logits.softmax(0)
        gradient = p * (change - (p * change).sum()) + 0.01 * logits
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        logits = logits - 0.1 * first / (1 - 0.9**step) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
    assert ours.rates is not None
    assert torch.allclose(ours.rates.logits, logits, atol=1e-12)
    assert_near(model_of(ours), model_of(theirs), 1e-12)


def test_weights_of_ones_are_multi_loss() -> None:
    """A function from the Gram matrix to weights is as good as an aggregator."""
    seen: list[Tensor] = []

    class Ones(nn.Module):
        def forward(self, gram: Tensor) -> Tensor:
            seen.append(gram)
            return torch.ones(len(gram))

    ours = MultiTask(plain_model(SIZES, 5, CLASSES), Classification(CLASSES), aggregator=Ones())
    plain = MultiLoss(plain_model(SIZES, 5, CLASSES), Classification(CLASSES))
    plain.load_state_dict(ours.state_dict(), strict=False)
    for method in (ours, plain):
        engine = PlainEngine(torch.optim.SGD(method.parameters(), lr=0.1))
        for seed in range(2):
            method.training_step(split(batch_of(SIZES, seed, True), 2), engine)
    assert_near(model_of(ours), model_of(plain), 1e-12)
    assert seen[0].shape == (4, 4)
    assert float(seen[0][1, 2]) == 0.0  # unimodal losses of two modalities share no encoder


def test_micro_batches_and_checkpoints_of_famo() -> None:
    whole, parts = (MultiTask(plain_model(SIZES, 5, CLASSES), Classification(CLASSES), rate=0.1) for _ in range(2))
    parts.load_state_dict(whole.state_dict())
    for method, count in ((whole, 1), (parts, 3)):
        engine = PlainEngine(torch.optim.SGD(method.parameters(), lr=0.2))
        for seed in range(3):
            batch = batch_of(SIZES, seed, True)
            report = method.training_step(batch if count == 1 else split(batch, count), engine)
        assert float(torch.stack(list(report.coefficients["loss weight"].values())).sum()) == pytest.approx(1, abs=1e-6)
    assert whole.rates is not None
    assert parts.rates is not None
    assert torch.allclose(whole.rates.logits, parts.rates.logits, atol=1e-12)
    again = MultiTask(plain_model(SIZES, 5, CLASSES), Classification(CLASSES))
    again.load_state_dict(whole.state_dict())
    assert again.rates is not None
    assert torch.equal(again.rates.moments, whole.rates.moments)


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MethodError, match=r"`aggregator`: expected one of .*UPGrad.* Found 'UpGrad'"):
        make_method("MultiTask", 2, aggregator="UpGrad")
    with pytest.raises(MethodError, match=r"`aggregator`: expected one without parameters and state.*Linear"):
        make_method("MultiTask", 2, aggregator=nn.Linear(2, 2))
    with pytest.raises(MethodError, match=r"`aggregator`: expected one of .* Found int"):
        make_method("MultiTask", 2, aggregator=3)
    found = builtins.__import__

    def absent(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("torchjd"):
            raise ImportError(name)
        return found(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(
        MissingExtraError, match=r"`aggregator`: 'MGDA' needs the package 'torchjd'.*equimodal\[torchjd\]"
    ):
        make_method("MultiTask", 2, aggregator="MGDA")
    make_method("MultiTask", 2)


def test_torchjd_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    torchjd = pytest.importorskip("torchjd.aggregation")
    method = make_method("MultiTask", 2, aggregator=torchjd.MGDA(epsilon=1e-5))
    assert isinstance(method, MultiTask)
    assert method.state_dict().keys() == make_method("MultiTask", 2, aggregator="UPGrad").state_dict().keys()
    make_method("MultiTask", 2, aggregator=torchjd.UPGradWeighting())
    with pytest.raises(MethodError, match="by their Gram matrix.* Found TrimmedMean"):
        make_method("MultiTask", 2, aggregator=torchjd.TrimmedMean(1))
    with pytest.raises(MethodError, match="without parameters and state.* Found GradVac"):
        make_method("MultiTask", 2, aggregator=torchjd.GradVac())
