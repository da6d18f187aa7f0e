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

from equimodal.errors import DataError, missing_extra

Array = npt.NDArray[Any]
Clean = Literal["none", "titles", "captions", "letters"]
CLEANERS: tuple[str, ...] = get_args(Clean)
PADDING, UNKNOWN, SEPARATOR = 0, 1, 2
SPECIALS = ("<pad>", "<unk>", "<sep>")
ENCODINGS = ("utf-8", "latin-1")
_WORD = re.compile(r"\$t\$|<\w+>|\w+(?:['’]\w+)*|[^\w\s]")
_TITLE = str.maketrans(dict.fromkeys("<>/\\+=-_[]{}'\";:.,()*&^%$#@!~`", " "))
_CAPTION = str.maketrans({**dict.fromkeys(",.'!?\"()*#:;~", ""), "-": " ", "/": " "})


def decode(data: bytes, encodings: Sequence[str] = ENCODINGS) -> tuple[str, str]:
    """Text and the encoding it was in: the first of ``encodings`` in which it is valid.

    A byte order mark decides before. The last encoding should be one that accepts any bytes (``latin-1``).
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", errors="replace"), "utf-16"
    data = data.removeprefix(b"\xef\xbb\xbf")
    for encoding in encodings:
        try:
            return data.decode(encoding), encoding
        except UnicodeDecodeError:
            continue
    return data.decode(encodings[-1], errors="replace"), encodings[-1]


def read_lines(path: Path, encodings: Sequence[str] = ENCODINGS) -> tuple[list[str], dict[str, int]]:
    """Lines of a file with their line ends, and encoding -> number of lines that were not UTF-8.

    Each line is decoded by itself, so that one line in another encoding does not spoil the others.
    """
    data = path.read_bytes()
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        text, encoding = decode(data)
        lines = text.splitlines(keepends=True)
        return lines, {encoding: len(lines)}
    found: Counter[str] = Counter()
    lines = []
    for line in data.removeprefix(b"\xef\xbb\xbf").splitlines(keepends=True):
        text, encoding = decode(line, encodings)
        found[encoding] += encoding != encodings[0]
        lines.append(text)
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
