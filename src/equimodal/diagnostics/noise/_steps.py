"""What spoils sequences: steps that are lost, repeated, exchanged or replaced, and time that runs unevenly."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equimodal._utils.shapes import line_up
from equimodal.batch import Tokens, Tree

BLOCKS = {"drop_steps": 1, "drop_blocks": 3, "drop_segments": 10}
"""Steps that are lost together, as MultiBench has them for words, time series and audio."""


def steps_of(x: Tree) -> tuple[Tensor, Tensor] | None:
    """Values (B, T, ...) and which steps are real; ``None`` if ``x`` is no sequence."""
    if isinstance(x, Tokens):
        return x.values, x.mask
    if isinstance(x, Tensor) and x.ndim == 2 and not x.is_floating_point():
        return x, x != 0
    if isinstance(x, Tensor) and x.ndim == 3:
        return x, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    return None


def dropped(x: Tree, drawn: Tensor, level: float, block: int) -> Tree:
    """Steps become 0, padding or nothing; of tokens and words at least one stays.

    Args:
        x: a sequence.
        drawn: (B, T) a number per step.
        level: below which a block starts.
        block: steps that it has.
    """
    starts = drawn < level
    lost = starts.clone()
    for shift in range(1, block):
        lost[:, shift:] |= starts[:, : max(0, starts.shape[1] - shift)]
    if isinstance(x, Tensor) and x.is_floating_point():
        return x.masked_fill(lost[..., None], 0.0)
    real = x.mask if isinstance(x, Tokens) else x != 0
    left = real & ~lost
    left = torch.where(left.any(1, keepdim=True), left, real & (real.cumsum(1) == 1))
    if isinstance(x, Tokens):
        return Tokens(x.values.masked_fill(~line_up(left, x.values), 0), left)
    order = _real_first(left)
    return torch.where(left, x, 0).gather(1, order)


def repeated(x: Tree, values: Tensor, real: Tensor, drawn: Tensor, level: float) -> Tree:
    """Real steps are there twice in a row; the others move on, and what no longer fits is lost.

    Args:
        x: the sequence that ``values`` and ``real`` are of.
        values: (B, T, ...).
        real: (B, T).
        drawn: (B, T) a number per step.
        level: below which a step is repeated.
    """
    twice = (drawn < level) & real
    order = _real_first(real)
    ends = (real.long() + twice.long()).gather(1, order).cumsum(1)
    place = torch.arange(values.shape[1], device=values.device).expand_as(ends).contiguous()
    source = torch.searchsorted(ends, place, right=True).clamp_max(values.shape[1] - 1)
    there = place < ends[:, -1:]
    found = _taken(_taken(values, order), source)
    found = found.masked_fill(~line_up(there, found), 0)
    some = twice.any(1)
    found = torch.where(line_up(some, found), found, values)
    return Tokens(found, torch.where(some[:, None], there, real)) if isinstance(x, Tokens) else found


def swapped(values: Tensor, real: Tensor, drawn: Tensor, level: float) -> Tensor:
    """Neighbours exchanged: real steps are paired from the first or the second one on, and each pair may change places.

    Args:
        values: (B, T, ...).
        real: (B, T).
        drawn: (B, 1 + T // 2): where pairs begin, and a number per pair.
        level: below which a pair changes places.
    """
    order = _real_first(real)
    place = torch.arange(values.shape[1], device=values.device)
    start = (2 * drawn[:, :1]).long()
    partner = start + ((place - start) ^ 1)
    pair = ((place - start) // 2).clamp(0, drawn.shape[1] - 2)
    length = real.sum(1, keepdim=True)
    both = (place >= start) & (place < length) & (partner < length)
    moved = both & (drawn[:, 1:].gather(1, pair) < level)
    return _put_back(values, order, _taken(_taken(values, order), torch.where(moved, partner, place)))


def replaced(ids: Tensor, real: Tensor, drawn: Tensor, level: float, low: int, high: int) -> Tensor:
    """Words become any number from ``low`` to ``high``.

    Args:
        ids: (B, T).
        real: (B, T).
        drawn: (B, T, 2): a number per word that decides, and one that chooses.
        level: below which a word is replaced.
        low: smallest id.
        high: largest id.
    """
    other = low + (drawn[..., 1].double() * (high - low + 1)).to(ids.dtype)
    return torch.where(real & (drawn[..., 0] < level), other, ids)


def warped(values: Tensor, real: Tensor, drawn: Tensor, level: float) -> Tensor:
    r"""Read at the times :math:`t + \frac{s a}{2 \pi} \sin 2 \pi t`, t in [0, 1] over the real steps; ends stay.

    Args:
        values: (B, T, F).
        real: (B, T).
        drawn: (B, 1) in [0, 1), which gives a in [-1, 1).
        level: s, at most 1, so that time never runs backwards.
    """
    order = _real_first(real)
    packed = _taken(values, order)
    last = (real.sum(1, keepdim=True) - 1).clamp_min(0)
    place = torch.arange(values.shape[1], device=values.device).expand_as(real)
    time = place / last.clamp_min(1)
    shift = level * (2 * drawn - 1) / (2 * math.pi)
    at = ((time + shift * (2 * math.pi * time).sin()) * last).clamp_min(0).minimum(last)
    before = at.floor().long()
    share = (at - before).to(values.dtype)[..., None]
    found = torch.lerp(_taken(packed, before), _taken(packed, (before + 1).minimum(last)), share)
    return _put_back(values, order, torch.where((place <= last)[..., None], found, packed))


def _real_first(real: Tensor) -> Tensor:
    """(B, T): the real steps in order, then the others."""
    return torch.argsort((~real).to(torch.int8), dim=1, stable=True)


def _taken(values: Tensor, index: Tensor) -> Tensor:
    """Steps of ``values`` (B, T, ...) at ``index`` (B, T)."""
    return values.gather(1, line_up(index, values).expand_as(values))


def _put_back(values: Tensor, order: Tensor, packed: Tensor) -> Tensor:
    """``packed`` at the places that its steps came from."""
    return torch.empty_like(values).scatter(1, line_up(order, values).expand_as(values), packed)
