"""What a comparison costs beside its training: cells in warm workers, and the restart of one that is finished.

    python benchmarks/studies.py [--cells 1000] [--workers 2] [--out benchmarks/results/studies.json]

A tiny cell is two epochs of eight steps with all that a run leaves, probes included. Seconds of processor time in a
worker are told by the worker itself, for its start and for each cell. For the restart one cell is trained and copied
with other seeds, hashes and all; then the same comparison is called again, and its page is written.

Times are of this machine; a loop of Python's own, timed in the same run, says how fast that is.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from equimodal.report import render_report
from equimodal.studies import DataConfig, Entry, ModelConfig, StudyConfig, TrainingConfig, build_data, compare
from equimodal.studies.comparisons import worker_pool
from equimodal.studies.comparisons._executor import Cell
from equimodal.studies.comparisons._workers import run_cell
from equimodal.studies.runs import Termination, read_json, read_yaml, seal, write_json, write_yaml

DATA = DataConfig("synthetic", options={"train": 256, "validation": 64, "test": 64})


def study(seeds: list[int]) -> StudyConfig:
    """One entry, without controls."""
    training = TrainingConfig(epochs=2, batch_size=32, device="cpu")
    model = ModelConfig(feature_size=8, size="small")
    return StudyConfig({"Joint": Entry("Joint")}, seeds, DATA, model, training, controls=False)


def reference() -> float:
    """Processor seconds of a loop of ten million rounds."""
    start, total = time.process_time(), 0
    for i in range(10_000_000):
        total += i * i % 7
    return time.process_time() - start


def used(work: Callable[..., Any], *arguments: Any) -> float:
    """Processor seconds of a call."""
    start = time.process_time()
    work(*arguments)
    return time.process_time() - start


def warm(folder: Path, workers: int, count: int) -> dict[str, Any]:
    """Processor seconds of a worker until it takes its first cell, and of each cell."""
    data = build_data(DATA)
    cells = [
        Cell(name, config, folder / str(config.seed), DATA, data.fingerprint)
        for name, config in study(list(range(count))).cells(data).items()
    ]
    with worker_pool(workers, Termination(), folder) as pool:
        first = [pool.submit(time.process_time) for _ in range(workers)]
        tasks = [pool.submit(used, run_cell, cell) for cell in cells]
        waiting = {*first, *tasks}
        while waiting:
            waiting -= set(pool.wait())
    seconds = [task.result() for task in tasks]
    return {
        "start": max(task.result() for task in first),
        "first_cell": seconds[0],
        "median_of_the_later_ones": statistics.median(seconds[workers:]),
    }


def copied(folder: Path, count: int) -> None:
    """A finished comparison of ``count`` cells, of which one was trained."""
    compare(study([0]), folder, cost=False)
    made = folder / "cells" / "Joint" / "seed0"
    config, metrics = read_yaml(made / "config.yaml"), read_json(made / "metrics.json")
    shutil.rmtree(made / "checkpoints")
    for seed in range(1, count):
        cell = made.with_name(f"seed{seed}")
        shutil.copytree(made, cell)
        write_yaml(cell / "config.yaml", {**config, "seed": seed})
        write_json(cell / "metrics.json", {**metrics, "seed": seed})
        seal(cell, ("config.yaml", "metrics.json"))


def restart(folder: Path, count: int) -> dict[str, float]:
    """Processor and wall seconds of a call for a finished comparison, and of its page."""
    copied(folder, count)
    found: dict[str, list[float]] = {}
    for _ in range(3):
        begun, start = time.perf_counter(), time.process_time()
        record = compare(study(list(range(count))), folder, cost=False)
        found.setdefault("restart", []).append(time.process_time() - start)
        found.setdefault("restart_wall", []).append(time.perf_counter() - begun)
        found.setdefault("page", []).append(used(render_report, record, folder / "report.html"))
    return {name: min(seconds) for name, seconds in found.items()}


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/studies.json"))
    arguments = parser.parse_args(given)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as place:
        result: dict[str, Any] = {
            "processor_seconds_of_a_reference_loop": reference(),
            "warm_worker": warm(Path(place) / "warm", arguments.workers, 12),
            "finished_cells": arguments.cells,
            "finished": restart(Path(place) / "study", arguments.cells),
            "load_average": os.getloadavg()[0],
        }
    print(json.dumps(result, indent=2))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
