"""Checks that take gradients of a copy of the model: what reaches an encoder, conflicts, sharpness."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from equimodal.batch import Batch
from equimodal.diagnostics.checks._finding import Finding, NotApplicable, NotMeasured, Severity
from equimodal.diagnostics.checks._formulas import mean_interval, wilson
from equimodal.diagnostics.checks._registry import Check, control, register
from equimodal.diagnostics.checks._subject import Subject, constant
from equimodal.methods import Method, Within

Gradients = list[Tensor]
_FEWEST = 5
_ADVICE = "docs/methods/index.md"


@register
@dataclass(frozen=True)
class NoGradient(Check):
    """No gradient reaches an encoder that the method is meant to train.

    Number:
        Length of the gradient of all outputs' losses at the encoder, over that at the encoder where it is longest; in
        evaluation mode, on training batches. The threshold is what float32 cannot tell from 0.

    Why:
        Such an encoder stays as it was drawn. A `detach()`, a `no_grad()`, dead units, a fusion that ignores the
        modality, or parameters that are frozen by mistake look like a modality that is hard to learn.

    Next:
        Look at the path from the encoder to the loss; `model.parameters_of(NAME)` must be the parameters that
        `encode` uses. If the encoder is frozen on purpose, mute this check.
    """

    code: ClassVar[str] = "EQ007"
    title: ClassVar[str] = "An encoder gets no gradient"
    severity: ClassVar[Severity] = "error"
    page: ClassVar[str] = "docs/checks/eq007.md"
    relative: Annotated[float, Within(above=0, below=1), "rounding of float32 (1.2e-7), with a margin"] = 1e-6

    def run(self, subject: Subject) -> Iterable[Finding]:
        """Gradients of the prediction and of every output."""
        subject.slow("takes gradients")
        method = subject.twin().eval()
        trained = [m for m in method.modalities if m in subject.trained]
        frozen = [m for m in trained if not any(p.requires_grad for p in method.multimodal.parameters_of(m))]
        lengths = dict.fromkeys(trained, 0.0)
        for batch in subject.training_batches()[:4]:
            loss = sum(losses_of(method, batch, all_outputs=True).values(), torch.zeros(()))
            for m in trained:
                lengths[m] += norm_of(gradients(loss, method.multimodal.parameters_of(m)))
        longest = max(lengths.values(), default=0.0)
        if longest == 0 and len(frozen) < len(trained):
            raise NotMeasured("needs a loss above 0: here no encoder gets a gradient")
        for m in trained:
            share = lengths[m] / longest if longest else 0.0
            if share < self.relative:
                yield self.finding(
                    share, self.relative,
                    f"The parameters of the encoder of {m!r} are frozen." if m in frozen
                    else f"The gradient at the encoder of {m!r} is {share:.2g} times that of the strongest encoder.",
                    "Unfreeze it, or mute this check if it is meant to be." if m in frozen
                    else f"Look for detach() or no_grad() on its way to the loss; model.parameters_of({m!r}) must be "
                    "what encode() uses (docs/own-model.md).",
                    severity="note" if m in frozen else None, where=m,
                )  # fmt: skip


def losses_of(method: Method, batch: Batch, *, all_outputs: bool = False) -> dict[str, Tensor]:
    """The loss of the prediction or of the joint head (``""``), and of each modality alone, with a graph.

    Args:
        method: in evaluation mode.
        batch: of training data.
        all_outputs: the prediction, joint head and own outputs as they are; else own outputs or, where there are none,
            the joint head from the modality alone.
    """
    fused, alone, presence = method.outputs(batch.inputs, batch.present)
    target: Any = batch.target
    found = {} if fused is None else {"": method.task.loss(fused, target)}
    if all_outputs:
        found["prediction"] = method.task.loss(method.combine(fused, alone, presence).output, target)
    for m in method.modalities:
        rows = batch.rows(m) if m in batch.inputs else None
        if m not in batch.inputs or (rows is not None and not len(rows)):
            continue
        if m in alone:
            output, own = (alone[m], target) if rows is None else (alone[m][rows], target[rows])
            found[m] = method.task.loss(output, own)
        elif not all_outputs and fused is not None:
            only = batch.only(m)
            if only is not None:
                masked = method.outputs(only.inputs, None)[0]
                if masked is not None:
                    found[m] = method.task.loss(masked, only.target)  # type: ignore[arg-type]
    return found


def gradients(loss: Tensor, parameters: Sequence[nn.Parameter]) -> Gradients:
    """The gradient of a loss at each parameter, zeros where none arrives."""
    asking = [p for p in parameters if p.requires_grad]
    if not loss.requires_grad or not asking:
        return [torch.zeros_like(p) for p in parameters]
    found = dict(zip(map(id, asking), torch.autograd.grad(loss, asking, retain_graph=True, allow_unused=True)))
    return [torch.zeros_like(p) if found.get(id(p)) is None else found[id(p)].detach() for p in parameters]


def norm_of(found: Gradients) -> float:
    """Length of a gradient."""
    return math.sqrt(sum(float(g.double().square().sum()) for g in found))


def cosine(first: Gradients, second: Gradients) -> float | None:
    """Cosine of two gradients; ``None`` where one of them is 0."""
    a, b = norm_of(first), norm_of(second)
    if a == 0 or b == 0:
        return None
    return sum(float((g.double() * h.double()).sum()) for g, h in zip(first, second, strict=True)) / (a * b)


def copies(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """Their values now."""
    return [p.detach().clone() for p in parameters]


def distance(parameters: Sequence[nn.Parameter], old: Sequence[Tensor]) -> float:
    """How far they are from these values."""
    return math.sqrt(sum(float((p.detach() - q).double().square().sum()) for p, q in zip(parameters, old, strict=True)))


@register
@dataclass(frozen=True)
class Conflict(Check):
    """What one loss asks of the weights, another one opposes.

    Number:
        The share of training batches in which two gradients point apart (their cosine is below 0): at each encoder, the
        gradient of the joint loss and that of the modality's own loss; at weights that several modalities share, the
        gradients of their own losses. Wilson's 95 % interval must not lie above one half, since that much is expected
        of gradients that have nothing to do with each other.

    Why:
        Opposed gradients undo each other's steps, and the one with the larger gradient wins: the modality that is easy
        to learn ([Wei2024], [Yu2020]).

    Next:
        A method that reconciles gradients (family "gradient" in docs/methods/index.md), or heads of their own for the
        modalities, `equimodal train --method {baseline}`.

    References:
        Wei and Hu, Boosting multimodal learning with innocent unimodal assistance, ICML 2024 [Wei2024].
        Yu et al., Gradient surgery for multi-task learning, NeurIPS 2020 [Yu2020].
    """

    code: ClassVar[str] = "EQ012"
    title: ClassVar[str] = "Gradients of modalities conflict"
    severity: ClassVar[Severity] = "warning"
    page: ClassVar[str] = "docs/checks/eq012.md"
    share: Annotated[float, Within(above=0, below=1), "one half: unrelated gradients are opposed as often as not"] = 0.5

    def run(self, subject: Subject) -> Iterable[Finding]:
        """Cosines at encoders and at shared weights, batch by batch."""
        subject.slow("takes gradients")
        subject.several()
        method = subject.twin().eval()
        cosines: dict[tuple[str, str], list[float]] = {}
        for batch in subject.training_batches():
            for pair, value in _cosines(method, losses_of(method, batch), subject.trained):
                cosines.setdefault(pair, []).append(value)
        known = {pair: values for pair, values in cosines.items() if len(values) >= _FEWEST}
        if not known:
            raise NotMeasured(f"needs {_FEWEST} training batches in which two losses reach the same weights")
        for (first, second), values in known.items():
            opposed, count = sum(v < 0 for v in values), len(values)
            low, high = wilson(opposed, count)
            if low > self.share:
                where = (
                    f"at the encoder of {second!r} the joint loss and its own" if not first
                    else f"at the shared weights the losses of {first!r} and {second!r}"
                )  # fmt: skip
                yield self.finding(
                    opposed / count, self.share,
                    f"In {opposed} of {count} training batches {where} are opposed (mean cosine "
                    f"{sum(values) / count:.2f}).",
                    f"Take a method that reconciles gradients ({_ADVICE}), or own heads: equimodal train --method "
                    f"{control('baseline')}.",
                    interval=(low, high), where=second if not first else f"{first}, {second}",
                )  # fmt: skip


def _cosines(
    method: Method, losses: Mapping[str, Tensor], trained: Sequence[str]
) -> Iterable[tuple[tuple[str, str], float]]:
    """(names of two losses, "" for the joint one) -> cosine of their gradients where both arrive."""
    own = {id(p) for m in method.modalities for p in method.multimodal.parameters_of(m)}
    names = [m for m in trained if m in losses]
    for m in names if "" in losses else ():
        parameters = method.multimodal.parameters_of(m)
        value = cosine(gradients(losses[""], parameters), gradients(losses[m], parameters))
        if value is not None:
            yield ("", m), value
    # a bias alone is no shared layer: all modalities have it by construction
    shared = [p for p in method.parameters() if id(p) not in own and p.ndim > 1]
    found = {m: gradients(losses[m], shared) for m in names}
    for a, b in combinations(names, 2):
        both = [((g != 0) & (h != 0)).to(g.dtype) for g, h in zip(found[a], found[b], strict=True)]
        if not any(bool(mask.any()) for mask in both):
            continue  # heads of their own, or blocks of one head
        value = cosine(
            [g * k for g, k in zip(found[a], both, strict=True)], [g * k for g, k in zip(found[b], both, strict=True)]
        )
        if value is not None:
            yield (a, b), value


@register
@dataclass(frozen=True)
class SharpnessDiffers(Check):
    """The loss is far more sensitive to the weights of one encoder than to those of another.

    Number:
        Ratio of the largest to the smallest sharpness of two encoders. Sharpness of an encoder is how much the loss
        of the prediction grows when its weights move by `radius` times their length along their gradient
        ([Foret2021]). The 95 % interval of the mean of log ratios over training batches (Student's t) must not lie
        above the threshold. Where no encoder's sharpness is `least` of the loss of a constant prediction, all are flat,
        and nothing is said.

    Why:
        Modalities reach minima of different flatness; the sharp one generalises worse and is disturbed more by what
        the other learns ([Jiang2025]).

    Next:
        `--options.sharpness.mode full` looks for flat minima; docs/methods/index.md names methods that do so for each
        modality.

    References:
        Foret et al., Sharpness-aware minimization, ICLR 2021 [Foret2021].
        Jiang et al., Interactive multimodal learning via flat gradient modification, IJCAI 2025 [Jiang2025].
    """

    code: ClassVar[str] = "EQ015"
    title: ClassVar[str] = "Sharpness differs between modalities"
    severity: ClassVar[Severity] = "note"
    page: ClassVar[str] = "docs/checks/eq015.md"
    ratio: Annotated[float, Within(above=1), "an order of magnitude; encoders of one kind differ by less"] = 10.0
    radius: Annotated[float, Within(above=0), "0.05, as in the paper, as a share of the weights' length"] = 0.05

    least: Annotated[float, Within(at_least=0), "a hundredth: a growth that moves no prediction"] = 0.01

    def run(self, subject: Subject) -> Iterable[Finding]:
        """Growth of the loss for each encoder, batch by batch."""
        subject.slow("takes gradients")
        names = subject.several()
        method = subject.twin().eval()
        growth: dict[str, list[float]] = {m: [] for m in names}
        for batch in subject.training_batches():
            if all(m in batch.inputs for m in names):
                for m in names:
                    growth[m].append(_growth(method, batch, m, self.radius))
        count = len(growth[names[0]])
        if count < _FEWEST:
            raise NotMeasured(f"needs {_FEWEST} training batches. Found {count}")
        means = {m: sum(values) / count for m, values in growth.items()}
        sharp, flat = max(means, key=lambda m: means[m]), min(means, key=lambda m: means[m])
        if means[sharp] < self.least * _constant_loss(method, subject.training_batches()[0]):
            return
        if means[flat] <= 0:
            raise NotApplicable(f"does not apply: the loss does not grow along the gradient at the encoder of {flat!r}")
        pairs = [(a, b) for a, b in zip(growth[sharp], growth[flat], strict=True) if a > 0 and b > 0]
        low, high = mean_interval([math.log(a / b) for a, b in pairs])
        if low > math.log(self.ratio):
            number = means[sharp] / means[flat]
            yield self.finding(
                number, self.ratio,
                f"Moving the encoder of {sharp!r} by {100 * self.radius:.0f} % of its length adds {means[sharp]:.3g} "
                f"to the loss, that of {flat!r} {means[flat]:.3g}: {number:.3g} times as much.",
                f"Look for flat minima: --options.sharpness.mode full; or take a method that does ({_ADVICE}).",
                interval=(math.exp(low), math.exp(min(high, 700.0))), where=f"{sharp}, {flat}",
            )  # fmt: skip


@torch.no_grad()
def _constant_loss(method: Method, batch: Batch) -> float:
    """The loss of a prediction that is the same for all samples."""
    output = method.combine(*method.outputs(batch.inputs, batch.present)).output
    return float(method.task.loss(constant(method.task, output), batch.target))  # type: ignore[arg-type]


def _growth(method: Method, batch: Batch, modality: str, radius: float) -> float:
    """How much the loss grows when the encoder's weights move along their gradient."""

    def loss() -> Tensor:
        found = method.combine(*method.outputs(batch.inputs, batch.present))
        return method.task.loss(found.output, batch.target)  # type: ignore[arg-type]

    parameters = [p for p in method.multimodal.parameters_of(modality) if p.requires_grad]
    first = loss()
    found = gradients(first, parameters)
    length = norm_of(found)
    if length == 0:
        return 0.0
    step = radius * norm_of([p.detach() for p in parameters]) / length
    with torch.no_grad():
        old = copies(parameters)
        for p, g in zip(parameters, found, strict=True):
            p.add_(g, alpha=step)
        grown = float(loss() - first)
        for p, q in zip(parameters, old, strict=True):
            p.copy_(q)
    return grown
