"""How the skill pool is fitted: every expert alone, weights from what each is worth, one slope."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from torch import Tensor

from equimodal.functional import (
    constant_cross_entropy,
    cross_entropy_at,
    fit_gaussian_scale,
    fit_offset,
    fit_scale_and_offsets,
    fit_slope,
    skill,
    skill_weights,
    unexplained_share,
)
from equimodal.inference._evidence import Evidence
from equimodal.inference._folds import folds_of
from equimodal.inference._skill import JOINT, Expert, Kind, SkillPool
from equimodal.tasks import score

FEWEST_SAMPLES, FEWEST_IMAGES = 20, 4
"""With fewer validation samples (images, where every pixel has a target) the fit is drawn towards the prior."""
_PRIOR = 1.0  # samples that say the slope of the pool is 1
Pool = Literal["skill", "equal"]


def fewest(kind: Kind) -> int:
    """How many validation samples a fit needs to count in full."""
    return FEWEST_IMAGES if kind == "pixels" else FEWEST_SAMPLES


@dataclass(frozen=True)
class SkillFit:
    """A fitted pool, and the same fitted without each fold of the validation samples.

    Args:
        pool: of all samples.
        without: of the samples outside each fold; empty where there are too few samples for folds.
        folds: (N,) number of each sample's fold.
    """

    pool: SkillPool
    without: Sequence[SkillPool]
    folds: Tensor

    def held_out(self, data: Evidence) -> Tensor:
        """What the pool says of each validation sample when it is fitted without that sample's fold, (N, C, ...)."""
        if not self.without:
            return self.pool(data.outputs, data.present, data.kind)[0]
        output: Tensor | None = None
        for number, pool in enumerate(self.without):
            rows = self.folds == number
            part = data.select(rows)
            found = pool(part.outputs, part.present, data.kind)[0]
            if output is None:
                output = found.new_zeros(len(data), *found.shape[1:])
            output[rows.to(found.device)] = found
        return cast(Tensor, output)


def fit_skill(data: Evidence) -> SkillFit:
    """Fit the pool on validation outputs; deterministic, in float64.

    1. Every expert is calibrated alone, on the samples that have it, and its skill measured there.
    2. With absent modalities, the joint head stays for incomplete samples or not, whichever scores better on samples
       from which modalities are taken away.
    3. Of classes and labels the pool of equal weights is a second candidate. The one with the higher score in a
       cross-validation that respects groups is taken; a tie goes to the lower cross-entropy.

    Raises:
        NonFiniteError: an output is NaN or infinite.
    """
    data.require_finite()
    data = data.readable()
    own, few = data.for_fitting(), len(data) / fewest(data.kind)
    names = list(data.outputs)
    prior = SkillPool.prior(names, data.kind)
    fitted = _with_or_without_joint(data, own)
    folds = folds_of(data.groups, own.target, own.outputs, {e: own.has(e) for e in names})
    if few < 1:
        chosen = fitted["equal" if data.kind in ("classes", "labels") else "skill"]
        return SkillFit(replace(chosen.shrunk(few, prior), samples=len(data), share=few), (), folds)
    without: dict[str, list[SkillPool]] = {pool: [] for pool in fitted}
    for number in range(int(folds.max()) + 1):
        rest = own.select(folds != number)
        for pool in fitted:
            start = fitted[pool]
            without[pool].append(_fitted(rest, start.joint_for_incomplete, start)[pool])
    fits = {pool: SkillFit(replace(fitted[pool], samples=len(data)), without[pool], folds) for pool in fitted}
    return max(fits.values(), key=lambda fit: _quality(fit.held_out(own), own, data.target.device))


def _with_or_without_joint(data: Evidence, own: Evidence) -> dict[Pool, SkillPool]:
    """Both pools, each with the better way to treat the joint head where a modality is missing."""
    default = data.kind not in ("classes", "labels")
    incomplete = data.incomplete() if JOINT in data.outputs and len(data.outputs) > 1 else None
    if incomplete is None:
        return _fitted(own, default)
    keep = _fitted(own, True)
    drop = _fitted(own, False) if not bool(data.complete.all()) else {
        pool: replace(fit, joint_for_incomplete=False) for pool, fit in keep.items()
    }  # fmt: skip
    chosen: dict[Pool, SkillPool] = {}
    for pool in keep:
        both = (keep[pool], drop[pool]) if default else (drop[pool], keep[pool])  # a tie goes to the first
        chosen[pool] = max(both, key=lambda fit: _quality(_said(fit, incomplete), incomplete, data.target.device))
    return chosen


def _said(fit: SkillPool, data: Evidence) -> Tensor:
    return fit(data.outputs, data.present, data.kind)[0]


def _quality(output: Tensor, data: Evidence, device: torch.device) -> tuple[float, float]:
    """Score, and minus the loss, of an output; the task's own tensors are on ``device``."""
    output, target = output.to(device), data.target.to(device)
    if output.dtype == torch.float64 and device.type == "mps":
        output = output.float()
    return float(score(data.task, output, target)), -float(data.task.loss(output, target))


# ---- one fit ---------------------------------------------------------------------------------------------------------


def _fitted(data: Evidence, joint_for_incomplete: bool, start: SkillPool | None = None) -> dict[Pool, SkillPool]:
    """The pools that outputs of this kind have: by skill, and for classes and labels the equal one."""
    kind, names = data.kind, list(data.outputs)
    blank = SkillPool({e: Expert(1.0) for e in names}, joint_for_incomplete=joint_for_incomplete)
    masks = blank.masks(data.outputs, data.present)
    constants: dict[bytes, float] = {}
    experts = {}
    for e, rows in masks.items():
        seen, key = bool(rows.any()), rows.cpu().numpy().tobytes()
        experts[e] = _expert(data.select(rows), e, constants, key, start) if seen else Expert(0.0)
    found: dict[Pool, SkillPool] = {"skill": _weighed(blank, experts, "skill", kind)}
    if kind in ("classes", "labels"):
        found["equal"] = _weighed(blank, experts, "equal", kind)
    return {pool: replace(fit, slope=_slope(fit, data)) for pool, fit in found.items()}


def _weighed(blank: SkillPool, experts: Mapping[str, Expert], pool: Pool, kind: Kind) -> SkillPool:
    seen = [e for e, own in experts.items() if own.samples] or list(experts)
    # an expert that few samples have is trusted less: its skill may be luck
    least = fewest(kind)
    skills = [experts[e].skill * min(1.0, experts[e].samples / least) for e in seen]
    shares = skill_weights(skills) if pool == "skill" else [1 / len(seen)] * len(seen)
    weights = dict(zip(seen, shares, strict=True))
    return replace(
        blank, pool=pool, experts={e: replace(own, weight=weights.get(e, 0.0)) for e, own in experts.items()}
    )


def _expert(data: Evidence, name: str, constants: dict[bytes, float], rows: bytes, start: SkillPool | None) -> Expert:
    """One expert alone, on the samples that have it."""
    z, kind, count = data.outputs[name], data.kind, len(data)
    if kind in ("classes", "labels"):
        logits, q = _pairs(z, data)
        # a temperature, which tells what the expert knows from how boldly it says so; the pool reads raw logarithms
        loss = cross_entropy_at(logits, q, fit_slope(logits, q))
        return Expert(0.0, skill(loss, constant_cross_entropy(q)), count)
    if kind == "pixels":
        before = None if start is None or not start.experts[name].samples else start.experts[name]
        loss_of = _loss_of(data)
        if rows not in constants:
            constants[rows] = fit_scale_and_offsets(z, loss_of, constant=True)[2]
        logs = torch.log_softmax(z, dim=1)
        scale, offset, value = fit_scale_and_offsets(
            logs, loss_of, None if before is None else (before.scale, before.offset)
        )
        return Expert(0.0, skill(value, constants[rows]), count, scale, tuple(offset))
    mean = z.chunk(2, dim=1)[0] if kind == "gaussians" else z
    y = data.compared.to(z.dtype).reshape(mean.shape)
    mean, y = _rows_of_numbers(mean), _rows_of_numbers(y)
    offset_of = fit_offset(mean, y)
    worth = skill(unexplained_share(mean + offset_of, y), 1.0)
    own = Expert(0.0, worth, count, 1.0, tuple(offset_of.tolist()))
    if kind == "numbers":
        return own
    moved = SkillPool({name: own}).calibrated(name, z, kind)
    return replace(own, scale=float(fit_gaussian_scale(moved, data.compared.to(z.dtype))))


def _slope(fit: SkillPool, data: Evidence) -> float:
    if fit.experts and data.kind in ("classes", "labels"):
        logits, q = _pairs(_said(fit, data), data)
        return fit_slope(logits, q, _PRIOR)
    if data.kind != "gaussians":
        return 1.0
    mean, s = _said(fit, data).chunk(2, dim=1)
    error = (data.compared.to(mean.dtype).reshape(mean.shape) - mean).square() * torch.exp(-s)
    count = len(data)
    return float(((error.mean() * count + _PRIOR) / (count + _PRIOR)).sqrt().clamp(0.05, 20.0))


def _pairs(z: Tensor, data: Evidence) -> tuple[Tensor, Tensor]:
    """Logits (N, ..., C) and how much each class counts in each sample, the same shape."""
    y = data.target.to(z.device)
    if data.kind == "classes":
        q = y.to(z.dtype) if y.is_floating_point() else torch.nn.functional.one_hot(y.long(), z.shape[1]).to(z.dtype)
        weight = getattr(data.task, "class_weight", None)
        return z, q if weight is None else q * weight.to(z)
    y = y.to(z.dtype)
    weight = getattr(data.task, "pos_weight", None)
    yes = y if weight is None else y * weight.to(z).reshape(-1, *[1] * (z.ndim - 2))
    return torch.stack([torch.zeros_like(z), z], -1), torch.stack([1 - y, yes], -1)


def _rows_of_numbers(values: Tensor) -> Tensor:
    """(N, D, ...) as (N', D): further axes are samples."""
    return values.movedim(1, -1).flatten(0, -2)


def _loss_of(data: Evidence) -> Callable[[Tensor], Tensor]:
    return lambda logits: data.task.loss(logits, data.target)
