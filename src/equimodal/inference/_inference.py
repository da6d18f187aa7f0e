"""The inference rule of a method, with its temperatures and its state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import torch
from torch import Tensor, nn

from equimodal._utils.arguments import one_of
from equimodal._utils.shapes import line_up
from equimodal.errors import MethodError, NonFiniteError, UnsupportedError, did_you_mean
from equimodal.functional import MEASURES, Measure
from equimodal.inference._advice import warn_if_below_single, warn_of_few_samples
from equimodal.inference._candidates import TEMPERED, Comparison, RuleScore, alone, compare, rule_output
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
from equimodal.inference._evidence import Evidence
from equimodal.inference._folds import Groups, group_codes
from equimodal.inference._prediction import Prediction
from equimodal.inference._rules import ALONE, MEASURES_OF, NO_VARIANCE, apply_rule, check_rule
from equimodal.inference._skill import JOINT, SkillPool, kind_of
from equimodal.inference._skill_fit import fewest, fit_skill
from equimodal.inference._temperature import at_temperature, fitted_temperature
from equimodal.tasks import Distribution, Task


class Inference(nn.Module):
    r"""Inference rule with an optional temperature per modality; both are part of the checkpoint.

    * ``fused``: the joint head's output.
    * ``mean``: :math:`\frac1M \sum_m p_m`.
    * ``uncertainty``: MLA's per-sample weights from the entropy, or another ``measure``.
    * ``product``: log-opinion pool, softmax of the mean of :math:`\log p_m`.
    * ``precision``: weights :math:`1/\sigma_m^2`, for Gaussian regression.
    * ``skill``: all outputs, the joint head's too, calibrated and weighed by what each was worth on validation data
      (:class:`~equimodal.inference.SkillPool`). Before it is fitted weights are equal; for numbers and pixels the joint
      head decides, where there is one.
    * ``alone:NAME``: one modality; samples without it get the equal pool of what they have.
    * ``auto``: of all of these, with and without temperatures, the first in a fixed order
      (:data:`~equimodal.inference.ORDER`) whose validation score is within one standard error of the best
      (:meth:`Method.fit_inference`). Before it is fitted it behaves like ``fused``, or like ``mean`` without a joint
      head.

    Absent modalities are left out and the others renormalised, per sample. Other rules than ``skill`` weigh
    segmentations pixel by pixel, labels and numbers one by one.

    Args:
        modalities: names, in the order of the temperature buffer.
        rule: one of the above, the name of a rule that another installed package registers, or a rule of your own, see
            :class:`~equimodal.inference.InferenceRule`.
        calibrated: divide each modality's logits by a temperature fitted on validation data (for Gaussian regression:
            multiply its standard deviations by it); with ``auto`` both ways are tried whatever this says, and
            ``skill`` calibrates in its own way.
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
        names = [] if isinstance(modalities, str) else list(modalities)
        if not names or len(set(names)) != len(names):
            raise MethodError(f"`modalities`: expected different names, at least one. Found {modalities!r}.")
        one_of("distribution", distribution, get_args(Distribution))
        custom = custom_rule(rule)
        if custom is not None:
            check_custom(custom, distribution)
        elif not rule_name(rule).startswith(ALONE):
            check_rule(rule_name(rule), distribution)
        one_of("calibrated", calibrated, (True, False))
        if measure not in MEASURES:
            raise MethodError(
                f"`measure`: expected one of {', '.join(MEASURES)}. Found {measure!r}.{did_you_mean(measure, MEASURES)}"
            )
        if measure not in MEASURES_OF[distribution]:
            raise UnsupportedError(
                f"`measure`: {measure!r} needs class probabilities. For this task use "
                f"{' or '.join(MEASURES_OF[distribution])}."
            )
        if calibrated and distribution == "point":
            raise UnsupportedError(f"`calibrated`: there is nothing to calibrate, {NO_VARIANCE}.")
        self.modalities = tuple(modalities)
        if JOINT in self.modalities:
            raise MethodError(f"`modalities`: expected no {JOINT!r}, which stands for the joint head. Rename it.")
        if isinstance(rule, str) and rule.startswith(ALONE) and rule.removeprefix(ALONE) not in self.modalities:
            raise MethodError(
                f"`inference`: expected {ALONE}NAME with one of the modalities {list(self.modalities)}. Found {rule!r}."
            )
        self.rule = rule_name(rule if custom is None else custom)
        self.custom = custom
        self.calibrated = calibrated
        self.measure: Measure = measure
        self.distribution: Distribution = distribution
        self.register_buffer("temperature", torch.ones(len(self.modalities)))
        # plain values on the host, through the extra state: what `auto` chose, the fitted pool, scores of all rules
        self._chosen: str | None = None
        self._pool: SkillPool | None = None
        self._scores: dict[str, RuleScore] = {}
        self._tempered: Tensor | None = None  # temperatures fitted on all of the samples, whether in force or not

    def extra_repr(self) -> str:
        """Arguments, and what was fitted, for ``repr``."""
        text = f"rule={self.rule!r}, calibrated={self.calibrated}, measure={self.measure!r}"
        text += f", chosen={self._chosen!r}" if self._chosen else ""
        if self._pool is not None and "skill" in (self.rule, self._chosen):
            weights = ", ".join(f"{e}: {own.weight:.3g}" for e, own in self._pool.experts.items())
            text += f", weights={{{weights}}}"
        return text

    @property
    def pool(self) -> SkillPool | None:
        """The fitted pool of the rule ``skill``, also where another rule is in force; ``None`` before it is fitted."""
        return self._pool

    @property
    def scores(self) -> dict[str, RuleScore]:
        """Rule -> what it was worth on the validation data of :meth:`fit`; empty before.

        ``NAME+temperature`` is the rule at temperatures, ``alone:NAME`` one modality, ``fused`` the joint head. What a
        rule fits is fitted without the fold that it predicts.
        """
        return dict(self._scores)

    def record(self) -> dict[str, Any]:
        """What was fitted, as plain values: rule, scores of all rules, weight and skill of every expert."""
        chosen = self._chosen if self.rule == "auto" else self.rule
        found: dict[str, Any] = {"rule": chosen, "scores": {n: s.state() for n, s in self._scores.items()}}
        if self._pool is not None:
            found["pool"] = {
                "kind": self._pool.pool,
                "slope": self._pool.slope,
                "joint_for_incomplete": self._pool.joint_for_incomplete,
                "weights": {e: own.weight for e, own in self._pool.experts.items()},
                "skill": {e: own.skill for e, own in self._pool.experts.items()},
            }
        return found

    def get_extra_state(self) -> dict[str, Any]:
        """What ``auto`` chose, the fitted pool, and the scores of all rules."""
        return {
            "chosen": self._chosen,
            "pool": None if self._pool is None else self._pool.state(self.modalities),
            "scores": {name: found.state() for name, found in self._scores.items()},
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`get_extra_state` gave; earlier versions stored the choice of ``auto`` alone."""
        self._chosen = state["chosen"]
        pool = state.get("pool")
        self._pool = None if pool is None else SkillPool.of(pool, self.modalities)
        self._scores = {name: RuleScore.of(found) for name, found in state.get("scores", {}).items()}

    def needs(self, has_fused: bool) -> frozenset[str]:
        """What the rule in force reads: ``"fused"``, ``"unimodal"`` or both. ``skill`` reads whatever there is."""
        rule: Any = self.rule if self.custom is None else self.custom
        if self.rule == "auto":
            rule = self._chosen or ("fused" if has_fused else "mean")
        if rule == "skill":
            return frozenset({"fused", "unimodal"} if has_fused else {"unimodal"})
        return needs_of(rule)

    def resolve(self, has_fused: bool, has_unimodal: bool) -> str:
        """The concrete rule in force, given what the method offers."""
        rule = self.rule
        if rule == "auto":
            rule = self._chosen or ("fused" if has_fused else "mean")
        if rule == "skill":
            if has_fused or has_unimodal:
                return rule
            raise UnsupportedError("`inference`: 'skill' needs a joint head or unimodal outputs. There is neither.")
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
        if rule == "skill":
            experts = self._experts(fused, unimodal)
            kind = kind_of(self.distribution, next(iter(experts.values())))
            pool = SkillPool.prior(list(experts), kind) if self._pool is None else self._pool
            output, weights = pool(experts, present, kind)
            if not torch.compiler.is_compiling() and not bool(torch.isfinite(output).all()):
                raise NonFiniteError(
                    "`inference`: expected finite outputs to pool. Found NaN or infinity in the prediction of 'skill'. "
                    "Look at the inputs of these samples and at the weights."
                )
            return Prediction(output, unimodal, weights, rule, self.distribution)
        if rule.startswith(ALONE):
            output, weights = alone(rule.removeprefix(ALONE), unimodal, present, self.distribution)
            return Prediction(output, unimodal, weights, rule, self.distribution)
        output, weights = apply_rule(rule, unimodal, present, self.measure, self.distribution)
        return Prediction(output, unimodal, weights, rule, self.distribution)

    def output_of(
        self,
        label: str,
        fused: Tensor | None,
        unimodal: Mapping[str, Tensor],
        present: Mapping[str, Tensor] | None,
    ) -> Tensor:
        """Output (B, C, ...) of any rule of :attr:`scores` on other samples, whatever rule is in force.

        Args:
            label: a name in :attr:`scores`, but that of a rule of one's own.
            fused: as of :meth:`forward`.
            unimodal: as of :meth:`forward`, before any temperature.
            present: as of :meth:`forward`.

        Raises:
            MethodError: nothing of that name has been fitted. Temperatures of rules that are not in force are not
                saved with the weights.
        """
        experts = self._experts(fused, unimodal)
        if label == "skill" and self._pool is not None:
            return self._pool(experts, present, kind_of(self.distribution, next(iter(experts.values()))))[0]
        temperature = None if self._tempered is None else dict(zip(self.modalities, self._tempered, strict=True))
        if label not in self._scores or label == "skill" or (label.endswith(TEMPERED) and temperature is None):
            raise MethodError(
                f"`label`: expected a rule that has been fitted in this process, of {list(self._scores)}. Found "
                f"{label!r}. Call fit first, with the rule 'auto' for temperatures."
            )
        return rule_output(label, experts, present, self.distribution, self.measure, temperature)

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
        *,
        groups: Groups | None = None,
        reduced: Mapping[tuple[str, ...], Tensor] | None = None,
    ) -> str:
        """Fit what the rule fits, compare all rules, choose for ``auto``; returns the rule in force.

        Args:
            task: gives loss and score.
            fused: (N, C, ...) or ``None``.
            unimodal: modality -> (N, C, ...), before any temperature.
            present: modality -> (N,).
            target: (N, ...).
            groups: (N,) labels of samples that belong together (speaker, patient ...): they share a fold, and errors
                are counted over groups. Default: every sample by itself.
            reduced: modalities that are left -> (N, C, ...) what the joint head says of these alone, from which
                ``skill`` learns whether the head counts for incomplete samples; of pixels those that
                :func:`~equimodal.inference.thinned` keeps.

        Raises:
            MethodError: another number of group labels.
            NonFiniteError: outputs are NaN or infinite, so that ``skill`` cannot be fitted.

        Warns:
            SmallValidationWarning: too few samples to fit ``skill`` or to choose for ``auto``.
            BelowSingleWarning: the best single output is better, by more than the 95 % interval of the difference.
        """
        self.temperature.fill_(1.0)
        self._chosen, self._pool, self._scores = None, None, {}
        self.resolve(fused is not None, bool(unimodal))  # what is not there is refused before anything is fitted
        experts = self._experts(fused, unimodal)
        codes = group_codes(groups, len(target))
        data = Evidence(task, self.distribution, experts, self._masks(present, target), target, codes, reduced or {})
        temperature = self._tempered = self._temperatures(unimodal, present, data.compared)
        skill = fit_skill(data) if self.rule == "skill" or not data.infinite() else None
        self._pool = None if skill is None else skill.pool
        if self.rule not in ("auto", "skill"):
            self.temperature.copy_(temperature)
        custom = {}
        if self.custom is not None:
            outputs = self._readable(unimodal, present)
            fit_custom(self.custom, outputs, present, fused, target, task)
            custom = {self.rule: run_custom(self.custom, outputs, present, fused, self.distribution)[0]}
        found = compare(data, self.measure, skill, custom)
        self._scores = found.scores()
        if self.rule == "auto":
            self._choose(found, temperature, data)
        warn_of_few_samples(self.rule, self._chosen, data)
        warn_if_below_single(self._label(), found, data)
        return self.resolve(fused is not None, bool(unimodal))

    def _experts(self, fused: Tensor | None, unimodal: Mapping[str, Tensor]) -> dict[str, Tensor]:
        joint = {} if fused is None else {JOINT: fused}
        return joint | {m: unimodal[m] for m in self.modalities if m in unimodal}

    def _masks(self, present: Mapping[str, Tensor] | None, target: Tensor) -> dict[str, Tensor]:
        everyone = torch.ones(len(target), dtype=torch.bool, device=target.device)
        return {m: everyone if present is None or present.get(m) is None else present[m] for m in self.modalities}

    def _temperatures(
        self, unimodal: Mapping[str, Tensor], present: Mapping[str, Tensor] | None, target: Tensor
    ) -> Tensor:
        """One per modality on all of the samples; 1 where none is asked for."""
        if not (self.calibrated or self.rule == "auto") or not unimodal or self.distribution == "point":
            return torch.ones_like(self.temperature)
        fitted = []
        for modality in self.modalities:
            if modality not in unimodal:
                fitted.append(torch.ones(()))
                continue
            mask = None if present is None else present.get(modality)
            z = unimodal[modality] if mask is None else unimodal[modality][mask]
            y = target if mask is None else target[mask]
            fitted.append(fitted_temperature(z, y, self.distribution).float().cpu())
        return torch.stack(fitted).to(self.temperature.device)

    def _choose(self, found: Comparison, temperature: Tensor, data: Evidence) -> None:
        """The first rule in the order of preference within one standard error of the best."""
        if len(data) < fewest(data.kind):
            self._chosen = "fused" if JOINT in data.outputs else "mean"
            self.temperature.copy_(temperature if self.calibrated else torch.ones_like(temperature))
            return
        label = found.choice() or ("fused" if JOINT in data.outputs else "mean")
        self._chosen = label.removesuffix(TEMPERED)
        if label.endswith(TEMPERED):
            self.temperature.copy_(temperature)

    def _label(self) -> str:
        """The rule in force as the scores call it."""
        if self.rule == "auto":
            tempered = bool((self.temperature != 1).any())
            return f"{self._chosen}{TEMPERED if tempered else ''}"
        plain = self.rule in ("fused", "skill") or self.rule.startswith(ALONE) or self.custom is not None
        return self.rule if plain or not self.calibrated else f"{self.rule}{TEMPERED}"
