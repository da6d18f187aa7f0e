"""MCR against the game written out in loops, its special cases, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from equimodal import Batch, Classification, MultimodalModel, PlainEngine
from equimodal.errors import MethodError, ModelError, UnsupportedError
from equimodal.fusion import Concat
from equimodal.methods import MCR, MultiLoss
from equimodal.tasks import Regression, Segmentation
from tests.helpers import assert_identical, assert_near, weights
from tests.methods.affine import (
    CLASSES,
    batch_of,
    cross_entropy,
    descend,
    encoders_of,
    features_of,
    head_of,
    make,
    masks_of,
    steps,
)

MU, ELL, CON, CEB, K = 0.3, 0.7, 0.2, 0.05, 2


def divergence(a: Tensor, b: Tensor) -> Tensor:
    """Jensen-Shannon between softmax(a) and softmax(b), of one sample."""
    p, q = a.softmax(0), b.softmax(0)
    m = (p + q) / 2
    return 0.5 * (p * (p / m).log()).sum() + 0.5 * (q * (q / m).log()).sum()


def game(
    z: dict[str, Tensor], head: Any, masks: dict[str, Tensor], orders: dict[str, list[list[int]]], k: int
) -> Tensor:
    """-sum_e (D_e + k sum D_m), sample by sample; the head and the others' features are numbers."""
    weight, bias = head.weight.detach(), head.bias.detach()

    def output(player: str, rows: dict[str, int]) -> Any:
        return weight @ torch.cat([z[m][r] if m == player else z[m][r].detach() for m, r in rows.items()]) + bias

    total = torch.zeros((), dtype=torch.float64)
    for player in z:
        for m in z:
            have = masks[m].nonzero()[:, 0].tolist()
            distances = []
            for order in orders[m]:
                for i, place in enumerate(order):
                    rows = dict.fromkeys(z, have[i])
                    distances.append(divergence(output(player, {**rows, m: have[place]}), output(player, rows)))
            total = total - (1 if m == player else k) * torch.stack(distances).mean()
    return total


def contrast(z: dict[str, Tensor], y: Tensor, masks: dict[str, Tensor]) -> Tensor:
    names, total = list(z), torch.zeros((), dtype=torch.float64)
    for a in range(len(names)):
        for b in range(a + 1, len(names)):
            rows = (masks[names[a]] & masks[names[b]]).nonzero()[:, 0].tolist()
            for first, second in ((names[a], names[b]), (names[b], names[a])):
                for i in rows:
                    s = torch.stack([torch.cosine_similarity(z[first][i], z[second][j], dim=0) / 0.5 for j in rows])
                    share = s - s.logsumexp(0)
                    same = [n for n, j in enumerate(rows) if y[j] == y[i]]
                    total = total - share[same].mean() / len(rows) / 2
    return total


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize(("mode", "k"), [("greedy", -1), ("independent", 0), ("collaborative", 1)])
def test_three_steps_are_those_of_the_equations(count: int, mode: str, k: int) -> None:
    options: dict[str, Any] = {
        "weight": MU,
        "game_weight": ELL,
        "contrast_weight": CON,
        "bottleneck_weight": CEB,
        "permutations": K,
    }
    ours, theirs = (make(MCR, count, mode=mode, seed=5, **options) for _ in range(2))
    data = [batch_of(count, seed) for seed in range(3)]
    steps(ours, data)
    generator = torch.Generator().manual_seed(5)
    encoders, head = encoders_of(theirs), head_of(theirs)
    parameters = list(theirs.parameters())
    for batch in data:
        z, masks, y = features_of(encoders, batch), masks_of(batch), batch.target
        assert y is not None
        orders = {
            m: [torch.randperm(int(mask.sum()), generator=generator).tolist() for _ in range(K)]
            for m, mask in masks.items()
        }
        total = cross_entropy(torch.cat(list(z.values()), 1) @ head.weight.T + head.bias, y)
        for m, mask in masks.items():
            own = theirs.heads[m][-1]
            total = total + MU * cross_entropy((z[m] @ own.weight.T + own.bias)[mask], y[mask])
        total = total + ELL * game(z, head, masks, orders, k) + CON * contrast(z, y, masks)
        first, _, last = theirs.bottleneck
        explained = torch.eye(CLASSES, dtype=torch.float64)[y] @ first.weight.T
        explained = (explained.clamp(min=0) @ last.weight.T).chunk(count, 1)
        for m, h in zip(masks, explained, strict=True):
            total = total + CEB * (z[m] - h)[masks[m]].square().sum() / len(batch)
        descend(parameters, torch.autograd.grad(total, parameters))
    assert_near(weights(ours), weights(theirs), 1e-12)


def test_without_its_terms_it_is_multi_loss() -> None:
    off: dict[str, Any] = {"game_weight": 0.0, "contrast_weight": 0.0, "weight": 0.4}
    ours, theirs = make(MCR, 3, **off), make(MultiLoss, 3, weight=0.4)
    data = [batch_of(3, seed) for seed in range(2)]
    steps(ours, data)
    steps(theirs, data)
    assert_identical(weights(ours), weights(theirs))


def test_permuting_equal_features_changes_nothing() -> None:
    method = make(MCR, 2, contrast_weight=0.0)
    batch = batch_of(2, absent=False)
    same = Batch({m: x[:1].expand_as(x).clone() for m, x in batch.inputs.items()}, batch.target)
    (report,) = steps(method, [same])
    assert float(report.losses["game"]) == 0


def test_the_game_trains_encoders_alone() -> None:
    """Fusion and head get no gradient from it, and encoder e none from the reward of another."""
    method = make(MCR, 2, mode="independent")
    batch = method.prepare([batch_of(2)])[0]
    features = method.multimodal.encode(batch.inputs, batch.present)
    torch.autograd.backward(method.game.loss(features, batch))
    assert head_of(method).weight.grad is None
    assert all(e.weight.grad.abs().max() > 0 for e in encoders_of(method).values())


def test_a_modality_of_nobody_plays_no_part() -> None:
    method, batch = make(MCR, 3), batch_of(3, absent=False)
    gone = next(iter(batch.inputs))
    nobody = Batch(batch.inputs, batch.target, {gone: torch.zeros(len(batch), dtype=torch.bool)})
    before = {n: p.detach().clone() for n, p in encoders_of(method)[gone].named_parameters()}
    (report,) = steps(method, [nobody])
    assert bool(report.loss.isfinite())
    assert_identical(before, dict(encoders_of(method)[gone].named_parameters()))


def test_numbers_are_compared_by_the_loss_of_the_task() -> None:
    task = Regression(loss="l1")
    method = make(MCR, 2, task, contrast_weight=0.0, mode="independent", permutations=1, game_weight=1.0)
    batch = batch_of(2, absent=False)
    batch = Batch(batch.inputs, torch.zeros(len(batch), dtype=torch.float64))
    z, head = features_of(encoders_of(method), batch), head_of(method)
    g = torch.Generator().manual_seed(0)
    expected = 0.0
    for i, m in enumerate(z):
        share = (z[m] @ head.weight[0, 4 * i : 4 * i + 4]).detach()
        expected -= float((share[torch.randperm(len(batch), generator=g)] - share).abs().mean())
    (report,) = steps(method, [batch])
    assert float(report.losses["game"]) == pytest.approx(expected, abs=1e-12)


def test_refusals() -> None:
    with pytest.raises(MethodError, match="`permutations`"):
        make(MCR, 2, permutations=0)
    with pytest.raises(MethodError, match="`mode`"):
        make(MCR, 2, mode="ind")
    encoders: dict[str, nn.Module] = {"a": nn.Linear(5, 4), "b": nn.Linear(3, 6)}
    model = MultimodalModel(encoders, Concat({"a": 4, "b": 6}), nn.Linear(10, 3))
    with pytest.raises(ModelError, match="contrast_weight > 0 needs encoders of equal feature width"):
        MCR(model, Classification(3))
    wide = MCR(model, Classification(3), contrast_weight=0.0, bottleneck_weight=1.0)
    batch = Batch({"a": torch.randn(4, 5), "b": torch.randn(4, 3)}, torch.tensor([0, 1, 2, 0]))
    report = wide.training_step(batch, PlainEngine(torch.optim.SGD(wide.parameters(), 0.1)))
    assert bool(report.loss.isfinite())
    maps: dict[str, nn.Module] = {m: nn.Conv2d(2, 4, 1) for m in ("a", "b")}
    pixels = MultimodalModel(maps, Concat({"a": 4, "b": 4}), nn.Conv2d(8, 3, 1))
    with pytest.raises(UnsupportedError, match="`bottleneck_weight`: expected 0 for 'segmentation'"):
        MCR(pixels, Segmentation(3), bottleneck_weight=1.0)
