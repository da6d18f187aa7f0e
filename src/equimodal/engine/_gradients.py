"""Gradients of the parts of a loss, found by part and parameter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from equimodal.engine._sharding import is_sharded, local
from equimodal.errors import MethodError

WEIGHTED = "\0weighted"
"""After the name of a part: its gradient times its weight in the total, where that is not 1."""


class Gradients(Mapping[str, Sequence[Tensor | None]]):
    """Gradients of the parts of a phase's loss: part -> one per parameter of ``phase.trained``, ``None`` for none.

    They are accumulated over micro-batches, averaged over processes and unscaled, and not yet clipped, as ``.grad`` is.
    Of a sharded parameter a gradient holds the part that is here, as ``.grad`` does.

    Args:
        parameters: what the phase trains.
        holders: part -> one tensor per parameter whose ``.grad`` is the gradient.
        declared: every objective of this process was a sum of its parts with known weights.

    Raises:
        MethodError: (when asked for a part that the objective did not give on any process) naming those there are.

    Example:
        >>> from equimodal import Batch, PlainEngine
        >>> from equimodal.engine import Objective, Phase
        >>> x, y = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(1))
        >>> phase = Phase("joint", lambda _: Objective.sum_of({"a": x.sum(), "b": (x * y).sum()}, {"b": 3.0}), [x, y])
        >>> batch = Batch({"m": torch.zeros(1, 1)})
        >>> gradients = PlainEngine(torch.optim.SGD([x, y], lr=0.1)).descend(phase, [batch]).gradients
        >>> gradients.of("b", [x]), gradients["a"][1], x.grad
        ([tensor([1., 1.])], None, tensor([4., 4.]))
        >>> gradients.gram([x])
        tensor([[2., 2.],
                [2., 2.]])
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter] = (),
        holders: Mapping[str, Sequence[Tensor]] | None = None,
        declared: bool = True,
    ) -> None:
        self._parameters, self.declared = parameters, declared
        self._holders: dict[str, Sequence[Tensor]] = {}
        self._weighted: dict[str, Sequence[Tensor]] = {}
        for name, row in (holders or {}).items():
            if name.endswith(WEIGHTED):
                self._weighted[name.removesuffix(WEIGHTED)] = row
            else:
                self._holders[name] = row
        self._places: dict[int, int] | None = None

    def __getitem__(self, part: str) -> Sequence[Tensor | None]:
        return [holder.grad for holder in self.holders(part)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._holders)

    def __len__(self) -> int:
        return len(self._holders)

    def __contains__(self, part: object) -> bool:
        return part in self._holders

    def get(self, part: str, default: Any = None) -> Any:
        """The gradients of a part, or ``default`` where the objective gave it on no process."""
        holders = self._holders.get(part)
        return default if holders is None else [holder.grad for holder in holders]

    def holders(self, part: str) -> Sequence[Tensor]:
        """The tensors whose ``.grad`` are the gradients of one part, in the order of ``phase.trained``."""
        if part not in self._holders:
            raise MethodError(
                f"`gradients`: expected one of the parts {list(self._holders)} of the phase's objective. Found "
                f"{part!r}. Return it in Objective(..., parts=...); where no sample has it, ask `in` or `get` first."
            )
        return self._holders[part]

    def of(self, part: str, parameters: Sequence[nn.Parameter]) -> list[Tensor | None]:
        """The gradients of one part with respect to some parameters, found by object.

        Args:
            part: name in the objective's ``parts``.
            parameters: for example ``model.parameters_of(modality)``; one that the phase does not train has ``None``.
        """
        return self._find(self.holders(part), parameters)

    def share_of(self, part: str, parameters: Sequence[nn.Parameter]) -> list[Tensor | None]:
        """What the part contributes to ``.grad``: :meth:`of` times its weight; in a phase with a perturbation."""
        return self._find(self._weighted.get(part, self.holders(part)), parameters)

    def replace(self, part: str, parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> None:
        """Set the gradients of one part with respect to parameters of the phase; a missing one is 0 where one was."""
        holders = self.holders(part)
        for p, g in zip(parameters, gradients, strict=True):
            holder = holders[self._place(p)]
            holder.grad = g if g is not None or holder.grad is None else torch.zeros_like(holder.grad)

    def _find(self, holders: Sequence[Tensor], parameters: Sequence[nn.Parameter]) -> list[Tensor | None]:
        places = [self._place(p) for p in parameters]
        return [None if i < 0 else holders[i].grad for i in places]

    def _place(self, parameter: nn.Parameter) -> int:
        if self._places is None:
            self._places = {id(p): i for i, p in enumerate(self._parameters)}
        return self._places.get(id(parameter), -1)

    @torch.no_grad()
    def gram(self, parameters: Sequence[nn.Parameter], parts: Sequence[str] | None = None) -> Tensor:
        r"""Inner products between the gradients of the parts, :math:`\langle g_k, g_l \rangle` over some parameters.

        Args:
            parameters: the space that the products are taken in; every process must ask for the same ones if some are
                sharded, of which each adds its part.
            parts: k, l = 1..K; default all, in their order.

        Returns:
            (K, K), in float32 at least.
        """
        names = list(self._holders) if parts is None else list(parts)
        rows = [self.of(name, parameters) for name in names]
        device = parameters[0].device if parameters else torch.device("cpu")
        dtype = torch.promote_types(parameters[0].dtype if parameters else torch.float32, torch.float32)
        whole, split = torch.zeros(2, len(names), len(names), dtype=dtype, device=device).unbind()
        some_sharded = any(is_sharded(p) for p in parameters)
        for i, p in enumerate(parameters):
            column = [row[i] for row in rows]
            if all(g is None for g in column):
                continue
            zero = torch.zeros_like(local(p.detach())).flatten()
            stacked = torch.stack([zero if g is None else local(g).flatten() for g in column]).to(dtype)
            (split if is_sharded(p) else whole).addmm_(stacked, stacked.mT)
        if some_sharded:
            dist.all_reduce(split)
        return whole + split


NO_GRADIENTS = Gradients()
"""Of a loss without parts."""
