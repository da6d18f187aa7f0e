"""The recipe (the default method) against all controls, on every task, with complete data and with missing modalities.

    python benchmarks/recipe.py run --data-dir DIR --out runs/real [--settings mosi,wikidoc] [--rows ...] [--seeds ...]
    python benchmarks/recipe.py report --data-dir DIR --out runs/real

Cells are those of ``benchmarks/real.py`` where the data are complete: one folder serves both, nothing is run twice.
``report`` writes ``benchmarks/results/recipe.json`` and the table of ``docs/benchmarks.md`` between its markers. The
best control and the best single modality are chosen on TEST data, per setting, each control by the better of its two
readings (its own rule, ``skill``): the hardest rivals. Intervals are paired over seeds and test samples.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from equimodal.data import load
from equimodal.diagnostics import Outcomes, paired_difference
from equimodal.methods import default_method, get
from equimodal.studies import (
    OUTCOMES,
    DataConfig,
    StudyConfig,
    cell_folder,
    compare,
    read_outcomes,
    recipe,
    task_options,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.real import between, entries, mean

RESULT, PAGE = Path("benchmarks/results/recipe.json"), Path("docs/benchmarks.md")
RULE = "skill"


@dataclass(frozen=True)
class Setting:
    """A dataset, one of its targets, a loss, and which modalities are missing."""

    file: str
    target: str | None = None
    task: Mapping[str, Any] = field(default_factory=dict)
    missing: str | None = None
    epochs: int | None = None
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)


COMPLETE = {name: Setting(name) for name in ("avdigits", "ravdess", "utdmhad", "mosi", "mfeat", "wikidoc")}
COMPLETE["mosi-score-l1"] = Setting("mosi", "score")
COMPLETE["mosi-score-gaussian"] = Setting("mosi", "score", {"loss": "gaussian_nll"})
COMPLETE["lggmri"] = Setting("lggmri", epochs=6, seeds=(0, 1, 2))  # epochs of 30 to 60 s
MISSING = {
    f"{name}-missing": Setting(s.file, s.target, s.task, "all=0.3", s.epochs, s.seeds)
    for name, s in COMPLETE.items()
    if name != "mosi-score-gaussian"
}
SETTINGS = COMPLETE | MISSING


def rows(labels: Mapping[str, Any]) -> list[str]:
    """Controls that train by themselves, and the recipe with one and two members."""
    own = default_method()
    return [
        label for label, entry in labels.items() if entry.method == own or (get(entry.method).info.control
        and get(entry.method).info.role != "single" and not entry.options.get("aggregator")
        and not label.endswith("recommended"))
    ]  # fmt: skip


def study_of(arguments: argparse.Namespace, name: str) -> StudyConfig:
    setting = SETTINGS[name]
    path = str(arguments.data_dir / f"{setting.file}.npz")
    config = DataConfig(path, target=setting.target, task={**task_options(path, setting.target), **setting.task},
                        missing=setting.missing)  # fmt: skip
    found = entries(load(path) if setting.target is None else load(path, target=setting.target))
    wanted = arguments.rows.split(";") if arguments.rows else rows(found)
    model, training = recipe(path, setting.target)
    training.epochs = setting.epochs or training.epochs
    seeds = [s for s in setting.seeds if s < arguments.seeds]
    return StudyConfig({k: v for k, v in found.items() if k in wanted}, seeds, config, model, training, controls=False)


def run(arguments: argparse.Namespace) -> int:
    for name in arguments.settings.split(","):
        started = time.time()
        try:
            compare(study_of(arguments, name), arguments.out / name, workers=arguments.workers, cost=False)
        except Exception as error:  # noqa: BLE001 (the other settings go on; the report marks what is missing)
            print(f"{name}: {error}", file=sys.stderr, flush=True)
        print(f"{name}: {time.time() - started:.0f} s", flush=True)
    return 0


# ---- report ---------------------------------------------------------------------------------------------------------


def read(arguments: argparse.Namespace, name: str) -> dict[str, Any] | None:
    """Scores of every row by both readings, and the differences of the recipe to its hardest rivals."""
    config = study_of(arguments, name)
    found: dict[str, dict[int, Mapping[str, Outcomes]]] = {}
    for label in config.entries:
        paths = {s: cell_folder(arguments.out / name, label, s) / OUTCOMES for s in config.seeds}
        cells = {s: read_outcomes(path) for s, path in paths.items() if path.exists()}
        if cells:
            found[label] = cells
    own, single = default_method(), "Ensemble"
    if own not in found or single not in found:
        return None
    readings = {
        label: {r: {s: o[key] for s, o in cells.items() if key in o} for r, key in READINGS.items()}
        for label, cells in found.items()
    }
    controls = [label for label in readings if config.entries[label].method != own]
    label, reading = max(((c, r) for c in controls for r in READINGS if readings[c][r]),
                         key=lambda pair: score(readings[pair[0]][pair[1]]))  # fmt: skip
    names = sorted({n for o in found[single].values() for n in o if n.startswith("unimodal/")})
    alone = {n: {s: o[n] for s, o in found[single].items() if n in o} for n in names}
    best = max(names, key=lambda n: score(alone[n]))
    rivals = {"best control": readings[label][reading], "Joint": readings["Joint"]["paper"]}
    if SETTINGS[name].missing is None:  # else a modality alone answers for fewer samples than the others
        rivals["best single"] = alone[best]
    recipes = [k for k in readings if config.entries[k].method == own]
    return {
        "seeds": {k: len(v) for k, v in found.items()},
        "scores": {k: {r: [float(o.score()) for o in v[r].values()] for r in READINGS} for k, v in readings.items()},
        "best control": f"{label}, by {'its rule' if reading == 'paper' else RULE}",
        "best single": best.removeprefix("unimodal/"),
        "best single score": score(alone[best]),
        "differences": {k: {r: paired(readings[k]["paper"], o) for r, o in rivals.items()} for k in recipes},
    }


READINGS = {"paper": "prediction", RULE: f"rule/{RULE}"}


def score(by_seed: Mapping[int, Outcomes]) -> float:
    return mean([float(o.score()) for o in by_seed.values()]) if by_seed else float("-inf")


def paired(ours: Mapping[int, Outcomes], theirs: Mapping[int, Outcomes]) -> dict[str, float] | None:
    seeds = [s for s in ours if s in theirs]
    if not seeds:
        return None
    return asdict(paired_difference([ours[s] for s in seeds], [theirs[s] for s in seeds]))


def table(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One row per setting; points, or thousandths of the mean absolute error."""
    lines = [
        "| | seeds | Joint | MultiLoss | Ensemble | best control | best single | **recipe** | - best control "
        "| - best single | two members | - best control | - best single |", "|---|" + "---|" * 12,
    ]  # fmt: skip
    for name, f in found.items():
        factor, digits = (-1.0, 3) if SETTINGS[name].target else (100.0, 1)

        def show(values: list[float], factor: float = factor, digits: int = digits) -> str:
            return f"{factor * mean(values):.{digits}f}" if values else "-"

        def gap(d: Mapping[str, float] | None, factor: float = factor, digits: int = digits) -> str:
            if d is None:
                return "-"
            low, high = abs(factor) * d["low"], abs(factor) * d["high"]
            return f"{abs(factor) * d['mean']:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"

        scores, recipes = f["scores"], list(f["differences"])
        cells = [str(f["seeds"][recipes[0]]), *(show(scores.get(c, {}).get("paper", [])) for c in
                 ("Joint", "MultiLoss", "Ensemble")), f["best control"]]  # fmt: skip
        single = f"{f['best single']} {factor * f['best single score']:.{digits}f}"
        cells.append(single if SETTINGS[name].missing is None else "-")
        for own in (recipes[0], recipes[1] if len(recipes) > 1 else ""):
            differences = f["differences"].get(own, {})
            cells.append(show(scores[own]["paper"]) if own else "-")
            cells += [gap(differences.get(rival)) for rival in ("best control", "best single")]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def report(arguments: argparse.Namespace) -> int:
    kept = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}  # settings not asked for stay
    kept |= {name: new for name in arguments.settings.split(",") if (new := read(arguments, name)) is not None}
    found = {name: kept[name] for name in SETTINGS if name in kept}
    RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    lines = table(found)
    print("\n".join(lines))
    PAGE.write_text(between(PAGE.read_text(encoding="utf-8"), "recipe", lines), encoding="utf-8")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "report"))
    parser.add_argument("--data-dir", type=Path, required=True, help="the folder with the .npz files")
    parser.add_argument("--out", type=Path, default=Path("runs/real"))
    parser.add_argument("--settings", default=",".join(SETTINGS))
    parser.add_argument("--rows", default="", help="labels, separated by semicolons; default: controls and the recipe")
    parser.add_argument("--seeds", type=int, default=5, help="at most so many")
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    return run(arguments) if arguments.command == "run" else report(arguments)


if __name__ == "__main__":
    sys.exit(main())
