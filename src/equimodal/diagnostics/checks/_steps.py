"""The check that takes steps of two copies of the model: whether the optimizer cancels what the method does."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch.optim import Optimizer

from equimodal.batch import Batch
from equimodal.diagnostics.checks._finding import Finding, NotApplicable, NotMeasured, Severity
from equimodal.diagnostics.checks._formulas import arriving_share
from equimodal.diagnostics.checks._gradients import copies, distance
from equimodal.diagnostics.checks._registry import Check, register
from equimodal.diagnostics.checks._subject import Subject
from equimodal.engine import PlainEngine, fresh_optimizer
from equimodal.methods import EpochContext, Method, StepReport, Within


@register
@dataclass(frozen=True)
class ScaleCancelled(Check):
    """The method multiplies the gradients of encoders, and the optimizer takes the factor out again.

    Number:
        How much of the factor s reaches the weights: log r / log s, where r is the length of the encoder's update with
        the factor over its length without, in one step of two copies of the model with fresh optimizers of the same
        kind. 1: all of it. 0: nothing.

    Why:
        Adam and its relatives divide by a running size of the gradient, so a steady factor cancels. Modulation of
        gradients ([Peng2022]) then does nothing, and what is compared is plain joint training.

    Next:
        `--options.apply_to update` scales the step instead of the gradient (`auto` does so where it is needed), or
        `--training.optimizer sgd`.

    References:
        Peng et al., Balanced multimodal learning via on-the-fly gradient modulation, CVPR 2022 [Peng2022].
    """

    code: ClassVar[str] = "EQ006"
    title: ClassVar[str] = "The optimizer cancels the method's scaling"
    severity: ClassVar[Severity] = "error"
    page: ClassVar[str] = "docs/checks/eq006.md"
    arriving: Annotated[float, Within(above=0, below=1), "half: more is lost than arrives"] = 0.5
    factor: Annotated[
        float, Within(above=1), "ten per cent: a smaller factor cannot be told from the rest of a step"
    ] = 1.1

    def run(self, subject: Subject) -> Iterable[Finding]:
        """Steps of two copies, with and without the method's change of gradients."""
        subject.slow("takes training steps of a copy")
        if subject.optimizer is None:
            raise NotMeasured("needs the optimizer; give optimizer=")
        scales = 0
        for batch in subject.training_batches():
            report, ratios = _twin_step(subject, batch)
            factors = {m: float(v) for m, v in report.coefficients.get("scale", {}).items()}
            scales += len(factors)
            strong = {m: s for m, s in factors.items() if s > 0 and abs(math.log(s)) > math.log(self.factor)}
            for m, s in strong.items():
                share = arriving_share(s, ratios[m]) if ratios.get(m) else 1.0
                if share < self.arriving:
                    yield self.finding(
                        share, self.arriving,
                        f"The gradient of {m!r} was multiplied by {s:.3g}; its update became {ratios[m]:.3g} times as "
                        f"long: {100 * max(0.0, share):.0f} % of the factor arrive.",
                        "Scale the update: --options.apply_to update (or auto), or take --training.optimizer sgd.",
                        where=m,
                    )  # fmt: skip
            if strong:
                return
        if not scales:
            raise NotApplicable("does not apply: the method multiplies no encoder's gradient")


def _twin_step(subject: Subject, batch: Batch) -> tuple[StepReport, dict[str, float]]:
    """A step's report, and modality -> length of its encoder's update over that without the method's change."""
    lengths = []
    reports = []
    for changed in (True, False):
        method = subject.twin().train()
        if not changed:
            object.__setattr__(method, "modify_gradients", lambda *_, **__: ())
        before = {m: copies(method.multimodal.parameters_of(m)) for m in method.modalities}
        engine = PlainEngine(_optimizer(subject, method))
        method.on_train_epoch_start(EpochContext(0, epochs=1, steps=1, loader=[batch], engine=engine))
        torch.manual_seed(0)
        reports.append(method.training_step(batch, engine))
        lengths.append({m: distance(method.multimodal.parameters_of(m), old) for m, old in before.items()})
    with_, without = lengths
    return reports[0], {m: with_[m] / without[m] for m in with_ if with_[m] > 0 and without[m] > 0}


def _optimizer(subject: Subject, method: Method) -> Optimizer:
    given: Any = subject.optimizer
    if not isinstance(given, Optimizer):
        made: Optimizer = given(method.parameter_groups())
        return made
    pairs = zip(subject.method.parameters(), method.parameters(), strict=True)
    fresh = fresh_optimizer(given, {id(p): q for p, q in pairs})
    if fresh is None:
        raise NotMeasured("needs an optimizer of the model's parameters; that given has none of them")
    return fresh
