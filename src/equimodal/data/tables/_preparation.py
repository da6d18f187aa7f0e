"""The whole way from a table to the inputs of a model, as plain values that fit into a JSON file."""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from equimodal.batch import Tokens, Tree
from equimodal.data.tables._features import column_vector, fit_column
from equimodal.data.tables._files import array_state, read_files
from equimodal.data.tables._kinds import Group, Proposal
from equimodal.data.tables._table import Array, Mask, Table
from equimodal.data.tables._text import PADDING, id_array, learn_tokenizer, load_tokenizer, read_tokenizer, token_ids
from equimodal.errors import DataError, DataWarning

FORMAT = 1
MODALITY_KINDS = {"table": "vector", "text": "tokens", "image": "image", "audio": "sequence", "video": "video"}
_ARRAYS = {1: "vector", 2: "sequence", 3: "image"}
_PACKAGES = ("equimodal", "numpy", "pandas", "tokenizers", "pillow", "soundfile", "av")


@dataclass
class Preparation:
    """What was learnt from the training rows of a table, by which new rows are prepared.

    Args:
        modalities: name -> plain values: kind, columns, what was learnt, shape, mean and scale.
        target: plain values of the target.
        versions: package -> version that it was made with.
    """

    modalities: dict[str, dict[str, Any]]
    target: dict[str, Any]
    versions: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        # lists keep their order in any file; the order of columns and modalities is that of the weights
        own = [
            {"name": n, **{k: v for k, v in m.items() if not k.startswith("_")}, "columns": list(m["columns"].items())}
            for n, m in self.modalities.items()
        ]
        return {"format": FORMAT, "modalities": own, "target": self.target, "versions": self.versions}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preparation:
        """The inverse of :meth:`to_dict`.

        Raises:
            DataError: values that this library did not write, or a later version of it.
        """
        if not isinstance(values, Mapping) or values.get("format") != FORMAT:
            found = values.get("format") if isinstance(values, Mapping) else type(values).__name__
            raise DataError(f"`preparation`: expected format {FORMAT}. Found {found!r}. Use the version that wrote it.")
        try:
            modalities = {str(m["name"]): {**m, "columns": dict(m["columns"])} for m in values["modalities"]}
            for own in modalities.values():
                own["kind"], own["shape"], own["state"]  # all have to be there
            return cls(modalities, dict(values["target"]), dict(values["versions"]))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DataError(f"`preparation`: expected what equimodal wrote. Found no {error}. Restore it.") from error

    @cached_property
    def columns(self) -> dict[str, str]:
        """Input column -> its modality."""
        return {column: name for name, own in self.modalities.items() for column in own["columns"]}

    def kind(self, modality: str) -> str:
        """Kind of the modality as models know it: vector, sequence, tokens or image."""
        own = self.modalities[modality]
        return MODALITY_KINDS.get(own["kind"]) or _ARRAYS[len(own["shape"])]

    def arrays(
        self, table: Table, root: Path, wanted: set[str] | None = None
    ) -> tuple[dict[str, Array], dict[str, Mask]]:
        """Modality -> samples before standardisation, and modality -> (N,) presence.

        A modality whose columns all are missing from the table is absent in every row; a file or text of a modality
        that is absent, or not ``wanted``, is not opened. Sequences of several lengths are NaN behind their last step.

        Raises:
            DataError: some columns of a modality are missing, or a cell cannot be read; names file, column and row.
        """
        inputs, present = {}, {}
        for name, own in self.modalities.items():
            lacking = [c for c in own["columns"] if c not in table.columns]
            if wanted is not None and name not in wanted:
                lacking = list(own["columns"])
            elif lacking and len(lacking) < len(own["columns"]):
                raise DataError(
                    f"{table.where}: modality {name!r}: expected the columns {list(own['columns'])}. Found no "
                    f"{lacking} among {table.columns[:12]}. Rename columns, or add them with empty cells."
                )
            if len(lacking) == len(own["columns"]):
                kind = np.int64 if own["kind"] == "text" else np.float32
                inputs[name] = np.full((len(table), *own["shape"]), _blank(own), kind)
                present[name] = np.zeros(len(table), dtype=bool)
                continue
            inputs[name], present[name] = self._modality(own, table, root)
        return inputs, present

    def inputs(
        self, table: Table, root: Path, wanted: set[str] | None = None
    ) -> tuple[dict[str, Array], dict[str, Mask]]:
        """As :meth:`arrays`, standardised by the training rows; :meth:`tensor` makes of it what the model is given."""
        arrays, present = self.arrays(table, root, wanted)
        for name, own in self.modalities.items():
            if own.get("mean") is not None:
                mean, scale = (np.asarray(own[key], np.float64) for key in ("mean", "scale"))
                arrays[name] = ((arrays[name] - mean) * scale).astype(np.float32)
                if not self.steps(name):
                    arrays[name][~present[name]] = 0
        return arrays, present

    def steps(self, modality: str) -> int:
        """Most steps of a modality whose sequences have several lengths; 0 of the others."""
        return int(self.modalities[modality]["state"].get("steps") or 0) if self._is_array(modality) else 0

    def padding(self, modality: str) -> int:
        """Id of padding of a text."""
        return int(self.modalities[modality]["state"].get("padding", PADDING))

    def tensor(self, modality: str, array: Array) -> Tree:
        """Samples of :meth:`inputs` as the model takes them: sequences of several lengths with their mask."""
        values = torch.from_numpy(np.ascontiguousarray(array))
        if not self.steps(modality):
            return values
        return Tokens(values.nan_to_num(0.0), ~values.isnan().any(-1))

    def _is_array(self, modality: str) -> bool:
        return bool(self.modalities[modality]["kind"] == "array")

    def missing(self, table: Table) -> list[str]:
        """Modalities of which the table has no column."""
        return [n for n, own in self.modalities.items() if not set(own["columns"]) & set(table.columns)]

    def _modality(self, own: dict[str, Any], table: Table, root: Path) -> tuple[Array, Mask]:
        if own["kind"] == "table":
            parts = [column_vector(state, table) for state in own["state"]]
            gaps: Mask = np.logical_and.reduce([empty for _, empty in parts])
            return np.concatenate([values for values, _ in parts], axis=1), ~gaps
        if own["kind"] == "text":
            texts, gaps = joined(table, list(own["columns"]))
            if "_tokenizer" not in own:
                own["_tokenizer"] = load_tokenizer(own["state"]["tokenizer"], own["shape"][0])
            padding = int(own["state"].get("padding", PADDING))
            ids = id_array(token_ids(own["_tokenizer"], texts), own["shape"][0], padding)
            have: Mask = ~gaps & (ids != padding).any(axis=1)
            ids[~have] = padding
            return ids, have
        column = next(iter(own["columns"]))
        shape = tuple(own["shape"]) or None
        samples, gaps = read_files(table, column, own["kind"], root, own["state"], shape)
        return samples, ~gaps


def fit_preparation(
    table: Table, proposal: Proposal, target: dict[str, Any], rows: Array, root: Path, options: Mapping[str, Any]
) -> tuple[Preparation, dict[str, Array], dict[str, Mask]]:
    """Learn from the training ``rows``; returns the preparation, the samples of all rows and their presence."""
    learnt = {g.name: _learn(g, table, rows, root, options) for g in proposal.groups}
    made = Preparation(learnt, target, _versions())
    inputs, present = made.arrays(table, root)
    for name, own in made.modalities.items():
        own["shape"] = [int(n) for n in inputs[name].shape[1:]]
        if not present[name][rows].any():
            raise DataError(
                f"{table.where}: modality {name!r}: expected some training row with it. Found none of {len(rows)}. "
                f"Leave it out: columns={{{next(iter(own['columns']))!r}: 'ignore'}}."
            )
    return made, inputs, present


def joined(table: Table, columns: list[str]) -> tuple[list[str], Mask]:
    """The texts of several columns as one, and the rows where all of them are empty."""
    parts = [table.texts(c) for c in columns]
    texts = [" \n ".join(t for t in row if t) for row in zip(*parts, strict=True)]
    return texts, np.array([not t for t in texts], dtype=bool)


def _blank(own: Mapping[str, Any]) -> float:
    """What stands in the place of absent samples."""
    if own["kind"] == "text":
        return int(own["state"].get("padding", PADDING))
    return float("nan") if own["kind"] == "array" and own["state"].get("steps") else 0.0


def _learn(group: Group, table: Table, rows: Array, root: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    own: dict[str, Any] = {"kind": group.kind, "columns": dict(group.columns), "shape": [], "mean": None, "scale": None}
    if group.kind == "table":
        states = [fit_column(table, c, kind, rows) for c, kind in group.columns.items()]
        flat = [s["column"] for s in states if s["kind"] != "category" and s["scale"] == 0 and not s["indicator"]]
        if flat:
            text = f"{table.where}: column(s) {flat[:5]}: one value in all training rows; they say nothing."
            warnings.warn(text, DataWarning, stacklevel=4)
        return own | {"state": states}
    if group.kind == "text":
        texts, gaps = joined(table.take(rows), list(group.columns))
        filled = [t for t, gap in zip(texts, gaps, strict=True) if not gap]
        padding = PADDING
        if options["tokenizer"] is None:
            tokenizer = learn_tokenizer(filled, int(options["vocabulary"]))
        else:
            tokenizer, padding = read_tokenizer(options["tokenizer"])
        loaded = load_tokenizer(tokenizer)
        lengths = [len(i) for i in token_ids(loaded, filled)] or [1]
        length = int(min(options["text_length"], max(16, np.quantile(lengths, 0.95))))
        state = {"tokenizer": tokenizer, "vocabulary": loaded.get_vocab_size(), "padding": padding}
        return own | {"state": state, "shape": [length]}
    if group.kind == "array":
        column = next(iter(group.columns))
        known = array_state(table.take(rows), column, root, int(options["sequence_length"]))
        return own | {"state": {"steps": known["steps"]}, "shape": known["shape"]}
    keys = {"image": ("image_size",), "audio": ("audio_seconds",), "video": ("image_size", "video_frames")}[group.kind]
    return own | {"state": {key: options[key] for key in keys}}


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
