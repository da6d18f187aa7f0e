"""Gradient operators on linear layers: one object per layer, different spectra (orthogonal: MLA, flat: MIE)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from equimodal._utils.precision import Float32Buffers, in_dtype
from equimodal.engine import is_compiled, is_sharded, local, watch
from equimodal.errors import ModelError
from equimodal.functional import (
    flat_projector,
    plasticity,
    project_rows,
    remove_direction_,
    uncentred_covariance_sum,
)

Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


def is_pointwise(module: nn.Module) -> bool:
    """Whether ``module`` is a 1x1 convolution: a linear map of the channels at every position."""
    return (
        isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
        and module.groups == 1
        and set(module.kernel_size) == {1}
        and set(module.stride) == {1}
        and module.padding in ("same", "valid", (0,) * len(module.kernel_size))
    )


def projectable_layers(module: nn.Module, convolutions: bool = False, pointwise: bool = False) -> list[Layer]:
    """The layers of ``module`` whose weight gradient can be projected on its input space, in definition order.

    Linear layers that a parent uses without calling them (the output projection inside ``nn.MultiheadAttention``) are
    left out: their inputs cannot be observed. Convolutions count only without groups.

    Args:
        module: where to look.
        convolutions: 1-D and 2-D convolutions too, by their unfolded patches.
        pointwise: 1x1 convolutions too, with positions as rows.
    """
    found: list[Layer] = []
    inside_attention = {
        id(child) for m in module.modules() if isinstance(m, nn.MultiheadAttention) for child in m.modules()
    }
    for m in module.modules():
        if id(m) in inside_attention:
            continue
        is_convolution = isinstance(m, (nn.Conv1d, nn.Conv2d)) and m.groups == 1 and m.padding_mode == "zeros"
        wanted = isinstance(m, nn.Linear) or (convolutions and is_convolution) or (pointwise and is_pointwise(m))
        if wanted:
            found.append(m)  # type: ignore[arg-type]
    if is_compiled(module):
        watch(module)
    return found


def layer_inputs(layer: Layer, inputs: Tensor) -> Tensor:
    """The rows (n, d) that the layer's weight, seen as a matrix (out, d), is multiplied with."""
    if isinstance(layer, nn.Linear):
        return inputs if inputs.ndim == 2 else inputs.reshape(-1, inputs.shape[-1])
    if is_pointwise(layer):
        return channels_as_rows(inputs)
    if isinstance(layer, nn.Conv1d):
        inputs = inputs.unsqueeze(-2)
        kernel, dilation, padding, stride = (
            (1, layer.kernel_size[0]),
            (1, layer.dilation[0]),
            layer.padding,
            layer.stride,
        )
        pad: Any = padding if isinstance(padding, str) else (0, padding[0])
        return _unfold(inputs, kernel, dilation, pad, (1, stride[0]))
    if isinstance(layer, nn.Conv3d):
        raise ModelError("`layer`: expected a 1x1x1 convolution among the 3-D ones. Found a larger kernel.")
    return _unfold(
        inputs,
        (layer.kernel_size[0], layer.kernel_size[1]),
        (layer.dilation[0], layer.dilation[1]),
        layer.padding,
        (layer.stride[0], layer.stride[1]),
    )


def channels_as_rows(tensor: Tensor) -> Tensor:
    """(B, d) as it is, (B, d, *positions) as rows (B * positions, d)."""
    return tensor if tensor.ndim == 2 else tensor.movedim(1, -1).flatten(0, -2)


def _unfold(
    inputs: Tensor, kernel: tuple[int, int], dilation: tuple[int, int], padding: Any, stride: tuple[int, int]
) -> Tensor:
    if isinstance(padding, str):
        total = [d * (k - 1) if padding == "same" else 0 for k, d in zip(kernel, dilation, strict=True)]
        left, top = total[1] // 2, total[0] // 2
        inputs = nn.functional.pad(inputs, (left, total[1] - left, top, total[0] - top))
        padding = 0
    patches = nn.functional.unfold(inputs, kernel, dilation, padding, stride)
    return patches.mT.reshape(-1, patches.shape[1])


def project_gradient(layer: Layer, projector: Tensor) -> None:
    """Replace the gradient G of the layer's weight by G P; a layer without a gradient is left alone."""
    plain = layer._parameters.get("weight")  # without the search of a module
    weight = layer.weight if plain is None else plain
    gradient = weight.grad
    if gradient is not None:
        if gradient.ndim == 2 and projector.dtype == gradient.dtype and not is_sharded(weight):
            weight.grad = torch.mm(gradient, projector)
            return
        gradient = local(gradient)  # of a sharded layer: some rows, each projected on its own
        gradient.copy_(project_rows(gradient, projector))


class OrthogonalProjector(Float32Buffers):
    r"""MLA's projector of one layer: starts as the identity and loses the directions of the features it is shown.

    Args:
        width: d, the layer's input width.

    The mean square of the features, :math:`|\bar h|^2`, is tracked too (moving average, momentum 0.9), for
    ``alpha_scale="relative"`` and for the report of the effective strength.
    """

    matrix: Tensor
    energy: Tensor
    updates: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.eye(width))
        self.register_buffer("energy", torch.zeros(()))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))  # 0 until the first mean

    def reset(self) -> None:
        """Back to the identity."""
        self.matrix.copy_(torch.eye(len(self.matrix), device=self.matrix.device, dtype=self.matrix.dtype))

    def update(self, feature_mean: Tensor, alpha: float, relative: bool) -> Tensor:
        """Take in the mean of one batch; returns alpha divided by the running mean of |hbar|^2."""
        return as_scalar(self.learn(feature_mean, alpha, relative), self.matrix)

    def learn(self, feature_mean: Tensor, alpha: float, relative: bool) -> float | Tensor:
        """:meth:`update`, whose result is a number where the projector is in host memory."""
        table: dict[str, Any] = self._buffers  # without the search of a module
        matrix, running, updates = table["matrix"], table["energy"], table["updates"]
        mean = in_dtype(feature_mean.detach() if feature_mean.requires_grad else feature_mean, matrix.dtype)
        energy: float | Tensor = torch.dot(mean, mean)
        usual: float | Tensor
        # the first mean counts whole, later ones a tenth; numbers in host memory are read without waiting
        if matrix.is_cpu:
            energy, before = float(energy), float(running)
            first = before == 0 and not updates
            now = energy if first else before + 0.1 * (energy - before)
            running.fill_(now)
            usual = max(now, 1e-12)
        else:
            first = True  # nobody knows without waiting
            running.lerp_(energy, torch.where(updates > 0, 0.1, 1.0).to(mean))
            usual = running.clamp_min(1e-12)
        if first:
            updates.fill_(1)
        remove_direction_(matrix, mean, alpha * usual if relative else alpha, energy)
        return alpha if relative else alpha / usual

    def trace(self) -> tuple[Tensor, int]:
        """Trace of P, and d; their ratio is :meth:`plasticity`."""
        matrix: Any = self._buffers["matrix"]
        return matrix.trace(), matrix.shape[0]

    def plasticity(self) -> Tensor:
        """trace(P) / d."""
        return plasticity(self.matrix)


def as_scalar(value: float | Tensor, like: Tensor) -> Tensor:
    """A number as a tensor without axes."""
    return value if isinstance(value, Tensor) else like.new_full((), value)


class InputCovariance(Float32Buffers):
    """Running uncentred covariance of one layer's inputs, as a sum and a count.

    Args:
        width: d, the layer's input width.
    """

    total: Tensor
    count: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(width, width))
        self.register_buffer("count", torch.zeros(()))

    @torch.no_grad()
    def add(self, rows: Tensor) -> None:
        """Add rows (n, d)."""
        total, count = uncentred_covariance_sum(rows)
        self.add_sum(total, self.count.new_tensor(count))

    def add_sum(self, total: Tensor, count: Tensor) -> None:
        """Add a sum of outer products (d, d) of ``count`` rows."""
        add_sums([self], [total], [count])

    def reset(self) -> None:
        """Forget everything."""
        self.total.zero_()
        self.count.zero_()


def add_sums(covariances: Sequence[InputCovariance], totals: Sequence[Tensor], counts: Sequence[Tensor]) -> None:
    """:meth:`InputCovariance.add_sum` of several covariances at once."""
    if not covariances:
        return
    table = [c._buffers for c in covariances]
    own: list[Any] = [*(b["total"] for b in table), *(b["count"] for b in table)]
    more = [*totals, *(count.sum() if count.ndim else count for count in counts)]
    more = [t.detach() if t.requires_grad else t for t in more]
    torch._foreach_add_(own, [in_dtype(t, mine.dtype) for t, mine in zip(more, own, strict=True)])


class FlatProjector(Float32Buffers):
    """MIE's projector of one layer: the identity until :meth:`refresh` is given a covariance.

    Args:
        width: d, the layer's input width.
    """

    matrix: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.eye(width))

    @torch.no_grad()
    def refresh(self, covariance: Tensor, temperature: float) -> None:
        """Take the spectrum of a covariance (d, d); an eigendecomposition, so never inside a step."""
        if covariance.shape != self.matrix.shape:
            raise ModelError(f"`covariance`: expected {tuple(self.matrix.shape)}. Found {tuple(covariance.shape)}.")
        self.matrix.copy_(flat_projector(covariance, temperature))

    def plasticity(self) -> Tensor:
        """trace(P) / d."""
        return plasticity(self.matrix)


def input_width(layer: Layer) -> int:
    """d of the layer's weight seen as a matrix (out, d)."""
    return math.prod(layer.weight.shape[1:])
