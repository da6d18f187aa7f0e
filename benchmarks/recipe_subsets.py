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
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from equimodal.data import loader
from equimodal.diagnostics import Outcomes, sample_terms, subsets_of
from equimodal.methods import default_method
from equimodal.studies import build_data, cell_folder, load_run

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.real import between, mean
from benchmarks.recipe import MISSING, SETTINGS, paired, score, study_of

RESULT, PAGE = Path("benchmarks/results/recipe_subsets.json"), Path("docs/benchmarks.md")


def outcomes(folder: Path) -> Outcomes:
    """Terms of the score with one column for each subset, so that the score is the mean over the subsets."""
    config, _, method = load_run(folder)
    split = build_data(replace(config.data, missing=None)).test
    columns = []
    for subset in subsets_of(method.modalities):
        found = []
        for batch in loader(split, 512):
            inputs = {m: batch.inputs[m] for m in subset}
            present = {m: mask for m, mask in (batch.present or {}).items() if m in subset}
            found.append(sample_terms(method.task, method.predict(inputs, present).output, batch.target))
        columns.append([np.concatenate([getattr(f, part) for f in found]) for part in ("numerator", "denominator")])
    return Outcomes(*(np.concatenate([c[i] for c in columns], axis=1) for i in range(2)))


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
            kept[name] = found
            print("\n".join(table({name: found})), flush=True)
            RESULT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    ordered = {name: kept[name] for name in MISSING if name in kept}
    PAGE.write_text(between(PAGE.read_text(encoding="utf-8"), "recipe-subsets", table(ordered)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
