"""A comparison on two machines of a cluster: the numbers of one process, also where one is lost, or it is ended.

Skipped where Ray is not installed, which the tests do not ask for: it has 240 MB. pip install "equimodal[ray]"
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import equimodal
from equimodal.errors import EquimodalError, EquimodalWarning, MissingExtraError
from equimodal.studies import Entry, RayExecutor, StudyConfig, compare
from equimodal.studies.runs import is_finished
from tests.studies.helpers import assert_same_run, config, history
from tests.studies.uses import EACH, SINGLE, install, remove

HAVE = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAVE, reason="Ray is not installed")
EPOCHS = 8


def study() -> StudyConfig:
    one = config(epochs=EPOCHS)
    entries = {"student": Entry("Taught", {"weight": 0.3}, EACH), **SINGLE, "Joint": Entry("Joint")}
    return StudyConfig(entries, [0], one.data, one.model, one.training, controls=False)


CELLS = ["first/seed0", "second/seed0", "student/seed0", "Joint/seed0"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("site")
    install(folder)
    yield folder
    remove(folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, site: Path) -> Path:
    """The study in one process; only read."""
    folder = tmp_path_factory.mktemp("whole") / "s"
    compare(study(), folder, cost=False)
    return folder


@pytest.fixture(scope="module")
def path(site: Path, root: Path) -> str:
    """What the processes of the cluster import."""
    return os.pathsep.join([str(Path(equimodal.__file__).parents[1]), str(root), str(site), *os.environ.get(
        "PYTHONPATH", "").split(os.pathsep)])  # fmt: skip


@pytest.fixture
def cluster(path: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head that runs no cell, for machines that a test adds."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # else a busy machine starves them
    quick = {"health_check_period_ms": 500, "health_check_timeout_ms": 1000, "health_check_failure_threshold": 3,
             "health_check_initial_delay_ms": 0}  # fmt: skip
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": quick, "object_store_memory": 80_000_000}
    made = Cluster(initialize_head=True, head_node_args=head)
    yield made
    made.shutdown()


def add(cluster: Any) -> Any:
    return cluster.add_node(num_cpus=1, object_store_memory=80_000_000)


def cells(folder: Path) -> list[Path]:
    return [folder / "cells" / cell for cell in CELLS]


def epochs(folder: Path) -> int:
    return len(history(folder)) if (folder / "history.jsonl").exists() else 0


def assert_each_once(ours: Path, theirs: Path) -> None:
    for mine, other in zip(cells(ours), cells(theirs), strict=True):
        assert_same_run(mine, other)
        assert [record["epoch"] for record in history(mine)] == list(range(EPOCHS))


@needs_ray
@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_a_machine_that_is_lost(tmp_path: Path, whole: Path, cluster: Any) -> None:
    """Killed while both train; what it did goes on on the other one, from the last whole epoch."""
    add(cluster)
    doomed = add(cluster)
    finished: dict[str, bytes] = {}
    lost = False
    before = signal.getsignal(signal.SIGTERM)

    def progress(done: int, total: int, what: str) -> None:
        nonlocal lost
        going = [f for f in cells(tmp_path / "s")[:2] if epochs(f) >= 2 and not is_finished(f)]
        if len(going) == 2 and not lost:
            cluster.remove_node(doomed, allow_graceful=False)
            lost = True
        for folder in cells(tmp_path / "s"):
            if is_finished(folder):
                finished.setdefault(str(folder), (folder / "content.json").read_bytes())

    compare(study(), tmp_path / "s", cost=False, executor=RayExecutor(address=cluster.address), progress=progress)
    assert lost
    assert_each_once(tmp_path / "s", whole)
    for name, content in finished.items():  # nothing finished was touched again
        assert (Path(name) / "content.json").read_bytes() == content
    assert signal.getsignal(signal.SIGTERM) is before


@needs_ray
@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::ResourceWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_ends_its_cells_and_goes_on(
    number: signal.Signals, tmp_path: Path, whole: Path, cluster: Any, path: str
) -> None:
    add(cluster)
    add(cluster)
    settings = study()
    described = {
        "data": vars(settings.data), "model": vars(settings.model), "training": vars(settings.training), "cost": False,
        "controls": False, "seeds": [0], "entries": {k: vars(e) for k, e in settings.entries.items()},
    }  # fmt: skip
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(described, sort_keys=False), encoding="utf-8")
    command = [
        sys.executable, "-m", "equimodal", "compare", "--config", "study.yaml", "--out", "s", "--executor", "ray",
        "--address", cluster.address,
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": path}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True)  # fmt: skip
    deadline = time.monotonic() + 400
    while not any(epochs(f) >= 2 for f in cells(tmp_path / "s")) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == (75 if number == signal.SIGTERM else 130), (out, err)
    assert "Traceback" not in err
    assert f"--executor ray --address {cluster.address}" in err
    before = [epochs(f) for f in cells(tmp_path / "s")]
    assert before != [EPOCHS] * 4
    time.sleep(3)
    assert [epochs(f) for f in cells(tmp_path / "s")] == before, "nothing runs any more"
    again = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert_each_once(tmp_path / "s", whole)


@needs_ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_what_no_machine_has_is_told(cluster: Any) -> None:
    with (
        pytest.warns(EquimodalWarning, match=r"no machine of the cluster \(0 CPU, 0 GPU\) has 64 CPU and 0.5 GPU"),
        RayExecutor(64, 0.5, cluster.address) as executor,
    ):
        assert executor.arguments == f"--executor ray --cpus 64 --gpus 0.5 --address {cluster.address}"


@needs_ray
@pytest.mark.slow
def test_no_cluster_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(EquimodalError, match=r"`address`: expected a Ray cluster.*127.0.0.1:1.*ray start --head"):
        RayExecutor(address="127.0.0.1:1").__enter__()


@pytest.mark.skipif(HAVE, reason="Ray is installed")
def test_without_ray_the_extra_is_named(tmp_path: Path) -> None:
    one = config(epochs=1)
    alone = StudyConfig({"Joint": Entry("Joint")}, [0], one.data, one.model, one.training, controls=False)
    with pytest.raises(MissingExtraError, match=r"equimodal\[ray\]"):
        compare(alone, tmp_path / "s", cost=False, executor="ray")
