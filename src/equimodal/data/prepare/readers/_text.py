"""Text to token ids: decoding bytes, cleaning as the papers do, a word-level vocabulary, or a tokenizer folder."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from equimodal.data.prepare import UnreadableError
from equimodal.data.prepare.readers._gate import check_file
from equimodal.errors import DataError, missing_extra

Array = npt.NDArray[Any]
Clean = Literal["none", "titles", "captions", "letters"]
CLEANERS: tuple[str, ...] = get_args(Clean)
PADDING, UNKNOWN, SEPARATOR = 0, 1, 2
SPECIALS = ("<pad>", "<unk>", "<sep>")
ENCODINGS = ("utf-8", "cp1252")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1a\x7f-\x84\x86-\x9f]")  # what no text holds; U+0085 ends lines
_ZEROS = 0.3  # share of the upper bytes that are 0 in UTF-16 of any alphabet with spaces and digits
_WORD = re.compile(r"\$t\$|<\w+>|\w+(?:['’]\w+)*|[^\w\s]")
_TITLE = str.maketrans(dict.fromkeys("<>/\\+=-_[]{}'\";:.,()*&^%$#@!~`", " "))
_CAPTION = str.maketrans({**dict.fromkeys(",.'!?\"()*#:;~", ""), "-": " ", "/": " "})


def decode(data: bytes, encodings: Sequence[str] = ENCODINGS) -> tuple[str, str]:
    """Text and the encoding it was in: the first of ``encodings`` in which it is valid and holds no control characters.

    A byte order mark decides before, and so do the zeros of UTF-16 and UTF-32 without one.

    Raises:
        UnreadableError: it is in none of them.
    """
    wide = _wide(data)
    if wide:
        try:
            return data.decode(wide).removeprefix("\ufeff"), wide.removesuffix("-le").removesuffix("-be")
        except UnicodeDecodeError as error:
            raise UnreadableError(f"a text that is no whole {wide}") from error
    data = data.removeprefix(b"\xef\xbb\xbf")
    for encoding in encodings:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if not _CONTROL.search(text):
            return text, encoding
    raise UnreadableError(f"a text in none of the encodings {', '.join(encodings)}")


def _wide(data: bytes) -> str:
    """``"utf-16-le"`` and the like, where the bytes are such text; else nothing."""
    for mark, name in ((b"\xff\xfe\x00\x00", "utf-32-le"), (b"\x00\x00\xfe\xff", "utf-32-be"),
                       (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):  # fmt: skip
        if data.startswith(mark):
            return name
    if b"\x00" not in data:
        return ""
    head = data[:4096]
    zeros = [head[i::4].count(0) / max(1, len(head[i::4])) for i in range(4)]
    if min(zeros[1], zeros[2], zeros[3]) > _ZEROS or min(zeros[:3]) > _ZEROS:
        return "utf-32-le" if zeros[0] < zeros[3] else "utf-32-be"
    odd, even = head[1::2].count(0) / max(1, len(head[1::2])), head[::2].count(0) / len(head[::2])
    if max(odd, even) > _ZEROS and min(odd, even) < 0.1:
        return "utf-16-le" if odd > even else "utf-16-be"
    return ""


def read_encoded(path: Path, encodings: Sequence[str] = ENCODINGS) -> tuple[str, str]:
    """All of a text file, and the encoding it was in.

    Raises:
        UnreadableError: no such file, a pointer or web page instead of it, or in none of the encodings.
    """
    check_file(path, empty=True)
    return decode(path.read_bytes(), encodings)


def read_text(path: Path, encodings: Sequence[str] = ENCODINGS) -> str:
    """All of a text file.

    Raises:
        DataError: no such file, a pointer or web page instead of it, or in none of the encodings; names the file.
    """
    try:
        return read_encoded(path, encodings)[0]
    except UnreadableError as error:
        raise DataError(f"{path}: expected a text file. Found {error}.") from error


def read_lines(path: Path, encodings: Sequence[str] = ENCODINGS) -> tuple[list[str], dict[str, int]]:
    """Lines of a file with their line ends, and encoding -> number of lines that were not UTF-8.

    Each line is decoded by itself, so that one line in another encoding does not spoil the others.

    Raises:
        DataError: no such file, a pointer or web page instead of it, or lines in none of the encodings, with
            their count.
    """
    try:
        check_file(path, empty=True)
        data = path.read_bytes()
        if _wide(data):
            text, encoding = decode(data)
            lines = text.splitlines(keepends=True)
            return lines, {encoding: len(lines)}
    except UnreadableError as error:
        raise DataError(f"{path}: expected a text file. Found {error}.") from error
    found: Counter[str] = Counter()
    lines, wrong = [], []
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(keepends=True), 1):
        try:
            text, encoding = decode(line, encodings)
        except UnreadableError:
            wrong.append(number)
            continue
        found[encoding] += encoding != encodings[0]
        lines.append(text)
    if wrong:
        raise DataError(
            f"{path}: expected lines in one of the encodings {', '.join(encodings)}. Found {len(wrong)} of "
            f"{len(lines) + len(wrong)} in none of them, first lines {wrong[:5]}. Convert the file to UTF-8."
        )
    return lines, {k: n for k, n in sorted(found.items()) if n}


def clean(text: str, how: Clean) -> str:
    """``text`` as the papers' loaders change it before the tokenizer.

    ``"none"``: white space becomes single blanks. ``"titles"``: punctuation becomes blanks, lower case (MMBT, and so
    QMF and MLA). ``"captions"``: punctuation is deleted, ``-`` and ``/`` become blanks, lower case (MIE, Sarcasm).
    ``"letters"``: words of the letters a to z alone, lower case (MIE, Twitter).
    """
    if how == "titles":
        text = text.translate(_TITLE).lower()
    elif how == "captions":
        text = text.lower().translate(_CAPTION).replace("<person>", "person")
    elif how == "letters":
        text = " ".join(re.findall(r"\b[A-Za-z]+\b", text)).lower()
    return " ".join(text.split())


def words(text: str) -> list[str]:
    """Lower-case words, single punctuation marks, and marks such as ``<user>``."""
    return _WORD.findall(text.lower())


def learn_vocabulary(texts: Iterable[str], size: int, min_count: int) -> tuple[str, ...]:
    """The most frequent words after the three special entries, equal counts in alphabetical order.

    Args:
        texts: of the training samples alone.
        size: at most so many entries, the special ones included.
        min_count: a rarer word is unknown.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(words(text))
    order = sorted((-count, word) for word, count in counts.items() if count >= min_count)
    return (*SPECIALS, *(word for _, word in order[: max(0, size - len(SPECIALS))]))


def token_array(name: str, ids: Sequence[int], length: int, padding: int) -> Array:
    """``text``: the ids, then padding, (length,); ``text_length``: how many ids there are, (); both int32."""
    if name == "text_length":
        return np.array(len(ids), np.int32)
    values = np.full(length, padding, np.int32)
    values[: len(ids)] = ids
    return values


class Tokenizer(Protocol):
    """Text, and possibly a second one, to at most so many ids."""

    @property
    def padding(self) -> int:
        """Id of padding."""

    def __call__(self, text: str, pair: str | None, length: int) -> list[int]:
        """Ids without padding."""


class WordTokenizer:
    """Words of a vocabulary; 0 is padding, 1 an unknown word, 2 stands between text and pair."""

    padding = PADDING

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self.vocabulary: Mapping[str, int] = {word: i for i, word in enumerate(vocabulary)}

    def __call__(self, text: str, pair: str | None, length: int) -> list[int]:
        """Ids without padding; a pair is kept whole where it can be, and the text is cut."""
        ids = [self.vocabulary.get(word, UNKNOWN) for word in words(text)]
        if pair is None:
            return ids[:length]
        other = [SEPARATOR, *(self.vocabulary.get(word, UNKNOWN) for word in words(pair))][: max(1, length // 2)]
        return [*ids[: length - len(other)], *other]


class FolderTokenizer:
    """A tokenizer of the transformers library from a local folder; nothing is downloaded.

    Args:
        folder: as ``save_pretrained`` writes it (``tokenizer.json``, or ``vocab.txt`` and its relatives).
        special: add what the tokenizer puts around a text (``[CLS]``, ``[SEP]``).
    """

    def __init__(self, folder: str, special: bool) -> None:
        self.folder = folder
        self.special = special

    @cached_property
    def _tokenizer(self) -> Any:
        try:
            from transformers import AutoTokenizer
        except ImportError as error:
            raise missing_extra("transformers", "data", "`tokenizer`") from error
        path = Path(self.folder)
        if not path.is_dir():
            raise DataError(f"`tokenizer`: expected a folder with a tokenizer of transformers. Found no folder {path}.")
        try:
            return AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
        except Exception as error:  # its parts raise anything, also plain `Exception`
            names = ", ".join(sorted(p.name for p in path.iterdir())[:8]) or "nothing"
            raise DataError(
                f"`tokenizer`: expected a folder that transformers reads (tokenizer.json, or vocab.txt with "
                f"tokenizer_config.json). Found {names} in {path}: {str(error).splitlines()[0]}"
            ) from error

    @property
    def padding(self) -> int:
        """Id of padding."""
        found = self._tokenizer.pad_token_id
        if found is None:
            raise DataError(f"`tokenizer`: expected one with a padding token. Found none in {self.folder}.")
        return int(found)

    @property
    def size(self) -> int:
        """All ids are below it."""
        return len(self._tokenizer)

    def __call__(self, text: str, pair: str | None, length: int) -> list[int]:
        """Ids without padding; of a pair the longer one is cut first."""
        ids: list[int] = self._tokenizer(
            text, text_pair=pair, add_special_tokens=self.special, truncation=True, max_length=length
        )["input_ids"]
        unknown = self._tokenizer.unk_token_id
        return ids or [self.padding if unknown is None else int(unknown)]

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "special": self.special}
