"""CMU-MOSI and CMU-MOSEI: sentiment of spoken sentences, from the pickled feature files in use."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from equimodal.data.prepare import ArraySpec, Index, Item, Preparation, Problem, SplitSpec, Target
from equimodal.data.prepare.datasets._parameters import check_parameters
from equimodal.data.prepare.readers import read_pickle
from equimodal.errors import DataError

Array = npt.NDArray[Any]
Layout = Literal["aligned", "unaligned"]
MODALITIES = ("text", "audio", "vision")
PARTS = {"train": ("train",), "valid": ("valid", "dev", "val"), "test": ("test",)}
_LIMIT = 3.0
_VIDEO = re.compile(r"(.+?)(?:\$_\$.*|\[\d+\]|_\d+)")
_UNITS = {"text": "word embedding", "audio": "COVAREP features", "vision": "FACET features"}


@dataclass(frozen=True)
class Parameters:
    """Which feature file is read, and how.

    Args:
        layout: ``"aligned"``: all modalities have the steps of the words; ``"unaligned"``: steps of their own. Source:
            the files of MMSA and MulT; CGGM's command leaves the file to its user.
        file: path of the pickle below the source folder; left out, the known names of the layout are looked for.
            Source: MMSA, config (aligned_50.pkl, unaligned_50.pkl); MulT, src/dataset.py (..._data.pkl,
            ..._data_noalign.pkl).
    """

    layout: Layout = "aligned"
    file: str = ""

    def __post_init__(self) -> None:
        check_parameters(self)


@dataclass(frozen=True)
class Part:
    """One part of a file, cleaned: values (N, T, F) and masks (N, T) per modality, scores (N,), ids."""

    values: Mapping[str, Array]
    masks: Mapping[str, Array]
    scores: Array
    ids: tuple[str, ...]
    tokens: Array | None
    cleaned: Mapping[str, Mapping[str, int]]
    empty: Mapping[str, int]


class _CMU(Preparation[Parameters]):
    """A pickled feature file of the CMU sentiment sets."""

    Parameters = Parameters
    parallel = False  # everything is in one file
    stem: ClassVar[str] = ""

    @cached_property
    def file(self) -> str:
        """The pickle, relative to the source folder."""
        if self.parameters.file:
            if not self.path(self.parameters.file).is_file():
                raise DataError(f"`file`: expected a pickle below {self.raw}. Found no {self.parameters.file!r}.")
            return self.parameters.file
        folder = self.name.removeprefix("cmu-").upper()
        kind = self.parameters.layout
        names = [f"{kind}_50.pkl", f"{self.stem}_data{'' if kind == 'aligned' else '_noalign'}.pkl"]
        known = [
            f"{place}{name}" for name in names for place in ("", "Processed/", f"{folder}/Processed/", f"{folder}/")
        ]
        found = [name for name in known if self.path(name).is_file()]
        if len(found) != 1:
            there = found or sorted(p.relative_to(self.raw).as_posix() for p in self.raw.rglob("*.pkl"))[:8]
            raise DataError(
                f"{self.raw}: expected one {kind} file, {' or '.join(names)}. Found {there or 'no pickle'}. "
                "Name it with `file` (--file PATH below the source folder)."
            )
        return found[0]

    @cached_property
    def parts(self) -> dict[str, Part]:
        """The cleaned parts of the file, all with arrays of the same shapes."""
        path = self.path(self.file)
        content = read_pickle(path)
        if not isinstance(content, dict):
            raise DataError(
                f"{path}: expected a dictionary with train, valid and test. Found {type(content).__name__}."
            )
        parts, there = {}, sorted(map(str, content))
        for name, aliases in PARTS.items():
            alias = next((a for a in aliases if a in content), None)
            if alias is None or not isinstance(content[alias], dict):
                raise DataError(f"{path}: expected the part {name!r}. Found {there[:8]}.")
            parts[name] = read_part(content.pop(alias), f"{path}: part {name!r}")
        first = parts["train"]
        for name, part in parts.items():
            for modality in MODALITIES:
                expected, own = first.values[modality].shape[1:], part.values[modality].shape[1:]
                if expected != own:
                    raise DataError(
                        f"{path}: part {name!r}: `{modality}`: expected {expected} as in train. Found {own}."
                    )
        steps = {m: first.values[m].shape[1] for m in MODALITIES}
        if self.parameters.layout == "aligned" and len(set(steps.values())) > 1:
            raise DataError(
                f"{path}: expected the same number of steps in every modality of an aligned file. Found {steps}. Is it "
                "an unaligned one (`layout`: --layout unaligned)?"
            )
        return parts

    def index(self) -> Index:
        """One item per sample; columns are scores, their signs, parts and videos."""
        items, missing, owners = [], [], dict[str, set[str]]()
        for name, part in self.parts.items():
            for position, (score, identity) in enumerate(zip(part.scores.tolist(), part.ids)):
                key = f"{name}-{position:05d}"
                if score != score:
                    missing.append(Problem(f"{self.file}: {key}", "its score is NaN"))
                    continue
                video = match[1] if (match := _VIDEO.fullmatch(identity)) else identity or "unknown"
                owners.setdefault(video, set()).add(name)
                columns = {
                    "score": score, "non_negative": int(score >= 0), "positive": int(score > 0), "id": identity,
                    "video": video, "split": name, "split_nonzero": name if score else "neutral",
                }  # fmt: skip
                items.append(Item(key, dict.fromkeys(self.arrays(), (self.file,)), columns))
        shared = sum(len(parts) > 1 for parts in owners.values())
        protocols = {
            name: SplitSpec(
                column, ("train",), ("valid",), ("test",), description=text, groups=("video",), overlapping=shared > 0
            )
            for name, column, text in (
                ("official", "split", "the parts of the file"),
                ("official-nonzero", "split_nonzero", "the parts of the file without samples of score 0"),
            )
        }
        return Index(
            items=tuple(items),
            targets={
                "score": Target("score", "regression", description="sentiment from -3 to 3, mean of several raters"),
                "non-negative": Target("non_negative", classes=("negative", "non-negative"), description="score >= 0"),
                "positive": Target("positive", classes=("not positive", "positive"), description="score > 0"),
            },
            protocols=protocols,
            groups=("video",),
            missing=tuple(missing),
            notes={
                "cleaned": {name: part.cleaned for name, part in self.parts.items()},
                "empty": {name: part.empty for name, part in self.parts.items()},
                "counts": {name: len(part.scores) for name, part in self.parts.items()},
                "videos in several parts": shared,
            },
        )

    def arrays(self) -> Mapping[str, ArraySpec]:
        """Values and masks of the three modalities; the shapes are those of the file."""
        train, specs = self.parts["train"], {}
        for name in MODALITIES:
            steps, width = train.values[name].shape[1:]
            specs[name] = ArraySpec(
                (steps, width), "float32", "sequence", _UNITS[name], standardise="per-feature", mask=f"{name}_mask",
                description=f"{self.parameters.layout}, padded",
            )  # fmt: skip
            specs[f"{name}_mask"] = ArraySpec((steps,), "bool", description=f"real steps of {name}")
        if train.tokens is not None:
            specs["tokens"] = ArraySpec(
                train.tokens.shape[1:], "int32", "tokens", description="word pieces of bert-base-uncased", default=False
            )
        return specs

    def decode(self, item: Item, name: str) -> Array:
        """One array of one sample."""
        part, _, position = item.key.partition("-")
        own, row = self.parts[part], int(position)
        if name == "tokens":
            return np.zeros(0) if own.tokens is None else own.tokens[row]
        mask = name.endswith("_mask")
        found: Array = (own.masks[name.removesuffix("_mask")] if mask else own.values[name])[row]
        return found


class Mosi(_CMU):
    """CMU-MOSI from a pickled feature file."""

    name = "cmu-mosi"
    stem = "mosi"


class Mosei(_CMU):
    """CMU-MOSEI from a pickled feature file."""

    name = "cmu-mosei"
    stem = "mosei_senti"


def read_part(content: Mapping[str, Any], where: str) -> Part:
    """A part of the file, its schema checked; what is not finite becomes 0 and is counted.

    Raises:
        DataError: a field is missing, or has the wrong shape or type.
    """
    values, masks, cleaned, empty = {}, {}, {}, {}
    scores = _scores(content, where)
    size = len(scores)
    tokens = _tokens(content, size, where)
    for name in MODALITIES:
        array = _array(content, name, where)
        if array.ndim != 3 or array.dtype.kind not in "fiu" or len(array) != size or 0 in array.shape[1:]:
            raise DataError(
                f"{where}: `{name}`: expected numbers of shape ({size}, steps, features). Found {array.dtype} "
                f"{array.shape}."
            )
        values[name], cleaned[name] = clean(array)
        masks[name] = _mask(content, name, values[name], tokens, where)
        nothing = ~masks[name].any(1)
        masks[name][nothing, 0] = True
        empty[name] = int(nothing.sum())
    return Part(
        values, masks, scores, _ids(content, size, where), None if tokens is None else tokens[0], cleaned, empty
    )


def clean(array: Array) -> tuple[Array, dict[str, int]]:
    """``array`` as float32 with 0 for everything that is not finite, and how much of what there was."""
    with np.errstate(over="ignore"):
        found = np.array(array, dtype=np.float32)
    counts = {
        "-inf": int(np.isneginf(found).sum()),
        "inf": int(np.isposinf(found).sum()),
        "nan": int(np.isnan(found).sum()),
    }
    found[~np.isfinite(found)] = 0
    return found, counts


def _array(content: Mapping[str, Any], name: str, where: str) -> Array:
    if name not in content:
        raise DataError(f"{where}: expected the field `{name}`. Found {sorted(map(str, content))}.")
    try:
        return np.asarray(content[name])
    except ValueError as error:
        raise DataError(
            f"{where}: `{name}`: expected one array. Found pieces of different shapes ({error})."
        ) from error


def _scores(content: Mapping[str, Any], where: str) -> Array:
    name = "regression_labels" if "regression_labels" in content else "labels"
    found = _array(content, name, where)
    if found.dtype.kind not in "fiu" or found.ndim == 0 or found.size != len(found) or not len(found):
        raise DataError(f"{where}: `{name}`: expected one number per sample. Found {found.dtype} {found.shape}.")
    scores = found.reshape(-1).astype(np.float64)
    worst = float(np.nanmax(np.abs(scores), initial=0.0))
    if worst > _LIMIT + 1e-6:
        raise DataError(f"{where}: `{name}`: expected scores from -3 to 3. Found {worst:g}; these are other labels.")
    return scores


def _tokens(content: Mapping[str, Any], size: int, where: str) -> tuple[Array, Array] | None:
    """Token numbers (N, T) and their mask."""
    if content.get("text_bert") is None:
        return None
    found = _array(content, "text_bert", where)
    if found.ndim != 3 or found.shape[:2] != (size, 3) or found.dtype.kind not in "fiu":
        raise DataError(
            f"{where}: `text_bert`: expected ({size}, 3, steps) numbers. Found {found.dtype} {found.shape}."
        )
    return found[:, 0].astype(np.int32), found[:, 1] > 0


def _mask(
    content: Mapping[str, Any], name: str, values: Array, tokens: tuple[Array, Array] | None, where: str
) -> npt.NDArray[np.bool_]:
    size, steps = values.shape[:2]
    field = f"{name}_lengths"
    if content.get(field) is not None:
        lengths = _array(content, field, where)
        if lengths.size != size or lengths.dtype.kind not in "fiu":
            raise DataError(
                f"{where}: `{field}`: expected {size} whole numbers. Found {lengths.dtype} {lengths.shape}."
            )
        lengths = lengths.reshape(-1)
        if lengths.min() < 0 or lengths.max() > steps:
            found = f"{lengths.min()} to {lengths.max()}"
            raise DataError(f"{where}: `{field}`: expected 0 to {steps}, the steps of `{name}`. Found {found}.")
        return np.asarray(np.arange(steps) < lengths[:, None])
    if name == "text" and tokens is not None and tokens[1].shape[1] == steps:
        return tokens[1].copy()
    return np.asarray((values != 0).any(2))


def _ids(content: Mapping[str, Any], size: int, where: str) -> tuple[str, ...]:
    """Names of the samples, as they are; empty where the file has none."""
    given = content.get("id")
    if given is None:
        return ("",) * size
    if len(given) != size:
        raise DataError(f"{where}: `id`: expected {size} names. Found {len(given)}.")
    return tuple(
        _text(entry if isinstance(entry, (str, bytes)) or np.ndim(entry) == 0 else entry[0]) for entry in given
    )


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
