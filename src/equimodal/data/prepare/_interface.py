"""What a dataset says about itself, so that the engine can prepare it: items, arrays, targets, splits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from equimodal.data._modality import Kind
from equimodal.data.prepare._facts import Facts
from equimodal.data.prepare._facts_file import FactsFile
from equimodal.errors import DataError

Array = npt.NDArray[Any]
Value = int | float | str


class UnreadableError(DataError):
    """A raw file is missing, truncated, corrupt or not what its name says; the text is the reason in the manifest.

    ``Preparation.decode`` raises it. The engine lists the file and goes on; any other exception stops the run.
    """


@dataclass(frozen=True)
class ArraySpec:
    """One array of the bundle: what ``decode`` returns for one sample, and how the card describes it.

    Args:
        shape: of one sample, as it is stored.
        dtype: as it is stored: the smallest type that loses nothing (``"uint8"`` for pixels, ``"float32"`` ...).
        kind: of the modality after ``transforms``; ``None`` for an array that is no modality (a segmentation mask).
        units: units of the numbers after ``transforms``.
        description: one sentence for people.
        transforms: what loading does to it, as in a card (``({"scale": 1 / 255},)``).
        standardise: ``"none"``, ``"global"``, ``"per-feature"`` or ``"per-channel"``, with training statistics.
        mask: of a sequence: the array (without ``kind``) or column that says which steps are real: booleans (T,) per
            sample, or its length.
        of: of an array without ``kind``: the modality that it tells something about, and is absent with.
        default: ``False``: loaded only when asked for.
    """

    shape: tuple[int, ...]
    dtype: str
    kind: Kind | None = None
    units: str = ""
    description: str = ""
    transforms: tuple[Mapping[str, Any] | str, ...] = ()
    standardise: str = "none"
    mask: str = ""
    of: str = ""
    default: bool = True


@dataclass(frozen=True)
class Item:
    """What is decoded at once: usually one sample, or ``count`` samples of one recording (slices of a volume).

    Args:
        key: unique, the same on every machine; samples are in the order of the keys.
        files: array name -> the raw files it is decoded from, relative to the source folder with ``/``; at least one
            for each array. A file that is not there is found and reported by the engine, not by ``index``.
        columns: column name -> value, or one value per sample: labels, groups, split names. Each becomes an array.
        count: ``None``: one sample, and ``decode`` returns ``spec.shape``; else it returns ``(count, *spec.shape)``.
    """

    key: str
    files: Mapping[str, tuple[str, ...]]
    columns: Mapping[str, Value | Sequence[Value]] = field(default_factory=dict)
    count: int | None = None

    @property
    def samples(self) -> int:
        """Number of samples."""
        return 1 if self.count is None else self.count


@dataclass(frozen=True)
class Target:
    """One target of the card; ``array`` is a column of the items, or an array without ``kind`` (a mask)."""

    array: str
    task: str = "classification"
    classes: tuple[str, ...] = ()
    description: str = ""
    regions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Of a segmentation: region -> its classes, by which it is scored; empty: every class but the first is one."""


@dataclass(frozen=True)
class SplitSpec:
    """A named split protocol, field for field as in a card (``docs/data.md``).

    Args:
        column: column of the items whose values name the parts.
        train: its values of the training samples.
        validation: its values, or ``{"carve": 0.1, "seed": 0, "by": "class"}`` (``by``: also a group).
        test: its values of the test samples; empty: the protocol has no test part.
        description: one sentence.
        groups: columns that no two parts may share, which is checked.
        overlapping: groups are shared all the same, which is printed with every number.
        modalities: what the protocol loads; empty: the default ones.
    """

    column: str
    train: tuple[Value, ...]
    validation: tuple[Value, ...] | Mapping[str, Any]
    test: tuple[Value, ...] = ()
    description: str = ""
    groups: tuple[str, ...] = ()
    overlapping: bool = False
    modalities: tuple[str, ...] = ()


@dataclass(frozen=True)
class Problem:
    """A raw file that could not be used, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Index:
    """Everything that is known before anything is decoded.

    Args:
        items: in any order, with different keys.
        targets: target name -> :class:`Target`; the first is the default.
        protocols: protocol name -> :class:`SplitSpec`; the first is the default.
        groups: columns that are groups (speaker, patient ...).
        missing: samples that should be there (a list names them) and are not; they count for ``max_missing``.
        ignored: files that are no samples (wrong name); listed, not counted.
        notes: what else was found, for the manifest (plain values).
        files: name -> text of files that go into the bundle and that ``decode`` depends on (a vocabulary).
    """

    items: tuple[Item, ...]
    targets: Mapping[str, Target]
    protocols: Mapping[str, SplitSpec]
    groups: tuple[str, ...] = ()
    missing: tuple[Problem, ...] = ()
    ignored: tuple[Problem, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


P = TypeVar("P")


class Preparation(ABC, Generic[P]):
    """How one dataset gets from its raw download into a bundle; a subclass in one private file.

    An instance is sent to the worker processes, so ``__init__`` stays as it is; what is opened once (a table, an .h5
    file) is a ``functools.cached_property``.

    Args:
        raw: the folder of the raw download.
        parameters: a frozen dataclass, ``Parameters`` of the class. Its docstring gives each entry its meaning and
            ends it with ``Source: ...``. A field with ``metadata={"path": True}`` is a file or folder of the user's:
            the manifest holds the hash of its content instead of the path.
    """

    name: ClassVar[str]
    facts: ClassVar[Facts] = FactsFile()  # type: ignore[assignment]  # a descriptor, which a class may replace by Facts
    """What its page says, from ``facts/NAME.yaml`` beside the module of the class unless the class sets it."""
    Parameters: ClassVar[type[Any]]
    packages: ClassVar[tuple[str, ...]] = ()
    """Modules that are imported (``"av"``, ``"PIL"``): asked for before work begins; versions go to the manifest."""
    max_missing: ClassVar[float] = 0.01
    """Largest share of samples that may be missing, unless the user says otherwise."""
    incomplete: ClassVar[Literal["drop", "keep"]] = "drop"
    """What becomes of a sample of which one modality cannot be read, unless the user says otherwise."""
    parallel: ClassVar[bool] = True
    """``False``: everything is in one large file, which is better read in one process."""

    def __init__(self, raw: Path, parameters: P) -> None:
        self.raw = raw
        self.parameters = parameters

    @abstractmethod
    def index(self) -> Index:
        """The items of the source folder, without decoding media.

        Raises:
            DataError: the folder is not what the page describes; the message says what was expected and found.
        """

    @abstractmethod
    def arrays(self) -> Mapping[str, ArraySpec]:
        """Array name -> what it holds; depends on the parameters only. An array with a ``kind`` is a modality."""

    @abstractmethod
    def decode(self, item: Item, name: str) -> Array:
        """Array ``name`` of ``item``, exactly of the shape and dtype of its :class:`ArraySpec`.

        Runs in worker processes. Must depend on the files and the parameters alone: no random numbers, no order.

        Raises:
            UnreadableError: a file of the item cannot be used.
        """

    def needs(self) -> tuple[str, ...]:
        """Modules to ask for before work begins: ``packages``, and what only some parameters need."""
        return self.packages

    def path(self, relative: str) -> Path:
        """``relative`` (with ``/``) below the source folder."""
        return self.raw.joinpath(*relative.split("/"))

    def source_error(self, path: Path, expected: str, found: str) -> DataError:
        """The error for a source folder that is not what the page describes, with the layout that is needed."""
        return DataError(f"{path}: expected {expected}. Found {found}. Needed:\n{self.facts.layout}")


def dtype_of(spec: ArraySpec) -> np.dtype[Any]:
    """The type of the array on disk, little-endian everywhere."""
    return np.dtype(spec.dtype).newbyteorder("<")
