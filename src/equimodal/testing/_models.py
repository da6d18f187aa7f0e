"""Toy models and batches of one to five modalities: five kinds of encoders, awkward names, everything in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from equimodal.batch import Batch
from equimodal.fusion import Concat
from equimodal.model import MultimodalModel

NAMES = ("audio.raw", "the keys", "keys", "depth map.0", "Ünicode/5")
"""Names of the toy modalities; no code may rely on what is in a name."""
WIDTH = 6
"""Features per modality."""
CLASSES = 3


class Recurrent(nn.Module):
    """(B, T, 4) to the last state of a GRU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gru = nn.GRU(4, width, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """The last state."""
        state: Tensor = self.gru(x)[1][0]
        return state


class Attention(nn.Module):
    """(B, T, 8) to the pooled output of one transformer layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 8, dropout=0.0, batch_first=True)
        self.out = nn.Linear(8, width)

    def forward(self, x: Tensor) -> Tensor:
        """The mean over the steps."""
        pooled: Tensor = self.out(self.layer(x).mean(1))
        return pooled


class Convolution(nn.Module):
    """(B, 2, 9) to the pooled output of a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 5, 3, padding=1)
        self.out = nn.Linear(5, width)

    def forward(self, x: Tensor) -> Tensor:
        """The mean over the positions."""
        pooled: Tensor = self.out(torch.relu(self.conv(x)).mean(2))
        return pooled


class Pair(nn.Module):
    """A dictionary with a tuple inside, to an MLP on the joined vector."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, width))

    def forward(self, x: Mapping[str, Any]) -> Tensor:
        """Features of both parts."""
        features: Tensor = self.net(torch.cat([x["left"], x["right"][0]], dim=1))
        return features


class OwnModel(nn.Module):
    """A user's model of two modalities: the members of :class:`~equimodal.Multimodal` and no base class of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = toy_model(2)
        self.head = self.inner.head

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names."""
        return self.inner.modalities

    @property
    def feature_sizes(self) -> Mapping[str, Any]:
        """Widths."""
        return self.inner.feature_sizes

    def encode(self, inputs: Any, present: Any = None, modalities: Any = None) -> dict[str, Tensor]:
        """Features of each modality."""
        return self.inner.encode(inputs, present, modalities)

    def fuse(self, features: Any, present: Any = None) -> Any:
        """Joined features."""
        return self.inner.fuse(features, present)

    def parameters_of(self, modality: str) -> list[nn.Parameter]:
        """Parameters of one encoder."""
        return self.inner.parameters_of(modality)


class Wrapped(nn.Module):
    """As compilers and parallel wrappers do: another name for the same parameters."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._orig_mod = module

    def forward(self, *arguments: Any) -> Any:
        """What the module inside returns."""
        return self._orig_mod(*arguments)


def mlp(inputs: int, width: int, hidden: int = 8) -> nn.Sequential:
    """Linear, tanh, linear."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, width))


def toy_encoders(count: int, width: int = WIDTH, names: Sequence[str] = NAMES) -> dict[str, nn.Module]:
    """MLP, GRU, transformer, dictionary and convolution, in this order, as many as asked for."""
    kinds: list[Callable[[], nn.Module]] = [
        lambda: mlp(5, width),
        lambda: Recurrent(width),
        lambda: Attention(width),
        lambda: Pair(width),
        lambda: Convolution(width),
    ]
    return {name: build() for name, build in zip(names[:count], kinds, strict=False)}


def toy_model(count: int, seed: int = 0, names: Sequence[str] = NAMES) -> MultimodalModel:
    """Encoders of ``count`` different kinds, Concat and a linear head for three classes, in float64.

    Args:
        count: of modalities, 1 to 5.
        seed: of the initial weights.
        names: of the modalities.

    Example:
        >>> toy_model(2).modalities
        ('audio.raw', 'the keys')
    """
    torch.manual_seed(seed)
    encoders = toy_encoders(count, names=names)
    return MultimodalModel(encoders, concat(encoders), nn.Linear(WIDTH * count, CLASSES)).double()


def toy_batch(count: int, size: int = 12, seed: int = 0, names: Sequence[str] = NAMES) -> Batch:
    """Inputs for :func:`toy_model` that carry the class, each modality less clearly than the one before, in float64.

    Args:
        count: of modalities, 1 to 5.
        size: of the batch.
        seed: of the inputs.
        names: of the modalities.

    Example:
        >>> len(toy_batch(2, size=4))
        4
    """
    g = torch.Generator().manual_seed(seed + 100)
    y = torch.arange(size) % CLASSES
    signal = torch.nn.functional.one_hot(y, CLASSES).double()

    def noise(*shape: int) -> Tensor:
        return torch.randn(size, *shape, generator=g, dtype=torch.float64)

    def shaped(*shape: int, strength: float) -> Tensor:
        flat = noise(*shape).flatten(1)
        flat[:, :CLASSES] += strength * signal
        return flat.reshape(size, *shape)

    kinds: list[Callable[[], Any]] = [
        lambda: shaped(5, strength=2.0),
        lambda: shaped(3, 4, strength=1.8),
        lambda: shaped(3, 8, strength=1.6),
        lambda: {"left": shaped(3, strength=1.4), "right": (noise(2),)},
        lambda: shaped(2, 9, strength=1.2),
    ]
    inputs = {name: build() for name, build in zip(names[:count], kinds, strict=False)}
    return Batch(inputs, y, None, torch.arange(size) + 1000)


def plain_model(
    inputs: Mapping[str, int], width: int, classes: int, head: nn.Module | None = None, norm: bool = False
) -> MultimodalModel:
    """MLP encoders of some input sizes (with batch normalisation if asked for), Concat and a linear head, in float64.

    Unlike the encoders of :func:`toy_model`, these compile.
    """
    encoders: dict[str, nn.Module] = {
        name: nn.Sequential(mlp(size, width), nn.BatchNorm1d(width)) if norm else mlp(size, width)
        for name, size in inputs.items()
    }
    head = nn.Linear(width * len(encoders), classes) if head is None else head
    return MultimodalModel(encoders, concat(encoders, width), head).double()


def plain_batch(inputs: Mapping[str, int], classes: int, size: int, seed: int) -> Batch:
    """Random float64 vectors and labels."""
    g = torch.Generator().manual_seed(seed)
    x = {name: torch.randn(size, n, generator=g, dtype=torch.float64) for name, n in inputs.items()}
    return Batch(x, torch.randint(0, classes, (size,), generator=g), None, torch.arange(size))


def concat(encoders: Mapping[str, nn.Module], width: int = WIDTH) -> Concat:
    """Concat of the features of encoders of one width."""
    return Concat(dict.fromkeys(encoders, width))
