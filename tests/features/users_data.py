"""Small methods that use what the loader, the batch and the moments between epochs offer; and data for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from equimodal import Batch, Classification, MultimodalModel
from equimodal.data import Dataset, from_arrays
from equimodal.engine import Objective, Phase, all_sum
from equimodal.fusion import Concat
from equimodal.methods import EpochContext, Joint, Method, Validation, evaluating, measure
from equimodal.methods.parts import branch_phase, linear_heads, planned_loader, probe_run
from tests.helpers import CLASSES, WIDTH, mlp

SIZES = {"a": 5, "keys-b": 4, "keys": 3}


class Double(nn.Module):
    """Data are in float32; the comparisons are in float64."""

    def forward(self, x: Tensor) -> Tensor:
        return x.double()


def dataset(train: int = 24, missing: bool = False, seed: int = 0) -> Dataset:
    """Vectors that show the class, ``a`` best; a third of the samples lacks ``keys`` if asked for."""
    rng = np.random.default_rng(seed)
    total = train + 14
    y = np.arange(total) % CLASSES
    inputs = {m: rng.normal(size=(total, n)).astype(np.float32) for m, n in SIZES.items()}
    for strength, x in zip((2.0, 1.0, 0.5), inputs.values(), strict=True):
        x[:, :CLASSES] += strength * np.eye(CLASSES, dtype=np.float32)[y]
    split = ["train"] * train + ["validation"] * 7 + ["test"] * 7
    present = {"keys": np.arange(total) % 3 > 0} if missing else None
    return from_arrays(inputs, y, split, standardise=dict.fromkeys(SIZES, "none"), present=present)


def model(seed: int = 0, double: bool = True, norm: bool = False) -> MultimodalModel:
    """MLP encoders, Concat and a linear head; in float64 they take float32."""
    torch.manual_seed(seed)
    encoders: dict[str, nn.Module] = {}
    for m, n in SIZES.items():
        parts = [Double()] if double else []
        encoders[m] = nn.Sequential(*parts, mlp(n, WIDTH), *([nn.BatchNorm1d(WIDTH)] if norm else []))
    fusion = Concat(dict.fromkeys(encoders, WIDTH))
    made = MultimodalModel(encoders, fusion, nn.Linear(WIDTH * len(encoders), CLASSES),
                           feature_sizes=dict.fromkeys(encoders, WIDTH))  # fmt: skip
    return made.double() if double else made


class WeightedBranches(Method):
    """Each modality has a phase; a sample's loss is multiplied by its entry of ``batch.extras``.

    A second entry is drawn once per step, as a mask or a partner of mixup would be.

    Args:
        draw: whether it is; else it is 0.
    """

    info = Joint.info

    def __init__(self, model: nn.Module, task: Classification, seed: int = 0, draw: bool = True) -> None:
        super().__init__(model, task, inference="mean")
        self.heads = linear_heads(self.multimodal, task)
        self.draw = draw
        self._generator = torch.Generator().manual_seed(seed)

    def get_extra_state(self) -> dict[str, Any]:
        return {"generator": self._generator.get_state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self._generator.set_state(state["generator"])

    def prepare(self, batches: list[Batch]) -> list[Batch]:
        """One number per sample, drawn for all micro-batches at once, so that they are those of the joined batch."""
        sizes = [len(b) for b in batches]
        drawn = torch.rand(sum(sizes), generator=self._generator) if self.draw else torch.zeros(sum(sizes))
        return [b.with_extras(drawn=d) for b, d in zip(batches, torch.split(drawn, sizes), strict=True)]

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        def objective(m: str) -> Any:
            def of(own: Batch, batch: Batch) -> Objective:
                output = self.heads[m](self.multimodal.encode(own.inputs, None, [m])[m])
                each = nn.functional.cross_entropy(output, cast(Tensor, own.target), reduction="none")
                return Objective((own.extras["weight"] * (1 + own.extras["drawn"]) * each).mean())

            return of

        for m in self.modalities:
            yield branch_phase(self.multimodal, m, self.heads[m], objective(m))

    def fused_output(self, features: Mapping[str, Tensor], present: Any) -> Tensor | None:
        return None

    def unimodal_outputs(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        outputs: dict[str, Tensor] = self.heads(features)
        return outputs


class Resampled(Joint):
    """Before each epoch every sample is valued; its weakest modality is seen once more, alone.

    Args:
        together: also keep the complete samples.
        blocks: batches of one kind follow each other.
    """

    def __init__(
        self, model: nn.Module, task: Classification, together: bool = True, blocks: bool = False, first: int = 0
    ) -> None:
        super().__init__(model, task)
        self.together, self.blocks, self.first = together, blocks, first

    @torch.no_grad()
    def values(self, context: EpochContext) -> Tensor:
        """(N, M) probability of the true class from each modality alone, of all processes; -1 where it is absent."""
        loader: Any = planned_loader(self, context)
        split, columns = loader.split, {m: i for i, m in enumerate(self.modalities)}
        table = torch.zeros(len(split), len(columns), dtype=torch.float64)
        with evaluating(self):
            for batch in loader.full_pass():
                _, alone, _ = self.outputs(batch.inputs, batch.present)
                positions = split.positions(batch.index)
                for m, output in alone.items():
                    true = output.double().softmax(1).gather(1, batch.target[:, None])[:, 0]
                    here = torch.ones_like(true, dtype=torch.bool) if batch.present is None or m not in batch.present \
                        else batch.present[m]  # fmt: skip
                    table[positions, columns[m]] = torch.where(here, true.cpu(), -1.0)
        return all_sum({"table": table})["table"]

    def on_train_epoch_start(self, context: EpochContext) -> None:
        if context.epoch < self.first:
            return
        table = self.values(context)
        weakest = torch.where(table < 0, 2.0, table).argmin(1)
        positions = torch.arange(len(table))
        rows = {}
        for i, m in enumerate(self.modalities):
            alone = torch.where(weakest == i, positions, -1)
            rows[m] = torch.cat([positions, alone]) if self.together else alone
        groups = torch.cat([torch.zeros_like(weakest), 1 + weakest]) if self.together else 1 + weakest
        planned_loader(self, context).plan(rows, groups=groups, blocks=self.blocks)


class Repeated(Resampled):
    """The half of the samples on which the modalities are worst is seen twice, complete."""

    def on_train_epoch_start(self, context: EpochContext) -> None:
        worst = self.values(context).sum(1).argsort(stable=True)
        rows = torch.cat([torch.arange(len(worst)), worst[: len(worst) // 2]])
        planned_loader(self, context).plan(dict.fromkeys(self.modalities, rows))


class WeakFirst(WeightedBranches):
    """The modalities take turns, the one with the lowest validation score first."""

    def __init__(self, model: nn.Module, task: Classification) -> None:
        super().__init__(model, task)
        self.order = self.modalities
        self.seen: list[Validation] = []

    def get_extra_state(self) -> dict[str, Any]:
        return {**super().get_extra_state(), "order": self.order}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        super().set_extra_state(state)
        self.order = state["order"]

    def prepare(self, batches: list[Batch]) -> list[Batch]:
        ones = [b.with_extras(weight=torch.ones(len(b))) for b in batches]
        return super().prepare(ones)

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        known = {p.name: p for p in super().phases(batches)}
        return [known[m] for m in self.order]

    def on_validation_end(self, validation: Validation | float) -> None:
        found = Validation.of(validation)
        self.seen.append(found)
        self.order = tuple(sorted(self.modalities, key=lambda m: found.scores.get(m, 0.0)))


class Blend(Joint):
    """Losses of a joint head and of one head per modality, weighted by what a run aside says about overfitting.

    A modality's weight is its gain on validation data over the square of what its gap grew by, of a run of ``epochs``.
    """

    blend: Tensor

    def __init__(self, model: nn.Module, task: Classification, epochs: int = 1, use: bool = True, **run: Any) -> None:
        super().__init__(model, task)
        self.heads = linear_heads(self.multimodal, task)
        self.run = run or {"epochs": epochs}
        self.use = use
        self.register_buffer("blend", torch.ones(len(self.modalities), dtype=torch.float64))
        self.probes: list[Any] = []

    def _blended(self, batch: Batch) -> Objective:
        features = self.multimodal.encode(batch.inputs, batch.present)
        target = cast(Tensor, batch.target)
        fused = self.multimodal.head(self.multimodal.fuse(features, batch.present))
        total = nn.functional.cross_entropy(fused, target)
        for weight, output in zip(self.blend, self.heads(features).values(), strict=True):
            total = total + weight.to(total.dtype) * nn.functional.cross_entropy(output, target)
        return Objective(total)

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        return [Phase("joint", self._blended, [*self.model.parameters(), *self.heads.parameters()])]

    def unimodal_outputs(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        outputs: dict[str, Tensor] = self.heads(features)
        return outputs

    def on_train_epoch_start(self, context: EpochContext) -> None:
        probe = probe_run(self, context, **self.run)
        self.probes.append(probe)
        if not self.use or probe.validation_before is None or probe.validation_after is None:
            return
        rate = []
        for m in self.modalities:
            before = probe.validation_before.losses[m], probe.training_before.losses[m]
            after = probe.validation_after.losses[m], probe.training_after.losses[m]
            gain = max(before[0] - after[0], 0.0)
            overfitting = (after[0] - after[1]) - (before[0] - before[1])
            rate.append(gain / max(overfitting**2, 1e-6))
        if sum(rate):
            self.blend.copy_(torch.tensor(rate) / sum(rate))


def weighted(batch: Batch) -> Batch:
    """With a weight per sample that follows from its row in the dataset."""
    assert batch.index is not None
    return batch.with_extras(weight=1 + (batch.index % 5).float())


def fit(
    method: Method,
    engine: Any,
    train: Any,
    validation: Any = None,
    epochs: Iterable[int] = range(2),
    accumulate: int = 1,
    change: Any = lambda batch: batch,
) -> None:
    """A plain loop with every moment, as the adapter to Lightning runs it."""
    for epoch in epochs:
        train.set_epoch(epoch)
        context = EpochContext(epoch, 5, None, train, engine, validation, accumulate)
        method.train()
        method.on_train_epoch_start(context)
        pending: list[Batch] = []
        for number, batch in enumerate(train, 1):
            pending.append(change(batch))
            if len(pending) == accumulate or number == len(train):
                method.training_step(pending, engine)
                pending = []
        if validation is not None:
            method.on_validation_end(measure(method, validation))
        method.on_train_epoch_end(context)
