"""One gate before all readers: what is no data is named; encodings are found or refused with a count."""

from __future__ import annotations

import ast
import gzip
import io
import pickle
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from equimodal.data import load_bundle, prepare
from equimodal.data.prepare import readers
from equimodal.errors import DataError
from tests.data.helpers import card
from tests.faults.families import many

for package in ("av", "PIL", "soundfile", "soxr", "nibabel"):
    pytest.importorskip(package)
READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "wav": ("a.wav", partial(readers.read_sound, rate=16000)),
    "sound": ("a.mp4", partial(readers.read_sound, rate=16000)),
    "grid": ("a.avi", partial(readers.grid_frames, fps=1.0)),
    "range": ("a.flv", partial(readers.frame_range, start=0, count=2)),
    "times": ("a.mkv", partial(readers.frames_at, seconds=[0.1])),
    "image": ("a.jpg", partial(readers.read_image, size=8)),
    "volume": ("a.nii.gz", readers.read_volume),
    "pickle": ("a.pkl", readers.read_pickle),
    "array": ("a.npy", readers.read_array),
    "bundle": ("small.npz", partial(load_bundle, card=card())),
    "text": ("a.txt", readers.read_text),
    "lines": ("a.txt", readers.read_lines),
}
MAGIC = [b"", b"RIFF\xff\xff\x00\x00WAVE", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04", b"\x1f\x8b\x08", b"\x93NUMPY\x01\x00"]
POINTERS = [
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n", "Git LFS pointer"),
    (b"<!DOCTYPE html>\n<html><head>%s</head>%d</html>", "web page"),
    (b"\n  <html lang='en'>%s %d", "web page"),
    (b"<!-- %s --><HTML>%d", "web page"),
    (b'{"error": "%s", "code": %d}', "error message of a server"),
    (b'<?xml version="1.0"?><Error><Code>%s</Code>%d</Error>', "error message of a server"),
]


def packed() -> dict[str, tuple[bytes, str]]:
    """Files of other kinds, and what they are called."""
    torch_file, archive = io.BytesIO(), io.BytesIO()
    torch.save({"a": torch.zeros(3)}, torch_file)
    np.savez(archive, a=np.zeros(2))
    return {
        "csv": (b"name,label\nx,1\n" * 20, "a text that begins with 'name,label'"),
        "torch": (torch_file.getvalue(), "weights of torch|pickle|corrupt|cannot"),
        "gzip": (gzip.compress(b"hello" * 50), "gzip|begins with"),
        "pickle": (pickle.dumps({"a": [1] * 50}), "pickle"),
        "zeros": (b"\0" * 500, "zeros alone"),
        "pdf": (b"%PDF-1.7\n" + b"x" * 99, "a PDF"),
        "hdf5": (b"\x89HDF\r\n\x1a\n" + b"\0" * 99, "HDF5"),
        "program": (b"\x7fELF" + b"\0" * 200, "program"),
    }


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_names_what_a_download_left_instead(reader: str, tmp_path: Path) -> None:
    name, read = READERS[reader]
    for content, named in POINTERS:
        for rng in many(2, seed=60):
            filled = content % (rng.bytes(12).hex().encode(), int(rng.integers(10**9)))
            (tmp_path / name).write_bytes(filled)
            with pytest.raises(DataError, match=named) as caught:
                read(tmp_path / name)
            assert "allow_pickle" not in str(caught.value)
    if reader not in ("text", "lines"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(DataError, match="empty file"):
            read(tmp_path / name)


@pytest.mark.parametrize("reader", [r for r in READERS if r not in ("text", "lines")])
def test_every_reader_refuses_other_kinds_of_files(reader: str, tmp_path: Path) -> None:
    name, read = READERS[reader]
    for kind, (content, named) in packed().items():
        if (reader, kind) in (("pickle", "pickle"), ("volume", "gzip"), ("pickle", "torch")):
            continue
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError) as caught:
            read(tmp_path / name)
        assert "allow_pickle" not in str(caught.value)
        if reader in ("image", "array", "bundle", "wav", "volume"):
            assert re.search(named, str(caught.value)), (kind, str(caught.value))


@pytest.mark.parametrize("reader", [r for r in READERS if r not in ("text", "lines", "pickle")])
def test_random_bytes_are_refused(reader: str, tmp_path: Path) -> None:
    name, read = READERS[reader]
    for rng in many(6, seed=61):
        magic = [
            b"",
            b"RIFF\xff\xff\x00\x00WAVE",
            b"\x89PNG\r\n\x1a\n",
            b"PK\x03\x04",
            b"\x1f\x8b\x08",
            b"\x93NUMPY\x01\x00",
        ]
        (tmp_path / name).write_bytes(magic[rng.integers(len(magic))] + rng.bytes(int(rng.integers(1, 4000))))
        with pytest.raises(DataError):
            read(tmp_path / name)


def test_no_dataset_opens_a_file_by_itself() -> None:
    """Each passes through the readers, and so through the gate."""
    folder = Path(prepare.__file__).parent / "datasets"
    for path in sorted(folder.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = ast.unparse(node.func.value)
                opened = node.func.attr in ("open", "read_bytes", "read_text") and owner != "readers"
                assert not opened, f"{path.name}:{node.lineno}"
                assert (owner, node.func.attr) != ("np", "load"), f"{path.name}:{node.lineno}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "open", f"{path.name}:{node.lineno}"


# ---- encodings ------------------------------------------------------------------------------------------------

WORDS = ["it’s", "“ok”", "naïve", "crème", "–", "€5", "plain", "Ünïcode", "œuvre", "a b", "2020"]
WIDE = ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be", "utf-8-sig"]


def test_a_text_is_the_same_in_every_encoding_that_can_be_told() -> None:
    for rng in many(60, seed=62):
        text = "\n".join(" ".join(rng.choice(WORDS, size=8).tolist()) for _ in range(int(rng.integers(1, 6))))
        for encoding in ("utf-8", "cp1252", *WIDE):
            found, named = readers.decode(text.encode(encoding))
            assert found == text, encoding
            assert named.replace("-", "")[:5] == encoding.replace("-", "")[:5] or encoding == "utf-8-sig"


def test_other_alphabets_in_utf_16_without_a_mark() -> None:
    for text in ("привет мир, это 2020 год\n" * 3, "καλημέρα κόσμε, 12 φορές\n" * 3, "hello world\n"):
        for encoding in ("utf-16-le", "utf-16-be"):
            found, _ = readers.decode((text + "plain text 123 " * 3).encode(encoding))
            assert found == text + "plain text 123 " * 3


def test_lines_in_no_encoding_are_counted(tmp_path: Path) -> None:
    for rng in many(20, seed=63):
        lines = [
            " ".join(rng.choice(WORDS, size=4).tolist()).encode(["utf-8", "cp1252"][rng.integers(2)]) for _ in range(9)
        ]
        count = sum(line.decode("utf-8", "replace").count("\ufffd") > 0 for line in lines)
        path = tmp_path / "a.txt"
        path.write_bytes(b"\n".join(lines) + b"\n")
        read, found = readers.read_lines(path)
        assert found == ({"cp1252": count} if count else {})
        assert not any(re.search("[\x80-\x9f]", line) for line in read)
        for place in sorted(rng.choice(9, 3, replace=False).tolist()):
            lines[place] = [b"bad \x81\x8d bytes", b"bell \x07", b"nul \x00 \xff"][rng.integers(3)]
        path.write_bytes(b"\n".join(lines) + b"\n")
        with pytest.raises(DataError, match=r"a.txt: expected lines in one of.*Found 3 of 9 in none.*first lines \["):
            readers.read_lines(path)
