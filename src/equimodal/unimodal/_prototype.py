from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from equimodal.batch import Batch
from equimodal.engine import all_sum
from equimodal.errors import BatchError, MethodError, ModelError, UnsupportedError
from equimodal.features import pool
from equimodal.tasks import Task
from equimodal.unimodal._base import Features, Masks, UnimodalOutputs


class Prototype(UnimodalOutputs):
    r"""Distance to class prototypes (P5): :math:`u_m[k] = -\|z_m - c^m_k\|_2`, z the pooled features.

    :math:`c^m_k` is the mean feature of the training samples of class k that have modality m; :meth:`fit` computes it.

    Args:
        model: gives the features.
        task: a classification.

    Raises:
        UnsupportedError: the task is no classification, or features are multi-scale.
        ModelError: (when called) :meth:`fit` was not.
    """

    name = "prototype"

    def __init__(self, model: nn.Module, task: Task) -> None:
        super().__init__(model)
        if task.name != "classification":
            raise UnsupportedError(
                f"`task`: prototypes are per class, so they need a classification. Found {task.name!r}. Use Masked."
            )
        self._names = tuple(self.model.modalities)
        self._fitted = False
        for position, m in enumerate(self._names):
            width = self.model.feature_sizes[m]
            total = sum(width) if isinstance(width, tuple) else width
            self.register_buffer(f"centres_{position}", torch.zeros(task.outputs, total))

    def get_extra_state(self) -> dict[str, Any]:
        """Whether there are prototypes."""
        return {"fitted": self._fitted}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`get_extra_state` gave."""
        self._fitted = state["fitted"]

    def centres(self, modality: str) -> Tensor:
        """The prototypes (C, d) of one modality."""
        centres: Tensor = getattr(self, f"centres_{self._names.index(modality)}")
        return centres

    @torch.no_grad()
    def fit(self, batches: Iterable[Any]) -> Prototype:
        """Prototypes from TRAINING batches, in evaluation mode; with several processes from all of them.

        Raises:
            MethodError: the loader is of another split.
            BatchError: no batch, or no class indices as target.
            ModelError: a class without any sample that has the modality.
        """
        part = getattr(getattr(batches, "split", None), "part", "train")
        if part != "train":
            raise MethodError(f"`batches`: expected training data. Found the {part} split. Pass dataset.train.")
        model = cast(nn.Module, self.model)
        training = [m for m in model.modules() if m.training]
        model.eval()
        try:
            sums = self._sums(batches)
        finally:
            for m in training:
                m.training = True
        sums = all_sum(sums)
        for name in self._names:
            count = sums[f"count/{name}"]
            empty = (count == 0).nonzero()[:5, 0].tolist()
            if empty:
                raise ModelError(
                    f"`batches`: expected samples of every class that have {name!r}. Found none of the classes {empty}."
                )
            self.centres(name).copy_(sums[f"sum/{name}"] / count[:, None])
        self._fitted = True
        return self

    def _sums(self, batches: Iterable[Any]) -> dict[str, Tensor]:
        sums: dict[str, Tensor] = {}
        for name in self._names:
            sums[f"sum/{name}"] = torch.zeros_like(self.centres(name))
            sums[f"count/{name}"] = torch.zeros_like(self.centres(name)[:, 0])
        seen = False
        for raw in batches:
            batch = Batch.of(raw).to(self.centres(self._names[0]).device)
            if batch.target is None or batch.target.is_floating_point() or batch.target.ndim != 1:
                found = "none" if batch.target is None else f"{batch.target.dtype} {tuple(batch.target.shape)}"
                soft = batch.target is not None and batch.target.is_floating_point()
                step = " Probabilities (mixup, soft labels) name no class: give target.argmax(1)." if soft else ""
                raise BatchError(f"`target`: expected class indices (B,) for prototypes. Found {found}.{step}")
            seen = True
            for name in batch.inputs:
                own = batch.only(name)
                if own is None:
                    continue
                feature = pool(self.model.encode(own.inputs, None, [name])[name])
                label = cast(Tensor, own.target).long()
                sums[f"sum/{name}"].index_add_(0, label, feature.to(sums[f"sum/{name}"].dtype))
                sums[f"count/{name}"].add_(torch.bincount(label, minlength=len(self.centres(name))))
        if not seen:
            raise BatchError("`batches`: expected at least one training batch. Found none.")
        return sums

    def forward(self, features: Features, present: Masks = None) -> dict[str, Tensor]:
        """Minus the distance to every prototype, (B, C)."""
        if not self._fitted:
            raise ModelError("Prototype: expected prototypes. Found none; call fit(training_batches) first.")
        found = {}
        for m, feature in features.items():
            rows = pool(feature)
            found[m] = -torch.linalg.vector_norm(rows[:, None] - self.centres(m).to(rows.dtype), dim=2)
        return found
