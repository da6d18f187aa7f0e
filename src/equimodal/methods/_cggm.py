"""CGGM: classifiers on detached features guide magnitude and direction of the encoders' gradients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from equimodal._utils.modules import parameters_in
from equimodal.batch import Batch
from equimodal.engine import Descent, Engine, Objective, Phase, Sharpness
from equimodal.features import Width, single_width
from equimodal.inference import Rule
from equimodal.methods._base import Method, Scales, Stateful, StepReport, warn_if_frozen
from equimodal.methods._info import UPDATES, MethodInfo
from equimodal.methods._options import Within, check_options
from equimodal.methods.parts import Direction, Heads, ScoreProgress, adapted, output_layer, scale_encoders
from equimodal.methods.released import CGGM_RELEASED, turn_of_weights
from equimodal.projection import input_width
from equimodal.tasks import Task


class CGGM(Stateful, Method):
    r"""Classifier-guided gradient modulation (Guo et al., NeurIPS 2024, equations 4 to 11).

    One auxiliary classifier f_m per modality reads the detached features, so it learns from them without touching the
    encoder. How much its score :math:`\epsilon_m` improved tells which modality lags:

    .. math:: \delta_m = \epsilon_m^t - \epsilon_m^{t-1}, \quad B_m = \frac{S - \delta_m}{S}, \quad S = \sum_k \delta_k

    *Magnitude*: the gradient (or the update, see ``apply_to``) of encoder m is multiplied by :math:`\rho B_m`.
    *Direction*: with G the gradient of the task loss with respect to the output layer's weight and G_m that of
    f_m's own loss with respect to its output layer,
    :math:`L = L_{task} + \lambda \frac1M \sum_m (|B_m| - B_m \cos(G, G_m))`, B from the previous step. G is computed in
    closed form, :math:`G = r^\top u`, so the direction term has a true gradient and costs one small product.

    Args:
        rho: :math:`\rho > 0`; 1.0 published for BraTS. ``None`` is M / (M - 1), with which a balanced model trains as
            joint training does.
        direction_weight: :math:`\lambda \ge 0`; published 0.05 Food-101, 0.2 MOSI and IEMOCAP, 0.1 BraTS.
        magnitude: modulate the magnitude; ``False`` is the ablation.
        direction: ``"penultimate"``: f_m is d_m -> D -> C with D the width of the head's last input, so that G and G_m
            have one shape. ``"block"``: for a head of one linear layer (or 1x1 convolution) on Concat, f_m is
            linear and G_m is compared with m's column block of G. ``None`` is the ablation.
        direction_scope: where a batch comes in parts (micro-batches, processes): ``"batch"`` takes the cosine of the
            whole batch's gradients, for which micro-batches take a forward pass more; ``"part"`` averages the parts'
            cosines.
        window: pool the scores of this many batches before they are compared; 1 compares single batches (paper).
        momentum: of the moving average over windows; 0 takes the scores as they are (paper).
        floor: added to each (clamped) improvement, see :func:`~equimodal.functional.balance_terms`. In the unit of the
            score; where that is the target's (minus the MAE of a regression), improvements are first divided by the
            mean size of the scores, which leaves the equation as it is.
        maximum: bound of B_m.
        threshold: below this sum of improvements all modalities count as equal.
        apply_to: ``"gradient"`` (paper), ``"update"``, which scales the optimizer's step, or ``"auto"``.
        classifiers: modality -> module from its features to (B, C, ...) that ends in an affine layer, instead of the
            default.
        classifier_lr_ratio: learning rate of the classifiers relative to the model's in :meth:`parameter_groups`.
        ratio: largest ratio between the B of two modalities; of ``variant="bounded"``.
        variant: ``"paper"`` with the safe balance rule. ``"bounded"`` (ours) favours a modality only as far as it can
            still gain, by :func:`~equimodal.functional.bounded_balance`: the paper's rule holds the only useful
            modality back for one that is noise. ``"released"``: raw differences of single-batch scores, scale on the
            gradient, and a direction term between weights, those of the batch before.

    Raises:
        ModelError: the head does not end in an affine layer, or ``direction="block"`` without one such layer on Concat.

    Warns:
        OptimizerWarning: ``apply_to="gradient"`` with an optimizer that cancels it.
    """

    info = MethodInfo(
        title="Classifier-guided gradient modulation",
        idea="classifiers on detached features set size and direction of each encoder's gradient",
        paper="Guo et al., Classifier-guided Gradient Modulation for Enhanced Multimodal Learning, NeurIPS 2024, "
        "arXiv 2411.01409",
        equations="balance term (6), magnitude (7), direction loss (10, 11), total loss (11)",
        family="gradient modulation",
        fusion="any; the head must end in an affine layer",
        missing="supported per sample: each classifier sees the samples that have its modality; where a window shows "
        "none of a modality, a class or a region, its score keeps",
        cost="1 joint step and M small heads on detached features; one forward pass more with accumulation, unless "
        "direction_scope='part'",
        deviations=(
            "improvements are pooled over a window, averaged and clamped before the balance term, which is bounded: "
            "the raw B reaches 1e8 and flips gradients",
            UPDATES,
        ),
        released=CGGM_RELEASED,
        consulted="paper; zrguo/CGGM (src/foodtrain.py, src/msatrain.py, src/segtrain.py)",
        featured=True,
        engine={
            "processes, trainer, accumulation, sharded: direction_scope='part'": "differs: cosines are averaged over "
            "the parts"
        },
    )
    state = ("progress.batches", "progress.windows")
    former_names = tuple(
        (n, f"progress.{n}") for n in ("score_average", "seen", "numerators", "denominators", "balance")
    )
    turn: Tensor

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        rho: Annotated[float | None, Within(above=0), "paper (Food-101, MOSI, IEMOCAP)"] = 1.3,
        direction_weight: Annotated[float, Within(at_least=0), "paper (MOSI, IEMOCAP)"] = 0.2,
        magnitude: Annotated[bool, "paper"] = True,
        direction: Annotated[
            Literal["penultimate", "block"] | None, "paper; as the released models do implicitly"
        ] = "penultimate",
        direction_scope: Annotated[Literal["batch", "part"], "ours: parts count as one batch"] = "batch",
        window: Annotated[int, Within(at_least=1, whole=True), "ours, see deviations"] = 10,
        momentum: Annotated[float, Within(at_least=0, below=1), "ours, see deviations"] = 0.5,
        floor: Annotated[float, Within(above=0), "ours: an improvement of a tenth of a point"] = 1e-3,
        maximum: Annotated[float, Within(above=0), "ours: the clamped rule never exceeds it"] = 1.0,
        threshold: Annotated[float, Within(at_least=0), "ours"] = 1e-8,
        ratio: Annotated[float, Within(at_least=1), "ours"] = 2.0,
        apply_to: Annotated[
            Literal["auto", "gradient", "update"],
            "paper's, where the optimizer keeps a gradient scale",
        ] = "auto",
        classifiers: Mapping[str, nn.Module] | None = None,
        classifier_lr_ratio: Annotated[float, Within(above=0), "paper 5e-4 to 1e-3"] = 0.5,
        variant: Literal["paper", "bounded", "released"] = "paper",
        sharpness: Sharpness | None = None,
        inference: Annotated[Rule, "paper; the classifiers' outputs serve the other rules"] = "fused",
        calibrated: bool = False,
    ) -> None:
        super().__init__(model, task, sharpness=sharpness, inference=inference, calibrated=calibrated)
        check_options(CGGM.__init__, locals())
        released = variant == "released"
        if released:
            direction, window, momentum, apply_to = "penultimate", 1, 0.0, "gradient"
        neutral = len(self.modalities) / (len(self.modalities) - 1)
        self.rho = neutral if rho is None else rho
        self.direction_weight, self.magnitude = direction_weight, magnitude
        self.direction, self.direction_scope = direction, direction_scope
        self.apply_to, self.classifier_lr_ratio = apply_to, classifier_lr_ratio
        self.variant: Literal["paper", "bounded", "released"] = variant
        last = output_layer(self.multimodal.head, "CGGM")
        width = input_width(last)
        self.classifiers = Heads(self.multimodal, classifiers, lambda d: self._default_classifier(d, width))
        self.direction_term = Direction(self.multimodal, task, self.classifiers, kind=direction, scope=direction_scope,
                                    weight=0.0 if released else direction_weight)  # fmt: skip
        self.progress = ScoreProgress(
            self.modalities, task, window=window, momentum=momentum, floor=floor, maximum=maximum, threshold=threshold,
            variant=variant, ratio=ratio, like=last.weight,
        )  # fmt: skip
        if released:
            self.register_buffer("turn", torch.zeros_like(last.weight))
        warn_if_frozen(self, "CGGM cannot modulate it.")

    @classmethod
    def recommended(cls, task: Task) -> dict[str, Any]:
        """Also: the bounded balance rule, and the scale with which a balanced model trains as joint training does."""
        return super().recommended(task) | {"rho": None, "variant": "bounded"}

    def _default_classifier(self, features: Width, width: int) -> nn.Module:
        size, outputs = single_width(features, "feature_sizes"), self.task.outputs
        body: nn.Module = nn.Linear(size, outputs)
        if self.direction == "penultimate":
            body = nn.Sequential(nn.Linear(size, width), nn.ReLU(), nn.Linear(width, outputs))
        return adapted(body, self.task)

    def parameter_groups(self, lr: float | None = None) -> list[dict[str, Any]]:
        """Model and classifiers, the latter at ``classifier_lr_ratio`` times the rate."""
        groups: list[dict[str, Any]] = [
            {"params": [p for p in self.model.parameters() if p.requires_grad]},
            {"params": list(self.classifiers.parameters())},
        ]
        if lr is not None:
            groups[0]["lr"], groups[1]["lr"] = lr, lr * self.classifier_lr_ratio
        return groups

    # ---- training ---------------------------------------------------------------------------------------------------

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        """One: model and classifiers in a single backward pass; the classifiers see detached features."""
        survey = self.direction_term.survey(self.progress.balance)
        trained, auxiliary = parameters_in(self.model), parameters_in(self.classifiers)
        return [Phase("joint", self._objective, trained, auxiliary, survey=survey)]

    def _objective(self, batch: Batch) -> Objective:
        fused, own = self.direction_term.forward(batch)
        total = self.loss(fused.output, batch)
        losses = {"task": total.detach()}
        sums: dict[str, Tensor] = {}
        for m, seen in own.items():
            unimodal = self.loss(seen.output, batch, m)
            total = total + unimodal
            losses[f"unimodal/{m}"] = unimodal.detach()
            if seen.output.shape[0]:
                sums |= {f"{kind}/{m}": v for kind, v in self.score_sums(seen.output, batch, m).items()}
        term = self.direction_term
        if term.waits:  # on several processes the survey adds it
            return Objective(total, losses, sums, term.sums(fused, own))
        turned = term.loss(fused, own, self.progress.balance)
        if turned is None:
            return Objective(total, losses, sums)
        total = torch.add(total, turned, alpha=term.weight)
        return Objective(total, {**losses, "direction": turned.detach()}, sums)

    def modify_gradients(self, phase: Phase, descent: Descent, engine: Engine, report: StepReport) -> Scales:
        """g_m <- rho B_m g_m, or the same factor on the update."""
        progress, released = self.progress, self.variant == "released"
        if released and (gradient := self.direction_term.layer.weight.grad) is not None:
            gradient.add_(self.turn)  # of the batch before
        progress.update(descent.sums, engine, report)
        if released:
            self.turn.copy_(turn_of_weights(self.direction_term, progress.balance, self.direction_weight))
        report.coefficients["balance"], factors = progress.factors(self.rho)
        return scale_encoders(self, engine, report, factors, self.apply_to) if self.magnitude else ()

    def unimodal_outputs(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs of the auxiliary classifiers."""
        outputs: dict[str, Tensor] = self.classifiers(features)
        return outputs
