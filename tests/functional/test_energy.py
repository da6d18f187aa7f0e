"""Energy confidences, fusion by them, and their ranking, against numbers by hand and plain loops."""

from __future__ import annotations

import math

import pytest
import torch

from equimodal.errors import MethodError
from equimodal.functional import confidence_ranking, energy_confidence, energy_fusion

F64 = torch.float64


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def test_confidence_by_hand() -> None:
    z = torch.tensor([[math.log(3.0), 0.0], [1000.0, 0.0], [-5.0, -5.0]], dtype=F64)
    expected = [0.1 * math.log(4), 100.0, 0.1 * (math.log(2) - 5)]
    assert energy_confidence(z).tolist() == pytest.approx(expected, rel=1e-12)
    assert energy_confidence(z, scale=1.0)[0].item() == pytest.approx(math.log(4), rel=1e-12)
    assert energy_confidence(z.half()).dtype == torch.float32
    assert energy_confidence(torch.zeros(2, 3, 4, 5)).shape == (2, 4, 5)


def test_fusion_by_hand() -> None:
    """Weights are not renormalised, may be negative, and absent content is not read."""
    a = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]], dtype=F64)
    b = torch.tensor([[-5.0, -6.0], [math.nan, math.inf]], dtype=F64)
    output, weights = energy_fusion({"a": a, "b": b}, {"b": torch.tensor([True, False])})
    w = 0.1 * (math.log(1 + math.exp(-1)) - 5)
    assert weights["b"].tolist() == pytest.approx([w, 0.0], rel=1e-12)
    assert w < 0
    assert output[0].tolist() == pytest.approx([0.1 * math.log(4) * math.log(3) - 5 * w, -6 * w], rel=1e-12)
    assert output[1].tolist() == [0.0, 0.0]
    with pytest.raises(MethodError, match="at least one modality"):
        energy_fusion({})


def test_fusion_against_a_loop() -> None:
    z = {m: randn(4, 3, 2, seed=i) for i, m in enumerate("abc")}
    output, weights = energy_fusion(z)
    for i in range(4):
        for pixel in range(2):
            total = torch.zeros(3, dtype=F64)
            for m, value in z.items():
                u = value[i, :, pixel]
                w = 0.1 * math.log(sum(math.exp(x) for x in u.tolist()))
                assert weights[m][i, pixel].item() == pytest.approx(w, rel=1e-12)
                total += w * u
            assert torch.allclose(output[i, :, pixel], total, atol=1e-12)


def test_ranking_by_hand() -> None:
    """Two pairs: (0, 1) and (1, 0). The first sample has the larger loss and is more confident by 0.3."""
    w = torch.tensor([0.5, 0.2], dtype=F64, requires_grad=True)
    k = torch.tensor([3.0, 1.0], dtype=F64)
    least, most = torch.tensor(0.0, dtype=F64), torch.tensor(4.0, dtype=F64)
    required = confidence_ranking(w, k, least, most)
    assert required.item() == pytest.approx(0.3 + 0.5, rel=1e-12)
    assert confidence_ranking(w, k, least, most, "slack").item() == 0.0
    required.backward()  # type: ignore[no-untyped-call]
    assert w.grad is not None
    assert w.grad.tolist() == [1.0, -1.0]  # less confident where the loss was larger


def test_ranking_against_a_loop() -> None:
    w, k = randn(7), randn(7, seed=1).abs()
    k[3] = k[4]  # a tie asks for nothing
    least, most = torch.tensor(-1.0, dtype=F64), torch.tensor(5.0, dtype=F64)
    for margin, side in (("required", 1), ("slack", -1)):
        terms = []
        for i in range(7):
            j = (i + 1) % 7
            t = float(torch.sign(k[i] - k[j]))
            terms.append(max(0.0, t * float(w[i] - w[j]) + side * abs(float(k[i] - k[j])) / 6))
        found = confidence_ranking(w, k, least, most, margin)  # type: ignore[arg-type]
        assert found.item() == pytest.approx(sum(terms) / 7, rel=1e-12)


def test_ranking_where_there_is_nothing_to_rank() -> None:
    one, none = torch.ones(1, dtype=F64), torch.ones(0, dtype=F64, requires_grad=True)
    assert confidence_ranking(one, one, one[0], one[0]).item() == 0
    total = confidence_ranking(none, none, one[0], one[0])
    assert total.item() == 0
    assert total.requires_grad
    equal = torch.full((3,), 2.0)
    assert confidence_ranking(torch.tensor([1.0, 2.0, 3.0]), equal, equal[0], equal[0]).item() == 0
