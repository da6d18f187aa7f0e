"""What to try next, each with the command for it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from equimodal.methods import available, get
from equimodal.report._study import Row, Run, Study, interval_of, number

SEEDS = 3
"""Seeds below which more of them are the next step."""

_MOST = 3  # steps


@dataclass(frozen=True)
class Step:
    """Something to try.

    Args:
        reason: why, in a few words.
        command: that does it.
    """

    reason: str
    command: str


def next_steps(record: Study, folder: str) -> list[Step]:
    """At most three steps, the most important first: complete the comparison, then what its numbers ask for."""
    if record.alone:
        return _of_run(record, folder)
    again = f"equimodal compare --out {shlex.quote(folder)}"
    steps = []
    if any(reason.startswith(("failed:", "left out:", "not finished:")) for reason in record.incomplete):
        steps.append(Step("run the cells again that failed", again))
    if record.missing:
        steps.append(
            Step(
                f"add the controls, without which no claim counts ({', '.join(record.missing)})",
                f"{again} --controls true",
            )
        )
    if any(row.seeds < SEEDS for row in record.rows):
        steps.append(Step("add seeds, for a spread that says something", f"{again} --seeds 0,1,2,3,4"))
    methods = [row for row in record.rows if not row.control]
    if methods:
        steps += _of_method(record, methods[0], again)
    return steps[:_MOST]


def _of_run(record: Study, folder: str) -> list[Step]:
    """A run by itself: compare it, and see what it can do with less."""
    words = ["equimodal", "compare"]
    for part in ("data", "model", "training"):
        found = record.facts.get(part)
        for name, value in found.items() if isinstance(found, Mapping) else ():
            words += [f"--{part}.{name}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)]
    options, kinds = record.facts.get("options"), [row.kind for row in record.rows]
    if options:
        entries = {kind: {"method": kind, "options": options} for kind in kinds}
        words += ["--entries", json.dumps(entries, ensure_ascii=False)]
    else:
        words += ["--methods", ",".join(kinds)]
    words += ["--seeds", "0,1,2", "--out", f"{folder}-compared"]
    return [
        Step("compare it with the controls, without which a score says little", shlex.join(words)),
        _evaluation(folder),
    ]


def _evaluation(folder: str) -> Step:
    """The scores that the next report of the run shows too."""
    words = ["equimodal", "evaluate", folder, "--subsets", "--missing-rates", "0.1,...,0.9"]
    return Step(
        "see what it can do when modalities are missing, here too after equimodal report",
        shlex.join([*words, "--out", f"{folder}/evaluation.json"]),
    )


def _of_method(record: Study, row: Row, again: str) -> list[Step]:
    steps = []
    entry = _with_rule(row)
    if entry is not None:
        text = f"train with the better inference rule, {row.advice['recommended']}"
        steps.append(Step(text, f"{again} --entries {shlex.quote(json.dumps(entry, ensure_ascii=False))}"))
    control = record.best_control
    against = None if control is None else record.difference(row.label, control.label)
    behind = against is not None and against["low"] <= 0
    weak = any(gap > max(0.01 if record.percent else 0.0, spread) for gap, spread in row.under_trained.values())
    known = {other.kind for other in record.rows}
    more = [name for name in available(outside=False) if get(name).info.featured and name not in known]
    if (weak or behind) and more:
        why = "try methods against under-trained modalities" if weak else "try methods that may beat the control"
        steps.append(Step(why, f"{again} --methods {','.join(more)}"))
    elif weak or behind:
        name = shlex.quote(str((record.facts.get("dataset") or {}).get("name") or "DATA"))
        out = shlex.quote(f"{shlex.split(again)[-1]}-tuned")
        why = "search for a better composition, against the same controls"
        steps.append(Step(why, f"equimodal tune --data {name} --budget 60 --out {out}"))
    runs = [run for run in record.runs if run.method == row.label and run.folder]
    if runs:
        run = max(runs, key=_validation_score)
        steps.append(_evaluation(f"{shlex.split(again)[-1]}/{run.folder}"))
    return steps


def _validation_score(run: Run) -> float:
    """By which the epoch of a run was selected; the lowest where it is not on record."""
    selection = run.record.get("selection")
    score = number(selection.get("score")) if isinstance(selection, Mapping) else None
    return float("-inf") if score is None else score


def _with_rule(row: Row) -> Mapping[str, Any] | None:
    """An entry that is this row with the recommended rule, where that gains beyond chance and has a name.

    A row with options of its own has none: its command would have to repeat them all.
    """
    found, rule = interval_of(row.advice.get("difference")), str(row.advice.get("recommended") or "")
    if found is None or found["low"] <= 0 or not rule or ":" in rule or rule == "auto" or row.label != row.kind:
        return None
    name, _, calibrated = rule.partition("+")
    options = {"inference": name} | ({"calibrated": True} if calibrated else {})
    return {f"{row.label}, {rule}": {"method": row.kind, "options": options}}
