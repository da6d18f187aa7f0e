"""MIE (IGM): sharpness-aware forward phase, flat gradient modification between modalities in the backward phase."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from equimodal._utils.arguments import check_number, one_of
from equimodal.batch import Batch, Presence
from equimodal.engine import (
    Descent,
    Engine,
    Objective,
    Phase,
    Sharpness,
    UpdateScale,
    all_sum,
    is_distributed,
    recorded_inputs,
)
from equimodal.errors import MethodError, ScheduleWarning, UnsupportedError
from equimodal.functional import uncentred_covariance_sum
from equimodal.inference import Rule
from equimodal.methods._base import (
    ALL_TASKS,
    EpochContext,
    Method,
    MethodInfo,
    StepReport,
    evaluating,
    record_score,
    trainable,
    warn_if_frozen,
    warn_once,
)
from equimodal.methods._validation import Validation
from equimodal.methods.parts import (
    Heads,
    LossShares,
    Stages,
    branch_phase,
    check_mixable,
    like_model,
    mixup,
    published_head,
    reset_optimizer,
)
from equimodal.methods.released import ENGINE, released_loss
from equimodal.projection import FlatBank, Key, branch_layers, corresponding, layer_inputs, project_gradient
from equimodal.tasks import Task


class MIE(Method):
    r"""Modal-aware interactive enhancement, published as IGM ([Jiang2025]_, equations 3 to 10).

    One branch per modality, an encoder and a classifier d -> 256 -> 64 -> C of its own (for a segmentation, of which
    nothing is published, d -> C at each position); the prediction is the mean of the branches' softmax. Only the active
    modality trains.

    *Forward phase*: the gradient used is :math:`(1-a)\, g + a\, g'`, g' taken at
    :math:`\theta_m + \rho\, g/\|g\|_2` (:class:`~equimodal.Sharpness`).

    *Backward phase*: every linear layer of the active branch that corresponds to one of the other modalities' branches
    uses :math:`G \leftarrow G P`, where P damps the directions in which the other modalities' features vary most,

    .. math:: C = \frac1N \sum_n u_n u_n^\top = V\,\mathrm{diag}(\lambda)\,V^\top, \quad
        P = V\,\mathrm{diag}\!\left(e^{-\tau (\lambda - \lambda_{min})/(\lambda_{max} - \lambda_{min})}\right) V^\top

    Layers correspond by position among those of equal weight shape, classifier with classifier, encoder with encoder.

    Args:
        model: gives the encoders. Its fusion and head take no part.
        task: gives the loss.
        sam: ``"full"`` (paper, 2 passes), ``"every_k"``, ``"momentum"`` (1 pass) or ``None`` (ablation).
        radius: :math:`\rho`; 0.05, the default of SAM. The published configuration files say 1e-10, which perturbs
            nothing.
        flat_ratio: a; 0.3 published.
        sam_every: k of ``every_k``.
        projection: multiply by P; ``False`` is the ablation.
        temperature: :math:`\tau`; 0.4 published.
        sources: ``"others"``: P from the average covariance of all other modalities visited so far; ``"previous"``: of
            the one visited just before. The same for two modalities.
        layers: ``"classifier"``, ``"linear"`` (classifier and encoder; convolutions off, as only linear layers have any
            effect in the released code) or ``"all"`` (convolutions too, by unfolded patches).
        alternate: ``"batch"`` (every modality steps on every batch; covariances are gathered while training and
            projectors refreshed once per epoch), ``"epoch"`` (one modality per epoch) or ``"stage"`` (paper: see
            ``stage_epochs``).
        stage_epochs: lengths of the stages in epochs, repeated over the modalities; (25, 50) published for CREMA-D.
            Each stage starts from the best model so far with fresh optimizer state, and the covariances of the modality
            before are collected in evaluation mode in a pass over the training data.
        mixup_alpha: parameter of the Beta distribution of mixup on inputs and targets (one-hot for classes); 1.0
            published, 0 is off (default, so that methods are compared on equal data). Not for segmentation, whose label
            maps cannot be mixed.
        heads: modality -> classifier, instead of the published one.
        seed: of the mixup generator.
        variant: ``"paper"``, or ``"released"``: perturbation 1e-10 per tensor and never undone, the second loss
            re-evaluates only the classifier on features from before the perturbation, covariances of batch means, and a
            layer is multiplied by the P of EVERY layer of equal shape.
        inference: ``"mean"`` (paper), ``"uncertainty"``, ``"product"`` or ``"auto"``.
        calibrated: fit one temperature per modality on validation data.

    Raises:
        MethodError: a hyperparameter is out of range; with ``"epoch"`` or ``"stage"``, a step before
            ``on_train_epoch_start``.

    Absent modalities: each branch trains on the samples that have its modality.

    Deviations from the paper: ``alternate="batch"`` is our default (no extra pass over the data, fits any budget of
    epochs), and mixup is off. From the released code: see ``variant``; it also chooses its best model on the test set.

    Works with: two modalities or more, any encoders. Cost: 2 joint steps with ``sam="full"``, about 1 otherwise.

    References:
        .. [Jiang2025] Interactive multimodal learning via flat gradient modification, IJCAI 2025, arXiv 2407.04587.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from equimodal import Batch, Classification, MultimodalModel, PlainEngine
        >>> from equimodal.fusion import Concat
        >>> encoders = {"audio": nn.Linear(5, 4), "video": nn.Linear(3, 4)}
        >>> model = MultimodalModel(encoders, Concat({"audio": 4, "video": 4}), nn.Linear(8, 2))
        >>> method = MIE(model, Classification(2), sam="momentum")
        >>> engine = PlainEngine(torch.optim.SGD(method.parameters(), lr=0.1, momentum=0.9))
        >>> batch = Batch({"audio": torch.randn(6, 5), "video": torch.randn(6, 3)}, torch.tensor([0, 1] * 3))
        >>> sorted(method.training_step(batch, engine).losses)
        ['audio', 'video']
    """

    info = MethodInfo(
        title="Modal-aware interactive enhancement (published as IGM)",
        paper="Interactive multimodal learning via flat gradient modification, IJCAI 2025, arXiv 2407.04587",
        equations="sharpness-aware objective of the forward phase, covariance, flat projector and modified gradient of "
        "the backward phase",
        family="alternating, gradient projection, sharpness-aware",
        tasks=ALL_TASKS,
        modalities="two or more",
        fusion="ignored; one classifier per modality",
        missing="supported per sample: each branch trains on the samples that have its modality",
        cost="2 joint steps with sam='full', about 1 with 'momentum' or None",
        defaults={
            "sam": "full, paper",
            "radius": "0.05, Foret et al. 2021; the published 1e-10 has no effect",
            "flat_ratio": "0.3, released configuration files",
            "sam_every": "5 (ours); only used by sam='every_k'",
            "projection": "on, paper",
            "sources": "others, paper: all modalities visited before",
            "layers": "linear: the only ones that the released code multiplies",
            "temperature": "0.4, released configuration files",
            "stage_epochs": "(25, 50), released configuration of CREMA-D",
            "alternate": "batch (ours), see deviations",
            "mixup_alpha": "0 (ours); 1.0 in the released configuration of CREMA-D",
        },
        complete={"mixup_alpha": "mixing two samples needs every modality in both"},
        deviations=(
            "alternation by batch is the default; alternate='stage' is the paper's schedule",
            "mixup is off by default, so that methods are compared on equal data",
            "with alternation by batch or epoch covariances are gathered in training mode",
        ),
        released=(
            "the perturbation is 1e-10 (1e-15 for three datasets), per tensor, and never undone",
            "the second loss re-evaluates only the classifier, on features from before the perturbation",
            "the covariance is that of the batch mean, collected for all convolutions but used for linear layers only",
            "a layer is multiplied by the projector of every earlier layer of equal shape",
            "the best model is chosen on the test set",
        ),
        consulted="paper; njustkmg/IJCAI25-IGM (train_CREMA.py, models/AudioVideo.py, configs), read for facts",
        engine=ENGINE,
    )

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        sam: Literal["full", "every_k", "momentum"] | None = "full",
        radius: float = 0.05,
        flat_ratio: float = 0.3,
        sam_every: int = 5,
        projection: bool = True,
        temperature: float = 0.4,
        sources: Literal["others", "previous"] = "others",
        layers: Literal["classifier", "linear", "all"] = "linear",
        alternate: Literal["batch", "epoch", "stage"] = "batch",
        stage_epochs: Sequence[int] = (25, 50),
        mixup_alpha: float = 0.0,
        heads: Mapping[str, nn.Module] | None = None,
        seed: int = 0,
        variant: Literal["paper", "released"] = "paper",
        inference: Rule = "mean",
        calibrated: bool = False,
    ) -> None:
        one_of("sam", sam, ("full", "every_k", "momentum", None))
        check_number("radius", radius, above=0)
        check_number("flat_ratio", flat_ratio, at_least=0, at_most=1)
        check_number("sam_every", sam_every, at_least=1, whole=True)
        check_number("temperature", temperature, at_least=0)
        check_number("mixup_alpha", mixup_alpha, at_least=0)
        check_number("seed", seed, whole=True)
        released = variant == "released"
        sharpness = Sharpness(sam, radius=radius, ratio=flat_ratio, every=sam_every) if sam and not released else None
        if inference == "fused":
            raise UnsupportedError("`inference`: MIE trains no joint head. Use mean, uncertainty, product or auto.")
        super().__init__(model, task, sharpness=sharpness, inference=inference, calibrated=calibrated)
        one_of("sources", sources, ("others", "previous"))
        one_of("layers", layers, ("classifier", "linear", "all"))
        one_of("alternate", alternate, ("batch", "epoch", "stage"))
        one_of("variant", variant, ("paper", "released"))
        self.projection, self.temperature, self.alternate = projection, temperature, alternate
        self.sources: Literal["others", "previous"] = sources
        self.stages, self.mixup_alpha = Stages(stage_epochs), mixup_alpha
        self.variant, self.flat_ratio = variant, flat_ratio
        if mixup_alpha > 0:
            check_mixable(task)
        self.heads = Heads(self.multimodal, heads, lambda width: published_head(width, task))
        self._layers = corresponding({m: branch_layers(self.model, m, self.heads[m], layers) for m in self.modalities})
        self.flat = FlatBank(self._layers)
        like_model(self.flat, self.multimodal)
        self._plasticity: dict[str, Tensor] = {}
        self._generator = torch.Generator().manual_seed(seed)
        self._active: str | None = None  # None: every modality
        self._known_epoch = alternate == "batch"
        self._refreshed, self._steps = False, 0
        warn_if_frozen(self, "MIE trains only its classifier.")

    def get_extra_state(self) -> dict[str, Any]:
        """Position in the schedule, the best model so far (for stages) and the mixup generator."""
        own = {"generator": self._generator.get_state(), "stages": self.stages.state_dict()}
        return own | {n: getattr(self, n) for n in ("_active", "_known_epoch", "_refreshed", "_steps", "_plasticity")}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`get_extra_state` gave."""
        rest = dict(state)
        self._generator.set_state(rest.pop("generator").cpu())
        self.stages.load_state_dict(rest.pop("stages"))
        for name, value in rest.items():
            setattr(self, name, value)

    def prepare(self, batches: list[Batch]) -> list[Batch]:
        """Mixup, once per step, so that both passes see the same."""
        alpha = self.mixup_alpha
        mixed = [mixup(b, alpha, self.task, self._generator) for b in batches] if alpha > 0 else batches
        self._unmixed = list(zip(mixed, batches, strict=True))
        return mixed

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        """One per active modality: all of them, or the one whose epoch or stage it is."""
        if not self._known_epoch:
            raise MethodError(
                f"MIE(alternate={self.alternate!r}) needs to know the epoch. Call "
                "method.on_train_epoch_start(EpochContext(epoch, loader=...)) before each epoch."
            )
        if self.variant == "released" and is_distributed():
            raise UnsupportedError(
                "`variant`: 'released' leaves each process at weights of its own, perturbed along its own gradient. "
                "Use one process, or variant='paper'."
            )
        self._steps += 1
        if self.projection and self.alternate == "batch" and self._steps == 1000 and not self._refreshed:
            message = (
                "MIE's projectors are refreshed by on_train_epoch_end, which was not called in 1000 steps, so no "
                "gradient is projected. Call method.on_train_epoch_end(EpochContext(epoch)) after each epoch."
            )
            warn_once(self, message, ScheduleWarning)
        active = self.modalities if self._active is None else (self._active,)
        shares = LossShares(self.task, batches, active, alone=True)
        for m in active:
            yield self._phase(m, shares)

    def _phase(self, modality: str, shares: LossShares) -> Phase:
        gather = self.projection and self.alternate != "stage"

        def objective(own: Batch, target: Tensor, batch: Batch) -> Objective:
            feature, output, sums = self._forward(modality, own, gather)
            loss = shares.loss(output, target, batch, modality)
            sums["numerator"], sums["denominator"] = self.task.score_terms(output.detach(), target)
            if self.variant == "released":
                loss = self._released_loss(modality, loss, feature, batch)
            return Objective(loss, {}, sums)

        return branch_phase(self.multimodal, modality, self.heads[modality], objective)

    def _forward(self, modality: str, own: Batch, gather: bool) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Features and output of a branch and, if wanted, the second moments of its layers' inputs."""
        layers = list(self._layers[modality].values()) if gather else []
        with recorded_inputs(layers) as seen:
            feature = self.multimodal.encode(own.inputs, None, [modality])[modality]
            output = self.heads[modality](feature)
        sums: dict[str, Tensor] = {}
        for number, (layer, inputs) in enumerate(zip(layers, seen, strict=True)):
            if self.variant == "released":  # the covariance of the batch mean
                inputs = [x.mean(0, keepdim=True) for x in inputs]
            if inputs:
                total, count = uncentred_covariance_sum(torch.cat([layer_inputs(layer, x) for x in inputs]))
                sums[f"square/{number}"], sums[f"count/{number}"] = total, torch.full_like(total[0, :1], count)
        return feature, output, sums

    def _add(self, modality: str, sums: Mapping[str, Tensor]) -> None:
        """Add second moments to the running covariances (summed over processes when projectors are refreshed)."""
        for number, key in enumerate(self._layers[modality]):
            if f"square/{number}" in sums:
                self.flat.covariance(modality, key).add_sum(sums[f"square/{number}"], sums[f"count/{number}"])

    def _released_loss(self, modality: str, loss: Tensor, feature: Tensor, batch: Batch) -> Tensor:
        plain = next((plain for mixed, plain in self._unmixed if mixed is batch), batch).only(modality)
        target = cast(Tensor, batch.target if plain is None else plain.target)
        branch = trainable([*self.multimodal.parameters_of(modality), *self.heads[modality].parameters()])
        sharp = lambda: self.task.loss(self.heads[modality](feature), target)  # noqa: E731
        return released_loss(loss, sharp, branch, self.flat_ratio)

    def modify_gradients(
        self, phase: Phase, descent: Descent, engine: Engine, report: StepReport
    ) -> Sequence[UpdateScale]:
        """G <- G P for every corresponding layer."""
        modality = phase.name
        record_score(report, modality, descent)
        if not self.projection:
            return ()
        for key, layer in self._layers[modality].items():
            for matrix in self._projectors_of(modality, key):
                project_gradient(layer, matrix)
        if modality in self._plasticity:
            report.extras[f"plasticity/{modality}"] = self._plasticity[modality]
        return ()

    def _projectors_of(self, modality: str, key: Key) -> list[Tensor]:
        if self.variant == "paper":
            return [self.flat.projector(modality, key).matrix]
        same = [k for k in self._layers[modality] if k[1] == key[1]]
        return [self.flat.projector(modality, k).matrix for k in same]

    def after_step(self, phase: Phase, descent: Descent, engine: Engine, report: StepReport) -> None:
        """Add the batch to the running covariances."""
        self._add(phase.name, descent.sums)

    def on_train_epoch_start(self, context: EpochContext) -> None:
        """Choose the active modality; at a new stage: covariances of the last one, best model, fresh optimizer."""
        self._known_epoch = True
        if self.alternate == "stage":
            self._enter_stage(context)
            return
        self._active = None if self.alternate == "batch" else self.modalities[context.epoch % len(self.modalities)]
        for m in self.modalities if self._active is None else (self._active,):
            self.flat.reset(m)

    def on_train_epoch_end(self, context: EpochContext) -> None:
        """Refresh the projectors from the covariances gathered while training."""
        if self.projection and self.alternate != "stage":
            self._refresh(context)

    def _refresh(self, context: EpochContext) -> None:
        self._plasticity = self.flat.refresh(self.temperature, all_sum, self.sources)
        self._refreshed = True

    def _enter_stage(self, context: EpochContext) -> None:
        stage = self.stages.of(context.epoch)
        if stage == self.stages.current:
            return
        previous, self.stages.current = self._active, stage
        self._active = self.modalities[stage % len(self.modalities)]
        if previous is None:
            return
        self.stages.restore(self.state_dict())
        if self.projection:
            self._collect(previous, context)
            self._refresh(context)
        reset_optimizer(self, context)

    @torch.no_grad()
    def _collect(self, modality: str, context: EpochContext) -> None:
        """Covariances of one branch over the training data, in evaluation mode."""
        if context.loader is None:
            raise MethodError(
                "`context.loader`: MIE(alternate='stage') passes over the training data between stages. Found None. "
                "Give EpochContext(epoch, loader=train_loader), or use alternate='epoch' or 'batch'."
            )
        self.flat.reset(modality)
        device = next(self.parameters()).device
        with evaluating(self):
            for raw in context.loader:
                batch = self.check_batch(raw).to(device)
                own = batch.only(modality) if modality in batch.inputs else None
                if own is not None:
                    _, _, sums = self._forward(modality, own, gather=True)
                    self._add(modality, sums)

    def on_validation_end(self, validation: Validation | float) -> None:
        """Remember the best model so far, from which the next stage starts."""
        if self.alternate == "stage":
            model, heads = self.model.state_dict(prefix="model."), self.heads.state_dict(prefix="heads.")
            self.stages.remember(float(validation), {**model, **heads})

    def fused_output(self, features: Mapping[str, Tensor], present: Presence | None) -> Tensor | None:
        """None: there is no joint head."""
        return None

    def unimodal_outputs(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs of the branches."""
        outputs: dict[str, Tensor] = self.heads(features)
        return outputs
