"""What a method predicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from equimodal.errors import UnsupportedError
from equimodal.tasks import Distribution


@dataclass(frozen=True)
class Prediction:
    """What :meth:`Method.predict` returns.

    Args:
        output: (B, C, ...) output of the prediction, as the task reads it; ``task.probabilities(output)`` is what it
            says. Where a rule averages probabilities, these are their logarithms (or logits, for labels).
        unimodal: modality -> (B, C, ...) output of that modality alone, after its temperature; zero (no opinion) in
            rows that do not have it. Empty for a method without unimodal outputs.
        weights: modality -> weight in the prediction, (B,), or per pixel, label or number where the rule weighs them
            apart; empty where the joint head decided.
        rule: the inference rule that was used.
        distribution: what ``output`` is.
    """

    output: Tensor
    unimodal: Mapping[str, Tensor]
    weights: Mapping[str, Tensor]
    rule: str
    distribution: Distribution = "categorical"

    @property
    def probabilities(self) -> Tensor:
        """softmax(output) over the classes, or the sigmoid of every label.

        Raises:
            UnsupportedError: a regression, which predicts numbers: ``task.probabilities(output)`` has them.
        """
        if self.distribution == "categorical":
            return torch.softmax(self.output, dim=1)
        if self.distribution == "bernoulli":
            return torch.sigmoid(self.output)
        raise UnsupportedError(
            "`probabilities`: a regression predicts numbers. Read them with method.task.probabilities(output)."
        )
