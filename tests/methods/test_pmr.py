"""PMR: against a loop written out, its prototypes, its two windows, and what it needs."""

from __future__ import annotations

import copy
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from equimodal import Batch, MultimodalModel, PlainEngine
from equimodal.errors import MethodError, UnsupportedError
from equimodal.methods import EpochContext, Method
from tests.helpers import assert_identical, assert_near, weights
from tests.methods.toys import CLASSES, RATE, features_of, mask_of, small_batch, small_method

Prototypes = dict[str, Tensor]


def chosen(batches: list[Batch], m: str) -> list[tuple[int, int, int]]:
    """(batch, row, class) of the first, the eleventh ... sample of each class that has the modality."""
    seen, found = [0] * CLASSES, []
    for b, batch in enumerate(batches):
        for row in mask_of(batch, m).nonzero()[:, 0].tolist():
            k = int(cast(Tensor, batch.target)[row])
            if seen[k] % 10 == 0:
                found.append((b, row, k))
            seen[k] += 1
    return found


def prototypes_of(model: MultimodalModel, batches: list[Batch], old: Prototypes, momentum: float) -> Prototypes:
    made = {}
    with torch.no_grad():
        features = [features_of(model, batch) for batch in batches]
        for m in model.modalities:
            rows = chosen(batches, m)
            means = [torch.stack([features[b][m][r] for b, r, k in rows if k == c]).mean(0) for c in range(CLASSES)]
            new = torch.stack(means)
            made[m] = momentum * old[m] + (1 - momentum) * new if old else new
    return made


def step_written_out(
    model: MultimodalModel, batch: Batch, centres: Prototypes, alpha: float, mu: float
) -> dict[str, float]:
    """One step of SGD on the paper's loss; how much each modality is pulled."""
    features, y = features_of(model, batch), cast(Tensor, batch.target)
    q, s = {}, {}
    for m, z in features.items():
        mask = mask_of(batch, m)
        logits = torch.stack([torch.stack([-(row - c).norm() for c in centres[m]]) for row in z[mask]])
        q[m] = logits.softmax(1)
        s[m] = float(q[m][torch.arange(int(mask.sum())), y[mask]].mean().detach())
    best, worst = max(s.values()), min(s.values())
    loss = nn.functional.cross_entropy(model.head(torch.cat(list(features.values()), 1)), y)
    pull = {}
    for m in features:
        mask = mask_of(batch, m)
        beta, gamma = min(best / s[m] - 1, 1), min(s[m] / worst - 1, 1)
        pull[m] = beta
        loss = loss + alpha * beta * nn.functional.nll_loss(q[m].log(), y[mask])
        loss = loss - mu * gamma * -(q[m] * q[m].log()).sum(1).mean()
    parameters = list(model.parameters())
    with torch.no_grad():
        for p, g in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            p.sub_(RATE * g)
    return pull


def engine_for(method: Method) -> PlainEngine:
    return PlainEngine(torch.optim.SGD(method.parameters(), lr=RATE))


@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize("count", [2, 3])
def test_three_epochs_against_the_algorithm_written_out(count: int, absent: bool) -> None:
    """The entropy term in the first two; prototypes of the first epoch have no past."""
    method = cast(Any, small_method("PMR", count, alpha=2.0, mu=0.3, entropy_epochs=2, momentum=0.4))
    reference = cast(MultimodalModel, copy.deepcopy(method.model))
    batches = [small_batch(count, seed, absent) for seed in range(4)]
    engine, centres = engine_for(method), Prototypes()
    for epoch in range(3):
        method.on_train_epoch_start(EpochContext(epoch, loader=batches))
        centres = prototypes_of(reference, batches, centres, 0.4)
        for position, m in enumerate(method.modalities):
            assert_near({m: getattr(method.prototypes, f"centres_{position}")}, {m: centres[m]}, 1e-12)
        batch = batches[epoch + 1]
        report = method.training_step(batch, engine)
        pull = step_written_out(reference, batch, centres, 2.0, 0.3 if epoch < 2 else 0.0)
        assert max(pull.values()) > 0.001
        assert {m: float(b) for m, b in report.coefficients["pull"].items()} == pytest.approx(pull, abs=1e-12)
        assert_near(weights(method.model), weights(reference), 1e-12)


def test_micro_batches_have_the_coefficients_of_the_whole_batch() -> None:
    whole, parts = (cast(Any, small_method("PMR", 3, mu=0.5)) for _ in range(2))
    batches = [small_batch(3, seed) for seed in range(3)]
    for method in (whole, parts):
        method.on_train_epoch_start(EpochContext(0, loader=batches))
    batch = batches[2]
    whole.training_step(batch, engine_for(whole))
    pieces = [batch.select(torch.arange(a, b)) for a, b in ((0, 1), (1, 6), (6, 12))]
    parts.training_step(pieces, engine_for(parts))
    assert_near(weights(whole), weights(parts), 1e-12)


def test_outside_the_window_it_is_joint_training() -> None:
    method, joint = cast(Any, small_method("PMR", 2, start=1, end=1)), small_method("Joint", 2)
    batches = [small_batch(2, seed) for seed in range(3)]
    for epoch in (0, 2):
        method.on_train_epoch_start(EpochContext(epoch))  # needs no training samples then
        report = method.training_step(batches[0], engine_for(method))
        joint.training_step(batches[0], engine_for(joint))
        assert "pull" not in report.coefficients
        assert_identical(weights(method.model), weights(joint.model))


def test_a_class_that_no_sample_shows_keeps_its_prototype_or_has_none() -> None:
    """In the released code it is NaN from then on."""
    method = cast(Any, small_method("PMR", 2))
    full = small_batch(2, 0, absent=False)
    without = full.select((cast(Tensor, full.target) != 2).nonzero()[:, 0])
    method.on_train_epoch_start(EpochContext(0, loader=[without]))
    assert method.prototypes.seen.tolist() == [[True, True, False]] * 2
    report = method.training_step(full, engine_for(method))
    assert all(bool(torch.isfinite(p).all()) for p in method.parameters())
    assert all(0 < float(s) < 1 for s in report.scores.values())  # of the samples of the other classes
    method.on_train_epoch_start(EpochContext(1, loader=[full]))
    third = method.prototypes.centres_0[2].clone()
    assert third.abs().sum() > 0
    method.on_train_epoch_start(EpochContext(2, loader=[without]))
    assert torch.equal(method.prototypes.centres_0[2], third)


def test_a_batch_of_one_class_and_a_modality_that_nobody_has() -> None:
    method = cast(Any, small_method("PMR", 3))
    full = small_batch(3, 0, absent=False)
    method.on_train_epoch_start(EpochContext(0, loader=[full]))
    engine = engine_for(method)
    method.training_step(full.select((cast(Tensor, full.target) == 1).nonzero()[:, 0]), engine)
    gone = Batch(full.inputs, full.target, {"audio": torch.zeros(12, dtype=torch.bool)})
    report = method.training_step(gone, engine)
    assert float(report.coefficients["pull"]["audio"]) == float(report.coefficients["entropy"]["audio"]) == 0
    assert all(bool(torch.isfinite(p).all()) for p in method.parameters())


def test_the_released_coefficients_are_a_switch_without_entropy() -> None:
    method = cast(Any, small_method("PMR", 2, variant="released"))
    batches = [small_batch(2, 0, absent=False)]
    method.on_train_epoch_start(EpochContext(0, loader=batches))
    report = method.training_step(batches[0], engine_for(method))
    scores = {m: float(s) for m, s in report.scores.items()}
    behind = min(scores, key=lambda m: scores[m])
    assert {m: float(b) for m, b in report.coefficients["pull"].items()} == {m: float(m == behind) for m in scores}
    assert not any(float(g) for g in report.coefficients["entropy"].values())


def test_what_it_needs_is_named() -> None:
    method = small_method("PMR", 2)
    with pytest.raises(MethodError, match=r"needs to know the epoch.*loader=train_loader"):
        method.training_step(small_batch(2, 0), engine_for(method))
    with pytest.raises(MethodError, match=r"`context.loader`: PMR .*Give EpochContext\(epoch, loader=train_loader\)"):
        method.on_train_epoch_start(EpochContext(0))
    with pytest.raises(UnsupportedError, match="an iterator, which has one pass"):
        method.on_train_epoch_start(EpochContext(0, loader=iter([small_batch(2, 0)])))
    for options in ({"alpha": 0}, {"mu": -1}, {"momentum": 1}, {"entropy_epochs": 0.5}):
        with pytest.raises(MethodError, match=f"`{next(iter(options))}`"):
            small_method("PMR", 2, **options)


def test_looking_at_training_samples_leaves_a_loader_where_it_is() -> None:
    from equimodal.data import load_avdigits, loader
    from equimodal.fusion import Concat
    from equimodal.methods import get

    data = load_avdigits()
    sizes = {"image": 64, "audio": 1024}
    torch.manual_seed(0)
    encoders = {m: nn.Sequential(nn.Flatten(), nn.Linear(n, 8)) for m, n in sizes.items()}
    model = MultimodalModel(encoders, Concat(dict.fromkeys(sizes, 8)), nn.Linear(16, 10))
    method = cast(Any, get("PMR"))(model, data.task)
    train = loader(data.train, 32)
    before = copy.deepcopy(train.state_dict())
    method.on_train_epoch_start(EpochContext(0, loader=train))
    assert train.state_dict() == before
    assert bool(method.prototypes.seen.all())
