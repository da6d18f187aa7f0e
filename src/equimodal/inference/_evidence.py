"""What a method says about its validation samples, in the form in which rules are fitted and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from equimodal._utils.precision import widest_float
from equimodal._utils.shapes import line_up
from equimodal.errors import NonFiniteError
from equimodal.inference._skill import JOINT, Kind, kind_of
from equimodal.tasks import Distribution, Task, in_output_unit

_MOST_PIXELS = 1 << 16
"""More pixels than this in one expert's outputs are thinned out before anything is fitted to them."""
PIXELS_PER_IMAGE = 1 << 12
"""Pixels of each image on which it is decided whether the joint head counts for incomplete samples."""


@dataclass(frozen=True)
class Evidence:
    """Outputs, presence and targets of N validation samples.

    Args:
        task: gives losses and scores.
        distribution: what an output is.
        outputs: expert -> (N, C, ...), :data:`JOINT` for the joint head.
        present: modality -> (N,) booleans, for every modality of the method.
        target: (N, ...).
        groups: (N,) codes of samples that belong together, on the CPU; ``None``: every sample by itself.
        reduced: modalities that are left -> what the joint head says of these alone, (N, C, ...) or thinned pixels.
    """

    task: Task
    distribution: Distribution
    outputs: Mapping[str, Tensor]
    present: Mapping[str, Tensor]
    target: Tensor
    groups: Tensor | None = None
    reduced: Mapping[tuple[str, ...], Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.target)

    @property
    def compared(self) -> Tensor:
        """The target in the unit of the outputs, (N, ...)."""
        return in_output_unit(self.task, self.target)

    @property
    def kind(self) -> Kind:
        """How the outputs are pooled."""
        return kind_of(self.distribution, next(iter(self.outputs.values())))

    @property
    def complete(self) -> Tensor:
        """(N,) whether a sample has every modality."""
        if not self.present:
            return torch.ones(len(self), dtype=torch.bool, device=self.target.device)
        return torch.stack(list(self.present.values())).all(0)

    def has(self, expert: str) -> Tensor:
        """(N,) whether a sample has an expert; the joint head is always there."""
        mask = self.present.get(expert)
        return torch.ones(len(self), dtype=torch.bool, device=self.target.device) if mask is None else mask

    def infinite(self) -> list[str]:
        """Experts with NaN or infinity in rows that have them."""
        found = []
        for e, z in self.outputs.items():
            finite = torch.isfinite(z).flatten(1).all(1)
            if not bool((finite | ~self.has(e)).all()):
                found.append(e)
        return found

    def require_finite(self) -> None:
        """Refuse outputs from which nothing can be fitted.

        Raises:
            NonFiniteError: NaN or infinity where an expert is present.
        """
        bad = self.infinite()
        if bad:
            shown = ", ".join("the joint head" if e == JOINT else repr(e) for e in bad)
            raise NonFiniteError(
                f"`batches`: expected finite validation outputs to fit 'skill' on. Found NaN or infinity in those of "
                f"{shown}. Train with a smaller rate or clipped gradients, or take another rule."
            )

    def readable(self) -> Evidence:
        """The same with zeros where an expert is absent."""
        kept = {e: torch.where(line_up(self.has(e), z), z, torch.zeros_like(z)) for e, z in self.outputs.items()}
        return replace(self, outputs=kept)

    def select(self, rows: Tensor) -> Evidence:
        """The samples at ``rows``, (n,) integers or (N,) booleans; nothing reduced."""
        return replace(
            self,
            outputs={e: z[rows.to(z.device)] for e, z in self.outputs.items()},
            present={m: mask[rows.to(mask.device)] for m, mask in self.present.items()},
            target=self.target[rows.to(self.target.device)],
            groups=None if self.groups is None else self.groups[rows.cpu()],
            reduced={},
        )

    def fewer_pixels(self) -> Evidence:
        """The same; of pixels only some of every image, evenly spread."""
        if self.kind != "pixels":
            return self
        most = max(1, _MOST_PIXELS // len(self))
        outputs = {e: thinned(z, most) for e, z in self.outputs.items()}
        target = thinned_target(self.target, next(iter(self.outputs.values())), most)
        return replace(self, outputs=outputs, target=target, reduced={})

    def for_fitting(self) -> Evidence:
        """In float64 on the CPU; pixels thinned out, on their device in its widest type."""
        place = self.target.device if self.kind == "pixels" else torch.device("cpu")
        few = self.fewer_pixels()
        outputs = {e: z.to(place, widest_float(place)) for e, z in few.outputs.items()}
        present = {m: mask.to(place) for m, mask in self.present.items()}
        return replace(few, outputs=outputs, present=present, target=few.target.to(place), reduced={})

    def incomplete(self) -> Evidence | None:
        """Every sample as it would be with fewer modalities, as far as ``reduced`` says, and those that lack some.

        In :attr:`reduced` each entry keeps some modalities; a sample takes part where it loses one and keeps one.
        """
        dense = self.kind == "pixels"
        shrink = (lambda z: thinned(z, PIXELS_PER_IMAGE)) if dense else (lambda z: z)
        first = next(iter(self.outputs.values()))
        target = thinned_target(self.target, first, PIXELS_PER_IMAGE) if dense else self.target
        plain = replace(self, outputs={e: shrink(z) for e, z in self.outputs.items()}, target=target, reduced={})
        parts = [plain.select(~self.complete)]
        for kept, joint in self.reduced.items():
            masks = {m: mask & (m in kept) for m, mask in self.present.items()}
            left = torch.stack(list(masks.values())).any(0)
            lost = torch.stack([self.present[m] & ~mask for m, mask in masks.items()]).any(0)
            less = replace(plain, outputs={**plain.outputs, JOINT: joint}, present=masks)
            parts.append(less.select(left & lost))
        parts = [p for p in parts if len(p)]
        return _joined(parts) if parts else None


def _joined(parts: Sequence[Evidence]) -> Evidence:
    first = parts[0]
    return replace(
        first,
        outputs={e: torch.cat([p.outputs[e] for p in parts]) for e in first.outputs},
        present={m: torch.cat([p.present[m] for p in parts]) for m in first.present},
        target=torch.cat([p.target for p in parts]),
        groups=None,
    )


def thinned(output: Tensor, most: int) -> Tensor:
    """(N, C, P, 1): at most about ``most`` pixels of every image, evenly spread; the same ones for equal sizes."""
    flat = output.flatten(2)
    return flat[:, :, :: _step(flat.shape[2], most)].unsqueeze(-1)


def thinned_target(target: Tensor, output: Tensor, most: int) -> Tensor:
    """(N, P, 1): the labels of the pixels that :func:`thinned` keeps of ``output``."""
    flat = target.flatten(1)
    return flat[:, :: _step(output.flatten(2).shape[2], most)].unsqueeze(-1)


def _step(pixels: int, most: int) -> int:
    step = -(-pixels // most)
    return step + (step % 2 == 0 and step > 1)  # an even step would meet the same columns of every image
