"""Methods of other installed packages: found, used like ours, and never in the way when they are broken."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import equimodal
from equimodal.errors import PluginError, PluginWarning, UnknownNameError
from equimodal.methods import Joint, Method, available, controls, get, overview
from equimodal.testing import PROPERTIES, check_method, settings_of
from tests.cli.helpers import CLI, TINY
from tests.packages import install, on_the_path, page_blocks

DWA: dict[str, dict[str, str]] = {"equimodal.methods": {"DWA": "dwa_method:DWA"}}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the worked example of CONTRIBUTING.md, installed."""
    folder = tmp_path_factory.mktemp("site")
    install(folder, "dwa_method", page_blocks("dwa.py"), DWA)
    return folder


@pytest.fixture
def dwa(site: Path) -> Iterator[type[Method]]:
    with on_the_path(site, forget=False):
        yield get("DWA")


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> CLI:
    return CLI(capsys)


# ---- the worked example ---------------------------------------------------------------------------------------------


def test_it_is_found_like_a_method_of_ours(dwa: type[Method], cli: CLI) -> None:
    assert get("dwa") is dwa
    assert available()[-1] == "DWA"
    assert "DWA" not in available(outside=False)
    assert "DWA" not in controls()
    assert overview()[-1].package == "dwa_method 1.0"
    with pytest.raises(UnknownNameError, match="Did you mean.*'DWA'"):
        get("DAW")
    assert "Dynamic weight average (from the package dwa_method 1.0)" in cli(["list"])
    text = cli(["describe", "dwa"])
    assert "temperature (float, default 2.0)" in text
    assert "source of the default: paper" in text
    help_text = cli(["train", "--method", "DWA", "--help"])
    assert "--options.temperature" in help_text


@pytest.mark.parametrize("group", ["method", "task", "engine", "compile"])
def test_it_has_every_property(dwa: type[Method], group: str) -> None:
    """Those that the registry's methods have, by the same code."""
    assert settings_of(dwa) == [{}]
    report = check_method(dwa, only=[p.name for p in PROPERTIES.values() if p.group == group])
    assert report.held
    assert not report.failed
    declared = "does not declare the task"
    assert all(declared in reason for reason in report.not_applicable.values()), report


@pytest.mark.distributed
@pytest.mark.slow
def test_it_has_the_properties_of_two_processes(dwa: type[Method]) -> None:
    names = ["two_processes_equal_one", "sharded_encoders", "a_failure_on_one_stops_both"]
    report = check_method(dwa, settings=[{}], processes=True, only=names)
    assert len(report.held) == 5
    assert not report.not_applicable


def test_it_is_trained_and_compared(dwa: type[Method], cli: CLI, tmp_path: Path) -> None:
    run = tmp_path / "run"
    text = cli(
        ["train", "--method", "dwa", "--options.temperature", "0.1", "--probe", "false", "--out", str(run), *TINY]
    )
    assert text.startswith("DWA on synthetic")
    assert "temperature: 0.1" in (run / "config.yaml").read_text(encoding="utf-8")
    assert "by rule 'fused'" in cli(["evaluate", str(run)])
    study = tmp_path / "study"
    cli(["compare", "--methods", "DWA,Joint", "--seeds", "0", "--controls", "false", "--cost", "false", "--out",
         str(study), *TINY])  # fmt: skip
    assert "DWA" in (study / "report.html").read_text(encoding="utf-8")
    assert "| DWA |" in (study / "table.md").read_text(encoding="utf-8")
    line = cli.error(["train", "--method", "DWA", "--options.temperature", "0", *TINY], 1)
    assert "`temperature`: expected a number > 0. Found 0" in line
    assert "Did you mean '--options.temperature'" in cli.error(
        ["train", "--method", "DWA", "--options.temprature", "3", *TINY], 2
    )


@pytest.mark.slow
def test_it_is_built_and_installed_by_pip(tmp_path: Path) -> None:
    """The files of the page as they stand, without network; then in processes that know nothing but the path."""
    pytest.importorskip("setuptools")
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "dwa_method").mkdir(parents=True)
    (source / "pyproject.toml").write_text(page_blocks("pyproject.toml"), encoding="utf-8")
    (source / "dwa_method" / "__init__.py").touch()
    (source / "dwa_method" / "dwa.py").write_text(page_blocks("dwa.py"), encoding="utf-8")

    def python(*arguments: str) -> str:
        path = os.pathsep.join([str(target), str(Path(equimodal.__file__).parents[1])])
        environment = {**os.environ, "PYTHONPATH": path, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    python("-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--target",
           str(target), str(source))  # fmt: skip
    listed = " ".join(python("-m", "equimodal", "list").split())
    assert "DWA Dynamic weight average (from the package dwa-method 1.0)" in listed
    script = (
        "from equimodal.testing import check_method\nfrom equimodal.methods import get\n"
        "print(check_method(get('DWA'), settings=[{}], only=['names_do_not_matter', 'resuming_is_exact']))"
    )
    assert "DWA: 2 held" in python("-c", script)
    assert "DWA on synthetic" in python("-m", "equimodal", "train", "--method", "DWA", "--out", "run", *TINY)


@pytest.mark.slow
def test_it_passes_the_type_checker(tmp_path: Path) -> None:
    (tmp_path / "dwa.py").write_text(page_blocks("dwa.py"), encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", str(tmp_path / "dwa.py")]
    environment = {**os.environ, "MYPYPATH": str(Path(equimodal.__file__).parents[1])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


# ---- broken packages ------------------------------------------------------------------------------------------------

SMALL = "from equimodal.methods import Joint\nclass {name}(Joint):\n    info = Joint.info\n"
BROKEN: dict[str, tuple[str, dict[str, str], str]] = {
    "import error": (
        "import no_such_package",
        {"Bad": "bad:Bad"},
        r"ModuleNotFoundError: No module .*Repair the package",
    ),
    "syntax error": ("class Bad(:", {"Bad": "bad:Bad"}, "SyntaxError"),
    "error of its own": ("raise RuntimeError('no licence found')", {"Bad": "bad:Bad"}, "no licence found"),
    "exit": ("raise SystemExit('licence expired')", {"Bad": "bad:Bad"}, "SystemExit: licence expired"),
    "no such name": ("", {"Bad": "bad:Bad"}, "AttributeError"),
    "no method": ("class Bad: pass", {"Bad": "bad:Bad"}, "Expected a subclass of equimodal.methods.Method. Found Bad"),
    "no class": ("Bad = 3", {"Bad": "bad:Bad"}, "Found int. Point it to the class"),
    "no info": (
        "from equimodal.methods import Method\nclass Bad(Method): pass",
        {"Bad": "bad:Bad"},
        "Expected a class with `info`",
    ),
    "another name": (SMALL.format(name="Other"), {"Bad": "bad:Other"}, "Found 'Bad' for 'Other'"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_package_is_named_and_left_out(kind: str, tmp_path: Path, cli: CLI) -> None:
    code, points, text = BROKEN[kind]
    install(tmp_path, "bad", code, {"equimodal.methods": points}, version=str(1 + list(BROKEN).index(kind)))
    install(tmp_path, "good", SMALL.format(name="Good"), {"equimodal.methods": {"Good": "good:Good"}})
    with on_the_path(tmp_path):
        with pytest.warns(PluginWarning, match=rf"The package bad \d registers the method 'Bad' as .*{text}"):
            assert set(available()) == {*available(outside=False), "Good"}
        assert available()  # once is enough
        assert get("good").__name__ == "Good"
        assert get("MLA").__name__ == "MLA"
        with pytest.raises(PluginError, match=text):
            get("bad")
        assert cli.error(["train", "--method", "Bad"], 1).startswith("error: The package bad")
        assert "Good" in cli(["list"])


def test_the_names_of_equimodal_win(tmp_path: Path) -> None:
    install(tmp_path, "thief", SMALL.format(name="mla"), {"equimodal.methods": {"mla": "thief:mla"}})
    with on_the_path(tmp_path):
        with pytest.warns(PluginWarning, match=r"package thief 1.0 registers the method 'mla'.*Rename"):
            assert get("MLA").__module__ == "equimodal.methods._mla"
        assert available() == available(outside=False)


def test_two_packages_with_one_name_are_both_left_out(tmp_path: Path) -> None:
    for package in ("first", "second"):
        install(tmp_path, package, SMALL.format(name="Twin"), {"equimodal.methods": {"Twin": f"{package}:Twin"}})
    with on_the_path(tmp_path):
        with pytest.warns(PluginWarning, match=r"'Twin' is registered by several packages: first 1.0 and second 1.0"):
            assert "Twin" not in available()
        with pytest.raises(PluginError, match="Uninstall all but one"):
            get("twin")


def test_nothing_is_imported_before_it_is_asked_for(tmp_path: Path) -> None:
    install(tmp_path, "shy", SMALL.format(name="Shy"), {"equimodal.methods": {"Shy": "shy:Shy"}})
    with on_the_path(tmp_path):
        get("MLA")
        available(outside=False)
        assert "shy" not in sys.modules
        with pytest.raises(UnknownNameError, match="Known: .*Shy"):
            get("zzzzz")
        assert "shy" not in sys.modules
        assert issubclass(get("shy"), Joint)
        assert "shy" in sys.modules


def test_controls_of_other_packages_are_controls(tmp_path: Path) -> None:
    install(tmp_path, "ctrl", SMALL.format(name="Zero"), {"equimodal.methods": {"Zero": "ctrl:Zero"}})
    with on_the_path(tmp_path):
        assert controls() == [*controls(outside=False), "Zero"]
        assert available() == [*controls(), *(n for n in available(outside=False) if n not in controls())]


def test_what_a_comparison_needs_does_not_depend_on_other_packages(tmp_path: Path) -> None:
    from equimodal.report import required_controls

    install(tmp_path, "rival", SMALL.format(name="Aaa"), {"equimodal.methods": {"Aaa": "rival:Aaa"}})
    with on_the_path(tmp_path):
        required_controls.cache_clear()
        assert required_controls()["reference"] == "Joint"
        assert "rival" not in sys.modules
        assert get("Aaa").info.role == "reference"
