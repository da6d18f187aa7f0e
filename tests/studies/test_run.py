"""A run: its folder, the choice on validation data, resuming, and what stops it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from equimodal.data import Dataset, SplitError, TestSplit
from equimodal.errors import DataError, MethodError, NonFiniteError, UnknownNameError
from equimodal.lightning import MethodModule
from equimodal.studies import RunConfig, build_data, fit, load_run, run
from equimodal.studies.runs import _fit, _run
from equimodal.studies.setup import resolved_options, seeded
from equimodal.tasks import Classification
from tests.helpers import assert_near
from tests.studies.helpers import Whole, arrays, assert_same_run, config, history, weights, without_time

RESUMED: list[tuple[str, dict[str, Any]]] = [
    ("Joint", {}),
    ("MLA", {"order": "shuffled"}),
    ("CGGM", {"window": 2}),
    ("MIE", {"mixup_alpha": 1.0, "sam": "every_k", "sam_every": 3}),
    ("MIE", {"sam": "momentum", "alternate": "stage", "stage_epochs": [1, 1]}),
    ("ModalityDropout", {"probability": 0.4}),
    ("PretrainFinetune", {}),
]


def stop_after(epochs: int, error: BaseException) -> Callable[[Mapping[str, Any]], None]:
    def progress(event: Mapping[str, Any]) -> None:
        if event["epoch"] == epochs:
            raise error

    return progress


def stop_at_step(monkeypatch: pytest.MonkeyPatch, number: int, error: BaseException) -> None:
    original, seen = MethodModule.training_step, [0]

    def step(self: MethodModule, batch: Any, batch_idx: int) -> None:
        seen[0] += 1
        if seen[0] == number:
            raise error
        original(self, batch, batch_idx)

    monkeypatch.setattr(MethodModule, "training_step", step)


# ---- what a run leaves ---------------------------------------------------------------------------------------------


def test_the_folder_holds_the_whole_record(tmp_path: Path) -> None:
    settings = config("MLA", {"alpha": 0.2}, seed=3, probe=True)
    metrics = run(settings, tmp_path / "a")
    folder = tmp_path / "a"
    assert {p.name for p in folder.iterdir()} == {
        "config.yaml", "environment.json", "history.jsonl", "metrics.json", "weights.safetensors", "checkpoints",
        "logs", "content.json", "details.json", "outcomes.npz",
    }  # fmt: skip
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    settings.options = resolved_options("MLA", settings.options)
    assert RunConfig.from_dict(yaml.safe_load((folder / "config.yaml").read_text())) == settings
    environment = json.loads((folder / "environment.json").read_text())
    data = build_data(settings.data)
    assert environment["data"]["fingerprint"] == data.fingerprint
    assert environment["data"]["protocol"] == "independent"
    assert torch.__version__.startswith(environment["versions"]["torch"].split("+")[0])
    assert [r["epoch"] for r in history(folder)] == [0, 1, 2]
    assert set(history(folder)[0]["losses"]) == {"m1", "m2"}
    assert set(history(folder)[0]["validation"]["unimodal"]) == {"m1", "m2"}
    assert metrics == json.loads((folder / "metrics.json").read_text())
    assert 0 <= metrics["test"]["score"] <= 1
    assert set(metrics["probe"]) == {"m1", "m2"}
    assert [p.name for p in (folder / "logs").iterdir()] == ["tensorboard"]
    assert list((folder / "logs").rglob("events.out.tfevents.*"))


def test_a_run_repeats_to_the_last_bit_and_leaves_random_state_alone(whole: Whole, tmp_path: Path) -> None:
    torch.manual_seed(5)  # if no test has asked for it before, else it was another state
    first = whole(config())
    torch.manual_seed(99)
    before = torch.get_rng_state()
    run(config(), tmp_path / "b", loggers=False)
    assert torch.equal(torch.get_rng_state(), before)
    assert_same_run(first, tmp_path / "b")


def test_another_seed_gives_other_weights(whole: Whole) -> None:
    a, b = (weights(whole(config(epochs=1, seed=seed))) for seed in (0, 1))
    assert any(not torch.equal(t, b[n]) for n, t in a.items())


def test_load_run_predicts_what_the_run_measured(tmp_path: Path) -> None:
    from equimodal.data import loader
    from equimodal.diagnostics import evaluate

    metrics = run(config("MLA", {"inference": "auto"}), tmp_path / "a", loggers=False)
    _, data, method = load_run(tmp_path / "a")
    found = evaluate(method, loader(data.test, 256))
    assert found.score == metrics["test"]["score"]
    assert found.rule == metrics["rule"]


def test_prediction_in_the_first_part_of_a_staged_training_survives_saving(tmp_path: Path) -> None:
    from equimodal.data import loader
    from equimodal.diagnostics import evaluate

    metrics = run(config("PretrainFinetune", {"pretrain": 0.9}, lr=0.05), tmp_path / "a", loggers=False)
    _, data, method = load_run(tmp_path / "a")
    assert metrics["selection"]["epoch"] < 2 or method.get_extra_state() is not None
    assert evaluate(method, loader(data.test, 256)).loss == pytest.approx(metrics["test"]["loss"], abs=1e-6)


# ---- the choice ----------------------------------------------------------------------------------------------------


def test_the_first_of_the_best_epochs_is_selected(tmp_path: Path) -> None:
    metrics = run(config(epochs=4), tmp_path / "a", loggers=False)
    scores = [r["validation"]["score"] for r in history(tmp_path / "a")]
    assert metrics["selection"]["epoch"] == scores.index(max(scores))
    assert metrics["selection"]["score"] == max(scores)
    assert metrics["validation"]["score"] == pytest.approx(max(scores))


def test_the_last_epoch_can_be_asked_for(tmp_path: Path) -> None:
    metrics = run(config(selection="last"), tmp_path / "a", loggers=False)
    assert metrics["selection"]["epoch"] == 2
    assert metrics["selection"]["score"] == history(tmp_path / "a")[-1]["validation"]["score"]
    assert metrics["validation"]["score"] == pytest.approx(metrics["selection"]["score"])


def test_the_test_split_is_not_read_before_everything_is_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, reads = [False], [0]
    original_test, original_batch = Dataset.test, TestSplit.batch
    original_inference = _fit._select

    def spy_test(self: Dataset) -> TestSplit:
        assert chosen[0], "the test split was asked for before the epoch was chosen"
        return original_test.func(self)  # type: ignore[attr-defined, no-any-return]

    def spy_batch(self: TestSplit, *rest: Any) -> Any:
        assert chosen[0], "a test sample was read before the epoch was chosen"
        reads[0] += 1
        return original_batch(self, *rest)

    def select(*arguments: Any) -> Any:
        found = original_inference(*arguments)
        chosen[0] = True
        return found

    monkeypatch.setattr(Dataset, "test", property(spy_test))
    monkeypatch.setattr(TestSplit, "batch", spy_batch)
    monkeypatch.setattr(_fit, "_select", select)
    run(config(), tmp_path / "a", loggers=False)
    assert reads[0] > 0


@pytest.mark.parametrize("which", ["train", "validation"])
def test_fitting_on_the_test_split_is_a_type_error(tmp_path: Path, which: str) -> None:
    settings = config()
    data = build_data(settings.data)
    splits: dict[str, Any] = {"train": data.train, "validation": data.validation, which: data.test}
    with pytest.raises(TypeError, match=f"`{which}`: expected a .*Found TestSplit") as caught:
        fit(seeded(settings, data), splits["train"], splits["validation"], settings, tmp_path)
    assert isinstance(caught.value, SplitError)


def test_training_stops_early_on_validation_data(tmp_path: Path) -> None:
    run(config(epochs=30, patience=2, lr=0.05), tmp_path / "a", loggers=False)
    scores = [r["validation"]["score"] for r in history(tmp_path / "a")]
    assert len(scores) < 30
    assert scores.index(max(scores)) == len(scores) - 3


# ---- resuming ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "options"), RESUMED, ids=lambda v: v if isinstance(v, str) else None)
def test_an_interrupted_run_continues_to_the_same_weights(
    whole: Whole, tmp_path: Path, method: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(method, options, epochs=4)
    with pytest.raises(RuntimeError, match="stop"):
        run(settings, tmp_path / "parts", loggers=False, progress=stop_after(2, RuntimeError("stop")))
    with monkeypatch.context() as patch:  # epoch 1 is done again (its checkpoint was not written); stop inside epoch 2
        stop_at_step(patch, 8, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            run(settings, tmp_path / "parts", resume=True, loggers=False)
    assert not (tmp_path / "parts" / "metrics.json").exists()
    run(settings, tmp_path / "parts", resume=True, loggers=False)
    assert [r["epoch"] for r in history(tmp_path / "parts")] == [0, 1, 2, 3]
    assert_same_run(whole(settings), tmp_path / "parts")


def test_a_run_that_ended_before_its_first_checkpoint_starts_again(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_at_step(patch, 2, RuntimeError("stop"))
        with pytest.raises(RuntimeError, match="stop"):
            run(config(), tmp_path / "parts", loggers=False)
    run(config(), tmp_path / "parts", resume=True, loggers=False)
    assert_same_run(whole(config()), tmp_path / "parts")


@pytest.mark.parametrize("patience", [None, 1])
def test_a_run_that_ended_after_the_training_is_only_evaluated(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: int | None
) -> None:
    settings = config(epochs=6, patience=patience, lr=0.05)

    def full(*_: Any) -> Any:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(_run, "_finish", full)
        with pytest.raises(MemoryError):
            run(settings, tmp_path / "parts", loggers=False)
    with monkeypatch.context() as patch:
        stop_at_step(patch, 1, AssertionError("trained again"))
        run(settings, tmp_path / "parts", resume=True, loggers=False)
    assert_same_run(whole(settings), tmp_path / "parts")


def test_a_folder_that_was_moved_still_knows_its_best_epoch(whole: Whole, tmp_path: Path) -> None:
    settings = config(epochs=4, lr=0.05)
    with pytest.raises(RuntimeError, match="stop"):
        run(settings, tmp_path / "before", loggers=False, progress=stop_after(4, RuntimeError("stop")))
    shutil.move(tmp_path / "before", tmp_path / "after")
    run(settings, tmp_path / "after", resume=True, loggers=False)
    for name, tensor in weights(whole(settings)).items():
        assert torch.equal(tensor, weights(tmp_path / "after")[name])


def test_a_finished_run_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(config(), tmp_path / "a", loggers=False)
    stop_at_step(monkeypatch, 1, AssertionError("trained again"))
    assert run(config(), tmp_path / "a", resume=True, loggers=False) == first


def test_a_folder_in_use_is_refused(whole: Whole, tmp_path: Path) -> None:
    shutil.copytree(whole(config(epochs=1)), tmp_path / "a")
    before = (tmp_path / "a" / "metrics.json").read_bytes()
    with pytest.raises(DataError, match="Continue it with --resume"):
        run(config(epochs=1), tmp_path / "a", loggers=False)
    assert (tmp_path / "a" / "metrics.json").read_bytes() == before


@pytest.mark.parametrize("finished", [True, False])
def test_another_configuration_cannot_take_over_a_folder(whole: Whole, tmp_path: Path, finished: bool) -> None:
    shutil.copytree(whole(config(epochs=1)), tmp_path / "a")
    if not finished:
        (tmp_path / "a" / "metrics.json").unlink()
    with pytest.raises(DataError, match="other values of training"):
        run(config(epochs=1, lr=0.5), tmp_path / "a", resume=True, loggers=False)


def test_changed_data_are_refused_when_resuming(tmp_path: Path) -> None:
    settings = config()
    with pytest.raises(RuntimeError, match="stop"):
        run(settings, tmp_path / "a", loggers=False, progress=stop_after(2, RuntimeError("stop")), data=arrays(0))
    with pytest.raises(DataError, match="the data have changed"):
        run(settings, tmp_path / "a", resume=True, loggers=False, data=arrays(1))


# ---- what stops it -------------------------------------------------------------------------------------------------


def test_nan_in_the_data_names_modality_batch_and_sample_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    settings = config()
    run(settings, tmp_path / "whole", loggers=False, data=arrays())
    data = arrays()
    ready = data._store.sources["m2"]._ready
    assert ready is not None
    good = ready[5].clone()

    def spoil(event: Mapping[str, Any]) -> None:
        if event["epoch"] == 2:
            ready[5] = float("nan")

    with pytest.raises(NonFiniteError, match=r"inputs\['m2'\] of batch \d.*dataset indices \[5\]"):
        run(settings, tmp_path / "a", loggers=False, progress=spoil, data=data)
    assert [r["epoch"] for r in history(tmp_path / "a")] == [0, 1]
    ready[5] = good
    run(settings, tmp_path / "a", resume=True, loggers=False, data=data)
    assert_same_run(tmp_path / "whole", tmp_path / "a")


@pytest.mark.parametrize("method", ["Joint", "MLA"])
def test_nan_in_the_loss_names_phase_and_samples_and_keeps_the_checkpoint(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    original, spoilt = Classification.loss, [False]

    def loss(self: Classification, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        value = original(self, output, target)
        return value * float("nan") if spoilt[0] and torch.is_grad_enabled() else value

    def spoil(event: Mapping[str, Any]) -> None:
        spoilt[0] = event["epoch"] == 2

    with monkeypatch.context() as patch:
        patch.setattr(Classification, "loss", loss)
        phase = "joint" if method == "Joint" else "m1"
        with pytest.raises(NonFiniteError, match=rf"Loss of phase '{phase}'.*indices of the batch: \[\d+, "):
            run(config(method), tmp_path / "a", loggers=False, progress=spoil)
    run(config(method), tmp_path / "a", resume=True, loggers=False)
    assert_same_run(whole(config(method)), tmp_path / "a")


def test_a_protocol_without_test_data_is_refused_before_training(tmp_path: Path) -> None:
    import numpy as np

    from equimodal.data import from_arrays

    inputs = {m: np.random.default_rng(0).standard_normal((40, 7)) for m in ("m1", "m2")}
    data = from_arrays(inputs, np.arange(40) % 3, ["train"] * 30 + ["validation"] * 10)
    with pytest.raises(DataError, match="no test part"):
        run(config(), tmp_path / "a", data=data)
    assert not (tmp_path / "a").exists()


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"training\.precision '16-true'"):
        config(precision="16-true")
    with pytest.raises(MethodError, match="training.checkpoint_every"):
        config(checkpoint_every=0)
    with pytest.raises(MethodError, match="training.epochs"):
        config(epochs=0)
    with pytest.raises(UnknownNameError, match="Did you mean 'epochs'"):
        RunConfig.from_dict({"training": {"epoch": 3}})


def test_a_configuration_survives_the_way_through_yaml() -> None:
    settings = config("CGGM", {"direction_weight": 0, "direction": None}, seed=4, clip_norm=0.8)
    again = RunConfig.from_dict(yaml.safe_load(yaml.safe_dump(settings.to_dict())))
    assert again == settings
    assert again.options["direction_weight"] == 0


def test_bfloat16_runs(tmp_path: Path) -> None:
    metrics = run(config("MLA", epochs=1, precision="bf16-mixed"), tmp_path / "a", loggers=False)
    assert 0 <= metrics["test"]["score"] <= 1
    assert without_time(metrics)


# ---- compiled losses -----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # raised inside torch
@pytest.mark.parametrize(("value", "asked"), [(True, {}), ("max-autotune", {"mode": "max-autotune"})])
def test_a_compiled_run_asks_torch_and_learns_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: bool | str, asked: dict[str, Any]
) -> None:
    found: list[dict[str, Any]] = []

    def compile_(function: Any, **options: Any) -> Any:
        found.append(options)
        return function

    run(config("MLA"), tmp_path / "eager")
    assert not found
    monkeypatch.setattr(torch, "compile", compile_)
    run(config("MLA", compile=value), tmp_path / "compiled")
    assert found == [asked]
    assert yaml.safe_load((tmp_path / "compiled" / "config.yaml").read_text())["training"]["compile"] == value
    assert_near(weights(tmp_path / "compiled"), weights(tmp_path / "eager"), 0.0)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # raised inside torch
def test_an_unknown_way_to_compile_is_refused_before_anything_is_read() -> None:
    with pytest.raises(MethodError, match=r"`training.compile`: expected true, false or a mode.*'reduce-overhead'\?"):
        config(compile="reduce_overhead")
