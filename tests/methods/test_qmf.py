"""QMF against its equations, its memory of losses, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from equimodal import Batch, Classification, PlainEngine
from equimodal.errors import BatchError, MethodError, ModelError, UnsupportedError
from equimodal.methods import QMF, Ensemble, EpochContext
from tests.helpers import CLASSES, NAMES, make_method, plain_batch, plain_model

F64 = torch.float64
SIZES = {"a": 4, "b": 3, "c": 2}


def batch_of(sizes: dict[str, int], seed: int, absent: bool) -> Batch:
    batch = plain_batch(sizes, CLASSES, 6, seed)
    index = torch.tensor([3, 0, 7, 4, 1, 2])
    if not absent:
        return Batch(batch.inputs, batch.target, None, index)
    g = torch.Generator().manual_seed(seed)
    masks = {m: torch.rand(6, generator=g) < 0.6 for m in sizes}
    masks["a"] |= ~(masks["a"] | masks["b"])  # everybody has something
    return Batch(batch.inputs, batch.target, masks, index)


def plain_steps(method: QMF, batches: list[Batch], lr: float, weight: float, side: int) -> dict[str, Tensor]:
    """The equations in loops over samples; encoder and head of each modality are called row by row."""
    past: dict[tuple[str, int], float] = {}
    model, parameters = method.multimodal, [p for p in method.parameters() if p.requires_grad]
    for batch in batches:
        assert batch.target is not None
        assert batch.index is not None
        y, index = batch.target.tolist(), batch.index.tolist()
        rows = {
            m: [i for i in range(6) if batch.present is None or bool(batch.present[m][i])] for m in method.modalities
        }
        u: dict[tuple[str, int], Tensor] = {}
        for m in method.modalities:
            for i in rows[m]:
                feature = model.encode({m: batch.inputs[m][i : i + 1]}, None, [m])[m]
                u[m, i] = method.heads[m](feature)[0]
        ce = {key: -torch.log_softmax(z, 0)[y[key[1]]] for key, z in u.items()}
        energy = {key: 0.1 * torch.log(torch.exp(z).sum()) for key, z in u.items()}
        total = torch.zeros((), dtype=F64)
        for i in range(6):
            fused = torch.stack([energy[m, i] * u[m, i] for m in method.modalities if (m, i) in u]).sum(0)
            total = total - torch.log_softmax(fused, 0)[y[i]] / 6
        for m in method.modalities:
            if not rows[m]:
                continue
            total = total + torch.stack([ce[m, i] for i in rows[m]]).mean()
            for i in rows[m]:
                past[m, index[i]] = past.get((m, index[i]), 0.0) + ce[m, i].item()
            known = [v for key, v in past.items() if key[0] == m]
            span = max(known) - min(known)
            terms = []
            for here, there in zip(rows[m], rows[m][1:] + rows[m][:1], strict=True):
                gap = past[m, index[here]] - past[m, index[there]]
                sign = (gap > 0) - (gap < 0)
                term = sign * (energy[m, here] - energy[m, there]) + side * (abs(gap) / span if span else 0.0)
                terms.append(torch.relu(term))
            total = total + weight * torch.stack(terms).mean()
        for p, g in zip(parameters, torch.autograd.grad(total, parameters, allow_unused=True), strict=True):
            if g is not None:
                p.data -= lr * g
    return {n: p.detach() for n, p in method.named_parameters()}


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("absent", [False, True])
def test_three_steps_of_the_equations(variant: Any, count: int, absent: bool) -> None:
    sizes = dict(list(SIZES.items())[:count])
    batches = [batch_of(sizes, seed, absent) for seed in range(3)]
    ours = QMF(plain_model(sizes, 5, CLASSES), Classification(CLASSES), rank_weight=0.7, variant=variant)
    theirs = QMF(plain_model(sizes, 5, CLASSES), Classification(CLASSES), rank_weight=0.7, variant=variant)
    theirs.load_state_dict(ours.state_dict())
    engine = PlainEngine(torch.optim.SGD(ours.parameters(), lr=0.5))
    ranks = []
    for batch in batches:
        report = ours.training_step(batch, engine)
        ranks += [float(v) for n, v in report.losses.items() if n.startswith("rank/")]
    expected = plain_steps(theirs, batches, 0.5, 0.7, 1 if variant == "paper" else -1)
    for name, p in ours.named_parameters():
        assert torch.allclose(p, expected[name], rtol=0, atol=1e-12), name
    assert any(r > 0 for r in ranks) or variant == "released"


def test_the_losses_add_up_and_are_saved() -> None:
    ours = QMF(plain_model(SIZES, 5, CLASSES), Classification(CLASSES))
    engine = PlainEngine(torch.optim.SGD(ours.parameters(), lr=0.0))
    batch = batch_of(SIZES, 0, False)
    for _ in range(2):
        ours.training_step(batch, engine)
    assert batch.target is not None
    assert batch.index is not None
    with torch.no_grad():
        z = ours.heads(ours.multimodal.encode(batch.inputs, None))["b"]
    once = nn.functional.cross_entropy(z, batch.target, reduction="none")
    assert torch.allclose(ours.history.at(batch.index)[0][:, 1], 2 * once, atol=1e-12)
    assert ours.history.at(torch.tensor([5]))[1].tolist() == [[False] * 3]  # a sample that was not seen
    again = QMF(plain_model(SIZES, 5, CLASSES), Classification(CLASSES))
    again.load_state_dict(ours.state_dict())
    assert torch.equal(again.history.values, ours.history.values)


def test_the_first_batch_is_finite_and_ranked() -> None:
    ours = QMF(plain_model(SIZES, 5, CLASSES), Classification(CLASSES), rank_weight=1.0)
    report = ours.training_step(batch_of(SIZES, 0, False), PlainEngine(torch.optim.SGD(ours.parameters(), lr=0.1)))
    assert all(math.isfinite(float(v)) for v in report.losses.values())
    assert all(float(report.losses[f"rank/{m}"]) > 0 for m in SIZES)


def test_training_and_prediction_use_one_rule() -> None:
    ours = QMF(plain_model(SIZES, 5, CLASSES), Classification(CLASSES))
    batch = batch_of(SIZES, 0, True)
    prediction = ours.predict(batch.inputs, batch.present)
    assert prediction.rule == "energy"
    assert batch.target is not None
    loss = nn.functional.cross_entropy(prediction.output, batch.target)
    report = ours.training_step(batch, PlainEngine(torch.optim.SGD(ours.parameters(), lr=0.0)))
    assert float(report.losses["fused"]) == pytest.approx(float(loss), rel=1e-12)
    assert prediction.weights["b"].shape == (6,)


def test_without_ranking_no_index_is_needed() -> None:
    ours = QMF(plain_model(SIZES, 5, CLASSES), Classification(CLASSES), rank_weight=0.0)
    batch = batch_of(SIZES, 0, False)
    engine = PlainEngine(torch.optim.SGD(ours.parameters(), lr=0.1))
    ours.training_step((batch.inputs, batch.target), engine)
    assert len(ours.history) == 0
    ranked = QMF(plain_model(SIZES, 5, CLASSES), Classification(CLASSES))
    with pytest.raises(BatchError, match=r"`batch.index`: expected the dataset index"):
        ranked.training_step((batch.inputs, batch.target), engine)


def test_room_for_all_samples_from_the_loader() -> None:
    ours = QMF(plain_model(SIZES, 5, CLASSES), Classification(CLASSES))

    class Loader:
        dataset = range(40)

    ours.on_train_epoch_start(EpochContext(0, 1, 1, Loader()))  # type: ignore[arg-type]
    assert len(ours.history) == 40


def test_the_rule_on_another_method() -> None:
    batch = batch_of(SIZES, 0, False)
    other = Ensemble(plain_model(SIZES, 5, CLASSES), Classification(CLASSES), inference="energy")
    prediction = other.predict(batch.inputs)
    z = other.heads(other.multimodal.encode(batch.inputs, None))
    expected = torch.stack([0.1 * torch.logsumexp(u, 1, keepdim=True) * u for u in z.values()]).sum(0)
    assert torch.allclose(prediction.output, expected, atol=1e-12)


def test_refusals() -> None:
    with pytest.raises(MethodError, match="`rank_weight`: expected a number >= 0"):
        make_method("QMF", 2, rank_weight=-1.0)
    with pytest.raises(UnsupportedError, match="QMF trains no joint head"):
        make_method("QMF", 2, inference="fused")
    with pytest.raises(ModelError, match="expected one per modality"):
        make_method("QMF", 2, heads={NAMES[0]: nn.Linear(3, 2)})
