"""UMT and G2D against their losses written out, the stages of G2D, and what they refuse of teachers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from equimodal import Batch, Classification, MultimodalModel, PlainEngine
from equimodal.batch import Tokens
from equimodal.errors import MethodError, ModelError
from equimodal.fusion import Concat
from equimodal.methods import G2D, UMT, Ensemble, EpochContext, Joint
from equimodal.methods.parts import Companions, feature_gap, mean_over_batch
from equimodal.tasks import Regression
from tests.helpers import assert_identical, assert_near, moved, weights
from tests.methods.affine import (
    CLASSES,
    INPUTS,
    WIDTH,
    batch_of,
    cross_entropy,
    descend,
    encoders_of,
    features_of,
    head_of,
    make,
    masks_of,
    model_of,
    steps,
)

LAMBDA, BETA, T = 0.7, 0.3, 2.0


def teacher(count: int, seed: int = 9) -> Any:
    """An ensemble of its own, untrained; in training mode, as a user may leave it."""
    return Ensemble(model_of(count, seed=seed), Classification(CLASSES)).double().train()


def taught(count: int, **options: Any) -> dict[str, Any]:
    made = teacher(count)
    return {"teachers": dict.fromkeys(list(INPUTS)[:count], made), **options}


def gaps(z: dict[str, Tensor], known: dict[str, Tensor], masks: dict[str, Tensor], size: int) -> Tensor:
    """Squared distances of the samples that have the modality, summed, over the samples of the batch."""
    total = torch.zeros((), dtype=torch.float64)
    for m, mask in masks.items():
        for i in mask.nonzero()[:, 0].tolist():
            total = total + sum((z[m][i, j] - known[m][i, j]) ** 2 for j in range(WIDTH)) / size
    return total


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("absent", [False, True])
def test_three_steps_of_umt(count: int, absent: bool) -> None:
    ours, theirs = make(UMT, count, **taught(count, weight=LAMBDA)), make(Joint, count)
    fixed = encoders_of(teacher(count))
    data = [batch_of(count, seed, absent) for seed in range(3)]
    steps(ours, data)
    encoders, head, parameters = encoders_of(theirs), head_of(theirs), list(theirs.parameters())
    for batch in data:
        z, y = features_of(encoders, batch), batch.target
        assert y is not None
        known = {m: t.detach() for m, t in features_of(fixed, batch).items()}
        loss = cross_entropy(torch.cat(list(z.values()), 1) @ head.weight.T + head.bias, y)
        loss = loss + LAMBDA * gaps(z, known, masks_of(batch), len(batch)) / WIDTH
        descend(parameters, torch.autograd.grad(loss, parameters))
    assert_near(weights(ours), weights(theirs), 1e-12)


@pytest.mark.parametrize("count", [2, 3])
def test_three_steps_of_g2d(count: int) -> None:
    """Without stages: features by the sum of squares, and the fused output towards each teacher's."""
    options: dict[str, Any] = {"weight": LAMBDA, "output_weight": BETA, "temperature": T, "alone": 0.0}
    ours, theirs = make(G2D, count, **taught(count, **options)), make(Joint, count)
    master = teacher(count)
    data = [batch_of(count, seed) for seed in range(3)]
    steps(ours, data)
    encoders, head, parameters = encoders_of(theirs), head_of(theirs), list(theirs.parameters())
    for batch in data:
        z, y, masks = features_of(encoders, batch), batch.target, masks_of(batch)
        assert y is not None
        known = {m: t.detach() for m, t in features_of(encoders_of(master), batch).items()}
        u = torch.cat(list(z.values()), 1) @ head.weight.T + head.bias
        loss = cross_entropy(u, y) + LAMBDA * gaps(z, known, masks, len(batch))
        log_p = u / T - (u / T).logsumexp(1, keepdim=True)
        for m, mask in masks.items():
            own = master.heads[m][-1]
            log_t = ((known[m] @ own.weight.T + own.bias) / T).detach().log_softmax(1)
            loss = loss + BETA * T**2 * (log_t.exp() * (log_t - log_p)).sum(1)[mask].sum() / len(batch)
        descend(parameters, torch.autograd.grad(loss, parameters))
    assert_near(weights(ours), weights(theirs), 1e-12)


def test_a_student_that_is_its_teacher_trains_as_without() -> None:
    """No gap, and so no gradient, in the first step."""
    model = model_of(2)
    teachers = {m: copy.deepcopy(model) for m in model.modalities}
    ours, theirs = make(UMT, 2, teachers=teachers), make(Joint, 2)
    (report,) = steps(ours, [batch_of(2)])
    steps(theirs, [batch_of(2)])
    assert float(report.losses["features"]) == 0
    assert_identical(weights(ours), weights(theirs))


# ---- stages ---------------------------------------------------------------------------------------------------------


def ranked(count: int, order: list[int]) -> Any:
    """G2D whose teachers' probability of the true class is set by their biases; weakest first as ``order`` says."""
    method = make(G2D, count, **taught(count, alone=0.5))
    master: Any = method.teachers[next(iter(INPUTS))]
    names = list(INPUTS)[:count]
    with torch.no_grad():
        for place, position in enumerate(order):
            own = master.heads[names[position]][-1]
            own.weight.zero_()
            own.bias.copy_(torch.tensor([float(place), 0.0, 0.0]))  # of class 0, the only one in these batches
    return method


def of_class_0(count: int) -> Batch:
    batch = batch_of(count, absent=False)
    return Batch(batch.inputs, torch.zeros(len(batch), dtype=torch.int64))


@pytest.mark.parametrize("order", [[0, 1], [1, 0], [2, 0, 1], [1, 2, 0]])
@pytest.mark.parametrize("offered", [True, False], ids=["loader", "first batch"])
def test_the_weakest_trains_alone_first(order: list[int], offered: bool) -> None:
    """Ten epochs: five in equal stages of one encoder each, M - 1 of them, then all."""
    count = len(order)
    method, batch, names = ranked(count, order), of_class_0(count), list(INPUTS)[:count]
    engine = PlainEngine(torch.optim.SGD(method.parameters(), 0.1, momentum=0.9, weight_decay=0.1))
    for epoch in range(10):
        context = EpochContext(epoch, 10, 1, [batch] if offered else None, engine)
        method.on_train_epoch_start(context)
        before = weights(method)
        method.training_step(batch, engine)
        changed = {n for n, delta in moved(before, method).items() if bool(delta.any())}
        trained = [i for i in range(count) if any(n.startswith(f"model.encoders.{i}.") for n in changed)]
        stage = min(epoch * (count - 1) // 5, count - 1)
        assert trained == (sorted(order) if stage == count - 1 else [order[stage]])
        assert {"model.head.weight", "model.head.bias"} <= changed
    assert method.ranking == [names[i] for i in order]


def test_an_encoder_that_waits_is_in_evaluation_mode() -> None:
    encoders: dict[str, nn.Module] = {
        m: nn.Sequential(nn.Linear(INPUTS[m], WIDTH), nn.BatchNorm1d(WIDTH)) for m in list(INPUTS)[:2]
    }
    model = MultimodalModel(encoders, Concat(dict.fromkeys(encoders, WIDTH)), nn.Linear(2 * WIDTH, CLASSES)).double()
    task, batch = Classification(CLASSES), batch_of(2, absent=False)
    master = Ensemble(copy.deepcopy(model), task).double()
    method = G2D(model, task, teachers=dict.fromkeys(encoders, master)).train()
    steps(method, [batch], epochs=2)
    counted = [int(e[1].num_batches_tracked) for e in encoders.values()]  # type: ignore[index]
    assert sorted(counted) == [0, 1]
    assert counted[list(encoders).index(method.ranking[0])] == 1


def test_teachers_of_equal_score_are_ranked_as_the_model_has_them() -> None:
    """Where the released code raises an error."""
    method = ranked(3, [0, 1, 2])
    with torch.no_grad():
        for m in method.modalities:
            method.teachers[m].heads[m][-1].bias.zero_()
    steps(method, [of_class_0(3)], epochs=2)
    assert method.ranking == list(INPUTS)[:3]


def test_numbers_are_ranked_by_the_score_of_the_task() -> None:
    task = Regression()
    batch = batch_of(2, absent=False)
    batch = Batch(batch.inputs, torch.zeros(len(batch), dtype=torch.float64))
    master: Any = Ensemble(model_of(2, 1), task).double()
    names = list(INPUTS)[:2]
    with torch.no_grad():
        for m, error in zip(names, (1.0, 3.0), strict=True):
            master.heads[m][-1].weight.zero_()
            master.heads[m][-1].bias.fill_(error)
    method = make(G2D, 2, task, teachers=dict.fromkeys(names, master))
    steps(method, [batch], epochs=2)
    assert method.ranking == [names[1], names[0]]  # an error of 3 is the weaker one


# ---- features of every kind -----------------------------------------------------------------------------------------


def test_gaps_by_hand() -> None:
    z, t = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    assert feature_gap(z, t).tolist() == [2.5, 12.5]
    assert feature_gap(z, t, "sum").tolist() == [5.0, 25.0]
    mask = torch.tensor([[True, False], [False, False]])
    values = torch.stack([z, t], 1)
    tokens = Tokens(values, mask), Tokens(torch.zeros_like(values).fill_(torch.nan).where(~mask[..., None], 0.0), mask)
    assert feature_gap(*tokens).tolist() == [2.5, 0.0]  # padding is not read; a sample without a token has no gap
    maps = z.reshape(2, 2, 1, 1).expand(2, 2, 2, 2), torch.zeros(2, 2, 2, 2)
    assert feature_gap(*maps).tolist() == [2.5, 0.0]
    assert feature_gap((maps[0], maps[0]), (maps[1], maps[1])).tolist() == [5.0, 0.0]
    batch = Batch({"a": z, "b": z}, None, {"a": torch.tensor([True, False])})
    spoilt = {"a": torch.tensor([1.0, torch.nan]), "b": torch.tensor([[2.0, 4.0], [6.0, 8.0]])}
    assert float(mean_over_batch(spoilt, batch)) == (1 + 3 + 7) / 2


# ---- refusals -------------------------------------------------------------------------------------------------------


def test_a_teacher_of_another_width_is_refused_by_name() -> None:
    names = list(INPUTS)[:2]
    method = make(UMT, 2, teachers={names[0]: nn.Linear(5, WIDTH).double(), names[1]: nn.Linear(3, 9).double()})
    with pytest.raises(ModelError, match=rf"`teachers\['{names[1]}'\]`: expected features.*\(12, 4\).*\(12, 9\)"):
        steps(method, [batch_of(2, absent=False)])


def test_refusals() -> None:
    with pytest.raises(ModelError, match=r"`teachers`: expected one per modality \['audio.raw', 'the keys'\]"):
        make(UMT, 2, teachers={"audio.raw": nn.Linear(5, WIDTH)})
    with pytest.raises(MethodError, match="`weight`"):
        make(UMT, 2, **taught(2, weight=-1.0))
    absent = make(UMT, 2, teachers=Companions.absent({"": "runs/teacher"}))
    assert absent.predict(batch_of(2).inputs, batch_of(2).present).output.shape == (12, CLASSES)
    with pytest.raises(MethodError, match=r"expected its module.*runs/teacher"):
        steps(absent, [batch_of(2)])
    method = make(G2D, 2, **taught(2))
    with pytest.raises(MethodError, match="needs to know the epoch"):
        method.training_step(batch_of(2), PlainEngine(torch.optim.SGD(method.parameters(), 0.1)))
    with pytest.raises(MethodError, match=r"`context\.epochs`"):
        method.on_train_epoch_start(EpochContext(0))
    bare = make(G2D, 2, teachers={"audio.raw": nn.Linear(5, WIDTH).double(), "the keys": nn.Linear(3, WIDTH).double()})
    with pytest.raises(MethodError, match="expected a trained method with an output"):
        steps(bare, [batch_of(2, absent=False)], epochs=2)
