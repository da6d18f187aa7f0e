"""Properties that need two processes: they equal one, a failure on one stops both, encoders can be sharded."""

from __future__ import annotations

import copy
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from equimodal.batch import Batch
from equimodal.engine import is_sharded
from equimodal.errors import EquimodalError, NonFiniteError, PropertyError
from equimodal.methods import Method
from equimodal.model import MultimodalModel
from equimodal.testing._cases import SIZES, Case
from equimodal.testing._data import ToyData
from equimodal.testing._engine_features import vectors
from equimodal.testing._engines import spoilt
from equimodal.testing._expect import NotApplicable, expect, expect_identical, expect_near, subset
from equimodal.testing._loops import sgd, split, tensors, train, weights
from equimodal.testing._models import NAMES, toy_batch

WORLD = 2


@dataclass(frozen=True)
class Job:
    """What two processes do together.

    Args:
        name: of the property, one of :data:`WORK`.
        case: method and options; the class must be importable, and ``shared`` a function of a module.
        uneven: two modalities are missing in many rows, one of them in all rows of the second process.
    """

    name: str
    case: Case
    uneven: bool = False

    def __str__(self) -> str:
        return f"{self.name}[{self.case}{'-uneven' if self.uneven else ''}]"


def jobs_of(case: Case) -> list[Job]:
    """All that two processes do with a case."""
    method = case.make(max(2, case.method.min_modalities))
    rows = (False,) if any(getattr(method, option) for option in case.method.info.complete) else (False, True)
    jobs = [Job(name, case, uneven) for name in ("two_processes_equal_one", "sharded_encoders") for uneven in rows]
    return [*jobs, Job("a_failure_on_one_stops_both", case)]


# ---- what each process does ------------------------------------------------------------------------------------------


def work(rank: int, folder: str, jobs: Sequence[Job]) -> None:
    """One of the processes: does all jobs and leaves what came out in ``folder``."""
    import torch.distributed as dist

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD)}
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    results = []
    for job in jobs:
        torch.manual_seed(0)
        results.append(WORK[job.name](rank, job))
    dist.barrier()
    torch.save(results, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


def _work_and_leave(rank: int, folder: str, jobs: Sequence[Job]) -> None:
    """As :func:`work`, in a process of its own: threads of gloo that are still there can abort an interpreter's end.

    What it fails with is written down before its connections close: they make the other process fail too, and which of
    the two ends first is chance.
    """
    try:
        work(rank, folder, jobs)
    except Exception as error:
        text = " ".join(f"process {rank}: {type(error).__name__}: {error}".split())
        Path(folder, f"{time.monotonic_ns():020d}.error").write_text(text, encoding="utf-8")
        raise
    os._exit(0)


def _train(rank: int, job: Job) -> dict[str, Any]:
    """Train on this process's half of every batch, from weights of its own that are broadcast first."""
    method = job.case.make(3, seed=rank)
    engine = sgd(method, clip_norm=0.5)
    engine.broadcast(method)
    return _outcome(method, lambda: train(method, engine, range(2), _halves(rank, job), total=2))


def _train_sharded(rank: int, job: Job) -> dict[str, Any]:
    """The same with encoders of which each process holds a half, and a prediction after every step."""
    method = shard(job.case.plain())
    halves = [split(b, WORLD)[rank] for b in _vectors(job.uneven)]

    def look() -> None:
        method.predict(vectors(4, 9).inputs)  # whose gathered weights must not be used in the next step

    return _outcome(method, lambda: train(method, sgd(method, clip_norm=0.5), range(2), halves, 2, look))


def _outcome(method: Method, training: Callable[[], None]) -> dict[str, Any]:
    before = whole_weights(method)
    try:
        training()
    except EquimodalError as error:
        moved = [n for n, t in whole_weights(method).items() if not torch.equal(t, before[n])]
        return {"error": type(error).__name__, "message": str(error), "moved": moved}
    return {"weights": whole_weights(method), "parameters": [n for n, _ in method.named_parameters()]}


def _fail(rank: int, job: Job) -> dict[str, Any]:
    """A NaN on the second process only; both must raise, keep what they had, and be able to go on."""
    method = job.case.plain(norm=True)
    engine = sgd(method, clip_norm=0.5)
    engine.broadcast(method)
    half = split(vectors(), WORLD)[rank]
    outcome = _outcome(method, lambda: train(method, engine, range(1), [half], total=3))
    if "error" in outcome:
        return outcome
    method.train()
    method.on_train_epoch_start(ToyData([half]).context(1, 3, engine))
    # phases before the one that fails are whole updates: let the first one fail
    twin = copy.deepcopy(method)
    first = twin.training_step(half, sgd(twin)).phases[0]
    modality = first if first in SIZES else next(iter(SIZES))
    before = {n: t for n, t in tensors(method).items() if "generator" not in n}
    message = ""
    try:
        method.training_step(spoilt(half, modality) if rank == 1 else half, engine)
    except NonFiniteError as error:
        message = str(error)
    now = tensors(method)
    changed = [n for n, t in before.items() if not torch.equal(t, now[n])]
    method.training_step(half, engine)
    return {"message": message, "modality": modality, "changed": changed, "weights": weights(method),
            "parameters": [n for n, _ in method.named_parameters()]}  # fmt: skip


WORK: dict[str, Callable[[int, Job], dict[str, Any]]] = {
    "two_processes_equal_one": _train,
    "sharded_encoders": _train_sharded,
    "a_failure_on_one_stops_both": _fail,
}
"""Property -> what each process does for it."""


def shard(method: Method) -> Method:
    """Both encoders' layers by FSDP2, one layer of each on its own, as one would with the blocks of a large model."""
    from torch.distributed.fsdp import fully_shard

    model = cast(MultimodalModel, method.model)
    for m in model.modalities:
        encoder = model.encoder(m)
        fully_shard(cast(nn.Sequential, encoder)[0])
        fully_shard(encoder)
    return method


def whole_weights(method: Method) -> dict[str, Tensor]:
    """Parameters and buffers, sharded ones gathered."""
    return {n: cast(Any, t).full_tensor() if is_sharded(t) else t for n, t in weights(method).items()}


def _batches(uneven: bool) -> list[Batch]:
    made = [toy_batch(3, 12, seed) for seed in range(2)]
    rows = torch.arange(12)
    present = {NAMES[1]: (rows == 1) | (rows == 4), NAMES[2]: rows % 3 == 0}
    return [Batch(b.inputs, b.target, present, b.index) for b in made] if uneven else made


def _halves(rank: int, job: Job) -> list[Batch]:
    return [split(b, WORLD)[rank] for b in _batches(job.uneven)]


def _vectors(uneven: bool) -> list[Batch]:
    """Three batches; if uneven, two modalities are in some rows only, at least one of each half."""
    made = [vectors(12, seed) for seed in range(3)]
    rows = torch.arange(12)
    present = {"b.c": rows % 3 == 1, "keys": (rows % 3 == 0) | (rows == 4)}
    return [Batch(b.inputs, b.target, present, b.index) for b in made] if uneven else made


# ---- starting them, and what must have come out ----------------------------------------------------------------------


def run_jobs(jobs: Sequence[Job], start_method: str = "spawn") -> list[list[dict[str, Any]]]:
    """Start two processes that do all jobs; what came out, per process.

    Args:
        jobs: in order.
        start_method: of :mod:`multiprocessing`; with ``spawn`` and ``forkserver`` a script that calls this must be
            guarded by ``if __name__ == "__main__":``.

    Raises:
        RuntimeError: a process failed; the text is that of the one that failed first.
    """
    import torch.multiprocessing as mp
    from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

    with tempfile.TemporaryDirectory() as folder:
        try:
            mp.start_processes(  # type: ignore[attr-defined, no-untyped-call]
                _work_and_leave, args=(folder, list(jobs)), nprocs=WORLD, start_method=start_method
            )
        except (ProcessRaisedException, ProcessExitedException) as error:
            first = min(Path(folder).glob("*.error"), default=None)
            if first is None:
                raise
            raise RuntimeError(first.read_text(encoding="utf-8")) from error
        return [torch.load(Path(folder) / f"rank{rank}.pt", weights_only=True) for rank in range(WORLD)]


def judge(job: Job, outcomes: Sequence[dict[str, Any]], replicated: Callable[[str], bool] | None = None) -> None:
    """Look at what both processes left of a job.

    Args:
        job: what was done.
        outcomes: of each process.
        replicated: says of the name of a buffer whether it must be equal on all processes. Parameters always must;
            a buffer may hold sums over the process's own samples until they are added up.

    Raises:
        NotApplicable: the class declares that it refuses the feature, and it did; or that it differs, and replicas are
            equal.
        PropertyError: the property does not hold.
    """
    try:
        _judge(job, outcomes, replicated or (lambda _: False))
    except PropertyError as error:
        raise PropertyError(f"{job}: {error}") from error


def _judge(job: Job, outcomes: Sequence[dict[str, Any]], replicated: Callable[[str], bool]) -> None:
    feature = {"two_processes_equal_one": "processes", "sharded_encoders": "sharded"}.get(job.name, "nonfinite")
    if job.name == "a_failure_on_one_stops_both" and job.case.departure("processes") == "refused":
        feature = "processes"
    kind = job.case.departure(feature)
    ours, theirs = outcomes
    if kind == "refused":
        for outcome in outcomes:
            expect(outcome.get("error") == "UnsupportedError", f"expected a refusal by name. Found {list(outcome)}.")
            expect(not outcome["moved"], f"expected a refusal before anything moves. Found {outcome['moved'][:5]}.")
        raise NotApplicable(f"declares {feature!r} as refused, and refuses it (`info.engine`)")
    for outcome in outcomes:
        expect("weights" in outcome, f"expected training. Found {outcome.get('error')}: {outcome.get('message')}")
    names = [n for n in ours["weights"] if n in ours["parameters"] or replicated(n)]
    expect_identical(subset(ours["weights"], names), subset(theirs["weights"], names), "between the two processes")
    if kind == "differs":
        raise NotApplicable(f"declares {feature!r} as differing; replicas are equal (`info.engine`)")
    if job.name == "a_failure_on_one_stops_both":
        messages = [outcome["message"] for outcome in outcomes]
        expect("another process" in messages[0], f"first process: expected 'another process'. Found {messages[0]!r}.")
        blamed = f"inputs[{ours['modality']!r}]"
        expect(blamed in messages[1], f"second process: expected {blamed} named. Found {messages[1]!r}.")
        expect(not ours["changed"] and not theirs["changed"], f"expected no change. Found {ours['changed'][:5]}.")
        return
    sharded = job.name == "sharded_encoders"
    for parts in (1,) if sharded or job.case.departure("accumulation") else (1, WORLD):
        method = job.case.plain() if sharded else job.case.make(3)
        whole = _vectors(job.uneven) if sharded else _batches(job.uneven)
        batches: list[Any] = [b if parts == 1 else split(b, parts) for b in whole]
        train(method, sgd(method, clip_norm=0.5), range(2), batches, total=2)
        what = "two processes against one with " + ("whole batches" if parts == 1 else "micro-batches")
        expect_near(subset(weights(method), names), subset(ours["weights"], names), 1e-9, what)
