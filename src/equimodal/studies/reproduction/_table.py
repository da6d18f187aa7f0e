"""A published table as a file: rows with their methods, columns with data and budget, and the published numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from equimodal.data import prepare
from equimodal.errors import DataError, MethodError, missing_extra, unknown_name
from equimodal.studies.setup import ModelConfig, TrainingConfig

Number = tuple[float, float]
"""Mean and standard deviation, as printed."""


@dataclass(frozen=True)
class Row:
    """One method of a published table.

    Args:
        method: name in :func:`equimodal.methods.available`; it need not be there.
        options: its hyperparameters.
        numbers: column -> what the table says.
    """

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    numbers: Mapping[str, Number] = field(default_factory=dict)


@dataclass(frozen=True)
class Column:
    """One dataset of a published table, with encoders and budget.

    Args:
        dataset: name of a preparation, as ``equimodal data prepare`` knows it.
        model: encoders.
        training: budget.
        protocols: of the dataset, to be run side by side.
        seeds: one run per row, protocol and seed.
        prepare: parameters of the preparation.
        metric: what the numbers are.
    """

    dataset: str
    model: ModelConfig
    training: TrainingConfig
    protocols: tuple[str, ...]
    seeds: tuple[int, ...]
    prepare: Mapping[str, Any] = field(default_factory=dict)
    metric: str = "accuracy, %"


@dataclass(frozen=True)
class PublishedTable:
    """What a paper printed.

    Args:
        title: of the table.
        paper: authors, title, venue, identifier.
        columns: name -> column.
        rows: name -> row.
        note: what one has to know to compare.
    """

    title: str
    paper: str
    columns: Mapping[str, Column]
    rows: Mapping[str, Row]
    note: str = ""


def published_tables() -> list[str]:
    """Names of the tables that come with the library.

    Example:
        >>> published_tables()
        ['mcr-table1']
    """
    folder = files("equimodal.studies.reproduction") / "tables"
    return sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml"))


def published_table(name: str) -> PublishedTable:
    """The table of that name, or in the YAML file at that path.

    Raises:
        UnknownNameError: neither.
        DataError: the file is no such table; the message names the field.

    Example:
        >>> len(published_table("mcr-table1").rows)
        16
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise DataError(f"`{path}`: expected a published table. Found no file.")
        return _table(path.read_text(encoding="utf-8"), str(path))
    if name not in published_tables():
        raise unknown_name("published table", name, published_tables())
    file = files("equimodal.studies.reproduction") / "tables" / f"{name}.yaml"
    return _table(file.read_text(encoding="utf-8"), name)


def _table(text: str, name: str) -> PublishedTable:
    try:
        import yaml
    except ImportError as error:
        raise missing_extra("pyyaml", "cli", "Reading a published table") from error
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise DataError(f"`{name}`: expected YAML. Found: {' '.join(str(error).split())}.") from error
    found = _fields(PublishedTable, content, name)
    columns = {c: _column(v, f"{name}: columns: {c}") for c, v in _mapping(found["columns"], name, "columns").items()}
    rows = {r: _row(v, columns, f"{name}: rows: {r}") for r, v in _mapping(found["rows"], name, "rows").items()}
    return PublishedTable(**{**found, "columns": columns, "rows": rows})


def _column(value: Any, where: str) -> Column:
    found = _fields(Column, value, where)
    if found["dataset"] not in prepare.available():
        raise unknown_name("dataset that can be prepared", str(found["dataset"]), prepare.available())
    for part, kind in (("model", ModelConfig), ("training", TrainingConfig)):
        try:
            found[part] = kind(**_fields(kind, found[part], f"{where}: {part}"))
        except MethodError as error:
            raise DataError(f"`{where}: {part}`: {error}") from error
    for name in ("protocols", "seeds"):
        if not isinstance(found[name], list) or not found[name]:
            raise DataError(f"`{where}: {name}`: expected a list with at least one entry. Found {found[name]!r}.")
        found[name] = tuple(found[name])
    return Column(**found)


def _row(value: Any, columns: Mapping[str, Column], where: str) -> Row:
    found = _fields(Row, value, where)
    numbers = {}
    for column, number in _mapping(found.get("numbers", {}), where, "numbers").items():
        if column not in columns:
            raise unknown_name(f"column of {where}", str(column), list(columns))
        if not (isinstance(number, list) and len(number) == 2 and all(isinstance(n, int | float) for n in number)):
            raise DataError(f"`{where}: numbers: {column}`: expected [mean, standard deviation]. Found {number!r}.")
        numbers[column] = (float(number[0]), float(number[1]))
    return Row(str(found["method"]), dict(found.get("options") or {}), numbers)


def _mapping(value: Any, where: str, name: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise DataError(f"`{where}: {name}`: expected a mapping. Found {type(value).__name__}.")
    return dict(value)


def _fields(kind: Any, value: Any, where: str) -> dict[str, Any]:
    """The fields of a data class, all that need a value among them."""
    given = _mapping(value, where, "content")
    known = dataclasses.fields(kind)
    for name in given:
        if name not in [f.name for f in known]:
            raise unknown_name(f"field of {where}", str(name), [f.name for f in known])
    for f in known:
        needed = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if needed and f.name not in given:
            raise DataError(f"`{where}`: expected a field {f.name!r}. Found none.")
    return given
