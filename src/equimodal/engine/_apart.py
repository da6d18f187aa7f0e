"""Gradients of several losses of one forward pass, each by itself: as final as the gradient of their sum."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from equimodal.engine._sharding import is_sharded, local
from equimodal.errors import MethodError, UnsupportedError

if TYPE_CHECKING:
    from equimodal.engine._protocol import Objective, Phase

Backward = Callable[..., None]
"""Called with a loss and the options of ``Tensor.backward``."""
_WEIGHTED = "\0weighted"  # after the name of a part: its gradient times its weight in the total, where that is not 1


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
        every = {} if holders is None else holders
        self._holders = {name: row for name, row in every.items() if not name.endswith(_WEIGHTED)}
        self._weighted = {name.removesuffix(_WEIGHTED): row for name, row in every.items() if name.endswith(_WEIGHTED)}
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
                f"{part!r}. Return it in Objective(..., parts=...)."
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


class PartGradients:
    """Adds up the gradients of the parts while the micro-batches of a phase go by.

    A part's gradient of a parameter p is kept as the ``.grad`` of a tensor that shares p's memory, so that averaging
    and unscaling treat it as they treat p.

    Args:
        phase: says which parameters are trained, and for which of them gradients are kept apart.
    """

    def __init__(self, phase: Phase) -> None:
        self.trained = phase.trained
        self._may_lack_graph = bool(phase.frozen)
        self._keeps_shares = phase.perturbation is not None
        wanted = None if phase.separate is None else {id(p) for p in phase.separate}
        self._kept = [i for i, p in enumerate(self.trained) if wanted is None or id(p) in wanted]
        self._rows: dict[str, list[Tensor]] = {}
        self._declared = True

    def gradients(self) -> Gradients:
        """What was added up."""
        return Gradients(self.trained, self._rows, self._declared)

    def holders(self) -> list[Tensor]:
        """Every tensor whose ``.grad`` is a gradient of a part."""
        return [holder for row in self._rows.values() for holder in row]

    def _row(self, part: str) -> list[Tensor]:
        """The holders of a part; a new one that is weighted starts as what was counted with a weight of 1 so far."""
        if part not in self._rows:
            row = [p.detach() for p in self.trained]
            if part.endswith(_WEIGHTED):
                for holder, plain in zip(row, self._row(part.removesuffix(_WEIGHTED)), strict=True):
                    holder.grad = plain.grad
            self._rows[part] = row
        return self._rows[part]

    def add(self, objective: Objective, share: float, backward: Backward) -> None:
        """One backward pass per part, and one of the total where it is not declared to be their weighted sum.

        Args:
            objective: of one micro-batch.
            share: of the micro-batch in the phase.
            backward: of a loss, scaled where there is a loss scale.
        """
        sofar = [p.grad for p in self.trained]
        weights = objective.weights
        self._declared = self._declared and weights is not None
        wanted = self.trained if weights is not None else [self.trained[i] for i in self._kept]
        options: dict[str, Any] = {} if any(is_sharded(p) for p in self.trained) else {"inputs": wanted}
        last = list(objective.parts)[-1] if weights is not None else None
        for name, part in objective.parts.items():
            for p in self.trained:
                p.grad = None
            if part.requires_grad and wanted:
                loss = part if share == 1 else part * share
                self._backward(backward, loss, {**options, "retain_graph": name != last})
            weight = 1.0 if weights is None else weights[name]
            if self._keeps_shares and (isinstance(weight, Tensor) or weight != 1 or name + _WEIGHTED in self._rows):
                self._add_to(name + _WEIGHTED, weight)
            self._add_to(name)
            if weights is not None:
                for i, p in enumerate(self.trained):
                    sofar[i] = sofar[i] if p.grad is None else _sum(sofar[i], p.grad, weight)
        for p, gradient in zip(self.trained, sofar, strict=True):
            p.grad = gradient
        done = weights is not None and any(part.requires_grad for part in objective.parts.values())
        if not done and (objective.total.requires_grad or not self._may_lack_graph):  # else torch misses the graph
            backward(objective.total if share == 1 else objective.total * share)

    def _add_to(self, part: str, weight: float | Tensor | None = None) -> None:
        """Add the gradients that are in place, times a weight, to those of a part."""
        row = self._row(part)
        for i in self._kept:
            gradient, held = self.trained[i].grad, row[i].grad
            if gradient is not None:
                simple = weight is None and held is None
                row[i].grad = gradient if simple else _sum(held, gradient, 1.0 if weight is None else weight)

    @staticmethod
    def _backward(backward: Backward, loss: Tensor, options: Mapping[str, Any]) -> None:
        try:
            backward(loss, **options)
        except RuntimeError as error:
            if "donated buffer" not in str(error):
                raise
            raise UnsupportedError(
                "`parts`: gradients apart need several backward passes through compiled code, which was first compiled "
                "for one only. Set torch._functorch.config.donated_buffer = False before the first step."
            ) from error

    # ---- processes -------------------------------------------------------------------------------------------------

    def layout(self) -> bytes:
        """The names of the parts on this process, in order, and which parameters have a gradient of each."""
        if not self._rows:
            return b""
        flags = {n: "".join("01"[h.grad is not None] for h in row) for n, row in self._rows.items()}
        return json.dumps(list(flags.items())).encode()

    def agree(self, layouts: Sequence[bytes]) -> list[Tensor]:
        """Take on the parts of all processes, in one order everywhere; those to average, in that order too.

        Args:
            layouts: :meth:`layout` of every process.
        """
        union: dict[str, set[int]] = {}
        for text in layouts:
            for name, flags in json.loads(text) if text else ():
                union.setdefault(name, set()).update(i for i, flag in enumerate(flags) if flag == "1")
        for name in union:  # where a weight is 1 the gradient times it is not listed
            union[name] |= union.get(name.removesuffix(_WEIGHTED), set())
        self._rows = {name: self._row(name) for name in union}
        return [self._rows[name][i] for name, places in union.items() for i in sorted(places)]


def _sum(old: Tensor | None, gradient: Tensor, weight: float | Tensor) -> Tensor:
    """Old + weight * gradient, in new memory."""
    term = gradient * (weight.to(gradient.dtype) if isinstance(weight, Tensor) else weight)
    return term if old is None else old + term
