"""The narrow protocol a method talks to, and :class:`PlainEngine`, which needs torch only.

The order of one update is fixed: backward, average over processes, modify (the method), clip, step. Accumulation is a
list of micro-batches handed to one ``training_step``; statistics are summed over micro-batches and processes before a
method computes anything non-linear from them.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from equimodal.batch import Batch, tree_tensors
from equimodal.errors import MethodError, ModelError, NonFiniteError, OptimizerWarning
from equimodal.processes import all_sum, average_gradients, is_distributed
from equimodal.sharpness import Sharpness, paused_statistics, perturbed, random_state, restore_random_state


@dataclass(frozen=True)
class Objective:
    """What a phase computes on one micro-batch.

    Args:
        total: differentiable scalar, a mean over the samples that take part.
        losses: named parts of it for the report, detached.
        sums: additive statistics (sums and counts over samples), detached.
    """

    total: Tensor
    losses: Mapping[str, Tensor] = field(default_factory=dict)
    sums: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Phase:
    """One update inside a training step: a loss and the parameters that it moves.

    Args:
        name: ``"joint"`` or the modality.
        objective: called once per micro-batch and pass; must be a function of the batch and the current parameters.
        parameters: what the loss trains; every other parameter keeps still, its optimizer state included.
        auxiliary: parameters trained alongside (probes on detached features): they step, but neither clipping nor
            sharpness counts them.
        count: how many samples of a batch take part; the weight of a micro-batch. 0 skips it.
        modality: the modality this phase belongs to, if any.
    """

    name: str
    objective: Callable[[Batch], Objective]
    parameters: Sequence[nn.Parameter]
    auxiliary: Sequence[nn.Parameter] = ()
    count: Callable[[Batch], int] = len
    modality: str | None = None


@dataclass(frozen=True)
class Descent:
    """What :meth:`Engine.descend` found; gradients are in place, these are the detached values of the first pass.

    Args:
        loss: of this process.
        losses: named parts of it.
        sums: additive statistics of this process; empty on a process of which no sample takes part.
        count: how many samples take part on all processes together; with 0 there is nothing to step.
    """

    loss: Tensor
    losses: Mapping[str, Tensor]
    sums: Mapping[str, Tensor]
    count: int = 1


@dataclass(frozen=True)
class UpdateScale:
    """Multiply the update (not the gradient) of some parameters by a factor."""

    parameters: Sequence[nn.Parameter]
    factor: Tensor


@runtime_checkable
class Engine(Protocol):
    """What a method may ask of whoever runs it."""

    @property
    def optimizers(self) -> Sequence[Optimizer]:
        """The optimizers whose parameters this engine steps."""

    def descend(self, phase: Phase, batches: Sequence[Batch], sharpness: Sharpness | None = None) -> Descent:
        """Compute the phase's gradients: one or two passes, micro-batches accumulated, averaged over processes."""

    def step(self, phase: Phase, scales: Sequence[UpdateScale] = ()) -> None:
        """Clip the gradients of the phase and step; parameters outside the phase do not move."""

    def all_sum(self, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sum statistics over processes. Every process must give the same names and shapes."""

    def reset_optimizer(self, parameters: Iterable[nn.Parameter]) -> None:
        """Forget the optimizer state (momentum, moments) of ``parameters``."""


class PlainEngine:
    """Engine for a plain loop: torch only, any device, one process or many.

    With ``torch.distributed`` initialised, gradients are averaged over all processes with one flat reduction, so the
    model needs no wrapper, and an encoder that is idle in a step is legal. Start all processes from equal weights
    (:meth:`broadcast`).

    Args:
        optimizer: one optimizer or several with disjoint parameters.
        clip_norm: largest global 2-norm of the gradients of a phase, applied after the method's modification; ``None``
            does not clip.
        autocast: ``torch.bfloat16`` runs forward passes in mixed precision; ``None`` does not. float16 needs a loss
            scaler, which this engine does not have, and is refused.
        check_finite: look at each loss before it is used. Default: on the CPU, where it is free; on other devices the
            losses are remembered and :meth:`raise_if_not_finite` looks at them when called (once per epoch, say).

    Raises:
        MethodError: an argument is out of range.
        NonFiniteError: a loss is NaN or infinite; nothing has been stepped.

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
        check_finite: bool | None = None,
    ) -> None:
        self._optimizers = [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)
        if not self._optimizers:
            raise MethodError("`optimizer`: expected at least one optimizer. Found none.")
        if clip_norm is not None and not clip_norm > 0:
            raise MethodError(f"`clip_norm`: expected a number > 0 or None. Found {clip_norm}.")
        if autocast not in (None, torch.bfloat16):
            raise MethodError(
                f"`autocast`: expected torch.bfloat16 or None. Found {autocast}. float16 needs a loss scaler; "
                "use bfloat16, or full precision."
            )
        self.clip_norm = clip_norm
        self.autocast = autocast
        self.check_finite = check_finite
        self._suspect: dict[str, Tensor] = {}
        self._known: set[str] = set()

    @property
    def optimizers(self) -> Sequence[Optimizer]:
        """The optimizers given."""
        return self._optimizers

    # ---- gradients -------------------------------------------------------------------------------------------------

    def descend(self, phase: Phase, batches: Sequence[Batch], sharpness: Sharpness | None = None) -> Descent:
        """See :meth:`Engine.descend`."""
        total = self._count(phase, batches)
        if total == 0:
            self._clear()
            return Descent(torch.zeros(()), {}, {}, 0)
        trained = [p for p in phase.parameters if p.requires_grad]
        if not trained and not any(p.requires_grad for p in phase.auxiliary):
            raise ModelError(
                f"Phase {phase.name!r}: expected parameters that require gradients. Found all of them frozen. "
                "Unfreeze the encoder or head, or use a control that does not train it."
            )
        if phase.name not in self._known:
            self._warn_about_unknown(phase)
        if sharpness is None or sharpness.mode is None:
            return self._descend_once(phase, batches, total)
        return self._descend_sharp(phase, trained, batches, total, sharpness)

    def _count(self, phase: Phase, batches: Sequence[Batch]) -> int:
        """How many samples take part in the phase, on all processes."""
        local = sum(phase.count(batch) for batch in batches)
        if not is_distributed():
            return local
        device = next(iter((*phase.parameters, *phase.auxiliary))).device
        return int(all_sum({"count": torch.tensor(local, device=device)})["count"])

    def _descend_once(self, phase: Phase, batches: Sequence[Batch], total: int) -> Descent:
        self._clear()
        for p in (*phase.parameters, *phase.auxiliary):  # also those that no optimizer of this engine has
            p.grad = None
        counts = [phase.count(batch) for batch in batches]
        processes = dist.get_world_size() if is_distributed() else 1
        loss: Tensor | None = None
        losses: dict[str, Tensor] = {}
        sums: dict[str, Tensor] = {}
        for batch, count in zip(batches, counts, strict=True):
            if count == 0:
                continue
            with self._precision(batch):
                objective = phase.objective(batch)
            self._look_at(objective.total, phase, batch)
            share = count * processes / total  # gradients are averaged over processes afterwards
            value = objective.total if share == 1 else objective.total * share
            self._backward(value)
            loss = value.detach() if loss is None else loss + value.detach()
            for name, part in objective.losses.items():
                weighted = part if share == 1 else part * share
                losses[name] = losses[name] + weighted if name in losses else weighted
            for name, part in objective.sums.items():
                sums[name] = sums[name] + part if name in sums else part
        self._finish_backward(phase)
        return Descent(torch.zeros(()) if loss is None else loss, losses, sums, total)

    def _descend_sharp(
        self,
        phase: Phase,
        trained: Sequence[nn.Parameter],
        batches: Sequence[Batch],
        total: int,
        sharpness: Sharpness,
    ) -> Descent:
        module = sharpness.module
        if sharpness.mode == "momentum":
            directions = [self._momentum_of(p) for p in trained]
            if all(d is None for d in directions):  # the first step has no momentum yet
                return self._descend_once(phase, batches, total)
            with perturbed(trained, directions, sharpness.radius):
                return self._descend_once(phase, batches, total)
        if not sharpness.due(phase.name):
            descent = self._descend_once(phase, batches, total)
            sharpness.add_stored(phase.name, trained)
            return descent
        state = random_state(trained)
        descent = self._descend_once(phase, batches, total)
        first = [p.grad for p in trained]
        probes = [p.grad for p in phase.auxiliary]
        with perturbed(trained, first, sharpness.radius), paused_statistics(module):
            restore_random_state(state)
            self._descend_once(phase, batches, total)
        for p, g in zip(phase.auxiliary, probes, strict=True):
            p.grad = g
        sharpness.combine(phase.name, trained, first)
        return descent

    def _warn_about_unknown(self, phase: Phase) -> None:
        """Once per phase: parameters that no optimizer has stay as they are, which is rarely what was meant."""
        self._known.add(phase.name)
        known = {id(p) for o in self._optimizers for g in o.param_groups for p in g["params"]}
        left = sum(p.requires_grad and id(p) not in known for p in (*phase.parameters, *phase.auxiliary))
        if left:
            warnings.warn(
                f"Phase {phase.name!r}: {left} of its parameters are in no optimizer and will not be trained. Build "
                "the optimizer from method.parameters(), which has the method's own heads too, or freeze them.",
                OptimizerWarning,
                stacklevel=4,
            )

    def _clear(self) -> None:
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)

    def _backward(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def _precision(self, batch: Batch) -> contextlib.AbstractContextManager[object]:
        if self.autocast is None:
            return contextlib.nullcontext()
        device = next(t for x in batch.inputs.values() for t in tree_tensors(x)).device
        return torch.autocast(device.type, dtype=self.autocast)

    def _finish_backward(self, phase: Phase) -> None:
        """Drop gradients that leaked outside the phase, and average the others over processes."""
        inside = {id(p) for p in phase.parameters} | {id(p) for p in phase.auxiliary}
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                for p in group["params"]:
                    if p.grad is not None and id(p) not in inside:
                        p.grad = None
        if is_distributed():
            average_gradients([p for p in (*phase.parameters, *phase.auxiliary) if p.requires_grad])

    def _momentum_of(self, parameter: nn.Parameter) -> Tensor | None:
        for optimizer in self._optimizers:
            state = optimizer.state.get(parameter)
            if state:
                for name in ("exp_avg", "momentum_buffer"):
                    value = state.get(name)
                    if isinstance(value, Tensor):
                        return value
        return None

    # ---- finite losses ---------------------------------------------------------------------------------------------

    def _look_at(self, loss: Tensor, phase: Phase, batch: Batch) -> None:
        finite = torch.isfinite(loss.detach())
        if not self._checks(loss.device):
            known = self._suspect.get(phase.name)
            self._suspect[phase.name] = finite if known is None else known & finite
        elif not bool(finite):
            self._clear()
            batch.check_finite()  # names modality and samples when an input is to blame
            found = "" if batch.index is None else f" Dataset indices of the batch: {batch.index[:5].tolist()} ..."
            raise NonFiniteError(
                f"Loss of phase {phase.name!r}: expected a finite number. Found {float(loss.detach())}, with finite "
                f"inputs.{found} Nothing was stepped. Lower the learning rate, clip gradients, or check the model."
            )

    def _checks(self, device: torch.device) -> bool:
        return device.type == "cpu" if self.check_finite is None else self.check_finite

    def _look_at_gradients(self, phase: Phase, parameters: Sequence[nn.Parameter]) -> None:
        norms = torch._foreach_norm([p.grad for p in parameters if p.grad is not None])
        if not bool(torch.isfinite(torch.stack(norms)).all()):
            self._clear()
            raise NonFiniteError(
                f"Gradient of phase {phase.name!r}: expected finite numbers. Found NaN or infinity with a finite loss. "
                "Nothing was stepped. Lower the learning rate, or look for a division by zero or a root of zero."
            )

    def raise_if_not_finite(self) -> None:
        """Raise if a loss since the last call was not finite, where losses are not looked at in each step."""
        suspect, self._suspect = self._suspect, {}
        bad = [name for name, finite in suspect.items() if not bool(finite)]
        if bad:
            raise NonFiniteError(
                f"Loss of phase(s) {bad}: expected finite numbers. Found NaN or infinity since the last check. Go back "
                "to the last checkpoint; lower the learning rate, clip gradients, or pass check_finite=True to "
                "find the "
                "batch."
            )

    # ---- step ------------------------------------------------------------------------------------------------------

    def step(self, phase: Phase, scales: Sequence[UpdateScale] = ()) -> None:
        """See :meth:`Engine.step`."""
        moved = [p for p in phase.parameters if p.grad is not None]
        if moved and self._checks(moved[0].device):
            self._look_at_gradients(phase, moved)
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(moved, self.clip_norm)
        before = [[p.detach().clone() for p in s.parameters] for s in scales]
        self._step_optimizers()
        with torch.no_grad():
            for scale, old in zip(scales, before, strict=True):
                if not old:
                    continue
                new = [p.data for p in scale.parameters]
                change = torch._foreach_sub(new, old)
                # new + (factor - 1) * change: the update itself, bit for bit, where the factor is 1
                torch._foreach_mul_(change, scale.factor.to(new[0].dtype) - 1)
                torch._foreach_add_(new, change)
        self._clear()

    def _step_optimizers(self) -> None:
        for optimizer in self._optimizers:
            optimizer.step()

    def reset_optimizer(self, parameters: Iterable[nn.Parameter]) -> None:
        """See :meth:`Engine.reset_optimizer`."""
        for parameter in parameters:
            for optimizer in self._optimizers:
                optimizer.state.pop(parameter, None)

    # ---- processes -------------------------------------------------------------------------------------------------

    def all_sum(self, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See :meth:`Engine.all_sum`."""
        return all_sum(sums)

    def broadcast(self, module: nn.Module) -> None:
        """Give every process the weights and buffers of process 0."""
        if is_distributed():
            for tensor in (*module.parameters(), *module.buffers()):
                dist.broadcast(tensor.data, src=0)
