"""One modality alone: what it can do by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from equimodal._utils.shapes import line_up
from equimodal.batch import Presence
from equimodal.engine import Sharpness
from equimodal.errors import MethodError, UnsupportedError, did_you_mean
from equimodal.methods._ensemble import Ensemble
from equimodal.methods._info import MethodInfo
from equimodal.tasks import Task


class Unimodal(Ensemble):
    """One modality alone, with its own head: what that modality can do by itself.

    Args:
        modality: which one; default the first.
        heads: modality -> module from (B, d_m) to (B, C); default one linear layer each.

    Samples without the modality are left out in training; at prediction time their output is 0: uniform
    probabilities, or the number 0 in a regression.
    """

    info = MethodInfo(
        title="One modality alone",
        idea="one modality alone, with a head of its own",
        paper="Control; no paper of its own.",
        equations="L(head_m(h_m), y)",
        family="objective",
        modalities="one of any number",
        order="by default the first encoder is the one that is trained",
        fusion="ignored",
        missing="samples without the modality are left out in training, and get uniform probabilities later",
        cost="1/M joint step",
        deviations=("none",),
        released=("nothing was released",),
        consulted="none",
        control=True,
        role="single",
    )

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        modality: Annotated[str | None, "the first one"] = None,
        heads: Mapping[str, nn.Module] | None = None,
        sharpness: Sharpness | None = None,
    ) -> None:
        super().__init__(model, task, heads=heads, sharpness=sharpness)
        if modality is not None and modality not in self.modalities:
            raise MethodError(
                f"`modality`: expected one of {list(self.modalities)}. Found {modality!r}."
                f"{did_you_mean(modality, self.modalities)}"
            )
        self.modality = modality or self.modalities[0]

    def trained_modalities(self) -> tuple[str, ...]:
        """The one modality."""
        return (self.modality,)

    def outputs(
        self, inputs: Mapping[str, Any], present: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor], Presence | None]:
        """Only the one modality is encoded, and only its presence counts."""
        presence = self.presence_of(inputs, present)
        mask = None if presence is None else presence.get(self.modality)
        own = None if mask is None else Presence({self.modality: mask})
        if self.modality not in inputs:
            size = 0 if mask is None else mask.shape[0]
            if self.task.dense:
                raise UnsupportedError(
                    f"`inputs`: expected {self.modality!r}, the one modality of this method, from whose size the "
                    "output has its own. Give it with a presence of False."
                )
            like = next(self.heads.parameters())
            return None, {self.modality: like.new_zeros(size, self.task.outputs)}, None
        features = self.multimodal.encode(inputs, own, [self.modality])
        outputs = self.unimodal_outputs(features)
        if mask is not None:  # uniform, not left out: there is no other modality to ask
            outputs = {m: torch.where(line_up(mask, z), z, torch.zeros_like(z)) for m, z in outputs.items()}
        return None, outputs, None
