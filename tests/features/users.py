"""Small methods that use what the engine offers beside one loss per phase; each shows one facility."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from equimodal import Batch, Classification, MultimodalModel
from equimodal.engine import (
    Descent,
    Engine,
    Objective,
    Perturbation,
    Phase,
    SampleValues,
    Survey,
    UpdateScale,
    local,
    modules_of,
    sample_index,
)
from equimodal.fusion import Concat
from equimodal.methods import Joint, StepReport
from equimodal.methods.parts import SampleTable
from tests.features.helpers import SIZES, data
from tests.helpers import CLASSES, WIDTH, mlp

F64 = torch.float64


class User(Joint):
    """A fused loss, and one of a linear head per modality; both are means over all samples."""

    def __init__(self, model: MultimodalModel, weight: float = 0.7) -> None:
        super().__init__(model, Classification(CLASSES))
        self.weight = weight
        self.alone = nn.ModuleList(nn.Linear(WIDTH, CLASSES) for _ in self.modalities)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """(B,) per loss; 0 where a sample lacks the modality."""
        features = self.multimodal.encode(batch.inputs, batch.present)
        output = self.multimodal.head(self.multimodal.fuse(features, batch.present))
        return {"fused": self.of_samples(output, batch), **self.losses_alone(features, batch)}

    def losses_alone(self, features: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """(B,) per modality of the batch."""
        found = {}
        for m, head in zip(self.modalities, self.alone, strict=True):
            if m in features:
                loss = self.of_samples(head(features[m]), batch)
                mask = None if batch.present is None else batch.present.get(m)
                found[m] = loss if mask is None else torch.where(mask, loss, torch.zeros_like(loss))
        return found

    @staticmethod
    def of_samples(output: Tensor, batch: Batch) -> Tensor:
        """(B,)"""
        return cross_entropy(output, cast(Tensor, batch.target), reduction="none")

    def objective(self, batch: Batch) -> Objective:
        """The sum of all losses, each of them a part."""
        parts = {name: loss.mean() for name, loss in self.losses(batch).items()}
        total = parts["fused"]
        for m in self.modalities:
            total = total + self.weight * parts[m] if m in parts else total
        return Objective(total, {name: part.detach() for name, part in parts.items()}, parts=parts)

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        return [Phase("joint", self.objective, list(self.parameters()))]


class Pareto(User):
    """G1: each encoder steps along the shortest convex combination of its fused and its unimodal gradient."""

    def modify_gradients(
        self, phase: Phase, descent: Descent, engine: Engine, report: StepReport
    ) -> Sequence[UpdateScale]:
        for m in self.modalities:
            parameters = [p for p in self.multimodal.parameters_of(m) if p.grad is not None]
            if m not in descent.gradients or not parameters:
                continue
            (ff, fm), (_, mm) = descent.gradients.gram(parameters, ["fused", m])
            a = ((mm - fm) / (ff + mm - 2 * fm).clamp_min(1e-30)).clamp(0, 1)
            report.coefficients.setdefault("joint weight", {})[m] = a
            fused, alone = (descent.gradients.of(name, parameters) for name in ("fused", m))
            for p, g, h in zip(parameters, fused, alone, strict=True):
                terms = [w.to(p.dtype) * local(t) for w, t in ((a, g), (1 - a, h)) if t is not None]
                local(cast(Tensor, p.grad)).copy_(torch.stack(terms).sum(0) * 2)
        return ()


class Declared(Pareto):
    """G1: the same, with the total declared as the weighted sum of the parts; apart for the encoders only."""

    def objective(self, batch: Batch) -> Objective:
        parts = {name: loss.mean() for name, loss in self.losses(batch).items()}
        return Objective.sum_of(parts, dict.fromkeys(set(parts) - {"fused"}, self.weight))

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        shared = [p for m in self.modalities for p in self.multimodal.parameters_of(m)]
        return [Phase("joint", self.objective, list(self.parameters()), separate=shared)]


class Ahead(User):
    """G5: features are scaled by how far their modality is behind in the whole batch, before they are fused."""

    scales: Mapping[str, Tensor]

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        survey = Survey(self.gather, self.receive, always=True)
        return [Phase("joint", self.objective, list(self.parameters()), survey=survey)]

    def gather(self, batch: Batch) -> dict[str, Tensor]:
        losses = self.losses_alone(self.multimodal.encode(batch.inputs, batch.present), batch)
        zero = next(iter(losses.values())).new_zeros(1)
        sums = {m: losses[m].sum()[None] if m in losses else zero for m in self.modalities}
        return {**sums, "count": torch.full_like(zero, len(batch))}

    def receive(self, sums: Mapping[str, Tensor]) -> None:
        self.scales = {m: 1 + torch.tanh(sums[m] / sums["count"]) for m in self.modalities}

    def objective(self, batch: Batch) -> Objective:
        features = self.multimodal.encode(batch.inputs, batch.present)
        alone = self.losses_alone(features, batch)
        scaled = {m: h * self.scales[m].to(h.dtype) for m, h in features.items()}
        output = self.multimodal.head(self.multimodal.fuse(scaled, batch.present))
        return Objective(
            torch.stack([self.of_samples(output, batch).mean(), *(x.mean() for x in alone.values())]).sum()
        )


class Summed(User):
    """The total is declared as the weighted sum of the parts."""

    def objective(self, batch: Batch) -> Objective:
        parts = {name: loss.mean() for name, loss in self.losses(batch).items()}
        return Objective.sum_of(parts, dict.fromkeys([m for m in self.modalities if m in parts], self.weight))


class Aligned(Summed):
    """G7: the fused loss is differentiated where the encoder that agrees most with it has climbed along it."""

    radius = 0.3

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        return [Phase("joint", self.objective, list(self.parameters()), perturbation=self.perturbation)]

    def perturbation(self, descent: Descent) -> Perturbation | None:
        cosines = {}
        for m in self.modalities:
            if m in descent.gradients:
                gram = descent.gradients.gram(self.multimodal.parameters_of(m), ["fused", m])
                cosines[m] = gram[0, 1] / (gram[0, 0] * gram[1, 1]).sqrt().clamp_min(1e-30)
        first = max(cosines, key=lambda m: float(cosines[m]))
        parameters = self.multimodal.parameters_of(first)
        radius = self.radius * cosines[first].clamp_min(0)
        return Perturbation(parameters, descent.gradients.of("fused", parameters), radius, "fused")


class Dominant(Summed):
    """G7: the loss of the modality with the largest gradient is differentiated at the top of its own ball."""

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        return [Phase("joint", self.objective, list(self.parameters()), perturbation=self.perturbation)]

    def perturbation(self, descent: Descent) -> Perturbation | None:
        parameters = [p for p in self.parameters() if p.requires_grad]
        names = [m for m in self.modalities if m in descent.gradients]
        first = names[int(descent.gradients.gram(parameters, names).diagonal().argmax())]
        return Perturbation(parameters, descent.gradients.of(first, parameters), 0.1, first)


class Still(User):
    """G8: heads and fusion learn on encoders that keep still."""

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        encoders = [p for m in self.modalities for p in self.multimodal.parameters_of(m)]
        inside = {id(p) for p in encoders}
        trained = [p for p in self.parameters() if id(p) not in inside]
        return [Phase("heads", self.objective, trained, frozen=modules_of(self.model, encoders))]


class Remembering(User):
    """G9: samples count by the loss that each of their modalities had when they were seen last."""

    def __init__(self, model: MultimodalModel, weight: float = 0.7) -> None:
        super().__init__(model, weight)
        self.memory = SampleTable(self.modalities)

    def objective(self, batch: Batch) -> Objective:
        losses = self.losses(batch)
        values, seen = self.memory.at(sample_index(batch))
        weight = 1 + (values * seen).sum(1).to(losses["fused"].dtype)
        rows = {}
        for m in self.modalities:
            if m in losses:
                present = batch.rows(m)
                alone = losses[m] if present is None else losses[m].index_select(0, present)
                rows[m] = SampleValues.of(alone, batch, m)
        total = torch.stack([(weight * loss).mean() for loss in losses.values()]).sum()
        return Objective(total, rows=rows)

    def after_step(self, phase: Phase, descent: Descent, engine: Engine, report: StepReport) -> None:
        self.memory.update(descent.rows)


USERS: dict[str, type[User]] = {
    "parts": Pareto,
    "declared parts": Declared,
    "survey": Ahead,
    "perturbed encoder": Aligned,
    "perturbed by a part": Dominant,
    "frozen modules": Still,
    "numbers per sample": Remembering,
}


def user(
    name: str, seed: int = 0, sizes: Mapping[str, int] = SIZES, norm: bool = False, compiled: str | None = None
) -> User:
    """One of them on MLP encoders in float64, which end in batch normalisation and dropout if asked for."""
    torch.manual_seed(seed)
    encoders: dict[str, Any] = {}
    for m, n in sizes.items():
        encoders[m] = mlp(n, WIDTH)
        if norm:
            encoders[m] = nn.Sequential(encoders[m], nn.BatchNorm1d(WIDTH), nn.Dropout(0.5))
        if compiled is not None:
            encoders[m] = torch.compile(encoders[m], backend=compiled, fullgraph=True)
    model = MultimodalModel(encoders, Concat(dict.fromkeys(sizes, WIDTH)), nn.Linear(WIDTH * len(sizes), CLASSES))
    return USERS[name](model).double().train()


def indexed(size: int = 12, seed: int = 0, sizes: dict[str, int] = SIZES, uneven: bool = False) -> Batch:
    """Random vectors and labels with an index that repeats a sample; if uneven, two modalities are in some rows."""
    batch = data(size, seed, sizes)
    rows = torch.arange(size)
    index = (rows * 7 + seed) % 20
    index[-1] = index[0]
    present = {"b.c": rows % 3 == 1, "keys": (rows % 3 == 0) | (rows == 4)} if uneven else None
    return Batch(batch.inputs, batch.target, present, index)
