"""Twitter-2015 and Twitter-2017: sentiment of tweets with an image towards a target that they name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, NamedTuple

from equimodal.data.prepare import Index, Item, Problem, SplitSpec, Target
from equimodal.data.prepare.datasets._image_text import ImageText, ImageTextParameters
from equimodal.data.prepare.datasets._splits import PARTS, Part
from equimodal.data.prepare.readers import Clean, read_lines
from equimodal.errors import DataError

CLASSES = ("negative", "neutral", "positive")
_STEMS = {"train": ("train", "train_data"), "validation": ("dev", "valid_data"), "test": ("test", "test_data")}
_MARK = "$T$"


@dataclass(frozen=True)
class Parameters(ImageTextParameters):
    """How images and texts are stored.

    Args:
        size: height and width of the stored image. Source: MIE, configs/twitter.json.
        fit: ``squash`` (the aspect is not kept) or ``crop`` (shorter side, then the centre). Source: MIE (test images).
        shorter: shorter side for ``crop`` before the centre is cut out; 0 is ``size``. Source: ours.
        interpolation: ``bilinear`` or ``bicubic``. Source: ours; MIE takes ``bicubic``.
        normalise: what loading does: ``imagenet`` or ``clip`` deviations, or ``scale`` to 0..1. Source: TomBERT; MIE
            takes ``clip``.
        length: ids per text; longer texts are cut. Source: TomBERT, run_multimodal_classifier.py; MIE cuts at 50 words
            before the tokenizer.
        clean: ``none``, ``titles``, ``captions`` (punctuation deleted, lower case) or ``letters`` (words of a to z).
            Source: ours; MIE takes ``letters``, TomBERT ``none``.
        tokenizer: folder of a transformers tokenizer, as ``save_pretrained`` writes it; empty: words of the training
            texts. Source: MIE and TomBERT take bert-base-uncased.
        special: add the tokenizer's special tokens. Source: MIE and TomBERT.
        vocabulary: largest number of ids of the built-in vocabulary. Source: ours, the size of BERT's.
        min_count: a training word that is rarer is unknown to the built-in vocabulary. Source: ours.
        target: what is done with the words the sentiment is about. ``pair``: after the text with ``$T$`` in their
            place, as a second text; ``insert``: put back into the text, so that nothing tells which words they are;
            ``omit``: ``$T$`` alone. Source: TomBERT takes ``pair``; MIE ``omit``, where nothing tells what they are.
    """

    length: int = 64
    clean: Clean = "none"
    target: Literal["pair", "insert", "omit"] = "pair"


class _Row(NamedTuple):
    part: Part
    file: str
    line: int
    label: int
    image: str
    text: str
    target: str


class Twitter(ImageText[Parameters]):
    """A year of the target-oriented tweets, from three .tsv files and a folder of images."""

    Parameters = Parameters
    texts: ClassVar[tuple[str, ...]]
    """Folders that the .tsv files may be in, the first of them in the authors' download."""
    images: ClassVar[str]

    def index(self) -> Index:
        """One item per line of the three files: a tweet with two targets is two samples with one image."""
        rows, missing = self._table
        parts = defaultdict(set)
        for row in rows.values():
            parts[row.image].add(row.part)
        shared = sorted(image for image, found in parts.items() if len(found) > 1)
        items = [
            Item(
                key=key,
                files=self.sources(f"{self.images}/{row.image}", row.file, self._files["train"]),
                columns={"sentiment": row.label, "split": row.part, "image_name": row.image},
            )
            for key, row in rows.items()
        ]
        official = SplitSpec(
            "split", ("train",), ("validation",), ("test",), groups=("image_name",), overlapping=bool(shared),
            description="the authors' train.tsv, dev.tsv and test.tsv",
        )  # fmt: skip
        used = {row.image for row in rows.values()}
        stray = sorted(p.name for p in self.path(self.images).iterdir() if p.name not in used)
        return Index(
            items=tuple(items),
            targets={"sentiment": Target("sentiment", classes=CLASSES, description="towards the target words")},
            protocols={"official": official},
            groups=("image_name",),
            missing=tuple(missing),
            notes={
                "images_in_several_parts": shared,
                "images_not_used": len(stray),
                "not_utf8": self._encodings,
                **self.text_notes(),
            },
            files=self.vocabulary_file(),
        )

    @cached_property
    def _files(self) -> dict[Part, str]:
        """Part -> file; the folder is the first that holds a list of the training part."""
        found: dict[Part, str] = {}
        folders = self.texts
        for part in PARTS:
            names = [f"{folder}/{stem}.tsv" for folder in folders for stem in _STEMS[part]]
            there = next((name for name in names if self.path(name).is_file()), names[0])
            self.require(there)
            found[part], folders = there, (there.rpartition("/")[0],)
        self.require(self.images)
        return found

    @cached_property
    def _read(self) -> tuple[dict[str, _Row], list[Problem], dict[str, int]]:
        rows: dict[str, _Row] = {}
        missing: list[Problem] = []
        encodings: dict[str, int] = {}
        for part, name in self._files.items():
            lines, found = read_lines(self.path(name))
            encodings |= {f"{name}: {k}": n for k, n in found.items()}
            header = lines[0] if lines else ""
            if "ImageID" not in header or "String" not in header:
                raise DataError(
                    f"{name}: line 1: expected a header with ImageID and String, separated by tabs. Found "
                    f"{header.strip()[:60]!r}."
                )
            for number, line in enumerate(lines[1:], 2):
                if not line.strip():
                    continue
                # quotation marks are text here; the header of test.tsv lacks the label, its lines have it
                fields = [value.strip() for value in line.rstrip("\r\n").split("\t")]
                if len(fields) != 5 or fields[1] not in ("0", "1", "2") or not fields[2] or "/" in fields[2]:
                    reason = f"line {number}: expected number, label 0 to 2, image, text, target, separated by tabs"
                    missing.append(Problem(name, reason))
                    continue
                rows[f"{part}-{number:05d}"] = _Row(part, name, number, int(fields[1]), *fields[2:])
        return rows, missing, encodings

    @property
    def _table(self) -> tuple[dict[str, _Row], list[Problem]]:
        return self._read[:2]

    @property
    def _encodings(self) -> dict[str, int]:
        return self._read[2]

    def text_of(self, item: Item) -> tuple[str, str | None]:
        """Text and target, as ``target`` says."""
        row = self._read[0][item.key]
        if self.parameters.target == "insert":
            return row.text.replace(_MARK, row.target), None
        return row.text, row.target if self.parameters.target == "pair" else None

    def training_texts(self) -> Iterable[str]:
        """Texts and targets of the training part."""
        for row in self._read[0].values():
            if row.part == "train":
                yield row.text.replace(_MARK, row.target) if self.parameters.target == "insert" else row.text
                if self.parameters.target == "pair":
                    yield row.target


class Twitter2015(Twitter):
    """Twitter-2015, prepared from the authors' download."""

    name = "twitter2015"
    texts = ("twitter2015", "absa_data/twitter2015", "annotations")
    images = "twitter2015_images"


class Twitter2017(Twitter):
    """Twitter-2017, prepared from the authors' download."""

    name = "twitter2017"
    texts = ("twitter2017", "absa_data/twitter", "annotations")
    images = "twitter2017_images"
