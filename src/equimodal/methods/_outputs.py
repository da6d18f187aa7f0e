"""All outputs of a method on a set of samples, from which inference rules are fitted and compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from equimodal._utils.shapes import joined
from equimodal.batch import Batch, Presence, Tree
from equimodal.engine import evaluating
from equimodal.errors import MethodError
from equimodal.inference import PIXELS_PER_IMAGE, Groups, thinned


class Speaker(Protocol):
    """What is asked of a method here."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities."""

    @property
    def reads_features(self) -> bool:
        """Whether outputs come from features alone."""

    def check_batch(self, batch: Any) -> Batch:
        """A batch of these with a target."""

    def features_of(self, inputs: Any, present: Any = None) -> tuple[dict[str, Tree], Presence | None]:
        """Features and presence."""

    def outputs_of(self, features: Any, present: Presence | None) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Outputs of features."""

    def outputs(self, inputs: Any, present: Any = None) -> tuple[Tensor | None, dict[str, Tensor], Presence | None]:
        """Outputs of inputs, and presence."""

    def fused_output(self, features: Any, present: Presence | None) -> Tensor | None:
        """Output of the joint head."""


@dataclass(frozen=True)
class Outputs:
    """What a method says of N samples.

    Args:
        fused: (N, C, ...) of the joint head, or ``None``.
        unimodal: modality -> (N, C, ...); rows that lack it hold anything.
        present: modality -> (N,) booleans, for every modality.
        target: (N, ...).
        groups: (N,) labels of samples that belong together, or ``None``.
        reduced: modalities that are left -> (N, C, ...) of the joint head without the others (pixels thinned out).
    """

    fused: Tensor | None
    unimodal: Mapping[str, Tensor]
    present: Mapping[str, Tensor]
    target: Tensor
    groups: Groups | None
    reduced: Mapping[tuple[str, ...], Tensor]


@torch.no_grad()
def outputs_on(
    method: Speaker, batches: Iterable[Any], groups: Groups | None = None, *, reduced: bool = False
) -> Outputs:
    """All outputs of ``method`` on ``batches``, in evaluation mode.

    Args:
        method: trained.
        batches: with targets, of any size. A loader of a dataset says which samples belong together.
        groups: (N,) labels instead, in the order of the samples.
        reduced: also ask the joint head about each sample with one modality left out, and with one only. It reads the
            features that are there already: no encoder runs twice.

    Raises:
        MethodError: there is no batch.
    """
    module = cast(nn.Module, method)
    device = next(module.parameters()).device
    known = None if groups is not None else _labels_by_index(batches)
    fused: list[Tensor] = []
    unimodal: list[dict[str, Tensor]] = []
    masks: dict[str, list[Tensor]] = {m: [] for m in method.modalities}
    less: dict[tuple[str, ...], list[Tensor]] = {}
    targets: list[Tensor] = []
    labels: list[Tensor] = []
    with evaluating(module):
        for raw in batches:
            batch = method.check_batch(raw).to(device)
            if reduced and method.reads_features:
                features, presence = method.features_of(batch.inputs, batch.present)
                joint, alone = method.outputs_of(features, presence)
                for kept, output in _reduced(method, features, presence, joint) if joint is not None else ():
                    less.setdefault(kept, []).append(output)
            else:
                joint, alone, presence = method.outputs(batch.inputs, batch.present)
            if joint is not None:
                fused.append(joint)
            unimodal.append(alone)
            for m in method.modalities:
                mask = None if presence is None else presence.get(m)
                masks[m].append(torch.ones(len(batch), dtype=torch.bool, device=device) if mask is None else mask)
            targets.append(cast(Tensor, batch.target))
            if known is not None and batch.index is not None:
                labels.append(known[batch.index.cpu()])
    if not targets:
        raise MethodError("`batches`: expected at least one validation batch. Found none.")
    if len(labels) == len(targets):
        groups = torch.cat(labels)
    return Outputs(
        torch.cat(fused) if fused else None,
        joined(unimodal),  # a batch may leave a modality out; its rows are absent and not read
        {m: torch.cat(v) for m, v in masks.items()},
        torch.cat(targets),
        groups,
        {kept: torch.cat(outputs) for kept, outputs in less.items()},
    )


def _reduced(
    method: Speaker, features: Mapping[str, Tree], presence: Presence | None, joint: Tensor
) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """Modalities that are left -> what the joint head makes of them: each left out, and each alone."""
    names = method.modalities
    everyone = torch.ones(joint.shape[0], dtype=torch.bool, device=joint.device)
    masks = {m: everyone if presence is None or presence.get(m) is None else presence[m] for m in names}
    kept = [tuple(n for n in names if n != m) for m in names] + [(m,) for m in names]
    for some in dict.fromkeys(k for k in kept if 0 < len(k) < len(names)):
        there = {m: features[m] for m in some if m in features}
        left = Presence({m: masks[m] if m in there else ~everyone for m in names})
        # where no sample has any of these, nobody reads the rows
        output = method.fused_output(there, left) if there else torch.zeros_like(joint)
        if output is not None:
            yield some, thinned(output, PIXELS_PER_IMAGE) if output.ndim > 2 else output


def _labels_by_index(batches: object) -> Tensor | None:
    """Labels of groups by ``Batch.index``, where the data behind a loader know them."""
    for _ in range(5):  # a loader of this library has a split; a DataLoader has a dataset, which may be a subset
        found: Any = getattr(batches, "group_labels", None)
        if isinstance(found, Tensor):
            return found
        inner = getattr(batches, "split", None)
        batches = getattr(batches, "dataset", None) if inner is None or callable(inner) else inner
    return None
