"""Classifier-guided balance: how much each modality lags, and where the fused gradient points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from equimodal._utils.precision import in_dtype
from equimodal.errors import MethodError


def balance_terms(
    improvements: Tensor,
    variant: Literal["paper", "released"] = "paper",
    *,
    floor: float = 1e-6,
    maximum: float = 1.0,
    threshold: float = 1e-8,
) -> Tensor:
    r"""Balance term of each modality from its recent improvement ([Guo2024], equation 6).

    .. math:: B_m = \frac{S - \delta_m}{S}, \qquad S = \sum_k \delta_k

    The raw rule is unstable: :math:`\delta` is mostly noise, S passes through 0 and changes sign. ``variant="paper"``
    computes the same equation on safe ground: :math:`\delta` is clamped at 0, ``floor`` is added, B is clamped to
    [0, ``maximum``] and rescaled to sum to M - 1 (as the equation does), and where S is below ``threshold`` all
    modalities get (M - 1) / M. ``variant="released"`` is the raw rule, with the 1e-8 that the authors' code adds to S.

    Args:
        improvements: :math:`\delta`, (M,), M >= 2: change of the score of each modality's classifier.
        variant: safe or raw.
        floor: added to each clamped improvement (unit of the score).
        maximum: largest B_m before rescaling; the clamped rule never exceeds 1.
        threshold: smallest S that counts as an improvement (unit of the score).

    Returns:
        B, (M,), float32 at least.

    Example:
        >>> balance_terms(torch.tensor([0.03, 0.01]))
        tensor([0.2500, 0.7500])
        >>> balance_terms(torch.zeros(3))
        tensor([0.6667, 0.6667, 0.6667])
    """
    if improvements.ndim != 1 or improvements.shape[0] < 2:
        raise MethodError(f"`improvements`: expected shape (M,) with M >= 2. Found {tuple(improvements.shape)}.")
    count = improvements.shape[0]
    delta = improvements if improvements.dtype == torch.float64 else improvements.float()
    if variant == "released":
        total = delta.sum() + 1e-8  # the repository's guard
        return (total - delta) / total
    if variant != "paper":
        raise MethodError(f"`variant`: expected 'paper' or 'released'. Found {variant!r}.")
    clamped = delta.clamp_min(0)
    safe = clamped + floor
    total = safe.sum()
    balance = ((total - safe) / total).clamp(0, maximum)
    balance = balance * ((count - 1) / balance.sum())
    moving = (clamped.sum() >= threshold) & (clamped != clamped[0]).any()  # equal ones: exactly (M - 1) / M
    return torch.where(moving, balance, torch.full_like(balance, (count - 1) / count))


def bounded_balance(balance: Tensor, gain: Tensor, headroom: Tensor, ratio: float = 2.0) -> Tensor:
    r"""Balance terms that favour a modality only as far as it can still gain, with a bound on their ratio (ours).

    The rule of :func:`balance_terms` gives most to the modality that improves least: to pure noise, too, and to one
    that has nothing left to learn, while the only useful one is held back. Here what m can still gain is what it has
    gained so far times what is left to its best score, each next to the largest of all:

    .. math:: r_m = \frac{g_m^+}{\max_k g_k^+} \cdot \frac{h_m^+}{\max_k h_k^+}, \quad e = \frac{M - 1}{M}, \quad
        B'_m = e + r_m (B_m - e)^+ - \kappa\,(e - B_m)^+, \quad
        \kappa = \frac{\sum_k r_k (B_k - e)^+}{\sum_k (B_k - e)^+}

    so that those that are held back give what the favoured ones receive. Then every term is raised to
    :math:`\max_k B'_k / R`, and all are rescaled to sum to M - 1. Where nobody has gained anything, or nothing is left,
    all are e.

    Args:
        balance: B, (M,), M >= 2, at least 0, with sum M - 1.
        gain: g, (M,): score minus the first score.
        headroom: h, (M,): best possible score minus score.
        ratio: R >= 1, the largest ratio between two terms.

    Returns:
        B, (M,), of the type of ``balance``.

    Raises:
        MethodError: shapes that differ, or a ratio below 1.

    Example:
        >>> b = torch.tensor([0.1, 0.9])
        >>> bounded_balance(b, gain=torch.tensor([0.4, 0.0]), headroom=torch.tensor([0.2, 0.7]))
        tensor([0.5000, 0.5000])
        >>> bounded_balance(b, gain=torch.tensor([0.4, 0.2]), headroom=torch.tensor([0.2, 0.7]), ratio=4.0)
        tensor([0.3000, 0.7000])
    """
    if balance.ndim != 1 or balance.shape[0] < 2 or not balance.shape == gain.shape == headroom.shape:
        raise MethodError(
            "`balance`, `gain`, `headroom`: expected shape (M,) with M >= 2 each. Found "
            f"{tuple(balance.shape)}, {tuple(gain.shape)} and {tuple(headroom.shape)}."
        )
    if not ratio >= 1:
        raise MethodError(f"`ratio`: expected a number >= 1. Found {ratio}.")
    count = balance.shape[0]
    equal = torch.full_like(balance, (count - 1) / count)
    left = (_share_of_largest(gain) * _share_of_largest(headroom)).to(balance.dtype)
    above, below = (balance - equal).clamp_min(0), (equal - balance).clamp_min(0)
    given = (left * above).sum()
    favoured = equal + left * above - below * given / above.sum().clamp_min(torch.finfo(balance.dtype).tiny)
    bounded = torch.maximum(favoured, favoured.max() / ratio)
    return torch.where(given > 0, bounded * ((count - 1) / bounded.sum()), equal)


def _share_of_largest(values: Tensor) -> Tensor:
    """Each positive value over the largest; 0 where none is positive."""
    positive = values.clamp_min(0)
    return positive / positive.max().clamp_min(torch.finfo(positive.dtype).tiny)


def softmax_cross_entropy_residual(logits: Tensor, weights: Tensor) -> Tensor:
    r"""Gradient with respect to the logits of :math:`-\sum_{n,c} q_{nc} \log \mathrm{softmax}(z)_{nc}`.

    :math:`r = (\sum_c q_{nc})\, p - q`. With :math:`q = \mathrm{onehot}(y) / B` this is :math:`(p -
    \mathrm{onehot}(y))/B`.

    Args:
        logits: z, (B, C, ...).
        weights: q, same shape, not differentiated.

    Returns:
        r, same shape; differentiable with respect to ``logits``.
    """
    return weights.sum(dim=1, keepdim=True) * torch.softmax(logits, dim=1) - weights


def output_weight_gradient(residual: Tensor, penultimate: Tensor) -> Tensor:
    r"""Gradient of the loss with respect to the weight of an affine output layer, in closed form.

    :math:`G = r^\top u` with :math:`r = \partial L / \partial z`. It is an ordinary differentiable tensor, so a loss on
    G needs no double backward. A 1x1 convolution is the same with pixels as rows.

    Args:
        residual: r, (B, C) or (B, C, *pixels).
        penultimate: u, (B, D) or (B, D, *pixels), the input of the output layer.

    Returns:
        G, (C, D).

    Example:
        >>> output_weight_gradient(torch.tensor([[1.0, -1.0]]), torch.tensor([[2.0, 3.0]]))
        tensor([[ 2.,  3.],
                [-2., -3.]])
    """
    if residual.shape[:1] != penultimate.shape[:1] or residual.shape[2:] != penultimate.shape[2:]:
        raise MethodError(
            "`residual`, `penultimate`: expected (B, C, ...) and (B, D, ...) with equal samples and pixels. "
            f"Found {tuple(residual.shape)} and {tuple(penultimate.shape)}."
        )
    if residual.ndim > 2:
        residual = residual.movedim(1, -1).flatten(0, -2)
        penultimate = penultimate.movedim(1, -1).flatten(0, -2)
    return residual.mT @ penultimate


def cosine_similarity(first: Tensor, second: Tensor) -> Tensor:
    """Cosine between two tensors taken as vectors; 0, with zero gradient, where one of them vanishes."""
    return _cosines(first.flatten(), second.flatten())


def _cosines(first: Tensor, second: Tensor) -> Tensor:
    """Cosines of the vectors along the last axis; 0, with zero gradient, where one of two vanishes."""
    least = math.sqrt(torch.finfo(first.dtype).tiny)
    value = nn.functional.cosine_similarity(first, second, dim=-1, eps=least)
    shorter = torch.minimum(*(torch.linalg.vector_norm(x.detach(), dim=-1) for x in (first, second)))
    return torch.where(shorter > least, value, 0)


def direction_loss(
    fused_gradient: Tensor | Sequence[Tensor], unimodal_gradients: Sequence[Tensor], balance: Tensor
) -> Tensor:
    r"""Loss that turns the fused gradient towards the lagging modalities ([Guo2024], equation 10).

    .. math:: L_{gm} = \frac1M \sum_m \left( |B_m| - B_m \cos(G, G_m) \right)

    Args:
        fused_gradient: G, (C, D), differentiable; or one block of it per modality.
        unimodal_gradients: G_m, one per modality, of the shape of G (or of its block); constants.
        balance: B, (M,); a constant.

    Returns:
        scalar; it lies in [0, 2 mean|B|].

    Example:
        >>> g = torch.eye(2)
        >>> direction_loss(g, [g, -g], torch.tensor([0.5, 0.5]))
        tensor(0.5000)
    """
    count = len(unimodal_gradients)
    fused = [fused_gradient] * count if isinstance(fused_gradient, Tensor) else list(fused_gradient)
    if balance.shape != (count,) or len(fused) != count:
        raise MethodError(
            f"`balance`: expected one entry per unimodal gradient ({count}). "
            f"Found {tuple(balance.shape)} and {len(fused)} fused gradients."
        )
    for number, (g, own) in enumerate(zip(fused, unimodal_gradients, strict=True)):
        if g.shape != own.shape:
            raise MethodError(
                f"`unimodal_gradients[{number}]`: expected the fused gradient's shape {tuple(g.shape)}. "
                f"Found {tuple(own.shape)}."
            )
    others = [own.detach() if own.requires_grad else own for own in unimodal_gradients]
    if len({g.numel() for g in others}) == 1:  # all cosines at once
        cosines = _cosines(torch.stack([g.flatten() for g in fused]), torch.stack([g.flatten() for g in others]))
    else:
        cosines = torch.stack([cosine_similarity(g, own) for g, own in zip(fused, others, strict=True)])
    weights = in_dtype(balance.detach(), cosines.dtype)
    return (weights.abs() - weights * cosines).mean()
