"""Bytes to text, text to words, words to ids."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import pytest

from equimodal.data.prepare.readers._text import (
    Clean,
    FolderTokenizer,
    WordTokenizer,
    clean,
    decode,
    learn_vocabulary,
    read_lines,
    words,
)
from equimodal.errors import DataError, MissingExtraError


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("crème".encode(), ("crème", "utf-8")),
        ("crème".encode("latin-1"), ("crème", "cp1252")),
        (b"\xef\xbb\xbfID", ("ID", "utf-8")),
        ("crème".encode("utf-16"), ("crème", "utf-16")),
        (b"", ("", "utf-8")),
    ],
)
def test_bytes_are_decoded_and_the_encoding_is_known(data: bytes, expected: tuple[str, str]) -> None:
    assert decode(data) == expected


def test_the_first_encoding_that_fits_is_taken() -> None:
    ellipsis = b"http:/\xa1\xad"  # two bytes of GB 18030, as in MVSA
    assert decode(ellipsis) == ("http:/¡\xad", "cp1252")
    assert decode(ellipsis, ("utf-8", "gb18030", "latin-1")) == ("http:/…", "gb18030")
    assert decode(b"caf\xe9 http", ("utf-8", "gb18030", "latin-1")) == ("café http", "latin-1")


def test_a_line_in_another_encoding_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("jalapeño\n".encode() + "crème\r\n".encode("latin-1") + b"plain")
    assert read_lines(path) == (["jalapeño\n", "crème\r\n", "plain"], {"cp1252": 1})


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("none", "It's $T$ - GREAT! see a/b: #1"),
        ("titles", "it s t great see a b 1"),
        ("captions", "its $t$ great see a b 1"),
        ("letters", "it s t great see a b"),
    ],
)
def test_texts_are_cleaned_as_the_papers_do(how: Clean, expected: str) -> None:
    assert clean(" It's $T$ -\tGREAT! see a/b:\n#1 ", how) == expected


def test_words_keep_marks_and_apostrophes() -> None:
    assert words("<user> I don't like $T$ ... emoji_92 #fun") == [
        "<user>", "i", "don't", "like", "$t$", ".", ".", ".", "emoji_92", "#", "fun",
    ]  # fmt: skip
    assert words("Пицца、美味しい!") == ["пицца", "、", "美味しい", "!"]


def test_the_vocabulary_is_the_most_frequent_words_then_alphabetical() -> None:
    texts = ["b a a", "c b a", "d"]
    assert learn_vocabulary(texts, 100, 1) == ("<pad>", "<unk>", "<sep>", "a", "b", "c", "d")
    assert learn_vocabulary(texts, 100, 2) == ("<pad>", "<unk>", "<sep>", "a", "b")
    assert learn_vocabulary(texts, 4, 1) == ("<pad>", "<unk>", "<sep>", "a")


def test_ids_are_places_in_the_vocabulary_and_long_texts_are_cut() -> None:
    encode = WordTokenizer(("<pad>", "<unk>", "<sep>", "pie", "apple"))
    assert encode("Apple pie, apple", None, 10) == [4, 3, 1, 4]
    assert encode("apple pie apple", None, 2) == [4, 3]
    assert encode("", None, 5) == []
    assert encode("apple pie apple", "pie", 10) == [4, 3, 4, 2, 3]
    assert encode("apple pie apple", "pie", 4) == [4, 3, 2, 3]  # the target stays, the text is cut


def test_a_folder_of_transformers_is_read(folder: str) -> None:
    encode = FolderTokenizer(folder, special=True)
    assert encode("Apples, PIE", None, 10) == [2, 4, 6, 1, 5, 3]
    assert encode("Apples PIE", None, 4) == [2, 4, 6, 3]
    assert encode("apple", "pie", 10) == [2, 4, 3, 5, 3]
    assert (encode.padding, encode.size) == (0, 7)
    assert FolderTokenizer(folder, special=False)("apple pie", None, 10) == [4, 5]


def test_an_empty_text_without_special_tokens_is_one_unknown_token(folder: str) -> None:
    assert FolderTokenizer(folder, special=False)("", None, 10) == [1]


def test_a_tokenizer_travels_to_other_processes(folder: str) -> None:
    encode = FolderTokenizer(folder, special=True)
    assert encode.size == 7
    other = pickle.loads(pickle.dumps(encode))
    assert other("apple", None, 5) == [2, 4, 3]


def test_what_is_no_tokenizer_is_refused(tmp_path: Path, folder: str) -> None:
    with pytest.raises(DataError, match="`tokenizer`: expected a folder .* Found no folder"):
        _ = FolderTokenizer(str(tmp_path / "nowhere"), special=True).size
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "weights.bin").write_bytes(b"x")
    with pytest.raises(DataError, match=r"expected a folder that transformers reads .* Found weights.bin"):
        _ = FolderTokenizer(str(tmp_path / "other"), special=True).size
    (Path(folder) / "tokenizer.json").write_text("{broken")
    with pytest.raises(DataError, match="expected a folder that transformers reads"):
        _ = FolderTokenizer(folder, special=True).size


def test_a_missing_library_is_named_with_the_line_that_installs_it(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"`tokenizer` needs .*transformers.* \"equimodal\[data\]"):
        _ = FolderTokenizer(folder, special=True).size


def test_a_tokenizer_without_padding_is_refused(folder: str) -> None:
    path = Path(folder) / "tokenizer_config.json"
    path.write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    with pytest.raises(DataError, match="expected one with a padding token"):
        _ = FolderTokenizer(folder, special=True).padding
