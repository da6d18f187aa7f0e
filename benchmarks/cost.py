"""Cost of every method in joint steps: time and peak memory, measured in one run and compared with the stated bounds.

    python benchmarks/cost.py [--rounds 30] [--batch 64] [--device cpu] [--out benchmarks/results/cost.json]

Steps are interleaved: in each round every entry takes one step, so a busy machine slows all of them alike, and the
ratio of an entry is the median over the rounds of its time divided by the reference's time in the same round. Exit
code 1 if a bound is exceeded.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from equimodal import Batch, Classification, MultimodalModel, PlainEngine
from equimodal.fusion import Concat
from equimodal.methods import EpochContext, Method, get
from equimodal.studies import interleaved

WIDTH, CLASSES, MODALITIES = 128, 10, ("audio", "video")

# entry -> (method, options, bound of time in Joint's, bound of memory in Joint's)
ENTRIES: dict[str, tuple[str, dict[str, Any], float, float]] = {
    "Joint": ("Joint", {}, 1.0, 1.0),
    "MultiLoss": ("MultiLoss", {}, 1.05, 1.1),
    "Ensemble": ("Ensemble", {}, 1.05, 1.1),
    "MLA": ("MLA", {}, 1.05, 1.0),
    "CGGM, magnitude": ("CGGM", {"direction": None}, 1.08, 1.1),
    "CGGM, with direction": ("CGGM", {}, 1.12, 1.1),
    "MIE, sam none": ("MIE", {"sam": None}, 1.05, 1.1),
    "MIE, sam momentum": ("MIE", {"sam": "momentum"}, 1.10, 1.1),
    "MIE, sam full": ("MIE", {"sam": "full"}, 2.10, 1.25),
    "MMPareto": ("MMPareto", {}, 1.70, 1.30),
    "OGM": ("OGM", {}, 1.10, 1.0),
    "OGM-GE": ("OGM", {"noise": "covariance"}, 1.75, 1.30),
    "AGM": ("AGM", {}, 1.50, 1.1),
    "G-Blend": ("GBlend", {}, 1.10, 1.1),
    "PMR": ("PMR", {}, 1.10, 1.1),
    "OPM": ("OPM", {"warm_up": 0}, 1.10, 1.1),
    "MLB": ("MLB", {}, 1.10, 1.1),
    "ExpertPool": ("ExpertPool", {}, 1.10, 1.1),
    "ExpertPool, two members": ("ExpertPool", {"members": 2}, 2.15, 1.5),
    "ModalityDropout": ("ModalityDropout", {}, 1.10, 1.1),
    "DGL": ("DGL", {}, 1.10, 1.1),
    "InfoReg": ("InfoReg", {}, 1.10, 1.3),
    "QMF": ("QMF", {}, 1.10, 1.1),
    "TMC": ("TMC", {}, 1.10, 1.1),
    "MASAM": ("MASAM", {}, 2.20, 1.3),
    "MCR": ("MCR", {}, 1.30, 1.3),
}
# the same batch in two micro-batches, against Joint in two
IN_PARTS: dict[str, tuple[str, dict[str, Any], float]] = {
    "Joint in two micro-batches": ("Joint", {}, 1.0),
    "CGGM in two, direction_scope='batch'": ("CGGM", {}, 1.70),
    "CGGM in two, direction_scope='part'": ("CGGM", {"direction_scope": "part"}, 1.12),
}
LOOP_BOUND, REFRESH_BOUND = 1.03, 0.050


def encoder() -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in ((1, 32), (32, 64), (64, 128)):
        layers += [
            nn.Conv2d(before, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, WIDTH))


def model(device: str) -> MultimodalModel:
    torch.manual_seed(0)
    fusion = Concat(dict.fromkeys(MODALITIES, WIDTH))
    made = MultimodalModel({m: encoder() for m in MODALITIES}, fusion, nn.Linear(WIDTH * len(MODALITIES), CLASSES))
    return made.to(device)


def batch(size: int, device: str) -> Batch:
    generator = torch.Generator().manual_seed(0)
    inputs = {m: torch.randn(size, 1, 32, 32, generator=generator) for m in MODALITIES}
    return Batch(inputs, torch.randint(0, CLASSES, (size,), generator=generator), index=torch.arange(size)).to(device)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, weight_decay=1e-4)


def hand_written_loop(data: Batch, device: str) -> Callable[[], Any]:
    """What a user without a library writes for joint training."""
    net = model(device)
    optimizer = sgd(net.parameters())
    encoders = {m: net.encoder(m) for m in MODALITIES}

    def step() -> None:
        optimizer.zero_grad()
        features = torch.cat([encoders[m](data.inputs[m]) for m in MODALITIES], dim=1)
        loss = nn.functional.cross_entropy(net.head(features), _target(data))
        loss.backward()
        optimizer.step()

    return step


def _target(data: Batch) -> Tensor:
    if data.target is None:
        raise ValueError("the benchmark's batch has a target")
    return data.target


def method_step(
    name: str, options: dict[str, Any], data: Batch | list[Batch], device: str
) -> tuple[Method, Callable[[], Any]]:
    method = get(name)(model(device), Classification(CLASSES), **options).to(device).train()
    engine = PlainEngine(sgd(method.parameter_groups(lr=1e-3)))
    batches = data if isinstance(data, list) else [data]
    context = EpochContext(0, 1, 100, batches, engine, batches, len(batches))
    method.on_train_epoch_start(context)
    for _ in range(3):
        method.training_step(data, engine)
    method.on_train_epoch_end(context)  # so that projectors are in force
    method.on_train_epoch_start(context)
    return method, lambda: method.training_step(data, engine)


def peak_bytes(method: Method, step: Callable[[], Any], device: str) -> int:
    """Largest number of live tensor bytes in one step, parameters, buffers and optimizer state included."""
    if device != "cpu":
        torch.accelerator.synchronize()
        torch.cuda.reset_peak_memory_stats()
        step()
        torch.accelerator.synchronize()
        return int(torch.cuda.max_memory_allocated())
    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    live = highest = 0
    for event in profile.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            live += event.nbytes()
            highest = max(highest, live)
    tensors = [*method.parameters(), *method.buffers()]
    held = sum(t.numel() * t.element_size() for t in tensors)
    held += sum(p.numel() * p.element_size() for p in method.parameters() if p.requires_grad)  # momentum
    return held + highest


def refresh_seconds(device: str) -> float:
    """Projectors of a 512-256-64 classifier, for two modalities, made anew; per modality, median of 7."""
    torch.manual_seed(0)
    encoders = {m: nn.Linear(64, 512) for m in MODALITIES}
    net = MultimodalModel(encoders, Concat(dict.fromkeys(MODALITIES, 512)), nn.Linear(1024, CLASSES)).to(device)
    method = get("MIE")(net, Classification(CLASSES), sam=None, layers="classifier").to(device)
    engine = PlainEngine(sgd(method.parameters()))
    context = EpochContext(epoch=0, epochs=1, steps=10, engine=engine)
    method.on_train_epoch_start(context)
    data = Batch({m: torch.randn(256, 64) for m in MODALITIES}, torch.randint(0, CLASSES, (256,))).to(device)
    for _ in range(10):
        method.training_step(data, engine)
    seconds = []
    for _ in range(9):
        start = time.perf_counter()
        method.on_train_epoch_end(context)
        if device != "cpu":
            torch.accelerator.synchronize()
        seconds.append((time.perf_counter() - start) / len(MODALITIES))
    return statistics.median(seconds[2:])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/cost.json"))
    arguments = parser.parse_args()
    device = arguments.device
    data = batch(arguments.batch, device)
    made = {label: method_step(name, options, data, device) for label, (name, options, _, _) in ENTRIES.items()}
    steps = {"hand-written loop": hand_written_loop(data, device)} | {label: step for label, (_, step) in made.items()}
    halves = [batch(arguments.batch // 2, device) for _ in range(2)]
    steps |= {label: method_step(name, options, halves, device)[1] for label, (name, options, _) in IN_PARTS.items()}
    seconds = interleaved(steps, arguments.rounds, warmup=3)

    def ratio(label: str, reference: str) -> float:
        return statistics.median(a / b for a, b in zip(seconds[label], seconds[reference], strict=True))

    memory = {label: peak_bytes(method, step, device) for label, (method, step) in made.items()}
    refresh = refresh_seconds(device)
    rows: list[tuple[str, float, float, float | None, float | None]] = [
        ("Joint over a hand-written loop", ratio("Joint", "hand-written loop"), LOOP_BOUND, None, None)
    ]
    for label, (_, _, bound, memory_bound) in ENTRIES.items():
        rows.append((label, ratio(label, "Joint"), bound, memory[label] / memory["Joint"], memory_bound))
    for label, (_, _, bound) in IN_PARTS.items():
        rows.append((label, ratio(label, "Joint in two micro-batches"), bound, None, None))
    ok = refresh < REFRESH_BOUND
    print(f"{'entry':<38}{'time':>8}{'bound':>8}{'memory':>9}{'bound':>8}")
    for label, time_ratio, bound, memory_ratio, memory_bound in rows:
        good = time_ratio <= bound and (
            memory_ratio is None or memory_bound is None or memory_ratio <= memory_bound + 5e-4
        )
        ok &= good
        shown = f"{memory_ratio:>9.3f}{memory_bound:>8.2f}" if memory_ratio is not None else " " * 17
        print(f"{label:<38}{time_ratio:>8.3f}{bound:>8.2f}{shown}{'' if good else '   exceeded'}")
    print(f"Joint step: {1e3 * statistics.median(seconds['Joint']):.1f} ms on {device}, batch {arguments.batch}")
    print(f"projector refresh, 512-256-64 classifier: {1e3 * refresh:.1f} ms (bound {1e3 * REFRESH_BOUND:.0f} ms)")
    result = {
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "batch": arguments.batch,
        "rounds": arguments.rounds,
        "joint_step_seconds": statistics.median(seconds["Joint"]),
        "refresh_seconds": refresh,
        "rows": [
            dict(zip(("entry", "time", "time_bound", "memory", "memory_bound"), row, strict=True)) for row in rows
        ],
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"written to {arguments.out}")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
