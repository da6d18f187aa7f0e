"""CGGM: classifiers on detached features guide magnitude and direction of the encoders' gradients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from equimodal._utils.arguments import check_number, one_of
from equimodal.batch import Batch
from equimodal.engine import (
    Descent,
    Engine,
    Objective,
    Phase,
    Sharpness,
    UpdateScale,
    cancels_scale,
    is_distributed,
    local,
    recorded_inputs,
)
from equimodal.errors import ModelError, OptimizerWarning
from equimodal.features import Width, single_width
from equimodal.functional import balance_terms, direction_loss
from equimodal.inference import Rule
from equimodal.methods._base import ALL_TASKS, Method, MethodInfo, StepReport, warn_if_frozen, warn_once
from equimodal.methods.parts import (
    Direction,
    Heads,
    LossShares,
    Seen,
    adapted,
    column_blocks,
    detached,
    output_layer,
    own_rows,
)
from equimodal.projection import input_width
from equimodal.tasks import Task, mean_ratio


class CGGM(Method):
    r"""Classifier-guided gradient modulation ([Guo2024]_, equations 4 to 11).

    One auxiliary classifier f_m per modality reads the detached features, so it learns from them without touching the
    encoder. How much its score :math:`\epsilon_m` improved tells which modality lags:

    .. math:: \delta_m = \epsilon_m^t - \epsilon_m^{t-1}, \quad B_m = \frac{S - \delta_m}{S}, \quad S = \sum_k \delta_k

    *Magnitude*: the gradient (or the update, see ``apply_to``) of encoder m is multiplied by :math:`\rho B_m`.
    *Direction*: with G the gradient of the task loss with respect to the output layer's weight and G_m that of
    f_m's own loss with respect to its output layer,
    :math:`L = L_{task} + \lambda \frac1M \sum_m (|B_m| - B_m \cos(G, G_m))`, B from the previous step. G is computed in
    closed form, :math:`G = r^\top u`, so the direction term has a true gradient and costs one small product.

    Args:
        model: any fusion; the head must end in an affine layer (linear, or a 1x1 convolution with pixels as rows).
        task: gives loss, score and residual.
        rho: :math:`\rho > 0`; 1.3 published for Food-101, MOSI and IEMOCAP (1.0 BraTS).
        direction_weight: :math:`\lambda \ge 0`; published 0.05 Food-101, 0.2 MOSI and IEMOCAP, 0.1 BraTS.
        magnitude: modulate the magnitude; ``False`` is the ablation.
        direction: ``"penultimate"`` (paper): f_m is d_m -> D -> C with D the width of the head's last input, so that G
            and G_m have one shape. ``"block"``: for a head of one linear layer (or 1x1 convolution) on Concat, f_m is
            linear and G_m is compared with m's column block of G. ``None`` is the ablation.
        direction_scope: where a batch comes in parts (micro-batches, processes): ``"batch"`` takes the cosine of the
            whole batch's gradients, for which micro-batches
            take a forward pass more; ``"part"`` averages the parts' cosines.
        window: pool the scores of this many batches before they are compared; 1 compares single batches (paper).
        momentum: of the moving average over windows, in [0, 1); 0 takes the scores as they are (paper).
        floor: added to each (clamped) improvement, see :func:`~equimodal.functional.balance_terms`. In the unit of the
            score; where that is the target's (minus the MAE of a regression), improvements are first divided by the
            mean size of the scores, which leaves the equation as it is.
        maximum: bound of B_m.
        threshold: below this sum of improvements all modalities count as equal.
        apply_to: ``"gradient"`` (paper) or ``"update"``, which scales the optimizer's step; ``"auto"`` takes the update
            for optimizers that would cancel a gradient scale (Adam and relatives) and the gradient otherwise.
        classifiers: modality -> module from its features to (B, C, ...) that ends in an affine layer, instead of the
            default.
        classifier_lr_ratio: learning rate of the classifiers relative to the model's in :meth:`parameter_groups`; 0.5
            is the published 5e-4 to 1e-3.
        variant: ``"paper"`` with the safe balance rule, or ``"released"``: raw differences of single-batch scores,
            scale on the gradient, and a direction term between weights, those of the batch before.
        sharpness: see :class:`~equimodal.Sharpness`.
        inference: ``"fused"`` (paper); the classifiers' outputs serve the other rules.
        calibrated: fit one temperature per modality on validation data.

    Raises:
        ModelError: the head does not end in an affine layer, or ``direction="block"`` without one such layer on Concat.
        MethodError: a hyperparameter is out of range.

    Warns:
        OptimizerWarning: ``apply_to="gradient"`` with an optimizer that cancels it.

    Absent modalities: a modality's classifier sees the samples that have it; in a batch without any its score keeps,
    and so does the score of a class or region that a window does not show.

    Deviations from the paper: the balance rule is made safe (clamped, pooled and averaged improvements: the raw B
    reaches 1e8 and flips gradients), and under Adam-type optimizers the update is scaled (each can be switched off).
    From the released code: there the cosine is between the weights of the output layers, not between their gradients,
    so the direction term turns the head's last layer and no encoder; for segmentation no parameter matches the names
    that it looks for.

    Works with: two modalities or more, any fusion, sharpness, accumulation, several processes. Cost: 1 joint step and M
    small heads; with accumulation one forward pass more, unless ``direction_scope="part"``.

    References:
        .. [Guo2024] Classifier-guided Gradient Modulation for Enhanced Multimodal Learning, NeurIPS 2024,
           arXiv 2411.01409.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from equimodal import Batch, Classification, MultimodalModel, PlainEngine
        >>> from equimodal.fusion import Concat
        >>> encoders = {"audio": nn.Linear(5, 4), "video": nn.Linear(3, 4)}
        >>> model = MultimodalModel(encoders, Concat({"audio": 4, "video": 4}), nn.Linear(8, 2))
        >>> method = CGGM(model, Classification(2), rho=1.3)
        >>> engine = PlainEngine(torch.optim.SGD(method.parameter_groups(lr=0.1)), clip_norm=0.8)
        >>> batch = Batch({"audio": torch.randn(6, 5), "video": torch.randn(6, 3)}, torch.tensor([0, 1] * 3))
        >>> {m: round(float(b), 2) for m, b in method.training_step(batch, engine).coefficients["balance"].items()}
        {'audio': 0.5, 'video': 0.5}
    """

    info = MethodInfo(
        title="Classifier-guided gradient modulation",
        paper="Guo et al., Classifier-guided Gradient Modulation for Enhanced Multimodal Learning, NeurIPS 2024, "
        "arXiv 2411.01409",
        equations="balance term (6), magnitude (7), direction loss (10, 11), total loss (11)",
        family="gradient modulation",
        tasks=ALL_TASKS,
        modalities="two or more",
        fusion="any; the head must end in an affine layer",
        missing="supported per sample: each classifier sees the samples that have its modality",
        cost="1 joint step and M small heads on detached features; one forward pass more with accumulation",
        defaults={
            "rho": "1.3, paper (Food-101, MOSI, IEMOCAP)",
            "direction_weight": "0.2, paper (MOSI, IEMOCAP)",
            "magnitude": "on, paper",
            "direction": "penultimate, as the released models do implicitly",
            "direction_scope": "batch (ours): parts count as one batch",
            "floor": "1e-3 (ours), an improvement of a tenth of a point",
            "maximum": "1 (ours): the clamped rule never exceeds it",
            "threshold": "1e-8 (ours)",
            "window": "ours, see deviations",
            "momentum": "ours, see deviations",
            "apply_to": "auto: paper's gradient scale where the optimizer keeps it, else the update",
            "classifier_lr_ratio": "0.5, paper 5e-4 to 1e-3",
        },
        deviations=(
            "improvements are pooled over a window, averaged and clamped before the balance term, which is bounded",
            "under optimizers that cancel a gradient scale the update is scaled instead",
        ),
        released=(
            "the cosine is taken between parameters, not between their gradients",
            "so the direction term has a gradient for the head's last layer only, and for no encoder; it acts one "
            "batch late",
            "for segmentation no parameter matches the names it looks for, so the magnitude part does nothing",
            "raw per-batch balance terms",
        ),
        consulted="paper; zrguo/CGGM (src/foodtrain.py, src/msatrain.py, src/segtrain.py), read for facts",
        featured=True,
        engine={
            "processes, trainer, accumulation, sharded: direction_scope='part'": "differs: cosines are averaged over "
            "the parts"
        },
    )

    score_average: Tensor
    seen: Tensor
    numerators: Tensor
    denominators: Tensor
    balance: Tensor
    turn: Tensor

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        rho: float = 1.3,
        direction_weight: float = 0.2,
        magnitude: bool = True,
        direction: Literal["penultimate", "block"] | None = "penultimate",
        direction_scope: Literal["batch", "part"] = "batch",
        window: int = 10,
        momentum: float = 0.5,
        floor: float = 1e-3,
        maximum: float = 1.0,
        threshold: float = 1e-8,
        apply_to: Literal["auto", "gradient", "update"] = "auto",
        classifiers: Mapping[str, nn.Module] | None = None,
        classifier_lr_ratio: float = 0.5,
        variant: Literal["paper", "released"] = "paper",
        sharpness: Sharpness | None = None,
        inference: Rule = "fused",
        calibrated: bool = False,
    ) -> None:
        super().__init__(model, task, sharpness=sharpness, inference=inference, calibrated=calibrated)
        one_of("direction", direction, ("penultimate", "block", None))
        one_of("direction_scope", direction_scope, ("batch", "part"))
        one_of("apply_to", apply_to, ("auto", "gradient", "update"))
        one_of("variant", variant, ("paper", "released"))
        check_number("rho", rho, above=0)
        check_number("floor", floor, above=0)
        check_number("maximum", maximum, above=0)
        check_number("threshold", threshold, at_least=0)
        check_number("direction_weight", direction_weight, at_least=0)
        check_number("classifier_lr_ratio", classifier_lr_ratio, above=0)
        check_number("window", window, at_least=1, whole=True)
        check_number("momentum", momentum, at_least=0, below=1)
        released = variant == "released"
        self.rho, self.direction_weight, self.magnitude = rho, direction_weight, magnitude
        self.direction = "penultimate" if released else direction
        self.direction_scope = direction_scope
        self.window, self.momentum = (1, 0.0) if released else (window, momentum)
        self.floor, self.maximum, self.threshold = floor, maximum, threshold
        self.apply_to = "gradient" if released else apply_to
        self.classifier_lr_ratio = classifier_lr_ratio
        self.variant: Literal["paper", "released"] = variant
        last = output_layer(self.multimodal.head)
        blocks = column_blocks(self.multimodal, last) if self.direction == "block" else None
        width = input_width(last)
        self.classifiers = Heads(self.multimodal, classifiers, lambda d: self._default_classifier(d, width))
        self._direction = Direction(task, last, {m: output_layer(self.classifiers[m]) for m in self.modalities}, blocks)
        if self.direction == "penultimate":
            for m, layer in self._direction.own.items():
                if input_width(layer) != width:
                    raise ModelError(
                        f"`classifiers[{m!r}]`: expected a last layer of {width} inputs, as the model's head has. "
                        f"Found {input_width(layer)}. Use direction='block' or None, or that width."
                    )
        count = len(self.modalities)
        table, device = (count, task.score_size), last.weight.device
        dtype = torch.promote_types(last.weight.dtype, torch.float32)
        for name in ("score_average", "numerators", "denominators"):
            self.register_buffer(name, torch.zeros(table, dtype=dtype, device=device))
        self.register_buffer("seen", torch.zeros(table, dtype=torch.bool, device=device))
        self.register_buffer("balance", torch.full((count,), (count - 1) / count, dtype=dtype, device=device))
        if released:
            self.register_buffer("turn", torch.zeros_like(last.weight))
        self._batches, self._windows = 0, 0
        warn_if_frozen(self, "CGGM cannot modulate it.")

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

    def get_extra_state(self) -> dict[str, Any]:
        """How many batches and windows have been seen."""
        return {"batches": self._batches, "windows": self._windows}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`get_extra_state` gave."""
        self._batches, self._windows = state["batches"], state["windows"]

    # ---- training ---------------------------------------------------------------------------------------------------

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        """One: model and classifiers in a single backward pass; the classifiers see detached features."""
        objective = partial(self._objective, LossShares(self.task, batches, self.modalities))
        whole = self._turns_direction and self.direction_scope == "batch"
        survey = self._direction.survey(self._forward, self.balance, self.direction_weight) if whole else None
        trained, auxiliary = list(self.model.parameters()), list(self.classifiers.parameters())
        return [Phase("joint", objective, trained, auxiliary, survey=survey)]

    def _forward(self, batch: Batch) -> tuple[Seen, dict[str, Seen]]:
        """The head on fused features and each classifier on detached ones, with the inputs of their output layers."""
        features = self.multimodal.encode(batch.inputs, batch.present)
        fused = self.multimodal.fuse(features, batch.present)
        with recorded_inputs([self._direction.layer], detach=False) as seen:
            output = self.multimodal.head(fused)
        own: dict[str, Seen] = {}
        for m in [m for m in self.modalities if m in features]:
            with recorded_inputs([self._direction.own[m]]) as inputs:
                z = self.classifiers[m](detached(features[m]))
            rows, labels = own_rows(z, batch, m)
            present = batch.rows(m)
            own[m] = Seen(rows, labels, inputs[0][-1] if present is None else inputs[0][-1].index_select(0, present))
        return Seen(output, cast(Tensor, batch.target), seen[0][-1]), own

    def _objective(self, shares: LossShares, batch: Batch) -> Objective:
        fused, own = self._forward(batch)
        task_loss = shares.loss(fused.output, fused.target, batch)
        total, losses, sums = task_loss, {"task": task_loss.detach()}, {}
        for m, seen in own.items():
            unimodal = shares.loss(seen.output, seen.target, batch, m)
            total = total + unimodal
            losses[f"unimodal/{m}"] = unimodal.detach()
            if seen.output.shape[0]:
                terms = self.task.score_terms(seen.output.detach(), seen.target)
                sums[f"numerator/{m}"], sums[f"denominator/{m}"] = terms
        if not self._turns_direction:
            return Objective(total, losses, sums)
        if self.direction_scope == "batch" and self._direction.whole is None and is_distributed():
            return Objective(total, losses, sums, self._direction.sums(fused, own))  # the survey adds it
        direction = self._direction.loss(fused, own, self.balance)
        if direction is not None:
            total = total + self.direction_weight * direction
            losses["direction"] = direction.detach()
        return Objective(total, losses, sums)

    @property
    def _turns_direction(self) -> bool:
        return self.variant == "paper" and self.direction is not None and self.direction_weight > 0

    def _turn_of_weights(self) -> Tensor:
        """Gradient of the released direction term: as the paper's, with weights in the place of their gradients."""
        weight = self._direction.layer.weight.detach().requires_grad_()
        with torch.enable_grad():
            own = [layer.weight.detach() for layer in self._direction.own.values()]
            direction = direction_loss(weight, own, self.balance.to(weight.dtype))
        (gradient,) = torch.autograd.grad(self.direction_weight * direction, weight)
        return gradient

    def modify_gradients(
        self, phase: Phase, descent: Descent, engine: Engine, report: StepReport
    ) -> Sequence[UpdateScale]:
        """g_m <- rho B_m g_m, or the same factor on the update."""
        gradient = self._direction.layer.weight.grad
        if self.variant == "released" and gradient is not None:
            gradient.add_(self.turn)  # of the batch before
        self._update_balance(descent, engine, report)
        if self.variant == "released":
            self.turn.copy_(self._turn_of_weights())
        # exactly rho (M-1)/M where all are equal: a neutral rho then leaves gradients as they are, bit for bit
        count = len(self.modalities)
        scale = self.balance.float() / ((count - 1) / count) * (self.rho * (count - 1) / count)
        report.coefficients["balance"] = dict(zip(self.modalities, self.balance.clone().unbind(), strict=True))
        if not self.magnitude:
            return ()
        report.coefficients["scale"] = dict(zip(self.modalities, scale.unbind(), strict=True))
        scales = []
        of = {m: [p for p in self.multimodal.parameters_of(m) if p.grad is not None] for m in self.modalities}
        cancelled = {m: cancels_scale(engine.optimizers, parameters) for m, parameters in of.items()}
        if any(cancelled.values()) and self.apply_to == "gradient":
            warn_once(
                self,
                "apply_to='gradient': an Adam-type optimizer divides by the size of the gradient and so cancels CGGM's "
                "scale. Use apply_to='update', or SGD.",
                OptimizerWarning,
            )
        for m, factor in zip(self.modalities, scale.unbind(), strict=True):
            parameters = of[m]
            if cancelled[m] if self.apply_to == "auto" else self.apply_to == "update":
                scales.append(UpdateScale(parameters, factor))
            elif parameters:
                gradients = [local(p.grad) for p in parameters if p.grad is not None]
                torch._foreach_mul_(gradients, factor.to(parameters[0].dtype))
        return scales

    @torch.no_grad()
    def _update_balance(self, descent: Descent, engine: Engine, report: StepReport) -> None:
        zero = torch.zeros_like(self.numerators[0])
        names = [f"{kind}/{m}" for kind in ("numerator", "denominator") for m in self.modalities]
        # in the buffers' type, as in a checkpoint, from which a run continues bit for bit
        sums = engine.all_sum({n: descent.sums.get(n, zero).to(zero.dtype) for n in names})
        numerator, denominator = torch.stack([sums[n] for n in names]).chunk(2)
        for position, m in enumerate(self.modalities):
            if f"numerator/{m}" in descent.sums:  # a batch without any sample of it says nothing
                report.scores[m] = mean_ratio(numerator[position], denominator[position])
        if self._batches == 0:
            self.numerators, self.denominators = numerator, denominator
        else:
            self.numerators, self.denominators = self.numerators + numerator, self.denominators + denominator
        self._batches += 1
        if self._batches < self.window:
            return
        known = self.denominators > 0
        score = torch.where(known, self.numerators, 0) / torch.where(known, self.denominators, 1)
        # the first score of a modality has nothing to be compared with; the released code compares it with 0
        compared = known & self.seen if self.variant == "paper" else known
        change = torch.where(compared, (1 - self.momentum) * (score - self.score_average), 0)
        average = torch.where(known & ~compared, score, self.score_average + change)
        improvement = change.sum(1) / compared.sum(1).clamp_min(1)
        if self.variant == "paper" and getattr(self.task, "relative_score", False):
            improvement = improvement / average.abs().mean().clamp_min(torch.finfo(average.dtype).tiny)
        self.balance.copy_(
            balance_terms(improvement, self.variant, floor=self.floor, maximum=self.maximum, threshold=self.threshold)
        )
        self.score_average.copy_(average)
        self.seen.logical_or_(known)
        self._batches, self._windows = 0, self._windows + 1

    def unimodal_outputs(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs of the auxiliary classifiers."""
        outputs: dict[str, Tensor] = self.classifiers(features)
        return outputs
