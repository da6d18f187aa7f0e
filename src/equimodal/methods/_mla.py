"""MLA: one shared head, alternating unimodal steps, orthogonal gradient projection, fusion by uncertainty."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from equimodal._utils.arguments import check_number, one_of
from equimodal.batch import Batch, Presence
from equimodal.engine import Descent, Engine, Objective, Phase, Sharpness, UpdateScale, all_sum, recorded_inputs
from equimodal.errors import ModelError, ScheduleWarning, UnsupportedError
from equimodal.functional import fuse, product_weights, uncentred_covariance_sum
from equimodal.inference import Prediction, Rule
from equimodal.methods._base import (
    ALL_TASKS,
    EpochContext,
    Method,
    MethodInfo,
    StepReport,
    record_score,
    warn_if_frozen,
    warn_once,
)
from equimodal.methods.parts import LossShares, branch_phase, default_head, like_model
from equimodal.projection import (
    FlatBank,
    OrthogonalProjector,
    corresponding,
    input_width,
    layer_inputs,
    project_gradient,
    projectable_layers,
)
from equimodal.tasks import Task, distribution_of


class MLA(Method):
    r"""Multimodal learning with alternating unimodal adaptation ([Zhang2024]_, equations 3 to 9).

    All modalities share one head g. In every batch each modality takes a step of its own; the gradient of the head's
    weight is multiplied by a projector P that removes the feature directions the head has learnt from the modalities
    visited before:

    .. math:: G_W \leftarrow G_W P, \qquad k = \frac{P \bar h_m^\top}{\alpha + \bar h_m P \bar h_m^\top},
        \qquad P \leftarrow P - k\,(\bar h_m P)

    P starts as the identity and takes in :math:`\bar h_m`, the batch mean of m's features, only AFTER m's step; the
    bias is not projected. At prediction time each sample weighs its modalities by
    :math:`w_m = \mathrm{softmax}_m(-e_m)`, :math:`e_m` the entropy of :math:`p_m`.

    Args:
        model: gives the encoders, all of one feature width d. Its fusion and head take no part.
        task: gives the loss.
        head: the shared head, features -> (B, C, ...); a deeper head gets one projector per linear layer or 1x1
            convolution (positions are its rows). Default ``nn.Linear(d, C)``, as published, on whatever features the
            encoders give; one output per position in a segmentation.
        projector: ``"orthogonal"`` (paper); ``"flat"`` damps the dominant directions of the other modalities' features
            instead of removing them (MIE's spectrum); ``None`` is the ablation.
        alpha: :math:`\alpha_0` of the published schedule :math:`\alpha = \alpha_0^{1 + b/B}`, b the batch in an epoch
            of B.
        alpha_schedule: ``"epoch"`` (paper) or ``"constant"``. The schedule needs B: from ``on_train_epoch_start``.
        alpha_scale: ``"absolute"`` (paper) or ``"relative"``, which multiplies alpha by the running mean of
            :math:`|\bar h|^2`, whose unit alpha has.
        projector_reset: ``"never"`` (paper), ``"epoch"``, or ``"cycle"`` (after every batch). A projector that is never
            reset loses rank over long runs; ``report.extras["plasticity/..."]`` is trace(P)/d.
        temperature: :math:`\tau` of the flat spectrum; refreshed at the end of each epoch.
        order: ``"fixed"`` (paper) or ``"shuffled"`` per batch.
        seed: of the shuffling generator.
        variant: ``"paper"``, or ``"released"``: what the authors' repository computes. There the projection never runs
            and one weight per BATCH is formed from entropies whose softmax runs over the batch axis, so a prediction
            depends on which samples share its batch.
        sharpness: see :class:`~equimodal.Sharpness`.
        inference: ``None`` is ``"uncertainty"`` (paper), from the entropy per sample, per pixel of a segmentation, per
            label, or from the predicted variance of ``Regression(loss="gaussian_nll")``; and ``"mean"`` for other
            regressions, whose numbers say nothing about their uncertainty. Or ``"mean"``, ``"product"``,
            ``"precision"``, ``"auto"``.
        calibrated: fit one temperature per modality on validation data before entropies are compared (beyond the
            paper).

    Raises:
        ModelError: feature widths differ, or the head has no linear layer to project.
        MethodError: a hyperparameter is out of range.
        UnsupportedError: the task does not allow the inference rule, or has no released variant.

    Absent modalities: samples without m do not enter its loss, its feature mean or the fusion.

    Deviations from the paper: none in the defaults. From the released code: it computes no projection at all (see
    ``variant``), chooses its best epoch on the test set, and would, if it ran, divide P by its norm at each update.

    Works with: two modalities or more, any encoders with equal feature width, sharpness, accumulation, several
    processes. Cost: about 1 joint step.

    References:
        .. [Zhang2024] Multimodal Representation Learning by Alternating Unimodal Adaptation, CVPR 2024, arXiv
        2311.10707.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from equimodal import Batch, Classification, MultimodalModel, PlainEngine
        >>> from equimodal.fusion import Concat
        >>> from equimodal.methods import EpochContext
        >>> encoders = {"audio": nn.Linear(5, 4), "video": nn.Linear(3, 4)}
        >>> model = MultimodalModel(encoders, Concat({"audio": 4, "video": 4}), nn.Linear(8, 2))
        >>> method = MLA(model, Classification(2))
        >>> method.on_train_epoch_start(EpochContext(epoch=0, steps=1))
        >>> engine = PlainEngine(torch.optim.SGD(method.parameters(), lr=0.1))
        >>> batch = Batch({"audio": torch.randn(6, 5), "video": torch.randn(6, 3)}, torch.tensor([0, 1] * 3))
        >>> sorted(method.training_step(batch, engine).losses)
        ['audio', 'video']
    """

    info = MethodInfo(
        title="Multimodal learning with alternating unimodal adaptation",
        paper="Zhang et al., Multimodal Representation Learning by Alternating Unimodal Adaptation, CVPR 2024, "
        "arXiv 2311.10707",
        equations="shared head and alternation (3, 4), projector update and projected gradient (5, 6), entropy weights "
        "and fusion (7 to 9)",
        family="alternating, gradient projection, inference rule",
        tasks=ALL_TASKS,
        modalities="two or more",
        fusion="ignored; encoders of equal feature width and one shared head",
        missing="supported per sample: each modality trains on the samples that have it and drops out of the fusion",
        cost="about 1 joint step: M encoder passes, M head passes, one rank-1 update per modality",
        defaults={
            "projector": "orthogonal, paper equation 5",
            "alpha": "0.1, paper schedule 0.1^(1 + b/B)",
            "alpha_schedule": "epoch, paper",
            "alpha_scale": "absolute, paper",
            "projector_reset": "never, paper",
            "order": "fixed, paper",
            "temperature": "0.4, MIE paper; only used by projector='flat'",
            "inference": "None: uncertainty, paper equations 7 to 9, where the task predicts any",
        },
        deviations=("none in the defaults; every option beyond the paper is off",),
        released=(
            "the gradient modification never runs: it looks for a parameter name that the layer it is given does "
            "not have",
            "if it ran, k would lack its division, P would be divided by its norm, and would be updated before "
            "the step",
            "the entropy is taken over the batch axis: one weight per batch instead of one per sample",
            "the best epoch is chosen on the test set",
        ),
        consulted="paper; Cecile-hi/Multimodal-Learning-with-Alternating-Unimodal-Adaptation (main.py, "
        "utils/utils.py), "
        "read for facts",
        featured=True,
    )

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        head: nn.Module | None = None,
        projector: Literal["orthogonal", "flat"] | None = "orthogonal",
        alpha: float = 0.1,
        alpha_schedule: Literal["epoch", "constant"] = "epoch",
        alpha_scale: Literal["absolute", "relative"] = "absolute",
        projector_reset: Literal["never", "epoch", "cycle"] = "never",
        temperature: float = 0.4,
        order: Literal["fixed", "shuffled"] = "fixed",
        seed: int = 0,
        variant: Literal["paper", "released"] = "paper",
        sharpness: Sharpness | None = None,
        inference: Rule | None = None,
        calibrated: bool = False,
    ) -> None:
        if inference == "fused":
            raise UnsupportedError("`inference`: MLA trains no joint head. Use uncertainty, mean, product or auto.")
        if inference is None:
            inference = "mean" if distribution_of(task) == "point" else "uncertainty"
        super().__init__(model, task, sharpness=sharpness, inference=inference, calibrated=calibrated)
        one_of("projector", projector, ("orthogonal", "flat", None))
        one_of("alpha_schedule", alpha_schedule, ("epoch", "constant"))
        one_of("alpha_scale", alpha_scale, ("absolute", "relative"))
        one_of("projector_reset", projector_reset, ("never", "epoch", "cycle"))
        one_of("order", order, ("fixed", "shuffled"))
        one_of("variant", variant, ("paper", "released"))
        if variant == "released" and task.name != "classification":
            raise UnsupportedError(
                f"`variant`: the released code of MLA weighs class predictions only. Found the task {task.name!r}. "
                "Use variant='paper'."
            )
        check_number("alpha", alpha, above=0, below=1)
        check_number("temperature", temperature, at_least=0)
        check_number("seed", seed, whole=True)
        widths = dict(self.multimodal.feature_sizes)
        if len(set(widths.values())) != 1:
            raise ModelError(
                f"`model`: MLA's shared head needs encoders of equal feature width. Found {widths}. "
                "Add a linear layer to the encoders that differ."
            )
        self.head = default_head(next(iter(widths.values())), task) if head is None else head
        like_model(self.head, self.multimodal)
        self.projector = None if variant == "released" else projector
        self.alpha, self.alpha_schedule, self.alpha_scale = alpha, alpha_schedule, alpha_scale
        self.projector_reset, self.temperature = projector_reset, temperature
        self.order, self.variant = order, variant
        self._layers = projectable_layers(self.head, pointwise=True)
        if self.projector is not None and not self._layers:
            raise ModelError(
                "`head`: expected at least one linear layer whose gradient can be projected. Found none in "
                f"{type(self.head).__name__}. Use projector=None."
            )
        wanted = self._layers if self.projector == "orthogonal" else []
        self._projectors = [OrthogonalProjector(input_width(layer)) for layer in wanted]
        self.projectors = nn.ModuleList(self._projectors)  # registers them; the list keeps their type
        keyed = corresponding({m: {"head": self._layers} for m in self.modalities})
        self._keys = list(keyed[self.modalities[0]])
        self.flat = FlatBank(keyed) if self.projector == "flat" else None
        for bank in (self.projectors, self.flat):
            if bank is not None:
                like_model(bank, self.multimodal)
        self._flat_plasticity: dict[str, Tensor] = {}
        self._generator = torch.Generator().manual_seed(seed)
        self._batch, self._batches = 0, None if alpha_schedule == "epoch" else 1
        warn_if_frozen(self, "MLA trains only the shared head on it.")

    def get_extra_state(self) -> dict[str, Any]:
        """Position in the epoch and the state of the shuffling generator."""
        own = {"batch": self._batch, "batches": self._batches, "generator": self._generator.get_state()}
        return own | {"plasticity": dict(self._flat_plasticity)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`get_extra_state` gave."""
        self._batch, self._batches = state["batch"], state["batches"]
        self._generator.set_state(state["generator"].cpu())
        self._flat_plasticity = dict(state["plasticity"])

    # ---- training ---------------------------------------------------------------------------------------------------

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        """One per modality, in a fixed or shuffled order."""
        shares = LossShares(self.task, batches, self.modalities, alone=True)
        positions = range(len(self.modalities))
        if self.order == "shuffled":
            positions = torch.randperm(len(self.modalities), generator=self._generator).tolist()  # type: ignore[assignment]
        for position in positions:
            yield self._phase(self.modalities[position], shares)
        self._end_of_batch()

    def _phase(self, modality: str, shares: LossShares) -> Phase:
        def objective(own: Batch, target: Tensor, batch: Batch) -> Objective:
            feature = self.multimodal.encode(own.inputs, None, [modality])[modality]
            with recorded_inputs(self._layers if self.projector is not None else []) as seen:
                output = self.head(feature)
            loss = shares.loss(output, target, batch, modality)
            numerator, denominator = self.task.score_terms(output.detach(), target)
            sums = {"numerator": numerator, "denominator": denominator}
            for number, (layer, inputs) in enumerate(zip(self._layers, seen, strict=False)):
                rows = torch.cat([layer_inputs(layer, x) for x in inputs])
                if self.projector == "orthogonal":
                    sums[f"rows/{number}"] = (rows if rows.dtype == torch.float64 else rows.float()).sum(0)
                else:
                    sums[f"square/{number}"], _ = uncentred_covariance_sum(rows)
                sums[f"count/{number}"] = torch.full_like(numerator[:1], rows.shape[0])
            return Objective(loss, {}, sums)

        return branch_phase(self.multimodal, modality, self.head, objective)

    def modify_gradients(
        self, phase: Phase, descent: Descent, engine: Engine, report: StepReport
    ) -> Sequence[UpdateScale]:
        """G_W <- G_W P."""
        record_score(report, phase.name, descent)
        if self.projector == "orthogonal":
            for layer, projector in zip(self._layers, self._projectors, strict=True):
                project_gradient(layer, projector.matrix)
        elif self.flat is not None:
            for layer, key in zip(self._layers, self._keys, strict=True):
                project_gradient(layer, self.flat.projector(phase.name, key).matrix)
        return ()

    def after_step(self, phase: Phase, descent: Descent, engine: Engine, report: StepReport) -> None:
        """Show the projector this modality's mean feature, once its step is done."""
        if self.flat is not None:  # covariances are summed over processes when the projectors are refreshed
            for number, key in enumerate(self._keys if descent.sums else ()):
                covariance = self.flat.covariance(phase.name, key)
                covariance.add_sum(descent.sums[f"square/{number}"], descent.sums[f"count/{number}"])
            if phase.name in self._flat_plasticity:
                report.extras[f"plasticity/{phase.name}"] = self._flat_plasticity[phase.name]
        if self.projector != "orthogonal":
            return
        zeros: dict[str, Tensor] = {}  # for a process of which no sample takes part
        for number, projector in enumerate(self.projectors):
            row = cast(OrthogonalProjector, projector).matrix[0]
            zeros[f"rows/{number}"], zeros[f"count/{number}"] = torch.zeros_like(row), torch.zeros_like(row[:1])
        sums = engine.all_sum({k: descent.sums.get(k, zero).to(zero.dtype) for k, zero in zeros.items()})
        for number, projector in enumerate(self._projectors):
            mean = sums[f"rows/{number}"] / sums[f"count/{number}"]
            strength = projector.update(mean, self.current_alpha(), self.alpha_scale == "relative")
            report.extras[f"plasticity/{number}"] = projector.plasticity()
            report.extras[f"alpha_over_energy/{number}"] = strength

    def current_alpha(self) -> float:
        r""":math:`\alpha_0^{1 + b/B}` at the current batch b of an epoch of B."""
        if self.alpha_schedule == "constant":
            return self.alpha
        if self._batches is None:
            warn_once(
                self,
                "MLA's alpha schedule does not know the number of steps per epoch, so alpha stays at its start. Call "
                "method.on_train_epoch_start(EpochContext(epoch, steps=...)), or use alpha_schedule='constant'.",
                ScheduleWarning,
            )
            return self.alpha
        return float(self.alpha ** (1 + min(self._batch, self._batches) / self._batches))

    def _end_of_batch(self) -> None:
        self._batch += 1
        if self.projector_reset == "cycle":
            self._reset()

    def _reset(self) -> None:
        for projector in self._projectors:
            projector.reset()

    def on_train_epoch_start(self, context: EpochContext) -> None:
        """Start of the alpha schedule; the projector is reset here with ``projector_reset="epoch"``."""
        self._batch = 0
        if self.alpha_schedule == "epoch":
            self._batches = context.steps if context.steps else self._batches
        if self.projector_reset == "epoch":
            self._reset()

    def on_train_epoch_end(self, context: EpochContext) -> None:
        """Flat projectors of each modality are made from the covariances of all the others."""
        if self.flat is None:
            return
        self._flat_plasticity = self.flat.refresh(self.temperature, all_sum)
        for modality in self.modalities:
            self.flat.reset(modality)

    # ---- outputs ----------------------------------------------------------------------------------------------------

    def fused_output(self, features: Mapping[str, Tensor], present: Presence | None) -> Tensor | None:
        """None: there is no joint head."""
        return None

    def unimodal_outputs(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The shared head's output for each modality's features."""
        return {m: self.head(h) for m, h in features.items()}

    def combine(
        self, fused: Tensor | None, unimodal: Mapping[str, Tensor], present: Mapping[str, Tensor] | None
    ) -> Prediction:
        """As :meth:`Method.combine`; ``variant="released"`` forms one weight per batch."""
        prediction = super().combine(fused, unimodal, present)
        if self.variant != "released" or prediction.rule != "uncertainty":
            return prediction
        weights = released_batch_weights(prediction.unimodal, present)
        output = fuse(prediction.unimodal, weights).clamp_min(1e-30).log()
        return Prediction(output, prediction.unimodal, weights, prediction.rule)


def released_batch_weights(
    unimodal: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """The authors' released weights: entropies with softmax over the BATCH axis, summed over the whole batch.

    Kept to reproduce published numbers. A prediction then depends on the other samples of its batch.
    """
    equal = product_weights(unimodal, present)  # 0 where absent: such rows count in no entropy and get no weight
    entropies = []
    for m, z in unimodal.items():
        log_p = torch.log_softmax(z[equal[m] > 0].float(), dim=0)
        entropies.append(-(log_p.exp() * log_p).sum())
    e = torch.stack(entropies)
    shares = torch.softmax(e.amax() - e, dim=0)
    raw = {m: share * (equal[m] > 0) for m, share in zip(unimodal, shares, strict=True)}
    total = torch.stack(list(raw.values())).sum(0)
    return {m: w / total for m, w in raw.items()}
