"""The engine: order, fingerprints, what is missing, restart."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equimodal.data import load, prepare
from equimodal.data.prepare import ArraySpec, Index, Item, _manifest
from equimodal.data.prepare._store import Store
from equimodal.errors import DataError, MissingExtraError, StorageError, UnknownNameError
from tests.data.prepare import toy
from tests.data.prepare.cremad import bytes_of, rows_of
from tests.data.prepare.toy import Slices, Toy, write_toy


@pytest.fixture(autouse=True)
def fresh() -> None:
    toy.decoded.clear()


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write_toy(tmp_path / "raw")


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an undisturbed run leaves."""
    folder = tmp_path_factory.mktemp("clean")
    prepare.prepare(Toy, write_toy(folder / "raw"), folder / "out", workers=0)
    return bytes_of(folder / "out")


def go(raw: Path, out: str = "out", **options: Any) -> prepare.Report:
    return prepare.prepare(Toy, raw, raw.parent / out, **{"workers": 0, **options})


def manifest(folder: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return value


def test_the_bundle_holds_every_item_in_the_order_of_the_keys(raw: Path) -> None:
    report = go(raw)
    out = raw.parent / "out"
    assert rows_of(out, "key").tolist() == [f"{n:03}" for n in range(24)]
    np.testing.assert_array_equal(rows_of(out, "a"), np.repeat(np.arange(24, dtype=np.uint8)[:, None], 4, 1))
    assert rows_of(out, "b").dtype == np.float32
    assert (rows_of(out, "b")[5] == 2.5).all()
    assert rows_of(out, "label").tolist() == [n % 2 for n in range(24)]
    assert (report.samples, report.expected, report.missing, report.resumed) == (24, 24, 0, 0)
    assert not (raw.parent / "out.partial").exists()


def test_the_bundle_loads_memory_mapped_with_its_card(raw: Path) -> None:
    go(raw)
    data = load(raw.parent / "out")
    assert data.parts == {"train": 12, "validation": 4, "test": 8}
    assert data.protocol.verified
    assert data.classes == ("even", "odd")
    first = data.test.batch([0, 1])
    np.testing.assert_allclose(first.inputs["a"], [[0.2] * 4, [0.5] * 4], rtol=1e-6)
    assert isinstance(np.load(raw.parent / "out" / "a.npy", mmap_mode="r"), np.memmap)


def test_two_runs_leave_the_same_bytes_and_parameters_change_the_fingerprint(
    raw: Path, clean: dict[str, bytes]
) -> None:
    report = go(raw)
    assert bytes_of(report.path) == clean
    assert manifest(report.path)["fingerprint"] == report.fingerprint
    assert load(report.path).fingerprint == load(go(raw, "again").path).fingerprint
    assert go(raw, "other", factor=0.25).fingerprint != report.fingerprint


@pytest.mark.slow
def test_several_processes_leave_the_same_bytes(raw: Path, clean: dict[str, bytes]) -> None:
    assert bytes_of(go(raw, workers=2).path) == clean
    assert not toy.decoded


def test_a_bundle_that_is_there_is_not_made_again(raw: Path) -> None:
    report = go(raw)
    toy.decoded.clear()
    again = go(raw)
    assert not toy.decoded
    assert (again.fingerprint, again.resumed) == (report.fingerprint, 24)
    with pytest.raises(DataError, match=r"parameters\.width 4 there, 5 asked for"):
        go(raw, width=5)
    (raw / "003.a").write_text("99", encoding="utf-8")
    with pytest.raises(DataError, match="raw files changed or new, the first 003.a"):
        go(raw)


# ---- missing and unreadable ------------------------------------------------------------------------------------------


def spoil(raw: Path) -> None:
    (raw / "003.a").write_text("bad", encoding="utf-8")
    (raw / "004.b").unlink()
    (raw / "005.b").write_text("", encoding="utf-8")
    (raw / "007.a").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:c6\nsize 7", encoding="utf-8")
    (raw / "008.b").write_text("nan", encoding="utf-8")
    (raw / "notes.a").write_text("1", encoding="utf-8")


def test_too_much_missing_fails_with_the_list_and_keeps_what_was_decoded(raw: Path, clean: dict[str, bytes]) -> None:
    good = {path.name: path.read_bytes() for path in raw.iterdir()}
    spoil(raw)
    with pytest.raises(DataError, match=r"at most 1.00%.*Found 5 of 24 \(20.83%\); first 003.a: bad content.*0.21"):
        go(raw)
    partial = raw.parent / "out.partial"
    found = {p["path"]: p["reason"] for p in manifest(partial)["unreadable"]}
    assert found == {
        "003.a": "bad content",
        "004.b": "no such file",
        "005.b": "an empty file",
        "007.a": "a Git LFS pointer instead of the file; get it with: git lfs pull",
        "008.b": "decoded to NaN or infinity",
    }
    assert not (raw.parent / "out").exists()

    for name in ("003.a", "004.b", "005.b", "007.a", "008.b"):
        (raw / name).write_bytes(good[name])
    (raw / "notes.a").unlink()
    toy.decoded.clear()
    report = go(raw)
    assert {key.split("/")[0] for key in toy.decoded} == {"003", "004", "005", "007", "008"}
    assert (report.samples, report.resumed) == (24, 19)
    assert bytes_of(report.path) == clean


def test_missing_samples_are_left_out(raw: Path) -> None:
    spoil(raw)
    report = go(raw, max_missing=0.25)
    assert rows_of(report.path, "key").tolist() == [f"{n:03}" for n in range(24) if n not in (3, 4, 5, 7, 8)]
    assert rows_of(report.path, "a")[:, 0].tolist() == [n for n in range(24) if n not in (3, 4, 5, 7, 8)]
    found = manifest(report.path)
    assert found["counts"] == {"expected": 24, "samples": 19, "incomplete": 0, "missing": 5, "ignored": 1}
    assert found["ignored"] == [{"path": "notes", "reason": "expected a number"}]
    assert "19 of 24 samples; 5 missing or unreadable" in str(report)
    assert load(report.path).num_samples == 19


def test_incomplete_samples_are_kept_on_demand(raw: Path) -> None:
    spoil(raw)
    (raw / "009.a").unlink()
    (raw / "009.b").unlink()
    (raw / "009.b").write_text("bad", encoding="utf-8")  # nothing is left of this one
    with pytest.raises(DataError, match="Found 6 of 24"):
        go(raw, incomplete="keep")
    report = go(raw, incomplete="keep", max_missing=0.25)
    assert (report.samples, report.incomplete, report.missing) == (23, 5, 1)
    key = rows_of(report.path, "key")
    assert key[~rows_of(report.path, "present_a")].tolist() == ["003", "007"]
    assert key[~rows_of(report.path, "present_b")].tolist() == ["004", "005", "008"]
    assert (rows_of(report.path, "a")[key == "003"] == 0).all()
    data = load(report.path)
    assert {m: int((~p).sum()) for m, p in data.train.present.items()}.keys() == {"a", "b"}


def test_nothing_usable_is_an_error(raw: Path) -> None:
    for path in raw.glob("*.b"):
        path.write_text("bad", encoding="utf-8")
    with pytest.raises(DataError, match="expected samples that can be used. Found none"):
        go(raw, max_missing=1.0)


# ---- restart ---------------------------------------------------------------------------------------------------------


def stop_after(count: int) -> Any:
    """A progress function that interrupts, as the keyboard does."""

    def progress(done: int, total: int, text: str) -> None:
        if text == "decoding" and done >= count:
            raise KeyboardInterrupt

    return progress


def test_an_interrupted_run_goes_on_where_it_stopped(raw: Path, clean: dict[str, bytes]) -> None:
    with pytest.raises(KeyboardInterrupt):
        go(raw, progress=stop_after(10))
    assert not (raw.parent / "out").exists()
    toy.decoded.clear()
    report = go(raw)
    assert len(toy.decoded) == 2 * 14
    assert report.resumed == 10
    assert bytes_of(report.path) == clean


def test_a_file_that_changed_in_between_is_decoded_again(raw: Path, clean: dict[str, bytes]) -> None:
    right = (raw / "002.a").read_text(encoding="utf-8")
    (raw / "002.a").write_text("77", encoding="utf-8")
    with pytest.raises(KeyboardInterrupt):
        go(raw, progress=stop_after(10))
    (raw / "002.a").write_text(right, encoding="utf-8")
    assert bytes_of(go(raw).path) == clean


def test_new_and_vanished_files_in_between_are_noticed(raw: Path) -> None:
    (raw / "000.a").rename(raw / "kept.a")
    (raw / "000.b").rename(raw / "kept.b")
    with pytest.raises(KeyboardInterrupt):
        go(raw, progress=stop_after(10))
    (raw / "kept.a").rename(raw / "000.a")
    (raw / "kept.b").rename(raw / "000.b")
    for suffix in "ab":
        (raw / f"006.{suffix}").unlink()
    report = go(raw)
    assert rows_of(report.path, "key").tolist() == [f"{n:03}" for n in range(24) if n != 6]
    assert rows_of(report.path, "a")[:, 0].tolist() == [n for n in range(24) if n != 6]


def test_a_line_that_was_cut_off_is_decoded_again(raw: Path, clean: dict[str, bytes]) -> None:
    with pytest.raises(KeyboardInterrupt):
        go(raw, progress=stop_after(10))
    journal = raw.parent / "out.partial" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    report = go(raw)
    assert report.resumed == 9
    assert bytes_of(report.path) == clean


@pytest.mark.parametrize("where", ["finish", "describe_files", "replace"])
def test_a_run_stopped_in_its_last_step_goes_on(
    raw: Path, clean: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    calls = []
    if where == "finish":
        whole = Store.finish

        def finish(store: Store, name: str, *rest: Any) -> None:
            if name == "b":
                raise OSError("no space left")
            whole(store, name, *rest)

        monkeypatch.setattr(Store, "finish", finish)
    elif where == "describe_files":

        def describe(folder: Path) -> dict[str, Any]:
            raise OSError("no space left")

        monkeypatch.setattr(_manifest, "describe_files", describe)
    else:
        move = Path.replace

        def replace(path: Path, target: Path) -> Path:
            calls.append(path)
            if path.name == "bundle":
                raise OSError("no space left")
            return move(path, target)

        monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(StorageError, match="no space left.*What was decoded is kept there"):
        go(raw)
    monkeypatch.undo()
    toy.decoded.clear()
    assert bytes_of(go(raw).path) == clean
    assert not toy.decoded


def test_leftovers_after_the_very_last_step_are_removed(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rmtree(path: Path, **_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    with pytest.raises(KeyboardInterrupt):
        go(raw)
    monkeypatch.undo()
    assert go(raw).resumed == 24
    assert not (raw.parent / "out.partial").exists()


def test_other_settings_do_not_mix_with_what_is_there(raw: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        go(raw, progress=stop_after(10))
    with pytest.raises(DataError, match=r"unfinished preparation with the same settings.*parameters\.width 4 there"):
        go(raw, width=5)
    assert go(raw).resumed == 10


def test_only_one_process_works_on_a_preparation(raw: Path) -> None:
    seen: list[int] = []

    def second(done: int, total: int, text: str) -> None:
        if done == 5 and not seen:
            seen.append(done)
            with pytest.raises(StorageError, match="expected no other process"):
                go(raw)

    go(raw, progress=second)
    assert seen


# ---- defects and refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "match"),
    [("bug", "ZeroDivisionError"), ("wide3", r"expected uint8 \(4,\) from the decoder. Found uint8 \(5,\)")],
)
def test_a_defect_of_the_decoder_is_no_missing_file(raw: Path, clean: dict[str, bytes], word: str, match: str) -> None:
    (raw / "003.a").write_text(word, encoding="utf-8")
    with pytest.raises(DataError, match=rf"array `a` of '003': .*{match}"):
        go(raw, max_missing=1.0)
    (raw / "003.a").write_text("3", encoding="utf-8")
    report = go(raw)
    assert report.resumed == 3
    assert bytes_of(report.path) == clean


def test_too_little_space_is_said_before_anything_is_written(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(raw)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StorageError, match="GB of free space for 24 samples"):
        go(raw)
    assert not (raw.parent / "out.partial").exists()


def test_a_full_disk_loses_nothing(raw: Path, clean: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Store.write

    def write(store: Store, name: str, row: int, values: Any) -> None:
        if row == 12:
            raise OSError(28, os.strerror(28))
        whole(store, name, row, values)

    monkeypatch.setattr(Store, "write", write)
    with pytest.raises(StorageError, match="could not be written"):
        go(raw)
    monkeypatch.undo()
    report = go(raw)
    assert report.resumed == 12
    assert bytes_of(report.path) == clean


def test_several_samples_per_item(raw: Path) -> None:
    out = raw.parent / "out"
    (raw / "001.b").write_text("bad", encoding="utf-8")
    report = prepare.prepare(Slices, raw, out, workers=0, max_missing=0.05)
    assert (report.samples, report.expected, report.missing) == (69, 72, 3)
    assert rows_of(out, "key")[:6].tolist() == ["000"] * 3 + ["002"] * 3
    assert rows_of(out, "a")[:6, 0].tolist() == [0, 50, 100, 2, 52, 102]
    assert rows_of(out, "slice")[:6].tolist() == [0, 1, 2] * 2


def test_progress_counts_samples_to_the_end(raw: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    go(raw, progress=lambda *e: seen.append(e))
    assert [e[0] for e in seen if e[2] == "decoding"] == list(range(25))
    assert seen[-2:] == [(24, 24, "writing"), (24, 24, "done")]


def test_wrong_arguments_are_refused(raw: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'width'"):
        go(raw, widht=3)
    with pytest.raises(UnknownNameError, match="crema-d"):
        prepare.prepare("cremad", raw, raw.parent / "out")
    with pytest.raises(DataError, match=r"Found no folder. Needed:\nRAW/000.a"):
        go(raw / "nowhere")
    with pytest.raises(DataError, match="a folder without a suffix"):
        go(raw, "out.npz")
    with pytest.raises(DataError, match="`workers`"):
        go(raw, workers=-1)
    with pytest.raises(DataError, match="`max_missing`"):
        go(raw, max_missing=3)
    with pytest.raises(DataError, match="`incomplete`"):
        go(raw, incomplete="maybe")
    (raw.parent / "empty").mkdir()
    with pytest.raises(DataError, match="expected samples in .*empty. Found none"):
        prepare.prepare(Toy, raw.parent / "empty", raw.parent / "out", workers=0)


def test_lists_of_the_user_are_known_by_their_content(raw: Path) -> None:
    lists = raw.parent / "mine.txt"
    lists.write_text("1", encoding="utf-8")
    report = go(raw, lists=str(lists))
    assert str(raw.parent) not in (report.path / "manifest.json").read_text(encoding="utf-8")
    assert str(raw.parent) not in (report.path / "card.yaml").read_text(encoding="utf-8")
    lists.write_text("2", encoding="utf-8")
    with pytest.raises(DataError, match=r"parameters\.lists\.sha256"):
        go(raw, lists=str(lists))
    with pytest.raises(DataError, match="`lists`: expected a file or a folder"):
        go(raw, lists=str(raw.parent / "nowhere"))


class Words(Toy):
    """With a file that decoding depends on, and lengths that go with b."""

    name = "words"
    text = "one\ntwo\n"

    def index(self) -> Index:
        """As Toy."""
        index = super().index()
        items = [Item(i.key, {**i.files, "length": i.files["b"]}, i.columns) for i in index.items]
        return dataclasses.replace(index, items=tuple(items), files={"words.txt": self.text})

    def arrays(self) -> Mapping[str, ArraySpec]:
        """With lengths."""
        arrays = dict(super().arrays())
        b = dataclasses.replace(arrays["b"], mask="length")
        return {"a": arrays["a"], "b": b, "length": ArraySpec((), "int64")}

    def decode(self, item: Item, name: str) -> Any:
        """As Toy; two steps of b are real."""
        whole = super().decode(item, name if name == "a" else "b")
        return np.int64(2) if name == "length" else whole


def test_files_that_decoding_depends_on_are_part_of_the_bundle(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = raw.parent / "out"
    prepare.prepare(Words, raw, out, workers=0)
    assert (out / "words.txt").read_text(encoding="utf-8") == Words.text
    assert prepare.check(out).ok
    monkeypatch.setattr(Words, "text", "two\none\n")
    with pytest.raises(DataError, match=r"texts\.words\.txt"):
        prepare.prepare(Words, raw, out, workers=0)


def test_the_length_of_an_absent_sequence_may_be_absent(raw: Path) -> None:
    (raw / "004.b").unlink()
    out = raw.parent / "out"
    report = prepare.prepare(Words, raw, out, workers=0, incomplete="keep", max_missing=0.05)
    assert (report.samples, report.incomplete) == (24, 1)
    assert rows_of(out, "length").tolist() == [0 if n == 4 else 2 for n in range(24)]
    assert not (out / "present_length.npy").exists()
    (raw / "005.a").unlink()
    (raw / "005.b").unlink()
    (raw / "005.b").write_text("bad", encoding="utf-8")
    again = prepare.prepare(Words, raw, raw.parent / "two", workers=0, incomplete="keep", max_missing=0.1)
    assert (again.samples, again.incomplete, again.missing) == (23, 1, 1)


def test_missing_decoders_are_named_before_work_begins(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Toy, "packages", ("cv2",))
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingExtraError, match=r"opencv-python-headless.*equimodal\[data\]"):
        go(raw)
    assert not (raw.parent / "out.partial").exists()


def test_importing_the_package_needs_no_decoder() -> None:
    names = ("av", "PIL", "cv2", "soundfile", "soxr", "h5py", "nibabel", "yaml", "transformers", "kornia")
    code = (
        f"import sys\nfor name in {names!r}: sys.modules[name] = None\n"
        "from equimodal.data import prepare\nfor name in prepare.available(): prepare.get(name)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(prepare.__file__).parents[3])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"key": "000"}, "a key of its own for each item. Found '000' twice"),
        ({"columns": {"label": 0}}, "item '001': expected the columns"),
        ({"files": {"a": ("001.a",)}}, "expected the raw files of array `b`"),
        ({"columns": {"label": 0, "split": "train", "person": 1.5}}, None),
        ({"columns": {"label": "x", "split": "train", "person": 1}}, r"column `label`: expected one type"),
        ({"count": 2}, r"expected uint8 \(2, 4\) from the decoder"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(
    raw: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], match: str | None
) -> None:
    whole = Toy.index

    def index(self: Toy) -> Index:
        made = whole(self)
        items = [dataclasses.replace(i, **change) if i.key == "001" else i for i in made.items]
        return dataclasses.replace(made, items=tuple(items))

    monkeypatch.setattr(Toy, "index", index)
    if match is None:  # whole numbers and others make a column of floats
        assert rows_of(go(raw).path, "person")[1] == 1.5
        return
    with pytest.raises(DataError, match=match):
        go(raw)


def test_names_that_clash_are_refused(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Toy, "_columns", lambda self, n: {"label": n % 2, "split": "train", "person": n, "a": 1})
    with pytest.raises(DataError, match=r"different names for columns and arrays. Found \['a'\] twice"):
        go(raw)
