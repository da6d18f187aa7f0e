"""The base of every method: the way of a batch, the moments, the reports."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from equimodal.batch import Batch, Presence, Tree, batch_size_of, tree_tensors
from equimodal.engine import Descent, Engine, Phase, Sharpness, UpdateScale, reshard
from equimodal.errors import BatchError, EquimodalWarning, MethodError, ModelError
from equimodal.inference import Inference, Prediction, Rule
from equimodal.methods._epochs import EpochContext as EpochContext
from equimodal.methods._info import MASKED as MASKED
from equimodal.methods._info import OWN_ROWS as OWN_ROWS
from equimodal.methods._info import MethodInfo as MethodInfo
from equimodal.methods._validation import Validation
from equimodal.model import Multimodal, check_parts, is_batch_of_one, one_sample_error
from equimodal.tasks import Task, distribution_of, mean_ratio
from equimodal.unimodal import Way, unimodal_outputs

_MEMBERS = ("modalities", "feature_sizes", "head", "encode", "fuse", "parameters_of")
ALL_TASKS = ("classification", "multilabel", "regression", "segmentation")

BatchLike = Batch | Mapping[str, Any] | tuple[Any, Any]


@dataclass
class StepReport:
    """What happened in one step, as detached tensors on the training device; reading one synchronises, so read rarely.

    Args:
        losses: name -> scalar.
        scores: modality -> scalar, the training score of its unimodal output where the method computes one.
        coefficients: name -> modality -> scalar, what the method multiplied or weighted with.
        extras: further scalars (remaining plasticity, gradient norms ...).
        phases: names of the phases that were stepped, in order; their losses are in ``losses``, beside parts of them.
    """

    losses: dict[str, Tensor] = field(default_factory=dict)
    scores: dict[str, Tensor] = field(default_factory=dict)
    coefficients: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    extras: dict[str, Tensor] = field(default_factory=dict)
    phases: list[str] = field(default_factory=list)

    @property
    def loss(self) -> Tensor:
        """Sum of the phases' losses; 0 where no sample took part in any."""
        values = [self.losses[name].float() for name in self.phases]
        return torch.stack(values).sum() if values else torch.zeros(())


class Method(nn.Module):
    """A way of training (and reading) a multimodal model, wrapped around it.

    Subclasses implement :meth:`phases` and, where they have them, :meth:`modify_gradients`, :meth:`after_step`,
    :meth:`unimodal_outputs` and :meth:`fused_output`. They never know which engine runs them.

    Args:
        model: a :class:`~equimodal.MultimodalModel` or any module with the members of :class:`~equimodal.Multimodal`.
        task: for example :class:`~equimodal.Classification`.
        sharpness: a :class:`~equimodal.Sharpness`, or ``None`` for plain gradients.
        inference: rule that turns outputs into a prediction, see :class:`~equimodal.inference.Inference`.
        calibrated: fit one temperature per modality on validation data.
        unimodal: where unimodal outputs come from instead of the method's own: ``"split"``, ``"masked"``,
            ``"shapley"`` or an object of :mod:`equimodal.unimodal`.

    Raises:
        ModelError, MethodError: the model does not have the members, or a hyperparameter is out of range.
    """

    info: ClassVar[MethodInfo]
    min_modalities: ClassVar[int] = 2

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        sharpness: Sharpness | None = None,
        inference: Rule = "fused",
        calibrated: bool = False,
        unimodal: Way | nn.Module | None = None,
    ) -> None:
        super().__init__()
        missing = [n for n in _MEMBERS if not hasattr(model, n)]
        if missing or not isinstance(model, nn.Module):
            raise ModelError(
                "`model`: expected an nn.Module with the members of equimodal.Multimodal. "
                f"{type(model).__name__} lacks "
                f"{missing or 'being an nn.Module'}. Build a MultimodalModel(encoders, fusion, head) or add them."
            )
        if TYPE_CHECKING:  # at run time, from Python 3.12 on, this check does not see the sub-modules of a module
            if not isinstance(model, Multimodal):
                raise ModelError
        self.model = model
        self.task = task
        if task.name not in self.info.tasks:
            raise MethodError(
                f"`task`: {type(self).__name__} supports {', '.join(self.info.tasks)}. Found {task.name!r}."
            )
        if len(self.modalities) < self.min_modalities:
            raise ModelError(
                f"`model`: {type(self).__name__} needs at least {self.min_modalities} modalities. "
                f"Found {list(self.modalities)}."
            )
        if sharpness is not None and not isinstance(sharpness, Sharpness):
            raise MethodError(f"`sharpness`: expected a Sharpness or None. Found {type(sharpness).__name__}.")
        self.sharpness = sharpness
        if sharpness is not None:
            sharpness.attach(self)
        self._warned: set[str] = set()
        self._aside: dict[str, Tensor] = {}  # what was done beside the steps, for the next report
        check_parts(self.multimodal)
        self.inference = Inference(
            self.modalities, inference, calibrated=calibrated, distribution=distribution_of(task)
        ).to(next(self.parameters()).device)
        self.unimodal = unimodal_outputs(unimodal, model, task)

    def __setattr__(self, name: str, value: Any) -> None:
        """An inference rule that does not fit the task would give wrong predictions without a word."""
        if name == "inference" and isinstance(value, Inference):
            wanted = distribution_of(self.task)
            if value.distribution != wanted or set(value.modalities) != set(self.modalities):
                raise MethodError(
                    f"`inference`: expected one for the modalities {list(self.modalities)} and outputs of the kind "
                    f"{wanted!r}. Found {list(value.modalities)} and {value.distribution!r}. Make it with "
                    f"Inference(method.modalities, rule, distribution={wanted!r})."
                )
        super().__setattr__(name, value)

    # ---- what the model offers ---------------------------------------------------------------------------------------

    @property
    def multimodal(self) -> Multimodal:
        """The model, typed by what a method uses of it."""
        return cast(Multimodal, self.model)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities."""
        return tuple(self.multimodal.modalities)

    def parameter_groups(self, lr: float | None = None) -> list[dict[str, Any]]:
        """Groups for an optimizer; methods with parts that want another learning rate override this."""
        group: dict[str, Any] = {"params": [p for p in self.parameters() if p.requires_grad]}
        return [group if lr is None else {**group, "lr": lr}]

    # ---- the way of a batch ------------------------------------------------------------------------------------------

    def training_step(self, batch: BatchLike | Sequence[Batch], engine: Engine) -> StepReport:
        """One update from a batch, or from a list of micro-batches that count as one batch.

        Raises:
            BatchError: the batch does not fit the model.
            NonFiniteError: a loss is NaN or infinite (nothing has been stepped in that phase).
        """
        is_pair = isinstance(batch, list) and len(batch) == 2 and isinstance(cast(Any, batch[1]), Tensor)
        given = cast("list[BatchLike]", batch if isinstance(batch, list) and not is_pair else [batch])
        if not given:
            raise BatchError("`batch`: expected at least one micro-batch. Found an empty list.")
        batches = [self.check_batch(b) for b in given]
        with engine.iteration(self):
            return self._step(batches, engine)

    def _step(self, batches: list[Batch], engine: Engine) -> StepReport:
        report, self._aside = StepReport(extras=self._aside), {}
        batches = self.prepare(batches)
        for phase in self.phases(batches):
            try:
                descent = engine.descend(phase, batches, self.sharpness)
            except ValueError as error:
                if is_batch_of_one(error):
                    raise one_sample_error(f"batch (phase {phase.name})", "the model or a head") from error
                raise
            if descent.count == 0:
                continue
            report.phases.append(phase.name)
            report.losses[phase.name] = descent.loss
            report.losses.update(descent.losses)
            scales = self.modify_gradients(phase, descent, engine, report)
            engine.step(phase, scales)
            self.after_step(phase, descent, engine, report)
        return report

    def check_batch(self, batch: BatchLike | Batch) -> Batch:
        """``batch`` as a :class:`Batch` of this model's modalities with a target."""
        checked = Batch.of(batch)
        unknown = sorted(set(checked.inputs) - set(self.modalities))
        if unknown:
            raise BatchError(f"`inputs`: expected the modalities {list(self.modalities)}. Found unknown {unknown}.")
        if checked.target is None:
            raise BatchError("`target`: expected a tensor for training. Found None.")
        if checked.target.device.type == "cpu":  # elsewhere it would synchronise; loaders look on the host
            self.task.check_target(checked.target)
        return checked

    def prepare(self, batches: list[Batch]) -> list[Batch]:
        """Moment before the phases: batch-level augmentation."""
        return batches

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        """The updates of this step, in order."""
        raise NotImplementedError(f"{type(self).__name__}.phases")

    def modify_gradients(
        self, phase: Phase, descent: Descent, engine: Engine, report: StepReport
    ) -> Sequence[UpdateScale]:
        """Moment between gradients and step: scale, project or combine ``.grad``; may return scales of the update."""
        return ()

    def after_step(self, phase: Phase, descent: Descent, engine: Engine, report: StepReport) -> None:
        """Moment after the step: the method's own state."""

    def on_train_epoch_start(self, context: EpochContext) -> None:
        """Moment before an epoch."""

    def on_train_epoch_end(self, context: EpochContext) -> None:
        """Moment after an epoch."""

    def on_validation_end(self, validation: Validation | float) -> None:
        """Moment after a validation pass: its scores and losses, or the score alone (higher is better).

        ``Validation.of`` makes one of either, and ``float`` the score.
        """

    # ---- outputs -----------------------------------------------------------------------------------------------------

    def fused_output(self, features: Mapping[str, Tree], present: Presence | None) -> Tensor | None:
        """Output of the joint head; ``None`` for a method that does not train one."""
        output: Tensor = self.multimodal.head(self.multimodal.fuse(features, present))
        return output

    def unimodal_outputs(self, features: Mapping[str, Tree]) -> dict[str, Tensor]:
        """Outputs of each modality alone, from its features; empty where the method has none."""
        return {}

    def outputs_of(
        self, features: Mapping[str, Tree], present: Presence | None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Fused and unimodal outputs from features; the latter as ``unimodal`` says, else by the method's own way."""
        alone = self.unimodal_outputs(features) if self.unimodal is None else self.unimodal(features, present)
        return self.fused_output(features, present), alone

    def outputs(
        self, inputs: Mapping[str, Tree], present: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor], Presence | None]:
        """Fused output, unimodal outputs and presence, before the inference rule."""
        presence = self.presence_of(inputs, present)
        features = self.multimodal.encode(inputs, presence)
        return (*self.outputs_of(features, presence), presence)

    def combine(
        self, fused: Tensor | None, unimodal: Mapping[str, Tensor], present: Mapping[str, Tensor] | None
    ) -> Prediction:
        """The prediction that the inference rule makes of what :meth:`outputs` returned."""
        prediction: Prediction = self.inference(fused, unimodal, present)
        return prediction

    def presence_of(self, inputs: Mapping[str, Tree], present: Mapping[str, Tensor] | None) -> Presence | None:
        """Presence in which a modality that ``inputs`` leaves out counts as absent for every sample."""
        if not isinstance(inputs, Mapping):
            raise BatchError(
                f"`inputs`: expected a mapping from modalities to tensors. Found {type(inputs).__name__}. Of a Batch "
                "give batch.inputs and batch.present."
            )
        unknown = sorted(set(inputs) - set(self.modalities))
        if unknown or not inputs:
            raise BatchError(
                f"`inputs`: expected some of the modalities {list(self.modalities)}. Found {list(inputs)}."
            )
        strange = sorted(set(present or ()) - set(self.modalities))
        if strange:
            raise BatchError(f"`present`: expected the modalities {list(self.modalities)}. Found unknown {strange}.")
        sizes = {f"inputs[{m!r}]": batch_size_of(x, f"inputs[{m!r}]") for m, x in inputs.items()}
        sizes |= {f"present[{m!r}]": len(mask) for m, mask in (present or {}).items()}
        if len(set(sizes.values())) > 1:
            raise BatchError(f"`inputs`, `present`: expected equally many samples in each. Found {sizes}.")
        left_out = [m for m in self.modalities if m not in inputs]
        if not left_out:
            return Presence.of(present, self.modalities)
        first = tree_tensors(next(iter(inputs.values())))[0]
        masks = dict(present or {})
        for m in self.modalities:
            if m in left_out:
                masks[m] = torch.zeros(first.shape[0], dtype=torch.bool, device=first.device)
            elif m not in masks:
                masks[m] = torch.ones(first.shape[0], dtype=torch.bool, device=first.device)
        return Presence(masks, self.modalities)

    @torch.no_grad()
    def predict(self, inputs: Mapping[str, Tree], present: Mapping[str, Tensor] | None = None) -> Prediction:
        """Predict in evaluation mode, for any subset of the modalities per sample.

        Args:
            inputs: modality -> tensors; a modality left out is absent for every sample.
            present: modality -> boolean (B,).
        """
        with evaluating(self):
            return self.combine(*self.outputs(inputs, present))

    def forward(self, inputs: Mapping[str, Tree], present: Mapping[str, Tensor] | None = None) -> Tensor:
        """Output (B, C, ...) of the inference rule, with gradients."""
        return self.combine(*self.outputs(inputs, present)).output

    @torch.no_grad()
    def fit_inference(self, batches: Iterable[BatchLike]) -> str:
        """Fit temperatures and choose the ``auto`` rule on VALIDATION batches; returns the rule in force.

        Raises:
            MethodError: the loader was made from a split that is not validation data, or it is empty.
        """
        part = getattr(getattr(batches, "split", None), "part", "validation")
        if part != "validation":
            raise MethodError(f"`batches`: expected validation data. Found the {part} split. Pass dataset.validation.")
        device = next(self.parameters()).device
        fused: list[Tensor] = []
        unimodal: list[dict[str, Tensor]] = []
        masks: dict[str, list[Tensor]] = {m: [] for m in self.modalities}
        targets: list[Tensor] = []
        with evaluating(self):
            for raw in batches:
                batch = self.check_batch(raw).to(device)
                joint, alone, presence = self.outputs(batch.inputs, batch.present)
                if joint is not None:
                    fused.append(joint)
                unimodal.append(alone)
                for m in self.modalities:
                    mask = None if presence is None else presence.get(m)
                    masks[m].append(torch.ones(len(batch), dtype=torch.bool, device=device) if mask is None else mask)
                targets.append(cast(Tensor, batch.target))
        if not targets:
            raise MethodError("`batches`: expected at least one validation batch. Found none.")
        joined = {  # a batch may leave a modality out; its rows are absent and not read
            m: torch.cat([z[m] if m in z else torch.zeros_like(next(iter(z.values()))) for z in unimodal])
            for m in dict.fromkeys(m for z in unimodal for m in z)
        }
        present = {m: torch.cat(v) for m, v in masks.items()}
        return self.inference.fit(self.task, torch.cat(fused) if fused else None, joined, present, torch.cat(targets))


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, and each submodule's own mode again afterwards."""
    training = [m for m in module.modules() if m.training]
    module.eval()
    try:
        yield
    finally:
        for m in training:
            m.training = True
        reshard(module)


def record_score(report: StepReport, modality: str, descent: Descent) -> None:
    """Report the training score of a unimodal phase, unless all of its samples are on other processes."""
    if "numerator" in descent.sums:
        report.scores[modality] = mean_ratio(descent.sums["numerator"], descent.sums["denominator"])


def trainable(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Those that require gradients."""
    return [p for p in parameters if p.requires_grad]


def warn_once(method: Method, message: str, category: type[EquimodalWarning], stacklevel: int = 3) -> None:
    """Warn, the first time only for each method object."""
    if message not in method._warned:
        method._warned.add(message)
        warnings.warn(message, category, stacklevel=stacklevel)


def warn_if_frozen(method: Method, consequence: str) -> None:
    """Warn about every encoder without trainable parameters, with what that means for the method."""
    for m in method.modalities:
        if not trainable(method.multimodal.parameters_of(m)):
            warn_once(method, f"The encoder of {m!r} is frozen: {consequence}", EquimodalWarning, 4)
