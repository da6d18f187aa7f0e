"""Class prototypes of each modality, made anew from a share of the training samples and averaged over epochs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from equimodal.batch import Batch, Tree
from equimodal.engine import all_sum, evaluating
from equimodal.errors import UnsupportedError
from equimodal.features import pool
from equimodal.functional import prototype_logits
from equimodal.methods._base import EpochContext, Method
from equimodal.methods._loss import labels_of
from equimodal.methods.parts._announced import lacking
from equimodal.methods.parts._epoch_plan import full_pass


class ClassPrototypes(nn.Module):
    r"""Mean features of each class, :math:`c_k^m`, of the samples that have modality m.

    Args:
        method: encodes.
        classes: how many there are.
        momentum: :math:`\epsilon` in :math:`c \leftarrow \epsilon c + (1 - \epsilon) c_{new}`, from the second time on.
        every: one of how many samples of a class is looked at, the first of each class among them.

    A class that no sample looked at has keeps its prototype, or has none. With several processes sums are taken over
    the samples of all.
    """

    seen: Tensor

    def __init__(self, method: Method, classes: int, momentum: float, every: int = 10) -> None:
        super().__init__()
        self._names, self._momentum, self._every = method.modalities, momentum, every
        like = next(method.parameters()).detach()
        dtype = torch.promote_types(like.dtype, torch.float32)
        for position, m in enumerate(self._names):
            width = method.multimodal.feature_sizes[m]
            size = sum(width) if isinstance(width, tuple) else width
            self.register_buffer(f"centres_{position}", like.new_zeros(classes, size, dtype=dtype))
        self.register_buffer("seen", torch.zeros(len(self._names), classes, dtype=torch.bool, device=like.device))

    def _place(self, modality: str) -> tuple[Tensor, Tensor]:
        position = self._names.index(modality)
        return getattr(self, f"centres_{position}"), self.seen[position]

    @torch.no_grad()
    def update(self, method: Method, context: EpochContext) -> None:
        """Take in the features that the encoders give now, in evaluation mode.

        Raises:
            MethodError: the context has no loader.
            UnsupportedError: its loader is an iterator, which has one pass.
        """
        sums: dict[str, Tensor] = {}
        for m in self._names:
            centres, _ = self._place(m)
            sums |= {f"sum/{m}": torch.zeros_like(centres), f"count/{m}": torch.zeros_like(centres[:, 0])}
        with evaluating(method):
            for m, part in self._chosen(method, _training_batches(method, context)):
                feature = pool(method.multimodal.encode(part.inputs, None, [m])[m]).to(sums[f"sum/{m}"].dtype)
                sums[f"sum/{m}"].index_add_(0, labels_of(part), feature)
                sums[f"count/{m}"].index_add_(0, labels_of(part), torch.ones_like(feature[:, 0]))
        sums = all_sum(sums)
        for m in self._names:
            (centres, seen), count = self._place(m), sums[f"count/{m}"]
            new = sums[f"sum/{m}"] / count.clamp_min(1)[:, None]
            mixed = torch.where(seen[:, None], self._momentum * centres + (1 - self._momentum) * new, new)
            centres.copy_(torch.where((count > 0)[:, None], mixed, centres))
            seen.logical_or_(count > 0)

    def _chosen(self, method: Method, batches: Iterable[Batch]) -> Iterator[tuple[str, Batch]]:
        """Every tenth sample (or as said) of each class, of those that have a modality."""
        before = {m: torch.zeros(self.seen.shape[1], dtype=torch.int64) for m in self._names}
        for batch in batches:
            for m in self._names:
                part = batch.only(m) if m in batch.inputs else None
                if part is None:
                    continue
                onehot = nn.functional.one_hot(labels_of(part).cpu(), len(before[m]))
                rank = (onehot.cumsum(0) - 1 + before[m]).mul(onehot).sum(1)
                before[m] += onehot.sum(0)
                rows = (rank % self._every == 0).nonzero()[:, 0]
                if len(rows):
                    yield m, part.select(rows.to(self.seen.device))

    def sums(self, features: Mapping[str, Tree], batch: Batch) -> dict[str, Tensor]:
        r"""Sums over the samples that have a modality, with their graph, of :math:`q = \mathrm{softmax}_k(-d_k)`.

        Args:
            features: of the modalities that the batch has, all rows.
            batch: whose they are.

        Returns:
            For every modality m ``score/m`` (q[y], detached) and ``pull/m`` (-log q[y]) over the ``known/m`` samples
            whose class has a prototype, ``entropy/m`` over ``count/m`` samples; and ``samples``, of the batch.
        """
        zero = self._place(self._names[0])[0].new_zeros(())
        sums = {f"{kind}/{m}": zero for kind in ("score", "pull", "known", "entropy", "count") for m in self._names}
        sums["samples"] = torch.full_like(zero, len(batch))
        for m, feature in features.items():
            rows, z, label = batch.rows(m), pool(feature), labels_of(batch)
            if rows is not None:
                z, label = z.index_select(0, rows), label.index_select(0, rows)
            if not len(label):
                continue
            centres, seen = self._place(m)
            log_q = torch.log_softmax(prototype_logits(z, centres, seen), dim=1)
            log_q = torch.where(seen, log_q, 0)  # of classes without a prototype, also where none has one
            known, true = seen[label], log_q.gather(1, label[:, None])[:, 0]
            sums[f"score/{m}"] = torch.where(known, true.exp(), 0).sum().detach()
            sums[f"pull/{m}"] = -torch.where(known, true, 0).sum()
            sums[f"known/{m}"] = known.sum().to(zero.dtype)
            sums[f"entropy/{m}"] = -(log_q.exp() * log_q).sum()
            sums[f"count/{m}"] = torch.full_like(zero, len(label))
        return sums


def _training_batches(method: Method, context: EpochContext) -> Iterator[Batch]:
    name, loader = type(method).__name__, context.loader
    if loader is None:
        raise lacking(method, "loader", "looks at training samples before an epoch")
    if isinstance(loader, Iterator):
        raise UnsupportedError(
            f"`context.loader`: {name} looks at training samples before an epoch. Found an iterator, which has one "
            "pass. Give the loader itself."
        )
    device = next(method.parameters()).device
    for raw in full_pass(loader):
        yield method.check_batch(raw).to(device)
