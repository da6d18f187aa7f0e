"""Long training of each founding method on a small model: does memory stay flat, do projectors stay finite?

    python benchmarks/load.py [--steps 10000] [--out benchmarks/results/load.json]

Batches are made anew all the time, as a loader would. Memory is the resident set of the process, read from the system
at the end of each tenth of the steps; its growth is that from the end of the first tenth to the end of the last. Exit
code 1 if it grows by more than 2 MB, or if a weight or a projector is not finite.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from equimodal import Batch, Classification, MultimodalModel, PlainEngine
from equimodal.fusion import Concat
from equimodal.methods import EpochContext, get

SIZES, WIDTH, CLASSES = {"audio": 12, "video": 9}, 8, 4
ENTRIES: dict[str, tuple[str, dict[str, Any]]] = {
    "MLA": ("MLA", {}),
    "CGGM": ("CGGM", {}),
    "MIE": ("MIE", {}),
    "MIE, every_k": ("MIE", {"sam": "every_k"}),
}
BOUND = 2_000_000


def resident() -> int:
    """Bytes of memory that the process holds; 0 where the system does not say."""
    gc.collect()
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError):
        return 0
    return pages * 4096


def train(name: str, options: dict[str, Any], steps: int) -> dict[str, Any]:
    """Train, and what was seen at the end of each tenth."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    encoders = {m: nn.Sequential(nn.Linear(n, 16), nn.ReLU(), nn.Linear(16, WIDTH)) for m, n in SIZES.items()}
    model = MultimodalModel(encoders, Concat(dict.fromkeys(encoders, WIDTH)), nn.Linear(WIDTH * len(SIZES), CLASSES))
    if name == "MIE":
        options = {**options, "heads": {m: nn.Sequential(nn.Linear(WIDTH, 16), nn.ReLU(), nn.Linear(16, CLASSES))
                                        for m in SIZES}}  # fmt: skip
    method = get(name)(model, Classification(CLASSES), **options).train()
    engine = PlainEngine(torch.optim.SGD(method.parameter_groups(lr=0.01), lr=0.01, momentum=0.9), clip_norm=1.0)
    memory, seconds, plasticity = [], [], []
    per_epoch = max(1, steps // 100)
    started = time.perf_counter()
    for step in range(steps):
        context = EpochContext(step // per_epoch, 100, per_epoch, None, engine)
        if step % per_epoch == 0:
            method.on_train_epoch_start(context)
        target = torch.randint(0, CLASSES, (16,), generator=generator)
        inputs = {m: torch.randn(16, n, generator=generator) for m, n in SIZES.items()}
        for x in inputs.values():
            x[:, :CLASSES] += 1.5 * nn.functional.one_hot(target, CLASSES)
        report = method.training_step(Batch(inputs, target), engine)
        if (step + 1) % per_epoch == 0:
            method.on_train_epoch_end(context)
        if (step + 1) % max(1, steps // 10) == 0:
            memory.append(resident())
            seconds.append((time.perf_counter() - started) / max(1, steps // 10))
            plasticity.append({k: float(v) for k, v in report.extras.items() if k.startswith("plasticity")})
            started = time.perf_counter()
    return {
        "steps": steps,
        "growth_bytes": memory[-1] - memory[0],
        "memory_bytes": memory,
        "milliseconds_per_step": [1e3 * s for s in seconds],
        "last_over_first_tenth": seconds[-1] / statistics.median(seconds[:3]),
        "plasticity": plasticity,
        "finite": all(bool(torch.isfinite(t).all()) for t in (*method.parameters(), *method.buffers())),
    }


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/load.json"))
    arguments = parser.parse_args(given)
    torch.set_num_threads(1)
    results = {label: train(name, options, arguments.steps) for label, (name, options) in ENTRIES.items()}
    ok = True
    print(f"{'entry':<16}{'growth':>12}{'ms/step':>9}{'last/first':>12}   trace(P)/d at the end")
    for label, found in results.items():
        good = found["finite"] and found["growth_bytes"] <= BOUND
        ok &= good
        shown = ", ".join(f"{k.partition('/')[2]} {v:.3f}" for k, v in found["plasticity"][-1].items())
        speed = statistics.median(found["milliseconds_per_step"])
        print(f"{label:<16}{found['growth_bytes'] / 1e6:>9.2f} MB{speed:>9.2f}{found['last_over_first_tenth']:>12.2f}"
              f"   {shown}{'' if good else '   EXCEEDED'}")  # fmt: skip
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"torch": torch.__version__, "entries": results}, indent=2) + "\n", "utf-8")
    print(f"written to {arguments.out}")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
