"""The library's own rules: which outputs allow which, and what they compute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from equimodal._utils.shapes import line_up
from equimodal.errors import MethodError, UnsupportedError, did_you_mean
from equimodal.functional import (
    MEASURES,
    Measure,
    binary_uncertainty,
    fuse,
    fuse_binary,
    fuse_gaussians,
    fuse_numbers,
    product_weights,
    softmin_weights,
    uncertainty_weights,
)
from equimodal.tasks import Distribution

RuleName = Literal["fused", "mean", "uncertainty", "product", "precision", "skill", "auto"]
RULES: tuple[str, ...] = get_args(RuleName)
"""Names of the library's own rules."""

_RULES_OF: dict[Distribution, tuple[str, ...]] = {
    "categorical": ("fused", "mean", "uncertainty", "product", "skill"),
    "bernoulli": ("fused", "mean", "uncertainty", "product", "skill"),
    "gaussian": ("fused", "mean", "uncertainty", "precision", "skill"),
    "point": ("fused", "mean", "skill"),
}
ALONE = "alone:"
"""Prefix of the rules that read one modality: ``alone:audio``."""
NO_VARIANCE = "a plain number does not say how certain it is. Use mean, or train Regression(loss='gaussian_nll')"
_WHY_NOT: dict[tuple[Distribution, str], str] = {
    ("categorical", "precision"): "class probabilities have no variance to weigh by. Use uncertainty",
    ("bernoulli", "precision"): "label probabilities have no variance to weigh by. Use uncertainty",
    ("gaussian", "product"): "the product of Gaussians is what 'precision' computes. Use precision",
    ("point", "uncertainty"): NO_VARIANCE,
    ("point", "precision"): NO_VARIANCE,
    ("point", "product"): "plain numbers are no probabilities that could be multiplied. Use mean",
}
MEASURES_OF: dict[Distribution, tuple[str, ...]] = {
    "categorical": MEASURES,
    "bernoulli": ("entropy", "max_probability", "margin"),
    "gaussian": ("entropy",),
    "point": ("entropy",),
}
"""Uncertainty measures that outputs of each kind allow."""


def rules_for(distribution: Distribution) -> tuple[str, ...]:
    """The concrete rules that outputs of this kind allow.

    Example:
        >>> rules_for("point")
        ('fused', 'mean', 'skill')
    """
    return _RULES_OF[distribution]


def check_rule(rule: str, distribution: Distribution) -> None:
    """Refuse a rule that outputs of this kind do not allow.

    Raises:
        MethodError: no rule has this name.
        UnsupportedError: the rule needs something that such outputs do not have.
    """
    if rule not in RULES:
        raise MethodError(
            f"`inference`: expected one of {', '.join(RULES)}. Found {rule!r}.{did_you_mean(rule, RULES)}"
        )
    if rule != "auto" and rule not in _RULES_OF[distribution]:
        raise UnsupportedError(f"`inference`: {rule!r} cannot be used with this task: {_WHY_NOT[distribution, rule]}.")


def apply_rule(
    rule: str,
    unimodal: Mapping[str, Tensor],
    present: Mapping[str, Tensor] | None,
    measure: Measure = "entropy",
    distribution: Distribution = "categorical",
) -> tuple[Tensor, dict[str, Tensor]]:
    """Output (B, C, ...) and weights per modality of one concrete rule that is not fitted.

    Raises:
        UnsupportedError: outputs of this kind do not allow the rule, or it is fitted first.
    """
    check_rule(rule, distribution)
    if rule == "skill":
        raise UnsupportedError(
            "`rule`: 'skill' is fitted on validation data first. Use an Inference, whose `fit` does it."
        )
    if distribution == "gaussian":
        return fuse_gaussians(unimodal, present, cast(Literal["mean", "uncertainty", "precision"], rule))
    if distribution == "point":
        weights = product_weights(unimodal, present)
        return fuse_numbers(unimodal, weights), weights
    if distribution == "bernoulli":
        return _fuse_labels(rule, unimodal, present, measure)
    if rule == "uncertainty":
        weights = uncertainty_weights(unimodal, present, measure)
    else:
        weights = product_weights(unimodal, present)
    probability = fuse(unimodal, weights, "log_probability" if rule == "product" else "probability")
    return probability.clamp_min(torch.finfo(probability.dtype).tiny).log(), weights


def _fuse_labels(
    rule: str, unimodal: Mapping[str, Tensor], present: Mapping[str, Tensor] | None, measure: Measure
) -> tuple[Tensor, dict[str, Tensor]]:
    weights = product_weights(unimodal, present)
    if rule == "uncertainty":
        read = {m: torch.where(line_up(weights[m] > 0, z), z, 0) for m, z in unimodal.items()}
        weights = softmin_weights({m: binary_uncertainty(z, measure) for m, z in read.items()}, present)
    return fuse_binary(unimodal, weights, "log_probability" if rule == "product" else "probability"), weights
