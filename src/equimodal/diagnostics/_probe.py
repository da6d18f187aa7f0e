"""Linear probes: what each encoder's features can do, measured the same way for every method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from equimodal.errors import MethodError
from equimodal.methods._base import BatchLike, Method, evaluating


def probe_scores(
    method: Method,
    train: Iterable[BatchLike],
    validation: Iterable[BatchLike],
    test: Iterable[BatchLike],
    penalties: Sequence[float] = (1e-4, 1e-3, 1e-2, 1e-1),
) -> dict[str, float]:
    r"""Test accuracy of a linear classifier on the frozen, standardised features of each modality.

    Multinomial logistic regression with penalty :math:`\frac\kappa2 \|W\|^2` on training features, fitted by L-BFGS;
    :math:`\kappa` is chosen on validation data. The same measure for every method, whatever heads it trained.

    Args:
        method: trained; its encoders are not changed.
        train: batches to fit on.
        validation: batches to choose the penalty on.
        test: batches to report on.
        penalties: the values of kappa to choose from.

    Returns:
        modality -> accuracy in [0, 1].
    """
    parts = [_features(method, batches) for batches in (train, validation, test)]
    return {m: _probe(m, [(f[m], y[m]) for f, y in parts], method.task.outputs, penalties) for m in method.modalities}


def under_training(probes: Mapping[str, float], reference: Mapping[str, float]) -> dict[str, float]:
    """How much each modality was left under-trained: the probe of an encoder trained alone minus this method's.

    Args:
        probes: of the method, from :func:`probe_scores`.
        reference: of encoders trained alone on the same data and budget (the ``Ensemble`` control).

    Example:
        >>> under_training({"audio": 0.5}, {"audio": 0.75})
        {'audio': 0.25}
    """
    missing = sorted(set(probes) - set(reference))
    if missing:
        raise MethodError(f"`reference`: expected an entry for {missing}. Found {sorted(reference)}.")
    return {m: reference[m] - value for m, value in probes.items()}


@torch.no_grad()
def _features(method: Method, batches: Iterable[BatchLike]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    device = next(method.parameters()).device
    features: dict[str, list[Tensor]] = {m: [] for m in method.modalities}
    targets: dict[str, list[Tensor]] = {m: [] for m in method.modalities}
    with evaluating(method):
        for item in batches:
            batch = method.check_batch(item).to(device)
            for m in batch.inputs:
                own = batch.only(m)
                if own is None or own.target is None:
                    continue
                features[m].append(method.multimodal.encode(own.inputs, None, [m])[m])
                targets[m].append(own.target)
    return (
        {m: torch.cat(h).float() for m, h in features.items() if h},
        {m: torch.cat(y) for m, y in targets.items() if y},
    )


def _probe(modality: str, parts: Sequence[tuple[Tensor, Tensor]], classes: int, penalties: Sequence[float]) -> float:
    (x, y), validation, test = parts
    mean, scale = x.mean(0), x.std(0, unbiased=False).clamp_min(1e-6)
    x = (x - mean) / scale
    best: tuple[float, float] | None = None
    for penalty in penalties:
        weight, bias = _fit(x, y, classes, penalty)
        accuracy = [
            float((((h - mean) / scale @ weight.T + bias).argmax(1) == target).float().mean())
            for h, target in (validation, test)
        ]
        if best is None or accuracy[0] > best[0]:
            best = (accuracy[0], accuracy[1])
    if best is None:
        raise MethodError(f"`penalties`: expected at least one number to probe {modality!r}. Found none.")
    return best[1]


def _fit(x: Tensor, y: Tensor, classes: int, penalty: float) -> tuple[Tensor, Tensor]:
    weight = torch.zeros(classes, x.shape[1], device=x.device, requires_grad=True)
    bias = torch.zeros(classes, device=x.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(x @ weight.T + bias, y) + penalty / 2 * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()
