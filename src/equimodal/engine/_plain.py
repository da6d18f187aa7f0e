"""The engine of a plain loop: :class:`PlainEngine`, which needs torch only.

The order of one update is fixed: backward, average over processes, unscale, modify (the method), clip, step.
Accumulation is a list of micro-batches handed to one ``training_step``; statistics are summed over micro-batches and
processes before a method computes anything non-linear from them. :class:`~equimodal.engine.Engine` is the protocol.
"""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from equimodal._utils.arguments import check_number
from equimodal._utils.blocks import NOTHING, Around
from equimodal.batch import Batch, tree_tensors
from equimodal.engine._accumulation import Accumulation
from equimodal.engine._apart import PartGradients
from equimodal.engine._compiled import CompiledLoss
from equimodal.engine._features import Examined, examine, refuse
from equimodal.engine._finite import Blame, FiniteGradients, Unseen, blame_gradient, blame_loss, elsewhere, look_at
from equimodal.engine._gradients import NO_GRADIENTS
from equimodal.engine._held import Held
from equimodal.engine._loss_scale import LossScale
from equimodal.engine._modes import RunningStatistics, keeping_still
from equimodal.engine._optimizers import Displacement, as_list, warn_about_unknown
from equimodal.engine._perturbation import Pass, descend_perturbed, descend_sharp, refuse_both
from equimodal.engine._processes import all_sum, average_gradients, broadcast, count_samples, is_distributed
from equimodal.engine._protocol import Descent, Objective, Phase, UpdateScale, check_objective
from equimodal.engine._sharding import check_samples, clip_gradients, gradient_norm, reshard
from equimodal.engine._sharpness import Sharpness
from equimodal.engine._survey import any_failed, coupled, survey
from equimodal.errors import MethodError, ModelError


class PlainEngine:
    """Engine for a plain loop: torch only, any device, one process or many.

    With ``torch.distributed`` initialised, gradients are averaged over all processes with one flat reduction, so the
    model needs no wrapper, and an encoder that is idle in a step is legal. Start all processes from equal weights
    (:meth:`broadcast`).

    Args:
        optimizer: one optimizer or several with disjoint parameters.
        clip_norm: largest global 2-norm of the gradients of a phase, applied after the method's modification; ``None``
            does not clip.
        autocast: ``torch.bfloat16`` or ``torch.float16`` runs forward passes in mixed precision; ``None`` does not.
        scaler: a ``torch.amp.GradScaler``, which float16 needs. Methods see unscaled gradients. A phase whose gradients
            overflow is skipped, with everything as it was; the scale is updated once per training step.
        compile: compile each phase's whole loss, forward passes included: ``True``, a mode of ``torch.compile``
            (``"reduce-overhead"`` replays CUDA graphs), or its options (``{"fullgraph": True}`` makes a graph break an
            error). Encoders that you compiled need nothing here.
        check_finite: look at each loss before it is used. Default: on the CPU, where it is free; on other devices the
            losses are remembered and :meth:`raise_if_not_finite` looks at them when called (once per epoch, say).

    Raises:
        MethodError: an argument is out of range.
        NonFiniteError: a loss is NaN or infinite, on any process; nothing has been stepped, and running statistics are
            as they were.
        UnsupportedError: (in the first step, before anything is computed) the method refuses a feature in use.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from equimodal import Batch, Classification, MultimodalModel
        >>> from equimodal.fusion import Concat
        >>> from equimodal.methods import Joint
        >>> encoders = {"audio": nn.Linear(5, 4), "video": nn.Linear(3, 4)}
        >>> model = MultimodalModel(encoders, Concat({"audio": 4, "video": 4}), nn.Linear(8, 2))
        >>> method = Joint(model, Classification(2))
        >>> engine = PlainEngine(torch.optim.SGD(method.parameters(), lr=0.1), clip_norm=1.0)
        >>> batch = Batch({"audio": torch.randn(6, 5), "video": torch.randn(6, 3)}, torch.tensor([0, 1] * 3))
        >>> sorted(method.training_step(batch, engine).losses)
        ['joint']
    """

    def __init__(
        self,
        optimizer: Optimizer | Sequence[Optimizer],
        *,
        clip_norm: float | None = None,
        autocast: torch.dtype | None = None,
        scaler: torch.amp.GradScaler | None = None,
        compile: bool | str | Mapping[str, Any] = False,  # noqa: A002 (torch's own name for it)
        check_finite: bool | None = None,
    ) -> None:
        self._optimizers = as_list(optimizer)
        if clip_norm is not None:
            check_number("clip_norm", clip_norm, above=0)
        if autocast not in (None, torch.bfloat16, torch.float16):
            raise MethodError(f"`autocast`: expected torch.bfloat16, torch.float16 or None. Found {autocast}.")
        if autocast is torch.float16 and scaler is None:
            raise MethodError(
                "`autocast`: float16 needs a loss scaler. Give scaler=torch.amp.GradScaler(device), or use "
                "torch.bfloat16."
            )
        self.clip_norm, self.autocast, self.check_finite = clip_norm, autocast, check_finite
        self._scale = None if scaler is None else LossScale(scaler)
        self._compiled = None if compile is False else CompiledLoss(compile)
        self._unseen = Unseen()
        self._known: set[str] = set()
        self._examined: weakref.WeakKeyDictionary[nn.Module, Examined] = weakref.WeakKeyDictionary()
        self._module: nn.Module | None = None
        self._sharded: tuple[str, ...] = ()
        self._in_parts = self._shared = False
        self._statistics: RunningStatistics | None = None
        self._held, self._finite = Held(self._optimizers), FiniteGradients()

    @property
    def optimizers(self) -> Sequence[Optimizer]:
        """The optimizers given."""
        return self._optimizers

    def iteration(self, module: nn.Module) -> contextlib.AbstractContextManager[None]:
        """See :meth:`Engine.iteration`: what the method refuses is looked up, the loss scale is updated at the end."""
        return Around(self._begin, self._end, module)

    def _begin(self, module: nn.Module) -> None:
        if self._statistics is None or self._statistics.module is not module:
            self.prepare(module)
        self._module = module
        self._renew()
        if self._sharded:
            self._reshard()

    def _end(self) -> None:
        self._module = None
        if self._scale is not None:
            self._scale.update()

    def _renew(self) -> None:  # once per training step, or per phase outside of one
        self._shared = is_distributed()
        self._held.refresh()
        if self._compiled is not None:
            self._compiled.begin()
        if self._statistics is not None:
            self._statistics.begin()

    def prepare(self, module: nn.Module) -> None:
        """Refuse, before anything is computed, what ``module`` cannot do under this engine; done by the first step.

        Raises:
            UnsupportedError: see :func:`~equimodal.engine.examine`.
        """
        if self._statistics is not None and self._statistics.module is module:
            return
        if module not in self._examined:
            scaled, compiles = self._scale is not None, self._compiled is not None
            self._examined[module] = examine(module, self.autocast, scaled, compiles)
        self._statistics, self._sharded = RunningStatistics(module), self._examined[module].sharded

    def use(self, module: nn.Module | None, feature: str) -> None:
        """Raise if ``module`` refuses the engine feature; looked up once."""
        if module is not None and feature not in self._examined[module].features:
            refuse(module, feature)
            self._examined[module].features.add(feature)

    # ---- gradients -------------------------------------------------------------------------------------------------

    def descend(self, phase: Phase, batches: Sequence[Batch], sharpness: Sharpness | None = None) -> Descent:
        """See :meth:`Engine.descend`."""
        sharp = None if sharpness is None or sharpness.mode is None else sharpness
        if len(batches) > 1:
            self.use(self._module, "accumulation")
        if sharp is not None:
            self.use(self._module, "sharpness")
            refuse_both(phase, sharp)
        if self._module is None:
            self._renew()
        if self._sharded and (sharded := self._sharded_in(phase)):
            check_samples(sharded, phase.name, batches, phase.device)
        total, self._in_parts = count_samples(phase, batches, self._shared)
        if total == 0:
            self._clear()
            return Descent.nothing()
        if not phase.trains:
            raise ModelError(
                f"Phase {phase.name!r}: expected parameters that require gradients. Found all of them frozen. "
                "Unfreeze the encoder or head, or use a control that does not train it."
            )
        if phase.name not in self._known:
            self._known.add(phase.name)
            warn_about_unknown(phase.name, (*phase.parameters, *phase.auxiliary), self._optimizers)
        looks = self._scale is not None or self._checks(phase.first)
        before = self._statistics.copy() if self._statistics and looks else None
        try:
            if not phase.frozen:
                return self._descend(phase, batches, total, sharp)
            with keeping_still(phase.frozen, phase.trained, phase.name):
                return self._descend(phase, batches, total, sharp)
        except BaseException as error:
            self._clear()
            if before is not None:
                before.restore()
            if isinstance(error, _Overflow):
                return Descent.nothing()
            raise
        finally:
            if self._module is None and self._scale is not None:  # outside a training step: nobody else will
                self._scale.update()

    def _descend(self, phase: Phase, batches: Sequence[Batch], total: int, sharpness: Sharpness | None) -> Descent:
        if sharpness is None and phase.perturbation is None:
            return self._descend_once(batches, total, phase)
        once: Pass = partial(self._descend_once, batches, total)
        if sharpness is None:
            return descend_perturbed(once, phase, self._module)
        return descend_sharp(once, phase, sharpness, self._optimizers, self._statistics)

    def _reshard(self) -> None:
        if self._module is not None and self._sharded:
            reshard(self._module)

    def _sharded_in(self, phase: Phase) -> tuple[str, ...]:
        """The modalities with sharded encoders that the phase is about."""
        sharded = self._sharded if self._module is not None else ()
        return sharded if phase.modality is None else tuple(m for m in sharded if m == phase.modality)

    def _descend_once(self, batches: Sequence[Batch], total: int, phase: Phase, part: str | None = None) -> Descent:
        for p in phase.every:  # what others have is dropped after the backward pass
            p.grad = None
        # one micro-batch is all there is: no other process, loss scale, compiled loss or survey
        plain = self._scale is None and self._compiled is None and not self._sharded and not self._shared
        if plain and len(batches) == 1 and part is None and (phase.survey is None or not phase.survey.always):
            return self._descend_simply(phase, batches[0], total)
        if self._surveys(phase):
            survey(phase, batches, self._module, self._precision, self._checks(phase.first))
        try:
            sums, bad = self._accumulate(phase, batches, total, part)
        except Exception:
            if self._shared:  # the others are waiting: tell them
                average_gradients(phase.trained, failed=True)
            raise
        self._reshard()  # an encoder whose features were detached
        failed = self._finish_backward(phase, bad is not None, sums.parts if self._shared else None)
        if bad is not None:
            raise blame_loss(phase.name, bad)
        if failed:
            raise elsewhere(phase.name)
        if self._scale is not None and not self._scale.unscale([*phase.trained, *sums.holders()]):
            raise _Overflow
        return sums.descent(total)

    def _descend_simply(self, phase: Phase, batch: Batch, total: int) -> Descent:
        """What the long way comes to for a single micro-batch, without sums over several."""
        precision = self._precision(batch)
        if precision is NOTHING:
            objective = phase.objective(batch)
        else:
            with precision:
                objective = phase.objective(batch)
        check_objective(phase, objective)
        loss = objective.total.detach()
        if not self._checks(loss):
            self._unseen.note(phase.name, objective)
        elif (objective.parts or not math.isfinite(float(loss))) and (blame := look_at(objective, batch)):
            raise blame_loss(phase.name, blame)
        if objective.parts or objective.rows or phase.frozen:
            whole = Accumulation(phase)
            whole.add(objective, 1.0, self._backward)
            descent = whole.descent(total)
        else:
            self._backward(objective.total)
            seen = () if objective.score_inputs is None else (objective.score_inputs,)
            descent = Descent(loss, objective.losses, objective.sums, total, NO_GRADIENTS, objective.rows, seen)
        self._finish_backward(phase)
        return descent

    def _accumulate(
        self, phase: Phase, batches: Sequence[Batch], total: int, part: str | None
    ) -> tuple[Accumulation, Blame | None]:
        """Forward and backward over the micro-batches of this process; a loss that is not finite ends it."""
        processes = dist.get_world_size() if is_distributed() else 1
        sums = Accumulation(phase)
        bad: Blame | None = None
        for batch in batches:
            count = phase.count(batch)
            if count == 0:
                continue
            objective, blame = self._forward(phase, batch)
            if blame is not None:
                bad = bad or blame
                if self._couples(phase) or not self._sharded_in(phase):
                    return sums, bad  # else others wait in the backward pass of a sharded encoder
            share = count * processes / total  # gradients are averaged over processes afterwards
            sums.add(objective, share, self._backward, part)
        return sums, bad

    def _surveys(self, phase: Phase) -> bool:
        return phase.survey is not None and (self._in_parts or phase.survey.always)

    def _couples(self, phase: Phase) -> bool:
        return phase.survey is not None and not self._surveys(phase) and is_distributed()

    def _forward(self, phase: Phase, batch: Batch) -> tuple[Objective, Blame | None]:
        """The losses of one micro-batch, and one that is not finite, as far as is looked."""
        try:
            with self._precision(batch):
                objective = self._objective(phase, batch)
        except Exception:
            if self._couples(phase):
                any_failed(phase, True)  # the others are about to sum: tell them
            raise
        blame = None
        if self._checks(objective.total):
            blame = look_at(objective, batch)
        elif self._scale is None:  # under a loss scale an overflow is skipped and does no harm
            self._unseen.note(phase.name, objective)
        if self._couples(phase):
            if any_failed(phase, blame is not None) and blame is None:
                raise elsewhere(phase.name)
            objective = coupled(phase, objective) if blame is None else objective
        return objective, blame

    def _objective(self, phase: Phase, batch: Batch) -> Objective:
        objective = phase.objective(batch) if self._compiled is None else self._compiled(phase, batch)
        check_objective(phase, objective)
        return objective

    def _clear(self) -> None:
        for p in self._held.parameters:
            p.grad = None

    def _backward(self, loss: Tensor, **options: Any) -> None:
        (loss if self._scale is None else self._scale.scaled(loss)).backward(**options)  # type: ignore[no-untyped-call]

    def _precision(self, batch: Batch) -> contextlib.AbstractContextManager[object]:
        if self.autocast is None:
            return NOTHING
        device = next(t for x in batch.inputs.values() for t in tree_tensors(x)).device
        return torch.autocast(device.type, dtype=self.autocast)

    def _finish_backward(self, phase: Phase, failed: bool = False, parts: PartGradients | None = None) -> bool:
        """Drop gradients that leaked outside the phase, and average the others; whether any process failed."""
        self._held.drop_outside(phase)
        return failed if parts is None else average_gradients(phase.trained, failed, parts)

    def _checks(self, tensor: Tensor) -> bool:  # whether numbers are looked at where they are computed
        return tensor.is_cpu if self.check_finite is None else self.check_finite

    def raise_if_not_finite(self) -> None:
        """Raise, on all processes, if a loss since the last call was not finite where each step does not look at it.

        Also raises if a loss scale has shrunk so far that every step overflows.
        """
        self._statistics = None  # found anew, in case the model has changed
        self._unseen.check(self._optimizers[0].param_groups[0]["params"][0].device)
        if self._scale is not None:
            self._scale.check()

    # ---- step ------------------------------------------------------------------------------------------------------

    def step(self, phase: Phase, scales: Sequence[UpdateScale] = ()) -> None:
        """See :meth:`Engine.step`."""
        gradients = [g for p in phase.parameters if (g := p.grad) is not None]
        norm = None if self.clip_norm is None or not gradients else gradient_norm(gradients)
        if gradients and self._checks(gradients[0]) and not self._finite(gradients, norm):
            self._clear()
            raise blame_gradient(phase.name)
        if self.clip_norm is not None and norm is not None:
            clip_gradients(phase.parameters, norm, self.clip_norm)
        moves = [(Displacement(s.parameters, self._optimizers), s.factor) for s in scales] if scales else ()
        self._step_optimizers()
        for move, factor in moves:
            move.multiply(factor)
        for p in phase.every:  # others have none
            p.grad = None

    def _step_optimizers(self) -> None:
        for optimizer in self._optimizers:
            optimizer.step()

    def reset_optimizer(self, parameters: Iterable[nn.Parameter]) -> None:
        """See :meth:`Engine.reset_optimizer`."""
        for parameter in parameters:
            for optimizer in self._optimizers:
                optimizer.state.pop(parameter, None)

    def all_sum(self, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See :meth:`Engine.all_sum`."""
        return dict(sums) if self._module is not None and not self._shared else all_sum(sums)

    def broadcast(self, module: nn.Module) -> None:
        """Give every process the weights and buffers of process 0; sharded weights are one already."""
        broadcast(module)


class _Overflow(Exception):  # noqa: N818 (never leaves this file)
    """Gradients overflowed under the loss scale, on all processes alike."""
