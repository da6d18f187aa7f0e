"""What each column is, and which columns make a modality: a proposal from the cells, which one line can override."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

import numpy as np
from torch import nn

from equimodal.data.tables._files import SUFFIXES
from equimodal.data.tables._table import Table
from equimodal.errors import DataError, unknown_name

IN_TABLE = ("number", "category", "date")
KINDS = (*IN_TABLE, "text", *SUFFIXES, "ignore")
_IDENTIFIER = re.compile(r"(^|[_\W])(id|ids|uuid|guid|index|key)$|^unnamed: \d+$", re.IGNORECASE)
_DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}([T ]\d.*)?")
_MOSTLY = 0.8  # share of cells that say what a column is meant to be
_FEW = 20  # different values below which repeated words are categories
_WORDS = 3.0  # words per cell from which it is text


@dataclass(frozen=True)
class Group:
    """The columns of one modality.

    Args:
        name: of the modality.
        kind: table, text, image, audio, video or array.
        columns: column -> kind.
    """

    name: str
    kind: str
    columns: Mapping[str, str]


@dataclass(frozen=True)
class Proposal:
    """Modalities of a table, and the columns that are left out with the reason.

    Args:
        groups: one per modality.
        ignored: column -> reason.
    """

    groups: tuple[Group, ...]
    ignored: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = []
        for group in self.groups:
            named = ", ".join(c if group.kind == k else f"{c} ({k})" for c, k in group.columns.items())
            lines.append(f"  {group.name}: {group.kind} of {named}")
        lines += [f"  left out: {column}, {reason}" for column, reason in self.ignored.items()]
        example = next(iter(self.groups[0].columns)) if self.groups else "COLUMN"
        lines.append(f"  to change it: columns={{{example!r}: {'/'.join(KINDS)!r}}} or {{'NAME': [columns]}}")
        return "\n".join(["modalities:", *lines])


def propose(table: Table, columns: Mapping[str, str | Sequence[str]] | None, skip: Sequence[str]) -> Proposal:
    """The modalities of a table.

    Args:
        table: the rows to look at.
        columns: what the user says: column -> kind, or modality -> its columns.
        skip: columns that are no inputs: target, split, group.

    Raises:
        UnknownNameError: a column or a kind that does not exist.
        DataError: a group of columns that make no modality, or nothing is left.
    """
    said, groups = _said(table, columns or {}, skip)
    kinds: dict[str, str] = {}
    ignored: dict[str, str] = {}
    for column in table.columns:
        if column in skip:
            continue
        kind, reason = (said[column], "as said") if column in said else kind_of(table, column)
        if kind == "ignore":
            ignored[column] = reason
        else:
            kinds[column] = kind
    grouped = {c for members in groups.values() for c in members}
    found = [_group(name, {c: kinds[c] for c in members if c in kinds}, table) for name, members in groups.items()
             if any(c in kinds for c in members)]  # fmt: skip
    rest = {c: k for c, k in kinds.items() if c not in grouped}
    tabular = {c: k for c, k in rest.items() if k in IN_TABLE}
    taken = {g.name for g in found}
    if tabular:
        name = next(n for n in ("table", "numbers", "columns", "other_columns") if n not in {*taken, *rest})
        found.append(Group(name, "table", tabular))
    found += [_group(name_of(c, {g.name for g in found}), {c: k}, table) for c, k in rest.items() if k not in IN_TABLE]
    if not found:
        raise DataError(
            f"{table.where}: expected at least one column to predict from. Found none: "
            f"{'; '.join(f'{c}, {r}' for c, r in ignored.items()) or 'only the target'}. Say what a column is: "
            "columns={'COLUMN': 'number'}."
        )
    return Proposal(tuple(found), ignored)


def kind_of(table: Table, column: str) -> tuple[str, str]:
    """Kind of a column, and the reason where it is left out.

    Raises:
        DataError: mostly numbers and some other texts.
    """
    series, gaps = table.frame[column], table.empty(column)
    filled = int((~gaps).sum())
    if filled == 0:
        return "ignore", "every cell is empty"
    kind, different = series.dtype.kind, 0
    if kind == "b":
        return "category", ""
    if kind == "M":
        return "date", ""
    if table.nested(column):
        return "array", ""
    texts = [t for t, gap in zip(table.texts(column), gaps, strict=True) if not gap]
    different = len(set(texts))
    if different == 1 and not gaps.any():
        return "ignore", "one value in every row"
    if _IDENTIFIER.search(column) and different > 0.5 * filled and different > _FEW:
        return "ignore", "it looks like an identifier" + (
            "" if different == filled else f" that {filled - different} rows share: as `group` its rows stay together"
        )
    suffixes = [PurePath(t).suffix.lower() if len(t) < 1024 else "" for t in texts]
    for name, known in SUFFIXES.items():
        if sum(s in known for s in suffixes) >= _MOSTLY * filled:
            return name, ""
    return _of_texts(table, column, texts, different)


def _of_texts(table: Table, column: str, texts: list[str], different: int) -> tuple[str, str]:
    filled = len(texts)
    if table.frame[column].dtype.kind in "iuf" and str(table.frame[column].dtype) != "category":
        return "number", ""
    numeric = [_is_number(t) for t in texts]
    if all(numeric):
        return "number", ""
    if sum(numeric) >= _MOSTLY * filled:
        row = next(
            r for r, t in enumerate(table.texts(column)) if t and not _is_number(t) and not table.empty(column)[r]
        )
        raise table.refusal(
            column, row, "numbers, as most cells of it hold", table.cells(column)[row],
            f"Correct or empty the cell, or say what the column is: columns={{{column!r}: 'category'}}.",
        )  # fmt: skip
    if sum(_DATE.fullmatch(t) is not None for t in texts) >= _MOSTLY * filled:
        return "date", ""
    words = float(np.mean([len(t[:2000].split()) for t in texts]))
    if words >= _WORDS and different > min(_FEW, 0.2 * filled):
        return "text", ""
    if different <= max(_FEW, 0.5 * filled):
        return "category", ""
    return ("ignore", "almost every row has a name of its own") if words < 1.5 else ("text", "")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def _said(
    table: Table, columns: Mapping[str, str | Sequence[str]], skip: Sequence[str]
) -> tuple[dict[str, str], dict[str, list[str]]]:
    if not isinstance(columns, Mapping):
        raise DataError(f"`columns`: expected a mapping, as {{'photo': 'image'}}. Found {type(columns).__name__}.")
    said: dict[str, str] = {}
    groups: dict[str, list[str]] = {}
    for name, value in columns.items():
        if isinstance(value, str):
            if name not in table.columns:
                raise unknown_name(f"column of {table.where}", name, table.columns)
            if value not in KINDS:
                raise unknown_name("kind of a column", value, KINDS)
            said[name] = value
            continue
        if not isinstance(value, (list, tuple)) or not value:
            raise DataError(f"`columns`: expected a kind, or a list of columns, for {name!r}. Found {value!r}.")
        for column in value:
            if column not in table.columns:
                raise unknown_name(f"column of {table.where}", column, table.columns)
        groups[name] = list(value)
    members = [c for own in groups.values() for c in own]
    twice = sorted({c for c in members if members.count(c) > 1} | {c for c in [*members, *said] if c in skip})
    if twice:
        raise DataError(f"`columns`: expected each input in one modality. Found {twice}, in two or no input at all.")
    return said, groups


def _group(name: str, kinds: dict[str, str], table: Table) -> Group:
    found = set(kinds.values())
    if found <= set(IN_TABLE):
        return Group(_checked(name), "table", kinds)
    if found == {"text"} or len(kinds) == 1:
        return Group(_checked(name), found.pop(), kinds)
    if found <= {"text", "category"}:  # short titles beside long texts
        return Group(_checked(name), "text", dict.fromkeys(kinds, "text"))
    raise DataError(
        f"{table.where}: modality {name!r}: expected columns of texts, columns of numbers, categories and dates, or "
        f"one column of paths. Found {kinds}. Give them names of their own in `columns`."
    )


def _checked(name: str) -> str:
    if name != name_of(name, set()):
        raise DataError(
            f"`columns`: expected the name of a modality: letters, digits and _, and no word that is taken. Found "
            f"{name!r}. Try {name_of(name, set())!r}."
        )
    return name


def name_of(column: str, taken: set[str]) -> str:
    """The name of a modality for a column: letters, digits and ``_`` only.

    Example:
        >>> name_of("Photo path.", set()), name_of("type", set()), name_of("a", {"a"})
        ('Photo_path', 'type_column', 'a_2')
    """
    name = re.sub(r"\W+", "_", column).strip("_") or "column"
    name = f"{name}_column" if hasattr(nn.ModuleDict, name) or name in ("training", "joint") else name
    plain, number = name, 1
    while name in taken:
        number += 1
        name = f"{plain}_{number}"
    return name
