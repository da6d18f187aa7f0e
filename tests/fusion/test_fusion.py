"""Fusions: numbers by hand, every kind of features, absent modalities, and what each declares."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from equimodal import MultimodalModel
from equimodal.batch import Tokens, Tree, tree_map
from equimodal.errors import ModelError, UnknownNameError, UnsupportedError
from equimodal.features import pool
from equimodal.fusion import Concat, CrossAttention, FiLM, Fusion, Gated, Late, LateTransformer, LowRank, Sum

NAMES = ("audio.raw", "the keys", "keys", "depth map.0", "Ünicode/5")
Build = Callable[[Mapping[str, Any]], Fusion]
BUILDERS: dict[str, Build] = {
    "Concat": Concat,
    "Sum": Sum,
    "FiLM": FiLM,  # the result is of the main modality's kind, so tests pool it
    "Gated": Gated,
    "LowRank": LowRank,
    "CrossAttention": lambda sizes: CrossAttention(sizes, width=4, heads=2, layers=1),
    "Late": lambda sizes: Late(sizes, 3),
    "LateTransformer": lambda sizes: LateTransformer(sizes, 4, 2, 6, 2),
}
MANY = [(name, count) for name in BUILDERS for count in (2, 3, 5)]


def double(fusion: Fusion, seed: int = 0) -> Fusion:
    """With all parameters drawn anew, so that no zero start hides anything."""
    g = torch.Generator().manual_seed(seed)
    fusion = fusion.double()
    with torch.no_grad():
        for p in fusion.parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=g, dtype=torch.float64))
    return fusion


def vectors(count: int, size: int = 6, width: int = 4, seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {m: torch.randn(size, width, generator=g, dtype=torch.float64) for m in NAMES[:count]}


def spoilt(feature: Tree, mask: Tensor, value: float) -> Tree:
    def put(t: Tensor) -> Tensor:
        rows = mask.reshape(-1, *[1] * (t.ndim - 1))
        return torch.where(rows, t, torch.full_like(t, value)) if t.is_floating_point() else t

    return tree_map(put, feature)


def sequences(count: int, size: int = 6, width: int = 4, seed: int = 0) -> dict[str, Tokens]:
    g = torch.Generator().manual_seed(seed)
    found = {}
    for position, m in enumerate(NAMES[:count]):
        steps = 3 + position
        values = torch.randn(size, steps, width, generator=g, dtype=torch.float64)
        found[m] = Tokens.of_lengths(values, 1 + torch.randint(0, steps, (size,), generator=g))
    return found


# ---- what holds for all of them -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "count"), MANY)
@pytest.mark.parametrize("kind", ["vectors", "tokens"])
def test_shape_declarations_and_order(name: str, count: int, kind: str) -> None:
    features: dict[str, Any] = dict(vectors(count) if kind == "vectors" else sequences(count))
    fusion = double(BUILDERS[name](dict.fromkeys(features, 4)))
    out = pool(fusion(features))
    assert out.shape == (6, fusion.out_features)
    assert isinstance(fusion.additive, bool)
    assert fusion.fill in ("zeros", "learnt", "renormalise")
    assert fusion.feature_sizes == dict.fromkeys(NAMES[:count], 4)
    # the order of the mapping means nothing; samples do not see each other
    assert torch.equal(pool(fusion(dict(reversed(features.items())))), out)
    rows = torch.tensor([4, 0, 2])
    picked = {m: tree_map(lambda t: t[rows], f) for m, f in features.items()}
    assert torch.allclose(pool(fusion(picked)), out[rows], atol=1e-12)


@pytest.mark.parametrize(("name", "count"), MANY)
@pytest.mark.parametrize("kind", ["vectors", "tokens"])
def test_absent_content_changes_nothing_even_when_it_is_nan(name: str, count: int, kind: str) -> None:
    features: dict[str, Any] = dict(vectors(count) if kind == "vectors" else sequences(count))
    absent = torch.tensor([True, False, True, False, False, True])
    present = {NAMES[0]: ~absent, NAMES[count - 1]: absent | (torch.arange(6) < 4)}

    def with_content(value: float) -> dict[str, Any]:
        found = dict(features)
        for m, mask in present.items():
            found[m] = spoilt(found[m], mask, value)
        return found

    fusion = double(BUILDERS[name](dict.fromkeys(features, 4)))
    reference, gradients = None, None
    for value in (0.0, math.nan, math.inf, 1e300):
        fusion.zero_grad()
        out = pool(fusion(with_content(value), present))
        assert torch.isfinite(out).all()
        if out.requires_grad:  # Concat and Sum have no parameters
            out.square().sum().backward()  # type: ignore[no-untyped-call]
        found = [None if p.grad is None else p.grad.clone() for p in fusion.parameters()]
        if reference is None:
            reference, gradients = out.detach(), found
            continue
        assert torch.equal(out, reference)
        assert gradients is not None
        for a, b in zip(found, gradients, strict=True):
            assert (a is None and b is None) or (a is not None and b is not None and torch.equal(a, b))


@pytest.mark.parametrize(("name", "count"), MANY)
def test_left_out_equals_absent_for_all(name: str, count: int) -> None:
    features = vectors(count)
    fusion = double(BUILDERS[name](dict.fromkeys(features, 4)))
    nobody = {NAMES[1]: torch.zeros(6, dtype=torch.bool)}
    left_out = {m: f for m, f in features.items() if m != NAMES[1]}
    assert torch.allclose(fusion(left_out), fusion(features, nobody), atol=1e-12)


@pytest.mark.parametrize("name", BUILDERS)
def test_padding_is_never_read(name: str) -> None:
    features = sequences(3)
    fusion = double(BUILDERS[name](dict.fromkeys(features, 4)))
    broken = {m: Tokens(torch.where(f.mask[..., None], f.values, math.nan), f.mask) for m, f in features.items()}
    assert torch.equal(pool(fusion(broken)), pool(fusion(features)))
    longer = {
        m: Tokens(
            torch.cat([f.values, torch.full((6, 2, 4), 1e9, dtype=torch.float64)], 1),
            torch.cat([f.mask, torch.zeros(6, 2, dtype=torch.bool)], 1),
        )
        for m, f in features.items()
    }
    assert torch.allclose(pool(fusion(longer)), pool(fusion(features)), atol=1e-12)


@pytest.mark.parametrize("name", BUILDERS)
def test_learnt_tokens_stand_for_absent_modalities(name: str) -> None:
    features = vectors(3)
    options: dict[str, Any] = {"fill": "learnt"}
    kinds: dict[str, Callable[..., Fusion]] = {
        "Late": lambda sizes, **o: Late(sizes, 3, **o),
        "CrossAttention": lambda sizes, **o: CrossAttention(sizes, 4, 2, 1, **o),
        "LateTransformer": lambda sizes, **o: LateTransformer(sizes, 4, 2, 6, 2, **o),
    }
    build = kinds.get(name) or {"Concat": Concat, "Sum": Sum, "FiLM": FiLM, "Gated": Gated, "LowRank": LowRank}[name]
    fusion = double(build(dict.fromkeys(features, 4), **options))
    mask = torch.tensor([True, False, True, True, False, True])
    replaced = dict(features)
    replaced[NAMES[2]] = torch.where(mask[:, None], features[NAMES[2]], fusion.tokens[2])
    out = fusion(features, {NAMES[2]: mask})
    assert torch.allclose(out, fusion(replaced), atol=1e-12)
    out.sum().backward()
    assert fusion.tokens[2].grad is not None
    assert bool((fusion.tokens[2].grad != 0).any())


@pytest.mark.parametrize(
    ("build", "fill"),
    [
        (FiLM, "renormalise"),
        (Gated, "renormalise"),
        (LowRank, "renormalise"),
        (CrossAttention, "zeros"),
        (LateTransformer, "zeros"),
    ],
)
def test_what_has_no_meaning_is_refused(build: Callable[..., Fusion], fill: str) -> None:
    with pytest.raises(UnsupportedError, match=f"`fill`: '{fill}' has no meaning for {build.__name__}: .* Use fill="):
        build({"a": 4, "b": 4}, fill=fill)


@pytest.mark.parametrize("name", BUILDERS)
def test_bad_sizes_are_refused(name: str) -> None:
    for sizes in ({}, {"a": 0, "b": 4}, {"a": 4, "b": True}):
        with pytest.raises(ModelError, match="`feature_sizes`"):
            BUILDERS[name](sizes)
    fusion = BUILDERS[name]({"a": 4, "b": 4})
    with pytest.raises(ModelError, match=r"`features\['a'\]`"):
        fusion({"a": torch.zeros(2, 3), "b": torch.zeros(2, 4)})
    with pytest.raises(ModelError, match="Tokens.full"):
        fusion({"a": torch.zeros(2, 3, 4), "b": torch.zeros(2, 4)})
    with pytest.raises(ModelError, match="expected the modalities"):
        fusion({"z": torch.zeros(2, 4)})
    if name in ("FiLM", "Gated", "LowRank", "CrossAttention"):
        with pytest.raises(ModelError, match="at least 2"):
            BUILDERS[name]({"a": 4})


@pytest.mark.parametrize(("name", "count"), [(n, c) for n in ("Concat", "Sum", "Late") for c in (2, 3, 5)])
@pytest.mark.parametrize("fill", ["zeros", "learnt", "renormalise"])
def test_parts_sum_to_the_whole(name: str, count: int, fill: Any) -> None:
    features = vectors(count)
    sizes = dict.fromkeys(features, 4)
    fusion = double(Late(sizes, 3, fill=fill) if name == "Late" else {"Concat": Concat, "Sum": Sum}[name](sizes, fill))
    present = {NAMES[0]: torch.arange(6) % 2 == 0, NAMES[1]: torch.arange(6) % 2 == 1}
    for masks in (None, present):
        parts = fusion.parts(features, masks)
        assert list(parts) == list(NAMES[:count])
        assert torch.allclose(torch.stack(list(parts.values())).sum(0), fusion(features, masks), atol=1e-12)


def test_parts_of_a_product_are_refused() -> None:
    with pytest.raises(ModelError, match="Found Gated"):
        Gated({"a": 2, "b": 2}).parts({"a": torch.zeros(1, 2), "b": torch.zeros(1, 2)})


# ---- numbers by hand ------------------------------------------------------------------------------------------------


def test_renormalised_sum_and_concat_by_hand() -> None:
    h = {"a": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "b": torch.tensor([[10.0, 20.0], [30.0, 40.0]])}
    present = {"b": torch.tensor([True, False])}
    assert Sum({"a": 2, "b": 2}, "renormalise")(h, present).tolist() == [[11, 22], [6, 8]]  # 2/1 of the only one
    assert Concat({"a": 2, "b": 2}, "renormalise")(h, present).tolist() == [[1, 2, 10, 20], [6, 8, 0, 0]]
    three = Sum({"a": 2, "b": 2, "c": 2}, "renormalise")
    assert three({**h, "c": h["a"]}, present).tolist() == [[12, 24], [9, 12]]  # 3/2 of the two


def test_film_by_hand() -> None:
    fusion = FiLM({"m": 2, "k": 1})
    assert fusion.condition.bias.tolist() == [1, 1, 0, 0]  # starts with gamma near 1 and beta near 0
    with torch.no_grad():
        fusion.condition.weight.copy_(torch.tensor([[1.0], [2.0], [3.0], [4.0]]))
    h = {"m": torch.tensor([[5.0, 6.0]]), "k": torch.tensor([[10.0]])}
    # gamma = (11, 21), beta = (30, 40)
    assert fusion(h).tolist() == [[11 * 5 + 30, 21 * 6 + 40]]
    # without the condition gamma and beta are the bias; without the main modality beta is left
    assert fusion(h, {"k": torch.tensor([False])}).tolist() == [[5, 6]]
    assert fusion(h, {"m": torch.tensor([False])}).tolist() == [[30, 40]]
    maps = {"m": torch.tensor([5.0, 6.0]).reshape(1, 2, 1, 1).expand(1, 2, 3, 3), "k": h["k"]}
    assert (fusion(maps) == torch.tensor([85.0, 166.0]).reshape(1, 2, 1, 1)).all()
    tokens = fusion({"m": Tokens.full(h["m"][:, None]), "k": h["k"]})
    assert tokens.values.tolist() == [[[85, 166]]]
    with pytest.raises(UnknownNameError, match="main"):
        FiLM({"m": 2, "k": 1}, main="l")
    other = FiLM({"m": 2, "k": 1}, main="k")
    assert (other.out_features, other.condition.in_features) == (1, 2)


def test_gated_by_hand() -> None:
    fusion = Gated({"gate": 1, "other": 1, "main": 1})
    with torch.no_grad():
        for layer, (weight, bias) in zip(fusion.maps, [(1.0, 0.5), (2.0, 0.0), (3.0, 1.0)], strict=True):
            layer.weight.fill_(weight)  # type: ignore[operator]
            layer.bias.fill_(bias)  # type: ignore[operator]
    h = {"gate": torch.tensor([[2.0]]), "other": torch.tensor([[-1.0]]), "main": torch.tensor([[4.0]])}
    expected = (3 * 4 + 1) * (1 / (1 + math.exp(-2.5))) * (1 / (1 + math.exp(2)))
    assert fusion(h).item() == pytest.approx(expected, rel=1e-6)
    assert Gated({"a": 2, "b": 3}).out_features == 3
    assert Gated({"a": 2, "b": 3}, main="a").out_features == 2


@pytest.mark.parametrize("count", [2, 3, 5])
def test_low_rank_is_the_full_tensor_product(count: int) -> None:
    """Against the weight tensor that the factors stand for, contracted with the outer product of all [h; 1]."""
    features = vectors(count, size=2, width=2)
    fusion = double(LowRank(dict.fromkeys(features, 2), out_features=3, rank=2))
    assert isinstance(fusion, LowRank)
    found = fusion(features)
    factors = [f.detach().numpy() for f in fusion.factors]
    letters = "abcde"[:count]
    tensor = np.einsum(",".join(f"r{c}o" for c in letters) + f"->{letters}o", *factors)
    for row in range(2):
        extended = [np.append(features[m][row].numpy(), 1.0) for m in NAMES[:count]]
        outer = extended[0]
        for vector in extended[1:]:
            outer = np.multiply.outer(outer, vector)
        expected = np.tensordot(outer, tensor, axes=count) + fusion.bias.detach().numpy()
        assert np.allclose(found[row].detach().numpy(), expected, atol=1e-12)
    for bad in ({"rank": 0}, {"out_features": 0}):
        with pytest.raises(ModelError, match=next(iter(bad))):
            LowRank({"a": 2, "b": 2}, **bad)  # type: ignore[arg-type]


def test_late_by_hand() -> None:
    heads = {"a": nn.Linear(1, 1), "b": nn.Linear(1, 1)}
    with torch.no_grad():
        for head, (weight, bias) in zip(heads.values(), [(2.0, 1.0), (3.0, 0.0)], strict=True):
            head.weight.fill_(weight)
            head.bias.fill_(bias)
    h = {"a": torch.tensor([[1.0], [1.0], [1.0]]), "b": torch.tensor([[5.0], [5.0], [5.0]])}
    present = {"a": torch.tensor([True, False, True]), "b": torch.tensor([True, True, False])}
    assert Late({"a": 1, "b": 1}, 1, heads)(h, present).tolist() == [[9], [15], [3]]  # (3+15)/2, 15, 3
    assert Late({"a": 1, "b": 1}, 1, heads, fill="zeros")(h, present).tolist() == [[9], [8], [1.5]]  # bias of a stays
    assert Late({"a": 1, "b": 1}, 1, heads).outputs({"b": h["b"]})["b"].tolist() == [[15]] * 3
    with pytest.raises(ModelError, match="`heads`"):
        Late({"a": 1, "b": 1}, 1, {"a": nn.Linear(1, 1)})
    with pytest.raises(ModelError, match="unknown"):
        Late({"a": 1, "b": 1}, 1).outputs({"z": h["a"]})


def attention_reference(query: Any, source: Any, mask: Any, module: nn.MultiheadAttention) -> Any:
    """Multi-head attention of one sample in NumPy."""
    width, heads = module.embed_dim, module.num_heads
    w, b = module.in_proj_weight.detach().numpy(), module.in_proj_bias.detach().numpy()
    q, k, v = (x @ w[i * width : (i + 1) * width].T + b[i * width : (i + 1) * width]
               for i, x in enumerate((query, source[mask], source[mask])))  # fmt: skip
    out = np.zeros_like(q)
    size = width // heads
    for h in range(heads):
        part = slice(h * size, (h + 1) * size)
        scores = q[:, part] @ k[:, part].T / math.sqrt(size)
        p = np.exp(scores - scores.max(1, keepdims=True))
        out[:, part] = p / p.sum(1, keepdims=True) @ v[:, part]
    return out @ module.out_proj.weight.detach().numpy().T + module.out_proj.bias.detach().numpy()


def test_cross_attention_against_numpy() -> None:
    features = sequences(2, size=3, width=3)
    sizes = dict.fromkeys(features, 3)
    fusion = double(CrossAttention(sizes, width=4, heads=2, layers=2))
    found = fusion(features).detach().numpy()

    def norm(x: Any, layer: Any) -> Any:
        z = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + layer.eps)
        return z * layer.weight.detach().numpy() + layer.bias.detach().numpy()

    def linear(x: Any, layer: Any) -> Any:
        return x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()

    def block(query: Any, source: Any, mask: Any, module: Any) -> Any:
        asked = norm(source, module.norm_source)
        query = query + attention_reference(norm(query, module.norm_query), asked, mask, module.attention)
        hidden = np.maximum(linear(norm(query, module.norm), module.net[0]), 0)
        return query + linear(hidden, module.net[3])

    modules: Any = fusion
    for row in range(3):
        x, masks = [], []
        for position, m in enumerate(NAMES[:2]):
            values = linear(features[m].values[row].numpy(), modules.maps[position])
            t = np.arange(len(values))[:, None]
            angle = t * np.exp(np.arange(0, 4, 2) * (-math.log(10000.0) / 4))
            x.append(values + np.stack([np.sin(angle), np.cos(angle)], 2).reshape(len(values), 4))
            masks.append(features[m].mask[row].numpy())
        parts = []
        for own, other in ((0, 1), (1, 0)):
            z = x[own]
            for layer in modules.crossing[own][0]:
                z = block(z, x[other], masks[other], layer)
            z = block(z, z, masks[own], modules.own[own])
            parts.append(z[masks[own]].mean(0))
        assert np.allclose(found[row], np.concatenate(parts), atol=1e-10)


def test_cross_attention_options() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"width": 6, "heads": 4}, "width"), ({"dropout": 1.0}, "dropout"), ({"layers": 0}, "layers")
    ]  # fmt: skip
    for bad, word in cases:
        with pytest.raises(ModelError, match=f"`{word}`"):
            CrossAttention({"a": 2, "b": 2}, **bad)
    fusion = double(CrossAttention({"a": 2, "b": 2}, width=4, heads=2, positions=False))
    x = torch.randn(2, 5, 2, dtype=torch.float64)
    y = {"b": torch.randn(2, 2, dtype=torch.float64)}
    order = torch.tensor([3, 1, 4, 0, 2])
    straight, mixed = (fusion({"a": Tokens.full(v), **y}) for v in (x, x[:, order]))
    assert torch.allclose(straight, mixed, atol=1e-12)  # without positions a sequence is a set


def test_late_transformer_against_numpy() -> None:
    """Row by row, with absent modalities taken out of the sequence instead of masked."""
    features = vectors(3)
    present = {NAMES[0]: torch.tensor([True, False, True, False, True, True]), NAMES[2]: torch.arange(6) > 2}
    fusion = double(LateTransformer(dict.fromkeys(features, 4), width=4, heads=2, hidden=6, layers=2))
    found, modules = fusion(features, present).detach().numpy(), cast(Any, fusion)

    def norm(x: Any, layer: Any) -> Any:
        z = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + layer.eps)
        return z * layer.weight.detach().numpy() + layer.bias.detach().numpy()

    def linear(x: Any, layer: Any) -> Any:
        return x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()

    angle = np.arange(4)[:, None] * np.exp(np.arange(0, 4, 2) * (-math.log(10000.0) / 4))
    places = np.stack([np.sin(angle), np.cos(angle)], 2).reshape(4, 4)
    for row in range(6):
        kept, tokens = [0], [modules.reader.detach().numpy()]
        for position, m in enumerate(features):
            if m not in present or bool(present[m][row]):
                kept.append(1 + position)
                tokens.append(linear(features[m][row].numpy()[None], modules.maps[position])[0])
        x = np.stack(tokens) + places[kept]
        for layer in modules.layers:
            everyone = np.ones(len(x), dtype=bool)
            x = norm(x + attention_reference(x, x, everyone, layer.attention), layer.first)
            x = norm(x + linear(np.maximum(linear(x, layer.net[0]), 0), layer.net[3]), layer.second)
        assert np.allclose(found[row], x[0], atol=1e-12)


def test_late_transformer_options() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"width": 6, "heads": 4}, "width"), ({"dropout": 1.0}, "dropout"), ({"hidden": 0}, "hidden")
    ]  # fmt: skip
    for bad, word in cases:
        with pytest.raises(ModelError, match=f"`{word}`"):
            LateTransformer({"a": 2, "b": 2}, **bad)
    alone = double(LateTransformer({"a": 2}, width=4, heads=2, hidden=4, layers=1))
    assert alone({"a": torch.ones(3, 2, dtype=torch.float64)}).shape == (3, 4)


# ---- kinds of features ----------------------------------------------------------------------------------------------


def test_concat_of_tokens() -> None:
    a = Tokens(torch.arange(12.0).reshape(2, 3, 2), torch.tensor([[True, True, False], [True, True, True]]))
    b = Tokens.full(torch.ones(2, 2, 2))
    h: dict[str, Tree] = {"a": a, "b": b}
    assert Concat({"a": 2, "b": 2})(h).tolist() == [[1, 2, 1, 1], [8, 9, 1, 1]]
    joined = Concat({"a": 2, "b": 2}, sequences="time")(h)
    assert joined.mask.tolist() == [[True, True, False, True, True], [True] * 5]
    assert torch.equal(joined.values[:, 3:], b.values)
    assert Concat({"a": 2, "b": 2}, sequences="time").out_features == 2
    side = Concat({"a": 2, "c": 1}, sequences="aligned")
    c = Tokens(torch.full((2, 3, 1), 7.0), torch.tensor([[True, False, False], [False, False, False]]))
    both = side({"a": a, "c": c})
    assert both.mask.tolist() == [[True, True, False], [True, True, True]]
    assert both.values[0].tolist() == [[0, 1, 7], [2, 3, 0], [0, 0, 0]]
    assert both.values[1, :, 2].tolist() == [0, 0, 0]
    alone = side({"a": a})  # the other one left out altogether
    assert alone.values.shape == (2, 3, 3)
    assert torch.equal(alone.mask, a.mask)
    total = Sum({"a": 2, "b": 2}, sequences="aligned")
    assert total({"a": a, "b": a}).values[1].tolist() == [[12, 14], [16, 18], [20, 22]]
    with pytest.raises(ModelError, match="one length"):
        total(h)
    with pytest.raises(ModelError, match="one width"):
        Concat({"a": 2, "c": 1}, sequences="time")
    with pytest.raises(ModelError, match="`sequences`"):
        Concat({"a": 2}, sequences="words")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="`sequences`"):
        Sum({"a": 2}, sequences="time")  # type: ignore[arg-type]


@pytest.mark.parametrize("axes", [2, 3])
def test_maps_and_scales(axes: int) -> None:
    grid, half = (4,) * axes, (2,) * axes
    a, b = torch.ones(2, 3, *grid), 2 * torch.ones(2, 3, *grid)
    assert Concat({"a": 3, "b": 3})({"a": a, "b": b}).shape == (2, 6, *grid)
    assert (Sum({"a": 3, "b": 3})({"a": a, "b": b}) == 3).all()
    # a vector beside a map is repeated over the positions
    mixed = Concat({"a": 3, "v": 2})({"a": a, "v": torch.tensor([[5.0, 6.0], [7.0, 8.0]])})
    assert mixed.shape == (2, 5, *grid)
    assert (mixed[1, 4] == 8).all()
    # a map absent from half of the batch, and one left out
    present = {"b": torch.tensor([True, False])}
    filled = Concat({"a": 3, "b": 3}, "learnt")
    with torch.no_grad():
        filled.tokens[1].copy_(torch.tensor([7.0, 8.0, 9.0]))
    assert filled({"a": a, "b": b}, present)[1, 3:].flatten(1)[:, 0].tolist() == [7, 8, 9]
    assert (Sum({"a": 3, "b": 3}, "renormalise")({"a": a}) == 2).all()
    scales = {m: (torch.ones(2, 3, *grid), torch.ones(2, 5, *half)) for m in ("a", "b")}
    fusion = Concat({"a": (3, 5), "b": (3, 5)})
    assert [tuple(f.shape) for f in fusion(scales)] == [(2, 6, *grid), (2, 10, *half)]
    assert fusion.out_features == 16
    assert [tuple(f.shape) for f in fusion({"a": scales["a"]}, None)] == [(2, 6, *grid), (2, 10, *half)]
    learnt = Sum({"a": (3, 5), "b": (3, 5)}, "learnt")
    assert learnt.tokens[0].shape == (8,)
    assert [tuple(f.shape) for f in learnt(scales, present)] == [(2, 3, *grid), (2, 5, *half)]
    with pytest.raises(ModelError, match="maps of one size"):
        Concat({"a": 3, "b": 3})({"a": a, "b": torch.ones(2, 3, *half)})
    with pytest.raises(ModelError, match="equally many scales"):
        Concat({"a": (3, 5), "b": 3})({"a": scales["a"], "b": b})
    with pytest.raises(ModelError, match="multi-scale"):
        CrossAttention({"a": (3, 5), "b": 3})


def test_late_of_maps_is_dense() -> None:
    fusion = Late({"a": 3, "b": 2}, 4, dense=True)
    h = {"a": torch.randn(2, 3, 5, 5), "b": torch.randn(2, 2, 5, 5)}
    weight = [fusion.heads[i][1].weight for i in range(2)]  # type: ignore[index]
    bias = [fusion.heads[i][1].bias for i in range(2)]  # type: ignore[index]
    parts = [nn.functional.conv2d(h[m], w[:, :, None, None], c) for m, w, c in zip(h, weight, bias, strict=True)]
    by_hand = torch.stack(parts).mean(0)
    assert torch.allclose(fusion(h), by_hand, atol=1e-6)
    with pytest.raises(ModelError, match="expected a map"):
        fusion({"a": torch.zeros(2, 3), "b": h["b"]})


# ---- inside a model -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "count"), MANY)
def test_a_model_with_every_fusion_trains(name: str, count: int) -> None:
    torch.manual_seed(0)
    encoders = {m: nn.Sequential(nn.Linear(5, 4), nn.Tanh()) for m in NAMES[:count]}
    fusion = BUILDERS[name](dict.fromkeys(encoders, 4))
    head: nn.Module = nn.Identity() if name == "Late" else nn.Linear(fusion.out_features, 3)
    model = MultimodalModel(encoders, fusion, head)
    y = torch.arange(24) % 3
    x = {m: torch.randn(24, 5) + nn.functional.one_hot(y, 5) * 2 for m in encoders}
    present = {NAMES[0]: torch.arange(24) % 4 != 0}
    x[NAMES[0]][~present[NAMES[0]]] = math.nan
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x, present), y)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    subsets = [s for n in range(1, count + 1) for s in itertools.combinations(NAMES[:count], n)]
    for subset in subsets:
        assert torch.isfinite(model({m: torch.nan_to_num(x[m]) for m in subset})).all()
