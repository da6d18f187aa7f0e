"""Folders and files received from a stranger: nothing outside is read, written or run, nothing grows without bounds."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equimodal._utils.outside import check_file_name, open_regular, read_bytes, read_json
from equimodal._utils.plain_yaml import read_yaml
from equimodal._utils.printing import printable, printed_streams, table_cell
from equimodal.data import load_bundle, unpack_bundle, write_bundle
from equimodal.errors import DataError, EquimodalError
from tests.faults.families import many

pytest.importorskip("lightning")
pytest.importorskip("jsonargparse")
studies = pytest.importorskip("equimodal.studies")
from equimodal.cli import main  # noqa: E402 (needs the packages above)
from equimodal.studies.runs import seal  # noqa: E402

CALLS = ("predict", "evaluate", "resume", "load_study", "compare")
FILES = ("config.yaml", "environment.json", "metrics.json", "weights.safetensors", "history.jsonl", "content.json",
         ".lock", "checkpoints/last.ckpt", "logs", "checkpoints")  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("strangers")
    data = studies.DataConfig("synthetic", options={"train": 32, "validation": 16, "test": 16, "classes": 3})
    training = studies.TrainingConfig(epochs=1, batch_size=16, device="cpu")
    model = studies.ModelConfig(feature_size=4, size="small")
    studies.run(studies.RunConfig("Joint", data=data, model=model, training=training, probe=False), folder / "run",
                loggers=False)  # fmt: skip
    (folder / "secret").mkdir()
    (folder / "secret" / "key.txt").write_text("TOPSECRET: [1, 2")
    return folder


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(p): (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(folder.rglob("*")) if p.is_file()}


def call(command: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = main(command)
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    assert "unforeseen" not in said.err
    assert "TOPSECRET" not in said.err + said.out
    return code, said.err


@pytest.mark.skipif(sys.platform == "win32", reason="links and pipes")
@pytest.mark.parametrize("name", FILES)
def test_nothing_in_a_folder_leads_out_of_it_or_blocks(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    for kind in ("link to a file", "link to a folder", "pipe", "link to a device"):
        run = tmp_path / kind.replace(" ", "_")
        shutil.copytree(home / "run", run)
        place = run / name
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)
        targets = {"link to a file": home / "secret" / "key.txt", "link to a folder": home / "secret",
                   "link to a device": Path("/dev/zero")}  # fmt: skip
        if kind == "pipe":
            os.mkfifo(place)
        else:
            place.symlink_to(targets[kind])
        before = tree(home)
        for command in (["predict", str(run), "--out", str(tmp_path / "o.csv")], ["evaluate", str(run)],
                        ["train", "--resume", "--quiet", "--out", str(run)]):  # fmt: skip
            code, said = call(command, capsys)
            assert code in (1, 2), (kind, command)
            assert name.split("/")[0] in said, (kind, command, said)
        assert tree(home) == before
        assert not (tmp_path / "o.csv").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="links")
def test_links_inside_a_folder_are_followed(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(home / "run", tmp_path / "run")
    (tmp_path / "run" / "config.yaml").rename(tmp_path / "run" / "other.yaml")
    (tmp_path / "run" / "config.yaml").symlink_to("other.yaml")
    (tmp_path / "alias").symlink_to(tmp_path / "run")
    assert call(["predict", str(tmp_path / "alias"), "--out", str(tmp_path / "o.csv")], capsys)[0] == 0


def test_a_configuration_cannot_ask_for_more_memory_than_its_weights_need(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for hidden in (60_000, 10**6, 10**12):
        run = tmp_path / str(hidden)
        shutil.copytree(home / "run", run)
        stored = read_yaml((run / "config.yaml").read_text(), "config.yaml", "A test")
        stored["model"]["encoders"] = {"m1": {"hidden": [hidden, hidden]}}
        (run / "config.yaml").write_text(json.dumps(stored))
        seal(run, ["config.yaml"])
        code, said = call(["predict", str(run), "--out", str(tmp_path / "o.csv")], capsys)
        assert code == 1
        assert "config.yaml`: expected a model whose parts take at most 256." in said


def bundle(folder: Path, **extra: Any) -> Path:
    split = ["train"] * 8 + ["validation"] * 4 + ["test"] * 4
    rng = np.random.default_rng(0)
    return write_bundle(folder / "b.npz", inputs={"a": rng.normal(size=(16, 2))}, target=np.arange(16) % 2,
                        split=split, **extra)  # fmt: skip


def test_names_from_data_stay_in_the_folder_that_is_written(tmp_path: Path) -> None:
    names = ["../victim", "../../victim", "/tmp/victim", "a/b", "a\\b", "..", ".", "", "a\0b", "c:x", "x" * 400, " a"]
    for number, name in enumerate(names):
        with pytest.raises(DataError, match="expected a name that a file can have"):
            check_file_name("array", name)
        folder = tmp_path / str(number) / "in"
        folder.mkdir(parents=True)
        path = bundle(folder)
        with np.load(path) as stored:
            arrays = dict(stored)
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for key, array in arrays.items():
                content = io.BytesIO()
                np.save(content, array)
                archive.writestr(zipfile.ZipInfo(f"{name if key == 'input_a' else key}.npy"), content.getvalue())
        path.write_bytes(packed.getvalue())
        card = (folder / "b.yaml").read_text().replace("array: input_a\n", f"array: {json.dumps(name)}\n")
        (folder / "b.yaml").write_text(card)
        with pytest.raises(EquimodalError):
            unpack_bundle(path, folder / "out")
        assert sorted(p.name for p in (tmp_path / str(number)).rglob("*")) == ["b.npz", "b.yaml", "in"]
    check_file_name("array", "ordinary name-1.x")


def npy(shape: tuple[int, ...], kind: str = "<f4", content: bytes = b"\0" * 64) -> bytes:
    header = repr({"descr": kind, "fortran_order": False, "shape": shape}).encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def test_arrays_that_declare_more_than_they_hold_take_no_memory(tmp_path: Path) -> None:
    for number, rng in enumerate(many(12, seed=80)):
        shape = tuple(int(10 ** rng.uniform(3, 9)) for _ in range(int(rng.integers(2, 4))))
        folder = tmp_path / str(number)
        folder.mkdir()
        path = bundle(folder)
        with np.load(path) as stored:
            arrays = dict(stored)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for key, array in arrays.items():
                content = io.BytesIO()
                np.save(content, array)
                archive.writestr(f"{key}.npy", npy(shape) if key == "input_a" else content.getvalue())
        begin = time.perf_counter()
        with pytest.raises(DataError, match=r"b.npz.*array `input_a`.*(GiB|TiB|PiB|EiB|MiB)"):
            load_bundle(path)
        assert time.perf_counter() - begin < 2


@pytest.mark.parametrize("how", ["encrypted", "lzma", "bzip2", "twice"])
def test_archives_that_numpy_does_not_write_are_refused(tmp_path: Path, how: str) -> None:
    path = bundle(tmp_path)
    with np.load(path) as stored:
        arrays = dict(stored)
    methods = {"lzma": zipfile.ZIP_LZMA, "bzip2": zipfile.ZIP_BZIP2}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", methods.get(how, zipfile.ZIP_STORED)) as archive:
        for key, array in arrays.items():
            content = io.BytesIO()
            np.save(content, array)
            archive.writestr(f"{key}.npy", content.getvalue())
            if how == "twice" and key == "input_a":
                with pytest.warns(UserWarning, match="Duplicate"):
                    archive.writestr("input_a.npy", content.getvalue())
    raw = bytearray(packed.getvalue())
    if how == "encrypted":
        for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            place = raw.find(mark)
            while place >= 0:
                raw[place + offset] |= 1
                place = raw.find(mark, place + 4)
    path.write_bytes(bytes(raw))
    with pytest.raises(DataError, match=r"b\.npz.*expected"):
        load_bundle(path)


def test_yaml_and_json_are_bounded_before_they_are_made() -> None:
    bombs = []
    for rng in many(10, seed=81):
        width, levels, depth = int(rng.integers(8, 40)), int(rng.integers(6, 12)), int(rng.integers(65, 20000))
        names = "abcdefghijklmnop"
        lines = [f"a: &a [{', '.join(['x'] * width)}]"]
        lines += [f"{names[i]}: &{names[i]} [{', '.join([f'*{names[i - 1]}'] * width)}]" for i in range(1, levels)]
        bombs.append("\n".join(lines))
        bombs += ["[" * depth + "]" * depth, "{a: " * depth + "1" + "}" * depth, "- " * min(depth, 3000) + "1"]
    bombs += ["&a [*a]", "a: &a {b: *a}", "[" + "1," * 250_000 + "1]", "[" + "1," * 55_000 + "1]", "x" * (5 << 20)]
    for text in bombs:
        begin = time.perf_counter()
        with pytest.raises(DataError, match=r"a\.yaml"):
            read_yaml(text, "a.yaml", "A test")
        assert time.perf_counter() - begin < 10
    for rng in many(10, seed=82):
        depth = int(rng.integers(65, 200_000))
        for text in (
            "[" * depth + "]" * depth,
            '{"a":' * depth + "1" + "}" * depth,
            "9" * int(rng.integers(256, 9000)),
        ):
            with pytest.raises(DataError, match=r"a\.json: expected"):
                read_json(text, "a.json")
    for text in ("NaN", "[Infinity]", '{"a": 1, "a": 2}', "", "{", "\ufeff{}", "[1,]"):
        with pytest.raises(DataError, match=r"a\.json: expected"):
            read_json(text, "a.json")
    assert read_json("[" * 60 + "]" * 60, "a.json")


def test_no_content_of_a_file_is_quoted_that_a_configuration_names(home: Path, tmp_path: Path) -> None:
    secret = home / "secret" / "key.txt"
    path = bundle(tmp_path)
    texts = [
        "TOPSECRET: [1, 2", "TOPSECRET", "x:TOPSECRET:0:0\ny", "- TOPSECRET", "- `TOPSECRET", "TOPSECRET\x00",
        "a: b: TOPSECRET", "%TOPSECRET", "*TOPSECRET", "@TOPSECRET", "!TOPSECRET x", '"TOPSECRET',
    ]  # fmt: skip
    for number, text in enumerate(texts):
        secret.with_name(str(number)).write_text(text)
        with pytest.raises(EquimodalError) as caught:
            load_bundle(path, card=secret.with_name(str(number)))
        assert "TOPSECRET" not in str(caught.value), text


def test_special_files_and_large_ones_are_not_opened(tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(1 << 40)  # takes no space
    with pytest.raises(DataError, match=r"large`: expected at most 256.0 MiB. Found 1.0 TiB"):
        read_bytes(large)
    for path in (Path("/dev/zero"), tmp_path):
        with pytest.raises(DataError, match="expected a regular file. Found a (device|folder)"):
            open_regular(path)
    for path in (tmp_path / "none", tmp_path / ("x" * 300), tmp_path / "a\0b"):
        with pytest.raises(DataError, match="expected a readable file"):
            open_regular(path)


# ---- what is printed -------------------------------------------------------------------------------------------------


def test_text_from_data_changes_nothing_on_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = [
        "\x1b[31m",
        "\x1b]0;title\x07",
        "\u202e",
        "\u2066",
        "\x00",
        "\x08",
        "\r",
        "\x9b2J",
        "\ufeff",
        "a",
        "é",
        "=1",
    ]
    for number, rng in enumerate(many(15, seed=83)):
        text = "n" + "".join(rng.choice(parts, size=6))
        assert all(c.isprintable() for c in printable(text))
        folder = tmp_path / str(number)
        folder.mkdir()
        path = bundle(folder)
        card = (folder / "b.yaml").read_text()
        (folder / "b.yaml").write_text(card.replace("name: b", f"name: {json.dumps(text)}"))
        assert main(["data", "describe", str(path)]) == 0
        assert main(["data", "describe", str(folder / text.replace("/", "").replace("\0", ""))]) != 0
        assert main(["train", "--method", text]) == 2
        said = capsys.readouterr()
        assert all(c.isprintable() or c == "\n" for c in said.out + said.err)


def test_no_class_name_is_a_formula_in_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    starts = ["=cmd|' /C calc'!A0", "+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", " =1", "\x1b=1"]
    for start in starts:
        assert table_cell(start)[0] == "'"
    assert table_cell("ordinary") == "ordinary"
    table = {"prediction": np.array([0, 1]), "probabilities": np.eye(2), "classes": np.array(["=1+1", "-2"])}
    text = studies.write_predictions(table, tmp_path / "p.csv").read_text()
    assert text.splitlines()[1].startswith("'=1+1,")
    assert text.splitlines()[2].startswith("'-2,")


def test_closed_streams_are_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with printed_streams():
        print("to nowhere")
    assert main(["list"]) == 0
    assert main(["nope"]) == 2
    assert sys.stdout is None
