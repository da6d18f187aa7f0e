"""Tables as Markdown, LaTeX, CSV and JSON: the numbers, and labels that would be code in each of them."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import Any

import pytest

from equimodal.errors import UnsupportedError
from equimodal.report import format_tables
from equimodal.report.formats import COLUMNS, TABLES, TableName, csv_text, latex_escaped, tables_of
from tests.report.records import row, study

HOSTILE = r"[a_b] 50% & #1 $x^2$ {y} \input{z} ~tilde <b>|`=1+1"
DIFFERENCE = {"mean": 0.25, "low": 0.125, "high": 0.375, "p": 0.001, "p_holm": 0.004}


def record(**changes: Any) -> dict[str, Any]:
    """The best control is Unimodal[video], 0.64."""
    one = row("MLA", 0.9, score_interval=[0.85, 0.95], seconds=12.5, own_outputs={"audio": [0.5, 0.25]})
    return study(one, differences={"MLA": {"Unimodal[video]": DIFFERENCE, "Joint": {"mean": 9}}}, **changes)


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


# ---- numbers --------------------------------------------------------------------------------------------------------


def test_the_leaderboard_has_every_number_of_the_record() -> None:
    best = tables_of(record()).leaderboard[0]
    assert best | {"average_rank": 1.0} == {
        "position": 1, "entry": "MLA", "method": "MLA", "control": False, "seeds": 3, "metric": "score", "mean": 0.9,
        "std": 0.012, "low": 0.85, "high": 0.95, "average_rank": 1.0, "best_control": "Unimodal[video]",
        "difference": 0.25, "difference_low": 0.125, "difference_high": 0.375, "p": 0.001, "p_holm": 0.004,
        "cost": 1.25, "seconds": 12.5,
    }  # fmt: skip


def test_ranks_are_means_over_seeds_of_the_entries_that_have_all() -> None:
    rows = [row("A", 0.7, scores=[0.6, 0.9, 0.6]), row("B", 0.8, scores=[0.8, 0.8, 0.8]), row("C", 0.5, scores=[0.5])]
    found = {r["entry"]: r["average_rank"] for r in tables_of(study(*rows, controls=False)).leaderboard}
    assert found == {"A": (2 + 1 + 2) / 3, "B": (1 + 2 + 1) / 3, "C": None}


def test_an_error_is_given_as_the_metric_and_its_interval_in_order() -> None:
    one = row("A", -0.5, score_interval=[-0.6, -0.4], rules={"mean": {"validation": -0.7, "test": -0.8}},
              per_modality={"audio": [-0.9, 0.1]}, under_trained={"audio": [0.2, 0.1]})  # fmt: skip
    tables = tables_of(study(one, controls=False, metric={"name": "mae", "higher_is_better": False}))
    r = tables.leaderboard[0]
    assert (r["mean"], r["low"], r["high"], r["metric"]) == (0.5, 0.4, 0.6, "mae")
    assert (tables.rules[0]["validation"], tables.rules[0]["test"]) == (0.7, 0.8)
    assert (tables.modalities[0]["probe"], tables.modalities[0]["gap"]) == (0.9, 0.2)


@pytest.mark.parametrize("table", TABLES)
def test_csv_has_one_line_per_observation_and_reads_back(table: TableName) -> None:
    tables = tables_of(record())
    found = read(format_tables(record(), "csv", table))
    expected = tables.table(table)
    assert tuple(found[0]) == COLUMNS[table] == tuple(expected[0])
    assert len(found) == len(expected)
    for line, one in zip(found, expected, strict=True):
        for name, value in one.items():
            if isinstance(value, float):
                assert float(line[name]) == pytest.approx(value, rel=1e-9)
            else:
                assert line[name] == ("" if value is None else str(value))


def test_csv_of_nothing_has_its_columns() -> None:
    assert format_tables({"rows": []}, "csv", "rules").strip() == ",".join(COLUMNS["rules"])


def test_csv_as_pandas_reads_it() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_csv(io.StringIO(format_tables(record(), "csv")), index_col="entry")
    assert frame["mean"].dtype == float
    assert frame["control"].dtype == bool
    assert frame.loc["MLA", "difference"] == 0.25
    assert frame["difference"].isna().sum() == 5


def test_json_has_a_version_and_the_same_records() -> None:
    found = json.loads(format_tables(record(incomplete=["why"]), "json"))
    assert (found["format"], found["version"], found["incomplete"]) == ("equimodal.report", 1, ["why"])
    assert found["metric"] == {"name": "score", "higher_is_better": True, "percent": True}
    tables = tables_of(record())
    assert found["tables"] == {name: list(tables.table(name)) for name in TABLES}
    with pytest.raises(UnsupportedError, match="`table`.*'rules'"):
        format_tables(record(), "json", "rules")


def test_people_read_points_with_their_intervals() -> None:
    text = format_tables(record(), "markdown")
    line = next(line for line in text.splitlines() if line.startswith("| MLA | **"))
    assert line == r"| MLA | **90.0 ± 1.2** | \[85.0, 95.0\] | +25.0 \[+12.5, +37.5\] | 0.004 | 1.0 | 1.25 |"
    assert "| *Joint* | 60.0 ± 1.2 | - | - | - |" in text
    assert r"| MLA | - | product | 75.0 | 72.0 | -18.0 |" in text  # 0.72 under the rule that is best on validation
    assert "| MLA | audio | 70.0 ± 1.0 | 0.0 ± 1.0 | 50.0 ± 25.0 |".replace("| 0.0", "| +0.0") in text


def test_the_advice_on_record_names_the_documented_rule() -> None:
    one = row("MLA", 0.9, rule_advice={"documented": "mean", "recommended": "product"})
    found = {r["rule"]: (r["documented"], r["recommended"]) for r in tables_of(study(one, controls=False)).rules}
    assert found == {"mean": (True, False), "product": (False, True)}


def test_why_a_table_is_incomplete_is_said() -> None:
    for format_ in ("markdown", "latex", "json"):
        assert "MLA/seed1: NaN" in format_tables(record(incomplete=["MLA/seed1: NaN"]), format_)


# ---- LaTeX ----------------------------------------------------------------------------------------------------------

COMMANDS = {
    "begin", "end", "centering", "caption", "label", "toprule", "midrule", "bottomrule", "textit", "textbf",
    "footnotesize", "par", "pm", "textbackslash", "textasciitilde", "textasciicircum", "textless", "textgreater",
    "textbar", "textquotedbl", "textasciigrave",
}  # fmt: skip


def check_latex(text: str) -> None:
    """Braces and environments are closed, only known commands, mathematics is ours, every row has its columns."""
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert set(re.findall(r"\\([A-Za-z]+)", body)) <= COMMANDS
    bare = re.sub(r"\\[&%$#_{}]", "", body)  # without what is escaped
    assert "%" not in bare
    assert "#" not in bare
    assert "~" not in bare
    assert "^" not in bare
    assert set(re.findall(r"\$(.*?)\$", bare)) <= {"-", r"\pm"}
    assert bare.count("$") % 2 == 0
    assert "_" not in bare
    depth = 0
    for mark in bare:
        depth += (mark == "{") - (mark == "}")
        assert depth >= 0
    assert depth == 0
    opened: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", body):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert opened == []
    for columns, rows in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", bare, re.DOTALL):
        lines = [line for line in rows.splitlines() if line.strip().endswith(r"\\")]
        assert lines
        for line in lines:
            assert line.count("&") == len(columns) - 1, line
            assert not line.strip().startswith(("[", "*"))


def test_latex_of_plain_and_of_hostile_labels() -> None:
    check_latex(format_tables(record(), "latex"))
    evil = study(
        row(HOSTILE, 0.9, per_modality={HOSTILE: [0.5, 0.1]}, under_trained={HOSTILE: [-0.5, 0.1]},
            rules={HOSTILE: {"validation": 0.5, "test": 0.4}}),
        row("* starred", 0.8), title=HOSTILE, incomplete=[HOSTILE + "\n\\evil"],
    )  # fmt: skip
    text = format_tables(evil, "latex")
    check_latex(text)
    assert (
        r"{}[a\_b] 50\% \& \#1 \$x\textasciicircum{}2\$ \{y\} \textbackslash{}input\{z\} \textasciitilde{}tilde" in text
    )


@pytest.mark.parametrize("mark", list(r"_%&#${}\~^<>|`\""))
def test_each_mark_is_escaped(mark: str) -> None:
    check_latex(format_tables(study(row(f"a{mark}b{mark * 2}", 0.9)), "latex"))
    assert mark not in re.sub(r"\\[a-z]+\{\}|\\[&%$#_{}]", "", latex_escaped(f"a{mark}b"))


def test_greek_letters_and_signs_are_mathematics() -> None:
    assert latex_escaped("MLA, α ≥ 0.2 − λΩ") == r"MLA, $\alpha$ $\geq$ 0.2 $-$ $\lambda$$\Omega$"
    assert latex_escaped("ü") == "ü"


def test_marks_that_tex_would_join_stay_apart() -> None:
    assert latex_escaped("a--b---c") == "a-{}-b-{}-{}-c"
    assert latex_escaped("[x]") == "{}[x]"
    assert "$-$18.0" in format_tables(record(), "latex")


# ---- other hostile labels -------------------------------------------------------------------------------------------


def test_labels_cannot_break_markdown_or_run_in_a_spreadsheet() -> None:
    evil = study(row("x | *y*\n| z", 0.9), row("=HYPERLINK(1)", 0.8), controls=False)
    line = format_tables(evil, "markdown", "leaderboard").splitlines()[4]
    assert line.startswith(r"| x \| \*y\* \| z | **90.0")
    entries = [r["entry"] for r in read(format_tables(evil, "csv"))]
    assert entries == ["x | *y* | z", "'=HYPERLINK(1)"]
    assert csv_text([{'a,"b': 'c,"d'}], ['a,"b']) == '"a,""b"\n"c,""d"\n'


def test_the_same_record_gives_the_same_text() -> None:
    for format_ in ("markdown", "latex", "csv", "json"):
        assert format_tables(record(), format_) == format_tables(record(), format_)
