"""A model of a table as one graph: preparation of numbers, ids and arrays, model, and the unit of the target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from equimodal.batch import Tokens, Tree
from equimodal.data.tables import LARGEST, Preparation
from equimodal.errors import ModelError, unknown_name
from equimodal.export import Format, InferenceModel, check_format, write_program
from equimodal.methods import Method

_ROWS = 4


class TableColumns(nn.Module):
    """What :func:`equimodal.data.tables.raw_inputs` makes of columns, as the vector that the model takes.

    Numbers and dates are standardised and cut, categories get a place each, dates sines and cosines of year, week and
    day, and columns that had empty cells in training an indicator; in float64 until then.

    Args:
        states: what was learnt of each column.

    Shapes: (B, K) float64, NaN where a cell is empty, to (B, F) float32.
    """

    def __init__(self, states: Sequence[Mapping[str, Any]]) -> None:
        super().__init__()
        count = len(states)
        self._dates = [i for i, s in enumerate(states) if s["kind"] == "date"]
        self._categories = [(i, len(s["values"]) + bool(s["other"])) for i, s in enumerate(states) if "values" in s]
        plain = [{"mean": 0.0, "scale": 0.0, **s} for s in states]
        self.register_buffer("mean", torch.tensor([s["mean"] for s in plain], dtype=torch.float64))
        self.register_buffer("scale", torch.tensor([s["scale"] for s in plain], dtype=torch.float64))
        # columns of the blocks that forward makes: numbers, gaps, four waves per date and two of the day, categories
        places: list[list[int]] = [[] if "values" in s else [i] for i, s in enumerate(states)]
        start = 2 * count
        for i in self._dates:
            waves = 6 if states[i]["clock"] else 4
            places[i] += range(start, start + waves)
            start += 6
        for i, width in self._categories:
            places[i] += range(start, start + width)
            start += width
        for i, state in enumerate(states):
            places[i] += [count + i] if state["indicator"] else []
        self.register_buffer("order", torch.tensor([p for own in places for p in own], dtype=torch.int64))

    mean: Tensor
    scale: Tensor
    order: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """(B, K) to (B, F)."""
        gaps = x.isnan()
        filled = torch.where(gaps, self.mean, x)
        scaled = ((filled - self.mean) * self.scale).clamp(-LARGEST, LARGEST)
        blocks = [scaled.float(), gaps.float()]
        blocks += [torch.where(gaps[:, i : i + 1], 0.0, _waves(filled[:, i])) for i in self._dates]
        for i, width in self._categories:
            at = torch.where(gaps[:, i : i + 1], -1.0, filled[:, i : i + 1])
            blocks.append((at == torch.arange(width, dtype=x.dtype)).float())
        return torch.cat(blocks, dim=1).index_select(1, self.order)


def _waves(days: Tensor) -> Tensor:
    """(B, 6): sine and cosine of the place in the year, the week and the day of days since 1970-01-01."""
    whole = days.floor()
    weekday = (whole + 3) - 7 * ((whole + 3) / 7).floor()  # that day was a Thursday
    phases = torch.stack([_day_of_year(whole) / 365.25, weekday / 7, days - whole], dim=1).float() * (2 * torch.pi)
    return torch.stack([phases.sin(), phases.cos()], dim=2).flatten(1)


def _day_of_year(days: Tensor) -> Tensor:
    """1 to 366 of whole days since 1970-01-01, Gregorian: counted from March, a year has its leap day last.

    Example:
        >>> _day_of_year(torch.tensor([0.0, 58.0, 59.0, 19782.0])).tolist()  # 2024-02-29 is the last
        [1.0, 59.0, 60.0, 60.0]
    """
    moved = days + 719468  # since 0000-03-01
    era = (moved / 146097).floor()
    inside = moved - era * 146097
    corrected = inside - (inside / 1460).floor() + (inside / 36524).floor() - (inside / 146096).floor()
    year = (corrected / 365).floor()
    since_march = inside - (365 * year + (year / 4).floor() - (year / 100).floor())
    year = year + 400 * era
    leap = (_divides(4, year) & ~_divides(100, year)) | _divides(400, year)
    return torch.where(since_march >= 306, since_march - 305, since_march + 60 + leap.to(days.dtype))


def _divides(number: int, year: Tensor) -> Tensor:
    return year - number * (year / number).floor() == 0


class TableModel(nn.Module):
    """Raw inputs by modality to predictions: what :meth:`Predictor.export` writes.

    Args:
        method: trained.
        preparation: of its inputs and target.
        modalities: those that it takes.
        example: raw inputs of a few rows.

    Shapes: called with modality -> what :func:`equimodal.data.tables.raw_inputs` gives; returns ``prediction``, (B,)
    the number of the class (-1 where a row has nothing) or a number in the unit of the target (then NaN), and
    ``probabilities`` (B, C) of classes.
    """

    def __init__(
        self, method: Method, preparation: Preparation, modalities: Sequence[str], example: Mapping[str, Tensor]
    ) -> None:
        super().__init__()
        self._classes = bool(preparation.target.get("classes"))
        self._modalities = tuple(modalities)
        self._kinds = {m: str(preparation.modalities[m]["kind"]) for m in self._modalities}
        self._steps = {m: bool(preparation.steps(m)) for m in self._modalities}
        self._padding = {m: preparation.padding(m) for m in self._modalities if self._kinds[m] == "text"}
        tables = [m for m in self._modalities if self._kinds[m] == "table"]
        self.columns = nn.ModuleList([TableColumns(preparation.modalities[m]["state"]) for m in tables])
        self._places = {m: i for i, m in enumerate(tables)}
        for m in self._modalities:
            own = preparation.modalities[m]
            if own.get("mean") is not None:
                self.register_buffer(f"mean_{m}", torch.tensor(own["mean"], dtype=torch.float64))
                self.register_buffer(f"scale_{m}", torch.tensor(own["scale"], dtype=torch.float64))
        with torch.no_grad():
            self.model = InferenceModel(method, self.prepared(example)[0])

    def prepared(self, raw: Mapping[str, Tensor]) -> tuple[dict[str, Tree], dict[str, Tensor]]:
        """Inputs of the model, and which rows have which modality."""
        inputs: dict[str, Tree] = {}
        present: dict[str, Tensor] = {}
        for m in self._modalities:
            x = raw[m]
            if self._kinds[m] == "text":
                inputs[m], present[m] = x, (x != self._padding[m]).any(1)
            elif self._kinds[m] == "table":
                inputs[m], present[m] = self.columns[self._places[m]](x), ~x.isnan().all(1)
            else:
                gaps = x.isnan()
                present[m] = ~gaps.flatten(1).all(1)
                values = x.double()
                if hasattr(self, f"mean_{m}"):
                    values = (values - getattr(self, f"mean_{m}")) * getattr(self, f"scale_{m}")
                values = torch.where(gaps, 0.0, values).float()
                inputs[m] = Tokens(values, ~gaps.any(-1)) if self._steps[m] else values
        return inputs, present

    def forward(self, raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Predictions of rows."""
        inputs, present = self.prepared(raw)
        found = self.model(inputs, present)["probabilities"]
        some = torch.stack(list(present.values())).any(0)
        if not self._classes:
            return {"prediction": torch.where(some, found, torch.nan)}
        found = torch.where(some[:, None], found, torch.nan)
        return {"prediction": torch.where(some, found.argmax(1), -1), "probabilities": found}


def export_table(
    method: Method,
    preparation: Preparation,
    path: str | Path,
    format: Format,  # noqa: A002 (the word users look for)
    modalities: Sequence[str] | None,
) -> Path:
    """Write the graph of :class:`TableModel`; see :meth:`Predictor.export`."""
    check_format(path, format)
    names = list(preparation.modalities if modalities is None else modalities)
    for name in names:
        if name not in preparation.modalities:
            raise unknown_name("modality", name, preparation.modalities)
    if not names:
        raise ModelError("`modalities`: expected at least one name. Found none. Leave it out for all.")
    example = {m: torch.from_numpy(_example(preparation, m, i % 2 == 1)) for i, m in enumerate(names)}
    model = TableModel(method, preparation, names, example).eval()
    with torch.no_grad():
        inputs, present = model.prepared(example)
        output = model.model.method.predict(inputs, present).output
        values = method.task.probabilities(output)
    kept = preparation.to_dict()
    kept["modalities"] = [own for own in kept["modalities"] if own["name"] in names]
    classes = list(preparation.target.get("classes", ()))
    about = {
        "modalities": names, "rule": model.model.rule, "task": method.task.name, "method": type(method).__name__,
        "classes": classes, "preparation": kept,
    }  # fmt: skip
    outputs = ("prediction", "probabilities") if classes else ("prediction",)
    expected = {outputs[-1]: values}
    return write_program(
        model, (example,), path, format, outputs=outputs, expected=expected, name=type(method).__name__, about=about
    )


def _example(preparation: Preparation, modality: str, absent: bool) -> Any:
    """Raw inputs of a few rows, none of them of the training data; the last one may lack the modality."""
    own, random = preparation.modalities[modality], np.random.default_rng(0)
    if own["kind"] == "text":
        ids = random.integers(1, int(own["state"]["vocabulary"]), (_ROWS, *own["shape"]))
        ids[-1] = preparation.padding(modality) if absent else ids[-1]
        return ids
    if own["kind"] == "table":
        states = own["state"]
        columns = [random.integers(0, len(s["values"]) + 1, _ROWS) if "values" in s
                   else s["mean"] + random.normal(size=_ROWS) / (s["scale"] or 1.0) for s in states]  # fmt: skip
        values = np.column_stack(columns).astype(np.float64)
        values[0, ::2] = np.nan if values.shape[1] > 1 else values[0, ::2]
    else:
        mean, scale = (
            np.asarray(own[key] if own.get(key) is not None else d) for key, d in (("mean", 0.0), ("scale", 1.0))
        )
        spread = 1 / np.where(scale == 0, 1.0, scale)
        values = (mean + random.normal(size=(_ROWS, *own["shape"])) * spread).astype(np.float32)
        if preparation.steps(modality):
            values[0, values.shape[1] // 2 + 1 :] = np.nan
    if absent:
        values[-1] = np.nan
    return values
