"""The adapter to Lightning: equal to the plain engine, accumulation, precision, order of the moments."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from equimodal import Batch, PlainEngine
from equimodal.errors import CheckpointError, EquimodalError, MethodError, NonFiniteError, UnsupportedError
from equimodal.lightning import MethodModule
from equimodal.methods import EpochContext, Method
from tests.helpers import assert_identical, assert_near, make_batch, make_method, split, weights


def adam(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=1e-2)


def as_loader(batches: Iterable[Any]) -> DataLoader[Any]:
    """The batches as they are; the Trainer would take a list for several loaders."""
    return DataLoader(cast("Dataset[Any]", list(batches)), batch_size=None)


def batches(count: int = 2, number: int = 3, dtype: torch.dtype = torch.float64) -> list[Batch]:
    found = [make_batch(count, 8, seed) for seed in range(number)]
    return [b._map(lambda t: t.to(dtype) if t.is_floating_point() else t) for b in found]


def fit(
    method: Method, train: Iterable[Any], epochs: int = 2, validation: Iterable[Any] | None = None, **options: Any
) -> MethodModule:
    trainer_options = {k: options.pop(k) for k in ("precision", "callbacks") if k in options}
    module = MethodModule(method, options.pop("optimizer", adam), lr=options.pop("lr", None), **options)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(
            max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, num_sanity_val_steps=0, use_distributed_sampler=False, **trainer_options,
        )  # fmt: skip
        trainer.fit(module, as_loader(train), None if validation is None else as_loader(validation))
    return module


def plain(method: Method, train: list[Any], epochs: int = 2, **options: Any) -> Method:
    engine = PlainEngine(adam(method.parameter_groups()), **options)
    for epoch in range(epochs):
        context = EpochContext(epoch, epochs, len(train), train, engine)
        method.train()
        method.on_train_epoch_start(context)
        for batch in train:
            method.training_step(batch, engine)
        method.on_train_epoch_end(context)
    return method


@pytest.mark.parametrize(
    ("name", "options"),
    [("Joint", {}), ("MLA", {}), ("CGGM", {"window": 1}), ("MIE", {}), ("MIE", {"sam": "momentum"}), ("Ensemble", {})],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_the_trainer_and_a_plain_loop_give_the_same_weights(name: str, options: dict[str, Any]) -> None:
    ours, other = make_method(name, 3, **options), make_method(name, 3, **options)
    fit(ours, batches(3), clip_norm=0.5)
    plain(other, batches(3), clip_norm=0.5)
    assert_identical(weights(ours), weights(other))


@pytest.mark.parametrize(("number", "accumulate"), [(5, 1), (5, 2), (5, 4), (5, 7), (4, 2)])
def test_accumulation_makes_one_update_per_k_batches(number: int, accumulate: int) -> None:
    method = make_method("Joint", 2)
    steps: list[int] = []
    original = method.training_step

    def counted(batch: Any, engine: Any) -> Any:
        steps.append(len(batch) if isinstance(batch, list) else 1)
        return original(batch, engine)

    method.training_step = counted  # type: ignore[method-assign]
    module = fit(method, batches(2, number), epochs=2, accumulate=accumulate)
    updates = -(-number // accumulate)
    assert len(steps) == 2 * updates
    assert sum(steps) == 2 * number
    assert steps[0] == min(accumulate, number)
    assert module.trainer.global_step == 2 * updates


def test_accumulated_parts_equal_the_whole_batch() -> None:
    whole = make_batch(2, 12)
    a, b = make_method("Joint", 2), make_method("Joint", 2)
    fit(a, split(whole, 3), accumulate=3)
    fit(b, [whole])
    assert_near(weights(a), weights(b))


@pytest.mark.parametrize("name", ["Joint", "MLA", "CGGM", "MIE"])
def test_bfloat16_trains_float32_weights(name: str) -> None:
    method = make_method(name, 2).float()
    before = weights(method)
    seen: list[torch.dtype] = []
    method.multimodal.head.register_forward_hook(lambda m, i, o: seen.append(o.dtype))
    fit(method, batches(dtype=torch.float32), precision="bf16-mixed", validation=batches(dtype=torch.float32))
    after = weights(method)
    assert all(t.dtype != torch.bfloat16 for t in after.values())
    assert any(not torch.equal(t, before[n]) for n, t in after.items())
    assert all(torch.isfinite(t).all() for t in after.values())
    if name in ("Joint", "CGGM"):
        assert set(seen) == {torch.bfloat16}


def test_float16_is_refused_before_a_step() -> None:
    method = make_method("Joint", 2).float()
    before = weights(method)
    with pytest.raises(UnsupportedError, match="bf16-mixed"):
        fit(method, batches(dtype=torch.float32), precision="16-true")
    assert_identical(weights(method), before)


def test_the_moments_come_in_order_with_what_they_need() -> None:
    method = make_method("MLA", 2)
    events: list[str] = []

    def spy(name: str, shown: Callable[[Any], str]) -> None:
        original = getattr(method, name)

        def called(*arguments: Any) -> Any:
            events.append(f"{name} {shown(arguments[0])}".strip())
            return original(*arguments)

        setattr(method, name, called)

    def context(c: EpochContext) -> str:
        assert c.loader is not None
        assert c.engine is not None
        return f"{c.epoch} of {c.epochs}, {c.steps} steps"

    spy("on_train_epoch_start", context)
    spy("training_step", lambda _: "")
    spy("on_validation_end", lambda value: "score" if 0 <= float(value) <= 1 else f"{value}")
    spy("on_train_epoch_end", context)
    fit(method, batches(), epochs=2, validation=batches())
    one = [
        "on_train_epoch_start {} of 2, 3 steps", "training_step", "training_step", "training_step",
        "on_validation_end score", "on_train_epoch_end {} of 2, 3 steps",
    ]  # fmt: skip
    assert events == [line.format(epoch) for epoch in range(2) for line in one]


def test_the_validation_score_is_exact_whatever_the_batch_sizes() -> None:
    method = make_method("MLA", 2)
    whole = make_batch(2, 13, seed=9)
    parts = [Batch.of(b) for b in split(whole, 4)]
    kept: dict[str, Tensor] = {}

    class Keep(Callback):
        def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
            kept.update({k: v.clone() for k, v in trainer.callback_metrics.items()})

    fit(method, batches(), epochs=1, validation=parts, callbacks=[Keep()])
    prediction = method.predict(whole.inputs)
    target = whole.target
    assert target is not None
    expected = (prediction.output.argmax(1) == target).double().mean()
    assert float(kept["validation/score"]) == pytest.approx(float(expected))
    for m, z in prediction.unimodal.items():
        own = (z.argmax(1) == target).double().mean()
        assert float(kept[f"validation/score/{m}"]) == pytest.approx(float(own))
    assert float(kept["validation/loss"]) == pytest.approx(float(method.task.loss(prediction.output, target)), rel=1e-5)


def test_the_schedule_steps_once_per_epoch() -> None:
    rates: list[float] = []

    class Rates(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    fit(
        make_method("Joint", 2),
        batches(number=2),
        epochs=3,
        lr=0.1,
        optimizer=lambda groups: torch.optim.SGD(groups, lr=0.1),
        scheduler=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda e: 0.5**e),
        callbacks=[Rates()],
    )
    assert rates == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.025, 0.025])


def test_a_loss_that_is_not_finite_is_found_at_the_end_of_the_epoch_at_the_latest() -> None:
    method = make_method("Joint", 2)
    spoilt = batches()
    bad = Batch({m: t * float("nan") if m == spoilt[1].modalities[0] else t for m, t in spoilt[1].inputs.items()},
                spoilt[1].target)  # fmt: skip
    with pytest.raises(NonFiniteError, match="audio.raw"):
        fit(make_method("Joint", 2), [spoilt[0], bad])
    with pytest.raises(NonFiniteError, match="joint"):
        fit(method, [spoilt[0], bad], check_finite=False)


def test_the_engine_exists_only_while_training() -> None:
    module = MethodModule(make_method("Joint", 2), adam)
    with pytest.raises(MethodError, match="Trainer.fit"):
        _ = module.engine
    with pytest.raises(MethodError, match="accumulate"):
        MethodModule(make_method("Joint", 2), adam, accumulate=0)


def test_double_precision_trains_in_float64(tmp_path: Path) -> None:
    """The Trainer's own conversion of a batch refuses frozen dataclasses."""
    from equimodal.studies import run
    from tests.studies.helpers import config

    metrics = run(config("MLA", precision="64-true", epochs=1), tmp_path / "run", loggers=False)
    assert 0 <= metrics["test"]["score"] <= 1


# ---- steps, schedules, loaders ---------------------------------------------------------------------------------------


class NoLength(IterableDataset[Batch]):
    """Batches that do not say how many they are."""

    def __init__(self, found: list[Batch]) -> None:
        self._found = found

    def __iter__(self) -> Any:
        return iter(self._found)


def trainer(**options: Any) -> Trainer:
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.ERROR)
    quiet: dict[str, Any] = {
        "accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
        "enable_model_summary": False, "max_epochs": 2, "num_sanity_val_steps": 0,
    }  # fmt: skip
    return Trainer(**{**quiet, **options})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_max_steps_means_the_same_number_of_batches_for_every_method(accumulate: int) -> None:
    for name in ("Joint", "MLA", "MIE", "Ensemble", "CGGM"):
        seen: list[int] = []

        class Count(Callback):
            def on_train_batch_end(self, *arguments: Any) -> None:
                seen.append(arguments[-1])  # noqa: B023

        run = trainer(max_steps=4, max_epochs=-1, callbacks=[Count()])
        run.fit(MethodModule(make_method(name, 2), adam, accumulate=accumulate), as_loader(batches(number=6)))
        assert (len(seen), run.global_step) == (4 * accumulate, 4), name


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("number", [3, 4])
def test_a_loader_of_unknown_length_trains_as_one_that_knows_it(number: int, tmp_path: Path) -> None:
    found = []
    told: list[bool] = []

    class Told(Callback):
        def on_train_batch_end(self, run: Trainer, module: Any, *_: Any) -> None:
            told.append(module.last_report is not None)

    for train in (as_loader(batches(number=number)), DataLoader(NoLength(batches(number=number)), batch_size=None)):
        method = make_method("MLA", 2, alpha_schedule="constant")  # the other one needs to know the length
        module = MethodModule(method, adam, accumulate=2)
        run = trainer(callbacks=[Told()])
        run.fit(module, train)
        run.save_checkpoint(tmp_path / "a.ckpt")
        assert run.global_step == 4
        found.append(weights(module.method))
    assert sum(told) == 8  # the last update of an epoch is made with its last batch
    assert_identical(*found)


@pytest.mark.filterwarnings("ignore")
def test_a_plateau_lowers_the_rate_and_needs_something_to_look_at() -> None:
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau
    for scheduler, expected in (
        (lambda o: plateau(o, factor=0.5, patience=0, threshold=1e9, threshold_mode="abs"), 0.025),
        (lambda o: plateau(o, mode="max", factor=0.5, patience=0, threshold=9.0, threshold_mode="abs"), 0.025),
        (
            lambda o: {"scheduler": torch.optim.lr_scheduler.StepLR(o, 1, 0.5), "interval": "step", "frequency": 2},
            0.0125,
        ),
    ):
        module = MethodModule(make_method("Joint", 2), lambda g: torch.optim.SGD(g, lr=0.1), scheduler=scheduler)
        run = trainer(max_epochs=3)
        run.fit(module, as_loader(batches(number=2)), as_loader(batches(number=1)))
        assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(expected)
    with pytest.raises(MethodError, match="expected validation data.*validation/loss"):
        fit(make_method("Joint", 2), batches(), scheduler=plateau)
    for made, message in (
        (lambda o: {"scheduler": plateau(o), "interval": "step"}, "ReduceLROnPlateau"),
        (lambda o: {"scheduler": plateau(o), "interval": "year"}, "interval.*'year'"),
        (lambda o: {"scheduler": plateau(o), "frequency": 0}, "frequency.*Found 0"),
        (lambda o: {"scheduler": plateau(o), "often": 1}, "often"),
        (lambda o: o, "lr_scheduler"),
    ):
        with pytest.raises(EquimodalError, match=message):
            fit(make_method("Joint", 2), batches(), validation=batches(), scheduler=made)


# ---- test, predict, log ----------------------------------------------------------------------------------------------


class Recorder(Logger):
    """What any logger of Lightning is given."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, dict[str, float]]] = []

    name, version = "recorder", 0

    def log_metrics(self, metrics: Any, step: Any = None) -> None:
        self.rows.append((step, dict(metrics)))

    def log_hyperparams(self, *arguments: Any, **options: Any) -> None:
        pass


@pytest.mark.filterwarnings("ignore")
def test_what_is_logged_is_what_the_steps_reported() -> None:
    reports: list[Any] = []
    recorder = Recorder()

    class Keep(Callback):
        def on_train_batch_end(self, run: Trainer, module: Any, *_: Any) -> None:
            reports.append(module.last_report)

    method = make_method("CGGM", 2, window=1)
    run = trainer(max_epochs=1, logger=[recorder], log_every_n_steps=1, callbacks=[Keep()])
    run.fit(MethodModule(method, adam), as_loader(batches(number=3)), as_loader(batches(number=1)))
    steps = [row for _, row in recorder.rows if "step/loss" in row]
    assert [row["step/loss"] for row in steps] == pytest.approx([float(r.loss) for r in reports])
    assert {row["step/lr"] for row in steps if "step/lr" in row} <= {1e-2}
    epoch = next(row for _, row in recorder.rows if "training/loss" in row)
    assert epoch["training/loss"] == pytest.approx(sum(float(r.loss) for r in reports) / 3)
    for kind in ("training/loss/", "training/coefficient/", "training/lr"):
        assert [name for name in epoch if name.startswith(kind)], kind
    for name, values in reports[0].coefficients.items():
        for m in values:
            expected = sum(float(r.coefficients[name][m]) for r in reports) / 3
            assert epoch[f"training/coefficient/{name}/{m}"] == pytest.approx(expected, rel=1e-5)
    assert any("validation/score" in row for _, row in recorder.rows)


@pytest.mark.filterwarnings("ignore")
def test_the_loggers_of_lightning_write_it(tmp_path: Path) -> None:
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

    loggers = [CSVLogger(tmp_path, "csv", ""), TensorBoardLogger(tmp_path, "board", "")]
    run = trainer(logger=loggers, log_every_n_steps=2)
    run.fit(MethodModule(make_method("MLA", 2), adam), as_loader(batches(number=4)), as_loader(batches(number=1)))
    header = next((tmp_path / "csv").rglob("metrics.csv")).read_text().splitlines()[0]
    for name in ("step/loss", "training/loss", "training/lr", "validation/score"):
        assert name in header.split(",")
    assert any((tmp_path / "board").rglob("events.*"))


def test_nothing_is_added_up_where_nothing_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    from equimodal.lightning import EpochMeans

    def refuse(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(EpochMeans, "add", refuse)
    fit(make_method("Joint", 2), batches())
    with pytest.raises(AssertionError):
        fit(make_method("Joint", 2), batches(), log=True)


@pytest.mark.filterwarnings("ignore")
def test_the_trainer_tests_and_predicts() -> None:
    method = make_method("MLA", 2)
    module, whole = MethodModule(method, adam), make_batch(2, 13, seed=9)
    parts = [Batch.of(b) for b in split(whole, 4)]
    found = trainer().test(module, as_loader(parts), verbose=False)[0]
    prediction = method.predict(whole.inputs)
    assert whole.target is not None
    assert found["test/score"] == pytest.approx(float((prediction.output.argmax(1) == whole.target).double().mean()))
    assert {f"test/score/{m}" for m in prediction.unimodal} <= set(found)
    told = trainer().predict(module, as_loader([{"inputs": b.inputs} for b in parts]))
    assert torch.allclose(torch.cat([p["output"] for p in cast("Any", told)]), prediction.output)
    assert torch.equal(module(whole.inputs), method(whole.inputs))
    with pytest.raises(UnsupportedError, match="one loader. Found 2"):
        trainer().test(module, [as_loader(parts), as_loader(parts)], verbose=False)


@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_of_another_method_or_model_is_refused(tmp_path: Path) -> None:
    run = trainer()
    run.fit(MethodModule(make_method("MLA", 2), adam), as_loader(batches()))
    run.save_checkpoint(tmp_path / "a.ckpt")
    own = MethodModule.load_from_checkpoint(tmp_path / "a.ckpt", method=make_method("MLA", 2), optimizer=adam)
    assert_identical(weights(own.method), weights(cast("MethodModule", run.lightning_module).method))
    for other, message in ((make_method("MIE", 2), "of MIE. Found one of MLA"), (make_method("MLA", 3), "this model")):
        with pytest.raises(CheckpointError, match=message):
            trainer(max_epochs=3).fit(
                MethodModule(other, adam), as_loader(batches(3)), ckpt_path=tmp_path / "a.ckpt", weights_only=True
            )
