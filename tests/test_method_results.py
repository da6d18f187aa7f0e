"""What the pages of methods say of results: read from the stored benchmark and from the published tables."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("yaml")
pytest.importorskip("lightning")

from equimodal.methods import available
from equimodal.studies import published_table, published_tables

ROOT = Path(__file__).resolve().parents[1]
NOT_HERE = {"MSLR", "MMCosine"}  # rows of published tables that `equimodal reproduce` refuses by name


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("method_results", ROOT / "tools" / "method_results.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def difference(mean: float, p: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - 0.01, "high": mean + 0.01, "p": p, "p_holm": p}


def row(label: str, scores: list[float], **differences: dict[str, float]) -> dict[str, Any]:
    readings = {name: {"scores": scores, "differences": differences} for name in ("paper", "skill")}
    return {"method": label, "class": label.partition(",")[0], "seeds": len(scores), "readings": readings}


def test_the_section_follows_the_stored_numbers(
    results: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = {
        "mosi": row("OGM", [0.7, 0.8], Joint=difference(0.05, 0.01), Ensemble=difference(0.02, 0.04)),
        "mfeat": row("OGM", [0.9], Joint=difference(-0.05, 0.01)),
        "avdigits": row("OGM", [0.6, 0.6], Joint=difference(0.05, 0.2)),
        "ravdess": row("OGM, variant", [0.5, 0.5], Joint=difference(0.05, 0.01)),
    }
    for name, one in stored.items():
        study = {"rows": [one], "budget": {"seeds": [0, 1]}}
        (tmp_path / f"{name}.json").write_text(json.dumps(study), encoding="utf-8")
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    text = "\n".join(results.measured("OGM"))
    assert "Better than the best control by more than chance on mosi." in text
    assert "Worse than it by more than chance on mfeat." in text
    assert "No difference beyond chance on avdigits." in text  # the interval is above 0, p after Holm is not below 0.05
    assert "Not measured: utdmhad." in text
    assert "so provisional: mfeat." in text
    assert "| mosi | OGM | 2 | 75.0 | +2.0 [+1.0, +3.0], p 0.04 (Ensemble) |" in text  # the hardest, not the weakest
    assert "| mfeat | OGM | 1 of 2 | 90.0 | -5.0 [-6.0, -4.0], p 0.01 (Joint) |" in text
    assert "Not measured yet" in "\n".join(results.measured("PMR"))


def test_published_numbers_stand_as_they_were_printed(results: ModuleType) -> None:
    text = "\n".join(results.published("OGM"))
    assert "MCR (Kontras et al., NeurIPS 2025, arXiv 2411.07335), Table 1" in text
    assert "| OGM | 65.6 ± 3.8 | 82.4 ± 1.0 |" in text  # the first from the table of `equimodal reproduce`
    assert "| Joint | 62.6 ± 5.8 | 74.6 ± 2.2 |" in text
    assert "| OGM | 68.70 | 66.63 | 61.88 |" in text
    assert "MOSI, all three" not in text  # a column without a number of this method
    assert "Read in a transcription" in "\n".join(results.published("CGGM"))
    assert "None in a table that we could read" in "\n".join(results.published("WeakFirst"))


@pytest.mark.parametrize("change", [{"rows": {"OMG": ["1"]}}, {"rows": {"OGM": ["1", "2"]}}])
def test_a_wrong_row_of_the_file_is_named(
    results: ModuleType, change: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = {"source": "x", "protocol": "y", "read": "paper", "metric": "z", "columns": ["a"], **change}
    (tmp_path / "p.yaml").write_text(json.dumps([table]), encoding="utf-8")
    monkeypatch.setattr(results, "PUBLISHED", tmp_path / "p.yaml")
    with pytest.raises(SystemExit, match=next(iter(change["rows"]))):
        results.published("OGM")


def test_every_table_says_source_protocol_and_how_it_was_read(results: ModuleType) -> None:
    for table in results.tables():
        assert table["source"]
        assert table["protocol"]
        assert table["read"] in results.READ


@pytest.mark.parametrize("name", published_tables())
def test_every_method_of_a_published_table_is_registered(name: str) -> None:
    methods = {row.method for row in published_table(name).rows.values()}
    assert methods - set(available(outside=False)) <= NOT_HERE


def test_the_tables_of_the_recipe_have_every_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    recipe = importlib.import_module("benchmarks.recipe")
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    for marker, settings in (("recipe", recipe.SETTINGS), ("recipe-subsets", recipe.MISSING)):
        stored = json.loads((ROOT / "benchmarks" / "results" / f"{marker.replace('-', '_')}.json").read_text())
        assert list(stored) == list(settings)
        rows = page.split(f"<!-- {marker}: begin -->")[1].split(f"<!-- {marker}: end -->")[0].strip().splitlines()[2:]
        shown = [row.split("|")[1].strip() for row in rows]
        assert shown == [n if marker == "recipe" else n.removesuffix("-missing") for n in settings]
