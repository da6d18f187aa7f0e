"""What a step of a method costs in Joint steps on small deep encoders, in the library and in bare loops.

    python benchmarks/recipe_steps.py [--rounds 40] [--out benchmarks/results/recipe_steps.json]

The model is that of the recipe of mosi (three modalities of 100, 73 and 100 numbers, two layers with dropout and batch
normalisation, batches of 64, AdamW), the numbers are random. The bare loops are those of ``benchmarks/steps.py``: they
compute nothing but the method, so no implementation of its equations in PyTorch gets below them by much. Without
dropout they end with the library's weights after 12 steps of SGD in float64, which each run checks. Steps are
interleaved and timed in processor time on one thread; figures are medians of ratios within a round. The table of
``docs/benchmarks.md`` is written between its markers.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from equimodal import Batch, Classification, MultimodalModel
from equimodal.encoders import MLP
from equimodal.fusion import Concat
from equimodal.methods import Method, get

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.real import between
from benchmarks.steps import BARE, ENTRIES, library_step, measured, refuse_another

SIZES, WIDTH, CLASSES, SAMPLES = {"text": 100, "audio": 73, "video": 100}, 64, 2, 64
PAGE = Path("docs/benchmarks.md")


def method_of(label: str, dropout: bool = True) -> Method:
    torch.manual_seed(0)
    name, options, *_ = ENTRIES[label]
    rates = {"dropout": 0.5, "input_dropout": 0.3} if dropout else {}
    encoders = {m: MLP(d, (128,), WIDTH, **rates) for m, d in SIZES.items()}
    model = MultimodalModel(encoders, Concat(dict.fromkeys(SIZES, WIDTH)), nn.Linear(WIDTH * len(SIZES), CLASSES))
    return get(name)(model, Classification(CLASSES), **options).train()


def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    inputs = {m: torch.randn(SAMPLES, d, generator=generator) for m, d in SIZES.items()}
    return Batch(inputs, torch.randint(0, CLASSES, (SAMPLES,), generator=generator))


def adamw(parameters: Any) -> torch.optim.AdamW:
    return torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.01, fused=True)


def table(rows: dict[str, dict[str, float]]) -> list[str]:
    lines = [
        "| | bare loop, us | library / bare loop | in Joint steps | bare loop in bare Joint steps |",
        "|---" * 5 + "|",
    ]
    keys = ("bare_us", "ratio", "joint_steps", "bare_joint_steps")
    return [*lines, *(f"| {k} | " + " | ".join(f"{r[n]:.0f}" if n == "bare_us" else f"{r[n]:.2f}" for n in keys) + " |"
                      for k, r in rows.items())]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--repeat", type=int, default=5, help="steps per round")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/recipe_steps.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    data, steps = batch(), {}
    for label in ENTRIES:
        refuse_another(label, partial(method_of, label, dropout=False), data)
        steps[f"ours {label}"] = library_step(method_of(label), data, adamw)
        steps[f"bare {label}"] = BARE[label](method_of(label), data, adamw)
    times = measured(steps, arguments.rounds, arguments.repeat)

    def ratio(first: str, second: str) -> float:
        return round(statistics.median(a / b for a, b in zip(times[first], times[second], strict=True)), 3)

    rows = {
        label: {
            "bare_us": round(statistics.median(times[f"bare {label}"]), 1),
            "ratio": ratio(f"ours {label}", f"bare {label}"),
            "joint_steps": ratio(f"ours {label}", "ours Joint"),
            "bare_joint_steps": ratio(f"bare {label}", "bare Joint"),
        }
        for label in ENTRIES
    }
    lines = table(rows)
    print("\n".join(lines))
    PAGE.write_text(between(PAGE.read_text(encoding="utf-8"), "recipe steps", lines), encoding="utf-8")
    result = {"rows": rows, "torch": torch.__version__, "load": round(os.getloadavg()[0], 1)}
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
