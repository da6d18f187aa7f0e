"""Confidence from the energy of logits, fusion by it, and its ranking by past losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from equimodal._utils.shapes import line_up
from equimodal.errors import MethodError


def energy_confidence(logits: Tensor, scale: float = 0.1) -> Tensor:
    r"""Confidence of each sample, :math:`\omega = s \log \sum_c e^{z_c}` ([Zhang2023], as in the released code).

    It has the unit of a logit, is not bounded, and negative where all logits are small.

    Args:
        logits: z, (B, C) or (B, C, ...); classes on axis 1.
        scale: s.

    Returns:
        (B,) or (B, ...), in float32 at least.

    Example:
        >>> energy_confidence(torch.tensor([[0.0, 0.0]]).add(torch.tensor(5.0) - torch.tensor(2.0).log()))
        tensor([0.5000])
    """
    z = logits if logits.dtype == torch.float64 else logits.float()
    return scale * torch.logsumexp(z, dim=1)


def energy_fusion(
    logits: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None, scale: float = 0.1
) -> tuple[Tensor, dict[str, Tensor]]:
    r""":math:`\sum_m \omega_m z_m` with :math:`\omega_m` of :func:`energy_confidence`, per sample ([Zhang2023]).

    Nothing is renormalised: a sample with fewer modalities has smaller logits. A negative weight turns a modality's
    vote around, as the formula says.

    Args:
        logits: modality -> (B, C, ...).
        present: modality -> boolean (B,). An absent modality has weight 0, and its content is not read.
        scale: of the confidence.

    Returns:
        Logits (B, C, ...), and modality -> weights (B,) or (B, ...).

    Raises:
        MethodError: there is no modality.

    Example:
        >>> z = {"a": torch.tensor([[2.0, 2.0]]), "b": torch.tensor([[0.0, 0.0]])}
        >>> energy_fusion(z, {"b": torch.tensor([False])})[1]["b"]
        tensor([0.])
    """
    parts, weights = [], {}
    for modality, z in logits.items():
        z = z if z.dtype == torch.float64 else z.float()
        mask = None if present is None else present.get(modality)
        if mask is not None:
            z = torch.where(line_up(mask, z), z, torch.zeros_like(z))
        w = energy_confidence(z, scale)
        weights[modality] = w if mask is None else torch.where(line_up(mask, w), w, torch.zeros_like(w))
        parts.append(weights[modality].unsqueeze(1) * z)
    if not parts:
        raise MethodError("`logits`: expected at least one modality. Found none.")
    return torch.stack(parts).sum(0), weights


def confidence_ranking(
    confidence: Tensor,
    history: Tensor,
    least: Tensor,
    most: Tensor,
    margin: Literal["required", "slack"] = "required",
) -> Tensor:
    r"""How far confidences contradict the order of past losses, a mean over pairs of neighbours ([Zhang2023]).

    .. math:: R = \frac1n \sum_i \max(0,\; t_i (\omega_i - \omega_j) + \mu_i), \quad
        t_i = \mathrm{sign}(\kappa_i - \kappa_j), \quad \mu_i = |\tilde\kappa_i - \tilde\kappa_j|

    with j the sample after i, and the first after the last; :math:`\tilde\kappa = (\kappa - \kappa_{min}) /
    (\kappa_{max} - \kappa_{min})`, 0 where both are equal. The sample with the larger past loss must be less confident,
    by :math:`\mu`. Only :math:`\omega` has a gradient.

    Args:
        confidence: :math:`\omega`, (n,).
        history: :math:`\kappa`, (n,), the losses of each sample so far, added up.
        least: :math:`\kappa_{min}` over the history of all samples, a scalar.
        most: :math:`\kappa_{max}`, a scalar.
        margin: ``"slack"`` has :math:`-\mu`: the order may be violated by as much.

    Returns:
        scalar; 0 without a sample.

    Example:
        >>> k = torch.tensor([2.0, 1.0])
        >>> [float(confidence_ranking(torch.zeros(2), k, k.min(), k.max(), m)) for m in ("required", "slack")]
        [1.0, 0.0]
    """
    if not len(confidence):
        return confidence.sum()
    past = history.detach().to(confidence.dtype)
    spread = (most - least).to(confidence.dtype)
    level = torch.where(spread > 0, (past - least.to(past.dtype)) / torch.where(spread > 0, spread, 1), 0)
    sign = torch.sign(past - past.roll(-1))
    gap = (level - level.roll(-1)).abs()
    ahead = sign * (confidence - confidence.roll(-1))
    return torch.relu(ahead + (gap if margin == "required" else -gap)).mean()
