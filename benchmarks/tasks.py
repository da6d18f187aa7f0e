"""Regression and segmentation on real data: controls and the three founding methods, with matched budgets.

    python benchmarks/tasks.py run --data-dir DIR --out runs/tasks [--sets ...] [--seeds 0,1,2] [--workers 2]
    python benchmarks/tasks.py report --data-dir DIR --out runs/tasks

``run`` is restartable. ``report`` writes ``benchmarks/results/tasks.json`` and the tables of ``docs/benchmarks.md``
between its markers.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from equimodal.report import markdown_table
from equimodal.studies import (
    DataConfig,
    Entry,
    StudyConfig,
    build_data,
    compare,
    recipe,
    summarise,
    task_options,
)

METHODS = ("Joint", "MultiLoss", "Ensemble", "PretrainFinetune", "ModalityDropout", "MLA", "CGGM", "MIE")
GAUSSIAN = {"loss": "gaussian_nll"}
# name -> dataset, target, options of the task
SETS: dict[str, tuple[str, str | None, dict[str, str]]] = {
    "mosi-score": ("mosi", "score", {}),
    "mosi-score-gaussian": ("mosi", "score", GAUSSIAN),
    "lggmri": ("lggmri", None, {}),
}
TITLES = {
    "mosi-score": "CMU-MOSI, sentiment score in [-3, 3], L1 loss",
    "mosi-score-gaussian": "CMU-MOSI, sentiment score, Gaussian likelihood (predicted variance)",
    "lggmri": "lggmri, tumour outline on 64x64 slices, half cross-entropy and half Dice",
}
EPOCHS = {"lggmri": 6}  # half of its recipe's, so that eight methods with three seeds take an hour on two cores
PAGE = Path("docs/benchmarks.md")


def study_of(arguments: argparse.Namespace, name: str) -> StudyConfig:
    dataset, target, options = SETS[name]
    path = arguments.data_dir / f"{dataset}.npz"
    model, training = recipe(str(path), target)
    training.epochs = arguments.epochs or EPOCHS.get(name, training.epochs)
    data = DataConfig(str(path), target=target, task={**task_options(str(path), target), **options})
    seeds = [int(s) for s in arguments.seeds.split(",")]
    return StudyConfig({m: Entry(m) for m in METHODS}, seeds, data, model, training, controls=False)


def run(arguments: argparse.Namespace) -> int:
    for name in arguments.sets.split(","):
        started = time.time()
        compare(study_of(arguments, name), arguments.out / name, workers=arguments.workers, cost=False)
        print(f"{name}: {time.time() - started:.0f} s", flush=True)
    return 0


def report(arguments: argparse.Namespace) -> int:
    text, kept = [], {}
    for name in arguments.sets.split(","):
        config = study_of(arguments, name)
        study = summarise(config, arguments.out / name, build_data(config.data), {}, {})
        kept[name] = {
            k: study[k] for k in ("dataset", "protocol", "metric", "budget", "rows", "incomplete", "environment")
        }
        counts, training = study["dataset"]["samples"], study["budget"]["training"]
        text += [
            f"#### {TITLES[name]}",
            "",
            f"{counts['train']} training, {counts['validation']} validation, {counts['test']} test samples; "
            f"{training['epochs']} epochs, batch {training['batch_size']}, AdamW {training['lr']}; epoch: "
            f"{training['selection']}.",
            "",
            markdown_table(study),
        ]
    results = Path("benchmarks/results/tasks.json")
    results.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    head, rest = PAGE.read_text(encoding="utf-8").split("<!-- tasks: begin -->")
    tail = rest.split("<!-- tasks: end -->")[1]
    PAGE.write_text(f"{head}<!-- tasks: begin -->\n{chr(10).join(text)}<!-- tasks: end -->{tail}", encoding="utf-8")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "report"))
    parser.add_argument("--data-dir", type=Path, required=True, help="the folder with the .npz files")
    parser.add_argument("--out", type=Path, default=Path("runs/tasks"))
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--epochs", type=int, default=0, help="instead of the recipe's")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    return run(arguments) if arguments.command == "run" else report(arguments)


if __name__ == "__main__":
    sys.exit(main())
