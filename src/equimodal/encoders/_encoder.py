"""What the encoders share: a declared width, and how much of a network is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, Self, get_args

from torch import Tensor, nn

from equimodal.batch import Tokens
from equimodal.encoders._checks import check_positive, check_share
from equimodal.errors import ModelError, did_you_mean, missing_extra
from equimodal.features import Width

Tuning = Literal["full", "frozen", "lora"]


class Encoder(nn.Module):
    """Base of this package's encoders: a module with ``out_features``. Any other module that has it is as good.

    Attributes:
        out_features: width d of the features, one number per scale for multi-scale maps.

    Example:
        >>> from equimodal.encoders import MLP
        >>> isinstance(MLP(3), Encoder), MLP(3, out_features=8).out_features
        (True, 8)
    """

    out_features: Width


@dataclass(frozen=True)
class LoRA:
    r"""Low-rank adaptation (Hu et al. 2022, eq. 3): :math:`W x + \frac{\alpha}{r} B A x`, W fixed, A and B trained.

    B starts at zero, so that training starts from the pretrained network.

    Args:
        rank: r, rows of A. The paper finds 4 to 8 enough.
        alpha: :math:`\alpha`; ``alpha / rank`` multiplies the update.
        dropout: share of the adapter's inputs dropped in training.
        targets: endings of the names of the linear maps that are adapted, such as ``("q_proj", "v_proj")``. ``None``:
            queries and values, as in the paper.

    Raises:
        ModelError: an argument is out of range.

    References:
        LoRA: low-rank adaptation of large language models, arXiv 2106.09685.

    Example:
        >>> LoRA(rank=4)
        LoRA(rank=4, alpha=16.0, dropout=0.0, targets=None)
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: Sequence[str] | None = None

    def __post_init__(self) -> None:
        check_positive(rank=self.rank)
        check_share("dropout", self.dropout)
        if not self.alpha > 0:
            raise ModelError(f"`alpha`: expected a number > 0. Found {self.alpha!r}.")
        if isinstance(self.targets, str) or (self.targets is not None and not self.targets):
            raise ModelError(f"`targets`: expected names such as ('q_proj', 'v_proj') or None. Found {self.targets!r}.")


class Frozen(Encoder):
    """An encoder that never changes: no gradients, and evaluation mode also while the model trains.

    Parameters and running statistics of batch normalisation stay as they are, and dropout is off. (With
    ``requires_grad_(False)`` alone, running statistics move on.)

    Args:
        encoder: any module.
        out_features: its width. Default: ``encoder.out_features``.

    Raises:
        ModelError: the width is not given and the encoder does not say it.

    Shapes: those of ``encoder``.

    Example:
        >>> from equimodal.encoders import MLP
        >>> encoder = Frozen(MLP(3, out_features=8)).train()
        >>> encoder.encoder.training, any(p.requires_grad for p in encoder.parameters())
        (False, False)
    """

    def __init__(self, encoder: nn.Module, out_features: Width | None = None) -> None:
        super().__init__()
        width = getattr(encoder, "out_features", None) if out_features is None else out_features
        if isinstance(width, bool) or not isinstance(width, (int, tuple)):
            raise ModelError(
                f"`out_features`: expected the width of the features of {type(encoder).__name__}. Found {width!r}. "
                "Give it as Frozen(encoder, out_features=...)."
            )
        self.encoder = encoder.requires_grad_(False)
        self.out_features = width
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Training mode for this module, evaluation mode for the encoder."""
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, x: Any) -> Any:
        """What the encoder gives."""
        return self.encoder(x)


class Tunable(Encoder):
    """A network that is trained in full, through adapters or not at all, with an optional linear map on top.

    Args:
        backbone: the network.
        width: d of its features.
        out_features: width of the trained linear map on top; ``None`` for none.
        tuning: see the subclasses.
        targets: linear maps that LoRA adapts by default; empty where LoRA is not offered.
    """

    def __init__(
        self,
        backbone: nn.Module,
        width: Width,
        out_features: int | None,
        tuning: Tuning | LoRA | Mapping[str, Any],
        targets: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.projection: nn.Module = nn.Identity()
        if out_features is not None:
            check_positive(out_features=out_features)
            if isinstance(width, tuple):
                raise ModelError(
                    f"`out_features`: expected None with pool='scales'. Found {out_features}, but the maps have the "
                    f"widths {width}."
                )
            self.projection = nn.Linear(width, out_features)
        self.out_features = width if out_features is None else out_features
        lora = _read(tuning, bool(targets))
        self.frozen = tuning == "frozen"
        if lora is not None:
            backbone = _adapted(backbone, lora, targets)
        self.backbone = backbone.requires_grad_(False) if self.frozen else backbone
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Training or evaluation mode; a frozen network stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def on_top(self, feature: Tensor) -> Tensor:
        """The linear map, over the last axis."""
        mapped: Tensor = self.projection(feature)
        return mapped

    def tokens(self, values: Tensor, mask: Tensor | None = None) -> Tokens:
        """A sequence through the linear map; padding is zero."""
        mapped = self.on_top(values)
        if mask is None:
            return Tokens.full(mapped)
        return Tokens(without_padding(mask, mapped), mask)


def without_padding(mask: Tensor, values: Tensor) -> Tensor:
    """``values`` (B, T, d) with zeros where ``mask`` (B, T) is false."""
    return values.masked_fill(~mask[..., None], 0.0)


def _read(tuning: Tuning | LoRA | Mapping[str, Any], adaptable: bool) -> LoRA | None:
    """The adapters asked for; ``None`` for none."""
    lora: LoRA | None = None
    if isinstance(tuning, LoRA):
        lora = tuning
    elif isinstance(tuning, Mapping):  # plain values from a configuration file
        try:
            lora = LoRA(**tuning)
        except TypeError as error:
            raise ModelError(f"`tuning`: {error}. Known: rank, alpha, dropout, targets.") from error
    elif tuning == "lora":
        lora = LoRA()
    elif tuning not in get_args(Tuning):
        raise ModelError(
            f"`tuning`: expected one of {list(get_args(Tuning))} or LoRA(...). Found {tuning!r}."
            f"{did_you_mean(tuning, get_args(Tuning))}"
        )
    if lora is not None and not adaptable:
        raise ModelError("`tuning`: expected 'full' or 'frozen' for a convolutional network. Found LoRA.")
    return lora


def _adapted(backbone: nn.Module, lora: LoRA, targets: Sequence[str]) -> nn.Module:
    """``backbone`` with low-rank adapters, everything else fixed."""
    try:
        peft: Any = import_module("peft")
    except ImportError as error:
        raise missing_extra("peft", "encoders", "LoRA") from error
    names = list(targets if lora.targets is None else lora.targets)
    linear = [n for n, m in backbone.named_modules() if isinstance(m, nn.Linear)]
    without = [n for n in names if not any(full == n or full.endswith(f".{n}") for full in linear)]
    if without:
        known = sorted({n.rpartition(".")[2] for n in linear})
        raise ModelError(f"`targets`: expected endings of linear maps, of {known}. Found {without}.")
    settings = peft.LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=names)
    backbone.requires_grad_(False)
    adapted: nn.Module = peft.inject_adapter_in_model(settings, backbone)
    return adapted
