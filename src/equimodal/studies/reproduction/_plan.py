"""What a published table asks for: its cells, which of them can be run here, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from equimodal.errors import EquimodalError, MethodError, UnknownNameError
from equimodal.methods import get
from equimodal.studies.comparisons import declared_cost
from equimodal.studies.reproduction._source import Source
from equimodal.studies.reproduction._table import Column, PublishedTable
from equimodal.studies.setup import RunConfig, method_options


@dataclass(frozen=True)
class Cell:
    """One row under one protocol.

    Args:
        row: name.
        protocol: name.
        runs: one per seed.
        joint_steps: of all runs together.
        stated: whether the method says what its step costs; else it counts as one joint step.
    """

    row: str
    protocol: str
    runs: int
    joint_steps: float
    stated: bool = True


@dataclass(frozen=True)
class Plan:
    """Cells that can be run, and why the others cannot.

    Args:
        cells: rows times protocols.
        refused: row or protocol -> the reason.
    """

    cells: tuple[Cell, ...]
    refused: dict[str, str]

    @property
    def joint_steps(self) -> float:
        """Of all cells."""
        return sum(cell.joint_steps for cell in self.cells)


def plan_of(
    table: PublishedTable,
    column: Column,
    source: Source,
    rows: Sequence[str],
    protocols: Sequence[str],
    seeds: Sequence[int],
) -> Plan:
    """The cells of some rows and protocols.

    Args:
        table: has the rows.
        column: has the budget.
        source: has the samples.
        rows: names.
        protocols: names.
        seeds: one run each.
    """
    refused = {}
    for row in rows:
        reason = refusal(table, row)
        if reason:
            refused[row] = reason
    for protocol in protocols:
        if protocol not in source.training:
            known = ", ".join(source.training) or "none"
            refused[protocol] = f"`protocols`: expected those that the data have: {known}. Found {protocol!r}."
    cells = []
    for protocol in (p for p in protocols if p not in refused):
        updates = max(1, source.training[protocol] // column.training.batch_size) * column.training.epochs
        for row in (r for r in rows if r not in refused):
            entry = table.rows[row]
            cost = declared_cost(RunConfig(entry.method, dict(entry.options)), 2)
            steps = updates * len(seeds) * (1.0 if cost is None else cost)
            cells.append(Cell(row, protocol, len(seeds), steps, cost is not None))
    return Plan(tuple(cells), refused)


def refusal(table: PublishedTable, row: str) -> str:
    """Why a row cannot be run; empty where it can."""
    entry = table.rows[row]
    try:
        name = get(entry.method).__name__
        known = method_options(name)
    except UnknownNameError:
        return f"the library has no method {entry.method!r}"
    except EquimodalError as error:
        return str(error)
    strange = sorted(set(entry.options) - set(known))
    return f"{name} has no option {strange[0]!r}" if strange else ""


def require_complete(plan: Plan) -> None:
    """Refuse to begin what cannot be ended.

    Raises:
        MethodError: a row or protocol cannot be run; all of them are named.
    """
    if plan.refused:
        said = "; ".join(f"{name}: {reason}" for name, reason in plan.refused.items())
        raise MethodError(
            f"`rows`, `protocols`: expected those that can be run here. Found {said}. Leave them out with --rows and "
            "--protocols; --dry_run shows what is left."
        )
