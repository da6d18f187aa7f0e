"""Subsets and missing rates: known answers, and agreement with evaluating each condition by itself."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from equimodal import Batch, Classification, MultimodalModel, Regression
from equimodal.data._missing import kept, uniforms
from equimodal.diagnostics import evaluate, missing_curves, subset_scores, subset_table, subsets_of
from equimodal.errors import BatchError, MethodError, UnknownNameError
from equimodal.fusion import Concat
from equimodal.methods import Ensemble, Joint, Method, available
from tests.helpers import NAMES, make_batch, make_method, split, take

pytest.importorskip("torchmetrics")


class Own(nn.Module):
    """A model that is no MultimodalModel, so that nothing is computed once and used again."""

    def __init__(self, model: MultimodalModel) -> None:
        super().__init__()
        self.inner = model
        self.head = model.head

    def __getattr__(self, name: str) -> Any:
        if name in ("modalities", "feature_sizes", "encode", "fuse", "parameters_of", "fusion"):
            return getattr(self.inner, name)
        return super().__getattr__(name)


def masked_batches(count: int, size: int = 24) -> list[Batch]:
    """Batches of seven samples, some of which lack modalities by themselves."""
    batch = make_batch(count, size)
    present = {NAMES[0]: torch.arange(size) % 4 != 0, NAMES[count - 1]: torch.arange(size) % 4 != 1}
    return split(Batch(batch.inputs, batch.target, present, batch.index), 4)


def with_presence(batches: list[Batch], masks: dict[str, Tensor]) -> Iterator[Batch]:
    """The samples that have something left, as batches of their own."""
    position = 0
    for batch in batches:
        own = {m: mask[position : position + len(batch)] for m, mask in masks.items()}
        position += len(batch)
        rows = torch.stack(list(own.values())).any(0).nonzero()[:, 0]
        if len(rows):
            picked = take(batch, rows)
            yield Batch(picked.inputs, picked.target, {m: mask[rows] for m, mask in own.items()}, picked.index)


def available_of(batches: list[Batch], names: tuple[str, ...]) -> dict[str, Tensor]:
    full = {m: [torch.ones(len(b), dtype=torch.bool) if (b.present or {}).get(m) is None else b.present[m]  # type: ignore[index]
                for b in batches] for m in names}  # fmt: skip
    return {m: torch.cat(v) for m, v in full.items()}


# ---- subsets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", available())
@pytest.mark.parametrize("count", [2, 3, 5])
def test_subsets_agree_with_evaluating_each_by_itself(name: str, count: int) -> None:
    method = make_method(name, count)
    batches = masked_batches(count)
    found = subset_table(method, batches, metrics=True)
    names = NAMES[:count]
    assert [r.subset for r in found] == [s for n in range(1, count + 1) for s in combinations(names, n)]
    have = available_of(batches, names)
    for row in found if count < 5 else found[:: len(found) // 6]:
        masks = {m: have[m] & (m in row.subset) for m in names}
        expected = evaluate(method, with_presence(batches, masks), metrics=True)
        assert row.score == pytest.approx(expected.score, abs=1e-6)
        assert row.metric == pytest.approx(expected.metrics["accuracy"], abs=1e-6)
        assert row.samples == expected.samples


def test_a_model_of_ones_own_gives_the_same() -> None:
    method, batches = make_method("Joint", 3), masked_batches(3)
    own = Joint(Own(method.model), method.task)  # type: ignore[arg-type]
    assert subset_table(own, batches) == subset_table(method, batches)
    assert missing_curves(own, batches, [0.5], draws=2) == missing_curves(method, batches, [0.5], draws=2)


def test_a_subset_that_no_sample_has() -> None:
    batch = make_batch(2)
    lacking = Batch(batch.inputs, batch.target, {NAMES[0]: torch.zeros(len(batch), dtype=torch.bool)})
    first, second, both = subset_table(make_method("Joint", 2), [lacking])
    assert (first.score, first.metric, first.samples) == (None, None, 0)
    assert second.samples == both.samples == len(batch)
    assert second.score == both.score
    assert subset_scores(make_method("Joint", 2), [lacking])[first.subset] is None


def test_many_modalities_are_sampled() -> None:
    names = [f"m{i}" for i in range(12)]
    found = subsets_of(names, limit=100, seed=4)
    assert len(found) == len(set(found)) == 100
    assert {(m,) for m in names} | {tuple(names)} | {tuple(n for n in names if n != m) for m in names} <= set(found)
    assert found == subsets_of(names, limit=100, seed=4) != subsets_of(names, limit=100, seed=5)
    assert found == sorted(found, key=lambda s: (len(s), [names.index(m) for m in s]))
    assert len(subsets_of(names[:8])) == 255
    assert len(subsets_of(names, limit=1)) == 25  # each alone, all without one, all
    with pytest.raises(MethodError, match="limit"):
        subsets_of(names, limit=0)


# ---- missing rates -------------------------------------------------------------------------------------------------


def identity() -> nn.Linear:
    layer = nn.Linear(3, 3)
    nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def known(size: int = 3000) -> tuple[Method, list[Batch]]:
    """Modality ``good`` is always right and certain, ``bad`` always wrong and unsure."""
    target = torch.arange(size) % 3
    right, wrong = (s * nn.functional.one_hot((target + d) % 3, 3).float() for s, d in ((9.0, 0), (1.0, 1)))
    model = MultimodalModel({"good": identity(), "bad": identity()}, Concat({"good": 3, "bad": 3}), nn.Linear(6, 3))
    method = Ensemble(model, Classification(3), heads={"good": identity(), "bad": identity()})
    return method, split(Batch({"good": right, "bad": wrong}, target), 5)


def test_known_answers() -> None:
    method, batches = known()
    good, bad, both = missing_curves(method, batches, [0.2, 0.5, 1.0], draws=4)
    assert (good.name, bad.name, both.name) == ("good", "bad", "all")
    assert good.levels == (0.0, 0.2, 0.5, 1.0)
    np.testing.assert_allclose(good.mean, [1.0, 0.8, 0.5, 0.0], atol=0.015)
    assert bad.mean == [1.0] * 4
    # wrong where only `bad` is left: r (1 - r) + r^2 / 2
    np.testing.assert_allclose(both.mean, [1.0, 0.82, 0.625, 0.5], atol=0.015)
    np.testing.assert_allclose(both.absent, [0.0, 0.18, 0.375, 0.5], atol=0.01)
    np.testing.assert_allclose(good.absent, [0.0, 0.2, 0.5, 1.0], atol=0.01)
    assert good.spread[0] == good.spread[-1] == 0.0
    assert 0 < good.spread[1] < 0.02
    assert all(len(s) == 4 for s in good.scores)
    # nested: a sample that is lost at a rate is lost at every higher one, so each draw falls
    assert all(
        a >= b for d in range(4) for a, b in zip(*[[s[d] for s in good.scores][i:] for i in (0, 1)], strict=False)
    )


@pytest.mark.parametrize("name", available())
def test_a_rate_agrees_with_evaluating_it_by_itself(name: str) -> None:
    method, batches = make_method(name, 3), masked_batches(3)
    names = NAMES[:3]
    have = torch.stack(list(available_of(batches, names).values()), 1).numpy()
    index = torch.cat([b.index for b in batches if b.index is not None]).numpy()
    found = missing_curves(method, batches, [0.3, 0.7], draws=2, seed=9, metrics=True)
    assert [c.name for c in found] == [*names, "all"]
    for curve in found:
        hit = np.array([curve.name in (m, "all") for m in names])
        for draw in range(2):
            numbers = np.stack([uniforms(2000, m, 9, draw + 1)[index] for m in names], 1)
            left = kept(have, 0.7 * hit, numbers)
            masks = {m: torch.from_numpy(left[:, i].copy()) for i, m in enumerate(names)}
            expected = evaluate(method, with_presence(batches, masks), metrics=True)
            assert expected.samples == 24
            assert curve.scores[2][draw] == pytest.approx(expected.score, abs=1e-6)
            assert curve.metrics[2][draw] == pytest.approx(expected.metrics["accuracy"], abs=1e-6)
    clean = evaluate(method, batches).score
    assert all(c.scores[0] == pytest.approx((clean, clean), abs=1e-6) for c in found)


def test_batches_and_other_curves_do_not_matter_and_nothing_is_left_changed() -> None:
    method = make_method("MLA", 3)
    method.model.eval()
    batch = make_batch(3, 24)
    state = torch.get_rng_state()
    whole = missing_curves(method, [batch], [0.5], draws=2, seed=1)
    parts = missing_curves(method, split(batch, 7), [0.5], draws=2, seed=1)
    for a, b in zip(whole, parts, strict=True):
        assert a.scores == b.scores
        assert a.absent == b.absent
    alone = missing_curves(method, [batch], [0.5], draws=2, seed=1, modalities=[NAMES[1]])
    assert alone == [whole[1]]
    assert missing_curves(method, [batch], [0.5], draws=2, seed=2)[0].absent != whole[0].absent
    assert torch.equal(torch.get_rng_state(), state)
    assert method.training
    assert not method.model.training


def test_errors_of_regression_are_scores_below_zero() -> None:
    model = MultimodalModel({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)}, Concat({"a": 2, "b": 2}), nn.Linear(4, 1))
    g = torch.Generator().manual_seed(0)
    x = {m: torch.randn(20, 2, generator=g) for m in "ab"}
    curve = missing_curves(Joint(model, Regression()), [Batch(x, torch.zeros(20))], [0.5], draws=2, metrics=True)[-1]
    assert curve.metric == "mae"
    assert curve.mean[1] == pytest.approx(-float(np.mean(curve.metrics[1])), abs=1e-6)
    assert curve.retained is None
    assert curve.record()["mae"]["mean"][0] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rates": []}, "`rates`: expected rising numbers above 0, up to 1"),
        ({"rates": [0.5, 0.2]}, "rising"),
        ({"rates": [0.5, 1.1]}, "up to 1"),
        ({"rates": [float("nan")]}, "rising"),
        ({"draws": 0}, "`draws`"),
        ({"seed": -1}, "`seed`"),
        ({"modalities": []}, "at least one of"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        missing_curves(make_method("Joint", 2), [make_batch(2)], **options)


def test_unknown_modalities_and_no_batches() -> None:
    with pytest.raises(UnknownNameError, match="keys"):
        missing_curves(make_method("Joint", 2), [make_batch(2)], modalities=["the key"])
    with pytest.raises(BatchError, match="at least one batch"):
        missing_curves(make_method("Joint", 2), [])
