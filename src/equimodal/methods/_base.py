"""The base of every method: the way of a batch, the moments, the reports."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn

from equimodal.batch import Batch
from equimodal.engine import Descent, Engine, Phase, Sharpness, UpdateScale, is_distributed
from equimodal.errors import BatchError, CheckpointError, EquimodalWarning, MethodError, UnsupportedError, did_you_mean
from equimodal.inference import Rule
from equimodal.methods._epochs import EpochContext as EpochContext
from equimodal.methods._loss import SHARES, LossShares, count_of, own_rows, shared_loss, target_of
from equimodal.methods._options import sources_of
from equimodal.methods._predictor import BatchLike, Predictor
from equimodal.methods._step_report import StepReport as StepReport
from equimodal.methods._validation import Validation
from equimodal.model import is_batch_of_one, one_sample_error
from equimodal.tasks import Task
from equimodal.unimodal import Way

T = TypeVar("T")
Scales = Sequence[UpdateScale]


class Method(Predictor):
    """A way of training (and reading) a multimodal model, wrapped around it.

    Subclasses implement :meth:`phases` and, where they have them, :meth:`modify_gradients`, :meth:`after_step`,
    :meth:`unimodal_outputs` and :meth:`fused_output`. They never know which engine runs them, and take every loss from
    :meth:`loss`.

    Args:
        model: a :class:`~equimodal.MultimodalModel` or any module with the members of :class:`~equimodal.Multimodal`.
        task: for example :class:`~equimodal.Classification`; gives loss and score.
        sharpness: a :class:`~equimodal.Sharpness`, or ``None`` for plain gradients.
        inference: rule that turns outputs into a prediction, see :class:`~equimodal.inference.Inference`.
        calibrated: fit one temperature per modality on validation data.
        unimodal: where unimodal outputs come from instead of the method's own: ``"split"``, ``"masked"``,
            ``"shapley"`` or an object of :mod:`equimodal.unimodal`.

    Raises:
        ModelError, MethodError: the model does not have the members, or a hyperparameter is out of range.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from equimodal import Batch, Classification, MultimodalModel, PlainEngine
        >>> from equimodal.fusion import Concat
        >>> from equimodal.methods import MLA, EpochContext
        >>> encoders = {"audio": nn.Linear(5, 4), "video": nn.Linear(3, 4)}
        >>> model = MultimodalModel(encoders, Concat({"audio": 4, "video": 4}), nn.Linear(8, 2))
        >>> method = MLA(model, Classification(2))
        >>> engine = PlainEngine(torch.optim.SGD(method.parameter_groups(lr=0.1)))
        >>> batch = Batch({"audio": torch.randn(6, 5), "video": torch.randn(6, 3)}, torch.tensor([0, 1] * 3))
        >>> method.on_train_epoch_start(EpochContext(epoch=0, epochs=1, steps=1, loader=[batch], engine=engine))
        >>> sorted(method.training_step(batch, engine).losses)
        ['audio', 'video']
        >>> method.predict(batch.inputs).output.shape
        torch.Size([6, 2])
    """

    single_loss: ClassVar[bool] = False
    """Whether every phase has one loss, over the samples that it counts: saves a reduction per step."""
    former_names: ClassVar[Sequence[tuple[str, str]]] = ()
    """First part of a name in the state of earlier versions, and what it is now."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "info" in vars(cls):
            cls.info = replace(cls.info, defaults={**cls.info.defaults, **sources_of(cls.__init__)})

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
        super().__init__(model, task, inference=inference, calibrated=calibrated, unimodal=unimodal)
        if sharpness is not None and not isinstance(sharpness, Sharpness):
            raise MethodError(f"`sharpness`: expected a Sharpness or None. Found {type(sharpness).__name__}.")
        self.sharpness = sharpness
        if sharpness is not None:
            sharpness.attach(self)
        self._warned: set[str] = set()
        self._phase: Phase | None = None
        self._aside: dict[str, Tensor] = {}  # what was done beside the steps, for the next report

    def parameter_groups(self, lr: float | None = None) -> list[dict[str, Any]]:
        """Groups for an optimizer; methods with parts that want another learning rate override this."""
        group: dict[str, Any] = {"params": [p for p in self.parameters() if p.requires_grad]}
        return [group if lr is None else {**group, "lr": lr}]

    def trained_modalities(self) -> tuple[str, ...]:
        """The modalities whose encoders this method trains; all, unless a method says otherwise."""
        return self.modalities

    # ---- the way of a batch ------------------------------------------------------------------------------------------

    def training_step(self, batch: BatchLike | Sequence[Batch], engine: Engine) -> StepReport:
        """One update from a batch, or from a list of micro-batches that count as one batch.

        Raises:
            BatchError: the batch does not fit the model.
            NonFiniteError: a loss is NaN or infinite (nothing has been stepped in that phase).
        """
        if isinstance(batch, Batch):  # the common case
            batches = [self.check_batch(batch)]
        else:
            batches = [self.check_batch(b) for b in _micro_batches(batch)]
        with engine.iteration(self):
            return self._step(batches, engine)

    def _step(self, batches: list[Batch], engine: Engine) -> StepReport:
        report = StepReport(extras=self._aside)
        self.__dict__["_aside"] = {}  # plainly: nn.Module takes long to set an attribute
        batches = self.prepare(batches)
        whole = len(batches) == 1 and not is_distributed()  # then there is nothing to share
        shares = None if whole else LossShares(self.task, batches, self.modalities, self.single_loss)
        for phase in self.phases(batches):
            descent = self._descend(phase, batches if shares is None else shares.of(phase), engine)
            if descent.count == 0:
                continue
            report.phases.append(phase.name)
            report.losses[phase.name] = descent.loss
            if descent.losses:
                report.losses.update(descent.losses)
            if phase.modality is not None:
                report.add_score(phase.modality, self.task, descent)
            scales = self.modify_gradients(phase, descent, engine, report) or ()
            engine.step(phase, scales)
            self.after_step(phase, descent, engine, report)
        return report

    def _descend(self, phase: Phase, batches: list[Batch], engine: Engine) -> Descent:
        self.__dict__["_phase"] = phase
        try:
            return engine.descend(phase, batches, self.sharpness)
        except ValueError as error:
            if is_batch_of_one(error):
                raise one_sample_error(f"batch (phase {phase.name})", "the model or a head") from error
            raise
        finally:
            self.__dict__["_phase"] = None

    def prepare(self, batches: list[Batch]) -> list[Batch]:
        """Moment before the phases: batch-level augmentation."""
        return batches

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        """The updates of this step, in order."""
        raise NotImplementedError(f"{type(self).__name__}.phases")

    def modify_gradients(self, phase: Phase, descent: Descent, engine: Engine, report: StepReport) -> Scales:
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

    # ---- losses ------------------------------------------------------------------------------------------------------

    def loss(self, output: Tensor, batch: Batch, modality: str | None = None) -> Tensor:
        """The task's loss, a scalar: of the fused output, or of one modality's on the samples that have it.

        Micro-batches and processes add up to the loss of one large batch, with class weights and absent modalities too.
        Without a sample it is an exact 0 that reaches the head.

        Args:
            output: (B, C, ...) of all samples of ``batch``, or of those that have ``modality``.
            batch: as the objective was given it.
            modality: whose loss; ``None`` is the fused one.

        Raises:
            MethodError: the method says ``single_loss`` and asks for another loss than that of the phase.
        """
        phase = self._phase
        if phase is not None and modality != phase.modality and self.single_loss:
            raise MethodError(
                f"`modality`: {type(self).__name__} says single_loss, so phase {phase.name!r} has the loss of "
                f"{phase.modality!r} alone. Found {modality!r}. Leave out single_loss = True."
            )
        output, target = self._rows(output, batch, modality)
        if SHARES not in batch.extras and output.shape[0]:
            return self.loss_task.loss(output, target)
        position = 0 if modality is None else 1 + self.modalities.index(modality)
        return shared_loss(self.loss_task, output, target, batch, position)

    @property
    def loss_task(self) -> Task:
        """The task whose loss is trained: the method's, unless it changes the loss."""
        return self.task

    def _rows(self, output: Tensor, batch: Batch, modality: str | None) -> tuple[Tensor, Tensor]:
        """Output and target of the samples that a loss or a score is about."""
        target, complete = batch.target, batch.present is None and (modality is None or modality in batch.inputs)
        if complete and target is not None and output.shape[0] == target.shape[0]:
            return output, target  # the common case, without a detour
        if modality is not None and modality not in batch.inputs and modality not in self.modalities:
            raise MethodError(
                f"`modality`: expected one of {list(self.modalities)} or None. Found {modality!r}."
                f"{did_you_mean(modality, self.modalities)}"
            )
        rows = output.shape[0]
        if rows != len(batch) and rows != count_of(batch, modality):
            sizes = sorted({len(batch), count_of(batch, modality)})
            raise MethodError(
                f"`output`: expected one row per sample of the batch, {' or '.join(map(str, sizes))}. Found "
                f"{rows}. Give the output of the batch that the objective was called with."
            )
        return (output, target_of(batch)) if modality is None else own_rows(output, batch, modality)

    def score_inputs(self, output: Tensor, batch: Batch, modality: str | None = None) -> tuple[Tensor, Tensor]:
        """Output and target for an objective's ``score_inputs``, of which a report's score is; as :meth:`loss`."""
        output, target = self._rows(output, batch, modality)
        return output.detach(), target

    def score_sums(self, output: Tensor, batch: Batch, modality: str | None = None) -> dict[str, Tensor]:
        """Numerator and denominator of the task's score, for an objective's ``sums``; arguments as :meth:`loss`."""
        output, target = self._rows(output, batch, modality)
        numerator, denominator = self.task.score_terms(output.detach(), target)
        return {"numerator": numerator, "denominator": denominator}

    # ---- state of earlier versions -----------------------------------------------------------------------------------

    def current_state(self, state: Mapping[str, T]) -> dict[str, T]:
        """Stored names and values under their names of today; what has no place any more is left out."""
        own, renamed = set(self.state_dict()) if self.former_names else set(), dict(state)
        for name in state:
            for former, now in self.former_names:
                if name.startswith(former) and name not in own:
                    value, current = renamed.pop(name), now + name[len(former) :]
                    if current in own:
                        renamed[current] = value
                    break
        return renamed

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        inside = {n[len(prefix) :]: state_dict.pop(n) for n in list(state_dict) if n.startswith(prefix)}
        state_dict.update({prefix + n: value for n, value in self.current_state(inside).items()})
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _micro_batches(given: BatchLike | Sequence[Batch]) -> list[BatchLike]:
    """What :meth:`Method.training_step` was given, as a list."""
    is_pair = isinstance(given, list) and len(given) == 2 and isinstance(cast(Any, given[1]), Tensor)
    batches = cast("list[BatchLike]", given if isinstance(given, list) and not is_pair else [given])
    if not batches:
        raise BatchError("`batch`: expected at least one micro-batch. Found an empty list.")
    return batches


class Stateful(nn.Module):
    """Plain attributes that belong to a checkpoint, beside parameters and buffers.

    ``state = ("_batch", "_generator")`` in the class names them (with dots, of a part): numbers, tensors, dictionaries
    of these, generators, and objects with ``state_dict`` and ``load_state_dict``. Put it before :class:`Method` among
    the bases.
    """

    state: ClassVar[Sequence[str]] = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        keys = [_key(name) for name in cls.state]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise MethodError(
                f"`state` of {cls.__name__}: expected names whose last parts differ. Found {twice} twice. Rename one."
            )

    def get_extra_state(self) -> dict[str, Any]:
        """Copies of the attributes that :attr:`state` names, by the last part of the name without an underscore."""
        return {_key(name): _packed(attrgetter(name)(self)) for name in self.state}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`get_extra_state` gave; earlier versions kept some underscores.

        Raises:
            CheckpointError: an attribute is missing, as in the state of another method.
        """
        for name in self.state:
            key = _key(name)
            stored = next((k for k in (key, f"_{key}") if isinstance(state, Mapping) and k in state), None)
            if stored is None:
                raise CheckpointError(
                    f"State of {type(self).__name__}: expected an entry {key!r}. Found "
                    f"{sorted(state) if isinstance(state, Mapping) else type(state).__name__}. Load the state of the "
                    "same method."
                )
            value, now = copy.deepcopy(state[stored]), attrgetter(name)(self)
            if isinstance(now, torch.Generator):
                now.set_state(value.cpu())
            elif hasattr(now, "load_state_dict"):
                now.load_state_dict(value)
            else:
                owner, _, attribute = name.rpartition(".")
                setattr(attrgetter(owner)(self) if owner else self, attribute, value)


def _key(name: str) -> str:
    return name.rpartition(".")[2].lstrip("_")


def _packed(value: Any) -> Any:
    if isinstance(value, torch.Generator):
        return value.get_state()
    if hasattr(value, "state_dict"):
        return value.state_dict()
    return copy.deepcopy(value)


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


def refuse_incomplete(method: Method, present: Mapping[str, Tensor], where: str = "the training samples") -> None:
    """Refuse training data with absent modalities for a method whose options need complete samples.

    Which options these are is in :attr:`MethodInfo.complete`; they need every modality when they are not 0, ``False``
    or ``None``.

    Args:
        method: with its options as attributes of the same names.
        present: modality -> (N,) booleans, as ``dataset.train.present``; modalities without an entry are complete.
        where: what the samples are, for the message.

    Raises:
        UnsupportedError: an option in force needs complete samples, and some are not.

    Example:
        >>> from torch import nn
        >>> from equimodal import Classification, MultimodalModel
        >>> from equimodal.fusion import Concat
        >>> from equimodal.methods import Joint
        >>> model = MultimodalModel({"a": nn.Linear(3, 4)}, Concat({"a": 4}), nn.Linear(4, 2))
        >>> refuse_incomplete(Joint(model, Classification(2)), {"a": torch.tensor([True, False])})
    """
    absent = {m: int((~mask).sum()) for m, mask in present.items() if not bool(mask.all())}
    if not absent:
        return
    for option, why in method.info.complete.items():
        if getattr(method, option):
            shown = ", ".join(f"{m} in {count} of {len(present[m])}" for m, count in absent.items())
            raise UnsupportedError(
                f"`{option}`: {why}. Absent in {where}: {shown}. Use {option}=0 for {type(method).__name__}, or "
                "another method."
            )
