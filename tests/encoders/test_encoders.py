"""The four encoders: shapes, what they may and may not depend on, numbers by hand, clear refusals."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from equimodal.encoders import GRU, MLP, Conv1d, Conv2d
from equimodal.errors import BatchError, ModelError

CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: MLP(7, out_features=5), (7,)),
    "mlp of one layer": (lambda: MLP(7, hidden=(), out_features=5, norm="none"), (7,)),
    "mlp with layer norm": (lambda: MLP(7, (8, 8), 5, norm="layer", dropout=0.2, input_dropout=0.1), (7,)),
    "conv1d": (lambda: Conv1d(6, (8, 8), 5), (32, 6)),
    "conv1d, short sequence": (lambda: Conv1d(6, (8, 8, 8), 5, segments=4), (4, 6)),
    "conv1d with layer norm": (lambda: Conv1d(6, (8,), 5, norm="layer", dropout=0.2, input_dropout=0.1), (32, 6)),
    "conv2d": (lambda: Conv2d(3, (4, 8), 5), (3, 12, 16)),
    "conv2d without channel axis": (lambda: Conv2d(1, (4, 8), 5), (12, 16)),
    "conv2d with stride": (lambda: Conv2d(1, (4, 8), 5, stride=2, norm="layer"), (1, 13, 17)),
    "gru": (lambda: GRU(6, 8, 5), (9, 6)),
    "gru, one direction": (lambda: GRU(6, 8, 5, bidirectional=False, layers=2, input_dropout=0.1), (1, 6)),
}


@pytest.mark.parametrize("case", CASES)
def test_gives_one_feature_vector_per_sample_and_gradients_to_all_parameters(case: str) -> None:
    make, shape = CASES[case]
    encoder = make()
    features = encoder(torch.randn(16, *shape))
    assert features.shape == (16, 5)
    assert encoder.out_features == 5
    features.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())
    assert any(p.grad.abs().sum() > 0 for p in encoder.parameters() if p.grad is not None)


@pytest.mark.parametrize("case", CASES)
def test_a_sample_does_not_depend_on_its_neighbours_in_evaluation(case: str) -> None:
    make, shape = CASES[case]
    encoder = make().eval()
    x = torch.randn(6, *shape)
    together = encoder(x)
    alone = torch.cat([encoder(x[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_weights_survive_saving(case: str) -> None:
    make, shape = CASES[case]
    first, second = make().eval(), make().eval()
    second.load_state_dict(first.state_dict())
    x = torch.randn(3, *shape)
    assert torch.equal(first(x), second(x))


def test_mlp_by_hand() -> None:
    encoder = MLP(2, hidden=(), out_features=2, norm="none")
    linear = encoder.layers[0]
    assert isinstance(linear, nn.Linear)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, 2.0], [-1.0, 0.0]]))
        linear.bias.copy_(torch.tensor([0.5, 0.0]))
    assert encoder(torch.tensor([[3.0, 1.0]])).tolist() == [[5.5, 0.0]]


def test_conv1d_averages_segments_and_takes_the_maximum() -> None:
    encoder = Conv1d(1, channels=(1,), out_features=3, kernel=1, segments=2, norm="none")
    _set(encoder, convolution=torch.ones(1, 1, 1), out=torch.eye(3))
    # halves (1, 3) and (5, 7): means 2 and 6, maximum 7
    assert encoder(torch.tensor([[[1.0], [3.0], [5.0], [7.0]]])).tolist() == [[2.0, 6.0, 7.0]]


def test_conv2d_keeps_rows_of_the_grid_apart() -> None:
    encoder = Conv2d(1, channels=(1,), out_features=3, kernel=1, grid=(2, 1), norm="none")
    _set(encoder, convolution=torch.ones(1, 1, 1, 1), out=torch.eye(3))
    # rows of means 1.5 and 3.5, maximum 4
    assert encoder(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])).tolist() == [[1.5, 3.5, 4.0]]


def test_conv1d_with_one_segment_ignores_a_circular_shift_of_the_inside() -> None:
    encoder = Conv1d(4, (8,), 6, kernel=3, segments=1).eval()
    x = torch.zeros(2, 20, 4)
    x[:, 5:10] = torch.randn(2, 5, 4)
    torch.testing.assert_close(encoder(x.roll(6, dims=1)), encoder(x), rtol=1e-5, atol=1e-6)


def test_gru_reads_order() -> None:
    encoder = GRU(4, 8, 6).eval()
    x = torch.randn(2, 20, 4)
    assert not torch.allclose(encoder(x.flip(1)), encoder(x), atol=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_conv2d_gives_the_same_for_every_memory_layout(channels: int) -> None:
    encoder = Conv2d(channels, (4, 8), 5).eval()
    x = torch.randn(3, 8, 10, channels).permute(0, 3, 1, 2)  # not contiguous
    expected = encoder(x.contiguous())
    torch.testing.assert_close(encoder(x), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(encoder(x.contiguous(memory_format=torch.channels_last)), expected, rtol=1e-5, atol=1e-6)


def test_dropout_acts_in_training_only() -> None:
    encoder = MLP(30, norm="none", dropout=0.5, input_dropout=0.5)
    x = torch.randn(4, 30)
    assert not torch.equal(encoder(x), encoder(x))
    encoder.eval()
    assert torch.equal(encoder(x), encoder(x))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MLP(0), "`in_features`: expected a positive integer. Found 0"),
        (lambda: MLP(3, hidden=(8, 0)), "`hidden`"),
        (lambda: MLP(3, dropout=1.0), r"`dropout`: expected a number in \[0, 1\). Found 1.0"),
        (lambda: MLP(3, input_dropout=-0.1), "`input_dropout`.*Found -0.1"),
        (lambda: MLP(3, norm="batchnorm"), "`norm`: expected one of .*'batch'.*Found 'batchnorm'"),  # type: ignore[arg-type]
        (lambda: Conv1d(3, channels=()), "`channels`: expected at least one layer"),
        (lambda: Conv1d(3, channels=64), "`channels`: expected a sequence"),  # type: ignore[arg-type]
        (lambda: Conv1d(3, kernel=4), "`kernel`: expected an odd number"),
        (lambda: Conv2d(3, grid=(4, 0)), "`grid`"),
        (lambda: Conv2d(3, grid=(4, 2, 1)), "`grid`"),  # type: ignore[arg-type]
        (lambda: Conv2d(3, stride=0), "`stride`"),
        (lambda: GRU(3, hidden=True), "`hidden`: expected a positive integer. Found True"),
    ],
)
def test_wrong_arguments_are_named(make: Callable[[], nn.Module], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        make()


@pytest.mark.parametrize(
    ("encoder", "x", "words"),
    [
        (MLP(3), torch.zeros(2, 4), r"expected \(B, 3\). Found \(2, 4\)"),
        (MLP(12), torch.zeros(2, 3, 4), "flatten"),
        (Conv1d(6), torch.zeros(2, 6, 30), r"expected \(B, T, 6\).*Found \(2, 6, 30\)"),
        (Conv1d(6, (8, 8, 8)), torch.zeros(2, 3, 6), "T >= 4"),
        (Conv2d(3), torch.zeros(2, 8, 8, 3), "move the channels to the second place"),
        (Conv2d(3), torch.zeros(2, 8, 8), r"Found \(2, 8, 8\)"),
        (Conv2d(1, stride=2), torch.zeros(2, 1, 7, 9), "H, W >= 8"),
        (GRU(6), torch.zeros(2, 0, 6), "T >= 1"),
    ],
)
def test_inputs_that_do_not_fit_are_named_with_both_shapes(encoder: nn.Module, x: Tensor, words: str) -> None:
    with pytest.raises(BatchError, match=words):
        encoder(x)


def _set(encoder: Conv1d | Conv2d, convolution: Tensor, out: Tensor) -> None:
    for module in encoder.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
            with torch.no_grad():
                module.weight.copy_(out if isinstance(module, nn.Linear) else convolution)
                if module.bias is not None:
                    module.bias.zero_()
