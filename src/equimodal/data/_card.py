"""The card of a bundle: which array is which modality, target, split, group; read from plain nested values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from equimodal.data._modality import KINDS, Kind
from equimodal.data._schema import Node
from equimodal.data._transforms import STANDARDISE, Transform, read_transform

FORMAT = 1
Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Column:
    """One array of the bundle, optionally read through an array of indices (pairs)."""

    array: str
    index: str | None
    field: str


@dataclass(frozen=True)
class ModalityCard:
    """How one modality is read: column, kind, transforms, standardisation, mask, provenance."""

    name: str
    column: Column
    kind: Kind
    units: str
    description: str
    shape: tuple[int, ...] | None
    transforms: tuple[Transform, ...]
    standardise: str
    mask: Column | None
    default: bool
    source: tuple[str, ...]
    licence: str
    citation: tuple[str, ...]


@dataclass(frozen=True)
class TargetCard:
    """One target: column, task kind, class names, and the regions (sets of classes) a segmentation is scored by."""

    name: str
    column: Column
    task: Literal["classification", "multilabel", "regression", "segmentation"]
    classes: tuple[str, ...]
    description: str
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Carve:
    """How validation samples are taken from the training ones: share, seed and unit (class or a group)."""

    fraction: float
    seed: int
    by: str


@dataclass(frozen=True)
class ProtocolCard:
    """A named way of splitting: the array whose values name the parts, and the groups that must not be shared."""

    name: str
    description: str
    column: Column
    values: Mapping[Part, tuple[int | str, ...]]
    carve: Carve | None
    groups: tuple[str, ...]
    overlapping: bool
    modalities: tuple[str, ...]


@dataclass(frozen=True)
class Card:
    """What a bundle means; see ``docs/data.md`` for the format.

    Args:
        name: name of the dataset.
        file: where the card was read, for messages; empty where it was made of arguments, which they then name.
        raw: the card as plain nested values.
    """

    name: str
    file: str
    description: str
    version: str
    source: tuple[str, ...]
    licence: str
    citation: tuple[str, ...]
    modalities: Mapping[str, ModalityCard]
    targets: Mapping[str, TargetCard]
    target: str
    present: Mapping[str, tuple[Column, int | None]]
    groups: Mapping[str, Column]
    protocols: Mapping[str, ProtocolCard]
    protocol: str
    raw: Mapping[str, Any] = field(repr=False)


def parse_card(value: Any, file: str) -> Card:
    """A checked :class:`Card` from nested plain values; raises ``DataError`` naming file and field."""
    root = Node(value, file)
    top = root.record(
        ("name", "modalities", "targets", "protocols"),
        (
            "format",
            "description",
            "version",
            "source",
            "licence",
            "citation",
            "target",
            "present",
            "groups",
            "protocol",
        ),
    )
    if "format" in top and top["format"].integer() != FORMAT:
        raise top["format"].error(f"{FORMAT}, the format this version reads")
    modalities = {n: _modality(n, node) for n, node in top["modalities"].named("modality").items()}
    targets = {n: _target(n, node) for n, node in top["targets"].named("target").items()}
    groups = {n: _column(node) for n, node in top["groups"].named("group").items()} if "groups" in top else {}
    protocols = {
        n: _protocol(n, node, tuple(groups), tuple(modalities))
        for n, node in top["protocols"].named("protocol").items()
    }
    return Card(
        name=top["name"].text(),
        file=file,
        description=_text(top, "description"),
        version=_text(top, "version"),
        source=_texts(top, "source"),
        licence=_text(top, "licence"),
        citation=_texts(top, "citation"),
        modalities=modalities,
        targets=targets,
        target=top["target"].choice(tuple(targets)) if "target" in top else next(iter(targets)),
        present=_present(top["present"], tuple(modalities)) if "present" in top else {},
        groups=groups,
        protocols=protocols,
        protocol=top["protocol"].choice(tuple(protocols)) if "protocol" in top else next(iter(protocols)),
        raw=cast(Mapping[str, Any], value),
    )


def _text(fields: Mapping[str, Node], key: str) -> str:
    return " ".join(fields[key].text().split()) if key in fields else ""


def _texts(fields: Mapping[str, Node], key: str) -> tuple[str, ...]:
    return fields[key].texts() if key in fields else ()


def _column(node: Node) -> Column:
    if isinstance(node.value, str):
        return Column(node.text(), None, node.field)
    return _column_of(node.record(("array",), ("index",)), node.field)


def _column_of(fields: Mapping[str, Node], field: str) -> Column:
    return Column(fields["array"].text(), fields["index"].text() if "index" in fields else None, field)


def _modality(name: str, node: Node) -> ModalityCard:
    fields = node.record(
        ("array", "kind"),
        (
            "index",
            "units",
            "description",
            "shape",
            "transforms",
            "standardise",
            "mask",
            "default",
            "source",
            "licence",
            "citation",
        ),
    )
    kind = cast(Kind, fields["kind"].choice(KINDS))
    standardise = fields["standardise"].choice(STANDARDISE) if "standardise" in fields else "none"
    if kind == "tokens" and standardise != "none":
        raise fields["standardise"].error("'none' for tokens, which are names and no quantities")
    if "mask" in fields and kind not in ("sequence", "tokens"):
        raise fields["mask"].error("no mask for this kind", hint="Only `sequence` and `tokens` have one.")
    if "mask" in fields and standardise == "per-channel":
        raise fields["standardise"].error("'none', 'global' or 'per-feature' for a sequence with a mask")
    transforms = fields["transforms"].items() if "transforms" in fields else []
    return ModalityCard(
        name=name,
        column=_column_of(fields, node.field),
        kind=kind,
        units=_text(fields, "units"),
        description=_text(fields, "description"),
        shape=tuple(n.integer() for n in fields["shape"].items()) if "shape" in fields else None,
        transforms=tuple(read_transform(n, "int64" if kind == "tokens" else "float32") for n in transforms),
        standardise=standardise,
        mask=_column(fields["mask"]) if "mask" in fields else None,
        default=fields["default"].flag() if "default" in fields else True,
        source=_texts(fields, "source"),
        licence=_text(fields, "licence"),
        citation=_texts(fields, "citation"),
    )


def _target(name: str, node: Node) -> TargetCard:
    fields = node.record(("array", "task"), ("index", "classes", "description", "regions"))
    task = cast(
        Literal["classification", "multilabel", "regression", "segmentation"],
        fields["task"].choice(("classification", "multilabel", "regression", "segmentation")),
    )
    classes = _texts(fields, "classes")
    if task == "multilabel" and not classes:
        raise node._child("classes", node.value.get("classes")).error("the names of the labels, at least one")
    if task in ("classification", "multilabel"):
        if task == "classification" and len(classes) < 2:
            raise node._child("classes", node.value.get("classes")).error("the names of at least two classes")
        if len(set(classes)) != len(classes):
            raise fields["classes"].error("names that differ")
    regions = _regions(fields["regions"], classes, task) if "regions" in fields else {}
    return TargetCard(name, _column_of(fields, node.field), task, classes, _text(fields, "description"), regions)


def _regions(node: Node, classes: tuple[str, ...], task: str) -> dict[str, tuple[int, ...]]:
    if task != "segmentation":
        raise node.error("no regions", hint="Only a segmentation target has them.")
    found = {}
    for name, entry in node.named("region").items():
        listed = entry.items() if isinstance(entry.value, (list, tuple)) else [entry]
        found[name] = tuple(classes.index(n.choice(classes)) for n in listed)
        if not found[name] or len(set(found[name])) != len(found[name]):
            raise entry.error("different classes, at least one")
    return found


def _present(node: Node, modalities: tuple[str, ...]) -> dict[str, tuple[Column, int | None]]:
    if isinstance(node.value, dict) and "columns" in node.value:
        fields = node.record(("array", "columns"), ("index",))
        column = _column_of(fields, node.field)
        return {n.choice(modalities): (column, i) for i, n in enumerate(fields["columns"].items())}
    return {n: (_column(c), None) for n, c in node.record((), modalities).items()}


def _protocol(name: str, node: Node, groups: tuple[str, ...], modalities: tuple[str, ...]) -> ProtocolCard:
    fields = node.record(
        ("array", "train"), ("index", "validation", "test", "description", "groups", "overlapping", "modalities")
    )
    values: dict[Part, tuple[int | str, ...]] = {"train": _values(fields["train"])}
    carve = None
    if "validation" not in fields:
        raise node._child("validation", None).error(
            "the values of the validation samples, since model choice needs them",
            hint="Without any, take some from train: `validation: {carve: 0.2, seed: 0, by: class}` "
            "(or `by: GROUP`, to keep groups apart).",
        )
    if isinstance(fields["validation"].value, dict):
        carve = _carve(fields["validation"], groups)
    else:
        values["validation"] = _values(fields["validation"])
    if "test" in fields:
        values["test"] = _values(fields["test"])
    seen: dict[int | str, str] = {}
    for part, listed in values.items():
        for value in listed:
            if value in seen:
                raise fields[part].error("values that no other split has", f"{value!r}, also in `{seen[value]}`")
            seen[value] = part
    return ProtocolCard(
        name=name,
        description=_text(fields, "description"),
        column=_column_of(fields, node.field),
        values=values,
        carve=carve,
        groups=tuple(n.choice(groups) for n in fields["groups"].items()) if "groups" in fields else (),
        overlapping=fields["overlapping"].flag() if "overlapping" in fields else False,
        modalities=tuple(n.choice(modalities) for n in fields["modalities"].items()) if "modalities" in fields else (),
    )


def _values(node: Node) -> tuple[int | str, ...]:
    entries = node.items() if isinstance(node.value, (list, tuple)) else [node]
    if not entries:
        raise node.error("at least one value of the split array")
    return tuple(n.text() if isinstance(n.value, str) else n.integer() for n in entries)


def _carve(node: Node, groups: tuple[str, ...]) -> Carve:
    fields = node.record(("carve",), ("seed", "by"))
    fraction = fields["carve"].number()
    if not 0 < fraction < 1:
        raise fields["carve"].error("a share of the training samples between 0 and 1 (both excluded)")
    seed = fields["seed"].integer() if "seed" in fields else 0
    return Carve(fraction, seed, fields["by"].choice(("class", "none", *groups)) if "by" in fields else "class")
