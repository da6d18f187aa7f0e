"""Tables that cannot be used are refused by file, column, row and value; those that can are read rightly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equimodal.data import from_dataframe, load
from equimodal.errors import DataError, DataWarning, UnknownNameError
from tests.data.tables.helpers import frame, pd, with_images

pytest.importorskip("tokenizers")


def changed(column: str, row: int, value: Any) -> Any:
    table = frame()
    table[column] = table[column].astype(object)
    table.at[row, column] = value
    return table


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (changed("size", 4, "large"), r"column 'size', row 4: expected numbers.* Found 'large'"),
        (changed("size", 4, np.inf), r"column 'size', row 4: expected a finite number. Found inf"),
        (changed("when", 9, "soon"), r"column 'when', row 9: expected a date .* Found 'soon'"),
        (changed("label", 5, None), r"column 'label', row 5: expected a target in every row.*unlabelled='drop'"),
        (frame().assign(label="p"), r"expected at least two classes. Found \['p'\]"),
        (frame().head(0), r"expected rows"),
        (frame()[["label"]], r"expected at least one column to predict from"),
        (frame().assign(size=np.nan)[["size", "label"]], r"size, every cell is empty"),
        (
            frame().assign(clip=[f"{i}.mp4" for i in range(90)]),
            r"column 'clip', row 0: expected a readable video",
        ),
        (frame().assign(x=[[1, 2]] * 60 + [[[1, 2]]] * 30), r"column 'x', row \d+: expected an array of shape"),
        (frame().assign(x=[[1, 2]] * 60 + [["a", 2]] * 30), r"column 'x', row \d+: expected numbers .* Found '<U"),
        (frame().assign(x=[[[1, 2], [3]]] * 90), r"column 'x', row \d+: .*lists of different lengths inside one cell"),
        (frame().assign(x=[[]] * 90), r"column 'x': expected at least one array"),
        (changed("title", 5, b"red apple"), r"column 'title', row 5: expected a text or a number. Found b'red"),
        (changed("title", 5, "red \ud800 apple"), r"column 'title', row 5: expected text of whole characters"),
        (changed("title", 5, {"red": 1}), r"column 'title', row 5: expected one value per cell"),
        (changed("size", 5, [1, 2]), r"column 'size', row 5: expected one value per cell"),
        (frame().assign(size=[1e308, -1e308] * 45), r"column 'size', row \d+: expected numbers whose squares"),
        (frame().head(1), r"at least two classes"),
        (frame().head(2).assign(label=["a", "b"]), r"at least 3 rows"),
    ],
)
@pytest.mark.filterwarnings("ignore::equimodal.errors.DataWarning")
def test_refused_by_name(table: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_dataframe(table, "label")


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="lable.*Did you mean 'label'"):
        from_dataframe(frame(), "lable")
    with pytest.raises(UnknownNameError, match="imag.*Did you mean 'image'"):
        from_dataframe(frame(), "label", columns={"title": "imag"})
    with pytest.raises(DataError, match="name of a modality"):
        from_dataframe(frame(), "label", columns={"a.b": ["size"]})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": {"size": None}}, r"`columns`: expected a kind, or a list of columns, for 'size'. Found None"),
        ({"columns": {"x": []}}, r"`columns`: .*Found \[\]"),
        ({"columns": {"label": "category"}}, r"`columns`: expected each input in one modality. Found \['label'\]"),
        ({"shares": "abc"}, r"`shares`: expected three numbers"),
        ({"shares": None}, r"`shares`: expected three numbers"),
        ({"shares": (0.5, 0.6, 0.0)}, r"`shares`: expected three numbers"),
        ({"tokenizer": 5}, r"`tokenizer`: expected the path of a folder"),
        ({"video_frames": 0}, r"`video_frames`: expected a whole number"),
        ({"seed": 1.5}, r"`seed`: expected a whole number"),
        ({"task": "regression"}, r"column 'label', row 0: expected a finite number"),
        ({"log_target": True}, r"`log_target`: expected False for classes"),
    ],
)
def test_options_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_dataframe(frame(), "label", **options)


def test_what_is_unusual_and_right() -> None:
    table = frame().assign(nothing=None, sample_id=[i // 2 for i in range(90)], n=pd.array([1, None, 3] * 30, "Int64"))
    table.loc[5, "when"] = "9999-12-31"
    data = from_dataframe(table, "label")
    assert data.report.left_out["nothing"] == "every cell is empty"
    assert "that 22 rows share" in data.report.left_out["sample_id"]
    assert data.preparation.columns["n"] == "table"


@pytest.mark.parametrize(("name", "reason"), [("none.png", "no such file"), ("bad.png", "no picture")])
def test_wrong_paths_and_unreadable_pictures_name_row_and_file(tmp_path: Path, name: str, reason: str) -> None:
    table = with_images(tmp_path)
    (tmp_path / "bad.png").write_text("no picture at all")
    table.loc[7, "photo"] = name
    with pytest.raises(DataError, match=rf"column 'photo', row 7: .*{reason}.*{name}"):
        from_dataframe(table, "label", root=tmp_path)


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    (tmp_path / "latin.csv").write_bytes("a,label\nsüß,x\n".encode("latin1"))
    (tmp_path / "ragged.csv").write_text("a,label\n1,x\n1,2,3,4\n")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "header.csv").write_text("a,label\n")
    (tmp_path / "bad.parquet").write_text("no parquet")
    for name, message in {
        "latin.csv": "UTF-8.*0xfc", "ragged.csv": "rows of one length", "empty.csv": "empty file",
        "header.csv": "expected rows", "bad.parquet": "expected a Parquet file", "none.csv": "no such file",
    }.items():  # fmt: skip
        with pytest.raises(DataError, match=message):
            load(tmp_path / name, target="label")


def test_long_cells_are_cut_and_rows_without_target_dropped_with_a_warning() -> None:
    table = changed("title", 3, "word " * 200_000)
    table.loc[10, "label"] = None
    with pytest.warns(DataWarning, match="1 row\\(s\\) without a target"):
        data = from_dataframe(table, "label", unlabelled="drop")
    assert data.num_samples == 89
    assert data.modalities["title"].shape[0] <= 128


def test_twice_the_same_column_and_constant_columns() -> None:
    double = pd.concat([frame(), frame()[["size"]]], axis=1)
    with pytest.raises(DataError, match="different names of columns. Found \\['size'\\]"):
        from_dataframe(double, "label")
    data = from_dataframe(frame().assign(same=1), "label")
    assert data.report.left_out["same"] == "one value in every row"
