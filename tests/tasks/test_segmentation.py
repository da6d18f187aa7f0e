"""Segmentation: losses and Dice by hand and against MONAI, regions, ignored pixels, distances, targets."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from equimodal import Segmentation
from equimodal.errors import TargetError
from tests import formulas

G = torch.Generator().manual_seed(3)
Z = torch.randn(5, 3, 6, 7, generator=G, dtype=torch.float64)
Y = torch.randint(0, 3, (5, 6, 7), generator=G)
REGIONS = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}


def soft_dice(p: np.ndarray, y: np.ndarray, smooth: float = 1e-5) -> float:
    return float((2 * (p * y).sum() + smooth) / (p.sum() + y.sum() + smooth))


def test_losses_by_hand() -> None:
    p, y = formulas.softmax(Z.numpy(), axis=1), Y.numpy()
    w = np.array([0.2, 0.3, 0.5])
    log_p = np.take_along_axis(np.log(p), y[:, None], 1)[:, 0]
    entropy = -(w[y] * log_p).sum() / w[y].sum()
    dice = 1 - np.mean([soft_dice(p[:, c], y == c) for c in (1, 2)])
    each = 1 - np.mean([soft_dice(p[i, c], y[i] == c) for c in (1, 2) for i in range(5)])
    mixed = Segmentation(3, class_weight=w.tolist(), dice_weight=0.3)
    assert float(Segmentation(3, class_weight=w.tolist(), dice_weight=0.0).loss(Z, Y)) == pytest.approx(
        entropy, rel=1e-6
    )
    assert float(Segmentation(3, dice_weight=1.0).loss(Z, Y)) == pytest.approx(dice, rel=1e-12)
    assert float(Segmentation(3, dice_weight=1.0, batch_dice=False).loss(Z, Y)) == pytest.approx(each, rel=1e-12)
    assert float(mixed.loss(Z, Y)) == pytest.approx(0.7 * entropy + 0.3 * dice, rel=1e-6)
    plain = torch.nn.functional.cross_entropy(Z, Y)
    assert float(Segmentation(3, dice_weight=0.0).loss(Z, Y)) == pytest.approx(float(plain), rel=1e-13)


@pytest.mark.parametrize("batch_dice", [False, True])
def test_dice_loss_against_monai(batch_dice: bool) -> None:
    losses = pytest.importorskip("monai.losses")
    theirs = losses.DiceLoss(include_background=False, to_onehot_y=True, softmax=True, batch=batch_dice)
    ours = Segmentation(3, dice_weight=1.0, batch_dice=batch_dice)
    assert float(ours.loss(Z, Y)) == pytest.approx(float(theirs(Z, Y.unsqueeze(1))), abs=1e-7)


def test_ignored_pixels_count_nowhere() -> None:
    task = Segmentation(3, class_weight=[0.2, 0.3, 0.5], ignore_index=255)
    labels = Y.clone()
    labels[:, :, 2:] = 255
    kept, cut = Z[..., :2], Y[..., :2]
    noisy = Z.clone()
    noisy[..., 2:] = 1e3 * torch.randn(5, 3, 6, 5, generator=G, dtype=torch.float64)
    for z in (Z, noisy):
        assert torch.allclose(task.loss(z, labels), task.loss(kept, cut), rtol=1e-13)
        assert torch.allclose(task.residual(z, labels)[..., :2], task.residual(kept, cut), rtol=1e-12)
        assert not task.residual(z, labels)[..., 2:].any()
        assert torch.equal(torch.stack(task.score_terms(z, labels)), torch.stack(task.score_terms(kept, cut)))
    nothing = torch.full_like(Y, 255)
    alone = Segmentation(3, dice_weight=0.0, ignore_index=255)
    assert float(alone.loss(Z, nothing)) == 0.0
    assert not alone.residual(Z, nothing).any()


def test_region_scores_by_hand() -> None:
    task = Segmentation(4, regions=REGIONS)
    truth = torch.tensor([[[0, 1, 2, 3]]])
    guess = torch.tensor([[[1, 1, 3, 2]]])
    output = torch.nn.functional.one_hot(guess, 4).movedim(-1, 1).double()
    numerator, denominator = task.score_terms(output, truth)
    # WT: truth 3, guess 4, common 3; TC: truth {1, 3}, guess {0, 1, 2}, common {1}; ET: one each, none common
    assert numerator.tolist() == [6.0, 2.0, 0.0]
    assert denominator.tolist() == [7.0, 5.0, 2.0]
    assert float(task.score(output, truth)) == pytest.approx((6 / 7 + 2 / 5) / 3)
    pytest.importorskip("torchmetrics")
    found = task.metrics()(task.probabilities(output), truth)
    assert {n: float(v) for n, v in found.items()} == {
        "dice": pytest.approx((6 / 7 + 2 / 5) / 3), "dice_WT": pytest.approx(6 / 7), "dice_TC": pytest.approx(2 / 5),
        "dice_ET": 0.0,
    }  # fmt: skip


def test_a_region_that_nobody_has_does_not_count() -> None:
    task = Segmentation(3, names=["nothing", "left", "right"])
    output = torch.nn.functional.one_hot(torch.tensor([[[0, 1]]]), 3).movedim(-1, 1).double()
    assert float(task.score(output, torch.tensor([[[0, 1]]]))) == 1.0
    assert list(task.regions) == ["left", "right"]
    empty = torch.zeros(1, 1, 2, dtype=torch.int64)
    nothing = torch.nn.functional.one_hot(empty, 3).movedim(-1, 1).double()
    assert math.isnan(float(task.score(nothing, empty)))
    pytest.importorskip("torchmetrics")
    assert float(task.metrics()(task.probabilities(nothing), empty)["dice"]) == 0.0


def test_three_dimensions_are_as_two() -> None:
    task = Segmentation(3, class_weight=[0.2, 0.3, 0.5])
    volume, labels = Z.movedim(0, 1).unsqueeze(0), Y.unsqueeze(0)  # slices become the first spatial axis
    assert float(task.loss(volume, labels)) == pytest.approx(float(task.loss(Z, Y)), rel=1e-13)
    assert torch.equal(torch.stack(task.score_terms(volume, labels)), torch.stack(task.score_terms(Z, Y)))


def test_hausdorff_distance() -> None:
    pytest.importorskip("torchmetrics")
    pytest.importorskip("monai")
    task = Segmentation(2, hausdorff=True)
    truth = torch.zeros(4, 8, 8, dtype=torch.int64)
    guess = truth.clone()
    truth[0, 2, 2], guess[0, 2, 5] = 1, 1  # three pixels apart
    truth[1, 1:4, 1:4] = guess[1, 1:4, 1:4] = 1  # equal
    truth[2, 0, 0] = 1  # missed: the diagonal; and nothing at all in the last sample, which does not count
    output = torch.nn.functional.one_hot(guess, 2).movedim(-1, 1).double()
    metrics = task.metrics()
    metrics.update(task.probabilities(output[:1]), truth[:1])
    metrics.update(task.probabilities(output[1:]), truth[1:])
    found = metrics.compute()
    assert float(found["hausdorff95"]) == pytest.approx((3 + 0 + math.sqrt(128)) / 3)
    assert float(found["hausdorff95_1"]) == float(found["hausdorff95"])


@pytest.mark.parametrize(
    ("target", "found"),
    [
        (torch.tensor([[[0, 3]]]), r"Found \[3\] in rows \[0\]"),
        (torch.tensor([[[0, 1]], [[-1, 0]]]), r"Found \[-1\] in rows \[1\]"),
        (torch.zeros(2, 4, 4), "torch.float32"),
        (torch.zeros(2, 4, dtype=torch.int64), r"\(2, 4\)"),
        (torch.zeros(2, 1, 4, 4, 4, dtype=torch.int64), "no channel axis"),
        (torch.zeros(2, 4, 4, dtype=torch.bool), "torch.bool"),
    ],
)
def test_bad_targets(target: Any, found: str) -> None:
    with pytest.raises(TargetError, match=found):
        Segmentation(3).check_target(target)


def test_another_size_than_the_output() -> None:
    with pytest.raises(TargetError, match=r"one output per pixel"):
        Segmentation(3).loss(Z, Y[:, ::2])
    Segmentation(3, ignore_index=255).check_target(torch.tensor([[[255, 2]]]))


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"num_classes": 1}, "num_classes"),
        ({"num_classes": 3, "dice_weight": 1.5}, "dice_weight"),
        ({"num_classes": 3, "class_weight": [1.0, 2.0]}, "class_weight"),
        ({"num_classes": 3, "regions": {"a": (3,)}}, r"regions\['a'\]"),
        ({"num_classes": 3, "regions": {"a": ()}}, r"regions\['a'\]"),
        ({"num_classes": 3, "regions": {}}, "regions"),
        ({"num_classes": 3, "names": ["a", "b"]}, "names"),
        ({"num_classes": 3, "background": 3}, "background"),
        ({"num_classes": 3, "ignore_index": 1}, "ignore_index"),
        ({"num_classes": 3, "smooth": 0.0}, "smooth"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], name: str) -> None:
    with pytest.raises(TargetError, match=f"`{name}`"):
        Segmentation(**arguments)
