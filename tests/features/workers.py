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
from equimodal.engine import Objective
from equimodal.engine._processes import ExactSampler
from equimodal.engine._sharding import is_sharded, local
from equimodal.engine._sharpness import Sharpness
from equimodal.errors import EquimodalError, NonFiniteError
from equimodal.fusion import Concat
from equimodal.methods import EpochContext, Method, get
from equimodal.tasks import Classification
from tests.features.helpers import SIZES, Setting, data, departure, nan_batch, plain_method, tensors
from tests.helpers import CLASSES, adamw, announce, sgd, split, take, train, weights

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
                fit(method, as_loader(half), as_loader(half))
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
        method.on_train_epoch_start(EpochContext(1, 3, 1, [half], engine, [half]))
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
    engine._unseen.note("joint", Objective(torch.tensor(float("nan") if rank == 1 else 0.0)))
    try:
        engine.raise_if_not_finite()
    except NonFiniteError as error:
        results.append(str(error))
    results.append([_broken_model(rank, setting, parts) for setting in settings for parts in (1, 2)
                    if parts == 1 or departure(setting, "accumulation") is None])  # fmt: skip
    finish(rank, folder, results)


class OnPurposeError(RuntimeError):
    """What a broken encoder of the tests raises: an error of its own, which is passed on as it is."""


def _broken_model(rank: int, setting: Setting, micro_batches: int) -> str:
    """An encoder that fails on one process, with one micro-batch or several."""
    method = plain_method(setting)
    announce(method, sgd(method), steps=1, batches=[data()])

    def fail(*_: Any) -> None:
        raise OnPurposeError("on purpose")

    if rank == 1:
        method.multimodal.encoder("a").register_forward_pre_hook(fail)  # type: ignore[attr-defined]
    try:
        method.training_step(split(data(), micro_batches), sgd(method))
    except (RuntimeError, NonFiniteError) as error:
        return str(error)
    return "nothing"


def shard(method: Method) -> Method:
    """Both encoders' layers by FSDP2, one layer of each on its own, as one would with the blocks of a large model."""
    from torch.distributed.fsdp import fully_shard

    model = cast(MultimodalModel, method.model)
    for m in model.modalities:
        encoder = model.encoder(m)
        for own in encoder if isinstance(encoder, nn.ModuleList) else [encoder]:  # one of each member
            fully_shard(cast(nn.Sequential, own)[0])
            fully_shard(own)
    return method


def whole_weights(method: Method) -> dict[str, torch.Tensor]:
    """Parameters and buffers, sharded ones gathered."""
    return {n: cast(Any, t).full_tensor() if is_sharded(t) else t for n, t in weights(method).items()}


def train_sharded(rank: int, world: int, folder: str, cases: list[tuple[Setting, bool, str]]) -> None:
    """Every method with sharded encoders on this process's half of every batch, under one more feature."""
    warnings.simplefilter("ignore")
    start(rank, world, folder)
    results: dict[int, Any] = {}
    for number, (setting, uneven, way) in enumerate(cases):
        method = shard(sharded_method(setting, way))
        engine = sharded_engine(method, way)
        half: list[Any] = [split(b, world)[rank] for b in sharded_batches(uneven)]
        if way == "accumulation":
            half = [split(b, 2) for b in half]
        before = {n: local(p).detach().clone() for n, p in method.named_parameters()}
        try:
            train(method, engine, range(2), half, total=2, after_step=lambda: looked_at(method))  # noqa: B023
        except EquimodalError as error:
            moved = [n for n, p in method.named_parameters() if not torch.equal(local(p), before[n])]
            results[number] = (type(error).__name__, str(error), moved)
            continue
        parts = [p for m in method.modalities for p in method.multimodal.parameters_of(m)]
        state = [t for p in parts for t in engine.optimizers[0].state[p].values() if t.ndim]
        held = [
            sum(local(t).numel() for t in found) / max(1, sum(t.numel() for t in found)) for found in (parts, state)
        ]
        results[number] = (whole_weights(method), held)
    finish(rank, folder, results)


def looked_at(method: Method) -> None:
    """A prediction in the middle of training, whose gathered weights must not be used in the next step."""
    method.predict(data(4, 9).inputs)


def sharded_method(setting: Setting, way: str) -> Method:
    """The method of a case."""
    method = plain_method(setting)
    if way == "sharpness":
        method.sharpness = Sharpness("full", radius=0.1, ratio=0.5)
        method.sharpness.attach(method)
    return method


def sharded_engine(method: Method, way: str) -> PlainEngine:
    """The engine of a case."""
    return (adamw if way == "adamw" else sgd)(method, clip_norm=0.5)


def sharded_batches(uneven: bool) -> list[Batch]:
    """Three; if uneven, two modalities are in some rows only, at least one of each quarter."""
    made = [data(12, seed) for seed in range(3)]
    if not uneven:
        return made
    rows = torch.arange(12)
    present = {"b.c": rows % 3 == 1, "keys": (rows % 3 == 0) | (rows == 4)}
    return [Batch(b.inputs, b.target, present, b.index) for b in made]


def refuse_sharded(rank: int, world: int, folder: str) -> None:
    """What a sharded model is refused, and that training goes on afterwards where it can."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
    from torch.nn.parallel import DistributedDataParallel

    warnings.simplefilter("ignore")
    start(rank, world, folder)
    half = split(data(), world)[rank]
    found: dict[str, str] = {}

    def attempt(name: str, method: Method, batch: Any = half, **options: Any) -> None:
        try:
            method.training_step(batch, sgd(method, **options))
            found[name] = "trained"
        except EquimodalError as error:
            found[name] = f"{type(error).__name__}: {error}"

    method = plain_method(("Joint", {}))
    fully_shard(method.multimodal.head)
    attempt("head", method)
    method = plain_method(("Joint", {}))
    parallelize_module(
        cast(MultimodalModel, method.model).encoder("a"), init_device_mesh("cpu", (world,)), {"0": ColwiseParallel()}
    )
    attempt("tensor parallel", method)
    encoders: dict[str, nn.Module] = {m: DistributedDataParallel(nn.Linear(n, 6)) for m, n in SIZES.items()}
    model = MultimodalModel(encoders, Concat(dict.fromkeys(encoders, 6)), nn.Linear(18, CLASSES),
                            feature_sizes=dict.fromkeys(encoders, 6))  # fmt: skip
    attempt("wrapper", get("Joint")(model, Classification(CLASSES)))
    attempt("loss scale", shard(plain_method(("Joint", {}))), scaler=torch.amp.GradScaler("cpu"))
    attempt("compile", shard(plain_method(("Joint", {}))), compile=True)
    try:
        fit(shard(plain_method(("Joint", {}))), as_loader([half]))
    except EquimodalError as error:
        found["trainer"] = f"{type(error).__name__}: {error}"
    for name in ("Joint", "MLA"):
        method = shard(plain_method((name, {})))
        method.on_train_epoch_start(EpochContext(0, 1, 1))
        lacking = Batch(half.inputs, half.target, {"b.c": torch.full((6,), rank == 0)})
        attempt(f"{name}, idle encoder", method, lacking)
        attempt(f"{name}, micro-batches", method, split(half, 2) if rank == 0 else half)
        attempt(f"{name}, NaN", method, nan_batch(half, "b.c") if rank == 1 else half)
        attempt(f"{name}, afterwards", method)
    finish(rank, folder, found)


def continue_sharded(rank: int, world: int, folder: str, settings: list[Setting]) -> None:
    """A file per process after the first of two epochs, loaded into new objects; and one whole file for everybody."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    warnings.simplefilter("ignore")
    start(rank, world, folder)
    results = []
    for number, setting in enumerate(settings):
        half = [split(b, world)[rank] for b in sharded_batches(uneven=False)]
        path = f"{folder}/checkpoint{number}-{rank}.pt"
        first = shard(plain_method(setting))
        engine = sharded_engine(first, "adamw")
        train(first, engine, range(1), half, total=2)
        torch.save({"method": first.state_dict(), "optimizer": engine.optimizers[0].state_dict()}, path)
        train(first, engine, range(1, 2), half, total=2)
        second = shard(plain_method(setting, seed=1))
        engine = sharded_engine(second, "adamw")
        state = torch.load(path, weights_only=True)
        second.load_state_dict(state["method"])
        engine.optimizers[0].load_state_dict(state["optimizer"])
        train(second, engine, range(1, 2), half, total=2)
        whole = get_model_state_dict(second, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        results.append((whole_weights(first), whole_weights(second), whole, second.predict(data(4, 9).inputs).output))
    finish(rank, folder, results)


def run(function: Any, folder: Path, *arguments: Any) -> list[Any]:
    """Two processes; what each of them left."""
    from tests.processes import together

    folder.mkdir(exist_ok=True)
    together(function, 2, str(folder), *arguments)
    return [torch.load(folder / f"rank{r}.pt", weights_only=True) for r in range(2)]
