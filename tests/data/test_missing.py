"""Modalities that are taken away: rates, seeds, parts, mask files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from equimodal.data import Dataset, Missing, from_arrays, load, loader, take_away, write_bundle
from equimodal.data._missing import kept, rates_of, uniforms
from equimodal.errors import DataError, UnknownNameError

Array = npt.NDArray[Any]
SIZE = 30
SPLIT = np.repeat(["train", "validation", "test"], SIZE // 3)


def arguments(**changes: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    inputs = {m: rng.standard_normal((SIZE, 4)) for m in ("audio", "text")}
    return {"inputs": inputs, "target": np.arange(SIZE) % 2, "split": SPLIT, **changes}


def data(missing: Any = None, **changes: Any) -> Dataset:
    return from_arrays(**arguments(**changes), missing=missing)


def everywhere(**rates: float) -> dict[str, dict[str, float]]:
    """The same rates for every part."""
    return {part: dict(rates) for part in ("train", "validation", "test")}


def presence(dataset: Dataset, modality: str) -> Array:
    """(N,) over the whole dataset."""
    return dataset._store.present.get(modality, torch.ones(SIZE, dtype=torch.bool)).numpy()


# ---- rates ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9, 1.0])
def test_the_absent_share_is_the_rate_less_what_must_stay(count: int, rate: float) -> None:
    size, names = 20000, [f"m{i}" for i in range(count)]
    draws = np.stack([uniforms(size, m, 7) for m in names], axis=1)
    left = kept(np.ones((size, count), bool), np.full(count, rate), draws)
    assert left.any(1).all()
    # each modality is absent with the same probability, since the one that stays is uniform
    np.testing.assert_allclose(1 - left.mean(0), rate - rate**count / count, atol=0.015)


def test_rates_of_their_own() -> None:
    size = 20000
    draws = np.stack([uniforms(size, m, 1) for m in ("a", "b", "c")], axis=1)
    left = kept(np.ones((size, 3), bool), np.array([0.5, 0.1, 0.0]), draws)
    np.testing.assert_allclose(1 - left.mean(0), [0.5, 0.1, 0.0], atol=0.015)  # c always stays
    both = (~left[:, 0] & ~left[:, 1]).mean()
    assert both == pytest.approx(0.05, abs=0.01)  # independently


def test_the_one_that_stays_is_the_last_that_growing_rates_would_take() -> None:
    draws = np.array([[0.1, 0.3], [0.3, 0.1], [0.2, 0.2]])
    left = kept(np.ones((3, 2), bool), np.array([0.4, 0.8]), draws)
    # draws / rates: 0.25 against 0.375, 0.75 against 0.125, 0.5 against 0.25
    assert left.tolist() == [[False, True], [True, False], [True, False]]


def test_what_is_absent_at_a_rate_is_absent_at_higher_ones() -> None:
    draws = np.stack([uniforms(500, m, 3) for m in "abc"], axis=1)
    have = np.random.default_rng(0).random((500, 3)) < 0.8
    before = kept(have, np.zeros(3), draws)
    np.testing.assert_array_equal(before, have)
    for rate in np.linspace(0.1, 1.0, 10):
        after = kept(have, np.full(3, rate), draws)
        assert not (after & ~before).any()
        assert (after.any(1) == have.any(1)).all()
        before = after


def test_draws_belong_to_row_and_name_alone() -> None:
    np.testing.assert_array_equal(uniforms(10, "audio", 4), uniforms(1000, "audio", 4)[:10])
    for other in (uniforms(10, "text", 4), uniforms(10, "audio", 5), uniforms(10, "audio", 4, draw=1)):
        assert not np.isclose(uniforms(10, "audio", 4), other).any()


def test_all_stands_for_those_without_a_rate() -> None:
    assert rates_of({"all": 0.3, "b": 0.1}, ["a", "b"]).tolist() == [0.3, 0.1]
    assert rates_of({"b": 0.1}, ["a", "b"]).tolist() == [0.0, 0.1]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("audio=0.5,text=0.1", everywhere(audio=0.5, text=0.1)),
        (" train: audio=0.5 ; test:all=1", {"train": {"audio": 0.5}, "test": {"all": 1.0}}),
        ({"test": {"audio": 0.5}}, {"test": {"audio": 0.5}}),
        ({"audio": 0}, everywhere(audio=0.0)),
        ("", {}),
    ],
)
def test_ways_to_say_rates(given: Any, expected: dict[str, Any]) -> None:
    assert Missing(given).rates == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("audio", "at 'audio'"),
        ("audio=much", "at 'audio=much'"),
        ("=0.5", "at '=0.5'"),
        ("audio=1.5", "train: audio: expected a rate from 0 to 1. Found 1.5"),
        ("audio=nan", "expected a rate from 0 to 1. Found nan"),
        ("audio=0.1;text=0.2", "only some have a part"),
        ({"audio": 0.5, "test": {"audio": 0.5}}, "only some have a part"),
        ({"audio": True}, "Found True"),
    ],
)
def test_bad_rates(given: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Missing(given)


def test_unknown_names_get_a_suggestion() -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown part in the missing rates 'tst'. Did you mean 'test'\?"):
        Missing("tst:audio=0.5")
    with pytest.raises(UnknownNameError, match=r"'audo'. Did you mean 'audio'\?"):
        data("audo=0.5")
    with pytest.raises(DataError, match="missing_seed"):
        Missing("audio=0.5", seed=-1)


# ---- datasets ------------------------------------------------------------------------------------------------------


def test_parts_have_rates_of_their_own() -> None:
    found = data("train:audio=0.5;test:text=1").presence
    assert 0 < found["train"]["audio"] < 1
    assert found["train"]["text"] == 1.0
    assert found["validation"] == {"audio": 1.0, "text": 1.0}
    assert found["test"] == {"audio": 1.0, "text": 0.0}


def test_natural_absence_stays_and_rates_come_on_top() -> None:
    natural = np.arange(SIZE) % 3 != 0
    found = data("all=0.6", present={"audio": natural})
    audio, text = presence(found, "audio"), presence(found, "text")
    assert not audio[~natural].any()
    assert not audio[natural].all()
    assert text[~natural].all()  # they have nothing else
    assert (audio | text).all()


def test_a_sample_lacks_the_same_in_every_epoch_and_in_every_loader() -> None:
    dataset = data("all=0.5")
    seen: dict[int, list[bool]] = {}
    batches = loader(dataset.train, 3, seed=1)
    for _ in range(3):
        for batch in batches:
            assert batch.present is not None
            assert batch.index is not None
            for row, have in zip(batch.index.tolist(), batch.present["audio"].tolist(), strict=True):
                seen.setdefault(row, []).append(have)
    assert len(seen) >= 9
    assert all(len(set(have)) == 1 for have in seen.values())


def test_statistics_are_those_of_what_is_left() -> None:
    arrays = arguments()
    left = presence(data("train:audio=0.5"), "audio")
    spoilt = {**arrays["inputs"], "audio": np.where(left[:, None], arrays["inputs"]["audio"], np.nan)}
    found = data("train:audio=0.5", inputs=spoilt).train
    have = found.batch().inputs["audio"][found.present["audio"]]
    torch.testing.assert_close(have.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(have.std(0, unbiased=False), torch.ones(4), atol=1e-5, rtol=0)


def test_what_is_missing_is_recorded_and_changes_the_fingerprint() -> None:
    plain, taken, again, other = (data(m) for m in (None, "all=0.5", "all=0.5", Missing("all=0.5", seed=1)))
    assert "missing" not in plain.options
    assert taken.options["missing"] == {
        "rates": everywhere(all=0.5), "seed": 0, "file_sha256": None,
    }  # fmt: skip
    assert taken.fingerprint == again.fingerprint
    assert len({plain.fingerprint, taken.fingerprint, other.fingerprint}) == 3


@pytest.mark.parametrize("name", ["avdigits", "synthetic"])
def test_built_in_data_take_it(name: str) -> None:
    small: dict[str, Any] = {"train": 200, "validation": 50, "test": 100} if name == "synthetic" else {}
    found = load(name, missing="test:all=1", **small).presence["test"]
    assert sum(found.values()) == pytest.approx(1.0)  # each sample keeps one of two
    assert min(found.values()) > 0.3


def test_take_away_leaves_inputs_and_the_split_as_they_were() -> None:
    split = data("train:audio=0.5").test
    less = take_away(split, "audio=1")
    assert split.present["audio"].all()
    assert not less.present["audio"].any()
    assert type(less) is type(split)
    torch.testing.assert_close(less.batch().inputs["audio"], split.batch().inputs["audio"], rtol=0, atol=0)
    assert take_away(split, "train:audio=1").present["audio"].all()
    assert take_away(split, "") is split


# ---- mask files ----------------------------------------------------------------------------------------------------


def bundle(tmp_path: Path, **extra: Array) -> Path:
    path = write_bundle(tmp_path / "mine.npz", **arguments())
    with np.load(path) as stored:
        np.savez(path, **{**stored, "clip": np.array([f"c{i:02d}" for i in range(SIZE)]), **extra})
    return path


def masked(tmp_path: Path, file: Path, rates: str = "", **extra: Array) -> Dataset:
    return load(bundle(tmp_path, **extra), missing=Missing(rates, file))


def test_every_kind_of_file_says_the_same(tmp_path: Path) -> None:
    audio, text = np.arange(SIZE) % 3 != 0, np.arange(SIZE) % 3 != 1
    rows = np.flatnonzero(~(audio & text))
    files = {name: tmp_path / name for name in ("a.npy", "a.npz", "b.npz", "c.npz", "a.csv", "b.csv", "c.csv")}
    np.save(files["a.npy"], np.stack([audio, text], 1))
    np.savez(files["a.npz"], text=text.astype(np.uint8), audio=audio.astype(float))
    np.savez(files["b.npz"], row=rows[::-1], text=text[rows][::-1], audio=audio[rows][::-1])
    np.savez(files["c.npz"], clip=np.array([f"c{i:02d}" for i in rows]), text=text[rows], audio=audio[rows])
    whole = [f"{int(a)},{int(t)}" for a, t in zip(audio, text, strict=True)]
    files["a.csv"].write_text("\n".join(["audio,text", *whole]))
    some = [f"{i},{audio[i]},{str(text[i]).lower()}" for i in rows]
    files["b.csv"].write_text("\ufeff" + "\n".join(["row, audio ,text", *some]) + "\n\n", encoding="utf-8")
    named = [f"c{i:02d},{int(audio[i])},{int(text[i])}" for i in rows]
    files["c.csv"].write_text("\r\n".join(["clip,audio,text", *named]))
    prints = set()
    for file in files.values():
        found = masked(tmp_path, file)
        np.testing.assert_array_equal(presence(found, "audio"), audio, err_msg=file.name)
        np.testing.assert_array_equal(presence(found, "text"), text, err_msg=file.name)
        prints.add(found.fingerprint)
    assert len(prints) == len(files)
    moved = tmp_path / "moved.npy"
    moved.write_bytes(files["a.npy"].read_bytes())
    assert masked(tmp_path, moved).fingerprint in prints


def test_rates_come_on_top_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("row,audio\n" + "".join(f"{i},0\n" for i in range(20, SIZE)))
    found = masked(tmp_path, tmp_path / "m.csv", "test:text=1;train:text=0.5").presence
    assert found["test"] == {"audio": 0.0, "text": 1.0}  # nothing else is left
    assert found["validation"] == {"audio": 1.0, "text": 1.0}
    with pytest.raises(DataError, match="modality 'text': expected training samples"):
        masked(tmp_path, tmp_path / "m.csv", "train:text=1")


def test_a_file_names_samples_of_a_split_by_row(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("row,text\n25,0\n")
    less = take_away(data().test, Missing("", tmp_path / "m.csv"))
    assert less.rows[~less.present["text"]].tolist() == [25]
    (tmp_path / "n.csv").write_text("clip,text\nc25,0\n")
    with pytest.raises(UnknownNameError, match="'clip'"):
        take_away(data().test, Missing("", tmp_path / "n.csv"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("row,audio\n3,2\n", "m.csv: line 2: audio: expected 0 .absent. or 1 .present.. Found '2'"),
        ("row,audio\n3,1\n3,0\n", "line 3: row: expected each sample once. Found '3' in line 2 too"),
        ("row,audio\n30,1\n", r"line 2: row: expected a row of the dataset, 0 to 29. Found '30'"),
        ("clip,audio\nc00,1\nc77,0\n", "line 3: clip: expected a value of the bundle's array `clip`. Found 'c77'"),
        ("row,audio,text\n4,1,1\n5,0,0\n", r"none for 1 sample\(s\), first dataset rows \[5\]"),
        ("row,audio\n4,1,1\n", "line 2: expected 2 cells. Found 3"),
        ("audio,text\n1,1\n1,1\n", r"audio: expected 30 values, shape \(30,\). Found shape \(2,\). Name the rows"),
        ("audio,audio\n1,1\n", "line 1: expected different column names"),
        ("row,audio\n1,1\n\n2,1\n", "line 3: expected 2 cells. Found 0"),
        ("row,audio\n", "expected a header and one line per sample. Found 1"),
        ("same,audio\n0,1\n", "a different value for each sample. Found 1 values for 30 samples"),
        ("input_audio,audio\n0,1\n", "one value per sample"),
    ],
)  # fmt: skip
def test_bad_csv(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        masked(tmp_path, tmp_path / "m.csv", same=np.zeros(SIZE))


def test_other_bad_files(tmp_path: Path) -> None:
    np.save(tmp_path / "short.npy", np.ones((SIZE, 3)))
    with pytest.raises(DataError, match=r"shape \(30, 2\). Found \(30, 3\)"):
        masked(tmp_path, tmp_path / "short.npy")
    values = np.ones((SIZE, 2))
    values[[4, 9], 1] = np.nan
    np.save(tmp_path / "nan.npy", values)
    with pytest.raises(DataError, match=r"text: expected 0 .* Found np.float64\(nan\) for dataset row 4, and 2 wrong"):
        masked(tmp_path, tmp_path / "nan.npy")
    np.savez(tmp_path / "rows.npz", row=np.array([7, 3]), text=np.array([1, 5]))
    with pytest.raises(DataError, match="Found np.int64.5. for dataset row 3"):
        masked(tmp_path, tmp_path / "rows.npz")
    np.savez(tmp_path / "twice.npz", row=np.array([7, 3, 7]), text=np.ones(3))
    with pytest.raises(DataError, match="entry 2: row: expected each sample once. Found '7' in entry 0 too"):
        masked(tmp_path, tmp_path / "twice.npz")
    (tmp_path / "names.csv").write_text("row,adio\n1,0\n")
    with pytest.raises(UnknownNameError, match=r"'adio'. Did you mean 'audio'\?"):
        masked(tmp_path, tmp_path / "names.csv")
    np.save(tmp_path / "code.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="expected a readable .npy file"):
        masked(tmp_path, tmp_path / "code.npy")
    for name in ("none.csv", "none.npz", "none.npy"):
        with pytest.raises(DataError, match=name):
            masked(tmp_path, tmp_path / name)
    with pytest.raises(DataError, match="suffix '.txt'"):
        masked(tmp_path, tmp_path / "m.txt")
