"""Several models of the same modalities as one: features side by side, and the mean of what they say."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from equimodal.batch import Tokens, Tree
from equimodal.engine import is_sharded
from equimodal.errors import ModelError, UnsupportedError
from equimodal.features import Width
from equimodal.functional import fuse_gaussians
from equimodal.methods._predictor import MEMBERS
from equimodal.model import Multimodal
from equimodal.tasks import Distribution


class Members(nn.Module):
    """A model whose features are those of all members, joined along their width, and whose output is their mean.

    Args:
        models: at least one :class:`~equimodal.Multimodal`, all with the same modalities.
        distribution: what an output is; decides what a mean is, see :func:`mean_output`.

    Raises:
        ModelError: a model lacks a member of :class:`~equimodal.Multimodal`, or has other modalities.

    Example:
        >>> from equimodal import MultimodalModel
        >>> from equimodal.fusion import Concat
        >>> models = [MultimodalModel({"a": nn.Linear(3, 4)}, Concat({"a": 4}), nn.Linear(4, 2)) for _ in range(2)]
        >>> both = Members(models, "categorical")
        >>> features = both.encode({"a": torch.zeros(5, 3)})
        >>> features["a"].shape, both.head(both.fuse(features)).shape
        (torch.Size([5, 8]), torch.Size([5, 2]))
    """

    def __init__(self, models: Sequence[nn.Module], distribution: Distribution) -> None:
        super().__init__()
        first = tuple(getattr(models[0], "modalities", ()))
        for number, model in enumerate(models, 1):
            # by name: from Python 3.12 on, isinstance with a protocol does not see the sub-modules of a module
            if not all(hasattr(model, name) for name in MEMBERS):
                raise ModelError(
                    f"`models`: expected modules with the members of equimodal.Multimodal. Found "
                    f"{type(model).__name__} as number {number}."
                )
            own = tuple(cast(Multimodal, model).modalities)
            if own != first:
                raise ModelError(
                    f"`models`: expected the modalities {list(first)} in each. Found {list(own)} in number {number}."
                )
        self.members = nn.ModuleList(models)
        # beside the members, which are in the state already
        self.__dict__["_head"] = _MeanHead([member.head for member in self.each()], distribution)

    def each(self) -> list[Multimodal]:
        """The members, typed by what a method uses of them."""
        return [cast(Multimodal, member) for member in self.members]

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities."""
        return tuple(self.each()[0].modalities)

    @property
    def feature_sizes(self) -> Mapping[str, Width]:
        """modality -> width of the members' features together."""
        return {m: _total([member.feature_sizes[m] for member in self.each()]) for m in self.modalities}

    @property
    def head(self) -> nn.Module:
        """The mean of the members' heads, each on what its own member fused."""
        return cast(nn.Module, self.__dict__["_head"])

    def encoder(self, modality: str) -> nn.Module:
        """The members' encoders of ``modality``."""
        return nn.ModuleList(cast(Any, member).encoder(modality) for member in self.members)

    def parameters_of(self, modality: str) -> list[nn.Parameter]:
        """The parameters of the members' encoders of ``modality``."""
        return [p for member in self.each() for p in member.parameters_of(modality)]

    def encode(
        self,
        inputs: Mapping[str, Tree],
        present: Mapping[str, Tensor] | None = None,
        modalities: Sequence[str] | None = None,
    ) -> dict[str, Tree]:
        """modality -> features of all members, side by side."""
        found = [member.encode(inputs, present, modalities) for member in self.each()]
        return {m: _joined([features[m] for features in found]) for m in found[0]}

    def shares(self, features: Mapping[str, Tree]) -> list[dict[str, Tree]]:
        """The features of each member."""
        widths = [[member.feature_sizes[m] for member in self.each()] for m in features]
        parts = [_shares(feature, of) for feature, of in zip(features.values(), widths, strict=True)]
        return [dict(zip(features, own, strict=True)) for own in zip(*parts, strict=True)]

    def fuse(self, features: Mapping[str, Tree], present: Mapping[str, Tensor] | None = None) -> Tree:
        """What each member fuses of its own features, as a tuple."""
        own = self.shares(features)
        return tuple(member.fuse(part, present) for member, part in zip(self.each(), own, strict=True))

    def forward(self, inputs: Mapping[str, Tree], present: Mapping[str, Tensor] | None = None) -> Tensor:
        """The mean output (B, C, ...)."""
        output: Tensor = self.head(self.fuse(self.encode(inputs, present), present))
        return output


class _MeanHead(nn.Module):
    def __init__(self, heads: Sequence[nn.Module], distribution: Distribution) -> None:
        super().__init__()
        self.heads, self.distribution = nn.ModuleList(heads), distribution

    def forward(self, fused: Sequence[Tree]) -> Tensor:
        outputs = [head(part) for head, part in zip(self.heads, fused, strict=True)]
        return mean_output(outputs, self.distribution)


def mean_output(outputs: Sequence[Tensor], distribution: Distribution) -> Tensor:
    r"""What several models say of the same samples: the mean of their outputs.

    Of logits that is their log-opinion pool, :math:`\propto \prod_k p_k^{1/K}`; of Gaussians the moments of the
    mixture.

    Example:
        >>> mean_output([torch.tensor([[1.0]]), torch.tensor([[3.0]])], "point")
        tensor([[2.]])
    """
    if len(outputs) == 1:
        return outputs[0]
    if distribution == "gaussian":
        return fuse_gaussians({str(k): z for k, z in enumerate(outputs)}, None, "mean")[0]
    return torch.stack(list(outputs)).mean(0)


def redrawn(model: nn.Module) -> nn.Module:
    """A copy of ``model`` whose layers have drawn their weights anew, by their own ``reset_parameters``.

    Layers without trainable parameters, and networks of :mod:`equimodal.encoders` that were loaded from a file
    (``weights=``), are copied as they are: a pretrained network is where all copies start from.

    Raises:
        ModelError: a layer has trainable numbers that differ and no ``reset_parameters``, so nothing says how they were
            drawn.
        UnsupportedError: a parameter is sharded.

    Example:
        >>> old = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
        >>> new = redrawn(old)
        >>> bool((new[0].weight == old[0].weight).any()), bool((new[1].weight == old[1].weight).all())
        (False, True)
    """
    if any(is_sharded(p) for p in model.parameters()):
        raise UnsupportedError(
            "`model`: expected whole parameters, of which copies can be drawn. Found sharded ones. Use members=1, or "
            "give the other models."
        )
    copied = copy.deepcopy(model)
    with torch.no_grad():
        _redraw(copied, "model", covered=False)
    return copied


def _redraw(module: nn.Module, path: str, covered: bool) -> None:
    if getattr(module, "pretrained", False):
        return
    reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
    for name, child in module.named_children():  # first: what a module does to its parts comes after
        _redraw(child, f"{path}.{name}", covered or reset is not None)
    own = list(module.parameters(recurse=False))
    trained = [p for p in own if p.requires_grad]
    if reset is not None and (trained or not own):
        reset()
    elif not covered and any(bool((p != p.flatten()[0]).any()) for p in trained if p.numel()):
        raise ModelError(
            f"`members`: expected layers that draw their weights by reset_parameters(). Found none in `{path}`, a "
            f"{type(module).__name__}. Add it, use members=1, or give the other members yourself: models=[...]."
        )


def _joined(parts: Sequence[Tree]) -> Tree:
    first = parts[0]
    if isinstance(first, Tokens):
        return Tokens(torch.cat([tokens.values for tokens in parts], dim=2), first.mask)
    if isinstance(first, Tensor):
        return torch.cat(list(parts), dim=1)
    return tuple(_joined(scale) for scale in zip(*parts, strict=True))


def _shares(feature: Tree, widths: Sequence[Width]) -> list[Tree]:
    sizes = cast("list[int]", list(widths))
    if isinstance(feature, Tokens):
        return [Tokens(part, feature.mask) for part in torch.split_with_sizes(feature.values, sizes, dim=2)]
    if isinstance(feature, Tensor):
        return list(torch.split_with_sizes(feature, sizes, dim=1))
    scales = [_shares(f, [cast("tuple[int, ...]", w)[i] for w in widths]) for i, f in enumerate(feature)]
    return list(zip(*scales, strict=True))


def _total(widths: Sequence[Width]) -> Width:
    if isinstance(widths[0], int):
        return sum(cast("Sequence[int]", widths))
    return tuple(sum(of_scale) for of_scale in zip(*cast("Sequence[tuple[int, ...]]", widths), strict=True))
