"""The forward phase of MIE as its released code computes it; kept to reproduce published numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

PERTURBATION = 1e-10
"""The perturbation in the released configuration of CREMA-D."""

ENGINE = {
    "processes, trainer, sharded: variant='released'": "refused: each process would be left at weights of its own, "
    "perturbed along its own gradient",
    "processes, trainer, sharded: mixup_alpha": "differs: every process mixes its own samples",
    "accumulation: mixup_alpha": "differs: samples are mixed within a micro-batch",
    "accumulation: variant='released'": "differs: the weights are perturbed in every micro-batch",
    "compiled-loss: variant='released'": "refused: its loss changes weights",
    "float16, nonfinite: variant='released'": "differs: its perturbation of 1e-10 is never undone",
}
"""What of MIE departs from the claims of the engine features."""


def released_loss(
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
