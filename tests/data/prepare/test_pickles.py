"""Pickles are read without running anything in them."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
from collections import OrderedDict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equimodal.data.prepare.readers import read_pickle
from equimodal.errors import DataError

CONTENT: dict[str, Any] = {
    "train": {
        "text": np.arange(12, dtype=np.float32).reshape(2, 3, 2),
        "double": np.linspace(-1, 1, 6).reshape(3, 2),
        "columns": np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3)),
        "big": np.arange(4, dtype=">f4"),
        "flags": np.array([True, False]),
        "empty": np.zeros((0, 5), np.float32),
        "names": np.array(["a", "längere"]),
        "bytes": np.array([b"03bSnISJMiM", b"x"]),
        "objects": np.array([["a", 1], [None, b"\xff"]], dtype=object),
        "id": ["vid$_$1", "vid$_$2"],
        "lengths": [3, 2],
        "scalar": np.float64(0.5),
        "number": 1.5,
        "pair": (b"", b"\x00\xff", 2**70, None, True),
    }
}


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return (
            isinstance(b, np.ndarray) and a.shape == b.shape and a.dtype.kind == b.dtype.kind and bool((a == b).all())
        )
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    return type(a) is type(b) and bool(a == b)


def renamed(content: bytes, old: bytes, new: bytes) -> bytes:
    """The pickle as another version of NumPy writes it, by its opcodes."""
    out, position = io.BytesIO(), 0
    places: list[Any] = [*pickletools.genops(content), (None, None, len(content))]
    for (opcode, argument, start), (_, _, end) in pairwise(places):
        piece = content[start:end]
        if old.decode() in str(argument) and opcode.name in ("GLOBAL", "SHORT_BINUNICODE"):
            piece = piece.replace(old, new)
            if opcode.name == "SHORT_BINUNICODE":
                piece = piece[:1] + bytes([len(piece) - 2]) + piece[2:]
        out.write(piece)
        position = end
    assert position == len(content)
    return out.getvalue()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "data.pkl"
    path.write_bytes(pickle.dumps(CONTENT, protocol))
    found = read_pickle(path)
    assert same(CONTENT, found)
    assert found["train"]["objects"].tolist() == [["a", 1], [None, b"\xff"]]


@pytest.mark.parametrize("protocol", [0, 1, 2, 3])
@pytest.mark.parametrize("name", [b"numpy.core", b"numpy._core"])
def test_the_names_of_numpy_1_and_numpy_2(tmp_path: Path, protocol: int, name: bytes) -> None:
    other = b"numpy._core" if name == b"numpy.core" else b"numpy.core"
    plain = {"a": CONTENT["train"]["text"], "s": np.float32(2)}
    content = renamed(pickle.dumps(plain, protocol), other, name)
    assert name + b"." in content
    assert other + b"." not in content
    path = tmp_path / "data.pkl"
    path.write_bytes(content)
    assert same(plain, read_pickle(path))


def test_a_pickle_of_python_2(tmp_path: Path) -> None:
    # {'id': ['ab'], 'x': numpy.array([1.0, -2.0])} as Python 2.7 and NumPy 1.16 write it in protocol 2: bytes are text
    raw = np.array([1.0, -2.0]).tobytes()
    content = (
        b"\x80\x02}q\x00(U\x02idq\x01]q\x02U\x02abq\x03aU\x01xq\x04cnumpy.core.multiarray\n_reconstruct\nq\x05"
        b"cnumpy\nndarray\nq\x06K\x00\x85q\x07U\x01bq\x08\x87q\tRq\n(K\x01K\x02\x85q\x0bcnumpy\ndtype\nq\x0c"
        b"U\x02f8q\rK\x00K\x01\x87q\x0eRq\x0f(K\x03U\x01<q\x10NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x11b"
        b"\x89U\x10" + raw + b"q\x12tq\x13bu."
    )
    path = tmp_path / "data.pkl"
    path.write_bytes(content)
    found = read_pickle(path)
    assert found["id"] == ["ab"]
    assert found["x"].tolist() == [1.0, -2.0]


class Hostile:
    """Runs a command when it is read the usual way."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("place", ["top", "entry", "inside an array"])
def test_a_hostile_pickle_is_refused_and_does_not_run(tmp_path: Path, protocol: int, place: str) -> None:
    trace = tmp_path / "it-ran"
    bad: Any = Hostile(os.mkdir, str(trace))
    if place == "inside an array":
        holder = np.empty(1, dtype=object)
        holder[0] = bad
        bad = {"a": holder}
    path = tmp_path / "bad.pkl"
    path.write_bytes(pickle.dumps(bad if place == "top" else {"train": bad}, protocol))
    with pytest.raises(DataError, match=r"Found (posix|nt)\.mkdir.*was not run"):
        read_pickle(path)
    assert not trace.exists()
    pickle.loads(path.read_bytes())  # the pickle does what the test says it does
    assert trace.exists()


@pytest.mark.parametrize(
    "bad",
    [
        Hostile(eval, "1 + 1"),
        Hostile(getattr, "x", "upper"),
        Hostile(np.load, "x.npy"),
        Hostile(pickle.loads, b"N."),
        OrderedDict(a=1),
        {1, 2},
        np.array([("a", 1.0)], dtype=[("n", "U1"), ("v", "f8")]),
        np.array(["2020-01-01"], dtype="datetime64[D]"),
        np.float32,
        np.dtype("f4"),
        Path("x"),
    ],
    ids=("eval", "getattr", "load", "loads", "ordered", "set", "structured", "dates", "class", "dtype", "path"),
)
def test_everything_else_is_refused(tmp_path: Path, bad: Any) -> None:
    path = tmp_path / "bad.pkl"
    path.write_bytes(pickle.dumps({"train": bad}))
    with pytest.raises(DataError, match=r"expected .* Found .*was not run"):
        read_pickle(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        # an array of objects whose content is raw bytes, which would be taken for addresses
        (b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I1\ntcnumpy\ndtype\n(S'O8'\n"
         b"I0\nI1\ntRI00\nS'AAAAAAAA'\ntb.", "expected a list as the content"),
        # more numbers than there are bytes
        (b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I999\ntcnumpy\ndtype\n(S'f8'\n"
         b"I0\nI1\ntRI00\nS'AAAAAAAA'\ntb.", "expected 7992 bytes"),
        # a dtype that claims to be something else
        (b"cnumpy\ndtype\n(S'f8'\nI0\nI1\ntR(I3\nS'<'\nNS'x'\nNI-1\nI-1\nI63\ntb.", "expected a plain dtype"),
        # the attributes of a function of the reader
        (b"c_codecs\nencode\n(dS'__doc__'\nS'x'\nsb.", "expected no state for a function"),
        (b"c_codecs\nencode\n(S'gzip'\nS'zlib'\ntR.", "expected bytes written as latin-1"),
        (b"Psomething\n.", "no reference to objects outside"),
    ],
)  # fmt: skip
def test_crafted_pickles_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.pkl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_pickle(path)


@pytest.mark.parametrize("keep", [0, 1, 2, 50, 0.5, 0.99])
def test_truncated_pickles_are_refused(tmp_path: Path, keep: float) -> None:
    content = pickle.dumps(CONTENT)
    path = tmp_path / "cut.pkl"
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(DataError, match="truncated, corrupt or foreign|an empty file"):
        read_pickle(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "page.pkl"
    path.write_text("<html>404</html>")
    with pytest.raises(DataError, match="expected a pickle. Found a web page"):
        read_pickle(path)
    deep: list[Any] = []
    for _ in range(100):
        deep = [deep]
    path.write_bytes(pickle.dumps(deep))
    with pytest.raises(DataError, match="at most 20 containers"):
        read_pickle(path)
    loop: list[Any] = []
    loop.append(loop)
    path.write_bytes(pickle.dumps(loop))
    with pytest.raises(DataError, match="at most 20 containers"):
        read_pickle(path)
