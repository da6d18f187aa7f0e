"""What `equimodal tune` finds within 60 joint epochs, next to the full table of benchmarks/real.py.

    python benchmarks/tune.py --data-dir DIR --out runs/tune [--datasets mosi,mfeat] [--seeds 0,1,2,3,4] [--budget 60]

Restartable: a finished tuning is not run again. Writes ``benchmarks/results/tune.json`` (datasets that are not named
keep their rows) and the table of ``docs/tuning.md`` between its markers.

Trials are shorter than a training of the full table. What the tuning says to take is therefore also trained in full,
as its last command does (``take.yaml``). Claimed, for the mean over the repetitions: on test data it is at or above the
best control of the same tuning, and trained in full within half a point of the best single entry of the full table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from equimodal.studies import DataConfig, RunConfig, TuneConfig, recipe, run, task_options, tune
from equimodal.studies.runs import read_yaml

DATASETS = ("avdigits", "ravdess", "utdmhad", "mosi", "mfeat", "wikidoc")
RESULTS = Path("benchmarks/results")
PAGE = Path("docs/tuning.md")
MARGIN = 0.005
KINDS = ("default", "control", "winner")  # what is taken; the default may be the best control


def repetition(arguments: argparse.Namespace, name: str, seed: int) -> dict[str, Any]:
    path = arguments.data_dir / f"{name}.npz"
    model, training = recipe(str(path))
    data = DataConfig(str(path), task=task_options(str(path)))
    config = TuneConfig(
        arguments.budget, data, model, training, ensemble=arguments.ensemble, seed=seed, fusions=arguments.fusions
    )
    started, folder = time.time(), arguments.out / name / f"seed{seed}"
    found = tune(config, folder, workers=arguments.workers)
    whole = RunConfig.from_dict(read_yaml(folder / "take.yaml"))
    whole = run(replace(whole, seed=seed, probe=False), arguments.out / name / f"seed{seed}-whole", resume=True)
    verdict, test = found["verdict"], found["test"]
    which = next(k for k in KINDS if verdict["taken"] == verdict[k]["trial"])
    print(f"{name}, seed {seed}: {time.time() - started:.0f} s. {verdict['words']}", flush=True)
    return {
        "seed": seed, "taken": which, "score": test[which], "control": test["control"], "winner": test["winner"],
        "composition": {k: verdict[which][k] for k in ("method", "fusion", "lr", "rule", "calibrated", "selection")},
        "best_control": verdict["control"]["method"], "validation": verdict["validation"], "test": test["difference"],
        "default": test["default"], "spent": found["budget"]["spent"],
        "epochs_of_a_trial": found["budget"]["epochs_of_a_trial"],
        "trials": sum(t["state"] in ("finished", "stopped") for t in found["trials"]),
        "ensemble": found["ensemble"], "whole": whole["test"]["score"], "epochs": training.epochs,
    }  # fmt: skip


def table_of(name: str) -> dict[str, Any]:
    """Best entry and best control of the full table, each by its better reading; empty without a table."""
    path = RESULTS / "real" / f"{name}.json"
    if path.exists():  # all methods
        part, stored = "real", json.loads(path.read_text(encoding="utf-8"))["rows"]
        rows = {r["method"]: {k: v["scores"] for k, v in r["readings"].items()} for r in stored}
        controls = {r["method"] for r in stored if r["control"]}
    else:  # the controls and the recipe
        part, known = "recipe", json.loads((RESULTS / "recipe.json").read_text(encoding="utf-8"))
        if name not in known:
            return {}
        rows, controls = known[name]["scores"], set(known[name]["scores"]) - set(known[name]["differences"])
    best = {row: max(statistics.fmean(v) for v in readings.values() if v) for row, readings in rows.items()}
    entry, control = max(best, key=best.__getitem__), max(controls, key=best.__getitem__)
    return {
        "of": part, "entry": entry, "entry_score": best[entry], "control": control, "control_score": best[control]
    }  # fmt: skip


def summary(name: str, runs: list[dict[str, Any]], budget: float) -> dict[str, Any]:
    score, control = (statistics.fmean(r[k] for r in runs) for k in ("score", "control"))
    table, whole = table_of(name), statistics.fmean(r["whole"] for r in runs)
    return {
        "budget": budget, "repetitions": runs, "score": score, "control": control,
        "spread": statistics.stdev(r["score"] for r in runs) if len(runs) > 1 else 0.0, "table": table, "whole": whole,
        "at_or_above_control": score >= control - 1e-9,
        "within_half_a_point": not table or whole >= table["entry_score"] - MARGIN,
    }  # fmt: skip


def lines(found: dict[str, Any]) -> list[str]:
    out = [
        "| | repetitions | epochs of a trial | what it says to take, test | best control of the tuning | difference | "
        "trained in full | best entry of the full table | difference | taken |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, s in found.items():
        t, runs = s["table"], s["repetitions"]
        entry = f"{100 * t['entry_score']:.1f} ({t['entry']})" if t else "-"
        gap = f"{100 * (s['whole'] - t['entry_score']):+.1f}" if t else "-"
        counts = Counter(r["taken"] for r in runs)
        taken = ", ".join(f"{kind} {counts[kind]}" for kind in KINDS if counts[kind])
        length = f"{runs[0]['epochs_of_a_trial']} of {runs[0]['epochs']}"
        out.append(
            f"| {name} | {len(runs)} | {length} | {100 * s['score']:.1f} ± {100 * s['spread']:.1f} "
            f"| {100 * s['control']:.1f} | {100 * (s['score'] - s['control']):+.1f} | {100 * s['whole']:.1f} "
            f"| {entry} | {gap} | {taken} |"
        )
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="the folder with the .npz files")
    parser.add_argument("--out", type=Path, default=Path("runs/tune"))
    parser.add_argument("--datasets", default=",".join(DATASETS))
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--budget", type=float, default=60.0, help="joint epochs")
    parser.add_argument("--ensemble", type=int, default=0, help="largest ensemble of runs that is selected")
    parser.add_argument("--fusions", type=lambda text: text.split(","), default=None)
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    target = RESULTS / "tune.json"
    found: dict[str, Any] = json.loads(target.read_text(encoding="utf-8")) if target.exists() else {}
    for name in arguments.datasets.split(","):
        runs = [repetition(arguments, name, int(seed)) for seed in arguments.seeds.split(",")]
        found[name] = summary(name, runs, arguments.budget)
        target.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    text = "\n".join(lines(found))
    print(text)
    page = PAGE.read_text(encoding="utf-8")
    head, rest = page.split("<!-- table: begin -->")
    tail = rest.split("<!-- table: end -->")[1]
    PAGE.write_text(f"{head}<!-- table: begin -->\n{text}\n<!-- table: end -->{tail}", encoding="utf-8")
    return 0 if all(s["at_or_above_control"] and s["within_half_a_point"] for s in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
