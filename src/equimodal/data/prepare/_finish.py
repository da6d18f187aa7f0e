"""The last step of a preparation: arrays in order, columns, card and manifest, then one rename."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from equimodal._utils.files import replace_file, replace_folder
from equimodal.data._write import write_array, yaml_of
from equimodal.data.prepare import _manifest as manifest
from equimodal.data.prepare._card import card_of, check_bundle, columns_of
from equimodal.data.prepare._interface import ArraySpec, Index, Item, Preparation
from equimodal.data.prepare._journal import Entry
from equimodal.data.prepare._store import Store
from equimodal.errors import DataError

_PLAN = "finish.json"


@dataclass(frozen=True)
class Report:
    """What a preparation did.

    Args:
        path: the bundle.
        samples: in it.
        incomplete: of these, samples that lack a modality (``incomplete="keep"``).
        missing: samples that are not in it, since a file is missing or cannot be read.
        expected: samples that should be there.
        resumed: samples that an earlier, interrupted call had decoded.
        fingerprint: SHA-256 over the files of the bundle; equal for equal raw files, parameters and versions.
    """

    path: Path
    samples: int
    incomplete: int
    missing: int
    expected: int
    resumed: int
    fingerprint: str

    def __str__(self) -> str:
        parts = [f"{self.path}: {self.samples} of {self.expected} samples"]
        parts += [f"{self.missing} missing or unreadable (manifest.json lists them)"] if self.missing else []
        parts += [f"{self.incomplete} without one of the modalities"] if self.incomplete else []
        return "; ".join([*parts, f"fingerprint {self.fingerprint[:16]}"])


def report(folder: Path, resumed: int) -> Report:
    """The report of a finished bundle, from its manifest."""
    found = manifest.read_manifest(folder)
    counts = found["counts"]
    return Report(
        folder, counts["samples"], counts["incomplete"], counts["missing"], counts["expected"], resumed,
        found["fingerprint"],
    )  # fmt: skip


def planned(partial: Path) -> bool:
    """Whether an earlier call had begun to put the arrays in order; nothing may be decoded any more then."""
    return (partial / _PLAN).is_file()


def plan(
    preparation: Preparation[Any],
    identity: Mapping[str, Any],
    index: Index,
    items: Sequence[Item],
    entries: Mapping[str, Entry],
    specs: Mapping[str, ArraySpec],
    incomplete: str,
    limit: float,
    partial: Path,
) -> None:
    """Check what was decoded, and write everything but the arrays.

    Raises:
        DataError: too much is missing, or some protocol cannot be made of what is there; nothing decoded is lost.
    """
    found = {**identity, "policy": incomplete, **_found(index, items, entries, specs, incomplete)}
    _write(partial / manifest.FILE, _json(found))
    counts = found["counts"]
    first = next((p for p in [*found["missing"], *found["unreadable"]]), None)
    refuse_too_many(counts["missing"] + counts["incomplete"], counts["expected"], limit, first, partial)
    kept = [(i, entries[i.key]) for i in items if _usable(entries[i.key], specs, incomplete)]
    if not kept:
        raise DataError(f"{partial}: expected samples that can be used. Found none; manifest.json says why.")
    columns = columns_of([item for item, _ in kept])
    modalities = [name for name, spec in specs.items() if spec.kind is not None]
    absent = [name for name in modalities if any(name in e.lacking for _, e in kept)]
    for name in absent:
        columns[f"present_{name}"] = np.array([name not in e.lacking for _, e in kept for _ in range(e.count)])
    card = card_of(preparation, index, specs, absent, found["parameters"])
    check_bundle(columns, specs, card, preparation.name)
    bundle = partial / "bundle"
    if bundle.exists():
        shutil.rmtree(bundle)
    bundle.mkdir()
    for name, column in columns.items():
        write_array(bundle / f"{name}.npy", column)
    _write(bundle / "card.yaml", yaml_of(card))
    for name, text in index.files.items():
        _write(bundle / name, text)
    _write(bundle / manifest.FILE, _json(found))
    _write(partial / _PLAN, json.dumps([(e.start, e.count) for _, e in kept]))


def complete(store: Store, partial: Path, out: Path) -> None:
    """Put the arrays in order and the bundle in its place; stopped anywhere, a later call goes on."""
    rows = [(start, count) for start, count in json.loads((partial / _PLAN).read_text(encoding="utf-8"))]
    bundle = partial / "bundle"
    for name in store.specs:
        store.finish(name, rows, bundle / f"{name}.npy")
    files = manifest.describe_files(bundle)
    found = json.loads((bundle / manifest.FILE).read_text(encoding="utf-8"))
    _write(bundle / manifest.FILE, _json({**found, "files": files, "fingerprint": manifest.fingerprint(files)}))
    replace_folder(bundle, out)


def _write(path: Path, text: str) -> None:
    replace_file(path, lambda file: file.write(text.encode()))


def refuse_too_many(
    lost: int, expected: int, limit: float, first: Mapping[str, Any] | None, partial: Path | None
) -> None:
    """Raise when more than ``limit`` of the samples cannot be used; ``partial`` holds the list, if it is written."""
    if lost <= limit * expected:
        return
    example = f"; first {first['path']}: {first['reason']}" if first else ""
    where = f" {partial / manifest.FILE} lists them." if partial is not None else ""
    kept = "What was decoded is kept: get the files" if partial is not None else "Get the files"
    raise DataError(
        f"expected at most {limit:.2%} of the samples missing or unreadable. Found {lost} of {expected} "
        f"({lost / expected:.2%}){example}.{where} {kept} and run the same command again, or allow more, for example "
        f"--max-missing {min(1.0, -(-lost * 100 // expected) / 100)}."
    )


def _usable(entry: Entry, specs: Mapping[str, ArraySpec], incomplete: str) -> bool:
    if not entry.lacking:
        return True
    modalities = {name for name, spec in specs.items() if spec.kind is not None}
    absent = modalities & set(entry.lacking)
    # the lengths of an absent sequence are absent with it
    along = {specs[name].mask for name in absent} | {name for name, spec in specs.items() if spec.of in absent}
    needed = set(entry.lacking) - modalities - along
    return incomplete == "keep" and absent < modalities and not needed


def _found(
    index: Index, items: Sequence[Item], entries: Mapping[str, Entry], specs: Mapping[str, ArraySpec], incomplete: str
) -> dict[str, Any]:
    """Counts, problems and raw files, for the manifest."""
    own = [entries[item.key] for item in items]
    used = {e.key for e in own if _usable(e, specs, incomplete)}
    samples = sum(e.count for e in own if e.key in used)
    expected = sum(e.count for e in own) + len(index.missing)
    raw = {path: state for e in own for path, state in e.files.items()}
    return {
        "counts": {
            "expected": expected,
            "samples": samples,
            "incomplete": sum(e.count for e in own if e.key in used and e.lacking),
            "missing": expected - samples,
            "ignored": len(index.ignored),
        },
        "notes": dict(index.notes),
        "missing": [dataclasses.asdict(p) for p in index.missing],
        "unreadable": [
            {"sample": e.key, "array": array, "path": path, "reason": reason, "used": e.key in used}
            for e in own
            for array, (path, reason) in sorted(e.lacking.items())
        ],
        "ignored": [dataclasses.asdict(p) for p in index.ignored],
        "raw": [
            {"path": path, "size": state[0] if state else None, "sha256": state[2] if state else None}
            for path, state in sorted(raw.items())
        ],
    }


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=1) + "\n"
