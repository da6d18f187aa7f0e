"""Noise of words, steps and vectors by hand; what holds for every kind; curves."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from equimodal import Batch, Classification, MultimodalModel
from equimodal.batch import Tokens, tree_tensors
from equimodal.diagnostics import Corruption, Spread, input_spread, noise_curves
from equimodal.diagnostics.noise._images import IMAGE_NOISES
from equimodal.diagnostics.noise._kinds import ENDLESS, MEASURED, NOISES
from equimodal.errors import MethodError, UnsupportedError
from equimodal.fusion import Concat
from equimodal.methods import Joint
from tests.diagnostics.helpers import ZERO_TO_ONE, hit, kornia

IMAGES = [*IMAGE_NOISES, "blur"]
WORDS = ["drop_steps", "drop_blocks", "drop_segments", "swap_steps", "repeat_steps", "replace_words"]


# ---- sequences -----------------------------------------------------------------------------------------------------


def test_neighbours_change_places() -> None:
    words = torch.tensor([[1, 2, 3, 4, 5]] * 3 + [[1, 2, 3, 0, 0]] * 2)
    # where pairs begin, then a number per pair
    numbers = [[0.1, 0.2, 0.9], [0.6, 0.2, 0.9], [0.6, 0.9, 0.2], [0.1, 0.2, 0.2], [0.6, 0.2, 0.2]]
    assert hit("swap_steps", words, numbers).tolist() == [
        [2, 1, 3, 4, 5], [1, 3, 2, 4, 5], [1, 2, 3, 5, 4], [2, 1, 3, 0, 0], [1, 3, 2, 0, 0]
    ]  # fmt: skip
    mask = torch.tensor([[False, True, False, True, True, True]])
    tokens = Tokens(torch.arange(6.0).reshape(1, 6, 1), mask)  # real steps 1, 3, 4, 5, wherever they are
    found = hit("swap_steps", tokens, [[0.1, 0.2, 0.9, 0.9]])
    assert found.values.flatten().tolist() == [0, 3, 2, 1, 4, 5]
    assert torch.equal(found.mask, mask)
    series = torch.arange(6.0).reshape(1, 3, 2)
    assert hit("swap_steps", series, [[0.6, 0.2]]).tolist() == [[[0, 1], [4, 5], [2, 3]]]
    assert hit("swap_steps", torch.tensor([[7]]), [[0.1, 0.2]]).tolist() == [[7]]
    vector = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    assert hit("swap_entries", vector, [[0.1, 0.9, 0.2]]).tolist() == [[1, 2, 4, 3]]


def test_repeated_steps() -> None:
    words = torch.tensor([[5, 6, 7, 0], [5, 6, 7, 0], [5, 6, 7, 8], [0, 0, 0, 0]])
    numbers = [[0.1, 0.9, 0.9, 0.1], [0.1] * 4, [0.9] * 4, [0.1] * 4]
    assert hit("repeat_steps", words, numbers).tolist() == [[5, 5, 6, 7], [5, 5, 6, 6], [5, 6, 7, 8], [0] * 4]
    tokens = Tokens(torch.arange(8.0).reshape(2, 4, 1), torch.tensor([[True, True, False, False]] * 2))
    found = hit("repeat_steps", tokens, [[0.9, 0.1, 0.1, 0.1], [0.9] * 4])
    assert found.values[0].flatten().tolist() == [0, 1, 1, 0]
    assert torch.equal(found.values[1], tokens.values[1])  # nothing was repeated: nothing moves
    assert found.mask.tolist() == [[True, True, True, False], [True, True, False, False]]
    series = torch.arange(6.0).reshape(1, 3, 2)
    assert hit("repeat_steps", series, [[0.9, 0.1, 0.9]]).tolist() == [[[0, 1], [2, 3], [2, 3]]]


def test_replaced_words() -> None:
    spread = input_spread([Batch({"t": torch.tensor([[11, 3, 0], [2, 0, 0]])})])["t"]
    assert (spread[0].low.tolist(), spread[0].high.tolist()) == ([2], [11])  # padding is no word
    ids = torch.tensor([[5, 6, 7, 8, 0]])
    numbers = [[[0.1, 0.0], [0.9, 0.0], [0.49, 0.9999], [0.1, 0.55], [0.1, 0.5]]]
    found = hit("replace_words", ids, numbers, spread=spread[0])
    assert found.tolist() == [[2, 6, 11, 7, 0]]  # 2 + floor(10 u)
    assert found.dtype == ids.dtype
    tokens = Tokens(ids, torch.tensor([[True, True, True, False, False]]))
    assert hit("replace_words", tokens, numbers, spread=spread[0]).values.tolist() == [[2, 6, 11, 8, 0]]


def test_uneven_time() -> None:
    ramp = torch.arange(5.0).reshape(1, 5, 1)
    found = hit("time_warp", ramp, [[0.75]], 1.0)  # a = 0.5
    shift = 4 * 0.5 / (2 * math.pi)
    assert found.flatten().tolist() == pytest.approx([0, 1 + shift, 2, 3 - shift, 4], abs=1e-5)
    half = hit("time_warp", ramp, [[0.75]], 0.5)
    assert half.flatten().tolist() == pytest.approx([0, 1 + shift / 2, 2, 3 - shift / 2, 4], abs=1e-5)
    values = torch.cat([ramp, torch.full((1, 2, 1), math.nan)], dim=1)
    tokens = Tokens(values, torch.tensor([[True] * 5 + [False] * 2]))
    padded = hit("time_warp", tokens, [[0.75]], 1.0)
    assert padded.values[0, :5].flatten().tolist() == pytest.approx(found.flatten().tolist())
    assert torch.equal(padded.mask, tokens.mask)
    backwards = hit("time_warp", torch.arange(50.0).reshape(1, 50, 1), [[0.0]], 1.0).flatten().diff()
    assert bool((backwards >= -1e-6).all())
    for length in (1, 2):
        short = torch.rand(1, length, 3)
        torch.testing.assert_close(hit("time_warp", short, [[0.9]], 1.0), short)


def test_one_number_per_step() -> None:
    spread = Spread(torch.tensor([1.0, 3.0]), torch.zeros(2), torch.zeros(2))
    found = hit("gaussian_steps", torch.zeros(1, 3, 2), [[1.0, -2.0, 0.5]], 0.5, spread)
    assert found.tolist() == [[[0.5, 1.5], [-1.0, -3.0], [0.25, 0.75]]]
    tokens = Tokens.of_lengths(torch.zeros(1, 3, 2), torch.tensor([1]))
    assert hit("gaussian_steps", tokens, [[1.0, 1.0, 1.0]], 2.0, spread).values.tolist() == [[[2, 6], [0, 0], [0, 0]]]


def test_segments_are_of_ten_steps() -> None:
    numbers = np.full((1, 25), 0.9, np.float32)
    numbers[0, [3, 20]] = 0.1
    found = hit("drop_segments", torch.ones(1, 25, 1), numbers).flatten()
    assert found.nonzero().flatten().tolist() == [0, 1, 2, *range(13, 20)]


# ---- what holds for every kind -------------------------------------------------------------------------------------


def inputs(kind: str, size: int = 40) -> Any:
    """Something that the kind fits."""
    g = torch.Generator().manual_seed(0)
    if kind in IMAGES:
        return torch.rand(size, 3, 12, 10, generator=g)
    if kind in WORDS:
        return torch.randint(1, 50, (size, 12), generator=g) * (torch.arange(12) < torch.arange(size)[:, None] % 9 + 3)
    if kind in ("time_warp", "gaussian_steps"):
        return torch.randn(size, 12, 3, generator=g)
    return torch.randn(size, 9, generator=g)


every_kind = pytest.mark.parametrize("kind", NOISES)


def change(a: Any, b: Any) -> float:
    return float((a.double() - b.double()).abs().sum())


@every_kind
def test_levels_share_their_numbers_and_grow(kind: Any) -> None:
    if kind == "blur":
        kornia()
    x = inputs(kind)
    before = x.clone()
    corruption = Corruption(kind, "m", input_spread([Batch({"m": x})])["m"])
    drawn = corruption.draw(x, np.random.default_rng(3))
    again = corruption.draw(x, np.random.default_rng(3))
    assert all(np.array_equal(a, b) for a, b in zip(drawn, again, strict=True))
    assert corruption.apply(x, drawn, 0) is x
    found = [corruption.apply(x, drawn, level) for level in (0.25, 0.5, 0.75, 1.0)]
    assert torch.equal(corruption.apply(x, drawn, 0.5), found[1])
    assert torch.equal(x, before)  # nothing is changed in place
    assert all(y.shape == x.shape and y.dtype == x.dtype for y in found)
    touched = [(y != x).flatten(1).any(1) for y in found]
    for less, more in itertools.pairwise(touched):
        assert bool((more | ~less).all())  # who is spoilt stays spoilt
    assert int(touched[-1].sum()) > 0.6 * len(x)
    if kind not in ("drop_steps", "drop_blocks", "drop_segments", "repeat_steps", "replace_words"):
        sizes = [change(y, x) for y in found]  # of ids the distance means nothing
        assert all(a <= b + 1e-6 for a, b in itertools.pairwise(sizes))
    if kind in IMAGE_NOISES:
        assert 0 < int(touched[0].sum()) < int(touched[1].sum()) < len(x)


@every_kind
def test_samples_do_not_look_at_each_other(kind: Any) -> None:
    """Also not at the content of absent ones."""
    if kind == "blur":
        kornia()
    x = inputs(kind)
    spread = input_spread([Batch({"m": x})])["m"]
    corruption = Corruption(kind, "m", spread)
    whole = corruption.apply(x, corruption.draw(x, np.random.default_rng(0)), 0.6)
    rng = np.random.default_rng(0)
    parts = [corruption.apply(p, corruption.draw(p, rng), 0.6) for p in (x[:7], x[7:30], x[30:])]
    torch.testing.assert_close(torch.cat(parts), whole)
    dirty = x.clone()
    dirty[::3] = math.nan if x.is_floating_point() else 0
    found = corruption.apply(dirty, corruption.draw(dirty, np.random.default_rng(0)), 0.6)
    keep = torch.arange(len(x)) % 3 != 0
    torch.testing.assert_close(found[keep], whole[keep])


SERIES = [k for k in WORDS if k != "replace_words"] + ["time_warp", "gaussian_steps"]


@pytest.mark.parametrize(("kind", "words"), [(k, True) for k in WORDS] + [(k, False) for k in SERIES])
def test_padding_of_tokens_stays_padding(kind: Any, words: bool) -> None:
    values = torch.randint(1, 9, (30, 11)) if words else torch.randn(30, 11, 2)
    x = Tokens.of_lengths(values, torch.arange(30) % 12)
    corruption = Corruption(kind, "m", input_spread([Batch({"m": x})])["m"])
    found = corruption.apply(x, corruption.draw(x, np.random.default_rng(0)), 0.7)
    assert isinstance(found, Tokens)
    assert found.values.dtype == x.values.dtype
    empty = ~x.mask.any(1)
    assert torch.equal(found.mask[empty], x.mask[empty])
    assert bool(found.mask[~empty].any(1).all())
    if kind == "repeat_steps":
        assert bool((found.mask.sum(1) >= x.mask.sum(1)).all())
    else:
        assert bool((x.mask | ~found.mask).all())


@pytest.mark.parametrize(
    ("kinds", "x", "message"),
    [
        (IMAGES, torch.zeros(2, 3), r"needs images \(B, C, H, W\) or videos.*a tensor \(2, 3\)"),
        (IMAGES, torch.zeros(2, 3, 4), "needs images"),
        (IMAGES, torch.ones(2, 3, dtype=torch.int64), "needs images"),
        (["grayscale", "white_balance", "tint"], torch.zeros(2, 1, 4, 4), "needs three channels"),
        (["swap_steps", "repeat_steps", "time_warp", "gaussian_steps"], torch.zeros(2, 3), "needs a sequence"),
        (["swap_steps", "drop_segments"], {"a": torch.zeros(2, 3, 4)}, "m' is dict"),
        (["time_warp", "gaussian_steps", "swap_entries"], torch.ones(2, 3, dtype=torch.int64), "holds token ids"),
        (["replace_words"], torch.zeros(2, 3, 4), "needs token ids"),
        (["swap_entries"], torch.zeros(2, 3, 4), r"needs a vector \(B, F\)"),
    ],
)
def test_inputs_that_do_not_fit(kinds: list[Any], x: Any, message: str) -> None:
    for kind in kinds:
        with pytest.raises(UnsupportedError, match=rf"`noise`: {kind} needs.*Use ") as caught:
            Corruption(kind, "m", [ZERO_TO_ONE]).draw(x, np.random.default_rng(0))
        assert caught.match(message)


def test_statistics_of_words_are_their_numbers() -> None:
    words = Tokens(torch.tensor([[4, 9, 0], [2, 0, 0]]), torch.tensor([[True, True, False], [True, False, False]]))
    found = input_spread([Batch({"t": words})], ["t"])["t"]
    assert (float(found[0].low), float(found[0].high)) == (2.0, 9.0)
    nested = {"input_ids": torch.ones(2, 3, dtype=torch.int64)}  # no numbers, and none are needed to drop words
    assert input_spread([Batch({"t": nested})], ["t"]) == {"t": []}


# ---- curves --------------------------------------------------------------------------------------------------------


class Brightest(nn.Module):
    """Whether the left half of an image is the brighter one."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.mean(dim=1).chunk(2, dim=-1)
        return self.scale * torch.stack([left.mean((1, 2)), right.mean((1, 2))], dim=1)


def halves(size: int = 400) -> tuple[Joint, Batch]:
    target = torch.arange(size) % 2
    x = torch.zeros(size, 3, 8, 8)
    x[target == 0, :, :, :4] = 1.0
    x[target == 1, :, :, 4:] = 1.0
    model = MultimodalModel({"i": Brightest(), "v": nn.Linear(1, 1)}, Concat({"i": 2, "v": 1}), nn.Linear(3, 2, False))
    with torch.no_grad():
        model.head.weight.copy_(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))  # type: ignore[operator]
    return Joint(model, Classification(2)), Batch({"i": x, "v": torch.zeros(size, 1)}, target)


@pytest.mark.parametrize("kind", ["flip", "inversion"])
def test_a_curve_of_images(kind: str) -> None:
    """Flipped or inverted images are taken for the other class: the accuracy is one minus the level."""
    method, batch = halves()
    (curve,) = noise_curves(method, [batch], input_spread([batch]), {"i": kind}, [0.2, 0.5, 1.0], draws=4)
    np.testing.assert_allclose(curve.mean, [1.0, 0.8, 0.5, 0.0], atol=0.04)
    assert curve.kind == kind
    for harmless in ("contrast", "grayscale"):
        (curve,) = noise_curves(method, [batch], input_spread([batch]), {"i": harmless}, [1.0], draws=1)
        assert curve.mean == [1.0, 1.0]


def test_levels_and_statistics_that_a_kind_needs() -> None:
    method, batch = halves(8)
    spread = input_spread([batch])
    for kind in (k for k in NOISES if k in MEASURED and k in (*IMAGE_NOISES, "gaussian", "salt_and_pepper")):
        with pytest.raises(MethodError, match=r"`spread`: expected statistics of 'i'"):
            noise_curves(method, [batch], {}, {"i": kind}, [0.5])
    with pytest.raises(MethodError, match="up to 1 for flip"):
        noise_curves(method, [batch], spread, {"i": "flip"}, [0.5, 2.0])
    with pytest.raises(MethodError, match="statistics of 'm'"):
        Corruption("contrast", "m").apply(torch.zeros(1, 1, 2, 2), [np.zeros((1, 1), np.float32)], 0.5)
    assert set(ENDLESS) <= set(MEASURED)
    sequence = Batch({"i": torch.randn(8, 3, 8, 8), "v": torch.randn(8, 1)}, batch.target)
    assert noise_curves(method, [sequence], input_spread([sequence]), {"v": "gaussian"}, [3.0])[0].levels == (0.0, 3.0)


def test_every_kind_goes_through_a_curve() -> None:
    """In units that are tree tensors of the right devices and shapes: nothing but the score changes."""
    for kind in NOISES:
        if kind == "blur":
            kornia()
        x = inputs(kind, 12)
        assert tree_tensors(x)
        flat = int(x[0].numel())

        class Flat(nn.Module):
            def __init__(self, size: int) -> None:
                super().__init__()
                self.map = nn.Linear(size, 2)

            def forward(self, x: Tensor) -> Tensor:
                found: Tensor = self.map(x.flatten(1).float())
                return found

        torch.manual_seed(0)
        model = MultimodalModel({"a": Flat(flat), "b": Flat(3)}, Concat({"a": 2, "b": 2}), nn.Linear(4, 2))
        have = torch.arange(12) % 4 != 0
        batch = Batch({"a": x, "b": torch.randn(12, 3)}, torch.arange(12) % 2, {"a": have})
        method = Joint(model, Classification(2))
        (curve,) = noise_curves(method, [batch], input_spread([batch]), {"a": kind}, [0.5, 1.0], draws=2)
        assert (curve.kind, len(curve.mean)) == (kind, 3)
