"""Killed at any step, asked to end, cut files, full disks, two processes in one folder: nothing is lost."""

from __future__ import annotations

import random
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from equimodal.engine._random_state import load_random_state, save_random_state
from equimodal.errors import CheckpointError, DataError, EquimodalWarning, MethodError, StorageError
from equimodal.lightning import MethodModule
from equimodal.studies import RunConfig, run
from equimodal.studies.runs import REQUEUE, Terminated, Termination, locked
from equimodal.studies.runs._checkpoint import newest
from equimodal.studies.setup import companion_options
from tests.features import killed
from tests.features.helpers import SETTINGS, Setting, departure
from tests.helpers import setting_id
from tests.processes import context
from tests.studies.helpers import Whole, assert_same_run, config, history

# a setting that says so: the optimizers of these tests cancel it
pytestmark = pytest.mark.filterwarnings("ignore:apply_to='gradient':equimodal.errors.OptimizerWarning")

STEPS = 10
"""Of a run: two epochs of five batches."""


def settings_of(setting: Setting, seed: int = 0, **training: Any) -> RunConfig:
    options = {k: list(v) if isinstance(v, tuple) else v for k, v in setting[1].items() if k != "small"}
    found = config(setting[0], options, seed, **{"epochs": 2, "clip_norm": 1.0, **training})
    if setting[1].get("variant") == "released" and setting[0] == "CGGM":
        found.training.optimizer, found.training.lr = "sgd", 1e-4
    return found


def taught(settings: RunConfig, whole: Whole) -> RunConfig:
    """The settings with a finished run as the companions that the method cannot train without."""
    options = companion_options(settings.method)
    settings.uses = dict.fromkeys(options, str(whole(settings_of(("Ensemble", {}))))) if options else {}
    return settings


class Stop(Exception):  # noqa: N818
    """Raised in the middle of a training."""


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int, action: Any) -> None:
    original, seen = MethodModule.training_step, [0]

    def stepped(self: MethodModule, batch: Any, batch_idx: int) -> None:
        original(self, batch, batch_idx)
        seen[0] += 1
        if seen[0] == step:
            action()

    monkeypatch.setattr(MethodModule, "training_step", stepped)


def fail() -> None:
    raise Stop


@pytest.mark.filterwarnings("ignore::equimodal.errors.OptimizerWarning")  # AdamW cancels a scale on the gradient
@pytest.mark.parametrize("setting", SETTINGS, ids=setting_id)
def test_resume(setting: Setting, whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut inside the second epoch, in memory as a crash would; a checkpoint after every second update."""
    if departure(setting, "resume") is not None:
        pytest.skip("says that it departs")
    settings = taught(settings_of(setting, checkpoint_every=2), whole)
    with monkeypatch.context() as patch:
        stop_after(patch, 8, fail)
        with pytest.raises(Stop):
            run(settings, tmp_path / "parts", loggers=False)
    found = newest(tmp_path / "parts" / "checkpoints")
    assert found is not None
    assert found[1]["inside_epoch"]
    taken = [0]
    with monkeypatch.context() as patch:
        stop_after(patch, 1, lambda: taken.__setitem__(0, 1))
        run(settings, tmp_path / "parts", resume=True, loggers=False)
    assert taken == [1]
    assert_same_run(whole(settings), tmp_path / "parts")


@pytest.mark.slow
def test_killed_twenty_times_in_a_row(whole: Whole, tmp_path: Path) -> None:
    """kill -9 at a random step, over all methods and settings, each killed until twenty kills are spent."""
    rng, kills = random.Random(7), 20
    order = [s for s in SETTINGS if departure(s, "resume") is None]
    rng.shuffle(order)
    per_setting = -(-kills // len(order))
    done = 0
    for number, setting in enumerate(order):
        settings = taught(settings_of(setting, checkpoint_every=2), whole)
        for _ in range(per_setting):
            code = killed.train(settings, tmp_path / f"parts{number}", (rng.randint(1, 6), signal.SIGKILL))
            assert code in (0, -signal.SIGKILL)
            done += code != 0
        assert killed.train(settings, tmp_path / f"parts{number}") == 0
        assert_same_run(whole(settings), tmp_path / f"parts{number}")
    assert done >= min(kills, len(order))


@pytest.mark.slow
def test_killed_twenty_times_in_one_run(whole: Whole, tmp_path: Path) -> None:
    """The same folder again and again, while it writes a checkpoint after every update."""
    rng = random.Random(3)
    settings = settings_of(("MIE", {"mixup_alpha": 1.0}), epochs=12, checkpoint_every=1)
    codes = [killed.train(settings, tmp_path / "parts", (rng.randint(1, 4), signal.SIGKILL)) for _ in range(20)]
    assert codes == [-signal.SIGKILL] * 20
    assert killed.train(settings, tmp_path / "parts") == 0
    assert_same_run(whole(settings), tmp_path / "parts")


def test_a_kill_between_micro_batches_and_under_a_loss_scale(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoints only where no micro-batch waits; the scale of float16 continues too."""
    settings = settings_of(("MLA", {}), precision="16-mixed", accumulate=2, checkpoint_every=1, epochs=2)
    with monkeypatch.context() as patch:
        stop_after(patch, 8, fail)
        with pytest.raises(Stop):
            run(settings, tmp_path / "parts", loggers=False)
    content = torch.load(tmp_path / "parts/checkpoints/last.ckpt", weights_only=True)
    assert content["MixedPrecision"]["scale"] > 0
    run(settings, tmp_path / "parts", resume=True, loggers=False)
    assert_same_run(whole(settings), tmp_path / "parts")
    ends = [torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["MixedPrecision"]
            for folder in (whole(settings), tmp_path / "parts")]  # fmt: skip
    assert ends[0] == ends[1]


# ---- asked to end ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [3, 5, 7])
def test_sigterm_saves_and_asks_for_a_restart(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """In the middle of an epoch, at its last step (validation and the epoch's checkpoint come first), and later."""
    settings = settings_of(("CGGM", {"window": 2}))
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        stop_after(patch, step, lambda: signal.raise_signal(signal.SIGTERM))
        with pytest.warns(EquimodalWarning, match="Continue .*--resume"), pytest.raises(SystemExit) as caught:
            run(settings, tmp_path / "parts", loggers=False)
    assert caught.value.code == REQUEUE == 75
    assert signal.getsignal(signal.SIGTERM) == before
    assert not (tmp_path / "parts" / "metrics.json").exists()
    steps = [0]
    with monkeypatch.context() as patch:
        original = MethodModule.training_step

        def counted(self: MethodModule, batch: Any, batch_idx: int) -> None:
            steps[0] += 1
            original(self, batch, batch_idx)

        patch.setattr(MethodModule, "training_step", counted)
        run(settings, tmp_path / "parts", resume=True, loggers=False)
    assert steps[0] == STEPS - step  # not one step twice
    assert_same_run(whole(settings), tmp_path / "parts")


def _compare(folder: str, workers: int) -> None:
    from equimodal.studies import Entry, StudyConfig, compare

    made = settings_of(("Joint", {}), epochs=60)
    entries = {"Joint": Entry("Joint"), "MLA": Entry("MLA")}
    compare(StudyConfig(entries, [0], made.data, made.model, made.training, False), folder, workers=workers, cost=False)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_reaches_every_cell_of_a_comparison(tmp_path: Path, workers: int) -> None:
    """The cells that run save in the middle of their training, and the exit code asks for a restart."""
    process = context().Process(target=_compare, args=(str(tmp_path / "study"), workers))
    process.start()
    cells = tmp_path / "study" / "cells"
    for _ in range(1200):
        if len(list(cells.rglob("last.ckpt"))) == workers:
            break
        time.sleep(0.1)
    process.terminate()
    process.join(120)
    assert process.exitcode == REQUEUE
    assert len(list(cells.rglob("last.ckpt"))) == workers
    assert not list((tmp_path / "study").rglob("metrics.json"))
    assert not list((tmp_path / "study").rglob(".lock"))


def test_a_second_signal_ends_at_once_and_other_threads_are_left_alone() -> None:
    import pickle

    with Termination() as termination:
        signal.raise_signal(signal.SIGTERM)
        assert termination.requested
    stop = pickle.loads(pickle.dumps(Terminated("folder")))
    assert (stop.code, stop.folder) == (REQUEUE, "folder")
    before, seen = signal.getsignal(signal.SIGTERM), []

    def elsewhere() -> None:
        with Termination() as other:
            seen.append(other.requested)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [False]
    assert signal.getsignal(signal.SIGTERM) == before


# ---- files ----------------------------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def test_a_truncated_checkpoint_falls_back_to_the_one_before(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(("MLA", {}), checkpoint_every=2)
    with monkeypatch.context() as patch:
        stop_after(patch, 8, fail)
        with pytest.raises(Stop):
            run(settings, tmp_path / "parts", loggers=False)
    folder = tmp_path / "parts" / "checkpoints"
    assert {p.name for p in folder.iterdir()} == {"best.ckpt", "last.ckpt", "previous.ckpt"}
    shutil.copytree(tmp_path / "parts", tmp_path / "both")
    cut(folder / "last.ckpt")
    (folder / ".last.ckpt.123.partial").write_bytes(b"of a process that was killed")
    with pytest.warns(EquimodalWarning, match=r"last\.ckpt.*truncated.*previous\.ckpt"):
        run(settings, tmp_path / "parts", resume=True, loggers=False)
    assert_same_run(whole(settings), tmp_path / "parts")
    assert {p.name for p in folder.iterdir()} == {"best.ckpt", "last.ckpt", "unreadable.ckpt"}
    for name in ("last.ckpt", "previous.ckpt"):
        cut(tmp_path / "both" / "checkpoints" / name)
    with pytest.raises(CheckpointError, match=r"last\.ckpt"):
        run(settings, tmp_path / "both", resume=True, loggers=False)


def test_a_crash_between_two_renames_leaves_the_one_before(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(("Joint", {}), checkpoint_every=2)
    with monkeypatch.context() as patch:
        stop_after(patch, 8, fail)
        with pytest.raises(Stop):
            run(settings, tmp_path / "parts", loggers=False)
    (tmp_path / "parts/checkpoints/last.ckpt").unlink()
    run(settings, tmp_path / "parts", resume=True, loggers=False)
    assert_same_run(whole(settings), tmp_path / "parts")


def test_a_disk_that_fills_up_inside_an_epoch_loses_nothing(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(("Joint", {}), checkpoint_every=2)
    saved, original = [0], torch.save

    def save(content: Any, file: Any) -> None:
        saved[0] += 1
        if saved[0] == 5:
            file.write(b"the first bytes")
            raise OSError(28, "No space left on device")
        original(content, file)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save)
        with pytest.raises(StorageError, match=r"No space left.*--resume"):
            run(settings, tmp_path / "parts", loggers=False)
    assert not [p for p in (tmp_path / "parts/checkpoints").iterdir() if p.name.startswith(".")]
    run(settings, tmp_path / "parts", resume=True, loggers=False)
    assert_same_run(whole(settings), tmp_path / "parts")
    assert [r["epoch"] for r in history(tmp_path / "parts")] == [0, 1]


def test_saving_between_micro_batches_is_refused() -> None:
    from tests.helpers import make_batch, make_method

    module = MethodModule(make_method("Joint", 2), lambda groups: torch.optim.SGD(groups, lr=0.1), accumulate=2)
    assert module.at_boundary
    module._pending = [make_batch(2)]
    assert not module.at_boundary
    with pytest.raises(MethodError, match="between micro-batches"):
        module.on_save_checkpoint({})


# ---- two at once ----------------------------------------------------------------------------------------------------


def _hold(folder: str, ready: str) -> None:
    with locked(Path(folder)):
        Path(ready).touch()
        time.sleep(60)


def test_two_processes_in_one_folder(tmp_path: Path) -> None:
    """The second is refused with the number of the first; a lock ends with its process, however that ends."""
    from equimodal.studies import Entry, StudyConfig, compare

    settings = settings_of(("Joint", {}))
    process = context().Process(target=_hold, args=(str(tmp_path / "run"), str(tmp_path / "ready")))
    process.start()
    try:
        for _ in range(600):
            if (tmp_path / "ready").exists():
                break
            time.sleep(0.1)
        with pytest.raises(DataError, match=rf"in use by process {process.pid}"):
            run(settings, tmp_path / "run", loggers=False)
        study = StudyConfig({"Joint": Entry("Joint")}, [0], settings.data, settings.model, settings.training, False)
        with pytest.raises(DataError, match="in use by process"):
            compare(study, tmp_path / "run", cost=False)
    finally:
        process.kill()
        process.join()
    run(settings, tmp_path / "run", loggers=False)
    assert not (tmp_path / "run" / ".lock").exists()


def test_a_lock_is_gone_after_the_block_also_after_an_error(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(Stop), locked(tmp_path / "x"):
            with pytest.raises(DataError, match="in use"), locked(tmp_path / "x"):
                pass
            raise Stop
    assert list((tmp_path / "x").iterdir()) == []


# ---- random state ---------------------------------------------------------------------------------------------------


def test_random_state_of_all_generators_through_a_file(tmp_path: Path) -> None:
    import numpy as np

    torch.save(save_random_state(), tmp_path / "state.pt")
    drawn = [(float(torch.rand(())), random.random(), float(np.random.rand())) for _ in range(2)]  # noqa: NPY002
    load_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [(float(torch.rand(())), random.random(), float(np.random.rand())) for _ in range(2)] == drawn  # noqa: NPY002
    load_random_state({})
