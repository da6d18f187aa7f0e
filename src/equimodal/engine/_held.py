"""The parameters that the optimizers of an engine have, and those of them that a phase leaves alone."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.optim import Optimizer

from equimodal._utils.modules import same_objects
from equimodal.engine._protocol import Phase


class Held:
    """What the optimizers have, looked up once per training step; and per phase what of it is outside.

    A phase is a new object in every step, mostly with the same parameters as in the step before: what is outside is
    kept by the name of the phase, and found anew where a parameter, of the phase or of an optimizer, is another object.

    Args:
        optimizers: of the engine.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self._optimizers = optimizers
        self._outside: dict[str, tuple[Sequence[nn.Parameter], list[Tensor]]] = {}
        self.parameters: list[Tensor] = []
        self.refresh()

    def refresh(self) -> None:
        """Look up the parameters; optimizers may have been given more."""
        found = [p for optimizer in self._optimizers for group in optimizer.param_groups for p in group["params"]]
        if not same_objects(found, self.parameters):
            self.parameters = found
            self._outside.clear()

    def drop_outside(self, phase: Phase) -> None:
        """Drop the gradients that the parameters outside the phase have got."""
        own = phase.every
        known = self._outside.get(phase.name)
        if known is None or (known[0] is not own and not same_objects(known[0], own)):
            inside, fixed = {id(p) for p in own}, own if type(own) is tuple else list(own)
            known = self._outside[phase.name] = (fixed, [p for p in self.parameters if id(p) not in inside])
        for p in known[1]:
            if p.grad is not None:
                p.grad = None
