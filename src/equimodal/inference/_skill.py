"""The pool of all outputs of a method, each weighed by what it was worth on validation data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from equimodal.functional import pool_gaussians, present_weights, weighted_sum
from equimodal.tasks import Distribution

JOINT = "(joint)"
"""The joint head among the experts: its key in ``Prediction.weights`` and in records. No modality may be called so."""
Kind = Literal["classes", "pixels", "labels", "numbers", "gaussians"]
"""How outputs are pooled."""


def kind_of(distribution: Distribution, output: Tensor) -> Kind:
    """How outputs are pooled: probabilities (B, C) are classes, those with more axes pixels."""
    if distribution == "categorical":
        return "pixels" if output.ndim > 2 else "classes"
    kinds: dict[str, Kind] = {"bernoulli": "labels", "gaussian": "gaussians", "point": "numbers"}
    return kinds[distribution]


@dataclass(frozen=True)
class Expert:
    """What was fitted for one output: the joint head's or a modality's.

    Args:
        weight: in the pool; all of them sum to 1.
        skill: share of the best constant's loss that it saves on validation data, calibrated.
        samples: how many validation samples have it.
        scale: factor on its logarithms of probabilities (pixels), or on its standard deviation (Gaussians).
        offset: added to them, one per class (pixels) or number (regression); empty for none.
    """

    weight: float
    skill: float = 0.0
    samples: int = 0
    scale: float = 1.0
    offset: tuple[float, ...] = ()


@dataclass(frozen=True)
class SkillPool:
    r"""The fitted fusion, as plain numbers: it has no device and no precision of its own.

    With :math:`c_e` the calibrated output of an expert and :math:`w_e` its weight, renormalised over the experts that a
    sample has:

    * classes: :math:`\mathrm{softmax}(\beta \sum_e w_e \log\mathrm{softmax}(z_e))`; labels:
      :math:`\sigma(\beta \sum_e w_e z_e)`;
    * pixels: :math:`\mathrm{softmax}(\sum_e w_e (a_e \log\mathrm{softmax}(z_e) + b_e))`;
    * numbers: :math:`\sum_e w_e (f_e + b_e)`; of Gaussians the moments of the mixture, with :math:`\beta \sigma`.

    Args:
        experts: what was fitted for each; :data:`JOINT` is the joint head.
        slope: :math:`\beta`.
        pool: ``"skill"``, or ``"equal"`` weights.
        joint_for_incomplete: whether the joint head counts for samples that lack a modality. It always does where
            nothing else is there.
        samples: of the validation data; 0 before any were seen.
        share: how much of the fit is used; below 1 on few samples, the rest is the prior.
    """

    experts: Mapping[str, Expert]
    slope: float = 1.0
    pool: Literal["skill", "equal"] = "equal"
    joint_for_incomplete: bool = True
    samples: int = 0
    share: float = 1.0

    @classmethod
    def prior(cls, names: Sequence[str], kind: Kind) -> SkillPool:
        """What is used before anything is known: equal weights; of numbers and pixels the joint head, if there is one.

        Equal weights would pull a number towards what weak modalities say, and overrule a mask.
        """
        alone = kind in ("pixels", "numbers", "gaussians") and JOINT in names
        weights = {e: float(e == JOINT) if alone else 1 / len(names) for e in names}
        return cls({e: Expert(w) for e, w in weights.items()})

    def masks(self, outputs: Mapping[str, Tensor], present: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """Which samples have which expert: (B,) booleans each.

        Args:
            outputs: expert -> (B, C, ...).
            present: modality -> (B,) booleans, also of modalities without an output of their own.
        """
        first = next(iter(outputs.values()))
        everyone = torch.ones(first.shape[0], dtype=torch.bool, device=first.device)
        masks = {e: everyone if present is None or present.get(e) is None else present[e] for e in outputs}
        if JOINT in masks and present and not self.joint_for_incomplete and len(masks) > 1:
            complete = torch.stack(list(present.values())).all(0)
            others = torch.stack([mask for e, mask in masks.items() if e != JOINT]).any(0)
            masks[JOINT] = complete | ~others
        return masks

    def weights(self, outputs: Mapping[str, Tensor], present: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """Weight of every expert in every sample, (B,) each, summing to 1."""
        masks = self.masks(outputs, present)
        dtype = _precision(next(iter(outputs.values())))
        known = {e: self.experts[e].weight if e in self.experts else 0.0 for e in outputs}
        return present_weights(known, masks, dtype)

    def calibrated(self, expert: str, output: Tensor, kind: Kind) -> Tensor:
        """The output of one expert as it is pooled, in float32 at least."""
        z = output.to(_precision(output))
        own = self.experts.get(expert, Expert(0.0))
        offset = torch.tensor(own.offset, dtype=z.dtype, device=z.device) if any(own.offset) else None
        if kind == "classes":
            return torch.log_softmax(z, dim=1)
        if kind == "pixels":
            c = own.scale * torch.log_softmax(z, dim=1)
            return c if offset is None else c + offset.reshape(1, -1, *[1] * (z.ndim - 2))
        if kind == "labels":
            return z
        if kind == "gaussians":
            mean, s = z.chunk(2, dim=1)
            mean = mean if offset is None else mean + offset
            return torch.cat([mean, s + 2 * math.log(own.scale)], dim=1)
        return z if offset is None else z + offset.reshape(1, -1, *[1] * (z.ndim - 2))

    def __call__(
        self, outputs: Mapping[str, Tensor], present: Mapping[str, Tensor] | None, kind: Kind
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Output (B, C, ...) as the task reads it, and the weight of every expert (B,).

        Args:
            outputs: expert -> (B, C, ...), as the method gives them; rows without weight are not read.
            present: as of :meth:`masks`.
            kind: see :func:`kind_of`.
        """
        weights = self.weights(outputs, present)
        read = {e: self.calibrated(e, z, kind) for e, z in outputs.items()}
        if kind == "gaussians":
            mean, s = pool_gaussians(read, weights).chunk(2, dim=1)
            return torch.cat([mean, s + 2 * math.log(self.slope)], dim=1), weights
        pooled = weighted_sum(read, weights)
        return self.slope * pooled if kind in ("classes", "labels") else pooled, weights

    def shrunk(self, share: float, prior: SkillPool) -> SkillPool:
        """The part ``share`` of this fit, and of ``prior`` the rest."""
        if share >= 1:
            return self
        experts = {}
        for e, own in self.experts.items():
            before = prior.experts[e]
            experts[e] = replace(
                own,
                weight=share * own.weight + (1 - share) * before.weight,
                scale=own.scale**share if own.scale > 0 else 1 - share,
                offset=tuple(share * b for b in own.offset),
            )
        slope = share * self.slope + (1 - share)
        return replace(self, experts=experts, slope=slope, share=share)

    def state(self, modalities: Sequence[str]) -> dict[str, Any]:
        """Plain values for a checkpoint; modalities by position, as their names are free."""
        at = {JOINT: "joint", **{m: str(i) for i, m in enumerate(modalities)}}
        plain = asdict(replace(self, experts={}))
        experts = {at[e]: {**asdict(own), "offset": list(own.offset)} for e, own in self.experts.items()}
        return {**plain, "experts": experts}

    @classmethod
    def of(cls, state: Mapping[str, Any], modalities: Sequence[str]) -> SkillPool:
        """What :meth:`state` gave."""
        names = {"joint": JOINT, **{str(i): m for i, m in enumerate(modalities)}}
        experts = {
            names[key]: Expert(**{**own, "offset": tuple(own["offset"])}) for key, own in state["experts"].items()
        }
        return cls(**{**state, "experts": experts})


def _precision(output: Tensor) -> torch.dtype:
    return output.dtype if output.dtype == torch.float64 else torch.float32
