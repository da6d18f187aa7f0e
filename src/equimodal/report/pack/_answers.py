"""Nine questions that reviewers ask of a method for balanced multimodal learning, answered from one comparison."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from equimodal._utils.printing import printable
from equimodal.errors import UnknownNameError, unknown_name
from equimodal.methods import Method, get
from equimodal.report._controls import role_of
from equimodal.report._tables import escaped
from equimodal.report.formats import Tables, interval_text, number_text, tables_of


@dataclass(frozen=True)
class Answer:
    """One answer.

    Args:
        question: in words.
        text: with the number of the comparison; empty where it measured none.
        command: what would measure it, where it did not.
    """

    question: str
    text: str
    command: str = ""

    @property
    def measured(self) -> bool:
        """Whether the comparison has the number."""
        return not self.command


@dataclass(frozen=True)
class _Case:
    """What the answers are made from."""

    study: Mapping[str, Any]
    tables: Tables
    entry: Mapping[str, Any]
    row: Mapping[str, Any]
    folder: str
    data: str

    @property
    def label(self) -> str:
        return str(self.entry["entry"])

    @property
    def kind(self) -> type[Method] | None:
        """The class of the method, if it is known here."""
        try:
            return get(str(self.entry["method"]))
        except UnknownNameError:
            return None

    def number(self, value: float | None, signed: bool = False) -> str:
        return number_text(value, self.tables.percent, signed) + (" points" if signed and self.tables.percent else "")

    def difference(self, rival: str) -> str:
        """The paired difference to a rival in words; empty where it is not on record."""
        found = ((self.study.get("differences") or {}).get(self.label) or {}).get(rival)
        if not isinstance(found, Mapping):
            return ""
        ends = interval_text(found.get("low"), found.get("high"), self.tables.percent, signed=True)
        p = found.get("p_holm")
        tail = "" if p is None else f", p = {p:.3f} after Holm"
        return f"{self.number(found.get('mean'), signed=True)} {ends}{tail}"

    def compare(self, *arguments: str) -> str:
        """The command that goes on with this comparison."""
        return shlex.join(["equimodal", "compare", "--out", self.folder, *arguments])

    def elsewhere(self, *data: str) -> str:
        """The command that compares the method, with its defaults, on other data."""
        return shlex.join(["equimodal", "compare", "--methods", str(self.entry["method"]), *data, "--out", "FOLDER"])


def judged_entry(tables: Tables, entry: str | None = None) -> str:
    """The entry that the answers are about: ``entry``, or the best that is no control; of controls only, the best.

    Raises:
        UnknownNameError: there is no such entry.
    """
    labels = [r["entry"] for r in tables.leaderboard]
    if entry is not None:
        if entry not in labels:
            raise unknown_name("entry", entry, labels)
        return entry
    return next((r["entry"] for r in tables.leaderboard if not r["control"]), labels[0] if labels else "")


def answers_of(
    study: Mapping[str, Any], folder: str = "STUDY", entry: str | None = None, data: str = "DATA"
) -> list[Answer]:
    """The nine answers, in the order of :data:`QUESTIONS`.

    Args:
        study: the record that ``equimodal compare`` stores as ``study.json``.
        folder: of the comparison, for the commands.
        entry: what they are about; default the best entry that is no control.
        data: what ``--data`` calls the dataset, for the commands.

    Raises:
        DataError: a field of the record is missing or malformed.
        UnknownNameError: there is no such entry.
    """
    tables = tables_of(study)
    label = judged_entry(tables, entry)
    if not label:
        return [Answer(question, "", shlex.join(["equimodal", "compare", "--out", folder])) for question in QUESTIONS]
    found = next(r for r in tables.leaderboard if r["entry"] == label)
    row = next(r for r in study["rows"] if r["method"] == label)
    case = _Case(study, tables, found, row, folder, data)
    return [Answer(question, *answer(case)) for question, answer in QUESTIONS.items()]


def answers_text(study: Mapping[str, Any], folder: str = "STUDY", entry: str | None = None, data: str = "DATA") -> str:
    """The nine answers in Markdown; the arguments are those of :func:`answers_of`."""
    tables = tables_of(study)
    label = judged_entry(tables, entry)
    lines = [f"# Nine questions about {_plain(label) or 'nothing'}", "", f"{_plain(tables.title)}.", ""]
    for number, answer in enumerate(answers_of(study, folder, entry, data), start=1):
        lines += [f"## {number}. {answer.question}", ""]
        if answer.text:
            lines += [f"{_plain(answer.text[:1].upper() + answer.text[1:])}.", ""]
        if not answer.measured:
            lines += ["Not measured. This would:", "", f"    {printable(answer.command)}", ""]
    return "\n".join(lines)


def _plain(text: str) -> str:
    return escaped(printable(text))


# ---- the answers: text, and the command where there is no number ----------------------------------------------------

_Found = tuple[str, str]


def _ensemble(case: _Case) -> _Found:
    rival = _labelled(case, "independent")
    if rival == case.label:
        return "it is the ensemble itself", ""
    said = case.difference(rival) if rival else ""
    if said:
        return f"against {rival} (every modality trained by itself, predictions combined): {said}", ""
    return "", case.compare("--controls", "true")


def _spread(case: _Case) -> _Found:
    r = case.entry
    if r["seeds"] < 2:
        return f"one seed: {case.number(r['mean'])}", case.compare("--seeds", "0,1,2,3,4")
    text = f"{case.number(r['mean'])} with a standard deviation of {case.number(r['std'])} over {r['seeds']} seeds"
    if r["low"] is not None:
        text += f"; 95 % interval over seeds and test samples {interval_text(r['low'], r['high'], case.tables.percent)}"
    return text, ""


def _cost(case: _Case) -> _Found:
    r = case.entry
    seconds = "" if r["seconds"] is None else f"{r['seconds']:.1f} s for a training, on the machine of environment.json"
    if r["cost"] is None:
        return seconds, case.compare("--cost", "true")
    return f"{r['cost']:.2f} steps of joint training per step" + (f"; {seconds}" if seconds else ""), ""


def _order(case: _Case) -> _Found:
    found = _variants(case, lambda changed: changed == {"order"})
    if found:
        return f"with other orders: {found}", ""
    kind, options = case.kind, case.row.get("options") or {}
    if kind is not None and not kind.info.order:
        return "the result does not depend on the order of the encoders; a test of the library shows it", ""
    text = "" if kind is None else f"it depends on it: {kind.info.order}"
    if "order" not in options:  # no command has an option for it
        return text, "equimodal data bundle FILE --inputs.SECOND ... --inputs.FIRST ... --target ... --split ..."
    entry = {"method": case.entry["method"], "options": {**options, "order": "shuffled"}}
    if case.row.get("uses"):
        entry["uses"] = case.row["uses"]
    return text, case.compare("--entries", json.dumps({f"{case.label}, shuffled": entry}))


def _sensitivity(case: _Case) -> _Found:
    found = _variants(case, lambda changed: bool(changed) and "order" not in changed)
    if found:
        return f"with other options: {found}", ""
    tune = ["--methods", str(case.entry["method"]), "--data", case.data, "--budget", "60", "--out", "FOLDER"]
    return "", shlex.join(["equimodal", "tune", *tune])


def _regression(case: _Case) -> _Found:
    if not case.tables.higher_is_better:
        return f"{case.tables.metric} {case.number(case.entry['mean'])} on this dataset, which is one", ""
    kind = case.kind
    if kind is not None and "regression" not in kind.info.tasks:
        return "the method is not defined for it, and the library refuses it", ""
    return "", case.elsewhere("--data", "synthetic", "--data.options.task", "regression")


def _modalities(case: _Case) -> _Found:
    names = [str(m) for m in (case.study.get("dataset") or {}).get("modalities") or ()]
    if len(names) > 2:
        return f"{case.number(case.entry['mean'])} with {len(names)}: {', '.join(names)}", ""
    seen = f"{len(names)} here: {', '.join(names)}" if names else ""
    return seen, case.elsewhere("--data", "synthetic", "--data.options.modalities", "3")


def _imbalance(case: _Case) -> _Found:
    own = [r for r in case.tables.modalities if r["entry"] == case.label]
    gaps = [
        f"{r['modality']} {case.number(r['probe'])} (gap {case.number(r['gap'], signed=True)})"
        for r in own
        if r["gap"] is not None and r["probe"] is not None
    ]
    if gaps:
        return (
            f"by a linear probe on each frozen encoder, test data: {'; '.join(gaps)}; gap: how far it lies below that "
            "of the same encoder trained alone",
            "",
        )
    probes = [f"{r['modality']} {case.number(r['probe'])}" for r in own if r["probe"] is not None]
    text = f"by a linear probe on each frozen encoder: {'; '.join(probes)}" if probes else ""
    return text, case.compare("--controls", "true")


def _splits(case: _Case) -> _Found:
    protocol = case.study.get("protocol") or {}
    dataset = case.study.get("dataset") or {}
    if not protocol.get("name"):
        return "", case.compare()
    described = f" ({protocol['description']})" if protocol.get("description") else ""
    samples = ", ".join(f"{count} {part}" for part, count in (dataset.get("samples") or {}).items())
    validation = f"; validation: {protocol['validation']}" if protocol.get("validation") else ""
    print_ = f"; fingerprint of the data {str(dataset.get('fingerprint'))[:12]}" if dataset.get("fingerprint") else ""
    chosen = f"; {case.study['selection']}" if case.study.get("selection") else ""
    return f"protocol {protocol['name']}{described}: samples {samples}{validation}{print_}{chosen}", ""


def _labelled(case: _Case, role: str) -> str:
    """The entry with a role of a control; empty for none."""
    return next(
        (str(r["method"]) for r in case.study["rows"]
         if str(r.get("role") or role_of(str(r.get("class") or r["method"]))) == role), ""
    )  # fmt: skip


def _variants(case: _Case, chosen: Callable[[set[str]], bool]) -> str:
    """Scores of the entries of the same method that differ in options of which ``chosen`` is true."""
    own, said = case.row.get("options") or {}, []
    for r in case.tables.leaderboard:
        row = next(item for item in case.study["rows"] if item["method"] == r["entry"])
        other = row.get("options") or {}
        changed = {name for name in {*own, *other} if own.get(name) != other.get(name)}
        if r["entry"] != case.label and r["method"] == case.entry["method"] and chosen(changed):
            values = ", ".join(f"{name} {other.get(name)!r}" for name in sorted(changed))
            said.append(f"{r['entry']} ({values}) {case.number(r['mean'])}")
    return f"{'; '.join(said)}; this one {case.number(case.entry['mean'])}" if said else ""


QUESTIONS: Mapping[str, Callable[[_Case], _Found]] = {
    "Is it better than an ensemble of models of single modalities?": _ensemble,
    "How large is the spread over seeds and samples?": _spread,
    "What does it cost?": _cost,
    "Does it depend on the order of the modalities?": _order,
    "How sensitive is it to its hyperparameters?": _sensitivity,
    "Does it work for regression?": _regression,
    "Does it work with more than two modalities?": _modalities,
    "Is the imbalance measured from outside the method?": _imbalance,
    "How was the data split, and what was chosen on which part?": _splits,
}
"""Question -> what answers it."""
