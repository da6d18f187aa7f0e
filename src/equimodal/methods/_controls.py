"""Controls without which no claim about a balancing method counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from equimodal.batch import Batch, Presence
from equimodal.engine import Descent, Engine, Objective, Phase, UpdateScale
from equimodal.errors import MethodError, UnsupportedError
from equimodal.inference import Rule, apply_rule
from equimodal.methods._base import EpochContext, Method, MethodInfo, StepReport
from equimodal.methods._heads import can_split, linear_heads, masked_loss, nothing, split_outputs, unimodal_phase
from equimodal.sharpness import Sharpness
from equimodal.tasks import Task

_ANY = "any number"
_MASKED = "supported per sample: absent rows are not encoded; the fusion fills them by its declared rule"
_OWN_ROWS = "supported per sample: each modality trains on the samples that have it"


class Joint(Method):
    r"""Plain joint training, :math:`L(\mathrm{head}(\mathrm{fuse}(h_1..h_M)), y)`: the reference of every comparison.

    Args:
        model: encoders, fusion and head; all of them are trained.
        task: gives the loss.
        sharpness: see :class:`~equimodal.Sharpness`.
        inference: ``"fused"`` reads the joint head. The other rules read unimodal outputs, which exist (split exactly)
            only with a linear head on Concat or Sum.
        calibrated: fit one temperature per modality on validation data.

    Raises:
        UnsupportedError: ``inference`` needs unimodal outputs and the head is not additive.

    Works with: any number of modalities, any fusion and head, absent modalities, every engine feature of
    :class:`~equimodal.PlainEngine`. Deviations: none.

    Example:
        >>> from equimodal import Classification, MultimodalModel
        >>> from equimodal.fusion import Concat
        >>> encoders = {"audio": nn.Linear(5, 4), "video": nn.Linear(3, 4)}
        >>> model = MultimodalModel(encoders, Concat({"audio": 4, "video": 4}), nn.Linear(8, 2))
        >>> Joint(model, Classification(2)).predict({"audio": torch.zeros(1, 5), "video": torch.zeros(1, 3)}).rule
        'fused'
    """

    info = MethodInfo(
        title="Joint training",
        paper="Control; no paper of its own.",
        equations="L(head(fuse(h_1, ..., h_M)), y)",
        family="objective",
        tasks=("classification",),
        modalities=_ANY,
        fusion="any",
        missing=_MASKED,
        cost="1 joint step, by definition",
        defaults={"inference": "the joint head is what this control trains"},
        deviations=("none",),
        released=("nothing was released",),
        consulted="none",
        control=True,
    )
    min_modalities = 1

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        sharpness: Sharpness | None = None,
        inference: Rule = "fused",
        calibrated: bool = False,
    ) -> None:
        super().__init__(model, task, sharpness=sharpness, inference=inference, calibrated=calibrated)
        if inference not in ("fused", "auto") and not self._has_unimodal():
            raise UnsupportedError(
                f"`inference`: {inference!r} needs unimodal outputs, which {type(self).__name__} has only with a linear "
                "head on Concat or Sum. Use inference='fused', or MultiLoss."
            )

    def _has_unimodal(self) -> bool:
        return can_split(self.multimodal)

    def _features(self, batch: Batch) -> dict[str, Tensor]:
        return self.multimodal.encode(batch.inputs, batch.present)

    def _joint_objective(self, batch: Batch) -> Objective:
        features = self._features(batch)
        output = self.multimodal.head(self.multimodal.fuse(features, batch.present))
        return Objective(self.task.loss(output, cast(Tensor, batch.target)))

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        """One: everything on the fused loss."""
        return [Phase("joint", self._joint_objective, list(self.model.parameters()))]

    def unimodal_outputs(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The exact split of an additive head; empty otherwise."""
        return split_outputs(self.multimodal, features) if can_split(self.multimodal) else {}


class MultiLoss(Joint):
    r"""Joint training plus one loss per modality, :math:`L(z, y) + \lambda \sum_m L(u_m, y)` with own linear heads.

    Args:
        model: encoders, fusion and head.
        task: gives the loss.
        weight: :math:`\lambda \ge 0`; 1 is usual in the literature.
        heads: modality -> module from (B, d_m) to (B, C); default one linear layer each.
        sharpness: see :class:`~equimodal.Sharpness`.
        inference: rule; default the joint head.
        calibrated: fit one temperature per modality on validation data.

    Deviations: none. Works with everything that :class:`Joint` works with.

    Example:
        >>> from equimodal import Batch, Classification, MultimodalModel, PlainEngine
        >>> from equimodal.fusion import Concat
        >>> encoders = {"audio": nn.Linear(5, 4), "video": nn.Linear(3, 4)}
        >>> model = MultimodalModel(encoders, Concat({"audio": 4, "video": 4}), nn.Linear(8, 2))
        >>> method = MultiLoss(model, Classification(2))
        >>> batch = Batch({"audio": torch.randn(6, 5), "video": torch.randn(6, 3)}, torch.tensor([0, 1] * 3))
        >>> report = method.training_step(batch, PlainEngine(torch.optim.SGD(method.parameters(), lr=0.1)))
        >>> sorted(report.losses)
        ['fused', 'joint', 'unimodal/audio', 'unimodal/video']
    """

    info = MethodInfo(
        title="Joint training with unimodal losses",
        paper="Control; part of many methods (G-Blend, MMPareto, QMF ...).",
        equations="L(z, y) + weight * sum_m L(u_m, y)",
        family="objective",
        tasks=("classification",),
        modalities=_ANY,
        fusion="any",
        missing=_MASKED,
        cost="1 joint step and M small heads",
        defaults={"weight": "1, as usual in the literature"},
        deviations=("none",),
        released=("nothing was released",),
        consulted="none",
        control=True,
    )

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        weight: float = 1.0,
        heads: Mapping[str, nn.Module] | None = None,
        sharpness: Sharpness | None = None,
        inference: Rule = "fused",
        calibrated: bool = False,
    ) -> None:
        super().__init__(model, task, sharpness=sharpness, inference=inference, calibrated=calibrated)
        if not weight >= 0:
            raise MethodError(f"`weight`: expected a number >= 0. Found {weight}.")
        self.weight = weight
        self.heads = linear_heads(self.multimodal, task, heads)

    def _has_unimodal(self) -> bool:
        return True

    def _objective(self, batch: Batch) -> Objective:
        features = self._features(batch)
        output = self.multimodal.head(self.multimodal.fuse(features, batch.present))
        fused = self.task.loss(output, cast(Tensor, batch.target))
        losses = {"fused": fused.detach()}
        total = fused
        for m, z in self.heads(features).items():
            own, _, _ = masked_loss(self.task, z, batch, m)
            total = total + self.weight * own
            losses[f"unimodal/{m}"] = own.detach()
        return Objective(total, losses)

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        """One: everything on the sum of losses."""
        return [Phase("joint", self._objective, [*self.model.parameters(), *self.heads.parameters()])]

    def unimodal_outputs(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs of the own heads."""
        outputs: dict[str, Tensor] = self.heads(features)
        return outputs


class Ensemble(Method):
    """Unimodal models trained independently and combined at prediction time (UME): no interaction, no competition.

    Each modality has its own head, loss, backward pass and step (clipping included), so with an elementwise optimizer
    this equals M separate trainings on the same batches. The model's fusion and head take no part.

    Args:
        model: gives the encoders.
        task: gives the loss.
        heads: modality -> module from (B, d_m) to (B, C); default one linear layer each.
        sharpness: see :class:`~equimodal.Sharpness`.
        inference: rule; default the mean of probabilities.
        calibrated: fit one temperature per modality on validation data.

    Deviations: one epoch is selected for the whole ensemble, not one per member.

    Example:
        >>> from equimodal import Classification, MultimodalModel
        >>> from equimodal.fusion import Concat
        >>> encoders = {"audio": nn.Linear(5, 4), "video": nn.Linear(3, 4)}
        >>> model = MultimodalModel(encoders, Concat({"audio": 4, "video": 4}), nn.Linear(8, 2))
        >>> method = Ensemble(model, Classification(2))
        >>> sorted(method.predict({"audio": torch.zeros(1, 5), "video": torch.zeros(1, 3)}).unimodal)
        ['audio', 'video']
    """

    info = MethodInfo(
        title="Unimodal ensemble (UME)",
        paper="Control; named UME in Du et al., On Uni-Modal Feature Learning in Supervised Multi-Modal Learning, "
        "ICML 2023, arXiv 2305.01233.",
        equations="mean over m of softmax(head_m(h_m)), each trained on its own loss",
        family="alternating",
        tasks=("classification",),
        modalities=_ANY,
        fusion="ignored",
        missing=_OWN_ROWS,
        cost="1 joint step (M unimodal ones)",
        defaults={"inference": "mean of probabilities"},
        deviations=("one epoch is selected for the whole ensemble, not one per member",),
        released=("nothing was released",),
        consulted="none",
        control=True,
    )
    min_modalities = 1

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        heads: Mapping[str, nn.Module] | None = None,
        sharpness: Sharpness | None = None,
        inference: Rule = "mean",
        calibrated: bool = False,
    ) -> None:
        _refuse_fused(type(self).__name__, inference)
        super().__init__(model, task, sharpness=sharpness, inference=inference, calibrated=calibrated)
        self.heads = linear_heads(self.multimodal, task, heads)

    def trained_modalities(self) -> tuple[str, ...]:
        """The modalities whose encoders this method trains."""
        return self.modalities

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        """One per modality."""
        for m in self.trained_modalities():
            yield unimodal_phase(self.multimodal, self.task, m, self.heads[m], nothing)

    def modify_gradients(
        self, phase: Phase, descent: Descent, engine: Engine, report: StepReport
    ) -> Sequence[UpdateScale]:
        """Only reports the training score."""
        report.scores[phase.name] = (descent.sums["numerator"] / descent.sums["denominator"]).mean()
        return ()

    def fused_output(self, features: Mapping[str, Tensor], present: Presence | None) -> Tensor | None:
        """None: there is no joint head."""
        return None

    def unimodal_outputs(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs of the own heads of the trained modalities."""
        outputs: dict[str, Tensor] = self.heads({m: h for m, h in features.items() if m in self.trained_modalities()})
        return outputs


class Unimodal(Ensemble):
    """One modality alone, with its own head: what that modality can do by itself.

    Args:
        model: gives the encoder.
        task: gives the loss.
        modality: which one; default the first.
        heads: modality -> module from (B, d_m) to (B, C); default one linear layer each.
        sharpness: see :class:`~equimodal.Sharpness`.

    Samples without the modality are left out in training; at prediction time they get uniform probabilities.

    Example:
        >>> from equimodal import Classification, MultimodalModel
        >>> from equimodal.fusion import Concat
        >>> encoders = {"audio": nn.Linear(5, 4), "video": nn.Linear(3, 4)}
        >>> model = MultimodalModel(encoders, Concat({"audio": 4, "video": 4}), nn.Linear(8, 2))
        >>> Unimodal(model, Classification(2), modality="video").trained_modalities()
        ('video',)
    """

    info = MethodInfo(
        title="One modality alone",
        paper="Control; no paper of its own.",
        equations="L(head_m(h_m), y)",
        family="objective",
        tasks=("classification",),
        modalities="one of any number",
        fusion="ignored",
        missing="samples without the modality are left out in training and get uniform probabilities at prediction time",
        cost="1/M joint step",
        defaults={"modality": "the first one"},
        deviations=("none",),
        released=("nothing was released",),
        consulted="none",
        control=True,
    )

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        modality: str | None = None,
        heads: Mapping[str, nn.Module] | None = None,
        sharpness: Sharpness | None = None,
    ) -> None:
        super().__init__(model, task, heads=heads, sharpness=sharpness)
        if modality is not None and modality not in self.modalities:
            raise MethodError(f"`modality`: expected one of {list(self.modalities)}. Found {modality!r}.")
        self.modality = modality or self.modalities[0]

    def trained_modalities(self) -> tuple[str, ...]:
        """The one modality."""
        return (self.modality,)

    def outputs(
        self, inputs: Mapping[str, Any], present: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor], Presence | None]:
        """Only the one modality is encoded, and only its presence counts."""
        presence = self.presence_of(inputs, present)
        mask = None if presence is None else presence.get(self.modality)
        own = None if mask is None else Presence({self.modality: mask})
        if self.modality not in inputs:
            size = 0 if mask is None else mask.shape[0]
            device = next(self.heads.parameters()).device
            return None, {self.modality: torch.zeros(size, self.task.outputs, device=device)}, None
        features = self.multimodal.encode(inputs, own, [self.modality])
        outputs = self.unimodal_outputs(features)
        if mask is not None:  # uniform, not left out: there is no other modality to ask
            z = outputs[self.modality]
            outputs = {self.modality: torch.where(mask[:, None], z, torch.zeros_like(z))}
        return None, outputs, None


class PretrainFinetune(Joint):
    """Unimodal training of every encoder first, then joint training from there.

    The first part of the epochs trains each encoder with a head of its own (as :class:`Ensemble`), the rest trains
    encoders, fusion and head on the fused loss (as :class:`Joint`), with fresh optimizer state. Needs
    ``on_train_epoch_start(EpochContext(epoch, epochs))`` before each epoch, which every engine adapter calls.

    Args:
        model: encoders, fusion and head.
        task: gives the loss.
        pretrain: share of the epochs in (0, 1) spent on the unimodal part; the whole budget equals the others'.
        freeze: keep the encoders fixed in the joint part.
        heads: modality -> module from (B, d_m) to (B, C); default one linear layer each.
        sharpness: see :class:`~equimodal.Sharpness`.
        inference: rule; default the joint head.
        calibrated: fit one temperature per modality on validation data.

    Raises:
        MethodError: an argument is out of range, or a step is asked for before the first epoch was announced.

    Example:
        >>> from equimodal import Classification, MultimodalModel
        >>> from equimodal.fusion import Concat
        >>> from equimodal.methods import EpochContext
        >>> encoders = {"audio": nn.Linear(5, 4), "video": nn.Linear(3, 4)}
        >>> model = MultimodalModel(encoders, Concat({"audio": 4, "video": 4}), nn.Linear(8, 2))
        >>> method = PretrainFinetune(model, Classification(2))
        >>> method.on_train_epoch_start(EpochContext(epoch=0, epochs=10))
        >>> method.pretraining
        True
    """

    info = MethodInfo(
        title="Unimodal pre-training, then joint training",
        paper="Control; no paper of its own.",
        equations="L(head_m(h_m), y) for the first epochs, then L(head(fuse(h)), y)",
        family="staged",
        tasks=("classification",),
        modalities=_ANY,
        fusion="any",
        missing=_MASKED,
        cost="1 joint step",
        defaults={"pretrain": "half of the budget (ours)", "freeze": "encoders are fine-tuned"},
        deviations=("the pre-training counts towards the budget, so that budgets match",),
        released=("nothing was released",),
        consulted="none",
        control=True,
    )

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        pretrain: float = 0.5,
        freeze: bool = False,
        heads: Mapping[str, nn.Module] | None = None,
        sharpness: Sharpness | None = None,
        inference: Rule = "fused",
        calibrated: bool = False,
    ) -> None:
        super().__init__(model, task, sharpness=sharpness, inference=inference, calibrated=calibrated)
        self.heads = linear_heads(self.multimodal, task, heads)
        if not 0 < pretrain < 1:
            raise MethodError(f"`pretrain`: expected a share in (0, 1). Found {pretrain}.")
        self.pretrain = pretrain
        self.freeze = freeze
        self.pretraining: bool | None = None

    def get_extra_state(self) -> dict[str, Any]:
        """Which part the training is in."""
        return {"pretraining": self.pretraining}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`get_extra_state` gave."""
        self.pretraining = state["pretraining"]

    def on_train_epoch_start(self, context: EpochContext) -> None:
        """Decide which part the epoch belongs to; at the change, optimizer state is forgotten."""
        if context.epochs is None:
            raise MethodError("`context.epochs`: PretrainFinetune needs the number of epochs. Found None.")
        before = self.pretraining
        self.pretraining = context.epoch < max(1, round(self.pretrain * context.epochs))
        if before and not self.pretraining and context.engine is not None:
            context.engine.reset_optimizer(self.parameters())

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        """One per modality, later one joint."""
        if self.pretraining is None:
            raise MethodError(
                "PretrainFinetune needs to know the epoch. Call method.on_train_epoch_start(EpochContext(epoch, epochs)) "
                "before each epoch."
            )
        if self.pretraining:
            for m in self.modalities:
                yield unimodal_phase(self.multimodal, self.task, m, self.heads[m], nothing)
            return
        frozen = {id(p) for m in self.modalities for p in self.multimodal.parameters_of(m)} if self.freeze else set()
        yield Phase("joint", self._joint_objective, [p for p in self.model.parameters() if id(p) not in frozen])

    def modify_gradients(
        self, phase: Phase, descent: Descent, engine: Engine, report: StepReport
    ) -> Sequence[UpdateScale]:
        """Only reports the training score of the unimodal part."""
        if phase.modality is not None:
            report.scores[phase.name] = (descent.sums["numerator"] / descent.sums["denominator"]).mean()
        return ()

    def unimodal_outputs(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The pre-training heads while they train; afterwards the exact split of an additive head."""
        if self.pretraining:
            outputs: dict[str, Tensor] = self.heads(features)
            return outputs
        return super().unimodal_outputs(features)

    def outputs(
        self, inputs: Mapping[str, Any], present: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor], Presence | None]:
        """In the unimodal part the joint head is untrained, so the mean of the unimodal outputs stands in for it."""
        fused, unimodal, presence = super().outputs(inputs, present)
        if self.pretraining:
            fused = apply_rule("mean", unimodal, presence)[0]
        return fused, unimodal, presence


class ModalityDropout(Joint):
    r"""Joint training in which each modality of a sample is dropped with probability q, never all of them.

    Survivors are rescaled by 1 / P(kept), so that the expected output of an additive head is that of the full model.
    Drops are made on features; a dropped modality's encoder gets no gradient from that sample.

    Args:
        model: encoders, fusion and head.
        task: gives the loss.
        probability: q in [0, 1); the literature uses 0.1 to 0.5.
        seed: of the method's own generator.
        sharpness: see :class:`~equimodal.Sharpness`.
        inference: rule; default the joint head.
        calibrated: fit one temperature per modality on validation data.

    Deviations: the rescaling uses the exact probability of being kept given that not all are dropped,
    :math:`(1-q)/(1-q^M)`, where the literature uses :math:`1-q`.

    Example:
        >>> from equimodal import Classification, MultimodalModel
        >>> from equimodal.fusion import Concat
        >>> encoders = {"audio": nn.Linear(5, 4), "video": nn.Linear(3, 4)}
        >>> model = MultimodalModel(encoders, Concat({"audio": 4, "video": 4}), nn.Linear(8, 2))
        >>> ModalityDropout(model, Classification(2), probability=0.3).draw(4).shape
        torch.Size([4, 2])
    """

    info = MethodInfo(
        title="Modality dropout",
        paper="Control; Neverova et al., ModDrop, TPAMI 2016, arXiv 1501.00102.",
        equations="h_m <- mask_m h_m / P(kept), mask ~ Bernoulli(1 - q), never all dropped",
        family="feed-forward",
        tasks=("classification",),
        modalities=_ANY,
        fusion="any",
        missing=_MASKED,
        cost="1 joint step",
        defaults={"probability": "0.2, inside the 0.1 to 0.5 of the literature (ours)"},
        deviations=("survivors are rescaled by the exact keep probability (1-q)/(1-q^M)",),
        released=("nothing was released",),
        consulted="none",
        control=True,
    )

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        probability: float = 0.2,
        seed: int = 0,
        sharpness: Sharpness | None = None,
        inference: Rule = "fused",
        calibrated: bool = False,
    ) -> None:
        super().__init__(model, task, sharpness=sharpness, inference=inference, calibrated=calibrated)
        if not 0 <= probability < 1:
            raise MethodError(f"`probability`: expected a number in [0, 1). Found {probability}.")
        self.probability = probability
        self._generator = torch.Generator().manual_seed(seed)
        self._kept: list[Tensor] = []
        self._batches: list[Batch] = []

    def get_extra_state(self) -> dict[str, Any]:
        """State of the method's generator."""
        return {"generator": self._generator.get_state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`get_extra_state` gave."""
        self._generator.set_state(state["generator"].cpu())

    def draw(self, size: int) -> Tensor:
        """(size, M) booleans: what is kept; every row keeps at least one. Drawn on the host."""
        shape = (size, len(self.modalities))
        kept = torch.rand(shape, generator=self._generator) >= self.probability
        while not bool(kept.any(1).all()):
            again = torch.rand(shape, generator=self._generator) >= self.probability
            kept = torch.where(kept.any(1, keepdim=True), kept, again)
        return kept

    def prepare(self, batches: list[Batch]) -> list[Batch]:
        """Draw the masks once per step, so that both passes of a sharpness-aware step see the same."""
        self._kept = [self.draw(len(batch)) for batch in batches]
        self._batches = batches
        return batches

    def _features(self, batch: Batch) -> dict[str, Tensor]:
        kept = self._kept[next(i for i, b in enumerate(self._batches) if b is batch)]
        kept = kept.to(next(self.parameters()).device, non_blocking=True)
        presence = batch.presence
        if presence is not None:  # a sample whose present modalities were all drawn keeps them
            full = torch.ones_like(kept[:, 0])
            available = torch.stack([presence.get(m, full) for m in self.modalities], dim=1)
            kept = kept | ~(kept & available).any(1, keepdim=True)
        scale = (1 - self.probability ** len(self.modalities)) / (1 - self.probability)
        features = self.multimodal.encode(batch.inputs, batch.present)
        return {m: h * (kept[:, self.modalities.index(m), None].to(h.dtype) * scale) for m, h in features.items()}


def _refuse_fused(name: str, inference: str) -> None:
    if inference == "fused":
        raise UnsupportedError(f"`inference`: {name} trains no joint head. Use mean, uncertainty, product or auto.")
