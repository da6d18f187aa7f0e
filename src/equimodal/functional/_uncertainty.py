"""Uncertainty per sample, weights from it, fusion of unimodal predictions, temperatures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from equimodal._utils.shapes import line_up
from equimodal.errors import MethodError, did_you_mean

Measure = Literal["entropy", "max_probability", "margin", "energy"]
MEASURES: tuple[str, ...] = get_args(Measure)


def _probability_dtype(tensor: Tensor) -> torch.dtype:
    return tensor.dtype if tensor.dtype == torch.float64 else torch.float32


def entropy(logits: Tensor) -> Tensor:
    r"""Shannon entropy of softmax(logits) per sample, in nats ([Zhang2024], equation 7).

    :math:`e = -\sum_c p_c \log p_c`. Classes with :math:`p_c = 0` contribute 0.

    Args:
        logits: (B, C) or (B, C, ...); classes on axis 1.

    Returns:
        (B,) or (B, ...), between 0 and log C, in float32 at least.

    Example:
        >>> entropy(torch.zeros(1, 4)).exp()
        tensor([4.])
    """
    log_p = torch.log_softmax(logits.to(_probability_dtype(logits)), dim=1)
    p = log_p.exp()
    return -torch.where(p > 0, p * log_p, torch.zeros_like(p)).sum(dim=1)


def uncertainty(logits: Tensor, measure: Measure = "entropy") -> Tensor:
    r"""Uncertainty of softmax(logits) per sample; a smaller number is a more certain prediction.

    ``entropy`` (:func:`entropy`), ``max_probability`` :math:`1 - \max_c p_c`, ``margin`` :math:`1 - (p_{(1)} -
    p_{(2)})`,
    ``energy`` :math:`-\log \sum_c e^{z_c}`.

    Args:
        logits: (B, C, ...).
        measure: one of :data:`MEASURES`. MLA uses the entropy.

    Returns:
        (B, ...).
    """
    z = logits.to(_probability_dtype(logits))
    if measure == "entropy":
        return entropy(z)
    if measure == "max_probability":
        return 1 - torch.softmax(z, dim=1).amax(dim=1)
    if measure == "margin":
        top = torch.softmax(z, dim=1).topk(2, dim=1).values
        return 1 - (top.select(1, 0) - top.select(1, 1))
    if measure == "energy":
        return -torch.logsumexp(z, dim=1)
    raise MethodError(
        f"`measure`: expected one of {', '.join(MEASURES)}. Found {measure!r}.{did_you_mean(measure, MEASURES)}"
    )


def uncertainty_weights(
    logits: Mapping[str, Tensor],
    present: Mapping[str, Tensor] | None = None,
    measure: Measure = "entropy",
    temperature: Mapping[str, Tensor | float] | None = None,
) -> dict[str, Tensor]:
    r"""Weight of each modality, per sample, from how certain its prediction is ([Zhang2024], equations 7 and 8).

    .. math:: w_m = \frac{\exp(\max_k e_k - e_m)}{\sum_j \exp(\max_k e_k - e_j)} = \mathrm{softmax}_m(-e_m)

    Args:
        logits: modality -> (B, C, ...).
        present: modality -> boolean (B,). An absent modality gets weight 0, the others are renormalised, and the
            content of absent rows is not read.
        measure: what ``e`` is, see :func:`uncertainty`.
        temperature: modality -> positive number by which its logits are divided before ``e`` is computed.

    Returns:
        modality -> (B, ...), non-negative, summing to 1 over the modalities of each sample.

    Example:
        >>> w = uncertainty_weights({"a": torch.tensor([[9.0, 0.0]]), "b": torch.zeros(1, 2)})
        >>> {m: round(float(v), 3) for m, v in w.items()}
        {'a': 0.666, 'b': 0.334}
    """
    scores = []
    for modality, z in logits.items():
        z = z.to(_probability_dtype(z))
        mask = _row_mask(present, modality, z)
        if mask is not None:
            z = torch.where(mask, z, torch.zeros_like(z))
        if temperature is not None and modality in temperature:
            z = z / temperature[modality]
        score = -uncertainty(z, measure)
        if mask is not None:
            score = score.masked_fill(~mask.select(1, 0), -torch.inf)
        scores.append(score)
    weights = torch.softmax(torch.stack(scores), dim=0)
    return dict(zip(logits, weights.unbind(0), strict=True))


def product_weights(logits: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Equal weights over the modalities that a sample has: (B,) each, summing to 1.

    They make ``fuse(..., space="probability")`` the plain mean and ``fuse(..., space="log_probability")`` the
    log-opinion pool.
    """
    masks = {}
    for modality, z in logits.items():
        mask = None if present is None else present.get(modality)
        masks[modality] = (
            torch.ones(z.shape[0], dtype=_probability_dtype(z), device=z.device)
            if mask is None
            else mask.to(_probability_dtype(z))
        )
    total = torch.stack(list(masks.values())).sum(0)
    return {m: mask / total for m, mask in masks.items()}


def fuse(
    logits: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    space: Literal["probability", "log_probability", "logit"] = "probability",
) -> Tensor:
    r"""Weighted fusion of unimodal predictions ([Zhang2024], equation 9).

    ``probability``: :math:`\sum_m w_m\, \mathrm{softmax}(z_m)`, a probability; ``log_probability`` (log-opinion pool):
    :math:`\mathrm{softmax}\left(\sum_m w_m \log\mathrm{softmax}(z_m)\right)`, a probability; ``logit``:
    :math:`\sum_m w_m z_m`, a logit. Rows with weight 0 are not read, so absent content may be NaN.

    Args:
        logits: modality -> (B, C, ...).
        weights: modality -> (B,) or (B, ...), as of :func:`uncertainty_weights`.
        space: where the sum is taken.

    Returns:
        (B, C, ...).

    Example:
        >>> z = {"a": torch.tensor([[0.0, 0.0]]), "b": torch.tensor([[100.0, 0.0]])}
        >>> fuse(z, {"a": torch.tensor([0.5]), "b": torch.tensor([0.5])})
        tensor([[0.7500, 0.2500]])
    """
    total: Tensor | None = None
    for modality, z in logits.items():
        w = line_up(weights[modality].unsqueeze(1), z)
        z = torch.where(
            w > 0, z.to(_probability_dtype(z)), torch.zeros((), device=z.device, dtype=_probability_dtype(z))
        )
        if space == "probability":
            value = torch.softmax(z, dim=1)
        elif space == "log_probability":
            value = torch.log_softmax(z, dim=1)
        elif space == "logit":
            value = z
        else:
            raise MethodError(f"`space`: expected probability, log_probability or logit. Found {space!r}.")
        total = w * value if total is None else total + w * value
    if total is None:
        raise MethodError("`logits`: expected at least one modality. Found none.")
    return torch.softmax(total, dim=1) if space == "log_probability" else total


def fit_temperature(
    logits: Tensor, target: Tensor, bounds: tuple[float, float] = (0.05, 20.0), iterations: int = 50
) -> Tensor:
    r"""The temperature that minimises the cross-entropy of softmax(logits / T) ([Guo2017]).

    The cross-entropy is convex in :math:`\beta = 1/T`, so Newton steps on :math:`\beta`, halved until they descend,
    converge to the one minimum; it is then clipped to ``bounds``.

    Args:
        logits: (N, C) of held-out samples.
        target: (N,) class indices, or (N, C) class probabilities in floating point.
        bounds: smallest and largest temperature.
        iterations: upper bound of Newton steps.

    Returns:
        scalar tensor.

    Example:
        >>> z = torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [2.0, 0.0]])
        >>> round(float(fit_temperature(z, torch.tensor([0, 0, 0, 1]))), 3)   # 2 / log 3
        1.82
    """
    z = logits.detach().double()
    soft = target.is_floating_point() and target.shape == z.shape
    if z.ndim != 2 or not (soft or target.shape == z.shape[:1]) or z.shape[0] == 0:
        raise MethodError(
            "`logits`: expected (N, C) with N >= 1 and `target` (N,), or (N, C) probabilities. "
            f"Found {tuple(logits.shape)} and {tuple(target.shape)}."
        )
    z = z - z.mean(dim=1, keepdim=True)
    true = (target * z).sum(1) if soft else z.gather(1, target[:, None].long())[:, 0]
    low, high = 1 / bounds[1], 1 / bounds[0]

    def objective(beta: Tensor) -> Tensor:
        return (torch.logsumexp(beta * z, dim=1) - beta * true).mean()

    beta = z.new_ones(()).clamp(low, high)
    for _ in range(iterations):
        p = torch.softmax(beta * z, dim=1)
        mean = (p * z).sum(1)
        slope = (mean - true).mean()
        curvature = ((p * z.square()).sum(1) - mean.square()).mean().clamp_min(1e-12)
        here, step, new = objective(beta), slope / curvature, beta
        for _ in range(40):
            new = (beta - step).clamp(low, high)
            if objective(new) <= here:
                break
            step = step / 2
        if (new - beta).abs() <= 1e-10 * beta:
            break
        beta = new
    return (1 / beta).to(_probability_dtype(logits))


def _row_mask(present: Mapping[str, Tensor] | None, modality: str, z: Tensor) -> Tensor | None:
    mask = None if present is None else present.get(modality)
    return None if mask is None else line_up(mask, z).expand_as(z)
