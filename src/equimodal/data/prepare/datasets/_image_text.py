"""What the image-text datasets share: parameters, arrays, vocabulary."""

from __future__ import annotations

import importlib
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy.typing as npt

from equimodal.data.prepare import ArraySpec, Item, Preparation, Problem
from equimodal.data.prepare.datasets._parameters import check_parameters
from equimodal.data.prepare.readers import (
    IMAGENET,
    SPECIALS,
    UNKNOWN,
    Clean,
    Fit,
    FolderTokenizer,
    Interpolation,
    Tokenizer,
    WordTokenizer,
    clean,
    learn_vocabulary,
    read_image,
    token_array,
)
from equimodal.errors import DataError

Array = npt.NDArray[Any]
Normalise = Literal["imagenet", "clip", "scale"]
_PIXELS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "imagenet": ("ImageNet deviations", IMAGENET),
    # 255 times the means and deviations that CLIP's images are normalised by
    "clip": (
        "CLIP deviations",
        {"normalise": {"mean": [122.7709, 116.7460, 104.0937], "std": [68.5005, 66.6322, 70.3232]}},
    ),
    "scale": ("0 to 1", {"scale": 1 / 255}),
}


@dataclass(frozen=True)
class ImageTextParameters:
    """Parameters of every image-text dataset; each gives them its own defaults and sources.

    Args:
        size: height and width of the stored image.
        fit: ``squash`` or ``crop`` (:func:`equimodal.data.prepare.readers.read_image`).
        shorter: shorter side before the centre is cut out; 0 is ``size``.
        interpolation: ``bilinear`` or ``bicubic``.
        normalise: what loading does to pixels: means and deviations of ``imagenet`` or ``clip``, or ``scale`` to 0..1.
        length: tokens per text.
        clean: what is done to a text before it is split (:func:`equimodal.data.prepare.readers.clean`).
        tokenizer: folder of a transformers tokenizer; empty: the vocabulary of the training texts.
        special: add the special tokens of ``tokenizer``.
        vocabulary: largest number of ids of the built-in vocabulary.
        min_count: a training word that is rarer is unknown to the built-in vocabulary.
    """

    size: int = 224
    fit: Fit = "squash"
    shorter: int = 0
    interpolation: Interpolation = "bilinear"
    normalise: Normalise = "imagenet"
    length: int = 50
    clean: Clean = "none"
    tokenizer: str = field(default="", metadata={"path": True})
    special: bool = True
    vocabulary: int = 30522
    min_count: int = 2

    def __post_init__(self) -> None:
        check_parameters(self, size=1, shorter=0, length=1, vocabulary=len(SPECIALS) + 1, min_count=1)
        if self.shorter and (self.fit == "squash" or self.shorter < self.size):
            raise DataError(
                f"`shorter`: expected 0, or with fit='crop' at least the size {self.size}. Found {self.shorter!r} with "
                f"fit={self.fit!r}."
            )


P = TypeVar("P", bound=ImageTextParameters)


class ImageText(Preparation[P]):
    """An image and a text per sample; a subclass gives items, their texts, and the texts of the training part."""

    packages = ("PIL",)

    @abstractmethod
    def text_of(self, item: Item) -> tuple[str, str | None]:
        """The text of an item, and a second one for tokenizers of pairs.

        Raises:
            UnreadableError: its file cannot be read.
        """

    @abstractmethod
    def training_texts(self) -> Iterable[str]:
        """The texts of the training part, which the vocabulary is learnt from; pairs as two texts."""

    def arrays(self) -> Mapping[str, ArraySpec]:
        """``image``, ``text`` (ids), and ``text_length``, the number of ids that are no padding."""
        p = self.parameters
        size = f"{p.size} x {p.size}"
        how = f"squashed to {size}" if p.fit == "squash" else f"shorter side {p.shorter or p.size}, centre {size}"
        units, pixels = _PIXELS[p.normalise]
        if p.tokenizer:
            what = f"of the tokenizer given by folder, {'with' if p.special else 'without'} special tokens"
            limit, padding = self._folder_tokenizer.size, self._folder_tokenizer.padding
        else:
            limit, padding = p.vocabulary, WordTokenizer.padding
            what = "words of the training texts (vocabulary.txt); 0 padding, 1 unknown, 2 between text and pair"
        return {
            "image": ArraySpec(
                (3, p.size, p.size), "uint8", "image", units=units, transforms=(pixels,),
                description=f"{how}, {p.interpolation}, RGB",
            ),
            "text": ArraySpec(
                (p.length,), "int32", "tokens", mask="text_length",
                units=f"token ids below {limit}, {padding} is padding",
                description=f"at most {p.length} ids {what}; cleaned: {p.clean}",
            ),
            "text_length": ArraySpec((), "int32", description="ids of the text that are no padding"),
        }  # fmt: skip

    def decode(self, item: Item, name: str) -> Array:
        """One array of one sample."""
        p = self.parameters
        if name == "image":
            return read_image(self.path(item.files[name][0]), p.size, p.fit, p.shorter, p.interpolation)
        return token_array(name, self._ids(item), p.length, self.encode.padding)

    @staticmethod
    def sources(image: str, *texts: str) -> dict[str, tuple[str, ...]]:
        """Array -> its raw files; ``texts`` are all that the ids depend on, often the training texts as well."""
        distinct = tuple(dict.fromkeys(texts))
        return {"image": (image,), "text": distinct, "text_length": distinct}

    def _ids(self, item: Item) -> list[int]:
        """Ids of the text, at least one: an empty text is one unknown word, so that no row is all padding."""
        text, pair = self.text_of(item)
        cleaned = None if pair is None else clean(pair, self.parameters.clean)
        ids = self.encode(clean(text, self.parameters.clean), cleaned, self.parameters.length)
        return ids or [UNKNOWN]

    @cached_property
    def _folder_tokenizer(self) -> FolderTokenizer:
        return FolderTokenizer(self.parameters.tokenizer, self.parameters.special)

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The built-in vocabulary, most frequent words first; empty where a tokenizer folder is given."""
        p = self.parameters
        if p.tokenizer:
            return ()
        texts = (clean(text, p.clean) for text in self.training_texts())
        return learn_vocabulary(texts, p.vocabulary, p.min_count)

    @cached_property
    def encode(self) -> Tokenizer:
        """Text to ids."""
        return self._folder_tokenizer if self.parameters.tokenizer else WordTokenizer(self.words)

    def text_notes(self) -> dict[str, Any]:
        """What the ids are made by, for the manifest."""
        if not self.parameters.tokenizer:
            return {"vocabulary": len(self.words)}
        version = importlib.import_module("transformers").__version__
        return {"vocabulary": self._folder_tokenizer.size, "padding": self.encode.padding, "transformers": version}

    def vocabulary_file(self) -> dict[str, str]:
        """File name -> text of the vocabulary, for the bundle: line i, counted from 0, is the word of id i."""
        return {"vocabulary.txt": "".join(f"{word}\n" for word in self.words)} if self.words else {}

    def require(self, *needed: str) -> None:
        """Refuse a source folder that lacks a file or folder; the message says what there is instead.

        Raises:
            DataError: with the layout of the page.
        """
        for name in needed:
            if self.path(name).exists():
                continue
            inside = sorted(p.name + "/" * p.is_dir() for p in self.raw.iterdir())
            near = [p.name for p in sorted(self.raw.iterdir()) if p.is_dir() and p.joinpath(*name.split("/")).exists()]
            there = (", ".join(inside[:8]) or "an empty folder") + (" ..." if len(inside) > 8 else "")
            hint = f". Give {self.raw / near[0]} as the source" if near else ""
            raise self.source_error(self.raw, f"{name} of {self.facts.title}", there + hint)


def unlisted(folder: Path, prefix: str, known: set[str], suffixes: tuple[str, ...], reason: str) -> list[Problem]:
    """Files in ``folder`` and below that no sample uses; ``prefix`` is the folder's path in the source."""
    found = []
    for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
        name = f"{prefix}{path.relative_to(folder).as_posix()}"
        if path.is_file() and name not in known:
            expected = path.suffix.lower() in suffixes
            found.append(Problem(name, reason if expected else f"expected {' or '.join(suffixes)}"))
    return found
