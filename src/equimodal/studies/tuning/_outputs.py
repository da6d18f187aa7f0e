"""What trained weights say of every validation sample, before any inference rule: stored once, read for all rules."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from equimodal.data import Split
from equimodal.errors import CheckpointError, missing_extra
from equimodal.methods import BatchLike, Method, evaluating
from equimodal.studies.runs import write_bytes


@dataclass(frozen=True)
class Outputs:
    """Outputs of one set of weights.

    Args:
        fused: (N, C, ...) of the joint head, or ``None``.
        unimodal: modality -> (N, C, ...).
        present: modality -> (N,) booleans.
    """

    fused: Tensor | None
    unimodal: dict[str, Tensor]
    present: dict[str, Tensor]

    def select(self, rows: Tensor) -> Outputs:
        """Those of some samples."""
        return Outputs(
            None if self.fused is None else self.fused[rows],
            {m: z[rows] for m, z in self.unimodal.items()},
            {m: mask[rows] for m, mask in self.present.items()},
        )


@torch.no_grad()
def collect(method: Method, batches: Iterable[BatchLike]) -> Outputs:
    """Outputs of ``method`` for all samples of ``batches``, in evaluation mode, on the CPU.

    Args:
        method: trained.
        batches: with targets.
    """
    device = next(method.parameters()).device
    fused: list[Tensor] = []
    unimodal: dict[str, list[Tensor]] = {}
    present: dict[str, list[Tensor]] = {m: [] for m in method.modalities}
    with evaluating(method):
        for item in batches:
            batch = method.check_batch(item).to(device)
            joint, alone, presence = method.outputs(batch.inputs, batch.present)
            if joint is not None:
                fused.append(joint.cpu())
            for m in method.modalities:
                mask = None if presence is None else presence.get(m)
                present[m].append(torch.ones(len(batch), dtype=torch.bool) if mask is None else mask.cpu())
                if m in alone:
                    unimodal.setdefault(m, []).append(alone[m].cpu())
    return Outputs(
        torch.cat(fused) if fused else None,
        {m: torch.cat(z) for m, z in unimodal.items()},
        {m: torch.cat(masks) for m, masks in present.items()},
    )


def folds(split: Split, count: int = 5) -> Tensor:
    """(N,) number of the fold of each sample; samples of one group are in one fold.

    Groups are dealt out by size, the largest first, to the fold that has least. Without groups samples are dealt out in
    the order of their targets, so that every fold has all classes.

    Args:
        split: of the samples.
        count: folds; fewer where there are fewer groups.
    """
    groups = groups_of(split)
    if groups is None:
        target = split.target.flatten(1).double().mean(1) if split.target.ndim > 1 else split.target
        found = torch.empty(len(split), dtype=torch.int64)
        found[target.argsort(stable=True)] = torch.arange(len(split)) % min(count, len(split))
        return found
    names, codes, sizes = torch.unique(groups, return_inverse=True, return_counts=True)
    filled = [0] * min(count, len(names))
    fold_of = torch.empty(len(names), dtype=torch.int64)
    for group in sizes.argsort(descending=True, stable=True).tolist():
        fold = min(range(len(filled)), key=lambda k: (filled[k], k))
        fold_of[group] = fold
        filled[fold] += int(sizes[group])
    return fold_of[codes]


def groups_of(split: Split) -> Tensor | None:
    """(N,) numbers of the group that each sample is in, see :attr:`Split.group_labels`; ``None`` without groups."""
    labels = split.group_labels
    return None if labels is None else labels[split.rows]


def write_outputs(path: Path, stored: dict[str, Outputs]) -> Path:
    """Write outputs by selection as one safetensors file, whole or not at all."""
    try:
        from safetensors.torch import save
    except ImportError as error:
        raise missing_extra("safetensors", "cli", "Storing outputs") from error
    tensors: dict[str, Tensor] = {}  # copies: the format has no place for tensors that share memory
    for selection, outputs in stored.items():
        if outputs.fused is not None:
            tensors[f"{selection}/fused"] = outputs.fused.contiguous().clone()
        for m, z in outputs.unimodal.items():
            tensors[f"{selection}/unimodal/{m}"] = z.contiguous().clone()
        for m, mask in outputs.present.items():
            tensors[f"{selection}/present/{m}"] = mask.contiguous().clone()
    return write_bytes(path, save(tensors))


def read_outputs(path: Path) -> dict[str, Outputs]:
    """The outputs that :func:`write_outputs` wrote.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load
    except ImportError as error:
        raise missing_extra("safetensors", "cli", "Reading outputs") from error
    try:
        tensors = load(path.read_bytes())
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"`{path}`: expected outputs written by equimodal. Found: {error}. Restore the folder, or start anew in "
            "another one."
        ) from error
    stored: dict[str, Outputs] = {}
    for name, tensor in tensors.items():
        selection, _, rest = name.partition("/")
        kind, _, modality = rest.partition("/")
        outputs = stored.setdefault(selection, Outputs(tensors.get(f"{selection}/fused"), {}, {}))
        if kind == "unimodal":
            outputs.unimodal[modality] = tensor
        elif kind == "present":
            outputs.present[modality] = tensor
    return stored
