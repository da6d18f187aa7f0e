"""The four kinds of features that an encoder may return, and what every part of the library does with them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from equimodal.batch import Tokens, Tree
from equimodal.errors import ModelError

Kind = Literal["vector", "tokens", "map", "multiscale"]
"""What a modality's features are: (B, d); :class:`Tokens`; (B, d, *spatial); a tuple of such maps."""

Width = int | tuple[int, ...]
"""d of a modality's features; one number per scale for multi-scale maps."""


def kind_of(feature: Tree, name: str = "features") -> Kind:
    """Which of the four kinds ``feature`` is, from its type and number of axes alone.

    Raises:
        ModelError: none of them; ``name`` says in the message whose features they are.

    Example:
        >>> kind_of(torch.zeros(2, 3)), kind_of(Tokens.full(torch.zeros(2, 5, 3))), kind_of(torch.zeros(2, 3, 8, 8))
        ('vector', 'tokens', 'map')
    """
    if isinstance(feature, Tokens):
        return "tokens"
    if isinstance(feature, (tuple, list)) and feature and all(_is_map(f) for f in feature):
        return "multiscale"
    if _is_map(feature):
        return "map"
    if isinstance(feature, Tensor) and feature.ndim == 2:
        return "vector"
    found = f"a tensor {tuple(feature.shape)}" if isinstance(feature, Tensor) else type(feature).__name__
    hint = "Wrap the encoder so that it returns one pooled feature vector per sample."
    if isinstance(feature, Tensor) and feature.ndim == 3:
        hint = "A sequence is Tokens(values, mask): return Tokens.full(x) where nothing is padding, or pool it."
    raise ModelError(
        f"`{name}`: expected a tensor (B, d), Tokens (B, T, d), a map (B, d, *spatial) or a tuple of maps. "
        f"Found {found}. {hint}"
    )


def _is_map(feature: Tree) -> bool:
    return isinstance(feature, Tensor) and feature.ndim in (4, 5)


def is_vector(feature: Tree, samples: int, width: Width) -> bool:
    """Whether ``feature`` is one vector per sample of the right width: the common case, found without a detour."""
    return isinstance(feature, Tensor) and feature.shape == (samples, width)


def check_feature(feature: Tree, samples: int, width: Width, name: str) -> Kind:
    """The kind of ``feature``, after its shape has been compared with what the model declares.

    Args:
        feature: what an encoder returned.
        samples: how many samples it was given.
        width: its entry in ``feature_sizes``.
        name: whose features, for the message.

    Raises:
        ModelError: another number of samples, another width, or a mask that does not fit the tokens.
    """
    if is_vector(feature, samples, width):
        return "vector"
    kind = kind_of(feature, name)
    if kind == "tokens":
        values, mask = feature
        if values.ndim != 3 or mask.shape != values.shape[:2] or mask.dtype != torch.bool:
            raise ModelError(
                f"`{name}`: expected Tokens with values (B, T, d) and a boolean mask (B, T). Found values "
                f"{tuple(values.shape)} and a mask {mask.dtype} {tuple(mask.shape)}."
            )
        found: tuple[object, ...] = (values.shape[0], "T", values.shape[2])
        expected: tuple[object, ...] = (samples, "T", width)
    elif kind == "multiscale":
        # no set of sizes: in an exported model they are symbols, which have no hash
        found = (tuple(f.shape[0] for f in feature), tuple(f.shape[1] for f in feature))
        expected = ((samples,) * len(feature), width)
    else:
        found, expected = tuple(feature.shape[:2]), (samples, width)
    if found != expected:
        show = tuple(feature.shape) if isinstance(feature, Tensor) else found
        wanted = (*expected, *feature.shape[2:]) if kind == "map" else expected
        what = {"multiscale": "multi-scale maps of (samples, widths)", "map": "maps", "tokens": "tokens"}
        raise ModelError(
            f"`{name}`: expected {what.get(kind, 'features')} of shape {wanted}. Found {show}. "
            "Correct `feature_sizes` or the encoder."
        )
    return kind


def single_width(width: Width, name: str) -> int:
    """``width`` as one number.

    Raises:
        ModelError: the modality has one width per scale.
    """
    if isinstance(width, tuple):
        raise ModelError(
            f"`{name}`: expected features of one width. Found multi-scale maps of widths {width}. Give a head of your "
            "own for this modality (`heads=` or `classifiers=`), or let the encoder return its last map only."
        )
    return width


def masked_mean(tokens: Tokens) -> Tensor:
    """Mean of the real tokens (B, d); zero for a sample without any. Padding is not read, even if it is NaN."""
    values = clean(tokens).values
    count = tokens.mask.sum(1, keepdim=True).clamp_min(1)
    return values.sum(1) / count.to(values.dtype)


def clean(tokens: Tokens) -> Tokens:
    """The same tokens with zeros as padding."""
    return Tokens(torch.where(tokens.mask[..., None], tokens.values, tokens.values.new_zeros(())), tokens.mask)


def pool(features: Tree) -> Tensor:
    """One vector (B, d) per sample from one modality's features of any kind.

    A vector stays as it is; tokens give the mean of the real ones; a map the mean over its positions; multi-scale maps
    those of all scales, joined.

    Example:
        >>> pool(torch.ones(2, 3, 8, 8)).shape, pool(Tokens.full(torch.ones(2, 5, 4))).shape
        (torch.Size([2, 3]), torch.Size([2, 4]))
    """
    if isinstance(features, Tensor) and features.ndim == 2:
        return features
    kind = kind_of(features)
    if kind == "tokens":
        return masked_mean(features)
    if kind == "map":
        mean: Tensor = features.flatten(2).mean(2)
        return mean
    if kind == "multiscale":
        return torch.cat([f.flatten(2).mean(2) for f in features], dim=1)
    vector: Tensor = features
    return vector


def as_tokens(feature: Tree, name: str = "features") -> Tokens:
    """Features of one width as a sequence: a vector is one token, a map one token per position.

    Raises:
        ModelError: multi-scale maps, which have several widths.

    Example:
        >>> as_tokens(torch.zeros(2, 3, 4, 4)).values.shape
        torch.Size([2, 16, 3])
    """
    kind = kind_of(feature, name)
    if kind == "tokens":
        return clean(feature)
    if kind == "vector":
        return Tokens.full(feature.unsqueeze(1))
    if kind == "map":
        return Tokens.full(feature.flatten(2).mT)
    raise ModelError(f"`{name}`: expected features of one width. Found multi-scale maps. Return the last map only.")


class Rows(nn.Module):
    """Features of any kind as rows with the width last, so that one linear layer reads all kinds.

    Args:
        dense: the task has one output per position: a map (B, d, *spatial) becomes (B, *spatial, d). Otherwise
            everything is pooled to (B, d).

    Raises:
        ModelError: (when called) ``dense`` and the features are no map.
    """

    def __init__(self, dense: bool = False) -> None:
        super().__init__()
        self.dense = dense

    def extra_repr(self) -> str:
        """Arguments, for ``repr``."""
        return f"dense={self.dense}"

    def forward(self, feature: Tree) -> Tensor:
        """(B, d), or (B, *spatial, d) for a dense task."""
        if not self.dense:
            return pool(feature)
        kind = kind_of(feature)
        if kind != "map":
            raise ModelError(
                f"`features`: expected a map (B, d, *spatial), since the task has one output per position. Found "
                f"{kind}. Give a head of your own for this modality, or leave its encoder's map unpooled."
            )
        map_: Tensor = feature
        return map_.movedim(1, -1)


class Channels(nn.Module):
    """(B, *spatial, C) to (B, C, *spatial): the way back from :class:`Rows` of a dense task."""

    def forward(self, x: Tensor) -> Tensor:
        """Move the last axis to the second place."""
        return x.movedim(-1, 1)


def on_rows(body: nn.Module, dense: bool) -> nn.Sequential:
    """A head that reads features of any kind through ``body``, a module over the last axis (linear layers).

    Args:
        body: maps (..., d) to (..., C), such as ``nn.Linear(d, C)``. For a map this is a 1x1 convolution.
        dense: one output per position.

    Example:
        >>> on_rows(nn.Linear(3, 2), dense=True)(torch.zeros(5, 3, 8, 8)).shape
        torch.Size([5, 2, 8, 8])
    """
    return nn.Sequential(Rows(True), body, Channels()) if dense else nn.Sequential(Rows(), body)


def affine_head(width: Width, outputs: int, dense: bool = False) -> nn.Sequential:
    """The usual head of one modality: an affine map of its features of any kind to ``outputs`` numbers.

    A vector goes through ``nn.Linear(d, C)``; tokens are averaged first (padding left out); a map is averaged over its
    positions, or, with ``dense``, read position by position (a 1x1 convolution).

    Raises:
        ModelError: multi-scale features, for which there is no usual head.
    """
    return on_rows(nn.Linear(single_width(width, "feature_sizes"), outputs), dense)
