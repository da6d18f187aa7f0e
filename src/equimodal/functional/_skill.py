"""Fitted fusion: what each output is worth on held-out data, weights from it, and the pool of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from equimodal._utils.shapes import line_up

_LARGEST_SLOPE = 20.0  # of logits; what a temperature of 0.05 is
_LARGEST_OFFSET = 20.0  # of log odds, in nats


def skill(loss: float, constant_loss: float) -> float:
    r"""The share of the best constant's loss that a prediction saves: :math:`\max(0, 1 - L / L_0)`.

    Args:
        loss: L, of the prediction; not negative.
        constant_loss: :math:`L_0`, of the best constant on the same samples. Where it is 0 nothing can be saved, and
            the skill is 0.

    Returns:
        in [0, 1].

    Example:
        >>> skill(0.5, 2.0), skill(3.0, 2.0), skill(0.0, 0.0)
        (0.75, 0.0, 0.0)
    """
    if not constant_loss > 1e-12 or not math.isfinite(loss):
        return 0.0
    return min(1.0, max(0.0, 1 - loss / constant_loss))


def skill_weights(skills: Sequence[float], power: float = 4.0) -> list[float]:
    r""":math:`w_e = s_e^p / \sum_k s_k^p`; equal weights where every skill is 0.

    Args:
        skills: not negative, one per expert.
        power: p. 4 keeps experts near chance out of the pool (ours).

    Example:
        >>> skill_weights([0.5, 0.25, 0.0]), skill_weights([0.0, 0.0])
        ([0.9411764705882353, 0.058823529411764705, 0.0], [0.5, 0.5])
    """
    largest = max(skills, default=0.0)
    if not largest > 0:
        return [1 / len(skills)] * len(skills)
    raw = [(s / largest) ** power for s in skills]
    total = math.fsum(raw)
    return [r / total for r in raw]


def present_weights(
    weights: Mapping[str, float], present: Mapping[str, Tensor], dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    r"""Weights per sample over the experts that it has, :math:`w_e b_e / \sum_k w_k b_k`.

    Equal weights over the experts present where all of these weigh nothing.

    Args:
        weights: expert -> weight, not negative.
        present: expert -> (B,) booleans b.
        dtype: of the result.

    Returns:
        expert -> (B,), summing to 1 (to 0 for a sample without any expert).

    Example:
        >>> b = {"x": torch.tensor([True, True]), "y": torch.tensor([True, False])}
        >>> {e: w.tolist() for e, w in present_weights({"x": 0.25, "y": 0.75}, b).items()}
        {'x': [0.25, 1.0], 'y': [0.75, 0.0]}
    """
    masks = torch.stack([present[e] for e in weights]).to(dtype)
    raw = torch.stack([masks[i] * w for i, w in enumerate(weights.values())])
    raw = torch.where(raw.sum(0) > 0, raw, masks)
    total = raw.sum(0)
    shares = raw / torch.where(total > 0, total, 1)
    return dict(zip(weights, shares.unbind(0), strict=True))


def weighted_sum(values: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Tensor:
    r""":math:`\sum_e w_e c_e` over the entries with a weight above 0; content that weighs nothing is not read.

    Args:
        values: expert -> (B, C, ...).
        weights: expert -> (B,).

    Example:
        >>> values = {"x": torch.tensor([[1.0, 3.0]]), "y": torch.tensor([[float("nan"), 0.0]])}
        >>> weighted_sum(values, {"x": torch.tensor([1.0]), "y": torch.tensor([0.0])})
        tensor([[1., 3.]])
    """
    parts = []
    for expert, value in values.items():
        w = line_up(weights[expert], value).to(value.dtype)
        parts.append(w * torch.where(w > 0, value, torch.zeros((), dtype=value.dtype, device=value.device)))
    return torch.stack(parts).sum(0)


# ---- classes and labels ----------------------------------------------------------------------------------------------


def constant_cross_entropy(q: Tensor) -> float:
    r"""Cross-entropy of the best constant prediction, the frequencies :math:`\bar q` of the targets.

    :math:`-\sum_c \bar q_c \log(\bar q_c / \sum_k \bar q_k) / \sum_c \bar q_c`; summed over further axes.

    Args:
        q: (N, ..., C) weights of the classes in each sample, not negative: one-hot labels times their class weight, or
            probabilities.

    Example:
        >>> round(constant_cross_entropy(torch.eye(2)), 4)  # log 2
        0.6931
    """
    mean = q.double().sum(0)
    share = mean / mean.sum(-1, keepdim=True).clamp_min(torch.finfo(mean.dtype).tiny)
    loss = -torch.where(mean > 0, mean * share.clamp_min(1e-300).log(), 0.0).sum()
    total = mean.sum()
    return float(loss / total) if float(total) > 0 else 0.0


def cross_entropy_at(logits: Tensor, q: Tensor, slope: float = 1.0) -> float:
    r""":math:`-\sum_i \sum_c q_{ic} \log\mathrm{softmax}(\beta z_i)_c / \sum_{ic} q_{ic}`.

    Args:
        logits: (N, ..., C).
        q: the same shape, as of :func:`constant_cross_entropy`.
        slope: :math:`\beta`.

    Example:
        >>> round(cross_entropy_at(torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]])), 4)  # log 2
        0.6931
    """
    q = q.double()
    total = q.sum()
    loss = -(q * torch.log_softmax(slope * logits.double(), dim=-1)).sum()
    return float(loss / total) if float(total) > 0 else 0.0


def fit_slope(logits: Tensor, q: Tensor, prior: float = 0.0, iterations: int = 60) -> float:
    r"""The factor on the logits with the lowest cross-entropy, held near 1 by a prior.

    .. math:: \beta = \arg\min_{0 \le \beta \le 20}\;
        \frac{-\sum_{ic} q_{ic} \log\mathrm{softmax}(\beta z_i)_c}{\sum_{ic} q_{ic}} + \frac{\lambda}{2N} (\beta - 1)^2

    Convex; Newton steps, halved until they descend. Without a prior :math:`1/\beta` is the temperature of [Guo2017].

    Args:
        logits: (N, ..., C).
        q: the same shape, as of :func:`constant_cross_entropy`.
        prior: :math:`\lambda`, in samples.
        iterations: upper bound of Newton steps.

    Example:
        >>> z = torch.tensor([[2.0, 0.0]] * 4)
        >>> q = torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 1.0]])
        >>> round(fit_slope(z, q), 4)  # log(3) / 2
        0.5493
    """
    count = max(1, logits.shape[0])
    z, q = logits.detach().double().flatten(0, -2), q.double().flatten(0, -2)
    mass = q.sum(1)
    total = float(mass.sum())
    if not total > 0:
        return 1.0
    z = z - z.amax(1, keepdim=True)
    true = (q * z).sum(1)

    def objective(beta: float) -> float:
        fit = float((mass * torch.logsumexp(beta * z, dim=1) - beta * true).sum()) / total
        return fit + prior / (2 * count) * (beta - 1) ** 2

    beta, here = 1.0, objective(1.0)
    for _ in range(iterations):
        p = torch.softmax(beta * z, dim=1)
        mean = (p * z).sum(1)
        slope = float((mass * mean - true).sum()) / total + prior / count * (beta - 1)
        spread = float((mass * ((p * z.square()).sum(1) - mean.square())).sum()) / total
        step, new, there = slope / max(spread + prior / count, 1e-12), beta, here
        for _ in range(50):
            new = min(_LARGEST_SLOPE, max(0.0, beta - step))
            there = objective(new)
            if there <= here:
                break
            step /= 2
        else:
            return beta
        moved, beta, here = abs(new - beta), new, there
        if moved <= 1e-12:
            break
    return beta


# ---- numbers ---------------------------------------------------------------------------------------------------------


def fit_offset(values: Tensor, target: Tensor) -> Tensor:
    r""":math:`b = \frac1N \sum_i (y_i - f_i)` for every number, in float64.

    Args:
        values: f, (N, D).
        target: y, (N, D).

    Example:
        >>> fit_offset(torch.tensor([[1.0], [2.0]]), torch.tensor([[1.5], [3.5]]))
        tensor([1.], dtype=torch.float64)
    """
    return (target.double() - values.double()).mean(0)


def unexplained_share(values: Tensor, target: Tensor) -> float:
    r"""Mean over the numbers of squared error / variance of the target, :math:`1 - R^2`.

    Numbers that do not vary are left out; 1 where none does.

    Args:
        values: f, (N, D).
        target: y, (N, D).

    Example:
        >>> unexplained_share(torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [2.0]]))
        0.5
    """
    y = target.double()
    variance = (y - y.mean(0)).square().mean(0)
    error = (y - values.double()).square().mean(0)
    varies = variance > 1e-12 * (1 + y.square().mean(0))
    if not bool(varies.any()):
        return 1.0
    return float((error[varies] / variance[varies]).mean())


def pool_gaussians(outputs: Mapping[str, Tensor], weights: Mapping[str, Tensor], bound: float = 14.0) -> Tensor:
    r"""One Gaussian with the moments of the weighted mixture.

    :math:`\mu = \sum_e w_e \mu_e`, :math:`\sigma^2 = \sum_e w_e (\sigma_e^2 + (\mu_e - \mu)^2)`.

    Args:
        outputs: expert -> (B, 2 D): D means, then D log-variances, which are clamped to [-bound, bound].
        weights: expert -> (B,), summing to 1; content that weighs nothing is not read.
        bound: as of :func:`gaussian_nll`.

    Returns:
        (B, 2 D).

    Example:
        >>> z, w = {"a": torch.tensor([[0.0, 0.0]]), "b": torch.tensor([[2.0, 0.0]])}, torch.tensor([0.5])
        >>> mean, s = pool_gaussians(z, {"a": w, "b": w})[0].tolist()
        >>> mean, round(s, 4)  # variance 2
        (1.0, 0.6931)
    """
    means, logs = {}, {}
    for expert, z in outputs.items():
        means[expert], s = z.chunk(2, dim=1)
        logs[expert] = s.clamp(-bound, bound)
    mean = weighted_sum(means, weights)
    spread = {e: torch.exp(s) + (means[e] - mean).square() for e, s in logs.items()}
    return torch.cat([mean, weighted_sum(spread, weights).clamp_min(math.exp(-bound)).log()], dim=1)


# ---- pixels ----------------------------------------------------------------------------------------------------------


def fit_scale_and_offsets(
    scores: Tensor,
    loss: Callable[[Tensor], Tensor],
    start: tuple[float, Sequence[float]] | None = None,
    *,
    constant: bool = False,
) -> tuple[float, list[float], float]:
    r"""One scale and one offset per class with the lowest loss, whatever the loss is.

    :math:`c = a s + b`, :math:`a \ge 0` (at most 20), :math:`b_0 = 0`, the others within 20 nats: for two classes
    the scale and the offset of the log odds. Found by quasi-Newton steps (L-BFGS) in float64 from a = 1, b = 0, or from
    ``start``; never worse than where it starts.

    Args:
        scores: s, (N, C, ...) logarithms of probabilities, or logits.
        loss: of (N, C, ...) logits, a differentiable scalar.
        start: a and b of a fit on similar data.
        constant: a = 0: the best constant.

    Returns:
        a, the C offsets, and the loss there.

    Example:
        >>> z, y = torch.tensor([[2.0, 0.0]] * 4).double(), torch.tensor([0, 0, 0, 1])
        >>> a, b, value = fit_scale_and_offsets(z, lambda c: torch.nn.functional.cross_entropy(c, y))
        >>> p = torch.softmax(a * z + torch.tensor(b).double(), 1)[0]
        >>> [round(x, 3) for x in p.tolist()]
        [0.75, 0.25]
    """
    classes = scores.shape[1]
    a, b = start if start is not None else (1.0, [0.0] * classes)
    share = min(max(a / _LARGEST_SLOPE, 1e-6), 1 - 1e-6)
    bent = [math.atanh(min(max(v / _LARGEST_OFFSET, -0.999999), 0.999999)) for v in b[1:]]
    free = torch.tensor([math.log(share / (1 - share)), *bent], dtype=scores.dtype, device=scores.device)
    scores = scores.detach()

    def parts(x: Tensor) -> tuple[Tensor, Tensor]:
        scale = torch.zeros_like(x[0]) if constant else _LARGEST_SLOPE * torch.sigmoid(x[0])
        return scale, torch.cat([torch.zeros_like(x[:1]), _LARGEST_OFFSET * torch.tanh(x[1:])])

    def value(x: Tensor) -> Tensor:
        scale, offset = parts(x)
        return loss(scale * scores + offset.reshape(1, -1, *[1] * (scores.ndim - 2)))

    best = _minimised(value, free)
    scale, offset = parts(best)
    with torch.no_grad():
        return float(scale), [float(v) for v in offset], float(value(best))


def _minimised(value: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    x = start.clone().requires_grad_(True)
    optimizer: Any = torch.optim.LBFGS(
        [x], max_iter=40, tolerance_grad=1e-7, tolerance_change=1e-9, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        result = value(x)
        (x.grad,) = torch.autograd.grad(result, x)
        return result.detach()

    with torch.enable_grad():
        optimizer.step(closure)
    found = x.detach()
    with torch.no_grad():  # a line search may end on a kink
        improved = bool(torch.isfinite(found).all()) and float(value(found)) <= float(value(start))
    return found if improved else start
