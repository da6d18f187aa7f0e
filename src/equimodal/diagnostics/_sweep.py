"""Predictions of one method under many conditions, with each encoder run once per input rather than per condition."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from equimodal.batch import Batch, Presence, Tree, keep_rows, tree_map
from equimodal.data import ALL
from equimodal.errors import BatchError, MethodError
from equimodal.fusion import Concat, Sum
from equimodal.methods import BatchLike, Method, evaluating
from equimodal.model import MultimodalModel
from equimodal.tasks import counting_dtype, mean_ratio
from equimodal.unimodal import Split

Mask = npt.NDArray[np.bool_]
ROWS, ADDED_ROWS = 4096, 65536
"""Samples times subsets in one pass: through fusion and head, and where outputs are added up."""


class Tally:
    """Score, and the task's main metric, of predictions that come batch by batch.

    Args:
        method: whose task gives both.
        metric: compute the main metric too (torchmetrics).
    """

    def __init__(self, method: Method, metric: bool) -> None:
        self._task = method.task
        self._terms: tuple[Tensor, Tensor] | None = None
        device = next(method.parameters()).device
        self._metric: Any = self._task.metrics()[self._task.main_metric].to(device) if metric else None
        self.samples = 0

    def add(self, output: Tensor, target: Tensor) -> None:
        """Take in the predictions of some samples."""
        terms = self._task.score_terms(output, target)
        numerator, denominator = (t.to(counting_dtype(t.device)) for t in terms)
        known = self._terms
        self._terms = (numerator, denominator) if known is None else (known[0] + numerator, known[1] + denominator)
        if self._metric is not None:
            self._metric.update(self._task.probabilities(output), target)
        self.samples += len(target)

    @property
    def score(self) -> float | None:
        """The score (higher is better); ``None`` without samples or where nothing can be judged."""
        return None if self._terms is None else _finite(mean_ratio(*self._terms))

    @property
    def metric(self) -> float | None:
        """The main metric, in its own direction; ``None`` if it was not asked for."""
        return None if self._metric is None or not self.samples else _finite(self._metric.compute())


def _finite(value: Any) -> float | None:
    number = float(value)
    return number if np.isfinite(number) else None


class Reader:
    """One batch that can be predicted again and again with other presence or other inputs.

    Where the model is a :class:`~equimodal.MultimodalModel` its features are computed once, and rows are made absent
    by zeroing features, which is what the model does with absent rows.

    Args:
        method: in evaluation mode.
        batch: on the method's device, with a target.
        position: row of its first sample, which stands for ``batch.index`` where there is none.
    """

    def __init__(self, method: Method, batch: Batch, position: int) -> None:
        self.method = method
        self.batch = batch
        self.names = tuple(m for m in method.modalities if m in batch.inputs)
        own = None if batch.presence is None else batch.presence
        full = np.ones(len(batch), np.bool_)
        self.available: Mask = np.stack(
            [full if own is None or m not in own else own[m].cpu().numpy() for m in self.names], axis=1
        )
        rows = np.arange(position, position + len(batch)) if batch.index is None else batch.index.cpu().numpy()
        self.rows: npt.NDArray[np.int64] = np.asarray(rows, np.int64)
        self._reuse = isinstance(method.model, MultimodalModel) and type(method).outputs is Method.outputs
        self._features: dict[str, Tree] = self._encode(batch.inputs, self.names) if self._reuse else {}

    @property
    def target(self) -> Tensor:
        """Targets of all samples."""
        return cast(Tensor, self.batch.target)

    def _encode(self, inputs: Mapping[str, Tree], names: Sequence[str]) -> dict[str, Tree]:
        presence = self.method.presence_of(self.batch.inputs, self.batch.present)
        found: dict[str, Tree] = self.method.multimodal.encode(inputs, presence, list(names))
        return found

    def predict(self, kept: Mask, inputs: Mapping[str, Tree] | None = None) -> tuple[Tensor, Tensor]:
        """Outputs and targets of the samples that keep a modality.

        Args:
            kept: (B, M) what is used of ``available``, in the order of ``names``.
            inputs: inputs that replace the batch's, of some modalities.
        """
        rows = kept.any(axis=1)
        if not rows.any():
            return self.target.new_zeros(0), self.target[:0]
        return self._predict(None if rows.all() else np.flatnonzero(rows), kept[rows], inputs)

    def predict_subsets(self, chosen: Mask) -> Iterator[tuple[Tensor, Tensor]]:
        """What :meth:`predict` gives from each subset of the modalities, several of them in one pass.

        The output of an additive head is a sum over modalities: one product of the subsets with the addends then gives
        those of many subsets. Other models are given the samples once per subset. Memory does not grow with the number
        of subsets.

        Args:
            chosen: (S, M) the subsets, in the order of ``names``.
        """
        size = len(self.batch)
        addends = self._addends()
        if not self._reuse or not self.method.single_samples:
            for subset in chosen:
                yield self.predict(self.available & subset)
            return
        step = max(1, (ROWS if addends is None else ADDED_ROWS) // size)
        for start in range(0, len(chosen), step):
            kept = self.available[None] & chosen[start : start + step, None]  # (subsets, B, M)
            some = kept.any(axis=2)
            counts = some.sum(axis=1).tolist()
            if addends is not None:
                outputs = self._added(addends, chosen[start : start + step])
                for output, rows, count in zip(outputs, some, counts, strict=True):
                    picked = None if count == size else torch.from_numpy(np.flatnonzero(rows)).to(output.device)
                    pair = (output, self.target)
                    yield pair if picked is None else (pair[0].index_select(0, picked), pair[1].index_select(0, picked))
            elif not some.any():
                yield from [(self.target.new_zeros(0), self.target[:0])] * len(counts)
            else:
                flat = some.reshape(-1)
                found, target = self._predict(np.flatnonzero(flat) % size, kept.reshape(-1, kept.shape[2])[flat], None)
                yield from zip(found.split(counts), target.split(counts), strict=True)

    def _addends(self) -> tuple[Tensor, Tensor] | None:
        """Each modality's share of the output (M, B, C), 0 in rows without it, and the output without any (1, C).

        ``None`` where the output is no such sum: another rule or fusion, a head that is not affine, a fill that depends
        on what is absent.
        """
        method, fusion = self.method, getattr(self.method.model, "fusion", None)
        plain = self._reuse and type(method).fused_output is Method.fused_output and method.single_samples
        additive = isinstance(fusion, (Concat, Sum)) and fusion.fill == "zeros" and Split.refusal(method.model) is None
        vectors = all(isinstance(h, Tensor) and h.ndim == 2 for h in self._features.values())
        rule = method.inference
        if not plain or not additive or not vectors or rule.custom is not None or rule.needs(True) != {"fused"}:
            return None
        head, nothing = method.multimodal.head, {m: torch.zeros_like(h) for m, h in self._features.items()}
        everyone = method.presence_of(self.batch.inputs, None)
        constant: Tensor = head(method.multimodal.fuse({m: h[:1] for m, h in nothing.items()}))
        if constant.ndim != 2:
            return None
        shares = []
        for i, (m, h) in enumerate(self._features.items()):
            alone = head(method.multimodal.fuse({**nothing, m: h}, everyone)) - constant
            shares.append(alone * torch.from_numpy(self.available[:, i, None]).to(alone.device))
        return torch.stack(shares), constant

    def _added(self, addends: tuple[Tensor, Tensor], chosen: Mask) -> Tensor:
        """Outputs (subsets, B, C)."""
        shares, constant = addends
        inside = torch.from_numpy(chosen).to(shares.device, shares.dtype)
        return (inside @ shares.flatten(1)).view(len(chosen), *shares.shape[1:]) + constant

    def _predict(
        self, rows: npt.NDArray[np.int64] | None, kept: Mask, inputs: Mapping[str, Tree] | None
    ) -> tuple[Tensor, Tensor]:
        """Outputs and targets of some rows, each as often as it is named, of which ``kept`` says what is used."""
        device = self.target.device
        picked = None if rows is None else torch.from_numpy(rows).to(device)
        masks = {m: torch.from_numpy(np.ascontiguousarray(kept[:, i])).to(device) for i, m in enumerate(self.names)}

        def take(t: Tensor) -> Tensor:
            return t if picked is None else t.index_select(0, picked)

        if not self._reuse:
            given = {m: tree_map(take, x) for m, x in {**self.batch.inputs, **(inputs or {})}.items()}
            outputs = self.method.outputs(given, masks)
        else:
            features = self._features | (self._encode(inputs, list(inputs)) if inputs else {})
            absent = {m: keep_rows(tree_map(take, h), masks[m]) for m, h in features.items()}
            presence = self._presence(masks)
            outputs = (*self.method.outputs_of(absent, presence), presence)
        return self.method.combine(*outputs).output, take(self.target)

    def _presence(self, masks: Mapping[str, Tensor]) -> Presence:
        first = next(iter(masks.values()))
        return Presence({m: masks.get(m, torch.zeros_like(first)) for m in self.method.modalities})


def readers(method: Method, batches: Iterable[BatchLike]) -> Iterator[Reader]:
    """A :class:`Reader` per batch, in evaluation mode and without gradients."""
    device = next(method.parameters()).device
    position = 0
    with torch.no_grad(), evaluating(method):
        for item in batches:
            batch = method.check_batch(item).to(device)
            yield Reader(method, batch, position)
            position += len(batch)
    if position == 0:
        raise BatchError("`batches`: expected at least one batch. Found none.")


def chosen_modalities(method: Method, modalities: Iterable[str] | None) -> list[str]:
    """``modalities`` if the method has them all; all of its own by default."""
    from equimodal.errors import unknown_name

    names = list(method.modalities if modalities is None else modalities)
    for name in names:
        if name not in method.modalities:
            raise unknown_name("modality", name, method.modalities)
    if not names:
        raise MethodError(f"`modalities`: expected at least one of {list(method.modalities)}. Found none.")
    return names


def checked_levels(name: str, levels: Iterable[float], highest: float | None) -> list[float]:
    """Different levels from 0 upwards, with 0 (nothing changed) put first."""
    found = [float(v) for v in levels]
    expected = f"rising numbers above 0{'' if highest is None else f', up to {highest:g}'}"
    rest = found[1:] if found[:1] == [0.0] else found
    rising = all(a < b for a, b in zip([0.0, *rest], rest, strict=False))
    if not rest or not rising or (highest is not None and rest[-1] > highest) or rest[-1] == float("inf"):
        raise MethodError(f"`{name}`: expected {expected}, such as 0.1, 0.2, 0.3. Found {found}.")
    return [0.0, *rest]


def repeated(
    method: Method, names: Sequence[str], levels: Sequence[float], draws: int, seed: int, metrics: bool
) -> tuple[list[str], dict[tuple[str, float, int], Tally]]:
    """What a sweep is about - each modality, and :data:`ALL` of several - and a tally per level and draw of it.

    Level 0 changes nothing and has one draw.
    """
    checked_whole("draws", draws, 1)
    checked_whole("seed", seed, 0)
    targets = [*names, ALL] if len(names) > 1 else list(names)
    keys = [(t, v, d) for t in targets for v in levels for d in range(draws if v else 1)]
    return targets, {key: Tally(method, metrics) for key in keys}


def checked_whole(name: str, value: int, least: int) -> int:
    """``value`` if it is a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise MethodError(f"`{name}`: expected a whole number >= {least}. Found {value!r}.")
    return value
