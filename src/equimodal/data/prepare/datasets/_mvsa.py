"""MVSA-Single: sentiment of tweets with a photograph."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

from equimodal.data.prepare import Index, Item, Problem, SplitSpec, Target, UnreadableError
from equimodal.data.prepare.datasets._image_text import ImageText, ImageTextParameters, unlisted
from equimodal.data.prepare.datasets._splits import Part, carve, read_listed
from equimodal.data.prepare.readers import read_encoded, read_lines
from equimodal.errors import DataError

CLASSES = ("negative", "neutral", "positive")
_LABELS = "labelResultAll.txt"
_NAME = re.compile(r"\d+")
# the tweets went through a system with a Chinese locale: ellipses and quotation marks are two bytes of GB 18030
_ENCODINGS = ("utf-8", "gb18030", "cp1252")


@dataclass(frozen=True)
class Parameters(ImageTextParameters):
    """How images and texts are stored.

    Args:
        size: height and width of the stored image. Source: QMF, text-image-classification/src/data/helpers.py.
        fit: ``squash`` (the aspect is not kept) or ``crop`` (shorter side, then the centre). Source: QMF, as above.
        shorter: shorter side for ``crop`` before the centre is cut out; 0 is ``size``. Source: QMF, as above.
        interpolation: ``bilinear`` or ``bicubic``. Source: QMF, as above (torchvision's default).
        normalise: what loading does: ``imagenet`` or ``clip`` deviations, or ``scale`` to 0..1. Source: MLA,
            dataset/dataset.py.
        length: ids per text; longer texts are cut. Source: MLA, data/extract_token.py (256). 64 is ours: tweets
            have at most 140 characters, and we found at most 48 words.
        clean: ``none``, ``titles`` (punctuation to blanks, lower case), ``captions`` or ``letters``. Source: QMF, whose
            lists hold the tweets as they are.
        tokenizer: folder of a transformers tokenizer, as ``save_pretrained`` writes it; empty: words of the training
            texts. Source: MLA and QMF take bert-base-uncased.
        special: add the tokenizer's special tokens. Source: QMF (MLA does not).
        vocabulary: largest number of ids of the built-in vocabulary. Source: ours, the size of BERT's.
        min_count: a training word that is rarer is unknown to the built-in vocabulary. Source: ours.
        labels: ``rule``: one label of two (see the page), 4511 tweets; ``agree``: only tweets whose text and image
            have the same label, 2592 tweets. Source: Xu and Mao 2017 (MultiSentiNet); QMF and MLA take ``agree``.
        seed: of the split at random. Source: ours.
        lists: folder with train.jsonl, dev.jsonl and test.jsonl, which then say the parts. Source: QMF,
            text-image-classification/datasets/MVSA_Single.
    """

    fit: Literal["squash", "crop"] = "crop"
    shorter: int = 256
    length: int = 64
    labels: Literal["rule", "agree"] = "rule"
    seed: int = 0
    lists: str = field(default="", metadata={"path": True})


class _Row(NamedTuple):
    text: str  # labels of the two
    image: str


class MVSASingle(ImageText[Parameters]):
    """MVSA-Single from ``data/N.jpg``, ``data/N.txt`` and ``labelResultAll.txt``."""

    name = "mvsa-single"
    Parameters = Parameters

    def index(self) -> Index:
        """One item per number in the table of labels, without those whose labels contradict each other."""
        rows, problems = self._table
        parts, missing, ignored = self._parts, list(problems), []
        for number, row in rows.items():
            if self._label(row) is None:
                ignored.append(Problem(f"data/{number}.jpg", f"text {row.text}, image {row.image}"))
            elif number not in parts:
                ignored.append(Problem(f"data/{number}.jpg", "in none of the lists"))
        gone = sorted(set(parts) - set(rows), key=int)
        missing += [Problem(f"data/{number}.jpg", f"listed, and not in {_LABELS}") for number in gone]
        known = {f"data/{n}{s}" for n in rows for s in (".jpg", ".txt")}
        ignored += unlisted(self.path("data"), "data/", known, (".jpg", ".txt"), f"not in {_LABELS}")
        items = []
        for number, row in rows.items():
            label = self._label(row)
            if label is None or number not in parts:
                continue
            items.append(
                Item(
                    key=f"{int(number):05d}",
                    files=self.sources(f"data/{number}.jpg", f"data/{number}.txt"),
                    columns={
                        "sentiment": CLASSES.index(label),
                        "sentiment_of_text": CLASSES.index(row.text),
                        "sentiment_of_image": CLASSES.index(row.image),
                        "split": parts[number],
                    },
                )
            )
        texts = Counter(encoding for _, encoding in self._texts.values())
        return Index(
            items=tuple(items),
            targets={
                "sentiment": Target("sentiment", classes=CLASSES, description="of the tweet, from both labels"),
                "sentiment_of_text": Target("sentiment_of_text", classes=CLASSES, description="of the text alone"),
                "sentiment_of_image": Target("sentiment_of_image", classes=CLASSES, description="of the image alone"),
            },
            protocols=self._protocols(),
            missing=tuple(missing),
            ignored=tuple(ignored),
            notes={"encodings": dict(sorted(texts.items())), **self.text_notes()},
            files=self.vocabulary_file(),
        )

    def _protocols(self) -> dict[str, SplitSpec]:
        if self.parameters.lists:
            name, how = "listed", "the lists of a paper, given by the user"
        else:
            name, how = "random", f"80/10/10 of each class by SHA-256 with the seed {self.parameters.seed}"
        return {name: SplitSpec("split", ("train",), ("validation",), ("test",), description=how)}

    def _label(self, row: _Row) -> str | None:
        """One label of two; ``None`` where they contradict each other."""
        if row.text == row.image:
            return row.text
        if self.parameters.labels == "agree":
            return None
        polar = {row.text, row.image} - {"neutral"}
        return polar.pop() if len(polar) == 1 else None

    @cached_property
    def _table(self) -> tuple[dict[str, _Row], list[Problem]]:
        """Number -> labels, and the lines that are no such thing."""
        self.require("data", _LABELS)
        lines, _ = read_lines(self.path(_LABELS), _ENCODINGS)
        if not lines or lines[0].split() != ["ID", "text,image"]:
            found = lines[0].rstrip() if lines else ""
            raise DataError(
                f"{_LABELS}: line 1: expected the header 'ID<tab>text,image' of MVSA-Single. Found {found[:60]!r}. "
                "MVSA-Multiple has three pairs of labels per tweet and is another dataset."
            )
        rows: dict[str, _Row] = {}
        problems = []
        for number, line in enumerate(lines[1:], 2):
            if not line.strip():
                continue
            name, _, labels = line.strip().partition("\t")
            pair = [label.strip().lower() for label in labels.split(",")]
            if not _NAME.fullmatch(name) or len(pair) != 2 or not set(pair) <= set(CLASSES):
                problems.append(
                    Problem(_LABELS, f"line {number}: expected NUMBER<tab>label,label: {line.strip()[:40]!r}")
                )
            elif rows.setdefault(name, _Row(*pair)) != _Row(*pair):
                raise DataError(f"{_LABELS}: line {number}: expected one pair of labels for {name}. Found another one.")
        twice = sorted(number for number, count in Counter(map(int, rows)).items() if count > 1)
        if twice:
            raise DataError(f"{_LABELS}: expected a number of its own for each tweet. Found {twice[:3]} twice.")
        return rows, problems

    @cached_property
    def _parts(self) -> dict[str, Part]:
        """Number -> part."""
        rows = self._table[0]
        labels = {number: self._label(row) for number, row in rows.items()}
        if not self.parameters.lists:
            used = {number: label for number, label in labels.items() if label is not None}
            return carve(f"{self.name} {self.parameters.seed}", used, {"test": 0.1, "validation": 0.1})
        parts: dict[str, Part] = {}
        for image, (part, label) in read_listed(self.parameters.lists).items():
            number = image.rpartition("/")[2].removesuffix(".jpg")
            if not _NAME.fullmatch(number):
                raise DataError(f"`lists`: expected images such as data/12.jpg. Found {image!r}.")
            if number in labels and labels[number] != label:
                raise DataError(
                    f"`lists`: expected the label of {_LABELS}, {labels[number]!r}, for {image}. Found {label!r}."
                )
            parts[number] = part
        return parts

    @cached_property
    def _texts(self) -> dict[str, tuple[str, str]]:
        """Number -> text and encoding, of the files that are there."""
        found = {}
        for number in self._parts:
            path = self.path(f"data/{number}.txt")
            if path.is_file():
                with contextlib.suppress(UnreadableError):  # counted where it is decoded
                    found[number] = read_encoded(path, _ENCODINGS)
        return found

    def text_of(self, item: Item) -> tuple[str, str | None]:
        """The tweet, read from its file."""
        text, _ = read_encoded(self.path(item.files["text"][0]), _ENCODINGS)
        if not text.strip():
            raise UnreadableError("a text of white space")
        return text, None

    def training_texts(self) -> Iterable[str]:
        """Tweets of the training part."""
        return [text for number, (text, _) in self._texts.items() if self._parts[number] == "train"]
