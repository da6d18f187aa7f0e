"""Every method on constructed data in which methods fail: noise, a weak modality, redundant ones, exclusive or.

    python benchmarks/stress.py [--methods Joint,MLA] [--tasks regression] [--seeds 5] [--workers 2]
                                [--out benchmarks/results/stress.json] [--page docs/stress.md]

All methods of the registry take part by themselves, with their defaults and as they recommend; those that need finished
runs or other objects do not, and are named. Each is trained shortly with small encoders, by a plain loop; rules are
fitted on validation data, test data are read once. Differences are paired over seeds and samples. With ``--page`` the
table is written between the marks of that page.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import math
import statistics
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from equimodal import PlainEngine
from equimodal.data import SyntheticDataset, loader, synthetic
from equimodal.diagnostics import Outcomes, paired_difference, sample_outcomes
from equimodal.errors import EquimodalError
from equimodal.inference import Inference
from equimodal.methods import EpochContext, Method, available, get, measure
from equimodal.studies import ModelConfig
from equimodal.studies.setup import build_model
from equimodal.tasks import distribution_of

REGIMES = ("noise", "weak", "redundant", "synergy")
SIZES: dict[str, dict[str, Any]] = {
    "classification": {"train": 500, "validation": 200, "test": 1000},
    "regression": {"train": 500, "validation": 200, "test": 1000},
    "segmentation": {"train": 120, "validation": 60, "test": 120, "size": 8, "classes": 3},
}
LARGER: dict[str, dict[str, Any]] = {  # exclusive or is learnt from more samples, and sooner of two classes
    "classification": {"train": 2000, "classes": 2, "speed": 1.0}, "regression": {"train": 2000, "speed": 1.0},
    "segmentation": {"train": 480, "classes": 2, "speed": 1.0},
}  # fmt: skip
BATCH = {"classification": 32, "regression": 32, "segmentation": 16}
EPOCHS, RATE, WIDTH = 8, 3e-3, 12
MARKS = ("<!-- stress: begin -->", "<!-- stress: end -->")
ALONE = "best single modality"


def data_of(task: str, regime: str) -> SyntheticDataset:
    sizes = {**SIZES[task], **(LARGER[task] if regime == "synergy" else {})}
    return synthetic(2, task=task, regime=regime, **sizes)  # type: ignore[arg-type]


def trained(name: str, options: Mapping[str, Any], data: SyntheticDataset, seed: int) -> Method:
    """The method after a short training by a plain loop."""
    torch.manual_seed(seed)
    hidden = 32 if data.dials.synergy > 0 else 0  # no linear head on a concatenation can learn exclusive or
    model = build_model(data, ModelConfig(feature_size=WIDTH, size="small", head_hidden=hidden))
    torch.manual_seed(seed + 1_000_003)
    method = get(name)(model, data.task, **options)
    optimizer = torch.optim.AdamW(method.parameter_groups(RATE), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda e: 0.5 * (1 + math.cos(math.pi * e / EPOCHS)))
    engine = PlainEngine(optimizer)
    batches = loader(data.train, BATCH[data.task.name], shuffle=True, seed=seed, drop_last=True)
    validation = loader(data.validation, 256)
    for epoch in range(EPOCHS):
        method.train()
        context = EpochContext(
            epoch, epochs=EPOCHS, steps=len(batches), loader=batches, engine=engine, validation=validation
        )
        method.on_train_epoch_start(context)
        for batch in batches:
            method.training_step(batch, engine)
        method.on_train_epoch_end(context)
        method.on_validation_end(measure(method, validation))
        schedule.step()
    return method


def read(method: Method, data: SyntheticDataset) -> Outcomes:
    """What every test sample earned, after the rule was fitted on validation data."""
    method.fit_inference(loader(data.validation, 256))
    return sample_outcomes(method, loader(data.test, 256))["prediction"]


def with_rule(method: Method, rule: str) -> Method:
    """The trained method with another rule."""
    device = next(method.parameters()).device
    method.inference = Inference(method.modalities, rule, distribution=distribution_of(method.task)).to(device)
    return method


def settings(name: str, data: SyntheticDataset) -> Iterator[tuple[dict[str, Any], dict[str, str]]]:
    """Options of each training, and what is read of it: label -> rule. One training, if only the rule differs."""
    advice = get(name).recommended(data.task)
    rule = advice.get("inference", "")
    if set(advice) <= {"inference"}:
        yield {}, {name: "", **({f"{name}, recommended": rule} if rule else {})}
    else:
        yield {}, {name: ""}
        yield advice, {f"{name}, recommended": ""}


def lacking(name: str) -> str:
    """Why a method cannot take part by itself; empty where it can."""
    required = [
        n
        for n, p in inspect.signature(get(name).__init__).parameters.items()
        if p.default is p.empty and p.kind is p.KEYWORD_ONLY
    ]
    return f"needs {', '.join(required)}" if required else ""


def cell(task: str, regime: str, names: Sequence[str], seeds: int) -> dict[str, Any]:
    """All methods on one set."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    data = data_of(task, regime)
    found: dict[str, list[Outcomes]] = {}
    left_out, seconds = {}, {}
    alone: dict[str, list[Outcomes]] = {m: [] for m in data.modalities}
    single = next(n for n in available(outside=False) if get(n).info.role == "single")
    for m, outcomes in alone.items():
        outcomes += [read(trained(single, {"modality": m}, data, seed), data) for seed in range(seeds)]
    for name in names:
        reason = lacking(name) or ("" if task in get(name).info.tasks else "not for this task")
        start = time.process_time()
        try:
            if not reason:
                for options, readings in settings(name, data):
                    for seed in range(seeds):
                        method = trained(name, options, data, seed)
                        for label, rule in readings.items():
                            outcomes = read(with_rule(method, rule) if rule else method, data)
                            found.setdefault(label, []).append(outcomes)
        except EquimodalError as error:
            reason = str(error)
        if reason:
            left_out[name] = reason
        seconds[name] = round(time.process_time() - start, 1)
    best = max(alone, key=lambda m: statistics.fmean(float(o.score()) for o in alone[m]))
    reference = next(n for n in available(outside=False) if get(n).info.role == "reference")
    rivals = {ALONE: alone[best], **({reference: found[reference]} if reference in found else {})}
    rows = {}
    for label, outcomes in {**{f"{single}[{m}]": o for m, o in alone.items()}, **found}.items():
        rows[label] = {
            "scores": [round(float(o.score()), 5) for o in outcomes],
            "differences": {
                rival: {k: round(v, 5) for k, v in dataclasses.asdict(paired_difference(outcomes, theirs)).items()}
                for rival, theirs in rivals.items()
                if theirs is not outcomes
            },
        }
    return {"task": task, "regime": regime, "best single": best, "rows": rows, "left out": left_out, "seconds": seconds}


# ---- the table ------------------------------------------------------------------------------------------------------


def table(results: Mapping[str, Any]) -> str:
    """Markdown: a table per task, rows by name, a column per setting."""
    lines = []
    for task in dict.fromkeys(c["task"] for c in results["cells"]):
        cells = [c for c in results["cells"] if c["task"] == task]
        unit = "MAE, less is better" if task == "regression" else "%"
        lines += [f"**{task}** ({unit})", "", "| | " + " | ".join(c["regime"] for c in cells) + " |"]
        lines.append("|---" + "|---:" * len(cells) + "|")
        for label in dict.fromkeys(name for c in cells for name in c["rows"]):
            shown = [_shown(c["rows"].get(label), task) for c in cells]
            lines.append(f"| {label} | " + " | ".join(shown) + " |")
        lines.append("")
    reasons = {(n, why) for c in results["cells"] for n, why in c["left out"].items() if why != "not for this task"}
    if reasons:
        lines += ["Left out: " + "; ".join(f"{n} ({why})" for n, why in sorted(reasons)) + ".", ""]
    return "\n".join(lines)


def _shown(row: Mapping[str, Any] | None, task: str) -> str:
    """Score, and whether it is above or below the best single modality by more than chance."""
    if row is None:
        return "-"
    factor, digits = (-1, 3) if task == "regression" else (100, 1)
    text = f"{factor * statistics.fmean(row['scores']):.{digits}f}"
    difference = row["differences"].get(ALONE)
    if difference is None:
        return text
    sign = "▲" if difference["low"] > 0 else "▼" if difference["high"] < 0 else "="
    ends = [f"{abs(factor) * difference[end]:+.{digits}f}" for end in ("low", "high")]
    joint = [d for rival, d in row["differences"].items() if rival != ALONE]
    mark = "" if not joint else "▲" if joint[0]["low"] > 0 else "▼" if joint[0]["high"] < 0 else "="
    return f"{text} {sign}{mark} [{ends[0]}, {ends[1]}]"


def write_page(page: Path, text: str) -> None:
    before, _, rest = page.read_text(encoding="utf-8").partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    page.write_text(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", help="names, default all of the registry")
    parser.add_argument("--tasks", default=",".join(SIZES))
    parser.add_argument("--regimes", default=",".join(REGIMES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/stress.json"))
    parser.add_argument("--page", type=Path)
    arguments = parser.parse_args()
    every = [n for n in available(outside=False) if get(n).info.role != "single"]
    names = [get(n).__name__ for n in arguments.methods.split(",")] if arguments.methods else every
    work = [(t, r) for t in arguments.tasks.split(",") for r in arguments.regimes.split(",")]
    with ProcessPoolExecutor(arguments.workers) as pool:
        jobs = [pool.submit(cell, task, regime, names, arguments.seeds) for task, regime in work]
        cells = []
        for job in jobs:
            cells.append(job.result())
            done = cells[-1]
            print(f"{done['task']}, {done['regime']}: {sum(done['seconds'].values()):.0f} s", flush=True)
    results = {"seeds": arguments.seeds, "epochs": EPOCHS, "torch": torch.__version__, "cells": cells}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(table(results))
    if arguments.page:
        write_page(arguments.page, table(results))


if __name__ == "__main__":
    main()
