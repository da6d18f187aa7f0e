"""One temperature per modality, and how it is fitted."""

from __future__ import annotations

import torch
from torch import Tensor

from equimodal.functional import fit_gaussian_scale, fit_temperature
from equimodal.tasks import Distribution

_MOST_PIXELS = 1 << 18  # a temperature is one number: more pixels than this are thinned out


def at_temperature(output: Tensor, temperature: Tensor | float, distribution: Distribution) -> Tensor:
    r"""Logits divided by T; for a Gaussian, :math:`\sigma` multiplied by T; a plain number stays as it is."""
    factor = torch.as_tensor(temperature, device=output.device).to(output.dtype)
    if distribution == "gaussian":
        mean, s = output.chunk(2, dim=1)
        return torch.cat([mean, s + 2 * factor.log()], dim=1)
    return output if distribution == "point" else output / factor


def fitted_temperature(output: Tensor, target: Tensor, distribution: Distribution) -> Tensor:
    """The temperature with the highest likelihood on held-out outputs (N, C, ...); 1 where there are none.

    Pixels are samples (thinned out evenly above a quarter of a million); pixels whose label is no class are left out.
    Targets that are probabilities count with their cross-entropy, which is that of the labels where they are certain.
    """
    if distribution == "point" or output.shape[0] == 0:
        return torch.ones(())
    if distribution == "gaussian":
        return fit_gaussian_scale(output, target)
    if distribution == "bernoulli":  # a label is a class of two, whose logits are 0 and z
        z = torch.stack([torch.zeros_like(output), output], dim=-1).flatten(0, -2)
        soft = target.is_floating_point()
        y = torch.stack([1 - target, target], dim=-1).flatten(0, -2) if soft else (target > 0).flatten().long()
        return fit_temperature(z, y)
    if output.ndim > 2:
        output, target = output.movedim(1, -1).flatten(0, -2), target.flatten()
        step = -(-len(target) // _MOST_PIXELS)
        step += step % 2 == 0  # an even step would meet the same columns of every image
        output, target = output[::step], target[::step]
        labelled = (target >= 0) & (target < output.shape[1])
        output, target = output[labelled], target[labelled]
    return fit_temperature(output, target) if len(target) else torch.ones(())
