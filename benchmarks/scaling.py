"""How the cost of a step grows: modalities, batch, width of the projected layer; start-up, loader, Trainer's overhead.

    python benchmarks/scaling.py [--rounds 15] [--out benchmarks/results/scaling.json] [--plot ....svg]

Steps of one series are interleaved as in cost.py, so that a busy machine slows all of them alike; the figures of a
series are ratios to its first entry. Absolute times are of this machine, and are only comparable within one run; the
load average at the beginning and at the end is in the result.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from equimodal import Batch, Classification, MultimodalModel, PlainEngine
from equimodal.fusion import Concat
from equimodal.methods import EpochContext, Method, get
from equimodal.studies import interleaved

METHODS = ("Joint", "MLA", "CGGM", "MIE")
HIDDEN, INPUTS, CLASSES = 256, 64, 10


def made(name: str, modalities: int = 2, width: int = 64) -> Method:
    """A method on MLP encoders."""
    torch.manual_seed(0)
    names = [f"m{i}" for i in range(modalities)]
    encoders = {m: nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, width)) for m in names}
    model = MultimodalModel(encoders, Concat(dict.fromkeys(names, width)), nn.Linear(width * modalities, CLASSES))
    return get(name)(model, Classification(CLASSES)).train()


def batch(size: int, modalities: int = 2) -> Batch:
    """Random vectors."""
    generator = torch.Generator().manual_seed(0)
    inputs = {f"m{i}": torch.randn(size, INPUTS, generator=generator) for i in range(modalities)}
    return Batch(inputs, torch.randint(0, CLASSES, (size,), generator=generator))


def sgd(groups: Any) -> torch.optim.Optimizer:
    """The optimizer of all series."""
    return torch.optim.SGD(groups, lr=1e-3, momentum=0.9)


def step_of(method: Method, data: Batch) -> Callable[[], Any]:
    """A training step, with projectors in force."""
    engine = PlainEngine(sgd(method.parameter_groups(lr=1e-3)))
    context = EpochContext(epoch=0, epochs=1, steps=100, engine=engine)
    method.on_train_epoch_start(context)
    method.training_step(data, engine)
    method.on_train_epoch_end(context)
    method.on_train_epoch_start(context)
    return lambda: method.training_step(data, engine)


def series(points: dict[int, Callable[[str], Callable[[], Any]]], rounds: int) -> dict[str, Any]:
    """For each method, milliseconds at each point and ratios to the first."""
    found: dict[str, Any] = {}
    for name in METHODS:
        seconds = interleaved({str(p): make(name) for p, make in points.items()}, rounds, warmup=2)
        first = seconds[str(next(iter(points)))]
        found[name] = {
            "milliseconds": {p: 1e3 * statistics.median(s) for p, s in seconds.items()},
            "ratio": {p: statistics.median(a / b for a, b in zip(s, first, strict=True)) for p, s in seconds.items()},
        }
    return found


def start_up(repeats: int) -> dict[str, float]:
    """Seconds from the shell to the output of commands that need no tensors; the fastest of several."""
    found = {}
    for command in ("--help", "--version", "list"):
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-m", "equimodal", command], check=True, capture_output=True)
            seconds.append(time.perf_counter() - start)
        found[command] = min(seconds)
    return found


PARTS = {
    "torch": "import torch",
    "equimodal.studies": "import equimodal.studies",
    "Lightning": "import torch, lightning.pytorch",
}
FIRST_STEP = """
import time, sys
from equimodal._utils.deferred import defer_imports
defer_imports()  # as the command does
import equimodal.studies.runs._history as history
from equimodal.cli import main
def end(self, trainer, *rest):
    print(time.process_time(), flush=True)
    import os; os._exit(0)
history.History.on_train_batch_end = end
main(["train", "--data", "synthetic", "--model.size", "small", "--training.epochs", "1", "--training.device", "cpu",
      "--probe", "false", "--quiet", "--out", sys.argv[1], *sys.argv[2:]])
"""


def first_step(repeats: int) -> dict[str, float]:
    """Processor seconds of a new process: its imports, and all until the first step of `equimodal train` is done."""
    import tempfile

    found: dict[str, list[float]] = {}
    for _ in range(repeats):
        for name, code in PARTS.items():
            ready = f"{code}\nimport time; print(time.process_time())"
            done = subprocess.run([sys.executable, "-c", ready], check=True, capture_output=True, text=True)
            found.setdefault(name, []).append(float(done.stdout.split()[-1]))
        for name, options in {"first step": ["--logger", "none"], "first step, TensorBoard": []}.items():
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, "-c", FIRST_STEP, f"{folder}/run", *options]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
            found.setdefault(name, []).append(float(done.stdout.split()[-1]))
    return {name: min(seconds) for name, seconds in found.items()}


def trainer_overhead(steps: int) -> dict[str, float]:
    """Milliseconds of processor time per step of Joint, same data and optimizer; medians of steps, then of rounds.

    By hand, in a plain loop with our engine, under our adapter, and in a bare LightningModule that does the same steps
    by hand in manual optimisation, which is what Lightning costs by itself. ``above_manual`` is what engine and adapter
    add to that, ``adapter`` what is left without what the engine adds to a loop by hand.
    """
    import logging

    from lightning.pytorch import LightningModule, Trainer
    from torch.utils.data import DataLoader, IterableDataset

    from equimodal.lightning import MethodModule

    one = batch(64)
    quiet: dict[str, Any] = {
        "max_epochs": 1, "accelerator": "cpu", "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False,
    }  # fmt: skip

    class Bare(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.model = made("Joint").multimodal

        def configure_optimizers(self) -> Any:
            return sgd(self.model.parameters())

        def transfer_batch_to_device(self, found: Any, device: Any, dataloader_idx: int) -> Any:
            return found

        def training_step(self, found: Batch, batch_idx: int) -> None:
            optimizer: Any = self.optimizers()
            features = self.model.encode(found.inputs)
            output = self.model.head(self.model.fuse(features))
            assert found.target is not None
            loss = nn.functional.cross_entropy(output, found.target)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()

    class Watched(IterableDataset[Batch]):
        """Gives the batch again and again, and notes the processor time at which it is asked for it."""

        def __init__(self) -> None:
            self.times: list[float] = []

        def __iter__(self) -> Iterator[Batch]:
            for _ in range(steps):
                self.times.append(time.process_time())
                yield one

    def plain(data: Watched) -> None:
        method = made("Joint")
        engine = PlainEngine(sgd(method.parameter_groups()))
        for b in data:
            method.training_step(b, engine)

    def by_hand(data: Watched) -> None:
        model = made("Joint").multimodal
        optimizer = sgd(model.parameters())
        for b in data:
            output = model.head(model.fuse(model.encode(b.inputs)))
            assert b.target is not None
            optimizer.zero_grad()
            nn.functional.cross_entropy(output, b.target).backward()
            optimizer.step()

    def trainer(data: Watched) -> None:
        Trainer(**quiet).fit(MethodModule(made("Joint"), sgd), DataLoader(data, batch_size=None))

    def manual(data: Watched) -> None:
        Trainer(**quiet).fit(Bare(), DataLoader(data, batch_size=None))

    def used(work: Callable[[Watched], None]) -> float:
        data = Watched()
        work(data)
        return 1e3 * statistics.median(b - a for a, b in pairwise(data.times))

    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.ERROR)
    ways = {"by_hand": by_hand, "plain": plain, "trainer": trainer, "manual": manual}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # in turn: other work slows all of them alike; the first one warms up
        rounds = [{name: used(way) for name, way in ways.items()} for _ in range(9)]
    rounds = [{**r, "overhead": r["trainer"] - r["plain"], "above_manual": r["trainer"] - r["manual"],
               "adapter": r["trainer"] - r["manual"] - (r["plain"] - r["by_hand"])}
              for r in rounds[1:]]  # fmt: skip
    return {name: statistics.median(r[name] for r in rounds) for name in rounds[0]}


def loader_throughput() -> dict[str, float]:
    """Samples per second of the loader over data in memory, by batch size."""
    from equimodal.data import load, loader

    data = load("synthetic", train=4096, validation=64, test=64)
    found = {}
    for size in (32, 256):
        batches = loader(data.train, size)
        start = time.perf_counter()
        samples = sum(len(b) for b in batches)
        found[str(size)] = samples / (time.perf_counter() - start)
    return found


def plot(result: dict[str, Any], path: Path) -> None:
    """Three panels: relative cost against modalities, batch and width."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
    for axis, key in zip(axes, ("modalities", "batch", "width"), strict=True):
        for name in METHODS:
            points = result[key][name]["ratio"]
            axis.plot([int(p) for p in points], list(points.values()), marker="o", label=name)
        axis.set(xlabel=key, ylabel="time of a step, first = 1")
        axis.set_ylim(bottom=0)
    axes[0].legend()
    figure.savefig(path)
    plt.close(figure)


def print_trainer(times: dict[str, float], first: dict[str, float]) -> None:
    print(
        f"Joint under the Trainer: {times['trainer']:.2f} ms of processor time per step, plain loop "
        f"{times['plain']:.2f}, Lightning's manual loop {times['manual']:.2f}; above it {times['above_manual']:.2f}, "
        f"of which the adapter {times['adapter']:.2f}"
    )
    print("processor seconds: " + ", ".join(f"{name} {s:.2f}" for name, s in first.items()))  # fmt: skip


def only_trainer(path: Path, steps: int) -> int:
    """Renew these two figures, with the load of now."""
    result = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    result["trainer_milliseconds"] = trainer_overhead(steps)
    result["first_step_processor_seconds"] = first_step(3)
    result["load_average_of_the_trainer"] = os.getloadavg()[0]
    print_trainer(result["trainer_milliseconds"], result["first_step_processor_seconds"])
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/scaling.json"))
    parser.add_argument("--plot", type=Path, default=Path("benchmarks/results/scaling.svg"))
    parser.add_argument("--only-trainer", action="store_true", help="renew start-up and Trainer in the stored result")
    arguments = parser.parse_args(given)
    torch.set_num_threads(1)
    rounds, load = arguments.rounds, os.getloadavg()[0]
    if arguments.only_trainer:
        return only_trainer(arguments.out, 20 * rounds)
    result: dict[str, Any] = {
        "torch": torch.__version__,
        "processors": os.cpu_count(),
        "modalities": series({m: lambda n, m=m: step_of(made(n, m), batch(64, m)) for m in (2, 3, 4, 6, 8)}, rounds),
        "batch": series({b: lambda n, b=b: step_of(made(n), batch(b)) for b in (16, 64, 256)}, rounds),
        "width": series({w: lambda n, w=w: step_of(made(n, width=w), batch(64)) for w in (32, 128, 512)}, rounds),
        "start_up_seconds": start_up(3),
        "first_step_processor_seconds": first_step(3),
        "trainer_milliseconds": trainer_overhead(20 * rounds),
        "loader_samples_per_second": loader_throughput(),
    }
    result["load_average"] = [load, os.getloadavg()[0]]
    for key in ("modalities", "batch", "width"):
        print(f"time of a step by {key}, first = 1")
        for name in METHODS:
            shown = "".join(f"{p:>6}:{v:6.2f}" for p, v in result[key][name]["ratio"].items())
            print(f"  {name:<6}{shown}")
    print("start-up: " + ", ".join(f"{c} {s:.2f} s" for c, s in result["start_up_seconds"].items()))
    times = result["trainer_milliseconds"]
    print_trainer(times, result["first_step_processor_seconds"])
    rates = result["loader_samples_per_second"]
    print("loader: " + ", ".join(f"batch {b}: {n:,.0f} samples/s" for b, n in rates.items()))
    before, after = result["load_average"]
    print(f"load average {before:.1f} to {after:.1f} on {os.cpu_count()} processors")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    plot(result, arguments.plot)
    print(f"written to {arguments.out} and {arguments.plot}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
