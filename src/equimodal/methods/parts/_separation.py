"""How well the features of each modality fall into clusters of one class each."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from equimodal.engine import evaluating, gather_rows
from equimodal.features import pool
from equimodal.functional import k_means, purity, scaled_to_unit
from equimodal.methods._base import Method
from equimodal.methods._loss import labels_of
from equimodal.methods._predictor import BatchLike


@torch.no_grad()
def cluster_purities(method: Method, batches: Iterable[BatchLike], seed: int) -> dict[str, float]:
    """Modality -> purity of the clusters of its features, over the samples of all processes that have it.

    Args:
        method: encodes, in evaluation mode; of classes.
        batches: of this process.
        seed: of k-means, with as many clusters as classes.
    """
    first = next(method.parameters())
    empty = torch.zeros(0, dtype=torch.int64, device=first.device)
    sizes = {m: (d,) if isinstance(d, int) else d for m, d in method.multimodal.feature_sizes.items()}
    nothing = {m: torch.zeros(0, sum(d), dtype=first.dtype, device=first.device) for m, d in sizes.items()}
    found = {m: [(nothing[m], empty, empty)] for m in method.modalities}
    with evaluating(method):
        for raw in batches:
            batch = method.check_batch(raw).to(first.device)
            classes = labels_of(batch)
            index = torch.arange(len(batch), device=first.device) if batch.index is None else batch.index
            for m, feature in method.multimodal.encode(batch.inputs, batch.present).items():
                rows = torch.arange(len(batch), device=first.device) if batch.rows(m) is None else batch.rows(m)
                found[m].append((pool(feature)[rows], classes[rows], index[rows]))
    purities = {}
    for m, parts in found.items():
        features, classes, index = (
            t.cpu() for t in gather_rows([torch.cat(column) for column in zip(*parts, strict=True)])
        )
        if len(features):
            order = index.argsort(stable=True)  # whoever had which sample
            generator = torch.Generator().manual_seed(seed)
            clusters = k_means(scaled_to_unit(features[order].double()), method.task.outputs, generator)
            purities[m] = purity(clusters, classes[order])
    return purities
