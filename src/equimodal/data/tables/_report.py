"""What was found in a table: counts, gaps, classes, suspected identifiers and leaks, rows that are in two parts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from equimodal.data.tables._kinds import Proposal
from equimodal.data.tables._preparation import Preparation
from equimodal.data.tables._table import Array, Mask, Table

_PURE = 0.999  # share of rows whose class follows from one column, or correlation with the target
_SHARED = 3  # rows per value from which that is no accident


@dataclass(frozen=True)
class TableReport:
    """Facts about a table, to read before its scores are believed.

    Args:
        rows: part -> number of rows.
        modalities: modality -> kind, columns, and the share of rows without it.
        missing: column -> share of empty cells, where there are any.
        classes: class -> rows; empty for a regression.
        target: name, task, and for a regression mean and deviation of the training rows.
        left_out: column -> reason.
        leaks: columns that tell the target nearly by themselves.
        duplicates: rows of validation and test whose inputs are those of a training row.
        proposal: the modalities, as text.
    """

    rows: Mapping[str, int]
    modalities: Mapping[str, Mapping[str, Any]]
    missing: Mapping[str, float]
    classes: Mapping[str, int]
    target: Mapping[str, Any]
    left_out: Mapping[str, str]
    leaks: tuple[str, ...]
    duplicates: int
    proposal: str = field(repr=False, default="")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"rows: {', '.join(f'{n} {part}' for part, n in self.rows.items())}", self.proposal]
        if self.classes:
            shown = list(self.classes.items())[:12]
            more = f", and {len(self.classes) - 12} more" if len(self.classes) > 12 else ""
            lines.append(f"classes of {self.target['column']}: {', '.join(f'{c} {n}' for c, n in shown)}{more}")
        else:
            lines.append(
                f"numbers of {self.target['column']}: mean {self.target['mean']:.4g}, deviation "
                f"{self.target['deviation']:.4g}{' (of the logarithm)' if self.target.get('log') else ''}"
            )
        absent = {n: m["absent"] for n, m in self.modalities.items() if m["absent"]}
        if absent:
            lines.append("absent: " + ", ".join(f"{n} in {share:.1%} of the rows" for n, share in absent.items()))
        if self.missing:
            lines.append("empty cells: " + ", ".join(f"{c} {share:.1%}" for c, share in self.missing.items()))
        if self.leaks:
            lines.append(f"suspected leaks: {', '.join(self.leaks)} tell(s) the target nearly alone; known in advance?")
        if self.duplicates:
            lines.append(f"duplicates: {self.duplicates} row(s) of validation and test are also training rows")
        return "\n".join(lines)


def table_report(
    table: Table, proposal: Proposal, made: Preparation, values: Array, split: Array, present: Mapping[str, Mask]
) -> TableReport:
    """Look at a prepared table."""
    classes = made.target.get("classes", [])
    columns = list(made.columns)
    gaps = {c: float(table.empty(c).mean()) for c in columns}
    target = {k: v for k, v in made.target.items() if k != "classes"}
    return TableReport(
        rows={part: int((split == part).sum()) for part in ("train", "validation", "test") if (split == part).any()},
        modalities={
            n: {"kind": m["kind"], "columns": list(m["columns"]), "absent": round(float((~present[n]).mean()), 6)}
            for n, m in made.modalities.items()
        },
        missing={c: round(share, 6) for c, share in gaps.items() if share},
        classes=dict(zip(classes, np.bincount(values, minlength=len(classes)).tolist())) if classes else {},
        target=target,
        left_out=dict(proposal.ignored),
        leaks=tuple(c for g in proposal.groups if g.kind == "table" for c, k in g.columns.items()
                    if _tells(table, c, k, values, bool(classes))),
        duplicates=_duplicates(table, columns, split),
        proposal=str(proposal),
    )  # fmt: skip


def _tells(table: Table, column: str, kind: str, values: Array, classes: bool) -> bool:
    """Whether the target follows nearly from one column."""
    if len(values) < 2 * _SHARED * 2:
        return False
    if not classes:
        if kind == "category":
            return False
        numbers, gaps = table.numbers(column) if kind == "number" else (np.zeros(0), np.ones(0, bool))
        filled = ~gaps
        if filled.sum() < 10 or numbers[filled].std() == 0 or values[filled].std() == 0:
            return False
        return bool(abs(np.corrcoef(numbers[filled], values[filled])[0, 1]) > _PURE)
    if kind == "number":
        numbers, gaps = table.numbers(column)
        return _orders(numbers[~gaps], values[~gaps])
    if kind != "category":
        return False
    counts: dict[str, Counter[int]] = {}
    for text, value in zip(table.texts(column), values.tolist(), strict=True):
        counts.setdefault(text, Counter())[value] += 1
    most = sum(c.most_common(1)[0][1] for c in counts.values())
    return len(counts) > 1 and len(values) >= _SHARED * len(counts) and most >= _PURE * len(values)


def _orders(numbers: Array, values: Array) -> bool:
    """Whether the classes lie one after the other along a number."""
    if len(numbers) < 20:
        return False
    ranges = sorted((numbers[values == c].min(), numbers[values == c].max()) for c in np.unique(values))
    return len(ranges) > 1 and all(a[1] < b[0] for a, b in pairwise(ranges))


def _duplicates(table: Table, columns: list[str], split: Array) -> int:
    texts = [table.keys(c) for c in columns]
    keys = [
        hashlib.blake2b("\x1f".join(row).encode("utf-8", "replace"), digest_size=16).digest() for row in zip(*texts)
    ]
    train = {key for key, part in zip(keys, split) if part == "train"}
    return sum(part != "train" and key in train for key, part in zip(keys, split))
