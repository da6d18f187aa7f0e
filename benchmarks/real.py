"""All methods and controls on real data, with equal budgets: one table.

    python benchmarks/real.py run --data-dir DIR --out runs/real [--datasets ...] [--seeds 0,1,2,3,4] [--workers 2]
    python benchmarks/real.py report --data-dir DIR --out runs/real
    python benchmarks/real.py ranks

``run`` is restartable: a finished cell is not run again. Every registered method takes part with its defaults, which
are its paper's, and with the further rows that it asks for; methods that need teachers get the ensemble of unimodal
models of the same seed, which is trained once. Every run is read twice: by the inference rule of its paper, and by
``skill``, the rule that we advise, fitted on validation data; the training is the same. Where our advice changes the
training (``recommended``), it is a row of its own.

``report`` writes ``benchmarks/results/real/DATASET.json`` and the tables of ``docs/benchmarks.md`` between its markers,
and then does what ``ranks`` does alone, from these files: the critical-difference diagrams
``benchmarks/results/real-ranks-RULE.svg`` and what has to be said with them.
Differences are paired over seeds and test samples (bootstrap, 95 %), their p-values corrected by Holm over the methods
of a dataset.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from equimodal.data import Dataset, load
from equimodal.diagnostics import Outcomes, average_ranks, holm, paired_difference
from equimodal.methods import available, get
from equimodal.report import Ranking, draw_ranking, rank_studies
from equimodal.studies import (
    OUTCOMES,
    DataConfig,
    Entry,
    RunConfig,
    StudyConfig,
    build_data,
    cell_folder,
    companion_options,
    compare,
    measure_cost,
    read_outcomes,
    recipe,
    summarise,
)

DATASETS = ("avdigits", "ravdess", "utdmhad", "mosi", "mfeat")
RULE = "skill"
RIVALS = ("Joint", "MultiLoss", "Ensemble", "PretrainFinetune, frozen")
SINGLE = "best single modality"
RESULTS, PAGE = Path("benchmarks/results/real"), Path("docs/benchmarks.md")
MARGIN = 0.01  # scores within a point are equivalent
# settings of which a table shows more than the defaults; methods without companions and single modalities need none
EXTRA: dict[str, Entry] = {
    "ExpertPool, 2 members": Entry("ExpertPool", {"members": 2}),
    "OGM-GE": Entry("OGM", {"noise": "covariance"}),
    **{f"MultiTask, {name}": Entry("MultiTask", {"aggregator": name}) for name in ("UPGrad", "MGDA", "PCGrad", "FAMO")},
}


def entries(data: Dataset) -> dict[str, Entry]:
    """Every method with its defaults, the rows that it asks for, its recommended training, and :data:`EXTRA`."""
    found: dict[str, Entry] = {}
    for name in available(outside=False):
        info = get(name).info
        if info.role == "single" or data.task.name not in info.tasks:
            continue
        uses = {option: dict.fromkeys(data.modalities, "Ensemble") for option in companion_options(name)}
        found[name] = Entry(name, {}, uses)
        for label, options in info.rows.items():
            found[f"{name}, {label}"] = Entry(name, dict(options), uses)
        advised = {k: v for k, v in get(name).recommended(data.task).items() if k != "inference"}
        if advised:
            found[f"{name}, recommended"] = Entry(name, advised, uses)
    found |= {label: entry for label, entry in EXTRA.items() if entry.method in found}
    if "MultiTask" in found:
        del found["MultiTask"]  # its default is one of the four
    return found


def study_of(arguments: argparse.Namespace, name: str) -> StudyConfig:
    path = arguments.data_dir / f"{name}.npz"
    data = load(str(path))
    model, training = recipe(str(path))
    if arguments.device:
        training.device = arguments.device
    chosen = entries(data)
    if arguments.entries:
        wanted = arguments.entries.split(";")
        chosen = {k: v for k, v in chosen.items() if k in wanted}
    seeds = [int(s) for s in arguments.seeds.split(",")]
    return StudyConfig(chosen, seeds, DataConfig(str(path)), model, training, controls=False)


def run(arguments: argparse.Namespace) -> int:
    for name in arguments.datasets.split(","):
        started, said = time.time(), [-1]

        def tell(done: int, total: int, what: str, name: str = name, started: float = started,
                 said: list[int] = said) -> None:  # fmt: skip
            if done >= said[0] + total // 20:
                said[0] = done
                print(f"{name}: {done}/{total} epochs, {time.time() - started:.0f} s, {what}", flush=True)

        try:
            compare(
                study_of(arguments, name), arguments.out / name, workers=arguments.workers, progress=tell, cost=False
            )
        except Exception as error:  # noqa: BLE001 (the other datasets go on; the report marks what is missing)
            print(f"{name}: {error}", file=sys.stderr, flush=True)
    return 0


# ---- report ---------------------------------------------------------------------------------------------------------


def report(arguments: argparse.Namespace) -> int:
    RESULTS.mkdir(parents=True, exist_ok=True)
    kept: dict[str, dict[str, Any]] = {}
    for name in arguments.datasets.split(","):
        config, folder, path = study_of(arguments, name), arguments.out / name, RESULTS / f"{name}.json"
        data = build_data(config.data)
        costs = stored_costs(path) if arguments.without_cost else measure_cost(data, first_cells(config, data))
        study = summarise(config, folder, data, costs, {})
        kept[name] = {k: study[k] for k in ("dataset", "protocol", "selection", "budget", "incomplete", "environment")}
        kept[name]["rows"] = rows_of(study, config, folder)
        path.write_text(json.dumps(kept[name], indent=1, sort_keys=True) + "\n", encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8")
    page = between(page, "overview", overview(kept))
    page = between(page, "verdicts", verdicts(kept))
    page = between(page, "details", [line for name, study in kept.items() for line in details(name, study)])
    PAGE.write_text(page, encoding="utf-8")
    print("\n".join(overview(kept)))
    return ranks()


def ranks() -> int:
    """The diagrams and their text, from the stored results of all datasets that are there."""
    paths = [path for name in DATASETS if (path := RESULTS / f"{name}.json").exists()]
    kept = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}
    lines: list[str] = []
    for reading, how in (("paper", "the rule of its paper"), (RULE, f"`{RULE}`")):
        studies = {name: as_study(study, reading) for name, study in kept.items()}
        ranking = rank_studies(studies, budgets="own", common=True, against="MultiLoss")
        title = f"{how.replace('`', '')}: {', '.join(ranking.datasets)}"
        path = draw_ranking(ranking, RESULTS.parent / f"real-ranks-{reading}.svg", title)
        lines += rank_lines(ranking, how, path)
    PAGE.write_text(between(PAGE.read_text(encoding="utf-8"), "ranks", lines), encoding="utf-8")
    return 0


def as_study(study: Mapping[str, Any], reading: str) -> dict[str, Any]:
    """The stored results as the record of a comparison, with the scores by one rule."""
    rows = []
    for row in study["rows"]:
        scores = row["readings"][reading]["scores"]
        if scores:
            rows.append({k: row[k] for k in ("method", "class", "control")}
                        | {"seeds": len(scores), "scores": scores, "score_mean": mean(scores)})  # fmt: skip
    return {"rows": rows, **{k: study[k] for k in ("dataset", "budget", "incomplete")}}


def rank_lines(ranking: Ranking, how: str, path: Path) -> list[str]:
    """The diagram with what has to be said beside it."""
    better = [p.entry for p in ranking.places if p.better is not None and p.better > 0.95]
    worse = [p.entry for p in ranking.places if p.worse is not None and p.worse > 0.95]
    friedman = "-" if ranking.friedman is None else f"{ranking.friedman:.2g}"
    return [
        f"![Average ranks by {how.replace('`', '')}](../{path.as_posix()})", "",
        f"Average ranks by {how} with 95 % intervals over datasets and seeds; the critical difference (Nemenyi) is "
        f"{ranking.difference:.1f} ranks for {len(ranking.places)} entries on {len(ranking.datasets)} datasets; "
        f"Friedman's test: p = {friedman}. With a chance above 95 % (Bayesian signed-rank test, margin of a point) "
        f"better than {ranking.reference} on a further dataset: {', '.join(better) or 'none'}; worse: "
        f"{', '.join(worse) or 'none'}.", "",
    ]  # fmt: skip


def rows_of(study: Mapping[str, Any], config: StudyConfig, folder: Path) -> list[dict[str, Any]]:
    """One row per entry: scores by both rules, differences to the controls and to the best single modality by both."""
    outcomes = {
        row["method"]: {s: read_outcomes(cell_folder(folder, row["method"], s) / OUTCOMES) for s in config.seeds}
        for row in study["rows"]
    }
    alone = best_single(outcomes["Ensemble"])
    rows = []
    for row in study["rows"]:
        fields = ("method", "class", "control", "seeds", "scores", "cost", "seconds", "per_modality", "under_trained",
                  "own_outputs", "rules")  # fmt: skip
        rows.append({k: row[k] for k in fields})
    for reading, name in (("paper", "prediction"), (RULE, f"rule/{RULE}")):
        versus: dict[str, dict[str, Any]] = {row["method"]: {} for row in rows}
        for rival in (*RIVALS, SINGLE):
            theirs = outcomes["Ensemble"] if rival == SINGLE else outcomes.get(rival, {})
            met = {}
            for row in rows:
                # a control is read by the better known rule of the two too: the same for both sides
                pairs = [(o[name], theirs[s][alone if rival == SINGLE else name])
                         for s, o in outcomes[row["method"]].items() if name in o and theirs.get(s)]  # fmt: skip
                if pairs and row["method"] != rival:
                    met[row["method"]] = asdict(paired_difference([a for a, _ in pairs], [b for _, b in pairs]))
            corrected = holm({label: d["p"] for label, d in met.items()})
            for label, d in met.items():
                versus[label][rival] = {k: d[k] for k in ("mean", "low", "high", "p")} | {"p_holm": corrected[label]}
        for row in rows:
            own = [o[name] for o in outcomes[row["method"]].values() if name in o]
            row.setdefault("readings", {})[reading] = {
                "scores": [float(o.score()) for o in own], "differences": versus[row["method"]],
            }  # fmt: skip
    return rows


def best_single(by_seed: Mapping[int, Mapping[str, Outcomes]]) -> str:
    """The unimodal output of the ensemble that scores best on TEST data: the hardest rival."""
    names = {n for o in by_seed.values() for n in o if n.startswith("unimodal/")}
    return max(sorted(names), key=lambda n: statistics.fmean(float(o[n].score()) for o in by_seed.values() if n in o))


def stored_costs(path: Path) -> dict[str, float]:
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    return {row["method"]: row["cost"] for row in rows if row["cost"] is not None}


def first_cells(config: StudyConfig, data: Dataset) -> dict[str, RunConfig]:
    """The first seed's cell of every entry that uses no other run."""
    ending = f"/seed{config.seeds[0]}"
    return {n.removesuffix(ending): c for n, c in config.cells(data).items() if n.endswith(ending) and not c.uses}


def between(page: str, marker: str, lines: Sequence[str]) -> str:
    start, end = f"<!-- {marker}: begin -->", f"<!-- {marker}: end -->"
    head, rest = page.split(start)
    return f"{head}{start}\n" + "\n".join(lines) + f"\n{end}{rest.split(end)[1]}"


def mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else float("nan")


def overview(kept: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Methods by their average rank under ``skill``: means on every dataset under both rules."""
    by_rule = {
        reading: [
            {r["method"]: mean(r["readings"][reading]["scores"]) for r in s["rows"] if r["readings"][reading]["scores"]}
            for s in kept.values()
        ]
        for reading in ("paper", RULE)
    }
    ranks = {reading: average_ranks(scores) for reading, scores in by_rule.items()}
    labels = [r["method"] for r in next(iter(kept.values()))["rows"]]
    controls = {r["method"] for s in kept.values() for r in s["rows"] if r["control"]}
    order = sorted(labels, key=lambda n: min(ranks["paper"].get(n, 99), ranks[RULE].get(n, 99)))
    lines = ["| | " + " | ".join(f"{name}" for name in kept) + " | rank | cost |", "|---|" + "---|" * (len(kept) + 2)]
    for label in order:
        cells = []
        for paper, skill in zip(by_rule["paper"], by_rule[RULE], strict=True):
            own, ours = paper.get(label), skill.get(label)
            cells.append("-" if own is None else f"{100 * own:.1f}" + ("" if ours is None else f" / {100 * ours:.1f}"))
        rank = " / ".join(f"{ranks[k][label]:.1f}" if label in ranks[k] else "-" for k in ("paper", RULE))
        costs = [r["cost"] for s in kept.values() for r in s["rows"] if r["method"] == label and r["cost"] is not None]
        shown = f"*{label}*" if label in controls else label
        cost = f"{statistics.median(costs):.2f}" if costs else "-"
        lines.append(f"| {shown} | " + " | ".join(cells) + f" | {rank} | {cost} |")
    return lines


def verdicts(kept: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """How often a method is better, equivalent or worse than each rival, by the rule of its paper and by ``skill``."""
    rivals = (*RIVALS, SINGLE)
    lines = ["| better / level / worse than | " + " | ".join(rivals) + " |", "|---|" + "---|" * len(rivals)]
    for label in [r["method"] for r in next(iter(kept.values()))["rows"]]:
        cells = []
        for rival in rivals:
            counts = []
            for reading in ("paper", RULE):
                found = [r["readings"][reading]["differences"].get(rival) for s in kept.values() for r in s["rows"]
                         if r["method"] == label]  # fmt: skip
                seen = [d for d in found if d is not None]
                better = sum(d["low"] > 0 and d["p_holm"] < 0.05 for d in seen)
                worse = sum(d["high"] < 0 and d["p_holm"] < 0.05 for d in seen)
                counts.append(f"{better}/{len(seen) - better - worse}/{worse}" if seen else "-")
            cells.append(" · ".join(counts))
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return lines


def details(name: str, study: Mapping[str, Any]) -> list[str]:
    """One dataset: scores with their spread, differences with their intervals, probes."""
    budget, samples = study["budget"]["training"], study["dataset"]["samples"]
    modalities = study["dataset"]["modalities"]
    lines = [
        f"### {name}", "",
        f"Protocol `{study['protocol']['name']}`; {samples['train']} training, {samples['validation']} validation, "
        f"{samples['test']} test samples; {budget['epochs']} epochs, batch {budget['batch_size']}, AdamW "
        f"{budget['lr']}; epoch: {budget['selection']}; {len(study['budget']['seeds'])} seeds unless the row says "
        "otherwise. Differences in points with their 95 % interval; `*`: p < 0.05 after Holm, `=`: within a point.", "",
        f"| | by its paper's rule | by `{RULE}` | `{RULE}` - MultiLoss | `{RULE}` - {SINGLE} | "
        + " | ".join(f"{m} (gap)" for m in modalities) + " |",
        "|---|---|---|---|---|" + "---|" * len(modalities),
    ]  # fmt: skip
    for row in sorted(
        study["rows"], key=lambda r: -mean(r["readings"][RULE]["scores"] or r["readings"]["paper"]["scores"])
    ):
        mark = f" ({row['seeds']} seeds)" if row["seeds"] < len(study["budget"]["seeds"]) else ""
        label = f"*{row['method']}*" if row["control"] else row["method"]
        cells = [spread(row["readings"][k]["scores"]) for k in ("paper", RULE)]
        cells += [difference(row["readings"][RULE]["differences"].get(rival)) for rival in ("MultiLoss", SINGLE)]
        for m in modalities:
            pair, gap = row["per_modality"].get(m), row["under_trained"].get(m)
            cells.append("-" if pair is None else f"{100 * pair[0]:.1f}" + (f" ({100 * gap[0]:+.1f})" if gap else ""))
        lines.append(f"| {label}{mark} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def spread(scores: Sequence[float]) -> str:
    if not scores:
        return "-"
    return f"{100 * mean(scores):.1f} ± {100 * (statistics.stdev(scores) if len(scores) > 1 else 0.0):.1f}"


def difference(found: Mapping[str, float] | None) -> str:
    if found is None:
        return "-"
    mark = " *" if found["p_holm"] < 0.05 else " =" if found["low"] >= -MARGIN and found["high"] <= MARGIN else ""
    return f"{100 * found['mean']:+.1f} [{100 * found['low']:+.1f}, {100 * found['high']:+.1f}]{mark}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "report", "ranks", "list"))
    parser.add_argument("--data-dir", type=Path, help="the folder with the .npz files; all but ranks need it")
    parser.add_argument("--out", type=Path, default=Path("runs/real"))
    parser.add_argument("--datasets", default=",".join(DATASETS))
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="", help="as training.device; default: that of the recipe")
    parser.add_argument("--without-cost", action="store_true", help="report: keep the stored cost of a step")
    parser.add_argument("--entries", default="", help="labels, separated by semicolons; default: all")
    arguments = parser.parse_args()
    if arguments.command == "ranks":
        return ranks()
    if arguments.data_dir is None:
        parser.error("--data-dir is missing")
    if arguments.command == "list":
        for name in arguments.datasets.split(","):
            print(name, *study_of(arguments, name).entries, sep="\n  ")
        return 0
    return run(arguments) if arguments.command == "run" else report(arguments)


if __name__ == "__main__":
    sys.exit(main())
