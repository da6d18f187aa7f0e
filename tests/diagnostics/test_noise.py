"""Noise: each kind by hand, its statistics, and curves against independent evaluation."""

from __future__ import annotations

import math
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from equimodal import Batch, Classification, MultimodalModel
from equimodal.batch import Tokens
from equimodal.diagnostics import Corruption, Spread, evaluate, input_spread, noise_curves
from equimodal.errors import BatchError, MethodError, UnknownNameError, UnsupportedError
from equimodal.fusion import Concat
from equimodal.methods import Ensemble, Joint, available
from tests.helpers import NAMES, make_batch, make_method, split

pytest.importorskip("torchmetrics")
ONE = Spread(torch.tensor([1.0], dtype=torch.float64), torch.tensor([-5.0]), torch.tensor([7.0]))


def spoil(kind: Any, x: Any, level: float, spread: Any = (ONE,), seed: int = 0) -> Any:
    corruption = Corruption(kind, "m", spread)
    return corruption.apply(x, corruption.draw(x, np.random.default_rng(seed)), level)


# ---- statistics ----------------------------------------------------------------------------------------------------


def test_statistics_of_vectors_and_images_over_present_samples() -> None:
    g = torch.Generator().manual_seed(0)
    vector, image = 3 * torch.randn(40, 2, generator=g) + 1, torch.randn(40, 3, 4, 5, generator=g)
    have = torch.arange(40) % 3 != 0
    batch = Batch({"v": torch.where(have[:, None], vector, math.nan), "i": image}, None, {"v": have})
    found = input_spread(split(Batch(batch.inputs, torch.zeros(40), batch.present), 6))
    np.testing.assert_allclose(found["v"][0].deviation, vector[have].std(0, unbiased=False), rtol=1e-5)
    np.testing.assert_allclose(found["v"][0].low, vector[have].amin(0))
    flat = image.transpose(0, 1).flatten(1)
    np.testing.assert_allclose(found["i"][0].deviation, flat.std(1, unbiased=False), rtol=1e-5)
    np.testing.assert_allclose(found["i"][0].high, flat.amax(1))


def test_statistics_leave_padding_out_and_take_nestings() -> None:
    values = torch.tensor([[[1.0], [math.nan]], [[3.0], [5.0]]])
    tokens = Tokens(values, torch.tensor([[True, False], [True, True]]))
    nested = {"left": torch.tensor([[0.0], [2.0]]), "right": (torch.tensor([[1.0], [1.0]]), torch.tensor([1, 2]))}
    found = input_spread([Batch({"t": tokens, "n": nested})])
    assert float(found["t"][0].deviation) == pytest.approx(math.sqrt(8 / 3))
    assert (float(found["t"][0].low), float(found["t"][0].high)) == (1.0, 5.0)
    assert [float(s.deviation) for s in found["n"]] == [1.0, 0.0]


def test_statistics_need_samples() -> None:
    lacking = Batch({"a": torch.zeros(2, 1), "b": torch.zeros(2, 1)}, None, {"a": torch.tensor([False, False])})
    assert set(input_spread([lacking])) == {"b"}
    with pytest.raises(BatchError, match=r"that have \['a'\]"):
        input_spread([lacking], ["a", "b"])


# ---- kinds ---------------------------------------------------------------------------------------------------------


def test_gaussian_noise_is_in_units_of_the_training_deviation() -> None:
    spread = Spread(torch.tensor([2.0, 0.5, 0.0]), torch.zeros(3), torch.zeros(3))
    x = torch.randn(20000, 3)
    added = spoil("gaussian", x, 0.4, [spread]) - x
    np.testing.assert_allclose(added.std(0), [0.8, 0.2, 0.0], rtol=0.03, atol=1e-6)
    np.testing.assert_allclose(added.mean(0), np.zeros(3), atol=0.02)
    # the same numbers at another level, and per channel for images
    np.testing.assert_allclose(spoil("gaussian", x, 0.8, [spread]) - x, 2 * added, atol=1e-5)
    image = spoil("gaussian", torch.zeros(200, 3, 8, 8), 1.0, [spread])
    np.testing.assert_allclose(image.transpose(0, 1).flatten(1).std(1), [2.0, 0.5, 0.0], rtol=0.03)


def test_salt_and_pepper_hits_whole_pixels() -> None:
    spread = Spread(torch.ones(2), torch.tensor([-1.0, -2.0]), torch.tensor([1.0, 2.0]))
    x = spoil("salt_and_pepper", torch.zeros(50, 2, 20, 20), 0.3, [spread])
    salt, pepper = x[:, 0] == 1.0, x[:, 0] == -1.0
    assert torch.equal(x[:, 1] == 2.0, salt)
    assert torch.equal(x[:, 1] == -2.0, pepper)
    assert float(salt.float().mean()) == pytest.approx(0.15, abs=0.01)
    assert float(pepper.float().mean()) == pytest.approx(0.15, abs=0.01)


def test_dropped_entries_and_steps() -> None:
    x = torch.ones(200, 20, 3)
    entries = spoil("drop_entries", x, 0.3)
    assert float(entries.mean()) == pytest.approx(0.7, abs=0.02)
    assert bool(((entries.sum(2) > 0) & (entries.sum(2) < 3)).any())
    steps = spoil("drop_steps", x, 0.3)
    assert set(steps.sum(2).unique().tolist()) == {0.0, 3.0}
    assert float(steps.mean()) == pytest.approx(0.7, abs=0.02)
    assert bool((spoil("drop_steps", x, 0.5) <= steps).all())  # nested
    assert float(spoil("drop_steps", x, 1.0).abs().sum()) == 0.0


def test_blocks_are_of_three_steps() -> None:
    corruption = Corruption("drop_blocks", "m")
    drawn = [np.array([[0.9, 0.1, 0.9, 0.9, 0.9, 0.9, 0.05]], np.float32)]
    found = corruption.apply(torch.ones(1, 7, 2), drawn, 0.2)
    assert found[0, :, 0].tolist() == [1, 0, 0, 0, 1, 1, 0]


def test_dropped_words_close_up() -> None:
    corruption = Corruption("drop_steps", "m")
    ids = torch.tensor([[5, 6, 7, 8, 0, 0], [5, 6, 7, 0, 0, 0], [0, 0, 0, 0, 0, 0]])
    drawn = [np.array([[0.1, 0.9, 0.2, 0.9, 0.1, 0.9], [0.1] * 6, [0.1] * 6], np.float32)]
    found = corruption.apply(ids, drawn, 0.5)
    assert found.tolist() == [[6, 8, 0, 0, 0, 0], [5, 0, 0, 0, 0, 0], [0] * 6]  # the first word stays if all would go
    assert found.dtype == ids.dtype
    assert corruption.apply(ids, drawn, 0.0) is ids


def test_dropped_tokens_leave_the_mask() -> None:
    tokens = Tokens.of_lengths(torch.ones(3, 4, 2), torch.tensor([4, 2, 0]))
    drawn = [np.array([[0.1, 0.9, 0.2, 0.9], [0.1, 0.1, 0.9, 0.9], [0.1] * 4], np.float32)]
    found = Corruption("drop_steps", "m").apply(tokens, drawn, 0.5)
    assert found.mask.tolist() == [[False, True, False, True], [True, False, False, False], [False] * 4]
    assert torch.equal(found.values[..., 0] > 0, found.mask)
    ids = Tokens(torch.arange(8).reshape(2, 4), torch.ones(2, 4, dtype=torch.bool))
    assert isinstance(spoil("drop_steps", ids, 0.5), Tokens)


def test_padding_stays_and_nestings_are_followed() -> None:
    tokens = Tokens.of_lengths(torch.full((2, 3, 1), 4.0), torch.tensor([3, 1]))
    found = spoil("gaussian", tokens, 1.0)
    assert torch.equal(found.values[1, 1:], tokens.values[1, 1:])
    assert bool((found.values[0] != 4.0).all())
    nested = {"left": torch.zeros(4, 1), "right": (torch.zeros(4, 1), torch.arange(4))}
    spoilt = spoil("gaussian", nested, 1.0, (ONE, Spread(torch.tensor([100.0]), *[torch.zeros(1)] * 2)))
    assert float(spoilt["right"][0].abs().max()) > 10 > float(spoilt["left"].abs().max()) > 0
    assert spoilt["right"][1].tolist() == [0, 1, 2, 3]


def test_kinds_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="gaussian needs numbers. Modality 'm' holds token ids"):
        spoil("gaussian", torch.ones(2, 3, dtype=torch.int64), 0.5)
    for x in (torch.ones(2, 3), torch.ones(2, 1, 4, 4), {"a": torch.ones(2, 3, 4)}):
        with pytest.raises(UnsupportedError, match="drop_blocks needs a sequence"):
            spoil("drop_blocks", x, 0.5)


# ---- curves --------------------------------------------------------------------------------------------------------


def identity() -> nn.Linear:
    layer = nn.Linear(2, 2)
    nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def test_known_curve() -> None:
    """Two classes at a distance of 1 deviation: accuracy is the normal distribution function of 1 / (2 sigma)."""
    size = 4000
    target = torch.arange(size) % 2
    x = nn.functional.one_hot(target, 2).float() / math.sqrt(2)
    model = MultimodalModel({"a": identity(), "b": identity()}, Concat({"a": 2, "b": 2}), nn.Linear(4, 2))
    method = Ensemble(model, Classification(2), heads={m: identity() for m in "ab"})
    batches = split(Batch({"a": x, "b": torch.zeros_like(x)}, target), 3)
    unit = {"a": [Spread(torch.ones(2), torch.zeros(2), torch.ones(2))], "b": [ONE]}
    a, b, both = noise_curves(method, batches, unit, levels=[0.5, 1.0, 2.0], draws=3, metrics=True)
    exact = [0.5 * (1 + math.erf(0.5 / s / math.sqrt(2))) for s in (0.5, 1.0, 2.0)]
    np.testing.assert_allclose(a.mean, [1.0, *exact], atol=0.012)
    np.testing.assert_allclose(a.metrics[1], a.scores[1], atol=1e-6)
    assert b.mean[0] == 1.0
    assert b.mean[3] < 0.95
    assert all(p <= q + 0.02 for p, q in zip(both.mean, a.mean, strict=True))
    assert both.kind == "gaussian"
    assert a.absent == ()


@pytest.mark.parametrize("name", available())
def test_a_level_agrees_with_evaluating_it_by_itself(name: str) -> None:
    method, batch = make_method(name, 3), make_batch(3, 24)
    batch = Batch(batch.inputs, batch.target, {NAMES[0]: torch.arange(24) % 4 != 0}, batch.index)
    spread = input_spread([batch])
    found = {c.name: c for c in noise_curves(method, [batch], spread, NAMES[:2], [0.4, 0.9], draws=2, seed=5)}
    assert set(found) == {*NAMES[:2], "all"}
    for draw in range(2):
        inputs = dict(batch.inputs)
        for m in NAMES[:2]:
            rng = np.random.default_rng([5, draw, zlib.crc32(m.encode()), 1])
            noise = torch.from_numpy(rng.standard_normal(tuple(batch.inputs[m].shape), dtype=np.float32)).double()
            inputs[m] = batch.inputs[m] + 0.9 * spread[m][0].deviation * noise
        for target in found:
            used = {m: inputs[m] if target in (m, "all") else x for m, x in batch.inputs.items()}
            expected = evaluate(method, [Batch(used, batch.target, batch.present)]).score
            assert found[target].scores[2][draw] == pytest.approx(expected, abs=1e-6)


def test_batches_do_not_matter_and_absent_content_is_not_read() -> None:
    method, batch = make_method("Ensemble", 3), make_batch(3, 24)
    have = torch.arange(24) % 4 != 0
    dirty = {**batch.inputs, NAMES[0]: torch.where(have[:, None], batch.inputs[NAMES[0]], math.nan)}
    whole, other = (Batch(x, batch.target, {NAMES[0]: have}) for x in (batch.inputs, dirty))
    spread = input_spread([whole])
    assert torch.equal(spread[NAMES[0]][0].deviation, input_spread([other])[NAMES[0]][0].deviation)
    expected = noise_curves(method, [whole], spread, levels=[0.5], draws=2)
    assert noise_curves(method, split(other, 5), spread, levels=[0.5], draws=2) == expected


def test_token_ids_lose_words_by_default() -> None:
    class Count(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            return self.scale * (x != 0).sum(1, keepdim=True)

    head = nn.Linear(2, 2)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
        head.bias.copy_(torch.tensor([3.5, 0.0]))
    model = MultimodalModel(
        {"text": Count(), "a": nn.Linear(1, 1)}, Concat({"text": 1, "a": 1}), head, {"text": 1, "a": 1}
    )
    ids = torch.ones(50, 6, dtype=torch.int64)
    batch = Batch({"text": ids, "a": torch.zeros(50, 1)}, torch.ones(50, dtype=torch.int64))
    text, a, both = noise_curves(Joint(model, Classification(2)), [batch], input_spread([batch]), levels=[0.6], draws=1)
    assert (text.kind, a.kind, both.kind) == ("drop_steps", "gaussian", "drop_steps+gaussian")
    assert text.mean[0] == 1.0
    # right while at least 4 of 6 words are left: binomial
    assert text.mean[1] == pytest.approx(sum(math.comb(6, k) * 0.4**k * 0.6 ** (6 - k) for k in (4, 5, 6)), abs=0.12)


@pytest.mark.parametrize(
    ("noise", "levels", "error", "message"),
    [
        (["the ky"], [0.5], UnknownNameError, "the keys"),
        ({NAMES[0]: "gausian"}, [0.5], UnknownNameError, "Did you mean 'gaussian'"),
        ({NAMES[0]: "drop_steps"}, [0.5], UnsupportedError, "needs a sequence"),
        ({NAMES[1]: "drop_steps"}, [0.5, 2.0], MethodError, "numbers up to 1 for drop_steps"),
        ([NAMES[0]], [0.0], MethodError, "`levels`: expected rising numbers above 0"),
        ([NAMES[2]], [0.5], MethodError, "`spread`: expected statistics of 'keys'"),
    ],
)
def test_bad_options(noise: Any, levels: list[float], error: type[Exception], message: str) -> None:
    batch = make_batch(3)
    spread = input_spread([batch], NAMES[:2])
    with pytest.raises(error, match=message):
        noise_curves(make_method("Joint", 3), [batch], spread, noise, levels)


def test_levels_of_deviations_have_no_end() -> None:
    batch = make_batch(2)
    (curve,) = noise_curves(make_method("Joint", 2), [batch], input_spread([batch]), [NAMES[0]], [1, 5, 20], draws=1)
    assert curve.levels == (0.0, 1.0, 5.0, 20.0)
    assert all(0 <= v <= 1 for v in curve.mean)
