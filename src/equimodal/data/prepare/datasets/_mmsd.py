"""MMSD and MMSD2.0: whether a tweet with an image is sarcastic."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

from equimodal.data.prepare import Index, Item, Problem, SplitSpec, Target
from equimodal.data.prepare.datasets._image_text import ImageText, ImageTextParameters
from equimodal.data.prepare.datasets._splits import PARTS, Part
from equimodal.data.prepare.readers import Clean, read_lines
from equimodal.errors import DataError

CLASSES = ("not sarcastic", "sarcastic")
# posts with one of these are in the lists, but their images were never published: authors' codes/loadData.py
DISCARDED = frozenset(
    ("exgag", "sarcasm", "sarcastic", "reposting", "<url>", "joke", "humour", "humor", "jokes", "irony", "ironic")
)
_LISTS = {"train": "train.txt", "validation": "valid2.txt", "test": "test2.txt"}
_JSON = {"train": "train.json", "validation": "valid.json", "test": "test.json"}
_FOLDERS = {"mmsd": ("text",), "mmsd2": ("text_json_final", "data/text_json_final")}
_IMAGES = ("dataset_image", "data/dataset_image", "images")


@dataclass(frozen=True)
class Parameters(ImageTextParameters):
    """How images and texts are stored.

    Args:
        size: height and width of the stored image. Source: MIE, configs/sarcasm.json.
        fit: ``squash`` (the aspect is not kept) or ``crop`` (shorter side, then the centre). Source: MIE (test images).
        shorter: shorter side for ``crop`` before the centre is cut out; 0 is ``size``. Source: ours.
        interpolation: ``bilinear`` or ``bicubic``. Source: ours; MIE takes ``bicubic``.
        normalise: what loading does: ``imagenet`` or ``clip`` deviations, or ``scale`` to 0..1. Source: ours; MIE takes
            ``clip``.
        length: ids per text; longer texts are cut. Source: ours; MIE cuts at 50 words before the tokenizer.
        clean: ``none``, ``titles``, ``captions`` (punctuation deleted, lower case) or ``letters``. Source: MIE,
            datasets/sarcasm_dataset.py, takes ``captions``.
        tokenizer: folder of a transformers tokenizer, as ``save_pretrained`` writes it; empty: words of the training
            texts. Source: MIE takes bert-base-uncased.
        special: add the tokenizer's special tokens. Source: MIE.
        vocabulary: largest number of ids of the built-in vocabulary. Source: ours, the size of BERT's.
        min_count: a training word that is rarer is unknown to the built-in vocabulary. Source: ours.
        version: ``mmsd``, from text/*.txt, or ``mmsd2``, from text_json_final/*.json. Source: Cai et al. 2019, and
            Qin et al. 2023.
        labels: of MMSD's validation and test posts: ``people`` (annotators) or ``hashtag`` (as in training). Source:
            authors' codes/loadData.py takes the last entry, which is ``people``.
    """

    length: int = 80
    clean: Clean = "none"
    version: Literal["mmsd", "mmsd2"] = "mmsd"
    labels: Literal["people", "hashtag"] = "people"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.version == "mmsd2" and self.labels == "hashtag":
            raise DataError("`labels`: expected 'people' with version='mmsd2', which has one label. Found 'hashtag'.")


class _Row(NamedTuple):
    part: Part
    file: str
    text: str
    label: int


class MMSD(ImageText[Parameters]):
    """Multi-modal sarcasm detection, from lists of posts and ``dataset_image/ID.jpg``."""

    name = "mmsd"
    Parameters = Parameters

    def index(self) -> Index:
        """One item per post whose image was published."""
        rows, missing, discarded, encodings = self._read
        folder = self._first("images", _IMAGES)
        items = [
            Item(
                key=key,
                files=self.sources(f"{folder}/{key}.jpg", row.file, self._files["train"]),
                columns={"sarcasm": row.label, "split": row.part},
            )
            for key, row in rows.items()
        ]
        used = {f"{key}.jpg" for key in rows}
        stray = sum(path.name not in used for path in self.path(folder).iterdir())
        official = SplitSpec(
            "split", ("train",), ("validation",), ("test",), description="the authors' three lists of posts"
        )
        return Index(
            items=tuple(items),
            targets={"sarcasm": Target("sarcasm", classes=CLASSES)},
            protocols={"official": official},
            missing=tuple(missing),
            notes={
                "posts_discarded": discarded,
                "images_not_used": stray,
                "not_utf8": encodings,
                **self.text_notes(),
            },
            files=self.vocabulary_file(),
        )

    def text_of(self, item: Item) -> tuple[str, str | None]:
        """The post."""
        return self._read[0][item.key].text, None

    def training_texts(self) -> Iterable[str]:
        """Posts of the training part."""
        return [row.text for row in self._read[0].values() if row.part == "train"]

    def _first(self, what: str, candidates: tuple[str, ...]) -> str:
        for name in candidates:
            if self.path(name).is_dir():
                return name
        self.require(candidates[0])
        raise DataError(f"{self.raw}: expected a folder of {what}.")

    @cached_property
    def _files(self) -> dict[Part, str]:
        """Part -> file."""
        texts = self._first("texts", _FOLDERS[self.parameters.version])
        names = _LISTS if self.parameters.version == "mmsd" else _JSON
        files = {part: f"{texts}/{names[part]}" for part in PARTS}
        self.require(*files.values())
        return files

    @cached_property
    def _read(self) -> tuple[dict[str, _Row], list[Problem], dict[str, int], dict[str, int]]:
        """Posts by id, lines that are none, posts discarded by part, lines that are not UTF-8 by file."""
        old = self.parameters.version == "mmsd"
        rows: dict[str, _Row] = {}
        missing: list[Problem] = []
        discarded: dict[str, int] = {}
        encodings: dict[str, int] = {}
        for part, file in self._files.items():
            lines, found = read_lines(self.path(file))
            encodings |= {f"{file}: {k}": n for k, n in found.items()}
            for where, post in self._lines(file, lines, part) if old else _objects(file, "".join(lines)):
                if post is None:
                    missing.append(Problem(file, f"{where}: expected {_form(part) if old else _OBJECT}"))
                    continue
                key, text, label = post
                if old and DISCARDED & set(text.split()):
                    discarded[part] = discarded.get(part, 0) + 1
                elif key in rows:
                    raise DataError(f"{file}: {where}: expected a post that is listed once. Found {key} again.")
                else:
                    rows[key] = _Row(part, file, text, label)
        return rows, missing, discarded, encodings

    def _lines(self, file: str, lines: list[str], part: Part) -> Iterator[tuple[str, tuple[str, str, int] | None]]:
        """Posts of a .txt list: each line is a Python list, read as a literal and never run."""
        size = 3 if part == "train" else 4
        position = -1 if self.parameters.labels == "people" else 2
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                entry = ast.literal_eval(line.strip())
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                entry = None
            fits = isinstance(entry, list) and len(entry) == size and isinstance(entry[1], str)
            fits = fits and str(entry[0]).isdecimal() and all(value in (0, 1) for value in entry[2:])
            yield f"line {number}", (str(entry[0]), entry[1], int(entry[position])) if fits else None


_OBJECT = '{"image_id": number, "text": text, "label": 0 or 1}'


def _form(part: Part) -> str:
    return "['ID', 'text', label]" if part == "train" else "['ID', 'text', label, label]"


def _objects(file: str, text: str) -> Iterator[tuple[str, tuple[str, str, int] | None]]:
    """Posts of a .json file."""
    try:
        entries: Any = json.loads(text)
    except ValueError as error:
        raise DataError(f"{file}: expected JSON. Found: {error}. Download the file again.") from error
    if not isinstance(entries, list):
        raise DataError(f"{file}: expected a list of {_OBJECT}. Found {type(entries).__name__}.")
    for number, entry in enumerate(entries, 1):
        fits = isinstance(entry, dict) and isinstance(entry.get("text"), str) and entry.get("label") in (0, 1)
        fits = fits and str(entry.get("image_id")).isdecimal()
        yield f"entry {number}", (str(entry["image_id"]), entry["text"], int(entry["label"])) if fits else None
