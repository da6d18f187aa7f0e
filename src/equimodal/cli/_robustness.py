"""Tables of what a finished run can do with less: subsets of modalities, missing rates, noise."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from equimodal.cli._parser import comma_list
from equimodal.cli._shared import percent
from equimodal.data import ALL, Dataset, Loader, loader
from equimodal.diagnostics import (
    Curve,
    SubsetScore,
    checked_levels,
    checked_whole,
    effective_robustness,
    input_spread,
    missing_curves,
    noise_curves,
    subset_table,
)
from equimodal.diagnostics.noise import ENDLESS, NOISES
from equimodal.errors import DataError, MethodError, unknown_name
from equimodal.methods import Method


def levels_list(value: Any) -> list[float]:
    """``"0.1,0.2,0.5"``, or with dots for the numbers between: ``"0.1,...,0.9"``, ``"0.1,0.2,...,0.9"``."""
    items = [str(v) for v in value] if isinstance(value, list) else comma_list(value)
    found: list[float] = []
    try:
        for position, item in enumerate(items):
            if item != "...":
                found.append(float(item))
                continue
            last, end = found[-1], float(items[position + 1])
            step = last - found[-2] if len(found) > 1 else last
            count = round((end - last) / step)
            found += [round(last + step * i, 10) for i in range(1, count)]
    except (ValueError, IndexError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(
            f"expected numbers, such as 0.1,0.2,0.5 or 0.1,...,0.9. Found {value!r}"
        ) from None
    return found


def noise_list(value: Any) -> dict[str, str | None]:
    """``"audio,text=drop_steps"`` as modality -> kind; ``"all"`` is every modality."""
    if isinstance(value, Mapping):  # parsed already
        return dict(value)
    pairs = (item.partition("=") for item in comma_list(value))
    return {name.strip(): kind.strip() or None for name, _, kind in pairs}


def subsets(method: Method, batches: Loader[Any], limit: int) -> tuple[list[str], list[dict[str, Any]]]:
    """Lines to print and values to store: the score and main metric per subset."""
    rows = subset_table(method, batches, limit=limit, metrics=True)
    every = 2 ** len(method.modalities) - 1
    lines = [] if len(rows) == every else [f"  {len(rows)} of {every} subsets, the rest left out (--subset-limit)"]
    lines += [f"  given {' + '.join(r.subset)}: {_subset_text(method, r, len(batches.split))}" for r in rows]
    return lines, [r.record() for r in rows]


def _subset_text(method: Method, row: SubsetScore, samples: int) -> str:
    if row.score is None or row.metric is None:
        return "no sample has it"
    name = method.task.main_metric
    shown = number(method, row.score) if percents(method) else f"{name} {row.metric:.4f}"
    beside = f", {name} {row.metric:.4f}" if percents(method) and abs(row.metric - row.score) > 5e-5 else ""
    return shown + beside + ("" if row.samples == samples else f" ({row.samples} of {samples} samples)")


def check_curves(method: Method, values: Mapping[str, Any]) -> None:
    """Refuse, before anything is computed, what :func:`curves_of` would refuse."""
    checked_whole("draws", values["draws"], 1)
    checked_whole("seed", values["seed"], 0)
    if values["missing_rates"]:
        checked_levels("rates", values["missing_rates"], 1.0)
    if values["noise"]:
        wanted = _wanted(method, values["noise"])
        levels = checked_levels("levels", values["levels"], None)
        bounded = sorted({kind for kind in wanted.values() if kind is not None and kind not in ENDLESS})
        if bounded and levels[-1] > 1:
            raise MethodError(f"`levels`: expected numbers up to 1 for {', '.join(bounded)}. Found {levels[-1]}.")


def curves_of(
    method: Method, data: Dataset, batches: Loader[Any], values: Mapping[str, Any]
) -> tuple[list[Curve], list[Curve]]:
    """Curves over missing rates and over noise, as far as the command line asks for them."""
    settings: dict[str, Any] = {"draws": values["draws"], "seed": values["seed"], "metrics": True}
    missing: list[Curve] = []
    noise: list[Curve] = []
    if values["missing_rates"]:
        missing = missing_curves(method, batches, values["missing_rates"], **settings)
    if values["noise"]:
        wanted = _wanted(method, values["noise"])
        spread = input_spread(loader(data.train, batches.batch_size, shuffle=False), wanted)
        noise = noise_curves(method, batches, spread, wanted, values["levels"], **settings)
    return missing, noise


def _wanted(method: Method, given: Mapping[str, str | None]) -> dict[str, str | None]:
    """``all`` as every modality that is not named itself."""
    for kind in given.values():
        if kind is not None and kind not in NOISES:
            raise unknown_name("kind of --noise", kind, NOISES)
    for name in given:
        if name != ALL and name not in method.modalities:
            raise unknown_name("modality", name, [*method.modalities, ALL])
    if ALL not in given:
        return dict(given)
    return {m: given.get(m, given[ALL]) for m in method.modalities}


def check_reference(own: Dataset, other: Dataset, folder: str) -> None:
    """Refuse a reference run that was scored on other data."""
    if (own.name, own.fingerprint) != (other.name, other.fingerprint):
        raise DataError(
            f"`{folder}`: expected a run on the same data, for robustness relative to it. Found {other.name}, protocol "
            f"{other.protocol.name}, with other arrays, options or missing modalities."
        )


def curve_lines(title: str, method: Method, curves: Sequence[Curve], reference: Iterable[Curve]) -> list[str]:
    """A table with one line per curve; scores in percent where they are shares."""
    factor, digits = (100, 1) if percents(method) else (1, 3)
    against = {c.name: c for c in reference}
    head = ["", *(f"{v:g}" for v in curves[0].levels), "+-", "area", "kept"] + (["effective"] if against else [])
    rows = [head]
    for curve in curves:
        kept = "-" if curve.retained is None else f"{100 * curve.retained:.0f} %"
        row = [
            curve.name,
            *(f"{factor * v:.{digits}f}" for v in curve.mean),
            f"{factor * max(curve.spread):.{digits}f}",
        ]
        row += [f"{curve.relative_robustness:.3f}", kept]
        if against:
            row.append(f"{effective_robustness(curve.levels, curve.mean, against[curve.name].mean):+.3f}")
        rows.append(row)
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [f"{title}{', %' if factor == 100 else ''}:"]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        lines.append("  " + "  ".join(cells))
    return lines


def curve_records(curves: Sequence[Curve], reference: Iterable[Curve]) -> list[dict[str, Any]]:
    """Plain values of the curves, with the effective robustness where there is a reference."""
    against = {c.name: c for c in reference}
    found = []
    for curve in curves:
        record = curve.record()
        if curve.name in against:
            other = against[curve.name].mean
            record["effective_robustness"] = effective_robustness(curve.levels, curve.mean, other)
        found.append(record)
    return found


def percents(method: Method) -> bool:
    """Whether scores of the task are shares, which people read as percentages."""
    return not getattr(method.task, "relative_score", False)


def number(method: Method, score: float) -> str:
    """A score for people: a share as percent; minus an error as the error."""
    return percent(score) if percents(method) else f"{abs(score):.3f}"
