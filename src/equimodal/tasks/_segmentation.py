"""One class per pixel, in two or three dimensions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from equimodal._utils.shapes import line_up
from equimodal.errors import TargetError, missing_extra
from equimodal.functional import soft_dice, softmax_backward, softmax_cross_entropy_residual
from equimodal.tasks._protocol import (
    Distribution,
    at_least_float32,
    check_output,
    counting_dtype,
    positive_integer,
    positive_weights,
    real_number,
    refuse_entries,
    score,
    truth,
)


class Segmentation(nn.Module):
    r"""One class per pixel, trained with cross-entropy and Dice and scored by Dice.

    .. math:: L = (1 - \lambda)\, \frac{-\sum_i w_{y_i} \log p_{i, y_i}}{\sum_i w_{y_i}}
        + \lambda \left( 1 - \frac1K \sum_k D_k \right), \qquad
        D_k = \frac{2 \sum_i p_{ik} y_{ik} + \epsilon}{\sum_i (p_{ik} + y_{ik}) + \epsilon}

    i runs over the pixels that are not ignored, k over the classes without the background; p is the softmax.

    Args:
        num_classes: C >= 2, the background included.
        dice_weight: :math:`\lambda` in [0, 1]; 0 is cross-entropy alone, 1 Dice alone. 0.5, as in CGGM's BraTS
            experiments.
        class_weight: C positive numbers w, or ``None``; CGGM's BraTS experiments have (0.2, 0.3, 0.25, 0.25).
        regions: name -> classes that form it, which may overlap; scores and metrics are then per region. BraTS with
            its label 4 renamed 3: ``{"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}``. Default: every class but the
            background, one region each.
        names: C names of the classes, for the metrics; default their numbers.
        background: the class that is nothing, left out of Dice; ``None`` if there is none.
        ignore_index: label of pixels that count nowhere: not in the loss, the score or the metrics.
        batch_dice: sum :math:`D_k` over the pixels of the whole batch (default: slices without the class then say
            little instead of everything); ``False`` takes the mean of each sample's Dice. Over the batch, micro-batches
            have a Dice each.
        smooth: :math:`\epsilon`, in pixels.
        hausdorff: report the 95th percentile of the Hausdorff distance too, in pixels (needs MONAI).

    Outputs are (B, C, H, W) or (B, C, D, H, W), targets (B, H, W) or (B, D, H, W).

    Score: Dice of the predicted (largest probability) pixels per region, pooled over all pixels seen. The metrics are
    its mean over regions, ``dice``, each region's ``dice_NAME``, and with ``hausdorff`` ``hausdorff95`` and
    ``hausdorff95_NAME``: the mean over samples that have or are given the region; a sample with only one of the two
    counts with its diagonal.

    Raises:
        TargetError: an argument is out of range, or (in :meth:`check_target`) a target is.
        ModelError: (in :meth:`loss`, :meth:`residual` and :meth:`score`) an output that is not (B, C, *pixels).

    Example:
        >>> import torch
        >>> task = Segmentation(2)
        >>> output = torch.tensor([[[[9.0, 9.0, 0.0]], [[0.0, 0.0, 9.0]]]])
        >>> task.score(output, torch.tensor([[[0, 1, 1]]]))
        tensor(0.6667)
    """

    name = "segmentation"
    distribution: ClassVar[Distribution] = "categorical"
    dense = True
    main_metric = "dice"
    higher_is_better = True
    class_weight: Tensor | None
    _members: Tensor
    _foreground: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        dice_weight: float = 0.5,
        class_weight: Sequence[float] | Tensor | None = None,
        regions: Mapping[str, Sequence[int]] | None = None,
        names: Sequence[str] | None = None,
        background: int | None = 0,
        ignore_index: int | None = None,
        batch_dice: bool = True,
        smooth: float = 1e-5,
        hausdorff: bool = False,
    ) -> None:
        super().__init__()
        self.num_classes = positive_integer("num_classes", num_classes, 2)
        real_number("dice_weight", dice_weight, 0, 1, ends="[]")
        truth("batch_dice", batch_dice)
        truth("hausdorff", hausdorff)
        if background is not None and not (type(background) is int and background in range(num_classes)):
            raise TargetError(f"`background`: expected None or a class in 0..{num_classes - 1}. Found {background!r}.")
        whole = isinstance(ignore_index, int) and not isinstance(ignore_index, bool)
        if ignore_index is not None and (not whole or ignore_index in range(num_classes)):
            raise TargetError(f"`ignore_index`: expected a label that is no class. Found {ignore_index!r}.")
        real_number("smooth", smooth, 0, 1e30)
        given = list(names) if isinstance(names, (list, tuple)) else []
        if names is not None and (len(given) != num_classes or len(set(map(str, given))) != num_classes):
            raise TargetError(f"`names`: expected {num_classes} different names. Found {names!r}.")
        self.dice_weight, self.batch_dice, self.smooth = dice_weight, batch_dice, smooth
        self.background, self.ignore_index, self.hausdorff = background, ignore_index, hausdorff
        kept = [c for c in range(num_classes) if c != background]
        called = [str(c) for c in range(num_classes)] if names is None else [str(n) for n in names]
        self.regions = _regions(regions, num_classes) if regions is not None else {called[c]: (c,) for c in kept}
        members = torch.zeros(len(self.regions), num_classes)
        for row, classes in enumerate(self.regions.values()):
            members[row, list(classes)] = 1
        foreground = torch.zeros(num_classes)
        foreground[kept] = 1
        self.register_buffer("class_weight", positive_weights("class_weight", class_weight, num_classes),
                             persistent=False)  # fmt: skip
        self.register_buffer("_members", members, persistent=False)
        self.register_buffer("_foreground", foreground, persistent=False)

    @property
    def outputs(self) -> int:
        """C, the number of logits per pixel."""
        return self.num_classes

    @property
    def score_size(self) -> int:
        """Number of regions."""
        return len(self.regions)

    def extra_repr(self) -> str:
        """Arguments, for ``repr``."""
        return f"num_classes={self.num_classes}, dice_weight={self.dice_weight}, regions={list(self.regions)}"

    # ---- loss -------------------------------------------------------------------------------------------------------

    def _split(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Labels in 0..C-1 and which pixels count (1 or 0), both (B, *pixels)."""
        check_output(output, self)
        if target.shape != (len(output), *output.shape[2:]):
            raise TargetError(
                f"`target`: expected (B, *pixels) for an output (B, {self.num_classes}, *pixels). "
                f"Found {tuple(target.shape)} for {tuple(output.shape)}. Let the network give one output per pixel of "
                "the target."
            )
        if self.ignore_index is None:
            return target.long(), torch.ones_like(target, dtype=output.dtype)
        valid = target != self.ignore_index
        return torch.where(valid, target, 0).long(), valid.to(output.dtype)

    def _onehot(self, labels: Tensor, dtype: torch.dtype) -> Tensor:
        classes = torch.arange(self.num_classes, device=labels.device).reshape(-1, *([1] * (labels.ndim - 1)))
        return (labels.unsqueeze(1) == classes).to(dtype)

    def _pixel_weights(self, labels: Tensor, valid: Tensor) -> Tensor:
        """w of each pixel's class, 0 where ignored."""
        return valid if self.class_weight is None else self.class_weight.to(valid.dtype)[labels] * valid

    def loss_terms(self, output: Tensor, target: Tensor) -> Tensor:
        """(2,): the cross-entropy's and the Dice's part of the loss."""
        labels, valid = self._split(output, target)
        terms = [output.new_zeros(()), output.new_zeros(())]
        if self.dice_weight < 1:
            log_p = torch.log_softmax(output, dim=1).gather(1, labels.unsqueeze(1)).squeeze(1)
            weights = self._pixel_weights(labels, valid)
            terms[0] = (1 - self.dice_weight) * -(weights * log_p).sum() / _positive(weights.sum())
        if self.dice_weight > 0:
            dice, _ = self._dice(torch.softmax(output, dim=1), labels, valid)
            terms[1] = self.dice_weight * (1 - (dice * self._share(dice)).sum())
        return torch.stack(terms)

    def loss_weights(self, target: Tensor) -> Tensor | None:
        """(2,) what the parts average over: the weights of the pixels, and the samples; ``None`` if all count alike."""
        if self.class_weight is None and self.ignore_index is None:
            return None
        valid = torch.ones(target.shape, device=target.device, dtype=counting_dtype(target.device))
        labels = target.long()
        if self.ignore_index is not None:
            valid = (target != self.ignore_index).to(valid.dtype)
            labels = torch.where(target != self.ignore_index, labels, 0)
        weights = self._pixel_weights(labels, valid).sum()
        return torch.stack([weights, torch.full_like(weights, float(target.shape[0]))])

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The mixture of cross-entropy and Dice."""
        return self.loss_terms(output, target).sum()

    def residual(self, output: Tensor, target: Tensor) -> Tensor:
        r""":math:`\partial L/\partial z` in closed form, shape of ``output``; exactly the gradient of :meth:`loss`."""
        labels, valid = self._split(output, target)
        result = torch.zeros_like(output)
        if self.dice_weight < 1:
            weights = self._pixel_weights(labels, valid)
            q = self._onehot(labels, output.dtype) * (weights / _positive(weights.sum())).unsqueeze(1)
            result = result + (1 - self.dice_weight) * softmax_cross_entropy_residual(output, q)
        if self.dice_weight > 0:
            p = torch.softmax(output, dim=1)
            dice, slope = self._dice(p, labels, valid)
            share = line_up(self._share(dice), output)
            gradient = -self.dice_weight * share * slope * valid.unsqueeze(1)
            result = result + softmax_backward(p, gradient)
        return result

    def _dice(self, probability: Tensor, labels: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Soft Dice of every class and its gradient with respect to the masked probabilities."""
        mask = valid.unsqueeze(1)
        truth = self._onehot(labels, probability.dtype) * mask
        return soft_dice(probability * mask, truth, over_batch=self.batch_dice, smooth=self.smooth)

    def _share(self, dice: Tensor) -> Tensor:
        """How much each of the Dice values counts in their mean over samples and foreground classes."""
        foreground = self._foreground.to(dice.dtype)
        return (foreground / (foreground.sum() * dice.shape[0])).expand_as(dice)

    # ---- score ------------------------------------------------------------------------------------------------------

    def score_terms(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Twice the common pixels, and the pixels predicted plus those true, per region; each (K,)."""
        labels, valid = self._split(output, target)
        inside = self._members.bool()
        guess, truth = (inside[:, pixels] & (valid > 0) for pixels in (output.argmax(dim=1), labels))
        common, total = (guess & truth).flatten(1).sum(1), guess.flatten(1).sum(1) + truth.flatten(1).sum(1)
        return (2 * common).float(), total.float()

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean Dice over the regions that are there or predicted, in [0, 1]; a scalar tensor."""
        return score(self, output, target)

    def probabilities(self, output: Tensor) -> Tensor:
        """softmax over the classes, (B, C, *pixels), in float32 at least."""
        return torch.softmax(at_least_float32(output), dim=1)

    def check_target(self, target: Tensor | None) -> None:
        """Raise unless ``target`` is (B, *pixels) integers that are classes or ``ignore_index``; synchronises."""
        expected = f"labels (B, H, W) or (B, D, H, W) in 0..{self.num_classes - 1}"
        expected += "" if self.ignore_index is None else f" or {self.ignore_index} (ignored)"
        if target is None:
            raise TargetError(f"`target`: expected {expected}. Found None.")
        if target.ndim not in (3, 4) or target.is_floating_point() or target.dtype == torch.bool:
            raise TargetError(
                f"`target`: expected {expected}. Found {target.dtype} {tuple(target.shape)}; one label per pixel, no "
                "channel axis, integers (convert with .long())."
            )
        outside = (target < 0) | (target >= self.num_classes)
        if self.ignore_index is not None:
            outside &= target != self.ignore_index
        refuse_entries(target, outside, expected, "Check the labels, `num_classes` or `ignore_index`.")

    def metrics(self) -> Any:
        """Dice pooled over all pixels: per region and its mean; with ``hausdorff`` the 95 % Hausdorff distance."""
        try:
            from torchmetrics import MetricCollection

            from equimodal.tasks._segmentation_metrics import PooledDice, hausdorff_metrics
        except ImportError as error:
            raise missing_extra("torchmetrics", "cli", "`Segmentation.metrics`") from error
        metrics: dict[str, Any] = {"dice": PooledDice(self._members, None, self.ignore_index)}
        if len(self.regions) > 1 or self.hausdorff:
            for row, name in enumerate(self.regions):
                metrics[f"dice_{name}"] = PooledDice(self._members, row, self.ignore_index)
        if self.hausdorff:
            metrics |= hausdorff_metrics(self._members, list(self.regions), self.ignore_index)
        return MetricCollection(metrics)


def _positive(total: Tensor) -> Tensor:
    """``total``, or 1 where it is 0: a mean over nothing is then 0."""
    return torch.where(total > 0, total, 1)


def _regions(given: Mapping[str, Sequence[int]], num_classes: int) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    if not isinstance(given, Mapping):
        raise TargetError(f"`regions`: expected name -> classes. Found {given!r}.")
    for name, classes in given.items():
        listed = tuple(classes) if isinstance(classes, (list, tuple, range, set)) else ()
        if not listed or len(set(listed)) != len(listed) or not set(listed) <= set(range(num_classes)):
            raise TargetError(
                f"`regions[{name!r}]`: expected different classes in 0..{num_classes - 1}, at least one. Found "
                f"{classes!r}."
            )
        found[str(name)] = listed
    if not found:
        raise TargetError("`regions`: expected at least one. Found none; leave it out for one region per class.")
    return found
