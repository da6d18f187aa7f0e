"""Every subset of the modalities at test: the recipe against all controls, after training with missing modalities.

    python benchmarks/recipe_subsets.py --data-dir DIR --out runs/real    # after: benchmarks/recipe.py run

Reads the runs that ``benchmarks/recipe.py`` left of its settings with 30 % of all modalities missing, takes their test
samples whole, and predicts each of them from every subset of the modalities. The score of a run is the mean over the
subsets. The best control is chosen on TEST data. Intervals are paired over seeds and test samples. Writes
``benchmarks/results/recipe_subsets.json`` and the table of ``docs/benchmarks.md`` between its markers.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from equimodal import Batch
from equimodal.data import loader
from equimodal.diagnostics import Outcomes, sample_terms, subsets_of
from equimodal.methods import Method, default_method
from equimodal.studies import build_data, cell_folder, load_run

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.real import between, mean
from benchmarks.recipe import MISSING, SETTINGS, paired, score, study_of

RESULT, PAGE = Path("benchmarks/results/recipe_subsets.json"), Path("docs/benchmarks.md")


def outcomes(folder: Path) -> Outcomes:
    """Terms of the score with columns for each subset, so that the score is the mean over the subsets.

    A sample that lacks all modalities of a subset by itself does not count there.
    """
    config, _, method = load_run(folder)
    batches = list(loader(build_data(replace(config.data, missing=None)).test, 128))
    columns = []
    for subset in subsets_of(method.modalities):
        found = [terms(method, batch, subset) for batch in batches]
        columns.append([np.concatenate([getattr(f, part) for f in found]) for part in ("numerator", "denominator")])
    return Outcomes(*(np.concatenate([c[i] for c in columns], axis=1) for i in range(2)))


def terms(method: Method, batch: Batch, subset: Sequence[str]) -> Outcomes:
    """Of the samples of a batch, read from some modalities."""
    present = {m: mask for m, mask in (batch.present or {}).items() if m in subset}
    some = torch.ones(len(batch), dtype=torch.bool)
    if len(present) == len(subset):
        some = torch.stack(list(present.values())).any(0)
    if not some.any():
        return Outcomes(*np.zeros((2, len(batch), 1), np.float32))
    chosen = batch.select(some.nonzero()[:, 0])
    present = {m: mask[some] for m, mask in present.items()}
    output = method.predict({m: chosen.inputs[m] for m in subset}, present).output
    found = sample_terms(method.task, output, chosen.target)
    whole = np.zeros((2, len(batch), 1), np.float32)  # scores of the table have one column
    whole[:, some.numpy()] = found.numerator, found.denominator
    return Outcomes(*whole)


def read(arguments: argparse.Namespace, name: str) -> dict[str, Any] | None:
    config = study_of(arguments, name)
    found = {}
    for label in config.entries:
        folders = {s: cell_folder(arguments.out / name, label, s) for s in config.seeds}
        if cells := {s: outcomes(f) for s, f in folders.items() if (f / "weights.safetensors").exists()}:
            found[label] = cells
    own = [label for label in found if config.entries[label].method == default_method()]
    controls = [label for label in found if label not in own]
    if not own or not controls:
        return None
    best = max(controls, key=lambda label: score(found[label]))
    return {
        "subsets": next(iter(found[best].values())).numerator.shape[1],
        "seeds": {k: len(v) for k, v in found.items()},
        "scores": {k: [float(o.score()) for o in v.values()] for k, v in found.items()},
        "worst subset": {k: float(np.mean([worst(o) for o in v.values()])) for k, v in found.items()},
        "best control": best,
        "differences": {k: paired(found[k], found[best]) for k in own},
    }


def worst(found: Outcomes) -> float:
    return float((found.numerator.sum(0) / found.denominator.sum(0)).min())


def table(found: dict[str, dict[str, Any]]) -> list[str]:
    """One row per setting; points, or the mean absolute error."""
    rows = ["Joint", "MultiLoss", "Ensemble", "ModalityDropout"]
    lines = [f"| | subsets | seeds | {' | '.join(rows)} | best control | **recipe** | - best control | two members "
             "| - best control |", "|---|" + "---|" * (len(rows) + 7)]  # fmt: skip
    for name, f in found.items():
        factor, digits = (-1.0, 3) if SETTINGS[name].target else (100.0, 1)

        def shown(label: str, f: dict[str, Any] = f, factor: float = factor, digits: int = digits) -> str:
            return f"{factor * mean(f['scores'][label]):.{digits}f}" if label in f["scores"] else "-"

        cells = [str(f["subsets"]), str(min(f["seeds"].values())), *map(shown, rows),
                 f"{f['best control']} {shown(f['best control'])}"]  # fmt: skip
        for label, d in f["differences"].items():
            gaps = [f"{abs(factor) * d[part]:+.{digits}f}" for part in ("mean", "low", "high")]
            cells += [shown(label), f"{gaps[0]} [{gaps[1]}, {gaps[2]}]"]
        cells += ["-"] * (2 * (2 - len(f["differences"])))
        lines.append(f"| {name.removesuffix('-missing')} | " + " | ".join(cells) + " |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="the folder with the .npz files")
    parser.add_argument("--out", type=Path, default=Path("runs/real"))
    parser.add_argument("--settings", default=",".join(MISSING))
    parser.add_argument("--rows", default="", help="labels, separated by semicolons; default: controls and the recipe")
    parser.add_argument("--seeds", type=int, default=5, help="at most so many")
    arguments = parser.parse_args()
    kept = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    for name in arguments.settings.split(","):
        if (found := read(arguments, name)) is not None:
            kept = {n: found if n == name else kept[n] for n in MISSING if n == name or n in kept}
            print("\n".join(table({name: found})), flush=True)
            RESULT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(between(PAGE.read_text(encoding="utf-8"), "recipe-subsets", table(kept)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
