"""Encoders that go back to where they began, in part or all the way."""

from __future__ import annotations

import torch
from torch import Tensor

from equimodal.engine import local, modules_of
from equimodal.methods._base import Method


class SoftReset:
    r"""Where the encoders of a method began, and their way back.

    .. math:: \theta_m \leftarrow w\, \theta_m^{initial} + (1 - w)\, \theta_m

    Args:
        method: whose encoders. Its ``state`` names ``initial`` of this object.
        statistics: running statistics, such as those of batch normalisation, go back like weights; else they stay.

    Example:
        >>> from torch import nn
        >>> from equimodal import Classification, MultimodalModel
        >>> from equimodal.fusion import Concat
        >>> from equimodal.methods import Joint
        >>> encoder = nn.Linear(1, 1, bias=False)
        >>> model = MultimodalModel({"a": encoder}, Concat({"a": 1}), nn.Linear(1, 2))
        >>> reset = SoftReset(Joint(model, Classification(2)))
        >>> _ = nn.init.constant_(encoder.weight, 4.0)
        >>> reset.remember()
        >>> _ = nn.init.constant_(encoder.weight, 8.0)
        >>> reset.back("a", 0.75)
        >>> encoder.weight.item()
        5.0
    """

    def __init__(self, method: Method, statistics: bool = True) -> None:
        self._method, self._statistics = method, statistics
        self.initial: dict[str, Tensor] = {}

    def remember(self) -> None:
        """Where the encoders begin is where they are at the first call, when all processes have equal weights."""
        if not self.initial:
            modalities = self._method.modalities
            self.initial = {name: t.detach().clone() for m in modalities for name, t in self._tensors(m).items()}

    @torch.no_grad()
    def back(self, modality: str, weight: float) -> None:
        """The way back of one encoder.

        Args:
            modality: of the encoder.
            weight: w, from 0, nothing, to 1, all the way.
        """
        for name, tensor in self._tensors(modality).items():
            here, initial = local(tensor), local(self.initial[name])
            here.copy_(weight * initial.to(here.device) + (1 - weight) * here)

    def _tensors(self, modality: str) -> dict[str, Tensor]:
        """Weights of an encoder and, if they go back, its running statistics; by position, as in stored states."""
        position = self._method.modalities.index(modality)
        parameters = list(self._method.multimodal.parameters_of(modality))
        tensors: list[Tensor] = list(parameters)
        if self._statistics:
            modules = modules_of(self._method.model, parameters)
            tensors += [b for module in modules for b in module.buffers() if b.is_floating_point()]
        return {f"{position}.{number}": t for number, t in enumerate(tensors)}
