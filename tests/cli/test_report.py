"""``equimodal report``: every format of a real comparison, the pack for reviewers, and one line where it refuses."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from tests.cli.helpers import CLI, TINY


@pytest.fixture
def comparison(tmp_path: Path) -> Path:
    """A comparison in ``study``, made from the record of a run that needs no training."""
    from tests.report.records import row, study

    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "study.json").write_text(json.dumps(study(row("MLA", 0.9))), encoding="utf-8")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_every_format(cli: CLI, comparison: Path, tmp_path: Path) -> None:
    study = str(comparison)
    assert cli(["report", study]).splitlines()[-1] == str(comparison / "report.html")
    assert (comparison / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert "| MLA | **90.0 ± 1.2** |" in cli(["report", study, "--format", "markdown"])
    assert r"\begin{tabular}{llrrr}" in cli(["report", study, "--format", "latex", "--table", "modalities"])
    assert json.loads(cli(["report", study, "--format", "json"]))["version"] == 1
    out = tmp_path / "new" / "rules.csv"
    assert cli(["report", study, "--format", "csv", "--table", "rules", "--out", str(out)]) == f"{out}\n"
    assert [r["rule"] for r in csv.DictReader(io.StringIO(out.read_text(encoding="utf-8")))][:2] == ["mean", "product"]


def test_what_does_not_fit_is_one_line(cli: CLI, comparison: Path) -> None:
    study = str(comparison)
    for arguments, code, words in (
        (["nowhere"], 1, "`nowhere`: expected the folder of a finished run or comparison. Found no such folder"),
        ([study, "--format", "word"], 2, "--format: expected one of html, markdown"),
        ([study, "--format", "csv", "--table", "words"], 2, "--table: expected one of leaderboard"),
        ([study, "--table", "rules"], 2, "--table: expected --format markdown, latex or csv"),
        ([study, "--figure", "a.svg"], 2, "--figure: expected several comparisons. Found 1"),
        ([study, "--margin", "0.1"], 2, "--margin: expected several"),
        ([study, study, "--pack", "p"], 2, "--pack: expected one comparison. Found 2"),
        ([study, "--pack", "p", "--format", "csv"], 2, "--pack: expected no --format"),
        ([study, "--entry", "MLA"], 2, "--entry: expected --pack"),
        ([study, "--entry", "MLB", "--pack", "p"], 2, "Did you mean 'MLA'"),
        ([study, study, "--format", "html"], 2, "--format: expected markdown, latex, csv or json"),
        ([study, study, "--figure", "a.gif"], 2, "--figure: expected a file .svg, .pdf, .png"),
        ([study, study], 1, "expected another dataset"),
        ([], 2, "study"),
    ):
        assert words in cli.error(["report", *arguments], code), arguments


def test_two_datasets_are_ranked(cli: CLI, comparison: Path, tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    other = tmp_path / "other"
    shutil.copytree(comparison, other)
    record = json.loads((other / "study.json").read_text(encoding="utf-8"))
    record["dataset"] |= {"name": "other", "fingerprint": "34cd"}
    (other / "study.json").write_text(json.dumps(record), encoding="utf-8")
    figure = tmp_path / "ranks.svg"
    text = cli(["report", str(comparison), str(other), "--figure", str(figure), "--against", "Ensemble"])
    assert "5 entries on 2 datasets" in text
    assert "against Ensemble" in text
    assert text.splitlines()[-1] == str(figure)
    assert figure.read_text(encoding="utf-8").lstrip().startswith("<?xml")


@pytest.mark.slow
def test_the_pack_of_a_real_comparison(cli: CLI) -> None:
    cli(
        [
            "compare",
            "--methods",
            "OGM,Ensemble",
            "--controls",
            "false",
            "--seeds",
            "0",
            *TINY,
            "--cost",
            "false",
            "--out",
            "s",
        ]
    )
    assert cli(["report", "s", "--pack", "p"]) == "p\n"
    cli(["report", "s", "--pack", "q"])
    found = names(Path("p"))
    assert found == names(Path("q"))
    assert all((Path("p") / name).read_bytes() == (Path("q") / name).read_bytes() for name in found)
    for name in (
        "README.md", "answers.md", "runs.csv", "hashes.json", "tables/leaderboard.tex", "tables/leaderboard.csv",
        "tables/all.tex", "figures/leaderboard.pdf", "figures/curves.pdf", "figures/gaps.pdf",
        "configuration/study.yaml", "configuration/OGM/seed0.yaml", "environment/OGM/seed0.json",
    ):  # fmt: skip
        assert name in found
    lines = [line.split("  ") for line in Path("p/SHA256SUMS").read_text(encoding="utf-8").splitlines()]
    sums = {name: digest for digest, name in lines}
    assert set(sums) == set(found) - {"SHA256SUMS"}
    assert all(hashlib.sha256((Path("p") / n).read_bytes()).hexdigest() == s for n, s in sums.items())
    environment = json.loads(Path("p/environment/OGM/seed0.json").read_text(encoding="utf-8"))
    assert environment["processor"]
    assert "accelerator_name" in environment
    for name in found:  # a review may be blind: no folder of this machine
        assert str(Path.cwd()).encode() not in (Path("p") / name).read_bytes(), name
    runs = list(csv.DictReader(io.StringIO(Path("p/runs.csv").read_text(encoding="utf-8"))))
    assert {(r["entry"], r["seed"]) for r in runs} >= {("OGM", "0"), ("Ensemble", "0")}
    hashes = json.loads(Path("p/hashes.json").read_text(encoding="utf-8"))["sha256"]
    weights = Path("s/cells/OGM/seed0/weights.safetensors")
    assert hashes["OGM/seed0"]["weights.safetensors"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert "Not measured. This would:\n\n    equimodal compare --out s --seeds 0,1,2,3,4" in (
        Path("p/answers.md").read_text(encoding="utf-8")
    )
    # an older pack is replaced, other content is not, and a changed run is noticed
    Path("p/tables/rules.csv").write_text("old", encoding="utf-8")
    cli(["report", "s", "--pack", "p", "--entry", "Ensemble"])
    assert (Path("p") / "tables/rules.csv").read_bytes() == (Path("q") / "tables/rules.csv").read_bytes()
    assert "about Ensemble" in Path("p/answers.md").read_text(encoding="utf-8")
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine", encoding="utf-8")
    assert "expected a new or empty folder" in cli.error(["report", "s", "--pack", "mine"], 1)
    with Path("s/cells/OGM/seed0/history.jsonl").open("a", encoding="utf-8") as file:
        file.write("\n")
    assert "history.jsonl" in cli.error(["report", "s", "--pack", "new"], 1)
    assert not Path("new").exists()


def test_the_commands_of_the_answers_are_understood(comparison: Path) -> None:
    """Each is read by the parser of its command, up to what is written in capitals."""
    import shlex

    from equimodal.cli import _compare, _tune
    from equimodal.report import answers_of

    study = json.loads((comparison / "study.json").read_text(encoding="utf-8"))
    study["rows"][-1] |= {"options": {"order": "fixed"}, "seeds": 1, "cost": None, "under_trained": {}}
    read = 0
    for answer in answers_of(study, "study", data="avdigits"):
        words = shlex.split(answer.command)
        if words[1:2] == ["compare"]:
            values = _compare._parser().parse(words[2:])
            assert values["out"] in ("study", "FOLDER")
            _compare.study_config(values | {"entries": values["entries"]})
            read += 1
        elif words[1:2] == ["tune"]:
            assert _tune._parser().parse(words[2:])["budget"] == 60
            read += 1
    assert read >= 6


def test_the_comparison_that_a_run_advises_has_its_settings(cli: CLI) -> None:
    cli(["train", "--method", "MLA", "--options.order", "weak_first", *TINY, "--model.head_hidden", "5", "--out", "r"])
    text = cli(["report", "r"])
    command = next(line for line in text.splitlines() if "equimodal compare" in line).partition("equimodal ")[2]
    told = yaml.safe_load(cli([*shlex.split(command), "--print_config"]))
    run = yaml.safe_load(Path("r/config.yaml").read_text(encoding="utf-8"))
    assert {part: told[part] for part in ("data", "model", "training")} == {
        part: run[part] for part in ("data", "model", "training")
    }
    assert told["entries"] == {"MLA": {"method": "MLA", "options": run["options"]}}
    assert told["methods"] is None
