"""UPMC Food-101: the dish on a photograph, with the title of the recipe's page."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

from equimodal.data.prepare import Index, Item, Problem, SplitSpec, Target, UnreadableError
from equimodal.data.prepare.datasets._image_text import ImageText, ImageTextParameters, unlisted
from equimodal.data.prepare.datasets._splits import Part, carve, read_listed
from equimodal.data.prepare.readers import Clean, read_encoded, read_lines
from equimodal.errors import DataError

_SUFFIXES = (".jpg", ".jpeg", ".png")
_FOLDERS = ("train", "test")


@dataclass(frozen=True)
class Parameters(ImageTextParameters):
    """How images and texts are stored.

    Args:
        size: height and width of the stored image. Source: CGGM, datasets/FOODDataset.py.
        fit: ``squash`` (the aspect is not kept) or ``crop`` (shorter side, then the centre). Source: CGGM, as above.
        shorter: shorter side for ``crop`` before the centre is cut out; 0 is ``size``. Source: ours; MMBT takes 256.
        interpolation: ``bilinear`` or ``bicubic``. Source: CGGM, as above (torchvision's default).
        normalise: what loading does: ``imagenet`` or ``clip`` deviations, or ``scale`` to 0..1. Source: MLA,
            dataset/dataset.py.
        text: ``titles`` (texts/train_titles.csv) or ``pages`` (texts_txt/CLASS/NAME.txt). Source: QMF and CGGM take
            titles, MMBT pages.
        length: ids per text; longer texts are cut. Source: CGGM, as above (50; MLA 256).
        clean: ``none``, ``titles`` (punctuation to blanks, lower case), ``captions`` or ``letters``. Source: MMBT,
            scripts/food_101.py, whose output QMF and MLA use.
        tokenizer: folder of a transformers tokenizer, as ``save_pretrained`` writes it; empty: words of the training
            texts. Source: MLA and CGGM take bert-base-uncased.
        special: add the tokenizer's special tokens. Source: CGGM, as above (MLA does not).
        vocabulary: largest number of ids of the built-in vocabulary. Source: ours, the size of BERT's.
        min_count: a training word that is rarer is unknown to the built-in vocabulary. Source: ours.
        validation: share of the training images of each class, drawn by SHA-256, that is for validation. Source: ours;
            MMBT and QMF draw 5000 (see ``lists``).
        lists: folder with train.jsonl, dev.jsonl and test.jsonl, which then say the parts. Source: QMF,
            text-image-classification/datasets/food101.
    """

    length: int = 50
    clean: Clean = "titles"
    text: Literal["titles", "pages"] = "titles"
    validation: float = 0.1
    lists: str = field(default="", metadata={"path": True})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.validation < 1:
            raise DataError(f"`validation`: expected a share between 0 and 1. Found {self.validation!r}.")


class _Row(NamedTuple):
    image: str  # relative to the source
    label: str
    folder: str
    text: str  # the title, or the file of the page


class Food101(ImageText[Parameters]):
    """UPMC Food-101 from ``images/{train,test}/CLASS/*.jpg`` and titles or pages."""

    name = "food101"
    Parameters = Parameters

    def index(self) -> Index:
        """One item per title (or per image, with pages)."""
        rows, missing, ignored = self._rows, list(self._problems), list(self._ignored)
        classes = sorted({row.label for row in rows.values() if row.folder == "train"})
        for image, row in rows.items():
            if row.label not in classes:
                raise DataError(
                    f"{image}: expected a class that has training samples. Found {row.label!r} in test only."
                )
        parts = self._parts
        if self.parameters.lists:
            listed = read_listed(self.parameters.lists)
            missing += [Problem(image, "listed, and without a text") for image in sorted(set(listed) - set(rows))]
            ignored += [Problem(image, "in none of the lists") for image in sorted(set(rows) - set(listed))]
            for image in rows.keys() & listed.keys():
                if listed[image][1] != rows[image].label:
                    raise DataError(
                        f"`lists`: expected the label {rows[image].label!r} for {image}, as in the source. Found "
                        f"{listed[image][1]!r}."
                    )
        items = [
            Item(
                key=image.removeprefix("images/").rpartition(".")[0],
                files=self.sources(image, *self._texts(row)),
                columns={"dish": classes.index(row.label), "split": parts[image]},
            )
            for image, row in rows.items()
            if image in parts
        ]
        return Index(
            items=tuple(items),
            targets={"dish": Target("dish", classes=tuple(classes), description="class folder of the image")},
            protocols={"official": self._protocol()},
            missing=tuple(missing),
            ignored=tuple(ignored),
            notes={"classes": len(classes), "not_utf8": self._encodings, **self.text_notes()},
            files=self.vocabulary_file(),
        )

    def _protocol(self) -> SplitSpec:
        how = "the lists given" if self.parameters.lists else f"{self.parameters.validation:g} of each training class"
        return SplitSpec(
            "split", ("train",), ("validation",), ("test",),
            description=f"the folders images/train and images/test; validation: {how}",
        )  # fmt: skip

    def _texts(self, row: _Row) -> tuple[str, ...]:
        if self.parameters.text == "pages":
            return (row.text,)
        return f"texts/{row.folder}_titles.csv", "texts/train_titles.csv"

    def text_of(self, item: Item) -> tuple[str, str | None]:
        """Title, or page."""
        row = self._rows[item.files["image"][0]]
        if self.parameters.text == "titles":
            return row.text, None
        text, _ = read_encoded(self.path(row.text))
        if not text.strip():
            raise UnreadableError("a page without text")
        return text, None

    def training_texts(self) -> Iterable[str]:
        """Titles or pages of the training part; a page that is not there is left out here and reported later."""
        for image, row in self._rows.items():
            if self._parts.get(image) != "train":
                continue
            if self.parameters.text == "titles":
                yield row.text
            elif self.path(row.text).is_file():
                with contextlib.suppress(UnreadableError):  # counted where it is decoded
                    yield read_encoded(self.path(row.text))[0]

    @cached_property
    def _parts(self) -> dict[str, Part]:
        """Image -> part."""
        if self.parameters.lists:
            listed = read_listed(self.parameters.lists)
            return {image: listed[image][0] for image in self._rows if image in listed}
        training = {image: row.label for image, row in self._rows.items() if row.folder == "train"}
        parts = carve(self.name, training, {"validation": self.parameters.validation})
        return {**dict.fromkeys(self._rows, "test"), **parts}

    @cached_property
    def _read(self) -> tuple[dict[str, _Row], list[Problem], list[Problem], dict[str, int]]:
        """Rows by image, samples that are not there, files that are no samples, lines by encoding."""
        self.require("images/train", "images/test")
        if self.parameters.text == "pages":
            self.require("texts_txt")
            return self._from_pages()
        self.require("texts/train_titles.csv", "texts/test_titles.csv")
        rows: dict[str, _Row] = {}
        missing: list[Problem] = []
        ignored: list[Problem] = []
        encodings: dict[str, int] = {}
        for folder in _FOLDERS:
            name = f"texts/{folder}_titles.csv"
            lines, found = read_lines(self.path(name))
            encodings |= {f"{name}: {k}": n for k, n in found.items()}
            for number, fields in _records(name, lines):
                # the published files have no header
                if len(fields) != 3 or not _plain(fields[0]) or not _plain(fields[2]):
                    missing.append(
                        Problem(name, f"line {number}: expected image,title,class, found {len(fields)} fields")
                    )
                    continue
                label = fields[2].strip()
                image = f"images/{folder}/{label}/{fields[0].strip()}"
                if image in rows:
                    ignored.append(Problem(name, f"line {number}: {image} a second time"))
                    continue
                rows[image] = _Row(image, label, folder, fields[1])
            ignored += unlisted(self.path(f"images/{folder}"), f"images/{folder}/", set(rows), _SUFFIXES, "no title")
        return rows, missing, ignored, encodings

    def _from_pages(self) -> tuple[dict[str, _Row], list[Problem], list[Problem], dict[str, int]]:
        rows: dict[str, _Row] = {}
        ignored: list[Problem] = []
        for folder in _FOLDERS:
            for path in sorted(self.path(f"images/{folder}").rglob("*")):
                name = path.relative_to(self.raw).as_posix()
                if path.is_dir():
                    continue
                if path.suffix.lower() not in _SUFFIXES or len(name.split("/")) != 4:
                    ignored.append(Problem(name, "expected CLASS/NAME.jpg"))
                    continue
                label = path.parent.name
                rows[name] = _Row(name, label, folder, f"texts_txt/{label}/{path.stem}.txt")
        return rows, [], ignored, {}

    @property
    def _rows(self) -> dict[str, _Row]:
        return self._read[0]

    @property
    def _problems(self) -> list[Problem]:
        return self._read[1]

    @property
    def _ignored(self) -> list[Problem]:
        return self._read[2]

    @property
    def _encodings(self) -> dict[str, Any]:
        return dict(self._read[3])


def _plain(name: str) -> bool:
    """Whether a field can be the name of a file or folder."""
    return bool(name.strip()) and "/" not in name and not name.strip().startswith(".")


def _records(name: str, lines: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Last line and fields of each record; titles may hold commas, quotes and line breaks."""
    reader = csv.reader(lines, strict=True)
    try:
        for fields in reader:
            if fields:
                yield reader.line_num, fields
    except csv.Error as error:
        raise DataError(
            f"{name}: line {reader.line_num}: expected comma-separated fields, quoted where they hold commas. Found: "
            f"{error}. Download the file again."
        ) from error
