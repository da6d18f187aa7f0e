"""Input-space projectors of linear layers: orthogonal (MLA) and flat (MIE)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equimodal._utils.precision import in_dtype, widest_float
from equimodal.errors import MethodError, NonFiniteError


def orthogonal_projector_update(projector: Tensor, feature_mean: Tensor, alpha: float | Tensor) -> Tensor:
    r"""Recursive least-squares step that removes one feature direction from a projector ([Zhang2024], equation 5).

    .. math:: k = \frac{P \bar h^\top}{\alpha + \bar h P \bar h^\top}, \qquad P \leftarrow P - k\, (\bar h P)

    P stays symmetric and positive semi-definite with eigenvalues in (0, 1] when it starts as the identity, and
    :math:`P_{new}\bar h^\top = \frac{\alpha}{\alpha + \bar h P \bar h^\top} P \bar h^\top`.

    Args:
        projector: P, (d, d), float32 or float64.
        feature_mean: :math:`\bar h`, (d,), mean over the batch of the layer's input; moved to P's precision.
        alpha: softness > 0, in the unit of :math:`|\bar h|^2`; small is a hard projection.

    Returns:
        the new projector (d, d).

    Example:
        >>> orthogonal_projector_update(torch.eye(2), torch.tensor([1.0, 0.0]), alpha=1.0)
        tensor([[0.5000, 0.0000],
                [0.0000, 1.0000]])
    """
    removed = removed_direction(projector, feature_mean, alpha)
    return projector - torch.outer(removed, removed)


def removed_direction(
    projector: Tensor, feature_mean: Tensor, alpha: float | Tensor, energy: float | Tensor | None = None
) -> Tensor:
    r"""The vector v of the step :math:`P \leftarrow P - v v^\top`, which is :func:`orthogonal_projector_update`.

    Args:
        projector: P, (d, d).
        feature_mean: :math:`\bar h`, (d,).
        alpha: softness > 0.
        energy: :math:`|\bar h|^2`, where it is known.

    Returns:
        v, (d,): along :math:`P \bar h^\top`.

    Example:
        >>> removed_direction(torch.eye(2), torch.tensor([1.0, 0.0]), alpha=3.0)
        tensor([0.5000, 0.0000])
    """
    direction, factor = _removal(projector, feature_mean, alpha, energy)
    return direction if factor is None else direction * math.sqrt(factor)


def remove_direction_(
    projector: Tensor, feature_mean: Tensor, alpha: float | Tensor, energy: float | Tensor | None = None
) -> Tensor:
    """:func:`orthogonal_projector_update` in place, which touches the (d, d) numbers once; arguments as there.

    Example:
        >>> remove_direction_(torch.eye(2), torch.tensor([1.0, 0.0]), alpha=1.0)
        tensor([[0.5000, 0.0000],
                [0.0000, 1.0000]])
    """
    direction, factor = _removal(projector, feature_mean, alpha, energy)
    return projector.addr_(direction, direction, alpha=-1 if factor is None else -factor)


def _removal(
    projector: Tensor, feature_mean: Tensor, alpha: float | Tensor, energy: float | Tensor | None
) -> tuple[Tensor, float | None]:
    r"""A direction u and a factor c with :math:`v v^\top = c\, u u^\top`; without a factor u is v."""
    if feature_mean.ndim != 1 or projector.shape != feature_mean.shape * 2:
        raise MethodError(
            "`projector`, `feature_mean`: expected (d, d) and (d,). "
            f"Found {tuple(projector.shape)} and {tuple(feature_mean.shape)}."
        )
    if not isinstance(alpha, Tensor) and not alpha > 0:
        raise MethodError(f"`alpha`: expected a number > 0. Found {alpha}.")
    limits = torch.finfo(projector.dtype)
    mean = in_dtype(feature_mean, projector.dtype)
    direction = torch.mv(projector, mean)
    along = torch.dot(mean, direction)
    # k (hbar P) is a multiple of u u^T. Never more than what P has left there: exact arithmetic would not ask for more,
    # but with |hbar|^2 / alpha near 1 / eps rounding does, and P would grow without bound.
    if not projector.is_cpu:
        square = torch.dot(direction, direction)
        unit = direction * square.clamp_min(limits.tiny).rsqrt()
        left = torch.dot(unit, projector @ unit)
        removed = torch.minimum(square / (alpha + along.clamp_min(0)), left).clamp_min(0)
        return unit * removed.sqrt(), None
    # the same in host memory, where a kernel for each single number costs more than all the arithmetic
    softness, reach = float(alpha), float(along)
    if reach > 0 and softness > 1000 * limits.eps * float(torch.dot(mean, mean) if energy is None else energy):
        return direction, 1 / (softness + reach)  # far from that limit there is nothing to guard
    size = float(torch.dot(direction, direction))
    unit = direction * (1 / math.sqrt(max(size, limits.tiny)))
    share = min(size / max(softness + max(reach, 0.0), limits.tiny), float(torch.dot(unit, projector @ unit)))
    return unit, max(share, 0.0)


def flat_projector(covariance: Tensor, temperature: float) -> Tensor:
    r"""Projector that keeps the flat directions of a covariance and damps the dominant ones ([Jiang2025]).

    .. math:: C = V\,\mathrm{diag}(\lambda)\,V^\top,\quad
        w = \exp\!\left(-\tau\,\frac{\lambda - \lambda_{min}}{\lambda_{max} - \lambda_{min}}\right),\quad
        P = V\,\mathrm{diag}(w)\,V^\top

    P is symmetric with eigenvalues in :math:`[e^{-\tau}, 1]`: full rank, so no plasticity is lost. An isotropic C, or
    :math:`\tau = 0`, gives the identity.

    Args:
        covariance: C, (d, d), symmetric positive semi-definite. It is decomposed in float64 whatever its precision,
            since float32 solvers fail on covariances of dead units, some without an error; on the CPU where the
            device has no float64.
        temperature: :math:`\tau \ge 0`, without unit; MIE uses 0.4.

    Returns:
        P, (d, d), float64 for a float64 covariance, else float32.

    Raises:
        MethodError: C is not square, or the temperature is negative.
        NonFiniteError: C holds NaN or infinity, or the solver found no finite solution.

    Example:
        >>> flat_projector(torch.diag(torch.tensor([4.0, 0.0])), temperature=math.log(2))
        tensor([[0.5000, 0.0000],
                [0.0000, 1.0000]])
    """
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        raise MethodError(f"`covariance`: expected (d, d). Found {tuple(covariance.shape)}.")
    if not temperature >= 0:
        raise MethodError(f"`temperature`: expected a number >= 0. Found {temperature}.")
    if not covariance.isfinite().all():
        raise NonFiniteError(
            f"`covariance`: expected finite numbers. Found NaN or infinity in a matrix of {tuple(covariance.shape)}. "
            "Next: look for the layer whose inputs are not finite."
        )
    dtype = torch.float64 if covariance.dtype == torch.float64 else torch.float32
    matrix = (covariance if widest_float(covariance.device) == torch.float64 else covariance.cpu()).double()
    values, vectors = _eigh((matrix + matrix.mT) / 2)
    spread = values[-1] - values[0]
    # differences below the rounding of the covariance that was handed over are none
    isotropic = spread <= len(values) * torch.finfo(dtype).eps * values[-1].abs()
    relative = torch.where(isotropic, torch.zeros_like(values), (values - values[0]) / spread)
    # V diag(w) V^T = I - V diag(1 - w) V^T: exact identity where nothing is damped
    damping = 1 - torch.exp(-temperature * relative)
    result: Tensor = torch.eye(len(values), dtype=matrix.dtype, device=matrix.device) - (vectors * damping) @ vectors.mT
    return ((result + result.mT) / 2).to(dtype).to(covariance.device)


def _eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and vectors, all finite, or an error: some solvers answer with NaN instead of raising."""
    try:
        values, vectors = torch.linalg.eigh(matrix)
    except RuntimeError as error:  # torch.linalg.LinAlgError is one, which stubs do not name
        raise _failure(matrix, f"it stopped with: {error}") from error
    if not (values.isfinite().all() and vectors.isfinite().all()):
        raise _failure(matrix, "it returned NaN or infinity")
    return values, vectors


def _failure(matrix: Tensor, what: str) -> NonFiniteError:
    dtype = str(matrix.dtype).removeprefix("torch.")
    return NonFiniteError(
        "`covariance`: expected a matrix that the eigenvalue solver can decompose. "
        f"It failed on a finite {dtype} matrix of {tuple(matrix.shape)}; {what}. "
        "Next: try another solver (torch.backends.cuda.preferred_linalg_library) or another build of torch."
    )


def plasticity(projector: Tensor) -> Tensor:
    """Remaining plasticity trace(P) / d: 1 when nothing is projected away, 0 when the layer cannot learn any more."""
    trace, width = projector.trace(), projector.shape[0]
    # in host memory reading a number costs less than a kernel that divides it
    return trace.new_full((), float(trace) / width) if trace.is_cpu else trace / width


def project_rows(gradient: Tensor, projector: Tensor) -> Tensor:
    """``gradient @ projector``: the gradient of a weight (out, in, ...) restricted on its input space.

    Args:
        gradient: (out, in) or, for a convolution, (out, in, *kernel), which is flattened to (out, in * kernel).
        projector: (d, d) with d = in (* kernel); the product is computed in the projector's precision.

    Returns:
        a tensor of the gradient's shape and dtype.
    """
    flat = gradient.reshape(gradient.shape[0], -1)
    return (flat.to(projector.dtype) @ projector).to(gradient.dtype).reshape(gradient.shape)


def uncentred_covariance_sum(rows: Tensor) -> tuple[Tensor, int]:
    r""":math:`\sum_n u_n u_n^\top` in float32 at least, and the number of rows.

    Args:
        rows: (..., d); all leading axes count as samples.
    """
    flat = rows if rows.ndim == 2 else rows.reshape(-1, rows.shape[-1])
    flat = flat if flat.dtype == torch.float64 else flat.float()
    count = flat.shape[0]
    if not torch.is_autocast_enabled("cpu" if flat.is_cpu else flat.device.type):
        return flat.mT @ flat, count
    with torch.autocast(flat.device.type, enabled=False):  # which would compute the product in half precision
        return flat.mT @ flat, count
