"""The inference rule of a method, with its temperatures and its state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from equimodal._utils.arguments import one_of
from equimodal._utils.shapes import line_up
from equimodal.errors import MethodError, UnsupportedError
from equimodal.functional import MEASURES, Measure
from equimodal.inference._custom import (
    InferenceRule,
    Rule,
    check_custom,
    custom_rule,
    fit_custom,
    needs_of,
    rule_name,
    run_custom,
)
from equimodal.inference._prediction import Prediction
from equimodal.inference._rules import MEASURES_OF, NO_VARIANCE, RuleName, apply_rule, check_rule, rules_for
from equimodal.inference._temperature import at_temperature, fitted_temperature
from equimodal.tasks import Distribution, Task, score


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
        rule: one of the above, the name of a rule that another installed package registers, or a rule of your own, see
            :class:`~equimodal.inference.InferenceRule`.
        calibrated: divide each modality's logits by a temperature fitted on validation data (for Gaussian regression:
            multiply its standard deviations by it); with ``auto`` both ways are tried whatever this says.
        measure: uncertainty measure of the ``uncertainty`` rule.
        distribution: what an output is, see :func:`~equimodal.tasks.distribution_of`.

    Raises:
        MethodError: an argument is none of its choices.
        UnsupportedError: such outputs do not allow the rule, the measure or a temperature.
    """

    temperature: Tensor
    custom: InferenceRule | None

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
        custom = custom_rule(rule)
        if custom is None:
            check_rule(rule_name(rule), distribution)
        else:
            check_custom(custom, distribution)
        one_of("calibrated", calibrated, (True, False))
        if measure not in MEASURES:
            raise MethodError(f"`measure`: expected one of {', '.join(MEASURES)}. Found {measure!r}.")
        if measure not in MEASURES_OF[distribution]:
            raise UnsupportedError(
                f"`measure`: {measure!r} needs class probabilities. For this task use "
                f"{' or '.join(MEASURES_OF[distribution])}."
            )
        if calibrated and distribution == "point":
            raise UnsupportedError(f"`calibrated`: there is nothing to calibrate, {NO_VARIANCE}.")
        self.modalities = tuple(modalities)
        self.rule = rule_name(rule if custom is None else custom)
        self.custom = custom
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

    def needs(self, has_fused: bool) -> frozenset[str]:
        """What the rule in force cannot do without: ``"fused"``, ``"unimodal"`` or both."""
        if self.rule == "auto":
            return needs_of(cast(RuleName, self._chosen or ("fused" if has_fused else "mean")))
        return needs_of(cast(RuleName, self.rule) if self.custom is None else self.custom)

    def resolve(self, has_fused: bool, has_unimodal: bool) -> str:
        """The concrete rule in force, given what the method offers."""
        rule = self.rule
        if rule == "auto":
            rule = self._chosen or ("fused" if has_fused else "mean")
        needs = self.needs(has_fused)
        if "fused" in needs and not has_fused:
            raise UnsupportedError(
                f"`inference`: {rule!r} needs a joint head, which this method does not train. Use mean."
            )
        if "unimodal" in needs and not has_unimodal:
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
        unimodal = self._readable(unimodal, present)
        if self.custom is not None:
            output, weights = run_custom(self.custom, unimodal, present, fused, self.distribution)
            return Prediction(output, unimodal, weights, rule, self.distribution)
        if rule == "fused" and fused is not None:
            return Prediction(fused, unimodal, {}, rule, self.distribution)
        output, weights = apply_rule(rule, unimodal, present, self.measure, self.distribution)
        return Prediction(output, unimodal, weights, rule, self.distribution)

    def _readable(self, unimodal: Mapping[str, Tensor], present: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """Outputs at their temperature, zero in rows that do not have the modality."""
        outputs = self.scaled(unimodal)
        if present is None:
            return outputs
        return {
            m: z if present.get(m) is None else torch.where(line_up(present[m], z), z, torch.zeros_like(z))
            for m, z in outputs.items()
        }

    def fit(
        self,
        task: Task,
        fused: Tensor | None,
        unimodal: Mapping[str, Tensor],
        present: Mapping[str, Tensor] | None,
        target: Tensor,
    ) -> str:
        """Fit temperatures and what a rule of your own fits, choose the ``auto`` rule; returns the rule in force.

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
            rule = self.resolve(fused is not None, bool(unimodal))
            if self.custom is not None:
                fit_custom(self.custom, self._readable(unimodal, present), present, fused, target, task)
            return rule
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
