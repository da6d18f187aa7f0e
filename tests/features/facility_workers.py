"""What one of two processes does in the tests of the facilities; in a file of its own, so that it starts quickly."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from equimodal import Batch, PlainEngine
from equimodal.engine import (
    Objective,
    Perturbation,
    Phase,
    SampleValues,
    Survey,
    gather_rows,
    is_sharded,
)
from equimodal.errors import EquimodalError
from equimodal.methods import Method
from equimodal.methods.parts import SampleTable
from tests.features.helpers import nan_batch, tensors
from tests.features.users import User, indexed, user
from tests.features.workers import as_loader, finish, fit, shard, start, whole_weights
from tests.helpers import any_batch, sgd, split, weights

STEPS = 3


def batches(uneven: bool) -> list[Batch]:
    """The joined batches of the parallel tests."""
    return [indexed(12, seed, uneven=uneven) for seed in range(STEPS)]


def train_users(rank: int, world: int, folder: str, cases: list[tuple[str, bool, str]]) -> None:
    """Every user on this process's half of every batch."""
    warnings.simplefilter("ignore")
    start(rank, world, folder)
    results = {}
    for number, (name, uneven, way) in enumerate(cases):
        method = user(name)
        if way == "sharded":
            shard(cast(Method, method))
        halves = [split(batch, world)[rank] for batch in batches(uneven)]
        if way == "trainer":
            fit(method, as_loader(halves))
            results[number] = weights(method)
            continue
        engine = sgd(method, clip_norm=0.5)
        for half in halves:
            method.training_step(split(half, 2) if way == "micro-batches" else half, engine)
        results[number] = whole_weights(method) if way == "sharded" else weights(method)
        if way == "sharded":
            held = [is_sharded(p) for m in method.modalities for p in method.multimodal.parameters_of(m)]
            results[number]["all sharded"] = torch.tensor(all(held))
    finish(rank, folder, results)


class Spoilt(User):
    """One part is NaN where a flag says so, with a total that is finite."""

    spoil = False

    def objective(self, batch: Batch) -> Objective:
        parts = {name: loss.mean() for name, loss in self.losses(batch).items()}
        return Objective(parts["fused"] * 1, parts={**parts, "a": parts["a"] * (float("nan") if self.spoil else 1)})


def fail_on_one(rank: int, world: int, folder: str, names: list[str]) -> None:
    """A NaN input on process 1, then a NaN part; both raise on both processes, and training goes on."""
    warnings.simplefilter("ignore")
    start(rank, world, folder)
    results: list[Any] = []
    for name in names:
        method = user(name, norm=True)
        engine = sgd(method, clip_norm=0.5)
        half = split(indexed(), world)[rank]
        method.training_step(half, engine)
        before, message = tensors(method), ""
        try:
            method.training_step(nan_batch(half, "a") if rank == 1 else half, engine)
        except EquimodalError as error:
            message = f"{type(error).__name__}: {error}"
        after = tensors(method)
        same = all(torch.equal(t, after[n]) for n, t in before.items())
        modes = all(m.training for m in method.modules())
        asking = all(p.requires_grad for p in method.parameters())
        method.training_step(half, engine)
        results.append((message, same and modes and asking, weights(method)))
    torch.manual_seed(0)
    method = Spoilt(cast(Any, user("parts").model)).double()
    method.spoil = rank == 1
    engine = sgd(method)
    try:
        method.training_step(split(indexed(), world)[rank], engine)
        results.append("nothing")
    except EquimodalError as error:
        results.append(f"{type(error).__name__}: {error}")
    finish(rank, folder, results)


def part_gradients(rank: int, world: int, folder: str) -> None:
    """Parts in another order, on one process only, and a process without samples."""
    start(rank, world, folder)
    x, y = nn.Parameter(torch.ones(2, dtype=torch.float64)), nn.Parameter(torch.ones(3, dtype=torch.float64))
    engine = PlainEngine(torch.optim.SGD([x, y], lr=0.1))
    names = [("b", "a", "only 0"), ("a", "b")]
    results: list[Any] = []

    def objective(batch: Batch) -> Objective:
        scale = batch.inputs["a"].double().mean()
        made = {
            "a": (x * scale).sum(),
            "b": x.sum() * y.square().sum() * scale,
            "only 0": 5 * y.sum() * scale,
        }
        parts = {name: made[name] for name in names[rank]}
        return Objective(torch.stack(list(parts.values())).sum(), parts=parts)

    def attempt(batch: Batch, count: Callable[[Batch], int] = len, separate: Any = None) -> None:
        phase = Phase("joint", objective, [x, y], count=count, separate=separate)
        descent = engine.descend(phase, [batch])
        found = {name: list(row) for name, row in descent.gradients.items()}
        results.append((found, x.grad, y.grad))

    batch = Batch({"a": torch.full((2, 1), float(rank + 1))}, torch.zeros(2))
    attempt(batch)
    attempt(batch, lambda b: len(b) if rank == 0 else 0)
    attempt(batch, separate=[y])
    finish(rank, folder, results)


def perturbations(rank: int, world: int, folder: str) -> None:
    """Processes that disagree about a second pass, or one that fails to decide: all raise, and go on."""
    start(rank, world, folder)
    x = nn.Parameter(torch.ones(2, dtype=torch.float64))
    engine = PlainEngine(torch.optim.SGD([x], lr=0.1))
    messages = []

    def ask(answer: Any) -> None:
        phase = Phase("joint", lambda b: Objective(x.pow(3).sum()), [x], perturbation=answer)
        try:
            engine.descend(phase, [any_batch()])
            messages.append(f"gradient {x.grad.tolist()}" if x.grad is not None else "none")
        except (EquimodalError, RuntimeError) as error:
            messages.append(f"{type(error).__name__}: {error}, grad {x.grad}, at {x.tolist()}")

    def broken(_: Any) -> Perturbation | None:
        if rank == 1:
            raise RuntimeError("on purpose")
        return None

    move = Perturbation([x], [torch.ones_like(x)], 0.0)
    ask(lambda _: move if rank == 0 else None)
    ask(broken)
    ask(lambda _: move)
    finish(rank, folder, [*messages, _weights_differ(rank)])


def _weights_differ(rank: int) -> list[list[float]]:
    """A part with a weight of 1 here and of 0.5 there, and a parameter that it reaches here only."""
    x, y = nn.Parameter(torch.ones(1, dtype=torch.float64)), nn.Parameter(torch.full((1,), 2.0, dtype=torch.float64))

    def objective(_: Batch) -> Objective:
        part = 2 * x.pow(3).sum() * (y.sum() if rank == 0 else 0)
        return Objective.sum_of({"f": part, "h": x.sum()}, {"f": 1.0 if rank == 0 else 0.5})

    move = Perturbation([x], [torch.ones_like(x)], 0.1, "f", receivers=[x, y])
    phase = Phase("joint", objective, [x, y], perturbation=lambda _: move)
    PlainEngine(torch.optim.SGD([x, y], lr=0.1)).descend(phase, [any_batch()])
    return [p.grad.tolist() for p in (x, y) if p.grad is not None]


def surveys(rank: int, world: int, folder: str) -> None:
    """One micro-batch per process: sums over both before the forward pass; what is `shared` is not coupled again."""
    start(rank, world, folder)
    x = nn.Parameter(torch.ones(1, dtype=torch.float64))
    received: list[float] = []

    def couple(own: Any, totals: Any) -> Objective:
        raise AssertionError

    survey = Survey(
        lambda b: {"n": torch.tensor(float(len(b)))}, lambda sums: received.append(float(sums["n"])), couple, True
    )
    phase = Phase("joint", lambda _: Objective((x * received[-1]).sum(), shared={"x": x}), [x], survey=survey)
    PlainEngine(torch.optim.SGD([x], lr=0.1)).descend(phase, [any_batch(rank + 2)])
    finish(rank, folder, (received, x.grad))


def tables(rank: int, world: int, folder: str) -> None:
    """Different samples, a shared one, another number of them, none at all; rows of two kinds through `gather_rows`."""
    start(rank, world, folder)
    table = SampleTable(["a", "b"])

    def of(index: list[int], values: list[float]) -> SampleValues:
        return SampleValues(torch.tensor(values), torch.tensor(index))

    mine = [{"a": of([0, 5], [1.0, 2.0]), "b": of([3], [7.0])}, {"a": of([5, 2, 5], [4.0, 8.0, 6.0])}][rank]
    table.update(mine)
    first = (table.values.clone(), table.seen.clone())
    table.update({} if rank == 0 else {"a": of([9], [1.5]), "b": None})
    second = (table.values.clone(), table.seen.clone())
    table.update({})
    joined: list[Tensor] = gather_rows([torch.full((rank, 2), rank), torch.arange(rank) + 0.5])
    dist.barrier()
    finish(rank, folder, (first, second, joined))
