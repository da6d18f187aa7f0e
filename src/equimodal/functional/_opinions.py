"""Fusion of unimodal predictions that are not softmax: sigmoids per label, Gaussians, plain numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from equimodal._utils.shapes import line_up
from equimodal.errors import MethodError


def softmin_weights(
    uncertainty: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    r"""Weight of each modality from its uncertainty e: :math:`w_m = \mathrm{softmax}_m(-e_m)`.

    Args:
        uncertainty: modality -> (B, ...), finite.
        present: modality -> boolean (B,). An absent modality gets weight 0 and the others are renormalised.

    Returns:
        modality -> (B, ...), summing to 1.
    """
    scores = []
    for modality, e in uncertainty.items():
        mask = None if present is None else present.get(modality)
        kept = -e if mask is None else (-e).masked_fill(~line_up(mask, e), -torch.inf)
        scores.append(kept)
    weights = torch.softmax(torch.stack(scores), dim=0)
    return dict(zip(uncertainty, weights.unbind(0), strict=True))


def binary_uncertainty(logits: Tensor, measure: str = "entropy") -> Tensor:
    r"""Uncertainty of :math:`p = \sigma(z)` for every entry; smaller is more certain.

    ``entropy`` :math:`-p \log p - (1-p) \log(1-p)` in nats, ``max_probability`` :math:`1 - \max(p, 1-p)`, ``margin``
    :math:`1 - |2p - 1|`.

    Args:
        logits: z, any shape.
        measure: one of the three.

    Example:
        >>> binary_uncertainty(torch.zeros(1)).exp()
        tensor([2.])
    """
    z = logits if logits.dtype == torch.float64 else logits.float()
    p = torch.sigmoid(z)
    if measure == "entropy":
        return torch.nn.functional.binary_cross_entropy_with_logits(z, p, reduction="none")
    if measure == "max_probability":
        return torch.minimum(p, 1 - p)
    if measure == "margin":
        return 1 - (2 * p - 1).abs()
    raise MethodError(
        f"`measure`: expected entropy, max_probability or margin for labels of their own. Found {measure!r}."
    )


def fuse_binary(
    logits: Mapping[str, Tensor], weights: Mapping[str, Tensor], space: Literal["probability", "log_probability"]
) -> Tensor:
    r"""Logits of the fused sigmoids, one per label.

    ``probability``: the logit of :math:`\sum_m w_m \sigma(z_m)`; ``log_probability``: the log-opinion pool, which for
    two outcomes is :math:`\sum_m w_m z_m`. Entries with weight 0 are not read.

    Args:
        logits: modality -> (B, L).
        weights: modality -> (B,) or (B, L), summing to 1.
        space: where the sum is taken.

    Returns:
        (B, L), logits.
    """
    total: dict[str, Tensor] = {}
    for modality, z in logits.items():
        w = line_up(weights[modality], z)
        z = torch.where(w > 0, z, 0)
        parts = {"z": z} if space == "log_probability" else {"yes": torch.sigmoid(z), "no": torch.sigmoid(-z)}
        for name, value in parts.items():
            total[name] = total[name] + w * value if name in total else w * value
    if not total:
        raise MethodError("`logits`: expected at least one modality. Found none.")
    if space == "log_probability":
        return total["z"]
    tiny = torch.finfo(total["yes"].dtype).tiny
    return total["yes"].clamp_min(tiny).log() - total["no"].clamp_min(tiny).log()


def fuse_numbers(values: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Tensor:
    r""":math:`\sum_m w_m z_m` over the entries with a weight above 0.

    Args:
        values: modality -> (B, ...).
        weights: modality -> (B,) or (B, ...), summing to 1.
    """
    parts = []
    for modality, z in values.items():
        w = line_up(weights[modality], z)
        parts.append(w * torch.where(w > 0, z, 0))
    if not parts:
        raise MethodError("`values`: expected at least one modality. Found none.")
    return torch.stack(parts).sum(0)


def fuse_gaussians(
    outputs: Mapping[str, Tensor],
    present: Mapping[str, Tensor] | None = None,
    rule: Literal["mean", "uncertainty", "precision"] = "precision",
    bound: float = 14.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    r"""One Gaussian per number from each modality's mean :math:`\mu_m` and log-variance :math:`s_m`.

    ``mean``: equal weights. ``uncertainty``: :math:`w_m = \mathrm{softmax}_m(-e_m)` as MLA does, e the entropy
    :math:`\frac12 \log(2 \pi e\, \sigma^2)`, so that :math:`w_m \propto 1/\sigma_m`. Both give the moments of the
    mixture, :math:`\mu = \sum w_m \mu_m`, :math:`\sigma^2 = \sum w_m (\sigma_m^2 + \mu_m^2) - \mu^2`. ``precision``:
    :math:`w_m \propto 1/\sigma_m^2`, the log-opinion pool of Gaussians, :math:`\mu = \sum w_m \mu_m` and
    :math:`\sigma^2` the harmonic mean of the :math:`\sigma_m^2` (not smaller: modalities err together).

    Args:
        outputs: modality -> (B, 2 D): D means, then D log-variances, which are clamped to [-bound, bound].
        present: modality -> boolean (B,); absent modalities are left out, their content is not read.
        rule: one of the three.
        bound: as of :func:`gaussian_nll`.

    Returns:
        (B, 2 D), and modality -> weights (B, D).

    Example:
        >>> import math
        >>> z = {"a": torch.tensor([[0.0, 0.0]]), "b": torch.tensor([[4.0, math.log(3.0)]])}
        >>> float(fuse_gaussians(z)[0][0, 0])  # weights 3/4 and 1/4
        1.0
    """
    means, logs = {}, {}
    for modality, z in outputs.items():
        z = z if z.dtype == torch.float64 else z.float()
        mask = None if present is None else present.get(modality)
        z = z if mask is None else torch.where(mask[:, None], z, 0)
        means[modality], s = z.chunk(2, dim=1)
        logs[modality] = s.clamp(-bound, bound)
    if rule not in ("mean", "uncertainty", "precision"):
        raise MethodError(f"`rule`: expected mean, uncertainty or precision. Found {rule!r}.")
    power = {"mean": 0.0, "uncertainty": 0.5, "precision": 1.0}[rule]
    weights = softmin_weights({m: power * s for m, s in logs.items()}, present)
    mean = fuse_numbers(means, weights)
    if rule == "precision":
        equal = softmin_weights({m: 0 * s for m, s in logs.items()}, present)
        variance = 1 / fuse_numbers({m: torch.exp(-s) for m, s in logs.items()}, equal)
    else:  # around the mean: no difference of large squares
        spread = {m: torch.exp(s) + (means[m] - mean).square() for m, s in logs.items()}
        variance = fuse_numbers(spread, weights)
    return torch.cat([mean, variance.log()], dim=1), weights


def fit_gaussian_scale(output: Tensor, target: Tensor, bounds: tuple[float, float] = (0.05, 20.0)) -> Tensor:
    r"""The factor on :math:`\sigma` with the highest likelihood on held-out data.

    :math:`T^2 = \frac1n \sum (y - \mu)^2 / \sigma^2`, the temperature of a Gaussian, clipped to ``bounds``.

    Args:
        output: (N, 2 D): D means, then D log-variances.
        target: (N,) or (N, D).
        bounds: smallest and largest factor.

    Returns:
        scalar tensor.

    Example:
        >>> fit_gaussian_scale(torch.zeros(4, 2), torch.tensor([3.0, -3.0, 3.0, -3.0]))
        tensor(3.)
    """
    mean, s = output.detach().double().chunk(2, dim=1)
    error = target.double().reshape(mean.shape) - mean
    scale = (error.square() * torch.exp(-s)).mean().sqrt().clamp(*bounds)
    return scale if output.dtype == torch.float64 else scale.float()
