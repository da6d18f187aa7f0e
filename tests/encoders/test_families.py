"""What every encoder promises: widths, gradients, independence of neighbours, copies, precisions."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from equimodal.batch import Tokens, tree_map
from equimodal.features import check_feature
from tests.encoders.families import FAMILIES, SEQUENCES, WIDTH, family, values


@pytest.mark.parametrize("name", FAMILIES)
def test_gives_one_vector_per_sample_and_gradients_to_what_is_trained(name: str) -> None:
    made = family(name)
    encoder = made.make()
    assert encoder.out_features == WIDTH
    x = made.inputs(6)
    feature = encoder(x)
    assert check_feature(feature, 6, WIDTH, name) == "vector"
    trained = [p for p in encoder.parameters() if p.requires_grad]
    if name == "frozen":
        assert not trained
        assert not feature.requires_grad
        return
    feature.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in trained)
    assert any(bool(p.grad.any()) for p in trained if p.grad is not None)


@pytest.mark.parametrize("name", SEQUENCES)
def test_gives_tokens_where_asked(name: str) -> None:
    made = family(name)
    encoder = made.make(pool=made.sequence)
    feature = encoder(made.inputs(6))
    assert check_feature(feature, 6, WIDTH, name) == "tokens"
    assert bool(feature.values.isfinite().all())
    assert not bool(feature.values[~feature.mask].any())  # padding is zero
    assert encoder.out_features == WIDTH


@pytest.mark.parametrize("name", FAMILIES)
def test_a_sample_does_not_depend_on_its_neighbours_in_evaluation(name: str) -> None:
    made = family(name)
    encoder = made.make().eval()
    x = made.inputs(5)
    together = encoder(x)
    alone = torch.cat([encoder(tree_map(lambda t: t.narrow(0, i, 1), x)) for i in range(5)])  # noqa: B023
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "vector"),
    [
        ("transformer", "mean"), ("text transformer", "mean"), ("video", "mean"), ("resnet", "mean"),
        ("resnet, frames", "mean"), ("bert", "mean"), ("bert", "first"), ("vit", "first"),
        ("bert with adapters", "first"),
    ],
)  # fmt: skip
def test_pooling_the_sequence_gives_the_vector(name: str, vector: str) -> None:
    made = family(name)
    pooled, sequence = made.make(pool=vector).eval(), made.make(pool=made.sequence).eval()
    sequence.load_state_dict(pooled.state_dict())
    x = made.inputs(4)
    tokens = sequence(x)
    by_hand = tokens.values[:, 0]
    if vector == "mean":
        by_hand = torch.stack([v[m].mean(0) for v, m in zip(*tokens, strict=True)])
    torch.testing.assert_close(by_hand, pooled(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_copies_and_weights_give_the_same_features(name: str) -> None:
    made = family(name)
    first, second = made.make().eval(), made.make().eval()
    x = made.inputs(3)
    expected = first(x)
    assert torch.equal(copy.deepcopy(first)(x), expected)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second(x), expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_runs_in_double_and_in_bfloat16(name: str) -> None:
    made = family(name)
    encoder = made.make().eval()
    x = made.inputs(3)
    single = values(encoder(x))

    def double(t: Tensor) -> Tensor:
        return t.double() if t.is_floating_point() else t

    features = values(encoder.double()(tree_map(double, x)))
    assert features.dtype == torch.float64
    torch.testing.assert_close(features.float(), single, rtol=1e-3, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = values(encoder.float()(x))
    torch.testing.assert_close(mixed.float(), single, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("name", ["conv1d", "gru", "transformer"])
def test_a_tensor_is_a_sequence_without_padding(name: str) -> None:
    made = family(name)
    encoder = made.make().eval()
    x = torch.randn(3, 12, 5)
    torch.testing.assert_close(encoder(Tokens.full(x)), encoder(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_global_random_state_moves_only_with_what_is_drawn(name: str) -> None:
    """The same seed gives the same weights, whatever libraries were loaded meanwhile."""
    made = family(name)
    torch.manual_seed(5)
    first = made.make().state_dict()
    torch.manual_seed(5)
    second = made.make().state_dict()
    assert all(torch.equal(first[n], second[n]) for n in first)


@pytest.mark.parametrize("name", FAMILIES)
def test_nothing_waits_for_the_device(name: str) -> None:
    """Tensors without content cannot be looked at: what runs on them needs no value on the host."""
    made = family(name)
    encoder = made.make().to("meta")
    assert values(encoder(tree_map(lambda t: t.to("meta"), made.inputs(4)))).shape == (4, WIDTH)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The tensor attributes self.recurrent")  # nn.GRU under torch.export
@pytest.mark.parametrize("name", ["conv1d", "gru", "transformer", "resnet, frames", "bert with adapters"])
def test_can_be_exported_for_any_number_of_samples(name: str) -> None:
    made = family(name)
    encoder, x = made.make().eval(), made.inputs(4)
    samples = torch.export.Dim("samples", min=2, max=64)
    program = torch.export.export(encoder, (x,), dynamic_shapes=(tree_map(lambda t: {0: samples}, x),))
    other = made.inputs(7)
    torch.testing.assert_close(program.module()(other), encoder(other), rtol=1e-4, atol=1e-5)
