"""What one of two processes does in the parallel tests; in a file of its own, so that it starts quickly."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, Dataset

from equimodal import Batch, MultimodalModel, PlainEngine
from equimodal.errors import EquimodalError, NonFiniteError
from equimodal.fusion import Concat
from equimodal.methods import EpochContext, Method, get
from equimodal.processes import ExactSampler
from equimodal.tasks import Classification
from tests.features.helpers import SIZES, Setting, data, nan_batch, plain_method, tensors
from tests.helpers import CLASSES, sgd, split, take, train, weights

UPDATES = 5


def batches(uneven: bool) -> list[Batch]:
    """Five; if uneven, one modality is in two rows of the first half only, another in a third of all."""
    made = [data(12, seed) for seed in range(UPDATES)]
    if not uneven:
        return made
    rows = torch.arange(12)
    present = {"b.c": (rows == 1) | (rows == 4), "keys": rows % 3 == 0}
    return [Batch(b.inputs, b.target, present, b.index) for b in made]


def start(rank: int, world: int, folder: str) -> None:
    """Join the group, as a launcher would have arranged it."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world),
                   "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": "29500"}  # fmt: skip
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)


def finish(rank: int, folder: str, results: Any) -> None:
    """Leave the results for the parent."""
    dist.barrier()
    torch.save(results, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


def as_loader(found: list[Batch]) -> DataLoader[Any]:
    """The batches as they are."""
    return DataLoader(cast("Dataset[Any]", found), batch_size=None)


def fit(method: Method, found: Any, validation: Any = None, sampler: bool = False, epochs: int = 1) -> dict[str, float]:
    """Through Lightning's Trainer and its DDP strategy; the validation numbers."""
    from lightning.pytorch import Trainer

    from equimodal.lightning import MethodModule

    module = MethodModule(method, lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9), clip_norm=0.5)
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, use_distributed_sampler=sampler,
    )  # fmt: skip
    trainer.fit(module, found, validation)
    return {k: float(v) for k, v in trainer.callback_metrics.items()}


def train_all(rank: int, world: int, folder: str, cases: list[tuple[Setting, bool, str]]) -> None:
    """Every method on this process's half of every batch, in a plain loop or through the Trainer."""
    warnings.simplefilter("ignore")
    start(rank, world, folder)
    results: dict[int, Any] = {}
    for number, (setting, uneven, way) in enumerate(cases):
        method = plain_method(setting, seed=rank)  # other weights, as after a careless start
        half = [split(b, world)[rank] for b in batches(uneven)]
        before = tensors(method)
        try:
            if way == "plain":
                engine = sgd(method, clip_norm=0.5)
                engine.broadcast(method)
                before = tensors(method)
                train(method, engine, range(1), half, total=2)
            else:
                fit(method, as_loader(half))
            results[number] = weights(method)
        except EquimodalError as error:
            moved = [n for n, t in tensors(method).items() if not torch.equal(t, before[n])]
            results[number] = (type(error).__name__, str(error), moved)
    finish(rank, folder, results)


class Rows(Dataset[Any]):
    """Seven samples, one at a time."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return len(self.batch)

    def __getitem__(self, item: int) -> Batch:
        return take(self.batch, torch.tensor([item]))


def join(rows: list[Batch]) -> Batch:
    """Samples as one batch."""
    inputs = {m: torch.cat([r.inputs[m] for r in rows]) for m in rows[0].inputs}
    return Batch(inputs, torch.cat([cast(torch.Tensor, r.target) for r in rows]))


def evaluate_all(rank: int, world: int, folder: str, settings: list[Setting], padded: bool) -> None:
    """Seven samples on two processes; either sampler, and batches of two."""
    warnings.simplefilter("ignore")
    start(rank, world, folder)
    results = []
    rows = Rows(data(7, 9))
    for setting in settings:
        sampler = None if padded else ExactSampler(rows)
        validation = DataLoader(rows, 2, sampler=sampler, collate_fn=join)
        method = plain_method(setting)
        for p in method.parameters():
            p.requires_grad_(True)
        half = split(data(), world)[rank]
        results.append(fit(method, as_loader([half]), validation, sampler=padded))
    finish(rank, folder, results)


def fail_on_one(rank: int, world: int, folder: str, settings: list[Setting]) -> None:
    """A NaN, then an error of the model, on process 1 only; both must raise, and training can go on."""
    warnings.simplefilter("ignore")
    start(rank, world, folder)
    results: list[Any] = []
    for setting in settings:
        method = plain_method(setting, norm=True)
        engine = sgd(method, clip_norm=0.5)
        engine.broadcast(method)
        half = split(data(), world)[rank]
        train(method, engine, range(1), [half], total=3)
        method.train()
        method.on_train_epoch_start(EpochContext(1, 3, 1, [half], engine))
        before = {n: t for n, t in tensors(method).items() if "generator" not in n}
        found = []
        try:
            method.training_step(nan_batch(half, "a") if rank == 1 else half, engine)
        except NonFiniteError as error:
            found.append(str(error))
        same = all(torch.equal(t, before[n]) for n, t in tensors(method).items() if n in before)
        method.training_step(half, engine)
        results.append((found, same, weights(method)))
    engine = PlainEngine(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1), check_finite=False)
    engine._unseen.note("joint", torch.tensor(float("nan") if rank == 1 else 0.0))
    try:
        engine.raise_if_not_finite()
    except NonFiniteError as error:
        results.append(str(error))
    results.append(_broken_model(rank))
    finish(rank, folder, results)


class Broken(nn.Linear):
    """Fails on one process."""

    def __init__(self, fails: bool) -> None:
        super().__init__(18, CLASSES)
        self.fails = fails

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.fails:
            raise RuntimeError("on purpose")
        return super().forward(x)


def _broken_model(rank: int) -> str:
    method = plain_method(("Joint", {}))
    setattr(method.model, "head", Broken(rank == 1).double())  # noqa: B010
    try:
        method.training_step(data(), sgd(method))
    except (RuntimeError, NonFiniteError) as error:
        return str(error)
    return "nothing"


def shard_all(rank: int, world: int, folder: str, names: list[str]) -> None:
    """FSDP2 and DistributedDataParallel modules inside a method."""
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel

    warnings.simplefilter("ignore")
    start(rank, world, folder)
    results = []
    for name in names:
        for kind in ("fsdp", "ddp"):
            encoders: dict[str, nn.Module] = {m: nn.Linear(n, 6) for m, n in SIZES.items()}
            if kind == "ddp":
                encoders = {m: DistributedDataParallel(e) for m, e in encoders.items()}
            model = MultimodalModel(encoders, Concat(dict.fromkeys(encoders, 6)), nn.Linear(18, CLASSES),
                                    feature_sizes=dict.fromkeys(encoders, 6))  # fmt: skip
            method = get(name)(model, Classification(CLASSES))
            if kind == "fsdp":
                for m in SIZES:
                    fully_shard(model.encoder(m))
            try:
                method.training_step(data()._map(lambda t: t.float() if t.is_floating_point() else t), sgd(method))
                results.append("trained")
            except EquimodalError as error:
                results.append(f"{type(error).__name__}: {error}")
    finish(rank, folder, results)


def run(function: Any, folder: Path, *arguments: Any) -> list[Any]:
    """Two processes; what each of them left."""
    import torch.multiprocessing as mp

    folder.mkdir(exist_ok=True)
    mp.spawn(function, args=(2, str(folder), *arguments), nprocs=2)  # type: ignore[attr-defined, no-untyped-call]
    return [torch.load(folder / f"rank{r}.pt", weights_only=True) for r in range(2)]
