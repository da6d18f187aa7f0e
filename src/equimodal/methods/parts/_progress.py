"""How much each modality's score improves, and the balance terms that follow from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from equimodal._utils.precision import in_dtype
from equimodal.engine import Engine
from equimodal.functional import balance_terms, bounded_balance
from equimodal.methods._base import StepReport
from equimodal.tasks import Task, mean_ratio

Variant = Literal["paper", "bounded", "released"]
"""Of the balance rule."""


class ScoreProgress(nn.Module):
    r"""Scores pooled over windows of batches, their moving averages, and B from how much these improve.

    Args:
        modalities: whose scores.
        task: gives their size; where a score has the target's unit (minus the MAE of a regression), improvements are
            first divided by the mean size of the scores.
        window: pool the scores of this many batches before they are compared.
        momentum: of the moving average over windows; 0 takes the scores as they are.
        floor, maximum, threshold: of :func:`~equimodal.functional.balance_terms`.
        variant: ``"paper"`` has no improvement at a modality's first score, ``"released"`` compares it with 0;
            ``"bounded"`` is ``"paper"`` with :func:`~equimodal.functional.bounded_balance`.
        ratio: of ``"bounded"``.
        like: gives device and type, float32 at least.

    Scores are sums over micro-batches and processes. A window that does not show a modality, a class or a region keeps
    its score.
    """

    score_average: Tensor
    seen: Tensor
    numerators: Tensor
    denominators: Tensor
    balance: Tensor
    first: Tensor

    def __init__(
        self,
        modalities: Sequence[str],
        task: Task,
        *,
        window: int,
        momentum: float,
        floor: float,
        maximum: float,
        threshold: float,
        variant: Variant,
        ratio: float,
        like: Tensor,
    ) -> None:
        super().__init__()
        self._modalities, self._task, self._window, self._momentum = tuple(modalities), task, window, momentum
        self._bounds = {"floor": floor, "maximum": maximum, "threshold": threshold}
        self._variant: Variant = variant
        self._ratio, self._best = ratio, 1.0 if task.higher_is_better else 0.0
        count, dtype = len(self._modalities), torch.promote_types(like.dtype, torch.float32)
        table = torch.zeros(count, task.score_size, dtype=dtype, device=like.device)
        for name in ("score_average", "numerators", "denominators"):
            self.register_buffer(name, table.clone())
        self.register_buffer("seen", table > 0)
        if variant == "bounded":
            self.register_buffer("first", table.clone())
        self.register_buffer("balance", torch.full_like(table[:, 0], (count - 1) / count))
        self.batches, self.windows = 0, 0
        self._of: Tensor | None = None  # the object, and its state, that factors were made of
        self._state: tuple[int, float] = (0, 0.0)

    def update(self, sums: Mapping[str, Tensor], engine: Engine, report: StepReport) -> None:
        """Take in a step's ``numerator/m`` and ``denominator/m``; B is made anew at the end of a window."""
        table = self.numerators
        names = [f"{kind}/{m}" for kind in ("numerator", "denominator") for m in self._modalities]
        missing = [n for n in names if n not in sums]
        known = {**sums, **dict.fromkeys(missing, table.new_zeros(table.shape[1]))} if missing else sums
        # in the buffers' type, as in a checkpoint, from which a run continues bit for bit
        whole = engine.all_sum({n: in_dtype(known[n], table.dtype) for n in names})
        numerator, denominator = torch.stack([whole[n] for n in names]).detach().chunk(2)
        for m in self._modalities:
            if f"numerator/{m}" in sums:  # a batch without any sample of it says nothing
                report.score_later(m, partial(mean_ratio, whole[f"numerator/{m}"], whole[f"denominator/{m}"]))
        if self.batches == 0:
            self.numerators.copy_(numerator)
            self.denominators.copy_(denominator)
        else:
            self.numerators.add_(numerator)
            self.denominators.add_(denominator)
        self.__dict__["batches"] += 1  # plainly: nn.Module takes long to set an attribute
        if self.batches == self._window:
            self._end_window()

    def factors(self, rho: float) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        r"""modality -> B, and :math:`\rho B`; made anew where B has changed, as it does once in a window."""
        balance = self.balance
        if self._of is not balance or self._state != (balance._version, rho):
            self._of, self._state = balance, (balance._version, rho)
            # exactly rho (M-1)/M where all are equal: a neutral rho then leaves gradients as they are, bit for bit
            equal = (len(self._modalities) - 1) / len(self._modalities)
            scale = balance.float() / equal * (rho * equal)
            self._known = dict(zip(self._modalities, balance.clone().unbind(), strict=True))
            self._scaled = dict(zip(self._modalities, scale.unbind(), strict=True))
        return dict(self._known), self._scaled

    @torch.no_grad()
    def _end_window(self) -> None:
        known = self.denominators > 0
        score = torch.where(known, self.numerators, 0) / torch.where(known, self.denominators, 1)
        compared = known if self._variant == "released" else known & self.seen
        change = torch.where(compared, (1 - self._momentum) * (score - self.score_average), 0)
        average = torch.where(known & ~compared, score, self.score_average + change)
        improvement = change.sum(1) / compared.sum(1).clamp_min(1)
        if self._variant != "released" and getattr(self._task, "relative_score", False):
            improvement = improvement / average.abs().mean().clamp_min(torch.finfo(average.dtype).tiny)
        rule: Literal["paper", "released"] = "released" if self._variant == "released" else "paper"
        balance = balance_terms(improvement, rule, **self._bounds)
        if self._variant == "bounded":
            balance = self._bounded(balance, average, known)
        self.balance.copy_(balance)
        self.score_average.copy_(average)
        self.seen.logical_or_(known)
        self.batches, self.windows = 0, self.windows + 1

    def _bounded(self, balance: Tensor, average: Tensor, known: Tensor) -> Tensor:
        """Favour a modality as far as it can still gain: since its first score, and up to the best one."""
        self.first.copy_(torch.where(self.seen, self.first, average))
        seen = known | self.seen
        count = seen.sum(1).clamp_min(1)
        gain = torch.where(seen, average - self.first, 0).sum(1) / count
        headroom = torch.where(seen, self._best - average, 0).sum(1) / count
        return bounded_balance(balance, gain, headroom, self._ratio)
