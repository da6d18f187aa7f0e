"""Many subsets in one pass: the same outputs as one by one, flat memory, and who may not share a pass."""

from __future__ import annotations

import time
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from equimodal import Batch, Classification, MultimodalModel
from equimodal.diagnostics import _sweep, shapley_scores, subset_table, subsets_of
from equimodal.errors import MethodError
from equimodal.fusion import Concat, LowRank, Sum
from equimodal.methods import MLA, Joint, Method, MultiLoss

NAMES = tuple(f"m{i}" for i in range(5))
FUSIONS: dict[str, Any] = {
    "concat": Concat(dict.fromkeys(NAMES, 4)),
    "sum": Sum(dict.fromkeys(NAMES, 4)),
    "learnt": Concat(dict.fromkeys(NAMES, 4), fill="learnt"),
    "renormalise": Sum(dict.fromkeys(NAMES, 4), fill="renormalise"),
    "low rank": LowRank(dict.fromkeys(NAMES, 4), 6, rank=2),
}


def joint(fusion: Any, kind: Any = Joint, deep: bool = False, names: tuple[str, ...] = NAMES, **options: Any) -> Method:
    torch.manual_seed(0)
    width = fusion.out_features
    head: nn.Module = nn.Sequential(nn.Linear(width, 8), nn.Tanh(), nn.Linear(8, 3)) if deep else nn.Linear(width, 3)
    model = MultimodalModel({m: nn.Linear(2, 4) for m in names}, fusion, head)
    method: Method = kind(model, Classification(3), **options).double()
    return method


def data(names: tuple[str, ...] = NAMES, size: int = 20) -> Batch:
    generator = torch.Generator().manual_seed(1)
    inputs = {m: torch.randn(size, 2, dtype=torch.float64, generator=generator) for m in names}
    present = {names[0]: torch.arange(size) % 3 != 0, names[1]: torch.arange(size) % 4 != 1}
    return Batch(inputs, torch.randint(0, 3, (size,), generator=generator), present)


METHODS: dict[str, tuple[Any, ...]] = {
    **{name: (fusion, Joint, False, {}) for name, fusion in FUSIONS.items()},
    "deep": (FUSIONS["concat"], Joint, True, {}),
    "mean": (FUSIONS["concat"], MultiLoss, False, {"inference": "mean"}),
    "skill": (FUSIONS["concat"], MultiLoss, False, {"inference": "skill"}),
    "mla": (FUSIONS["concat"], MLA, False, {}),
    "batch weights": (FUSIONS["concat"], MLA, False, {"variant": "released"}),
}


@pytest.mark.parametrize("name", METHODS)
def test_shared_passes_give_what_each_subset_gives_by_itself(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fusion, kind, deep, options = METHODS[name]
    monkeypatch.setattr(_sweep, "ROWS", 50)  # several passes
    monkeypatch.setattr(_sweep, "ADDED_ROWS", 70)
    method = joint(fusion, kind, deep, **options)
    chosen = np.array([[m in subset for m in NAMES] for subset in subsets_of(NAMES)])
    for reader in _sweep.readers(method, [data()]):
        assert (reader._addends() is not None) == (name in ("concat", "sum"))
        found = list(reader.predict_subsets(chosen))
        assert len(found) == 31
        for subset, (output, target) in zip(chosen, found, strict=True):
            expected, own = reader.predict(reader.available & subset)
            assert torch.equal(target, own)
            torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)


def test_memory_does_not_grow_with_the_number_of_subsets(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    names = tuple(f"m{i}" for i in range(8))
    method = joint(Concat(dict.fromkeys(names, 4)), deep=True, names=names)
    method.model.head.register_forward_pre_hook(lambda _, arguments: rows.append(len(arguments[0])))
    monkeypatch.setattr(_sweep, "ROWS", 100)
    subset_table(method, [data(names)])
    assert max(rows) <= 100
    assert len(rows) == -(-255 // 5)  # five subsets of twenty samples at a time


def test_shapley_values_of_the_score_are_those_of_all_orders() -> None:
    """Each modality's gain where it comes, averaged over the 120 orders; the scores are of one subset at a time."""
    method, batch = joint(FUSIONS["sum"]), data()
    known: dict[frozenset[str], float] = {frozenset(): 1 / 3}
    target = batch.target
    assert target is not None
    for subset in subsets_of(NAMES):
        output = method.predict({m: batch.inputs[m] for m in subset}).output
        known[frozenset(subset)] = float(torch.eq(output.argmax(1), target).double().mean())
    expected = dict.fromkeys(NAMES, 0.0)
    orders = list(permutations(NAMES))
    for order in orders:
        for i, m in enumerate(order):
            expected[m] += (known[frozenset(order[: i + 1])] - known[frozenset(order[:i])]) / len(orders)
    table = subset_table(method, [Batch(batch.inputs, batch.target)])
    found = shapley_scores(table, nobody=1 / 3)
    assert found == pytest.approx(expected, abs=1e-12)
    assert table[-1].score is not None
    assert sum(found.values()) == pytest.approx(table[-1].score - 1 / 3, abs=1e-12)
    with pytest.raises(MethodError, match=r"each of the 31 subsets.*Found none of m0, m1\. Call.*limit=31"):
        shapley_scores(subset_table(method, [batch], limit=11))
    nobody_has = Batch(batch.inputs, batch.target, {"m0": torch.zeros(20, dtype=torch.bool)})
    with pytest.raises(MethodError, match="Found none of m0"):
        shapley_scores(subset_table(method, [nobody_has]))


def test_every_subset_of_twelve_modalities_in_a_second() -> None:
    names = tuple(f"m{i}" for i in range(12))
    method, batch = joint(Concat(dict.fromkeys(names, 4)), names=names), data(names, 128)
    start = time.process_time()
    found = subset_table(method, [batch], limit=4095)
    assert len(found) == 4095
    assert time.process_time() - start < 3  # 0.2 s on an idle machine
