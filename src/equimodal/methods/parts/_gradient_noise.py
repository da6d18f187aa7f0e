"""Gaussian noise as large as that of the gradients of mini-batches, added to gradients that were damped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from equimodal.batch import Batch
from equimodal.engine import Descent, Engine, is_distributed, local
from equimodal.methods._base import Method

Noise = Literal["covariance", "entries"]
"""Noise with the covariance of the mini-batch gradient, or with the spread of a tensor's entries."""

_DRAWN = "gradient noise"


class GradientNoise:
    r"""Draws :math:`\xi \sim N(0, \Sigma)` for the gradient of a batch.

    ``"covariance"``: :math:`\Sigma = \sum_i c_i c_i^\top` is that of the mini-batch gradient, with :math:`c_i` what
    sample i adds to the gradient beyond the mean of all. :math:`\xi = \sum_i \epsilon_i c_i` with standard normal
    :math:`\epsilon_i` has exactly this distribution, and is the gradient of a loss in which sample i counts
    :math:`\epsilon_i` times. It costs a backward pass.

    ``"entries"``: independent entries with the standard deviation of the entries of the same gradient tensor.

    Args:
        kind: of the noise; ``None`` draws none.
        seed: of its generator, whose state belongs to a checkpoint.
    """

    def __init__(self, kind: Noise | None, seed: int) -> None:
        self.kind, self.generator = kind, torch.Generator().manual_seed(seed)

    def prepared(self, batches: list[Batch], device: torch.device) -> list[Batch]:
        """The micro-batches of a step with a number for each sample, other ones on every process."""
        if self.kind != "covariance":
            return batches
        sizes = [len(batch) for batch in batches]
        rank, processes = (dist.get_rank(), dist.get_world_size()) if is_distributed() else (0, 1)
        drawn = torch.randn(processes, sum(sizes), generator=self.generator)[rank].to(device, non_blocking=True)
        parts = torch.split(drawn, sizes)
        return [batch.with_extras(**{_DRAWN: e}) for batch, e in zip(batches, parts, strict=True)]

    def terms(self, method: Method, output: Tensor, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What an objective adds to its ``parts`` and to its ``sums``.

        Args:
            method: gives the loss.
            output: fused, with its graph.
            batch: of :meth:`prepared`.
        """
        if self.kind != "covariance":
            return {}, {}
        drawn = batch.extras[_DRAWN].to(output.dtype)
        rows = drawn.reshape(-1, *[1] * (output.ndim - 1))
        loss = method.loss(output.detach() + rows * (output - output.detach()), batch)
        return {"noise": loss}, {"drawn": drawn.sum(), "samples": torch.full_like(drawn.sum(), len(batch))}

    @torch.no_grad()
    def of(self, parameters: Sequence[nn.Parameter], descent: Descent, engine: Engine) -> list[Tensor]:
        """The noise for the gradient of each parameter, of sharded ones for the part that is here.

        Args:
            parameters: with gradients that nothing has changed yet.
            descent: has the gradients of the parts.
            engine: sums over processes.
        """
        gradients = [local(cast(Tensor, p.grad)) for p in parameters]
        if self.kind is None or not gradients:
            return [torch.zeros_like(g) for g in gradients]
        if self.kind == "entries":
            seed = int(torch.randint(2**62, (), generator=self.generator))  # equal on all processes
            generator = torch.Generator(gradients[0].device).manual_seed(seed)
            return [_spread(g) * torch.randn(g.shape, generator=generator, dtype=g.dtype, device=g.device)
                    for g in gradients]  # fmt: skip
        zero = torch.zeros_like(descent.loss)
        sums = engine.all_sum({n: descent.sums.get(n, zero) for n in ("drawn", "samples")})
        mean = sums["drawn"] / sums["samples"].clamp_min(1)
        weighted = descent.gradients.of("noise", parameters)
        return [
            -mean.to(g.dtype) * g + (0 if w is None else local(w)) for w, g in zip(weighted, gradients, strict=True)
        ]


def _spread(gradient: Tensor) -> Tensor:
    """Standard deviation of the entries; 0 of a single one."""
    return gradient.std(correction=min(1, gradient.numel() - 1))
