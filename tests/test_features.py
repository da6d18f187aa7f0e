"""The four kinds of features: recognised, checked, pooled, gathered and scattered."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from equimodal import MultimodalModel
from equimodal.batch import Tokens, Tree, tree_map, tree_tensors
from equimodal.errors import BatchError, ModelError
from equimodal.features import affine_head, as_tokens, check_feature, kind_of, on_rows, pool, single_width
from equimodal.fusion import Concat
from equimodal.model import encode_rows


class Words(nn.Module):
    """{"ids": (B, T), "mask": (B, T)} to Tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 3)

    def forward(self, x: dict[str, Tensor]) -> Tokens:
        return Tokens(self.embed(x["ids"]), x["mask"])


class Scales(nn.Module):
    """(B, 1, H, W) to two maps."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3))
        self.coarse = nn.Conv2d(3, 5, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.fine(x)
        return fine, self.coarse(fine)


def spoilt(t: Tensor, mask: Tensor) -> Tensor:
    """NaN, or another id, in the rows outside the mask."""
    value = torch.full_like(t, math.nan) if t.is_floating_point() else torch.zeros_like(t)
    return torch.where(mask.reshape(-1, *[1] * (t.ndim - 1)), t, value)


MASK = torch.arange(5) < torch.arange(1, 7)[:, None]
CASES: dict[str, tuple[nn.Module, Any, Any]] = {
    "vector": (nn.Linear(4, 3), 3, torch.randn(6, 4)),
    "tokens": (Words(), 3, {"ids": torch.randint(0, 10, (6, 5)), "mask": MASK}),
    "map": (nn.Conv2d(1, 3, 3, stride=2), 3, torch.randn(6, 1, 8, 7)),
    "volume": (nn.Conv3d(1, 3, 3), 3, torch.randn(6, 1, 4, 5, 6)),
    "multiscale": (Scales(), (3, 5), torch.randn(6, 1, 8, 8)),
}


@pytest.mark.parametrize("case", CASES)
def test_gather_and_scatter(case: str) -> None:
    """Absent rows are not encoded; the others get what the encoder gives for them alone."""
    encoder, width, x = CASES[case]
    encoder.eval()
    model = MultimodalModel({"m": encoder}, Concat({"m": width}), nn.Identity())
    mask = torch.tensor([True, False, True, True, False, False])
    found = model.encode({"m": spoilt_tree(x, mask)}, {"m": mask})
    alone = encoder(tree_map(lambda t: t[mask], x))
    for whole, part in zip(tree_tensors(found["m"]), tree_tensors(alone), strict=True):
        assert whole.shape[0] == 6
        assert torch.equal(whole[mask], part)
        assert not whole[~mask].any()
    assert kind_of(found["m"]) == ("map" if case == "volume" else case)
    complete = model.encode({"m": x})["m"]
    assert kind_of(complete) == kind_of(found["m"])


@pytest.mark.parametrize("case", CASES)
def test_nobody_has_it(case: str) -> None:
    """Zeros of the right kind and size, whether or not anything was encoded before; no statistics move."""
    encoder, width, x = CASES[case]
    encoder.train()
    model = MultimodalModel({"m": encoder}, Concat({"m": width}), nn.Identity())
    before = {n: b.clone() for n, b in encoder.named_buffers()}
    nobody = {"m": torch.zeros(6, dtype=torch.bool)}
    first = model.encode({"m": x}, nobody)["m"]
    assert all(torch.equal(before[n], b) for n, b in encoder.named_buffers())
    assert all(m.training for m in encoder.modules())
    assert all(t.shape[0] == 6 and not t.any() for t in tree_tensors(first))
    full = model.encode({"m": x})["m"]
    again = model.encode({"m": x}, nobody)["m"]
    assert [t.shape for t in tree_tensors(first)] == [t.shape for t in tree_tensors(again)]
    if case != "tokens":  # one step of padding is enough
        assert [t.shape for t in tree_tensors(first)] == [t.shape for t in tree_tensors(full)]
    assert pool(first).shape == pool(full).shape


@pytest.mark.parametrize(
    ("feature", "width", "message"),
    [
        (torch.zeros(6, 4), 3, r"expected features of shape \(6, 3\). Found \(6, 4\)"),
        (torch.zeros(5, 3), 3, r"Found \(5, 3\)"),
        (torch.zeros(6, 5, 3), 3, "Tokens.full"),
        (torch.zeros(6), 3, r"Found a tensor \(6,\)"),
        (torch.zeros(6, 4, 8, 8), 3, r"expected maps of shape \(6, 3, 8, 8\). Found \(6, 4, 8, 8\)"),
        (Tokens.full(torch.zeros(6, 5, 4)), 3, r"expected tokens of shape \(6, 'T', 3\)"),
        (Tokens(torch.zeros(6, 5, 3), torch.ones(6, 5)), 3, "boolean mask"),
        (Tokens(torch.zeros(6, 5, 3), torch.ones(6, 4, dtype=torch.bool)), 3, "boolean mask"),
        (torch.zeros(6, 3), (3, 5), "Correct `feature_sizes`"),
        ((torch.zeros(6, 3, 4, 4), torch.zeros(6, 4, 2, 2)), (3, 5), "multi-scale"),
        ((torch.zeros(6, 3, 4, 4), torch.zeros(6, 3)), (3, 5), "Found tuple"),
        ([], 3, "Found list"),
        ("words", 3, "Found str"),
    ],
)
def test_features_that_do_not_fit(feature: Tree, width: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        check_feature(feature, 6, width, "encoders['m']")


def test_pool_by_hand() -> None:
    values = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [math.nan, math.nan]], [[5.0, 6.0], [7.0, 8.0], [9.0, 10.0]]])
    tokens = Tokens(values, torch.tensor([[True, True, False], [False, False, False]]))
    assert pool(tokens).tolist() == [[2, 3], [0, 0]]  # padding is left out; no token gives zero
    assert pool(torch.arange(8.0).reshape(1, 2, 2, 2)).tolist() == [[1.5, 5.5]]
    scales = (torch.arange(8.0).reshape(1, 2, 2, 2), torch.full((1, 1, 1, 1), 7.0))
    assert pool(scales).tolist() == [[1.5, 5.5, 7]]
    assert pool(torch.ones(2, 1)).tolist() == [[1], [1]]


def test_tokens() -> None:
    tokens = Tokens.of_lengths(torch.zeros(3, 4, 2), torch.tensor([0, 2, 4]))
    assert tokens.mask.sum(1).tolist() == [0, 2, 4]
    moved = tree_map(lambda t: t[:2], tokens)
    assert isinstance(moved, Tokens)
    assert moved.mask.shape == (2, 4)
    assert as_tokens(torch.zeros(2, 3)).values.shape == (2, 1, 3)
    flat = as_tokens(torch.arange(8.0).reshape(1, 2, 2, 2))
    assert flat.values.tolist() == [[[0, 4], [1, 5], [2, 6], [3, 7]]]
    with pytest.raises(ModelError, match="one width"):
        as_tokens((torch.zeros(1, 2, 2, 2), torch.zeros(1, 3, 1, 1)))


def test_heads_read_every_kind() -> None:
    head = affine_head(2, 3)
    vector = torch.randn(4, 2)
    linear = head[1]
    assert isinstance(linear, nn.Linear)
    assert torch.equal(head(vector), linear(vector))
    assert torch.allclose(head(Tokens.full(vector[:, None].expand(4, 5, 2))), linear(vector), atol=1e-6)
    assert torch.allclose(head(vector[..., None, None].expand(4, 2, 3, 3)), linear(vector), atol=1e-6)
    dense = affine_head(2, 3, dense=True)
    inner = dense[1]
    assert isinstance(inner, nn.Linear)
    for size in ((5, 6), (3, 4, 5)):
        x = torch.randn(4, 2, *size)
        convolution = nn.functional.conv2d if len(size) == 2 else nn.functional.conv3d
        weight = inner.weight.reshape(3, 2, *[1] * len(size))
        assert torch.allclose(dense(x), convolution(x, weight, inner.bias), atol=1e-6)
    with pytest.raises(ModelError, match="one output per position"):
        dense(vector)
    with pytest.raises(ModelError, match=r"widths \(3, 5\).*`heads=`"):
        affine_head((3, 5), 2)
    assert single_width(3, "m") == 3
    deep = on_rows(nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3)), dense=False)
    assert deep(vector).shape == (4, 3)


def test_batch_norm_in_the_head_with_one_sample() -> None:
    encoders = {"a": nn.Linear(3, 4)}
    model = MultimodalModel(encoders, Concat({"a": 4}), nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)))
    with pytest.raises(BatchError, match="the fusion or head has batch normalisation. Found 1"):
        model({"a": torch.zeros(1, 3)})
    assert model.eval()({"a": torch.zeros(1, 3)}).shape == (1, 2)


@pytest.mark.parametrize("case", CASES)
def test_encode_rows_for_models_of_another_structure(case: str) -> None:
    encoder, width, x = CASES[case]
    encoder.eval()
    model = MultimodalModel({"m": encoder}, Concat({"m": width}), nn.Identity())
    for mask in (torch.arange(6) < 4, torch.arange(6) < 0, torch.arange(6) < 9):
        rows = None if bool(mask.all()) else mask.nonzero()[:, 0]
        ours, theirs = encode_rows(encoder, spoilt_tree(x, mask), rows), model.encode({"m": x}, {"m": mask})["m"]
        for a, b in zip(tree_tensors(ours), tree_tensors(theirs), strict=True):
            assert torch.equal(a, b)


def spoilt_tree(x: Tree, mask: Tensor) -> Tree:
    return tree_map(lambda t: spoilt(t, mask), x)
