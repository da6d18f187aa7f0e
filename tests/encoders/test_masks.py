"""Padding: a padded sequence gives what it gives alone, in training too, and whatever stands in the padding."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from equimodal.batch import Tokens
from equimodal.encoders import BERT, GRU, CLIPText, Conv1d, TextTransformer, Transformer
from equimodal.encoders._masks import as_before, real_first, reverse, segment_means
from equimodal.errors import BatchError
from tests.encoders.families import CLIP_LAYERS, END, LAYERS, VOCABULARY, texts, values

ENCODERS: dict[str, Callable[[], nn.Module]] = {
    "gru": lambda: GRU(3, 8, 5, layers=2),
    "gru, one direction": lambda: GRU(3, 8, 5, bidirectional=False),
    "gru, tokens": lambda: GRU(3, 8, 5, layers=2, pool="tokens"),
    "conv1d": lambda: Conv1d(3, (8, 8, 8), 5),
    "conv1d, stride": lambda: Conv1d(3, (8, 8), 5, stride=2, segments=3),
    "conv1d, layer norm": lambda: Conv1d(3, (8, 8), 5, norm="layer"),
    "conv1d, no norm": lambda: Conv1d(3, (8, 8), 5, norm="none", segments=1),
    "conv1d, tokens": lambda: Conv1d(3, (8, 8), 5, pool="tokens"),
    "transformer": lambda: Transformer(3, 5, 8, 2, 2, dropout=0.0),
    "transformer, tokens": lambda: Transformer(3, 5, 8, 2, 2, dropout=0.0, pool="tokens"),
}
LENGTHS = (20, 13, 9, 30, 11)


def padded(content: float) -> Tokens:
    x = torch.randn(len(LENGTHS), 30, 3, generator=torch.Generator().manual_seed(3))
    tokens = Tokens.of_lengths(x, torch.tensor(LENGTHS))
    return Tokens(tokens.values.masked_fill(~tokens.mask[..., None], content), tokens.mask)


def settled(encoder: nn.Module) -> nn.Module:
    """Running statistics and affine maps other than the initial ones, which would hide mistakes."""
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                assert isinstance(tensor, Tensor)
                nn.init.uniform_(tensor, 0.5, 1.5)
    return encoder


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("content", [0.0, 7.0, float("nan"), float("inf")])
def test_a_padded_sequence_gives_what_it_gives_alone(name: str, content: float) -> None:
    encoder = settled(ENCODERS[name]()).eval()
    x = padded(content)
    found = encoder(x)
    for b, length in enumerate(LENGTHS):
        alone = values(encoder(x.values[b : b + 1, :length]))[0]
        row = found.values[b][found.mask[b]] if isinstance(found, Tokens) else found[b]
        torch.testing.assert_close(row, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ENCODERS)
def test_content_and_gradients_do_not_reach_the_padding(name: str) -> None:
    encoder = ENCODERS[name]().train()
    outcomes = []
    for content in (0.0, float("nan")):
        encoder.zero_grad()
        x = padded(content)
        leaf = x.values.clone().requires_grad_()
        torch.autograd.backward(values(encoder(Tokens(leaf, x.mask))).square().sum())
        assert leaf.grad is not None
        assert not bool(leaf.grad[~x.mask].any())
        outcomes.append([p.grad for p in encoder.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*outcomes, strict=True))


@pytest.mark.parametrize("name", [n for n in ENCODERS if not n.startswith("transformer")])
def test_real_steps_may_lie_anywhere(name: str) -> None:
    """Gaps in the mask are closed up: recurrence and convolution run from one real step to the next."""
    encoder = settled(ENCODERS[name]()).eval()
    x = torch.randn(2, 24, 3)
    mask = torch.rand(2, 24, generator=torch.Generator().manual_seed(0)) < 0.6
    found = encoder(Tokens(x.masked_fill(~mask[..., None], float("nan")), mask))
    for b in range(2):
        alone = values(encoder(x[b : b + 1, mask[b]]))[0]
        row = found.values[b][found.mask[b]] if isinstance(found, Tokens) else found[b]
        torch.testing.assert_close(row, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ENCODERS)
def test_a_full_mask_is_no_mask_in_training(name: str) -> None:
    """Features and running statistics."""
    first, second = settled(ENCODERS[name]()), ENCODERS[name]()
    second.load_state_dict(first.state_dict())
    x = torch.randn(4, 16, 3)
    torch.testing.assert_close(values(first(Tokens.full(x))), values(second(x)), rtol=1e-4, atol=1e-5)
    for key, tensor in first.state_dict().items():
        torch.testing.assert_close(tensor, second.state_dict()[key], rtol=1e-5, atol=1e-6)


def test_batch_statistics_are_those_of_the_real_steps() -> None:
    encoder = Conv1d(3, (4,), 5, kernel=1)
    norm = next(m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d))
    convolution = next(m for m in encoder.modules() if isinstance(m, nn.Conv2d))
    x = padded(float("nan"))
    encoder(x)
    real = x.values[x.mask].double() @ convolution.weight.detach().double().flatten(1).T
    assert norm.running_mean is not None
    assert norm.running_var is not None
    torch.testing.assert_close(norm.running_mean.double(), 0.1 * real.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(norm.running_var.double(), 0.9 + 0.1 * real.var(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ENCODERS)
def test_a_sample_without_a_real_step_is_finite_and_disturbs_nobody(name: str) -> None:
    encoder = settled(ENCODERS[name]()).eval()
    x = padded(float("nan"))
    with_empty = Tokens(x.values, x.mask & (torch.arange(len(LENGTHS)) != 1)[:, None])
    found, before = values(encoder(with_empty)), values(encoder(x))
    assert bool(found.isfinite().all())
    others = [0, 2, 3, 4]
    torch.testing.assert_close(found[others], before[others], rtol=1e-5, atol=1e-6)


def test_moving_real_steps_together_and_back() -> None:
    x = torch.arange(1.0, 7.0).reshape(1, 6, 1)
    mask = torch.tensor([[False, True, False, True, True, False]])
    together, lengths, order = real_first(Tokens(x, mask))
    assert together[0, :, 0].tolist() == [2, 4, 5, 0, 0, 0]
    assert lengths.tolist() == [3]
    assert as_before(together, order)[0, :, 0].tolist() == [0, 2, 0, 4, 5, 0]
    assert reverse(together, lengths)[0, :, 0].tolist() == [5, 4, 2, 0, 0, 0]


@pytest.mark.parametrize(("length", "segments"), [(7, 3), (6, 3), (2, 4), (1, 4), (10, 1)])
def test_segments_are_those_of_adaptive_pooling(length: int, segments: int) -> None:
    x = torch.randn(2, 3, 10)
    expected = nn.functional.adaptive_avg_pool1d(x[:, :, :length], segments).flatten(1)
    torch.testing.assert_close(segment_means(x, torch.tensor([length, length]), segments), expected)


@pytest.mark.parametrize("name", ["gru", "conv1d", "transformer"])
def test_a_mask_that_does_not_fit_is_refused(name: str) -> None:
    encoder = ENCODERS[name]()
    with pytest.raises(BatchError, match=r"expected a boolean mask \(2, 9\).*Found \(2, 8\)"):
        encoder(Tokens(torch.zeros(2, 9, 3), torch.ones(2, 8, dtype=torch.bool)))
    with pytest.raises(BatchError, match="float32; True marks a real step"):
        encoder(Tokens(torch.zeros(2, 9, 3), torch.ones(2, 9)))


# ---- text -----------------------------------------------------------------------------------------------------------


def text_encoder(name: str, pool: str) -> nn.Module:
    if name == "text transformer":
        return TextTransformer(VOCABULARY, 5, width=8, layers=2, heads=2, pool=pool).eval()  # type: ignore[arg-type]
    pytest.importorskip("transformers")
    if name == "bert":
        return BERT(VOCABULARY, config=LAYERS, pool=pool).eval()  # type: ignore[arg-type]
    return CLIPText(VOCABULARY, config=CLIP_LAYERS, pool=pool).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "pool"),
    [
        ("text transformer", "mean"), ("text transformer", "tokens"), ("bert", "first"), ("bert", "mean"),
        ("bert", "tokens"), ("clip", "embedding"), ("clip", "pooled"), ("clip", "tokens"),
    ],
)  # fmt: skip
def test_a_padded_text_gives_what_it_gives_alone(name: str, pool: str) -> None:
    encoder = text_encoder(name, pool)
    ids = texts(4)
    found = encoder(ids)
    mask = ids != 0
    for b in range(4):
        alone = encoder(ids[b : b + 1, mask[b]])
        row = found.values[b][found.mask[b]] if isinstance(found, Tokens) else found[b]
        expected = alone.values[0][alone.mask[0]] if isinstance(alone, Tokens) else alone[0]
        torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-5)
    same = encoder({"input_ids": ids.int(), "attention_mask": mask.long()})
    assert torch.equal(values(same), values(found))
    assert torch.equal(values(encoder(Tokens(ids, mask))), values(found))
    changed = ids.masked_fill(~mask, 3)  # the mask decides, not the content
    torch.testing.assert_close(values(encoder((changed, mask))), values(found), rtol=1e-5, atol=1e-6)


def test_tokens_of_clip_end_with_the_end() -> None:
    found = text_encoder("clip", "tokens")(torch.tensor([[4, 5, END, END, 3]]))
    assert found.mask.tolist() == [[True, True, True, False, False]]


@pytest.mark.parametrize("name", ["text transformer", "bert", "clip"])
@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.tensor([[1, 20]]), "expected ids from 0 to 19. Found 20"),
        (torch.tensor([[-1, 2]]), "expected ids from 0 to 19. Found -1"),
        (torch.zeros(2, 3), r"integers. Found torch.float32 \(2, 3\)"),
        (torch.zeros(2, 3, 4, dtype=torch.long), r"Found torch.int64 \(2, 3, 4\)"),
        ({"ids": torch.zeros(2, 3)}, r"Found a mapping with \['ids'\]"),
        ((torch.ones(2, 3, dtype=torch.long), torch.ones(2, 4)), r"Mask .* shape of the ids \(2, 3\). Found \(2, 4\)"),
        ("a text", "integers. Found str"),
        (torch.zeros(2, 0, dtype=torch.long), r"1 <= T"),
    ],
)
def test_what_is_no_text_is_refused(name: str, x: object, words: str) -> None:
    encoder = text_encoder(name, "tokens")
    with pytest.raises(BatchError, match=words):
        encoder(x)


def test_a_text_too_long_or_without_its_end_is_refused() -> None:
    pytest.importorskip("transformers")
    short = BERT(VOCABULARY, config={**LAYERS, "max_position_embeddings": 4})
    with pytest.raises(BatchError, match=r"1 <= T <= 4.*Found \(1, 5\). Cut longer texts"):
        short(torch.ones(1, 5, dtype=torch.long))
    clip = text_encoder("clip", "embedding")
    with pytest.raises(BatchError, match="expected the id 19 at the end of every text"):
        clip(torch.tensor([[1, 2, END], [1, 2, 3]]))
    assert clip(torch.tensor([[1, 2, END], [0, 0, 0]])).shape == (2, 10)
