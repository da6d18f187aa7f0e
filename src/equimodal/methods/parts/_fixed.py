"""Fusion and head of a model as a fixed function: features get gradients through them, they get none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from equimodal.batch import Tree, tree_map
from equimodal.engine import paused_statistics
from equimodal.model import Multimodal


class FixedHead:
    r"""The output :math:`f(z; \mathrm{sg}(\psi))` with all parameters :math:`\psi` of the model but the encoders' held.

    A loss on it trains the encoders alone. Running statistics of normalisation layers are left as they are.

    Args:
        model: fuses, and has the head. Its encoders are found by object and are not run here.

    Example:
        >>> import torch
        >>> from equimodal import MultimodalModel
        >>> from equimodal.fusion import Concat
        >>> model = MultimodalModel({"a": nn.Linear(3, 2)}, Concat({"a": 2}), nn.Linear(2, 1))
        >>> z = torch.ones(4, 2, requires_grad=True)
        >>> FixedHead(model)({"a": z}).sum().backward()
        >>> model.head.weight.grad is None, z.grad.shape
        (True, torch.Size([4, 2]))
    """

    def __init__(self, model: Multimodal) -> None:
        self._reader = _Reader(model)
        encoders = {id(p) for m in model.modalities for p in model.parameters_of(m)}
        self._names = [  # of each module once, and of a parameter that several modules have under each of them
            f"{path}.{name}" if path else name
            for path, module in self._reader.named_modules()
            for name, p in module.named_parameters(recurse=False)
            if id(p) not in encoders
        ]

    def __call__(self, features: Mapping[str, Tree], present: Mapping[str, Tensor] | None = None) -> Tensor:
        """The output (B, C, ...)."""
        with paused_statistics(self._reader):
            fixed = {n: self._reader.get_parameter(n).detach() for n in self._names}
            return cast(Tensor, functional_call(self._reader, fixed, (features, present), tie_weights=False))


def zero_features(feature: Tree) -> Tree:
    """Zeros in place of the features, which count as present; which tokens are real stays."""
    return tree_map(lambda t: torch.zeros_like(t) if t.is_floating_point() else t, feature)


class _Reader(nn.Module):
    def __init__(self, model: Multimodal) -> None:
        super().__init__()
        self.model = cast(nn.Module, model)

    def forward(self, features: Mapping[str, Tree], present: Mapping[str, Tensor] | None) -> Tensor:
        model = cast(Multimodal, self.model)
        output: Tensor = model.head(model.fuse(features, present))
        return output
