"""The forward and backward phases of MIE as its released code computes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from equimodal.engine import is_distributed
from equimodal.errors import UnsupportedError
from equimodal.projection import Flat, Key

MIE_RELEASED = (
    "the perturbation is 1e-10 (1e-15 for three datasets), per tensor, and never undone",
    "the second loss re-evaluates only the classifier, on features from before the perturbation",
    "the covariance is that of the batch mean, collected for all convolutions but used for linear layers only",
    "a layer is multiplied by the projector of every earlier layer of equal shape",
    "the best model is chosen on the test set",
)
"""What the released code does otherwise than the paper."""

PERTURBATION = 1e-10
"""The perturbation in the released configuration of CREMA-D."""

MIE_FEATURES = {
    "processes, trainer, sharded: variant='released'": "refused: each process would be left at weights of its own, "
    "perturbed along its own gradient",
    "processes, trainer, sharded: mixup_alpha": "differs: every process mixes its own samples",
    "accumulation: mixup_alpha": "differs: samples are mixed within a micro-batch",
    "accumulation: variant='released'": "differs: the weights are perturbed in every micro-batch",
    "compiled-loss: variant='released'": "refused: its loss changes weights",
    "float16, nonfinite, sharpness: variant='released'": "differs: its perturbation of 1e-10 is never undone",
}
"""What of MIE departs from the claims of the engine features."""


def require_one_process() -> None:
    """Refuse what the released code does not do.

    Raises:
        UnsupportedError: there are several processes.
    """
    if is_distributed():
        raise UnsupportedError(
            "`variant`: 'released' leaves each process at weights of its own, perturbed along its own gradient. "
            "Use one process, or variant='paper'."
        )


class MeanFlat(Flat):
    """Covariances of batch MEANS, and each layer multiplied by the projectors of ALL layers of equal shape."""

    def observed(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """The mean over the batch."""
        return [x.mean(0, keepdim=True) for x in inputs]

    def keys_of(self, modality: str, key: Key) -> list[Key]:
        """Every layer of m of equal weight shape."""
        return [k for k in self.keyed[modality] if k[1] == key[1]]


def perturbed_loss(
    loss: Tensor, sharp_loss: Callable[[], Tensor], parameters: Sequence[nn.Parameter], ratio: float
) -> Tensor:
    """Loss of the released forward phase: perturb each tensor along its own gradient, never undo it, mix two losses.

    Args:
        loss: at the unperturbed parameters, with its graph.
        sharp_loss: evaluates the perturbed CLASSIFIER on features from before the perturbation.
        parameters: of the active branch; changed in place.
        ratio: weight of the second loss.

    Returns:
        (1 - ratio) loss + ratio sharp loss, a scalar.
    """
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    with torch.no_grad():
        for p, g in zip(parameters, gradients, strict=True):
            if g is not None:
                p.data = p.data + PERTURBATION * torch.nan_to_num(g / g.norm())
    return (1 - ratio) * loss + ratio * sharp_loss()
