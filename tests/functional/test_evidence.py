"""Opinions against Dempster's rule folded pair by pair, and the evidential loss against SciPy and sampling."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy.special import digamma, gammaln

from equimodal.errors import MethodError
from equimodal.functional import combined_opinion, dirichlet_logarithms, evidence, evidential_loss

F64 = torch.float64


def positive(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64) * 5


def folded(evidences: list[torch.Tensor]) -> tuple[torch.Tensor, float]:
    """Evidence and uncertainty of one sample by the published rule for two opinions."""
    classes = len(evidences[0])
    belief, doubt = [0.0] * classes, 1.0
    for e in evidences:
        strength = float(e.sum()) + classes
        b, u = [x / strength for x in e.tolist()], classes / strength
        conflict = sum(belief[i] * b[j] for i, j in itertools.product(range(classes), repeat=2) if i != j)
        belief = [(p * q + p * u + q * doubt) / (1 - conflict) for p, q in zip(belief, b, strict=True)]
        doubt = doubt * u / (1 - conflict)
    return torch.tensor([b * classes / doubt for b in belief], dtype=F64), doubt


def test_evidence() -> None:
    assert evidence(torch.zeros(1, 2, dtype=F64)).tolist() == [[math.log(2)] * 2]
    assert evidence(torch.zeros(1, 2).half()).dtype == torch.float32


def test_two_opinions_by_hand() -> None:
    """e = (2, 0) and (0, 2), C = 2: b = 1/2 each, u = 1/2, conflict 1/4; belief 1/3 each, uncertainty 1/3."""
    one, other = torch.tensor([[2.0, 0.0]], dtype=F64), torch.tensor([[0.0, 2.0]], dtype=F64)
    level, doubt = combined_opinion({"a": one, "b": other})
    assert (2 * torch.expm1(level)).flatten().tolist() == pytest.approx([2.0, 2.0], rel=1e-12)
    assert doubt.item() == pytest.approx(1 / 3, rel=1e-12)
    assert dirichlet_logarithms(level).softmax(1).flatten().tolist() == pytest.approx([0.5, 0.5], rel=1e-12)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("classes", [2, 6])
def test_any_number_of_opinions_against_the_fold(count: int, classes: int) -> None:
    e = {str(m): positive(4, classes, seed=m) for m in range(count)}
    level, doubt = combined_opinion(e)
    alpha = dirichlet_logarithms(level)
    for i in range(4):
        expected, u = folded([x[i] for x in e.values()])
        assert torch.allclose(classes * torch.expm1(level[i]), expected, rtol=1e-10)
        assert doubt[i].item() == pytest.approx(u, rel=1e-10)
        assert torch.allclose(alpha[i].exp(), expected + 1, rtol=1e-10)
    again = combined_opinion(dict(reversed(e.items())))
    assert torch.allclose(again[0], level, rtol=1e-12)


def test_an_absent_opinion_changes_nothing_and_is_not_read() -> None:
    e = {"a": positive(3, 4), "b": torch.full((3, 4), math.nan, dtype=F64)}
    level, doubt = combined_opinion(e, {"b": torch.zeros(3, dtype=torch.bool)})
    alone = combined_opinion({"a": e["a"]})
    assert torch.equal(level, alone[0])
    assert torch.equal(doubt, alone[1])
    nobody = combined_opinion({"b": e["b"]}, {"b": torch.zeros(3, dtype=torch.bool)})
    assert nobody[1].tolist() == [1.0] * 3
    with pytest.raises(MethodError, match="at least one modality"):
        combined_opinion({})


def test_confident_disagreement_stays_finite() -> None:
    """1 - conflict is 0 in float32; the fold divides by it."""
    e = {"a": torch.tensor([[1e30, 0.0]]), "b": torch.tensor([[0.0, 1e30]]), "c": torch.tensor([[1e30, 0.0]])}
    level, doubt = combined_opinion(e)
    assert torch.isfinite(level).all()
    assert dirichlet_logarithms(level).softmax(1).flatten().tolist() == pytest.approx([1.0, 2e-30], rel=1e-5)
    assert doubt.item() >= 0
    z = torch.tensor([[3.0, -3.0]], requires_grad=True)
    dirichlet_logarithms(combined_opinion({"a": evidence(z)})[0]).sum().backward()  # type: ignore[no-untyped-call]
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()


def test_the_loss_against_scipy() -> None:
    alpha, target = positive(5, 3) + 1, torch.tensor([0, 2, 1, 1, 0])
    found = evidential_loss(alpha, target, 0.3)
    for i in range(5):
        a, y = alpha[i].numpy(), torch.nn.functional.one_hot(target, 3)[i].double().numpy()
        expected = float((y * (digamma(a.sum()) - digamma(a))).sum())
        w = y + (1 - y) * a
        kl = gammaln(w.sum()) - gammaln(3) - gammaln(w).sum() + ((w - 1) * (digamma(w) - digamma(w.sum()))).sum()
        assert found[i].item() == pytest.approx(expected + 0.3 * float(kl), rel=1e-10)
    soft = torch.nn.functional.one_hot(target, 3).double()
    assert torch.allclose(evidential_loss(alpha, soft, 0.3), found, rtol=1e-12)


def test_the_loss_is_an_expectation() -> None:
    """Its first term is the mean of -log p_y under the distribution, the second 0 without wrong evidence."""
    alpha = torch.tensor([[4.0, 1.0, 1.0]], dtype=F64)
    torch.manual_seed(0)
    samples = torch.distributions.Dirichlet(alpha[0]).sample((200_000,))
    right, none = evidential_loss(alpha, torch.tensor([0]), 1.0), evidential_loss(alpha, torch.tensor([0]), 0.0)
    assert right.item() == pytest.approx(none.item(), abs=1e-12)
    assert none.item() == pytest.approx(-samples[:, 0].log().mean().item(), rel=2e-2)
    assert evidential_loss(alpha, torch.tensor([1]), 1.0).item() > evidential_loss(alpha, torch.tensor([1]), 0.0).item()
