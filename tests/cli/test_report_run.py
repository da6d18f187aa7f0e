"""``equimodal report`` of one run, with what ``equimodal evaluate`` left beside it."""

from __future__ import annotations

from pathlib import Path

from tests.cli.helpers import CLI, TINY


def test_a_run_has_a_page_with_its_samples_subsets_and_missing_rates(cli: CLI, tmp_path: Path) -> None:
    run, page = str(tmp_path / "my run"), tmp_path / "my run" / "report.html"
    cli(["train", "--method", "MultiLoss", *TINY, "--probe", "false", "--training.epochs", "1", "--out", run])
    rates = ["--subsets", "--missing-rates", "0.2,0.5", "--draws", "1"]
    cli(["evaluate", run, *rates, "--out", f"{run}/evaluation.json"])
    printed = cli(["report", run]).splitlines()
    assert printed[0].startswith("Verdict: MultiLoss, a control, is the only row")
    assert printed[-1] == str(page)
    assert any("--data.name synthetic --data.options '{" in line for line in printed)
    text = page.read_text(encoding="utf-8")
    for expected in (
        "MultiLoss, seed 0",
        "Confusion:",
        "Calibration",
        "Worst samples",
        "Modalities missing",
        "m1 + m2",
    ):
        assert expected in text.replace("</span>", ""), expected
    assert "Incomplete" not in text
    assert "cannot be" not in cli.error(["report", run, "--format", "latex"], 2)
    assert "expected a comparison, which has tables and a pack" in cli.err


def test_what_is_no_comparison_is_refused(cli: CLI, tmp_path: Path) -> None:
    assert "expected the folder of a finished run or comparison" in cli.error(["report", str(tmp_path)], 1)


def test_the_page_of_an_unfinished_run_is_refused_with_the_way_to_finish_it(cli: CLI, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("method: Joint\n", encoding="utf-8")
    message = cli.error(["report", str(tmp_path)], 1)
    assert "Found an unfinished run" in message
    assert "--resume" in message
