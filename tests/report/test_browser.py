"""The page in a real browser: sorting, values of charts, links, colours, widths, and hostile labels."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from equimodal.report import render_report
from tests.report.records import advice, epochs, row, run, study

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra `browser`)")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH (Debian: apt-get install chromium)")

PICTURES = Path(__file__).parents[2] / "build" / "report-pictures"
EVIL = ["<script>window.hurt = 1</script>", '"><img src=x onerror="window.hurt = 1">', "' onfocus='window.hurt = 1"]


def record(*labels: str) -> dict[str, Any]:
    named = labels or ("MLA", "CGGM")
    coefficients = {"scale": {"audio": 0.5, "video": 1.5}}
    rows = [row(label, 0.9 - 0.03 * i, rule_advice=advice(), score_interval=[0.8, 0.95], cost=1.0 + i)
            for i, label in enumerate(named)]  # fmt: skip
    difference = {"mean": 0.02, "low": 0.01, "high": 0.03}
    return study(
        *rows,
        title=named[0] if labels else "a comparison",
        histories=[
            {"method": label, "seed": seed, "epochs": epochs(0.5, 0.7, 0.8 + 0.01 * seed, coefficients=coefficients)}
            for label in (*named, "Joint") for seed in (0, 1)
        ],
        runs=[run(label, seed, 0.8 + 0.01 * seed) for label in (*named, "Joint") for seed in (0, 1)],
        differences={label: {"Unimodal[video]": difference, "best single modality": difference} for label in named},
        dataset={"name": "toy", "modalities": ["audio", "video"], "class_names": labels or ["cat", "dog", "owl"]},
    )  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


class Opened:
    """A page that was opened, and what it said and asked for."""

    def __init__(self, browser: Any, path: Path, width: int = 1400, **settings: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, **settings)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())

    def column(self, number: int) -> list[str]:
        cells = self.page.locator(f".board tbody tr > :nth-child({number})")
        return [cells.nth(i).get_attribute("data-sort") for i in range(cells.count())]

    def close(self) -> None:
        assert self.said == []
        assert len(self.asked) == 1  # the file itself
        self.context.close()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render_report(record(), tmp_path_factory.mktemp("page") / "report.html", "my study")


def test_the_leaderboard_sorts_by_mouse_and_keyboard(browser: Any, path: Path) -> None:
    opened = Opened(browser, path)
    head = opened.page.locator(".board thead th")
    before = opened.column(2)
    assert before == sorted(before, key=float, reverse=True)
    head.nth(1).locator("button").click()
    assert head.nth(1).get_attribute("aria-sort") == "descending"
    head.nth(1).locator("button").click()
    assert head.nth(1).get_attribute("aria-sort") == "ascending"
    assert opened.column(2) == sorted(before, key=float)
    head.nth(0).locator("button").focus()
    opened.page.keyboard.press("Enter")
    assert head.nth(0).get_attribute("aria-sort") == "ascending"
    assert head.nth(1).get_attribute("aria-sort") is None
    names = opened.column(1)
    assert names == sorted(names, key=str.lower)
    last = opened.page.locator(".board thead th button", has_text="difference")
    last.click()
    measured = [v for v in opened.column(3) if v]
    assert opened.column(3) == measured + [""] * (len(names) - len(measured))  # what was not measured is last
    opened.close()


def test_charts_say_their_values_on_pointer_and_keyboard(browser: Any, path: Path) -> None:
    opened = Opened(browser, path)
    chart, tip = opened.page.locator("#curves .chart").first, opened.page.locator("#tip")
    assert not tip.is_visible()
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    opened.page.mouse.move(box["x"] + 0.97 * box["width"], box["y"] + 50)
    assert tip.is_visible()
    assert tip.inner_text().splitlines()[0] == "epoch 3"
    assert "MLA: 80.5" in tip.inner_text()
    opened.page.mouse.move(5, 5)
    assert not tip.is_visible()
    chart.focus()
    opened.page.keyboard.press("ArrowLeft")
    assert tip.inner_text().splitlines()[0] == "epoch 2"
    opened.page.keyboard.press("Escape")
    assert not tip.is_visible()
    assert chart.get_attribute("role") == "img"
    assert "MLA: 50 to 80.5" in (chart.get_attribute("aria-label") or "")
    opened.close()


def test_a_cell_leads_to_its_run(browser: Any, path: Path) -> None:
    opened = Opened(browser, path)
    link = opened.page.locator(".chips a").nth(1)
    target = opened.page.locator((link.get_attribute("href") or "") + " > dl")
    assert not target.is_visible()
    link.click()
    assert target.is_visible()
    assert opened.page.locator(".run[open] .confusion").is_visible()
    assert opened.page.locator(".run[open] summary").inner_text().startswith("MLA, seed 1")
    opened.close()


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (1400, "dark"), (400, "light"), (400, "dark")])
def test_the_page_fits_and_follows_the_scheme(browser: Any, path: Path, width: int, scheme: str) -> None:
    opened = Opened(browser, path, width, color_scheme=scheme)
    opened.page.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")
    wide = opened.page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide[0] == wide[1] == width  # nothing scrolls sideways but the tables themselves
    colour = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    level = [int(part) for part in colour.strip("rgb()").split(",")]
    assert (max(level) < 60) is (scheme == "dark")
    PICTURES.mkdir(parents=True, exist_ok=True)
    opened.page.screenshot(path=PICTURES / f"{width}-{scheme}.png", full_page=True)
    opened.close()


def test_texts_can_be_read(browser: Any, path: Path) -> None:
    """Contrast of at least 4.5 to 1 between text and page, in both schemes (WCAG 2.1, success criterion 1.4.3)."""
    for scheme in ("light", "dark"):
        opened = Opened(browser, path, color_scheme=scheme)
        found = opened.page.evaluate("""() => [".says p", "caption", ".says h3", "td", "a", "small"].map((name) => {
          const at = document.querySelector(name); let back = at;
          while (getComputedStyle(back).backgroundColor === "rgba(0, 0, 0, 0)") back = back.parentElement;
          return [getComputedStyle(at).color, getComputedStyle(back).backgroundColor, name];
        })""")
        for text, page, name in found:
            assert _contrast(text, page) >= 4.5, (scheme, name, text, page)
        opened.close()


def _contrast(first: str, second: str) -> float:
    levels = []
    for colour in (first, second):
        parts = [int(part) / 255 for part in colour.strip("rgb()").split(",")]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        levels.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(levels) + 0.05) / (min(levels) + 0.05)


def test_hostile_labels_stay_text(browser: Any, tmp_path: Path) -> None:
    made = render_report(record(*EVIL), tmp_path / "evil.html", EVIL[0])
    opened = Opened(browser, made)
    page = opened.page
    page.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")
    page.evaluate("for (const button of document.querySelectorAll('button.sort')) button.click()")
    for chart in page.locator(".chart").all()[:4]:
        chart.focus()
        assert page.locator("#tip").is_visible()
    page.evaluate("for (const link of document.querySelectorAll('a')) link.focus()")
    assert page.evaluate("window.hurt") is None
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 1
    assert page.locator(".board .name", has_text=EVIL[0]).count() == 1
    assert page.title() == EVIL[0]
    opened.close()


def test_it_prints_without_navigation(browser: Any, path: Path) -> None:
    opened = Opened(browser, path)
    opened.page.emulate_media(media="print")
    assert not opened.page.locator("nav").is_visible()
    assert opened.page.locator(".board").is_visible()
    if os.environ.get("EQUIMODAL_PICTURES"):
        opened.page.pdf(path=PICTURES / "report.pdf")
    opened.close()


def test_the_page_can_be_read_without_script(browser: Any, path: Path) -> None:
    opened = Opened(browser, path, java_script_enabled=False)
    opened.page.locator(".run > summary").first.click()
    assert opened.page.locator(".run[open] .confusion").first.is_visible()
    assert opened.page.locator(".board").is_visible()
    opened.context.close()
