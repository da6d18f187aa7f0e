"""From unimodal and fused outputs to one prediction: mean, uncertainty or precision weights, product, or joint head."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from equimodal._utils.arguments import one_of
from equimodal._utils.shapes import line_up
from equimodal.errors import MethodError, UnsupportedError
from equimodal.functional import (
    MEASURES,
    Measure,
    binary_uncertainty,
    fit_gaussian_scale,
    fit_temperature,
    fuse,
    fuse_binary,
    fuse_gaussians,
    fuse_numbers,
    product_weights,
    softmin_weights,
    uncertainty_weights,
)
from equimodal.tasks import Distribution, Task, score

Rule = Literal["fused", "mean", "uncertainty", "product", "precision", "auto"]
RULES: tuple[str, ...] = get_args(Rule)

_RULES_OF: dict[Distribution, tuple[str, ...]] = {
    "categorical": ("fused", "mean", "uncertainty", "product"),
    "bernoulli": ("fused", "mean", "uncertainty", "product"),
    "gaussian": ("fused", "mean", "uncertainty", "precision"),
    "point": ("fused", "mean"),
}
_NO_VARIANCE = "a plain number does not say how certain it is. Use mean, or train Regression(loss='gaussian_nll')"
_WHY_NOT: dict[tuple[Distribution, str], str] = {
    ("categorical", "precision"): "class probabilities have no variance to weigh by. Use uncertainty",
    ("bernoulli", "precision"): "label probabilities have no variance to weigh by. Use uncertainty",
    ("gaussian", "product"): "the product of Gaussians is what 'precision' computes. Use precision",
    ("point", "uncertainty"): _NO_VARIANCE,
    ("point", "precision"): _NO_VARIANCE,
    ("point", "product"): "plain numbers are no probabilities that could be multiplied. Use mean",
}
MEASURES_OF: dict[Distribution, tuple[str, ...]] = {
    "categorical": MEASURES,
    "bernoulli": ("entropy", "max_probability", "margin"),
    "gaussian": ("entropy",),
    "point": ("entropy",),
}
"""Uncertainty measures that outputs of each kind allow."""
_MOST_PIXELS = 1 << 18  # a temperature is one number: more pixels than this are thinned out


def rules_for(distribution: Distribution) -> tuple[str, ...]:
    """The concrete rules that outputs of this kind allow, in the order in which ``auto`` tries them.

    Example:
        >>> rules_for("point")
        ('fused', 'mean')
    """
    return _RULES_OF[distribution]


def check_rule(rule: str, distribution: Distribution) -> None:
    """Refuse a rule that outputs of this kind do not allow.

    Raises:
        MethodError: no rule has this name.
        UnsupportedError: the rule needs something that such outputs do not have.
    """
    if rule not in RULES:
        raise MethodError(f"`inference`: expected one of {', '.join(RULES)}. Found {rule!r}.")
    if rule != "auto" and rule not in _RULES_OF[distribution]:
        raise UnsupportedError(f"`inference`: {rule!r} cannot be used with this task: {_WHY_NOT[distribution, rule]}.")


@dataclass(frozen=True)
class Prediction:
    """What :meth:`Method.predict` returns.

    Args:
        output: (B, C, ...) output of the prediction, as the task reads it; ``task.probabilities(output)`` is what it
            says. Where a rule averages probabilities, these are their logarithms (or logits, for labels).
        unimodal: modality -> (B, C, ...) output of that modality alone, after its temperature; zero (no opinion) in
            rows that do not have it. Empty for a method without unimodal outputs.
        weights: modality -> weight in the prediction, (B,), or per pixel, label or number where the rule weighs them
            apart; empty where the joint head decided.
        rule: the inference rule that was used.
        distribution: what ``output`` is.
    """

    output: Tensor
    unimodal: Mapping[str, Tensor]
    weights: Mapping[str, Tensor]
    rule: str
    distribution: Distribution = "categorical"

    @property
    def probabilities(self) -> Tensor:
        """softmax(output) over the classes, or the sigmoid of every label.

        Raises:
            UnsupportedError: a regression, which predicts numbers: ``task.probabilities(output)`` has them.
        """
        if self.distribution == "categorical":
            return torch.softmax(self.output, dim=1)
        if self.distribution == "bernoulli":
            return torch.sigmoid(self.output)
        raise UnsupportedError(
            "`probabilities`: a regression predicts numbers. Read them with method.task.probabilities(output)."
        )


class Inference(nn.Module):
    r"""Inference rule with an optional temperature per modality; both are part of the checkpoint.

    * ``fused``: the joint head's output.
    * ``mean``: :math:`\frac1M \sum_m p_m`.
    * ``uncertainty``: MLA's per-sample weights from the entropy, or another ``measure``.
    * ``product``: log-opinion pool, softmax of the mean of :math:`\log p_m`.
    * ``precision``: weights :math:`1/\sigma_m^2`, for Gaussian regression.
    * ``auto``: the rule, with or without temperatures, that scores best on validation data
      (:meth:`Method.fit_inference`); ties go to the lower loss. Before it is fitted it behaves like ``mean``, or like
      ``fused`` where a joint head exists.

    Absent modalities are left out and the others renormalised, per sample. Segmentations are weighed pixel by pixel,
    labels and numbers one by one.

    Args:
        modalities: names, in the order of the temperature buffer.
        rule: one of the above.
        calibrated: divide each modality's logits by a temperature fitted on validation data (for Gaussian regression:
            multiply its standard deviations by it); with ``auto`` both ways are tried whatever this says.
        measure: uncertainty measure of the ``uncertainty`` rule.
        distribution: what an output is, see :func:`~equimodal.tasks.distribution_of`.

    Raises:
        MethodError: an argument is none of its choices.
        UnsupportedError: such outputs do not allow the rule, the measure or a temperature.
    """

    temperature: Tensor

    def __init__(
        self,
        modalities: Sequence[str],
        rule: Rule = "mean",
        *,
        calibrated: bool = False,
        measure: Measure = "entropy",
        distribution: Distribution = "categorical",
    ) -> None:
        super().__init__()
        check_rule(rule, distribution)
        one_of("calibrated", calibrated, (True, False))
        if measure not in MEASURES:
            raise MethodError(f"`measure`: expected one of {', '.join(MEASURES)}. Found {measure!r}.")
        if measure not in MEASURES_OF[distribution]:
            raise UnsupportedError(
                f"`measure`: {measure!r} needs class probabilities. For this task use "
                f"{' or '.join(MEASURES_OF[distribution])}."
            )
        if calibrated and distribution == "point":
            raise UnsupportedError(f"`calibrated`: there is nothing to calibrate, {_NO_VARIANCE}.")
        self.modalities = tuple(modalities)
        self.rule = rule
        self.calibrated = calibrated
        self.measure: Measure = measure
        self.distribution: Distribution = distribution
        self.register_buffer("temperature", torch.ones(len(self.modalities)))
        # what `auto` chose, kept on the host as text through the extra state
        self._chosen: str | None = None

    def extra_repr(self) -> str:
        """Arguments, for ``repr``."""
        return f"rule={self.rule!r}, calibrated={self.calibrated}, measure={self.measure!r}"

    def get_extra_state(self) -> dict[str, Any]:
        """What ``auto`` chose."""
        return {"chosen": self._chosen}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`get_extra_state` gave."""
        self._chosen = state["chosen"]

    def resolve(self, has_fused: bool, has_unimodal: bool) -> str:
        """The concrete rule in force, given what the method offers."""
        rule = self.rule
        if rule == "auto":
            rule = self._chosen or ("fused" if has_fused else "mean")  # type: ignore[assignment]
        if rule == "fused" and not has_fused:
            raise UnsupportedError(
                "`inference`: 'fused' needs a joint head, which this method does not train. Use mean."
            )
        if rule != "fused" and not has_unimodal:
            raise UnsupportedError(
                f"`inference`: {rule!r} needs unimodal outputs, which this method does not have with this head. "
                "Use inference='fused', or a method with heads of its own per modality (MultiLoss)."
            )
        return rule

    def scaled(self, unimodal: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs at their modality's temperature."""
        at = self.modalities.index
        return {m: at_temperature(z, self.temperature[at(m)], self.distribution) for m, z in unimodal.items()}

    def forward(
        self, fused: Tensor | None, unimodal: Mapping[str, Tensor], present: Mapping[str, Tensor] | None
    ) -> Prediction:
        """The prediction from what the method computed."""
        rule = self.resolve(fused is not None, bool(unimodal))
        unimodal = self.scaled(unimodal)
        if present is not None:
            unimodal = {
                m: z if present.get(m) is None else torch.where(line_up(present[m], z), z, torch.zeros_like(z))
                for m, z in unimodal.items()
            }
        if rule == "fused" and fused is not None:
            return Prediction(fused, unimodal, {}, rule, self.distribution)
        output, weights = apply_rule(rule, unimodal, present, self.measure, self.distribution)
        return Prediction(output, unimodal, weights, rule, self.distribution)

    def fit(
        self,
        task: Task,
        fused: Tensor | None,
        unimodal: Mapping[str, Tensor],
        present: Mapping[str, Tensor] | None,
        target: Tensor,
    ) -> str:
        """Fit temperatures and choose the ``auto`` rule on validation outputs; returns the rule in force.

        Args:
            task: gives the score.
            fused: (N, C, ...) or ``None``.
            unimodal: modality -> (N, C, ...), before any temperature.
            present: modality -> (N,).
            target: (N, ...).
        """
        self.temperature.fill_(1.0)
        self._chosen = None
        if (self.calibrated or self.rule == "auto") and unimodal and self.distribution != "point":
            fitted = []
            for modality in self.modalities:
                if modality not in unimodal:
                    fitted.append(torch.ones(()))
                    continue
                mask = None if present is None else present.get(modality)
                z = unimodal[modality] if mask is None else unimodal[modality][mask]
                y = target if mask is None else target[mask]
                fitted.append(fitted_temperature(z, y, self.distribution).float().cpu())
            temperature = torch.stack(fitted).to(self.temperature.device)
        else:
            temperature = torch.ones_like(self.temperature)
        if self.rule != "auto":
            self.temperature.copy_(temperature)
            return self.resolve(fused is not None, bool(unimodal))
        best: tuple[float, float] | None = None
        kept = torch.ones_like(self.temperature)
        for candidate in rules_for(self.distribution):
            if (candidate == "fused" and fused is None) or (candidate != "fused" and not unimodal):
                continue
            for trial in (torch.ones_like(temperature), temperature) if candidate != "fused" else (temperature,):
                self.temperature.copy_(trial)
                if candidate == "fused" and fused is not None:
                    output = fused
                else:
                    output, _ = apply_rule(candidate, self.scaled(unimodal), present, self.measure, self.distribution)
                value = float(score(task, output, target))
                key = (-math.inf if math.isnan(value) else value, -float(task.loss(output, target)))
                if best is None or key > best:
                    best, self._chosen, kept = key, candidate, trial.clone()
        self.temperature.copy_(kept)
        return self.resolve(fused is not None, bool(unimodal))


def apply_rule(
    rule: str,
    unimodal: Mapping[str, Tensor],
    present: Mapping[str, Tensor] | None,
    measure: Measure = "entropy",
    distribution: Distribution = "categorical",
) -> tuple[Tensor, dict[str, Tensor]]:
    """Output (B, C, ...) and weights per modality of one concrete rule.

    Raises:
        UnsupportedError: outputs of this kind do not allow the rule.
    """
    check_rule(rule, distribution)
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
