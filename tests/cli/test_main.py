"""Which command runs, what goes wrong in how many lines and with which exit code."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from equimodal import cli as package
from equimodal.cli import _list, _main
from equimodal.cli._errors import Interrupted
from equimodal.cli._progress import Progress
from equimodal.cli._signature import options_of, plain_text, type_name
from equimodal.data import available as available_data
from equimodal.data import shipped_cards
from equimodal.errors import DataError, DataWarning
from equimodal.methods import available, get, overview
from equimodal.studies import TrainingConfig
from tests.cli.helpers import CLI

# ---- help, list, describe ------------------------------------------------------------------------------------------


def test_help_names_every_command(cli: CLI) -> None:
    for arguments in (["--help"], ["-h"], ["help"]):
        text = cli(arguments)
        for name in ("demo", "train", "compare", "evaluate", "predict", "list", "describe", "data"):
            assert f"\n  {name} " in text
    assert cli([], 2) == text
    assert cli(["--version"]).startswith("equimodal 0.")


@pytest.mark.parametrize("name", [*(n for n in _main.COMMANDS if n != "data"), "data bundle", "data describe"])
def test_every_command_has_help(cli: CLI, name: str) -> None:
    text = cli([*name.split(), "--help"])
    assert text.startswith(f"usage: equimodal {name} ")
    if name in ("train", "compare", "demo"):
        assert "--config" in text
        assert "--print_config" in text
        assert "--training.epochs" in text


def test_list_shows_what_the_registries_have(cli: CLI) -> None:
    text = cli(["list"])
    titles = {m.name: (m.title, m.control) for m in overview()}
    for name in available():
        assert titles[name] == (get(name).info.title, get(name).info.control)
        assert f"  {name} " in text
    assert list(_list.BUILT_IN) == available_data()
    assert list(_list.card_titles()) == shipped_cards()
    for name in (*available_data(), *shipped_cards()):
        assert f"  {name} " in text


@pytest.mark.parametrize("name", available())
def test_describe_shows_everything_about_a_method(cli: CLI, name: str) -> None:
    text = " ".join(cli(["describe", name.lower()]).split())
    info = get(name).info
    for fact in (info.title, info.paper, info.equations, info.missing, info.cost, *info.deviations, *info.released):
        assert " ".join(plain_text(fact).split()) in text
    for option, source in info.defaults.items():
        assert f"{option} (" in text
        assert " ".join(plain_text(source).split()) in text


SNAPSHOT = {
    "Joint": [
        "calibrated", "inference", "sharpness.every", "sharpness.mode", "sharpness.radius", "sharpness.ratio",
        "unimodal",
    ],
    "MLA": [
        "alpha", "alpha_scale", "alpha_schedule", "calibrated", "inference", "order", "projector", "projector_reset",
        "seed", "sharpness.every", "sharpness.mode", "sharpness.radius", "sharpness.ratio", "temperature", "variant",
    ],
    "CGGM": [
        "apply_to", "calibrated", "classifier_lr_ratio", "direction", "direction_scope", "direction_weight", "floor",
        "inference", "magnitude", "maximum", "momentum", "ratio", "rho", "sharpness.every", "sharpness.mode",
        "sharpness.radius", "sharpness.ratio", "threshold", "variant", "window",
    ],
    "MIE": [
        "alternate", "calibrated", "flat_ratio", "inference", "layers", "mixup_alpha", "order", "projection", "radius",
        "sam", "sam_every", "seed", "sources", "stage_epochs", "temperature", "variant",
    ],
    "ModalityDropout": [
        "calibrated", "inference", "probability", "seed", "sharpness.every", "sharpness.mode", "sharpness.radius",
        "sharpness.ratio",
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", available())
def test_the_help_of_a_method_has_its_options_with_types_and_sources(cli: CLI, name: str) -> None:
    text = cli(["train", "--method", name, "--help"])
    joined = " ".join(text.split())
    found = sorted(re.findall(r"^  --options\.(\S+)", text, re.MULTILINE))
    assert found
    if name in SNAPSHOT:
        assert found == SNAPSHOT[name]
    for option, source in get(name).info.defaults.items():
        if option in found:
            assert f"[source: {source}]" in joined
    assert "%%" not in text


def test_symbols_of_the_paper_are_in_the_help(cli: CLI) -> None:
    assert "α_0" in cli(["train", "--method", "MLA", "--help"])
    assert "ρ > 0" in cli(["describe", "CGGM"])


def test_markup_becomes_text() -> None:
    assert plain_text(r":math:`\rho > 0`; see :class:`~equimodal.Sharpness` and ``x`` [Foret2021]_") == (
        "ρ > 0; see Sharpness and 'x' Foret2021"
    )
    assert plain_text(r":math:`\alpha_0^{1 + b/B}`") == "α_0^(1 + b/B)"


def test_options_come_from_the_signature() -> None:
    found = options_of(TrainingConfig)
    assert (found["lr"].default, type_name(found["lr"].hint)) == (1e-3, "float|auto")
    assert type_name(found["clip_norm"].hint) == "float|null"
    assert type_name(found["schedule"].hint) == "cosine|constant|step"
    assert found["epochs"].text == "passes over the training data."


# ---- what goes wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "Did you mean 'train'"),
        (["describe", "MLAA"], "Did you mean 'MLA'"),
        (["train", "--method", "cgm"], "Did you mean 'CGGM'"),
        (["train", "--data", "avdigit"], "Did you mean 'avdigits'"),
        (["train", "--method", "MLA", "--options.alpa", "1"], "Did you mean '--options.alpha'"),
        (["train", "--data.train", "96"], "unknown option '--data.train'"),
        (["train", "--data.train", "96"], "Its own options are given as --data.options.train."),
        (["train", "--model.fusion.rank", "3"], "Its own options are given as --model.fusion_options.rank."),
        (["train", "--method", "MLA", "--method.alpha", "3"], "Its own options are given as --options.alpha."),
        (["train", "--trainin.epochs", "1"], "Did you mean '--training.epochs'"),
        (["train", "--method", "Joint", "--options.alpha", "1"], "unknown option '--options.alpha'"),
        (["train", "--method", "MLA", "--options.order", "random"], "Expected one of 'fixed', 'shuffled'"),
        (["train", "--options.calibrated", "maybe"], "`options.calibrated`: Expected a bool"),
        (["train", "--training.epochs", "1.5"], "`training.epochs`: Expected a int"),
        (["train", "--training.epochs"], "expected one argument"),
        (["train", "--config", "none.yaml"], "File does not exist"),
        (["train", "--resume"], "--resume --out DIR"),
        (["train", "stray"], "stray"),
        (["compare"], "--out is missing"),
        (["compare", "--out", "s", "--methods", "MLA,CGM"], "Did you mean 'CGGM'"),
        (["compare", "--out", "s", "--seeds", "0,x"], "whole numbers"),
        (["evaluate"], "run_dir"),
        (["predict", "r", "--out", "p.txt"], "name.npz or name.csv"),
        (["data"], "unpack or describe"),
        (["data", "describe", "avdigts"], "Did you mean 'avdigits'"),
        (["data", "bundle", "x.npz"], "--inputs is missing"),
    ],
    ids=lambda v: "" if isinstance(v, str) else " ".join(v),
)
def test_wrong_usage_is_one_line_and_code_2(cli: CLI, arguments: list[str], said: str, tmp_path: Path) -> None:
    assert said in cli.error(arguments, 2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("training:\n  epocs: 3\n", "Did you mean 'training.epochs'"),
        ("training: [\n", "YAML"),
        ("- 3\n", "expected a mapping"),
        ("method: MLA\noptions: {alpha: high}\n", "`options.alpha`"),
    ],
)
def test_a_wrong_configuration_file_is_one_line_and_code_2(cli: CLI, content: str, said: str) -> None:
    Path("c.yaml").write_text(content)
    assert said in cli.error(["train", "--config", "c.yaml"], 2)


def test_refusals_of_the_library_are_one_line_and_code_1(cli: CLI, tmp_path: Path) -> None:
    assert "finished run" in cli.error(["evaluate", str(tmp_path)], 1)
    assert "training.epochs" in cli.error(["train", "--training.epochs", "0"], 1)
    cli(["--debug", "evaluate", str(tmp_path)], 1)
    assert "Traceback" in cli.err
    assert "DataError" in cli.err


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def run(argv: list[str], context: object) -> int:
        raise error

    monkeypatch.setattr(_list, "run", run)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (Interrupted("go on with X"), 130, "interrupted: go on with X"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (DataError("bad card"), 1, "error: bad card"),
        (SystemExit(0), 0, ""),
    ],
)
def test_exit_codes(cli: CLI, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, said: str) -> None:
    raising(monkeypatch, error)
    cli(["list"], code)
    assert cli.err.strip() == said


def test_a_bug_is_not_hidden(cli: CLI, monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, ZeroDivisionError("a bug"))
    assert "error: unforeseen ZeroDivisionError: a bug. Add --debug for the traceback" in cli.error(["list"], 1)
    cli(["list", "--debug"], 1)
    assert "Traceback" in cli.err
    assert "\nZeroDivisionError: a bug\n" in cli.err


def test_warnings_are_one_line_each_and_only_ours(cli: CLI, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(argv: list[str], context: object) -> int:
        warnings.warn("somebody else's", UserWarning, stacklevel=1)
        warnings.warn("a class is absent", DataWarning, stacklevel=1)
        return 0

    monkeypatch.setattr(_list, "run", run)
    cli(["list"])
    assert cli.err == "warning: a class is absent\n"


# ---- progress ------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def show(progress: Progress) -> None:
    with progress:
        for done in range(11):
            progress(done, 10, "MLA/seed0")


def test_progress_is_plain_lines_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    show(Progress(stream=stream, pause=1000))
    assert stream.getvalue() == "0/10 epochs  MLA/seed0\n10/10 epochs  MLA/seed0\n"
    every = io.StringIO()
    show(Progress(stream=every, pause=0))
    assert every.getvalue().count("\n") == 11


def test_progress_is_a_live_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    show(Progress(stream=stream))
    assert "\x1b[" in stream.getvalue()
    assert "10/10" in stream.getvalue()
    assert "MLA/seed0" in stream.getvalue()
    monkeypatch.setenv("TERM", "dumb")
    dumb = Terminal()
    show(Progress(stream=dumb))
    assert "\x1b" not in dumb.getvalue()


def test_progress_can_be_silent() -> None:
    stream = Terminal()
    show(Progress(quiet=True, stream=stream))
    assert stream.getvalue() == ""


# ---- processes -----------------------------------------------------------------------------------------------------


def test_a_reader_that_goes_away_is_no_error() -> None:
    root = Path(package.__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-m", "equimodal", "list"],
        env={**os.environ, "PYTHONPATH": str(root)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait(60) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


def test_a_narrow_encoding_is_no_error() -> None:
    root = Path(package.__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONIOENCODING": "ascii"}
    found = subprocess.run(
        [sys.executable, "-m", "equimodal", "describe", "MLA"], env=environment, capture_output=True, check=False
    )
    assert found.returncode == 0
    assert b"alpha" in found.stdout
