"""Subjective opinions: evidence for classes, Dempster's rule, and the loss that makes outputs evidence."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from equimodal._utils.shapes import line_up
from equimodal.errors import MethodError


def evidence(output: Tensor) -> Tensor:
    r""":math:`e = \log(1 + e^{z})`, the evidence for each class ([Han2021]), in float32 at least.

    The Dirichlet distribution of it has :math:`\alpha = e + 1`; with :math:`S = \sum_k \alpha_k` the belief in class k
    is :math:`b_k = e_k / S`, and the uncertainty :math:`u = C / S`.

    Args:
        output: z, (B, C, ...); classes on axis 1.

    Returns:
        e, (B, C, ...), above 0.
    """
    return torch.nn.functional.softplus(output if output.dtype == torch.float64 else output.float())


def combined_opinion(
    evidences: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    r"""Evidence and uncertainty after Dempster's rule over all modalities ([Han2021]).

    For two opinions :math:`b_k = (b^1_k b^2_k + b^1_k u^2 + b^2_k u^1)/(1-\kappa)` and
    :math:`u = u^1 u^2/(1-\kappa)`, with the conflict :math:`\kappa`. In evidence, :math:`e = b\,C/u`, this is

    .. math:: 1 + \frac{e_k}{C} = \prod_m \left(1 + \frac{e^m_k}{C}\right)

    for any number of opinions in any order, without a division by :math:`1 - \kappa`. It is returned as logarithm,
    which cannot overflow. An opinion without evidence changes nothing, and that is what an absent modality has.

    Args:
        evidences: modality -> e, (B, C, ...), at least 0.
        present: modality -> boolean (B,); the content of absent rows is not read.

    Returns:
        :math:`\log(1 + e_k/C)`, (B, C, ...), and u, (B, ...), in (0, 1].

    Raises:
        MethodError: there is no modality.

    Example:
        >>> one = {"a": torch.tensor([[2.0, 0.0]]), "b": torch.tensor([[4.0, 0.0]])}
        >>> 2 * torch.expm1(combined_opinion(one)[0])  # 2 (2 * 3 - 1)
        tensor([[10.,  0.]])
    """
    total: Tensor | None = None
    for modality, e in evidences.items():
        mask = None if present is None else present.get(modality)
        kept = e if mask is None else torch.where(line_up(mask, e), e, torch.zeros_like(e))
        level = torch.log1p(kept / e.shape[1])
        total = level if total is None else total + level
    if total is None:
        raise MethodError("`evidences`: expected at least one modality. Found none.")
    return total, torch.exp(-torch.logsumexp(dirichlet_logarithms(total), 1)) * total.shape[1]


def dirichlet_logarithms(level: Tensor) -> Tensor:
    r""":math:`\log \alpha_k` with :math:`\alpha_k = 1 + C (e^{\ell_k} - 1)`, from :func:`combined_opinion`.

    Its softmax over the classes is the expected probability :math:`\alpha_k / S`.

    Args:
        level: :math:`\ell = \log(1 + e_k/C)`, (B, C, ...), at least 0.

    Returns:
        (B, C, ...), at least 0.

    Example:
        >>> dirichlet_logarithms(torch.log1p(torch.tensor([[10.0, 0.0]]) / 2)).softmax(1)
        tensor([[0.9167, 0.0833]])
    """
    classes = level.shape[1]
    shrunk = torch.log1p(-(classes - 1) / classes * torch.exp(-level))
    return level + shrunk - torch.log1p(torch.as_tensor(-(classes - 1) / classes, dtype=level.dtype))


def evidential_loss(alpha: Tensor, target: Tensor, strength: float) -> Tensor:
    r"""Expected cross-entropy of a Dirichlet distribution, and its divergence from the uniform one ([Han2021]).

    .. math:: \sum_k y_k \left(\psi(S) - \psi(\alpha_k)\right)
        + \lambda\, \mathrm{KL}\left(\mathrm{Dir}(\tilde\alpha)\,\|\,\mathrm{Dir}(1)\right),
        \qquad \tilde\alpha = y + (1 - y) \alpha

    The second term takes evidence for wrong classes away.

    Args:
        alpha: :math:`\alpha`, (n, C), at least 1.
        target: (n,) classes, or (n, C) probabilities y.
        strength: :math:`\lambda`, in [0, 1].

    Returns:
        (n,), in nats, float32 at least.

    Example:
        >>> evidential_loss(torch.tensor([[1.0, 1.0]]), torch.tensor([0]), 1.0).round(decimals=4)  # psi(2) - psi(1)
        tensor([1.])
    """
    alpha = alpha if alpha.dtype == torch.float64 else alpha.float()
    classes = alpha.shape[1]
    y = target.to(alpha.dtype) if target.is_floating_point() else torch.nn.functional.one_hot(target.long(), classes)
    y = y.to(alpha.dtype)
    total = alpha.sum(1, keepdim=True)
    expected = (y * (torch.digamma(total) - torch.digamma(alpha))).sum(1)
    wrong = y + (1 - y) * alpha
    whole = wrong.sum(1, keepdim=True)
    divergence = torch.lgamma(whole[:, 0]) - torch.lgamma(torch.full_like(whole[:, 0], float(classes)))
    divergence = divergence - torch.lgamma(wrong).sum(1)
    divergence = divergence + ((wrong - 1) * (torch.digamma(wrong) - torch.digamma(whole))).sum(1)
    return expected + strength * divergence
