"""Names and numbers in cards, configurations and on command lines are what stands there, in one dialect."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equimodal._utils import plain_yaml
from equimodal._utils.plain_yaml import number_of, read_yaml, text_of
from equimodal.data import Missing, load_bundle, load_card, write_bundle
from equimodal.errors import DataError, MethodError
from tests.faults.families import attempt, many

yaml = pytest.importorskip("yaml")
studies = pytest.importorskip("equimodal.studies")
LETTERS = list("0123456789-+.:_eExXoOnNyYtTfF~<=, aß")
ODD = [
    "12:30", "010", "1_000", "0x1F", "0o17", "1e-3", "1E5", "+5", "-0", "1.50", ".5", "5.", "1.", "no", "NO", "yes",
    "on", "off", "y", "n", "2020-01-01", "2020-01-01 10:00:00", "1:30.5", ".inf", "-.Inf", ".nan", "1e400", "9" * 30,
    "9" * 500, "nan", "inf", "=", "<<", "0b11", "1e", "e1", "--", "-1", "007", "1__0", "190:20:30", "Null",
    "NULL", "nul", "True?",
]  # fmt: skip


def names() -> list[str]:
    """Texts that some reader of YAML takes for something else, and that stand in a file without quotation marks."""
    drawn = ("".join(rng.choice(LETTERS, size=rng.integers(1, 7))).strip() for rng in many(300, seed=20))
    found = [*ODD, *drawn]
    plain = []
    for name in dict.fromkeys(found):
        try:  # only what YAML reads as one scalar without quotation marks
            event = [e for e in yaml.parse(f"- {name}\n") if isinstance(e, yaml.ScalarEvent)]
        except yaml.YAMLError:
            continue
        if len(event) == 1 and event[0].value == name and event[0].tag is None and name:
            plain.append(name)
    return plain


def test_a_name_without_quotation_marks_is_the_text_that_stands_there(tmp_path: Path) -> None:
    write_bundle(
        tmp_path / "c", inputs={"a": np.random.default_rng(0).normal(size=(60, 2))}, target=np.arange(60) % 2,
        split=["train"] * 40 + ["validation"] * 10 + ["test"] * 10, classes=["first", "second"],
    )  # fmt: skip
    card = tmp_path / "c" / "card.yaml"
    text = card.read_text()
    refused = right = 0
    for name in names():
        card.write_text(text.replace("- first", f"- {name}"))
        data, message = attempt(load_bundle, tmp_path / "c")
        if data is None:  # true, false and null are values everywhere
            refused += 1
            assert "classes[0]" in message, message
            assert name.lower() in ("true", "false", "null", "~"), name
        else:
            right += 1
            assert data.classes == (name, "second")
    assert right > 150


def test_what_is_written_is_read_back_and_by_other_readers_too() -> None:
    for name in [
        *names(),
        "true",
        "null",
        "~",
        "",
        " a",
        "a: b",
        "#x",
        "'",
        '"',
        "\t",
        "-",
        "a\nb",
        "[1]",
        "{a: 1}",
        "é",
    ]:
        text = text_of({"names": [name], name or "k": 1}, "Writing a test")
        assert read_yaml(text, "a.yaml", "a test")["names"] == [name]
        assert read_yaml(text, "a.yaml", "a test", exact=True)["names"] == [name]
        assert yaml.safe_load(text)["names"] == [name]


def test_a_number_is_the_same_in_every_spelling_and_every_kind_of_file(tmp_path: Path) -> None:
    write_bundle(
        tmp_path / "c", inputs={"a": np.random.default_rng(0).normal(size=(60, 2))}, target=np.arange(60) % 2,
        split=["train"] * 40 + ["validation"] * 10 + ["test"] * 10,
    )  # fmt: skip
    card = tmp_path / "c" / "card.yaml"
    text = card.read_text()
    for rng in many(60, seed=21):
        value = float(f"{rng.normal() * 10.0 ** rng.integers(-20, 20):.6g}")
        for spelling in (f"{value:e}", f"{value:.6E}", repr(value), f"{value:+.6g}", f"{value:.17g}"):
            assert read_yaml(f"a: {spelling}", "a.yaml", "a test") == {"a": float(spelling)}
            card.write_text(
                text.replace("    standardise: per-feature\n", f"    transforms: [{{scale: {spelling}}}]\n", 1)
            )
            transform = load_card(card).modalities["a"].transforms[0]
            assert transform.value == (float(spelling),)


def test_numbers_in_words_are_read_where_a_number_belongs() -> None:
    assert [number_of(v) for v in ("5", "+5", "1e3", ".5", "-.inf")] == [5, 5, 1000.0, 0.5, -np.inf]
    assert [number_of(v) for v in ("05", "0x1", "1_0", "a", "", "1:2", "9" * 5000)] == [
        "05", "0x1", "1_0", "a", "", "1:2", "9" * 5000,
    ]  # fmt: skip


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_a_key_that_stands_twice_is_refused_with_its_line(depth: int) -> None:
    for rng in many(5, seed=22):
        count, key = int(rng.integers(1, 2000)), str(rng.choice(["lr", "1", "a b"]))
        inner = " " * depth
        lines = [f"{' ' * i}k{i}:" for i in range(depth)] + [f"{inner}x{i}: {i}" for i in range(count)]
        lines += [f"{inner}{key}: 1", f"{inner}{key}: 2"]
        with pytest.raises(DataError, match=rf"a.yaml: line {len(lines)}: expected each field once"):
            read_yaml("\n".join(lines), "a.yaml", "a test")
    for text in ("a=.1,a=.9", "train:a=.1;train:a=.2", "train:a=.1,a=.1"):
        with pytest.raises(DataError, match="`missing`.*stands twice"):
            Missing.of(text)


COUNTS = ("epochs", "batch_size", "accumulate", "checkpoint_every", "patience")
RATES = ("lr", "weight_decay", "clip_norm")
WRONG: list[Any] = [
    float("nan"), float("inf"), -float("inf"), -5, -1e-9, 10**20, 10**400, True, "3", "1e-3", [], {}, [3], 1.5, 1e300,
]  # fmt: skip


@pytest.mark.parametrize("field", [*COUNTS, *RATES, "seed", "missing_seed", "feature_size", "head_hidden", "seeds"])
def test_a_number_of_a_configuration_is_finite_and_in_its_range(field: str) -> None:
    for value in WRONG:
        if field in RATES and value == 1.5:
            continue
        part = {"seed": "", "missing_seed": "data", "feature_size": "model", "head_hidden": "model"}.get(
            field, "training"
        )
        with pytest.raises(MethodError, match=f"`.*{field}`: expected"):
            if field == "seeds":
                studies.StudyConfig({}, seeds=[0, value])
            else:
                studies.RunConfig.from_dict({part: {field: value}} if part else {field: value})


def test_no_value_of_a_number_is_a_traceback_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from equimodal.cli import main

    words = [".nan", ".inf", "-5", "9" * 20, "9" * 500, "1e300", "null", "[1]", "{a: 1}", "x", "", "1e-400x"]
    names = [f.name for f in dataclasses.fields(studies.TrainingConfig) if f.name in COUNTS + RATES]
    for name in names:
        for word in words:
            if word == "null" and name in ("checkpoint_every", "patience", "clip_norm"):
                continue
            code = main(["train", "--method", "Joint", f"--training.{name}={word}", "--out", str(tmp_path / "never")])
            said = capsys.readouterr().err
            assert code in (1, 2), (name, word)
            assert f"training.{name}" in said, (name, word, said)
            assert len(said.splitlines()) == 1
    assert not (tmp_path / "never").exists()


def test_what_is_no_yaml_of_plain_values_is_refused_with_its_file() -> None:
    for text in (
        "[" * 3000 + "]" * 3000,
        "[",
        "? [1]\n: 2",
        "!!python/object:os.system x",
        "a: b: c",
        "\x00",
        "&a",
        "*b",
    ):
        with pytest.raises(DataError, match=r"a.yaml: (line \d+: )?expected"):
            raise DataError(f"a.yaml: expected no value, read {read_yaml(text, 'a.yaml', 'a test')}")


_REFUSED = ("a: 1\na: 2", "a: 'x", "&a [*a]", "a: b: c", "}", "[1,2", "\ta: 1", "a: !!python/object:os.system x",
            "--- 1\n--- 2", "? [1]\n: 2", "a: \x07", "*x", "a: " + "[" * 200 + "]" * 200)  # fmt: skip


_READ = ("a: [1, x, 1e-3, 010, no]", "a: {b: 12:30, c: 1_000, d: .inf, e: ~}", "a: |\n  x\n  y\nb: >\n  z\n",
         "a: &x [1]\nb: *x", "- - 1\n- {2: 3}", "# nothing", "a: 'it''s \U0001f600'")  # fmt: skip


@pytest.mark.parametrize("text", [*_READ, *_REFUSED])
def test_yaml_is_read_alike_without_its_part_in_c(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> object:
        plain_yaml._loader.cache_clear()
        try:
            return plain_yaml.read_yaml(text, "a.yaml", "Reading")
        except DataError:
            return DataError

    with_c = found()
    monkeypatch.delattr("yaml.CSafeLoader", raising=False)
    without = found()
    monkeypatch.undo()
    plain_yaml._loader.cache_clear()
    assert with_c == without
    assert (with_c is DataError) == (text in _REFUSED)
