"""Methods that plan their epochs: micro-batches, processes, the Trainer, half precision, compilation, resuming."""

from __future__ import annotations

import copy
import io
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from equimodal import Classification
from equimodal.data import Loader, TrainSplit, loader
from equimodal.errors import EquimodalError, MethodError, UnsupportedError
from equimodal.lightning import MethodModule
from equimodal.methods import EpochContext
from equimodal.methods.parts import planned_loader
from tests.features import workers
from tests.features.users_data import Repeated, Resampled, dataset, fit, model
from tests.helpers import CLASSES, assert_identical, assert_near, sgd, weights


def made(seed: int = 0, double: bool = True, **options: Any) -> Resampled:
    return Resampled(model(seed, double), Classification(CLASSES), **options)


def loaded(size: int = 4, missing: bool = False, **options: Any) -> Loader[TrainSplit]:
    return loader(dataset(25, missing).train, size, **{"seed": 3, **options})


def test_every_sample_is_seen_whole_and_once_more_with_its_weakest_modality() -> None:
    method, train = made(), loaded(5)
    method.on_train_epoch_start(EpochContext(0, loader=train, engine=sgd(method)))
    values = method.values(EpochContext(0, loader=train))
    assert train.epoch == 0
    seen: dict[int, list[list[bool]]] = {}
    kinds = []
    for batch in train:
        assert batch.present is not None
        assert batch.index is not None
        present = torch.stack([batch.present[m] for m in method.modalities], 1)
        kinds.append(set(map(tuple, present.tolist())))
        for i, row in zip(batch.index.tolist(), present.tolist(), strict=True):
            seen.setdefault(i, []).append(row)
    assert all(len(kind) == 1 for kind in kinds)  # one group per batch
    assert sorted(seen) == list(range(25))
    for i, rows in seen.items():
        weakest = [j == int(values[i].argmin()) for j in range(3)]
        assert all(row in ([True] * 3, weakest) for row in rows)
    assert sum(len(rows) for rows in seen.values()) >= 48  # at most one row per group stands alone


@pytest.mark.parametrize("missing", [False, True])
def test_micro_batches(missing: bool) -> None:
    """Two batches of 2 count as one of 4 (rows without groups)."""

    class Ungrouped(Resampled):
        def on_train_epoch_start(self, context: EpochContext) -> None:
            rows = {m: [-1 if i % 7 == j and i % 3 else i for i in range(24)] for j, m in enumerate(self.modalities)}
            planned_loader(self, context).plan(rows)

    whole, apart = (Ungrouped(model(), Classification(CLASSES)) for _ in range(2))
    fit(whole, sgd(whole), loaded(4, missing))
    fit(apart, sgd(apart), loaded(2, missing), accumulate=2)
    assert_near(weights(whole), weights(apart), 1e-12)


def test_float16_under_a_loss_scale() -> None:
    half, full = made(double=False), made(double=False)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    fit(half, sgd(half, lr=0.01, autocast=torch.float16, scaler=scaler), loaded(), epochs=range(1))
    fit(full, sgd(full, lr=0.01), loaded(), epochs=range(1))
    assert_near(weights(half), weights(full), 2e-2)


def test_compiled_losses() -> None:
    """Batches in which nobody has a modality, and whole ones, in turn."""
    eager, compiled = made(), made()
    torch.compiler.reset()
    fit(eager, sgd(eager), loaded(5), epochs=range(1))
    fit(compiled, sgd(compiled, compile={"backend": "eager", "fullgraph": True}), loaded(5), epochs=range(1))
    torch.compiler.reset()
    assert_near(weights(eager), weights(compiled), 1e-9)


@pytest.mark.parametrize("stop", [1, 7])
def test_resume_in_a_plain_loop(stop: int) -> None:
    """From a file, inside the second epoch; the plan is not made again."""
    whole, train = made(), loaded()
    fit(whole, sgd(whole), train)
    first, train = made(), loaded()
    engine = sgd(first)
    fit(first, engine, train, epochs=range(1))
    train.set_epoch(1)
    first.on_train_epoch_start(EpochContext(1, loader=train, engine=engine))
    iterator = iter(train)
    for _ in range(stop):
        first.training_step(next(iterator), engine)
    file = io.BytesIO()
    torch.save([first.state_dict(), engine.optimizers[0].state_dict(), train.state_dict()], file)
    file.seek(0)
    second, train = made(1), loaded()
    engine = sgd(second)
    states = torch.load(file, weights_only=True)
    for part, state in zip((second, engine.optimizers[0], train), states, strict=True):
        part.load_state_dict(state)  # type: ignore[attr-defined]
    train.set_epoch(1)
    for batch in train:
        second.training_step(batch, engine)
    assert_identical(weights(whole), weights(second))


# ---- the Trainer -----------------------------------------------------------------------------------------------------


def trainer(folder: Path, epochs: int = 3, **options: Any) -> Any:
    from lightning.pytorch import Trainer

    return Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, default_root_dir=folder, use_distributed_sampler=False,
        **{"enable_checkpointing": False, **options},
    )  # fmt: skip


def module_of(method: Any, **options: Any) -> MethodModule:
    return MethodModule(method, lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9), **options)


QUIET = pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*LeafSpec.*is deprecated.*",
                                   "ignore:.*in eval mode.*")  # fmt: skip


@QUIET
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("first", [0, 1])
def test_the_trainer(accumulate: int, first: int, tmp_path: Path) -> None:
    """Epochs with other numbers of batches than the Trainer counted: the same weights as a plain loop, each validated
    once."""
    from lightning.pytorch import Callback

    class Seen(Callback):
        def __init__(self) -> None:
            self.batches: list[int] = []
            self.validations = 0

        def on_train_epoch_start(self, *_: Any) -> None:
            self.batches.append(0)

        def on_train_batch_end(self, *_: Any) -> None:
            self.batches[-1] += 1

        def on_validation_end(self, *_: Any) -> None:
            self.validations += 1

    data, seen = dataset(25), Seen()
    inside, plain = made(first=first), made(first=first)
    validation = loader(data.validation, 7)
    train = loader(data.train, 4, seed=3, drop_last=True)
    trainer(tmp_path, callbacks=[seen]).fit(module_of(inside, accumulate=accumulate), train, validation)
    again = loader(data.train, 4, seed=3, drop_last=True)
    fit(plain, sgd(plain), again, validation, range(3), accumulate)
    assert_identical(weights(inside), weights(plain))
    assert seen.validations == 3
    assert seen.batches[:first] == [6] * first
    assert min(seen.batches[first:]) > 6
    assert seen.batches[-1] == len(again)


@QUIET
@pytest.mark.parametrize("stop", [3, 17])
def test_resume_in_the_trainer(stop: int, tmp_path: Path) -> None:
    """A checkpoint inside the first or second epoch, whose numbers of batches are not those of the loader."""
    from lightning.pytorch import Callback

    class Stop(Exception):  # noqa: N818
        pass

    class Saved(Callback):
        steps = 0

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            self.steps += 1
            if self.steps == stop:
                trainer.save_checkpoint(tmp_path / "inside.ckpt")
                raise Stop

    data = dataset(25)
    whole, cut, continued = made(), made(), made(1)

    def loaders() -> tuple[Any, Any]:
        return loader(data.train, 4, seed=3), loader(data.validation, 7)

    trainer(tmp_path).fit(module_of(whole), *loaders())
    with pytest.raises(Stop):
        trainer(tmp_path, callbacks=[Saved()]).fit(module_of(cut), *loaders())
    trainer(tmp_path).fit(module_of(continued), *loaders(), ckpt_path=str(tmp_path / "inside.ckpt"), weights_only=True)
    assert_identical(weights(whole), weights(continued))


@QUIET
def test_the_trainer_counts_a_share_of_the_batches(tmp_path: Path) -> None:
    for limit, expected in ((3, 3), (0.5, None)):
        method, train = made(), loaded()
        run = trainer(tmp_path, epochs=2, limit_train_batches=limit)
        run.fit(module_of(method), train, loader(dataset().validation, 7))
        assert run.num_training_batches == (expected or len(train) // 2)
        assert run.global_step == run.fit_loop.epoch_loop.total_batch_idx + 1


# ---- processes -------------------------------------------------------------------------------------------------------


def share(rank: int, world: int, size: int = 2, **options: Any) -> Loader[TrainSplit]:
    train = dataset(25).train
    return loader(train, size, **{"seed": 3, "drop_last": True, "indices": range(rank, len(train), world), **options})


def chosen(way: str) -> Resampled:
    return Repeated(model(), Classification(CLASSES)) if way == "sharded, all modalities" else made()


def train_shared(rank: int, world: int, folder: str, way: str) -> None:
    """Each process makes the same plan from what all have seen, and reads its part of every batch."""
    warnings.simplefilter("ignore")
    workers.start(rank, world, folder)
    method, train, rows = chosen(way), share(rank, world), []
    if way.startswith("sharded"):
        from torch.distributed.fsdp import fully_shard

        for m in method.modalities:
            fully_shard(method.model.encoder(m))  # type: ignore[operator]
    error = ""
    try:
        if way == "trainer":
            run = trainer(Path(folder), epochs=2, devices=world, strategy="ddp")
            run.fit(module_of(method, clip_norm=0.5), train)
        else:
            engine = sgd(method, clip_norm=0.5)
            fit(method, engine, train, epochs=range(1))
            state = copy.deepcopy(train.state_dict())
            again = share(rank, world)
            again.load_state_dict(state)
            fit(method, engine, again, epochs=range(1, 2))
            again.set_epoch(0)
            rows = [b.index.tolist() for b in again]  # type: ignore[union-attr]
    except EquimodalError as caught:
        error = f"{type(caught).__name__}: {caught}"
    workers.finish(rank, folder, [workers.whole_weights(method), rows, error])


@pytest.mark.distributed
@pytest.mark.parametrize("way", ["plain", "trainer", "sharded, all modalities"])
def test_two_processes(way: str, tmp_path: Path) -> None:
    """Two processes with batches of 2 equal one with batches of 4."""
    ours, theirs = workers.run(train_shared, tmp_path / "group", way)
    assert ours[2] == theirs[2] == ""
    assert_identical(ours[0], theirs[0])
    whole, train = chosen(way), loaded(4, drop_last=True)
    fit(whole, sgd(whole, clip_norm=0.5), train)
    assert_near(weights(whole), ours[0], 1e-9)
    if way != "trainer":
        train.set_epoch(0)
        both = [sorted(a + b) for a, b in zip(ours[1], theirs[1], strict=True)]
        assert both == [sorted(b.index.tolist()) for b in train]  # type: ignore[union-attr]


@pytest.mark.distributed
def test_sharded_encoders_that_would_wait_are_refused(tmp_path: Path) -> None:
    """Batches in which nobody has a modality: on both processes, by name, before anything is stepped."""
    ours, theirs = workers.run(train_shared, tmp_path / "group", "sharded")
    for found in (ours, theirs):
        assert found[2].startswith("BatchError: `batch` (phase 'joint')")
        assert "shard only encoders of complete modalities" in found[2]
    assert_identical(ours[0], theirs[0])


def refuse(rank: int, world: int, folder: str) -> None:
    """What the processes have to agree on."""
    warnings.simplefilter("ignore")
    workers.start(rank, world, folder)
    found: dict[str, str] = {}

    def attempt(name: str, train: Loader[TrainSplit], rows: list[int], **options: Any) -> None:
        try:
            train.plan(dict.fromkeys(("a", "keys-b", "keys"), rows), **options)
            found[name] = f"{len(train)} batches: {[b.index.tolist() for b in train]}"  # type: ignore[union-attr]
        except EquimodalError as error:
            found[name] = f"{type(error).__name__}: {error}"

    own = list(range(8))
    attempt("other rows", share(rank, world), own if rank else own[::-1])
    attempt("other groups", share(rank, world), own, groups=[0, rank] * 4)
    attempt("other seed", share(rank, world, seed=rank), own)
    attempt("wrong on one", share(rank, world), [*own, 99 if rank else 1])
    attempt("all samples on both", share(0, 1), own)
    attempt("too few", share(rank, world, drop_last=False), [0])
    attempt("uneven", share(rank, world, shuffle=False, drop_last=False), list(range(7)))
    attempt("one left", share(rank, world, shuffle=False, drop_last=False), list(range(5)))
    attempt("afterwards", share(rank, world, shuffle=False), own)
    noisy = share(rank, world, augment={"a": [{"noise": {"probability": 1.0}}]})
    noisy.plan({"a": [1] * 4, "keys-b": [1] * 4, "keys": [1] * 4})
    found["noise"] = str(next(iter(noisy)).inputs["a"].flatten().tolist())
    train = share(rank, world)
    train.plan({"a": own, "keys-b": own, "keys": own})
    state = train.state_dict()
    state["plan"]["processes"] = 3
    try:
        share(rank, world).load_state_dict(state)
    except EquimodalError as error:
        found["another number of processes"] = str(error)
    workers.finish(rank, folder, found)


@pytest.mark.distributed
def test_what_processes_have_to_agree_on(tmp_path: Path) -> None:
    """What one refuses, all refuse, and go on."""
    both = workers.run(refuse, tmp_path / "group")
    for found in both:
        for name in ("other rows", "other groups", "other seed"):
            assert found[name].startswith("DataError: `rows`: expected the same plan, batch size, seed"), name
        assert "indices=range(rank, n, processes)" in found["all samples on both"]
        assert "enough rows for a batch for each process. Found 1 rows" in found["too few"]
        assert "expected a plan shared by 2 process(es). Found one of 3" in found["another number of processes"]
    assert both[0]["noise"] != both[1]["noise"]  # the same sample, changed by other random numbers
    assert "refused on another process" in both[0]["wrong on one"]
    assert "positions 0 to 24" in both[1]["wrong on one"]
    assert [f["uneven"] for f in both] == ["1 batches: [[0, 2]]", "1 batches: [[1, 3]]"]  # 1 of the 3 left for one
    assert [f["one left"] for f in both] == ["1 batches: [[0, 2]]", "1 batches: [[1, 3]]"]
    assert [f["afterwards"] for f in both] == ["2 batches: [[0, 2], [4, 6]]", "2 batches: [[1, 3], [5, 7]]"]


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_loaders_that_take_no_plans() -> None:
    method, train = made(), loaded()
    with pytest.raises(MethodError, match=r"`context.loader`: Resampled plans .*Found None. Give EpochContext"):
        method.on_train_epoch_start(EpochContext(0))
    for foreign in (list(train), DataLoader(dataset().train, 4)):
        with pytest.raises(
            UnsupportedError, match=r"Resampled plans .*method `plan`. Found \w+. Make it with equimodal"
        ):
            method.on_train_epoch_start(EpochContext(0, loader=foreign))
    assert planned_loader(method, EpochContext(0, loader=train)) is train
