"""The HTML page: whole, self-contained, harmless, complete."""

from __future__ import annotations

import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from equimodal.errors import DataError, MissingExtraError, StorageError
from equimodal.report import render_report
from equimodal.report._palette import strokes
from equimodal.report._study import read_study
from tests.report.records import epochs, row, study

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """Checks nesting and collects tags, texts, attributes and ids."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(data.strip())


def full() -> dict[str, object]:
    coefficients = {"gradient": {"audio": 0.5, "video": 1.5}}
    return study(
        row("MLA", 0.9),
        row("CGGM", 0.85),
        histories=[
            {"method": "MLA", "seed": 0, "epochs": epochs(0.5, 0.7, extras={"plasticity/0": 0.5})},
            {"method": "MLA", "seed": 1, "epochs": epochs(0.6, 0.9, 0.8, extras={"plasticity/0": 0.7})},
            {"method": "CGGM", "seed": 0, "epochs": epochs(0.5, None, coefficients=coefficients)},
            {"method": "Joint", "seed": 0, "epochs": epochs(0.4)},
        ],
    )


def test_the_page_holds_table_curves_rules_and_how_it_was_made(tmp_path: Path) -> None:
    path = render_report(full(), tmp_path / "new folder" / "report.html")
    page = Page(path)
    text = "\n".join(page.texts)
    for expected in (
        "a comparison", "MLA", "90.0 ± 1.2", "+12.3", "± 2.0", "Coefficients: gradient", "Plasticity",
        "Inference rules", "by-speaker", "best validation score", "torch 2.13", "equimodal compare --methods MLA",
    ):  # fmt: skip
        assert expected in text
    # score, loss, two modalities, one method with coefficients, one with a projector
    assert len(re.findall(r"<figure>", path.read_text(encoding="utf-8"))) == 6
    assert "Incomplete" not in text


def test_the_page_needs_nothing_from_outside(tmp_path: Path) -> None:
    path = render_report(full(), tmp_path / "report.html")
    page = Page(path)
    assert not {"link", "img", "iframe", "object", "form"} & set(page.tags)
    assert page.tags.count("script") == 1
    assert "src" not in [name for name, _ in page.attributes]
    assert "//" not in path.read_text(encoding="utf-8").replace("</", "")
    targets = [value for name, value in page.attributes if name in ("href", "src", "xlink:href")]
    ids = [value for name, value in page.attributes if name == "id"]
    assert targets
    assert all(t.startswith("#") and t[1:] in ids for t in targets)
    assert len(ids) == len(set(ids))
    assert "prefers-color-scheme: dark" in path.read_text(encoding="utf-8")
    assert ("name", "viewport") in page.attributes


def test_the_same_record_gives_the_same_bytes(tmp_path: Path) -> None:
    first = render_report(full(), tmp_path / "a.html").read_bytes()
    assert render_report(full(), tmp_path / "b.html").read_bytes() == first


def test_every_text_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>$x^2$\x1b[31m & \"'"
    rules = {evil: {"validation": 1, "test": 1}, "b": {"validation": 0, "test": 0}}
    record = study(
        row(evil, 0.9, per_modality={evil: [0.5, 0.1]}, rules=rules),
        title=evil,
        dataset={"name": evil, "modalities": [evil], evil: evil},
        incomplete=[evil],
        commands=[evil],
        histories=[
            {
                "method": evil,
                "seed": 0,
                "epochs": epochs(
                    0.1, 0.2, unimodal={evil: 0.5}, coefficients={evil: {evil: 1.0}}, extras={f"{evil}/{evil}": 1.0}
                ),
            }
        ],
    )  # fmt: skip
    path = render_report(record, tmp_path / "report.html")
    page = Page(path)
    assert page.tags.count("script") == 1
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "\x1b" not in path.read_text(encoding="utf-8")
    assert page.texts.count("<script>alert(1)</script>$x^2$ [31m & \"'") > 8
    assert path.read_text(encoding="utf-8").count("alert(1)") == path.read_text(encoding="utf-8").count("&gt;alert(1)")


def test_missing_controls_and_single_seeds_are_marked(tmp_path: Path) -> None:
    record = study(row("MLA", seeds=1), row("Joint"), controls=False)
    page = Page(render_report(record, tmp_path / "report.html"))
    text = "\n".join(page.texts)
    assert "the table lacks the control(s) MultiLoss, Unimodal, Ensemble" in text
    assert page.texts.count("1 seed") == 1
    assert page.texts.count("control") == 1


def test_a_study_without_histories_or_rows_has_a_page(tmp_path: Path) -> None:
    assert "figure" not in Page(render_report(study(row("MLA")), tmp_path / "a.html")).tags
    assert "table" in Page(render_report({"rows": []}, tmp_path / "b.html")).tags


def test_curves_are_means_over_the_seeds_that_reached_an_epoch() -> None:
    series = read_study(full()).series("MLA", lambda epoch: epoch["validation_score"])
    assert series is not None
    assert series.epochs == (0, 1, 2)
    assert series.mean == pytest.approx((0.55, 0.8, 0.8))
    assert series.std == pytest.approx((0.0707107, 0.1414214, 0.0), abs=1e-6)


def test_lines_of_many_methods_differ() -> None:
    made = strokes([(f"m{i}", i % 4 == 0) for i in range(24)])
    assert len({(line.colour, line.dash) for line in made}) == 24
    assert len({line.colour for line in made if line.label in ("m0", "m4", "m8")}) == 1


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    path.write_text("the old report")

    def full_disk(*args: object, **kwargs: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)  # the content is in a partial file, and does not get onto the disk
    with pytest.raises(StorageError, match=r"report.html.*No space left on device.*Nothing was lost"):
        render_report(study(row("MLA")), path)
    assert path.read_bytes() == b"the old report"
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    (tmp_path / "file").touch()
    with pytest.raises(StorageError):
        render_report(study(row("MLA")), tmp_path / "file" / "report.html")


def test_a_malformed_record_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        render_report({"rows": [{"method": "MLA"}]}, tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r"jinja2.*equimodal\[cli\]"):
        render_report(full(), tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []
