"""Sound, videos, sequences of several lengths and foreign tokenizers in the cells of a table; absent ones stay shut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from equimodal.batch import Tokens
from equimodal.data import TableDataset, from_arrays, from_dataframe
from equimodal.data.tables import Preparation, as_table
from equimodal.errors import DataError
from tests.data.tables.helpers import film, foreign_tokenizer, pd

LABEL = ["a", "b"] * 20
TONES = (300.0, 3000.0)


def poisoned(folder: Path, column: list[Any]) -> list[Any]:
    """Every fourth cell names what marks an empty one, and a file of that name waits to be opened."""
    (folder / "NA").write_bytes(b"poison")
    return ["NA" if i % 4 == 0 else value for i, value in enumerate(column)]


def test_sound_is_read_as_bands_and_absent_sound_is_not_opened(tmp_path: Path) -> None:
    sound = pytest.importorskip("soundfile")
    pytest.importorskip("soxr")
    time = np.arange(8000) / 8000
    for i in range(40):  # a low or a high tone, half a second or a whole one, at 8 kHz
        tone = 0.5 * np.sin(2 * np.pi * TONES[i % 2] * time[: 4000 + 4000 * (i % 3 == 0)])
        sound.write(tmp_path / f"{i}.wav", tone, 8000)
    paths = poisoned(tmp_path, [f"{i}.wav" for i in range(40)])
    table = pd.DataFrame({"voice": paths, "x": np.arange(40.0), "label": LABEL})
    data = from_dataframe(table, "label", root=tmp_path, audio_seconds=0.5)
    assert data.modalities["voice"].kind == "sequence"
    assert data.modalities["voice"].shape[1] == 64
    inputs, present = data.preparation.arrays(as_table(table), tmp_path)
    assert (present["voice"] == (np.arange(40) % 4 != 0)).all()
    low, high = (inputs["voice"][i].mean(0).argmax() for i in (2, 1))
    assert low < 20 < 40 < high  # bands of 300 Hz and 3 kHz
    assert not inputs["voice"][0].any()
    prepared, _ = Preparation.from_dict(json.loads(json.dumps(data.preparation.to_dict()))).inputs(
        as_table(table), tmp_path
    )
    rows = data.train.rows.numpy()
    have = present["voice"][rows]
    batch = data.train.batch().inputs["voice"]
    np.testing.assert_allclose(batch.numpy()[have], prepared["voice"][rows][have], atol=1e-4)
    table.loc[1, "voice"] = "NA"
    table.loc[2, "voice"] = "NAA.wav"
    with pytest.raises(DataError, match=r"column 'voice', row 2: expected a readable sound .*no such file"):
        from_dataframe(table, "label", root=tmp_path)


def test_frames_of_a_video_are_spread_over_its_length(tmp_path: Path) -> None:
    pytest.importorskip("av")
    film(tmp_path / "rising.mp4", [20, 90, 160, 230])
    film(tmp_path / "falling.mp4", [230, 160, 90, 20])
    paths = poisoned(tmp_path, ["rising.mp4", "falling.mp4"] * 20)
    table = pd.DataFrame({"clip": paths, "x": np.arange(40.0), "label": LABEL})
    data = from_dataframe(table, "label", root=tmp_path, image_size=8, video_frames=4)
    assert data.modalities["clip"].kind == "video"
    assert data.modalities["clip"].shape == (3, 4, 8, 8)
    inputs, present = data.preparation.arrays(as_table(table), tmp_path)
    assert not present["clip"][::4].any()
    levels = inputs["clip"].mean((1, 3, 4))
    np.testing.assert_allclose(levels[2], [20, 90, 160, 230], atol=6)
    np.testing.assert_allclose(levels[1], [230, 160, 90, 20], atol=6)
    batch = data.train.batch()
    assert batch.present is not None
    values = batch.inputs["clip"][batch.present["clip"]]
    assert abs(float(values.mean())) < 1e-4
    (tmp_path / "rising.mp4").write_bytes((tmp_path / "rising.mp4").read_bytes()[:900])
    with pytest.raises(DataError, match=r"column 'clip', row 2: expected a readable video"):
        from_dataframe(table, "label", root=tmp_path, image_size=8)


def walks(rows: int = 40) -> list[Any]:
    random = np.random.default_rng(0)
    return [random.normal(size=(3 + i % 5, 2)).astype(np.float32) for i in range(rows)]


def test_sequences_of_several_lengths_keep_their_steps(tmp_path: Path) -> None:
    arrays = walks()
    for i, array in enumerate(arrays):
        np.save(tmp_path / f"{i}.npy", array)
    paths = poisoned(tmp_path, [f"{i}.npy" for i in range(40)])
    files = from_dataframe({"walk": paths, "x": np.arange(40.0), "label": LABEL}, "label", root=tmp_path)
    cells: list[Any] = [None if i % 4 == 0 else a.tolist() for i, a in enumerate(arrays)]
    lists = from_dataframe({"walk": cells, "x": np.arange(40.0), "label": LABEL}, "label")
    assert files.modalities["walk"].kind == "sequence"
    assert files.modalities["walk"].shape == (7, 2)
    rows = files.train.rows.numpy()
    first, second = (data.train.batch().inputs["walk"] for data in (files, lists))
    assert isinstance(first, Tokens)
    assert torch.equal(first.values, second.values)
    real = np.concatenate([arrays[i] for i in rows if i % 4])
    mean, deviation = real.mean(0, dtype=np.float64), real.std(0, dtype=np.float64)
    for place, i in enumerate(rows):
        if i % 4:
            assert int(first.mask[place].sum()) == len(arrays[i])
            expected = (arrays[i] - mean) / deviation
            np.testing.assert_allclose(first.values[place, : len(expected)].numpy(), expected, atol=1e-5)
    made = Preparation.from_dict(json.loads(json.dumps(lists.preparation.to_dict())))
    prepared, present = made.inputs(as_table({"walk": cells}), tmp_path)
    again = made.tensor("walk", prepared["walk"][rows])
    assert isinstance(again, Tokens)
    have = torch.from_numpy(present["walk"][rows])
    assert torch.equal(again.mask[have], first.mask[have])
    torch.testing.assert_close(again.values[have], first.values[have], atol=1e-5, rtol=0)


def test_plain_lists_long_sequences_and_other_shapes(tmp_path: Path) -> None:
    lists = [list(range(3 + i % 4)) for i in range(40)]
    data = from_dataframe({"walk": lists, "label": LABEL}, "label", sequence_length=8)
    assert data.modalities["walk"].shape == (6, 1)
    made = data.preparation
    inputs, present = made.arrays(as_table({"walk": [[1.0] * 50, [], [2.0]]}), tmp_path)
    assert present["walk"].tolist() == [True, False, True]
    assert (~np.isnan(inputs["walk"][..., 0])).sum(1).tolist() == [6, 0, 1]
    with pytest.raises(DataError, match=r"column 'walk', row 0: expected a sequence \(T, 1\)"):
        made.arrays(as_table({"walk": [[[1.0, 2.0]]]}), tmp_path)
    with pytest.raises(DataError, match=r"column 'walk', row 39: .*another length along its first axis"):
        part = ["train"] * 30 + ["validation"] * 5 + ["train"] * 5
        from_dataframe({"walk": [*lists[:39], [[1.0, 2.0]]], "part": part, "label": LABEL}, "label", split="part")


def test_lists_of_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    from equimodal.data import load

    cells: list[Any] = [None if i % 4 == 0 else a.tolist() for i, a in enumerate(walks())]
    frame = pd.DataFrame({"walk": cells, "x": np.arange(40.0), "label": LABEL})
    frame.to_parquet(tmp_path / "t.parquet")
    stored: Any = load(tmp_path / "t.parquet", target="label")
    direct: Any = from_dataframe(frame, "label")
    for data in (stored, direct):
        assert isinstance(data, TableDataset)
        assert data.report.modalities["walk"]["absent"] == 0.25
    first, second = (d.train.batch().inputs["walk"] for d in (stored, direct))
    assert isinstance(first, Tokens)
    assert torch.equal(first.values, second.values)


def test_masks_of_arrays_given_by_hand() -> None:
    values = np.arange(24.0).reshape(6, 2, 2)
    parts = ["train"] * 2 + ["validation"] * 2 + ["test"] * 2
    data = from_arrays({"walk": values}, [0, 1] * 3, parts, masks={"walk": [1, 2, 1, 2, 1, 2]})
    walk = data.train.batch().inputs["walk"]
    assert isinstance(walk, Tokens)
    assert walk.mask.tolist() == [[True, False], [True, True]]
    with pytest.raises(DataError, match="masks"):
        from_arrays({"walk": values}, [0, 1] * 3, parts, masks={"wlak": [1] * 6})
    with pytest.raises(DataError, match="lengths"):
        from_arrays({"walk": values}, [0, 1] * 3, parts, masks={"walk": ["a"] * 6})


@pytest.mark.parametrize(("padding", "place"), [("[PAD]", 0), ("<pad>", 3)])
def test_a_tokenizer_of_a_folder(tmp_path: Path, padding: str, place: int) -> None:
    folder = foreign_tokenizer(tmp_path / "tokenizer", padding, place)
    texts = ["" if i % 4 == 0 else f"{('red apple', 'green sea')[i % 2]} " * (1 + 20 * (i == 39)) for i in range(40)]
    table = pd.DataFrame({"say": texts, "x": np.arange(40.0), "label": LABEL})
    data = from_dataframe(table, "label", columns={"say": "text"}, tokenizer=folder)
    (folder / "tokenizer.json").unlink()  # it is part of the preparation
    made = Preparation.from_dict(json.loads(json.dumps(data.preparation.to_dict())))
    ids, present = made.arrays(as_table(table), tmp_path)
    expected = [i + (i >= place) for i in (1, 3, 4, 2)]  # [CLS] red apple [SEP]
    assert ids["say"][2].tolist() == expected + [place] * (len(ids["say"][2]) - 4)
    assert ids["say"][0].tolist() == [place] * len(ids["say"][0])
    assert present["say"].tolist() == [i % 4 != 0 for i in range(40)]
    assert ids["say"][39][-1] == expected[-1]  # a text that is cut keeps its end mark
    assert made.padding("say") == place


def test_folders_without_a_tokenizer_are_refused(tmp_path: Path) -> None:
    table = {"say": [f"red apple number {i}" for i in range(40)], "label": LABEL}
    with pytest.raises(DataError, match=r"`tokenizer`: expected a folder with tokenizer.json"):
        from_dataframe(table, "label", tokenizer=tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="`tokenizer`: expected what tokenizers writes"):
        from_dataframe(table, "label", tokenizer=tmp_path)
    foreign_tokenizer(tmp_path / "bare", "nothing", 0)
    values = json.loads((tmp_path / "bare" / "tokenizer.json").read_text()) | {"padding": None}
    (tmp_path / "bare" / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match="token for padding"):
        from_dataframe(table, "label", tokenizer=tmp_path / "bare")
