"""From unimodal and fused outputs to one prediction: mean, uncertainty weights, log-opinion pool or joint head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from equimodal.errors import MethodError, UnsupportedError
from equimodal.functional import fit_temperature, fuse, product_weights, uncertainty_weights
from equimodal.functional._uncertainty import MEASURES, Measure
from equimodal.tasks import Task, score

Rule = Literal["fused", "mean", "uncertainty", "product", "auto"]
RULES: tuple[str, ...] = get_args(Rule)


@dataclass(frozen=True)
class Prediction:
    """What :meth:`Method.predict` returns.

    Args:
        output: (B, C) logits of the prediction; ``task.probabilities(output)`` are its probabilities. Where a rule
            averages probabilities, these are their logarithms.
        unimodal: modality -> (B, C) logits of that modality alone, after its temperature; zero (no opinion) in rows
            that do not have it. Empty for a method without unimodal outputs.
        weights: modality -> (B,) weight in the prediction; empty where the joint head decided.
        rule: the inference rule that was used.
    """

    output: Tensor
    unimodal: Mapping[str, Tensor]
    weights: Mapping[str, Tensor]
    rule: str

    @property
    def probabilities(self) -> Tensor:
        """softmax(output), for classification."""
        return torch.softmax(self.output, dim=1)


class Inference(nn.Module):
    r"""Inference rule with an optional temperature per modality; both are part of the checkpoint.

    * ``fused``: the joint head's output.
    * ``mean``: :math:`\frac1M \sum_m p_m`.
    * ``uncertainty``: MLA's per-sample weights from the entropy, or another ``measure``.
    * ``product``: log-opinion pool, softmax of the mean of :math:`\log p_m`.
    * ``auto``: the rule, with or without temperatures, that scores best on validation data
      (:meth:`Method.fit_inference`); ties go to the lower cross-entropy. Before it is fitted it behaves like ``mean``,
      or like ``fused`` where a joint head exists.

    Absent modalities are left out and the others renormalised, per sample.

    Args:
        modalities: names, in the order of the temperature buffer.
        rule: one of the above.
        calibrated: divide each modality's logits by a temperature fitted on validation data; with ``auto`` both ways
            are tried whatever this says.
        measure: uncertainty measure of the ``uncertainty`` rule.
    """

    temperature: Tensor

    def __init__(
        self,
        modalities: Sequence[str],
        rule: Rule = "mean",
        *,
        calibrated: bool = False,
        measure: Measure = "entropy",
    ) -> None:
        super().__init__()
        if rule not in RULES:
            raise MethodError(f"`inference`: expected one of {', '.join(RULES)}. Found {rule!r}.")
        if measure not in MEASURES:
            raise MethodError(f"`measure`: expected one of {', '.join(MEASURES)}. Found {measure!r}.")
        self.modalities = tuple(modalities)
        self.rule = rule
        self.calibrated = calibrated
        self.measure: Measure = measure
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
        """Logits divided by their modality's temperature."""
        return {m: z / self.temperature[self.modalities.index(m)].to(z.dtype) for m, z in unimodal.items()}

    def forward(
        self, fused: Tensor | None, unimodal: Mapping[str, Tensor], present: Mapping[str, Tensor] | None
    ) -> Prediction:
        """The prediction from what the method computed."""
        rule = self.resolve(fused is not None, bool(unimodal))
        unimodal = self.scaled(unimodal)
        if present is not None:
            unimodal = {
                m: z if present.get(m) is None else torch.where(_rows_like(present[m], z), z, torch.zeros_like(z))
                for m, z in unimodal.items()
            }
        if rule == "fused" and fused is not None:
            return Prediction(fused, unimodal, {}, rule)
        output, weights = apply_rule(rule, unimodal, present, self.measure)
        return Prediction(output, unimodal, weights, rule)

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
            fused: (N, C) or ``None``.
            unimodal: modality -> (N, C), before any temperature.
            present: modality -> (N,).
            target: (N,).
        """
        self.temperature.fill_(1.0)
        self._chosen = None
        if (self.calibrated or self.rule == "auto") and unimodal:
            fitted = []
            for modality in self.modalities:
                if modality not in unimodal:
                    fitted.append(torch.ones(()))
                    continue
                mask = None if present is None else present.get(modality)
                z = unimodal[modality] if mask is None else unimodal[modality][mask]
                y = target if mask is None else target[mask]
                fitted.append(fit_temperature(z, y).float().cpu() if z.shape[0] else torch.ones(()))
            temperature = torch.stack(fitted).to(self.temperature.device)
        else:
            temperature = torch.ones_like(self.temperature)
        if self.rule != "auto":
            self.temperature.copy_(temperature)
            return self.resolve(fused is not None, bool(unimodal))
        best: tuple[float, float] | None = None
        kept = torch.ones_like(self.temperature)
        for candidate in ("fused", "mean", "uncertainty", "product"):
            if (candidate == "fused" and fused is None) or (candidate != "fused" and not unimodal):
                continue
            for trial in (torch.ones_like(temperature), temperature) if candidate != "fused" else (temperature,):
                self.temperature.copy_(trial)
                if candidate == "fused" and fused is not None:
                    output = fused
                else:
                    output, _ = apply_rule(candidate, self.scaled(unimodal), present, self.measure)
                key = (float(score(task, output, target)), -float(task.loss(output, target)))
                if best is None or key > best:
                    best, self._chosen, kept = key, candidate, trial.clone()
        self.temperature.copy_(kept)
        return self.resolve(fused is not None, bool(unimodal))


def apply_rule(
    rule: str, unimodal: Mapping[str, Tensor], present: Mapping[str, Tensor] | None, measure: Measure = "entropy"
) -> tuple[Tensor, dict[str, Tensor]]:
    """Output logits (B, C) and weights (B,) per modality of one concrete rule."""
    if rule == "uncertainty":
        weights = uncertainty_weights(unimodal, present, measure)
    else:
        weights = product_weights(unimodal, present)
    probability = fuse(unimodal, weights, "log_probability" if rule == "product" else "probability")
    return probability.clamp_min(torch.finfo(probability.dtype).tiny).log(), weights


def _rows_like(mask: Tensor, z: Tensor) -> Tensor:
    return mask.reshape(-1, *([1] * (z.ndim - 1)))
