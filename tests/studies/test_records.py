"""What methods say of themselves reaches the records: phases, trained modalities, roles; and records without it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from equimodal.data import Loader
from equimodal.engine import Objective, Phase
from equimodal.methods import EpochContext, Joint, get
from equimodal.report import markdown_table, missing_controls, render_report, text_table
from equimodal.studies import Entry, StudyConfig, build_data, compare, measure_cost, run, summarise
from equimodal.studies.comparisons import _cost
from tests.studies.helpers import as_of_the_first_version, config, history


def study(entries: dict[str, Entry], controls: bool = False, seeds: Sequence[int] = (0,)) -> StudyConfig:
    one = config(epochs=2)
    return StudyConfig(entries, list(seeds), one.data, one.model, one.training, controls)


# ---- the training loss ---------------------------------------------------------------------------------------------


def test_the_loss_of_a_step_is_that_of_its_phases_whatever_else_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1.0 for a method that reports {joint, fused, m1, m2}, where the sum of all of them is 2.2."""

    def objective(self: Any, *rest: Any) -> Objective:
        zero = sum(p.sum() * 0 for p in self.model.parameters())
        parts = {"fused": torch.tensor(0.6), "m1": torch.tensor(0.4), "m2": torch.tensor(0.2)}
        return Objective(zero + 1.0, parts)

    def phases(self: Any, batches: Any) -> list[Phase]:
        return [Phase("joint", lambda batch: objective(self), list(self.model.parameters()))]

    monkeypatch.setattr(Joint, "phases", phases)
    found = compare(study({"Joint": Entry("Joint")}), tmp_path / "s", cost=False)
    lines = history(tmp_path / "s/cells/Joint/seed0")
    assert [line["loss"] for line in lines] == pytest.approx([1.0, 1.0])
    assert [line["phases"] for line in lines] == [["joint"]] * 2
    assert lines[0]["losses"] == pytest.approx({"joint": 1.0, "fused": 0.6, "m1": 0.4, "m2": 0.2})
    assert [e["train_loss"] for e in found["histories"][0]["epochs"]] == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("method", ["MLA", "CGGM", "MIE", "MultiLoss"])
def test_the_loss_on_record_is_the_sum_of_the_phases(tmp_path: Path, method: str) -> None:
    run(config(method), tmp_path / "a", loggers=False)
    for line in history(tmp_path / "a"):
        assert line["loss"] == pytest.approx(sum(line["losses"][name] for name in line["phases"]))
        assert set(line["phases"]) <= set(line["losses"])


def test_phases_count_in_the_steps_in_which_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss 3 in every other step, 1 in the others: 2 a step, not 4."""
    steps = [0]

    def phases(self: Any, batches: Any) -> list[Phase]:
        steps[0] += 1
        name, value = (("odd", 3.0), ("even", 1.0))[steps[0] % 2]
        parameters = list(self.model.parameters())
        return [Phase(name, lambda batch: Objective(sum(p.sum() * 0 for p in parameters) + value), parameters)]

    monkeypatch.setattr(Joint, "phases", phases)
    run(config(epochs=1, batch_size=20), tmp_path / "a", loggers=False)  # four steps
    line = history(tmp_path / "a")[0]
    assert line["losses"] == pytest.approx({"odd": 3.0, "even": 1.0})
    assert line["loss"] == pytest.approx(2.0)


# ---- records of before ---------------------------------------------------------------------------------------------


def without_facts(folder: Path) -> None:
    """The cells as version 0.1 left them."""
    for path in folder.rglob("history.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        kept = [{k: v for k, v in line.items() if k not in ("loss", "phases")} for line in lines]
        path.write_text("".join(json.dumps(line, sort_keys=True) + "\n" for line in kept))
    for path in folder.rglob("metrics.json"):
        metrics = json.loads(path.read_text())
        del metrics["trained_modalities"]
        path.write_text(json.dumps(metrics))
    for path in folder.rglob("config.yaml"):
        path.write_text(path.read_text().replace("uses: {}\n", ""))


def test_records_without_the_facts_give_the_same_study(tmp_path: Path) -> None:
    settings = study({"CGGM": Entry("CGGM"), "MLA": Entry("MLA")}, controls=True)
    new = compare(settings, tmp_path / "s", cost=False)
    assert {row["method"]: row["role"] for row in new["rows"]} == {
        "Joint": "reference", "MultiLoss": "baseline", "Ensemble": "independent", "Unimodal[m1]": "single",
        "Unimodal[m2]": "single", "CGGM": "", "MLA": "",
    }  # fmt: skip
    without_facts(as_of_the_first_version(tmp_path / "s"))
    old = compare(settings, tmp_path / "s", cost=False)
    for row, before in zip(old["rows"], new["rows"], strict=True):
        assert row == before
    for curve, before in zip(old["histories"], new["histories"], strict=True):
        losses = [[e.pop("train_loss") for e in h["epochs"]] for h in (curve, before)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
        assert curve == before


def test_a_stored_study_without_roles_is_reported_as_one_with_them(tmp_path: Path) -> None:
    found = compare(study({"MLA": Entry("MLA")}, controls=True), tmp_path / "s", cost=False)
    old = json.loads(json.dumps(found))
    for row in old["rows"]:
        del row["role"], row["uses"]
    assert missing_controls(old) == missing_controls(found) == []
    assert text_table(old) == text_table(found)
    assert markdown_table(old) == markdown_table(found)
    render_report(old, tmp_path / "old.html")
    old["rows"] = [row for row in old["rows"] if row["method"] not in ("Unimodal[m2]", "Ensemble")]
    assert missing_controls(old) == ["Ensemble", "Unimodal[m2]"]
    renamed = json.loads(json.dumps(found))  # by another version, under other class names
    for row in renamed["rows"]:
        row["class"] = f"Former{row['class']}"
    assert missing_controls(renamed) == []


# ---- trained modalities --------------------------------------------------------------------------------------------


def test_only_probes_of_trained_encoders_are_summarised(tmp_path: Path) -> None:
    """Also where the modality is the default of the option, and for an ensemble under another label."""
    entries = {"default": Entry("Unimodal"), "second": Entry("Unimodal", {"modality": "m2"}), "UME": Entry("Ensemble")}
    settings = study(entries)
    found = compare(settings, tmp_path / "s", cost=False)
    rows = {row["method"]: row for row in found["rows"]}
    assert list(rows["default"]["per_modality"]) == ["m1"]
    assert list(rows["second"]["per_modality"]) == ["m2"]
    assert list(rows["UME"]["per_modality"]) == ["m1", "m2"]
    assert rows["UME"]["under_trained"] == {"m1": [0.0, 0.0], "m2": [0.0, 0.0]}
    assert list(rows["second"]["under_trained"]) == ["m2"]
    metrics = json.loads((tmp_path / "s/cells/second/seed0/metrics.json").read_text())
    assert metrics["trained_modalities"] == ["m2"]
    shutil.rmtree(tmp_path / "s/cells/UME")
    again = summarise(settings, tmp_path / "s", build_data(settings.data), {}, {})
    assert all(row["under_trained"] == {} for row in again["rows"])


# ---- cost ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "options", "epochs", "shares"),
    [
        ("Joint", {}, 6, [1.0]),
        ("MLA", {"order": "shuffled"}, 6, [1.0]),
        ("PretrainFinetune", {}, 6, [0.5, 0.5]),
        ("PretrainFinetune", {"pretrain": 0.25}, 8, [0.25, 0.75]),
        ("MIE", {"sam": None, "alternate": "epoch"}, 5, [0.6, 0.4]),
        ("MIE", {"sam": None, "alternate": "stage", "stage_epochs": [1, 2]}, 6, [2 / 6, 4 / 6]),
    ],
)
def test_epochs_are_told_apart_by_their_phases(
    method: str, options: dict[str, Any], epochs: int, shares: list[float]
) -> None:
    """A method in stages has as many kinds of steps as stages, each with its share of the planned epochs."""
    settings = config(method, options, epochs=epochs)
    data = build_data(settings.data)
    stages = _cost._stages(settings, data, 16)
    assert [share for share, _ in stages] == pytest.approx(shares)
    phases = [step().phases for _, step in stages]
    assert len({tuple(sorted(p)) for p in phases}) == len(shares)


def test_the_cost_is_the_mean_over_the_planned_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    def timed(steps: Any, rounds: int, warmup: int = 2) -> dict[str, list[float]]:
        names = {name: step().phases for name, step in steps.items()}
        return {name: [2.0 if phases == ["joint"] else 5.0] * rounds for name, phases in names.items()}

    monkeypatch.setattr(_cost, "interleaved", timed)
    configs = {"a": config("PretrainFinetune", {"pretrain": 0.25}, epochs=8), "b": config("Joint"), "c": config("MLA")}
    assert measure_cost(build_data(config().data), configs, rounds=3) == pytest.approx(
        {"a": 0.25 * 2.5 + 0.75 * 1.0, "b": 1.0, "c": 2.5}
    )


def test_a_planned_epoch_costs_its_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two epochs as they are, then two that have each sample once more, without a modality."""

    def plan(self: Any, context: Any) -> None:
        rows = torch.cat([torch.arange(len(context.loader.split))[context.loader._positions]] * 2)
        assert context.validation is not None
        if context.epoch >= 2:
            first, *others = context.loader.split.modalities
            alone = torch.cat([rows[:16], torch.full((16,), -1)])
            given = {first: rows, **dict.fromkeys(others, alone)}
            context.loader.plan(given, groups=torch.arange(32) // 16)

    monkeypatch.setattr(Joint, "on_train_epoch_start", plan)
    settings = config("Joint", epochs=4)
    stages = _cost._stages(settings, build_data(settings.data), 16)
    assert [share for share, _ in stages] == pytest.approx([1.0, 0.5])


def test_a_method_is_offered_what_a_run_offers_on_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loader of the library, which can be planned and passed over, and the numbers of the planned training."""
    seen: list[EpochContext] = []
    monkeypatch.setattr(Joint, "on_train_epoch_start", lambda self, context: seen.append(context))
    settings = config("Joint", epochs=4, accumulate=2)  # 80 samples in batches of 16
    measure_cost(build_data(settings.data), {"a": settings}, rounds=1)
    assert [c.epoch for c in seen] == [0, 1, 2, 3] * 2  # the unit and the entry
    assert {(c.epochs, c.steps) for c in seen} == {(4, 3)}
    for context in seen:
        assert isinstance(context.loader, Loader)
        assert [len(batch) for batch in context.loader] == [16]


def test_a_plan_computes_nothing() -> None:
    """No forward pass, no step: what a method would do is asked, not done."""
    settings = config("PretrainFinetune")
    data = build_data(settings.data)
    from equimodal.studies.setup import seeded

    method = seeded(settings, data)
    for m in method.modalities:
        method.multimodal.encoder(m).register_forward_hook(lambda *_: pytest.fail("a forward pass"))  # type: ignore[attr-defined]
    before = {n: p.detach().clone() for n, p in method.named_parameters()}
    plan = _cost.Plan(torch.optim.SGD(method.parameters(), lr=1.0))
    method.on_train_epoch_start(EpochContext(0, 2, engine=plan))
    kind = plan.kind_of(method, data.train.batch(range(8)))
    assert [name for name, _ in kind] == ["m1", "m2"]
    assert all(torch.equal(p, before[n]) for n, p in method.named_parameters())
    assert get("PretrainFinetune").info.control
