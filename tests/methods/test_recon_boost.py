"""ReconBoost: who takes part when, the weights by hand, and the published loop."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from equimodal import Batch, Classification, MultimodalModel
from equimodal.errors import MethodError, ModelError, UnsupportedError
from equimodal.fusion import Concat
from equimodal.methods import EpochContext, ReconBoost
from equimodal.tasks import MultiLabel, Regression
from tests.helpers import assert_identical, sgd, weights

SIZES = {"a": 3, "b": 4, "c": 2}


def made(count: int, norm: bool = False, **options: Any) -> Any:
    torch.manual_seed(0)
    names = list(SIZES)[:count]
    encoders = {m: nn.Sequential(nn.Linear(SIZES[m], 4), *([nn.BatchNorm1d(4)] if norm else [])) for m in names}
    model = MultimodalModel(encoders, Concat(dict.fromkeys(names, 4)), nn.Linear(4 * count, 3),
                            feature_sizes=dict.fromkeys(names, 4))  # fmt: skip
    return ReconBoost(model, Classification(3), **{"stage_epochs": 1, "rectify_epochs": 1, **options}).double().train()


def data(count: int, absent: bool = False) -> Batch:
    g = torch.Generator().manual_seed(1)
    x = {m: torch.randn(6, SIZES[m], generator=g, dtype=torch.float64) for m in list(SIZES)[:count]}
    present = {"a": torch.tensor([True, True, False, True, True, True]),
               "b": torch.tensor([True, False, True, True, False, True])} if absent else None  # fmt: skip
    return Batch(x, torch.tensor([0, 1, 2, 0, 1, 2]), present)


def run(method: Any, batch: Batch, epochs: int, lr: float = 0.1) -> None:
    engine = sgd(method, lr=lr, momentum=0.0)
    for epoch in range(epochs):
        method.on_train_epoch_start(EpochContext(epoch, engine=engine))
        method.training_step(batch, engine)


def plain_loop(method: Any, batch: Batch, epochs: int, residual: str, lr: float = 0.1) -> None:
    """The published algorithm, sample by sample, on the modules of ``method`` alone."""
    names, y = list(method.modalities), batch.target
    head, b = method.head, method.boost_rate
    assert y is not None

    def has(m: str, i: int) -> bool:
        return batch.present is None or m not in batch.present or bool(batch.present[m][i])

    def u(m: str, i: int) -> Tensor:
        output: Tensor = head(method.model.encoder(m)(batch.inputs[m][i : i + 1]))[0]
        return output

    for epoch in range(epochs):
        stage, rectify = divmod(epoch, 2)
        m = names[stage % len(names)]
        terms = []
        for i in range(len(batch)):
            if rectify:
                z = sum((u(j, i) for j in names[: stage + 1] if has(j, i)), torch.zeros(3).double())
                terms.append(-torch.log_softmax(b * z, 0)[y[i]])
                continue
            if not has(m, i):
                continue
            with torch.no_grad():
                others = sum((u(j, i) for j in names[:stage] if j != m and has(j, i)), torch.zeros(3).double()) * b
            p, s = torch.softmax(u(m, i), 0), torch.softmax(others, 0)
            known = s[y[i]] * p[y[i]].log() if residual == "true_class" else (s * p.log()).sum()
            term = (-5 * p[y[i]].log() + known) / 3
            if stage and has(names[(stage - 1) % len(names)], i):
                with torch.no_grad():
                    q = torch.softmax(u(names[(stage - 1) % len(names)], i), 0)
                term = term + 0.5 * ((p - q) ** 2).mean()
            terms.append(term)
        moved = [*([b] if rectify else []), *head.parameters()]
        for j in names[: stage + 1] if rectify else [m]:
            moved += list(method.model.encoder(j).parameters())
        gradients = torch.autograd.grad(torch.stack(terms).mean(), moved, allow_unused=True)
        with torch.no_grad():
            for p, g in zip(moved, gradients, strict=True):
                if g is not None:
                    p -= lr * g


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize("residual", ["true_class", "full"])
def test_the_published_loop(count: int, absent: bool, residual: Any) -> None:
    ours, batch = made(count, residual=residual), data(count, absent)
    theirs = copy.deepcopy(ours)
    run(ours, batch, 6)
    plain_loop(theirs, batch, 6, residual)
    for name, value in weights(theirs).items():
        assert torch.allclose(weights(ours)[name], value, atol=1e-12, rtol=0), name
    assert float(ours.boost_rate.detach()) != 1.0


def test_others_that_are_right_leave_a_smaller_weight() -> None:
    """Known by the others: (w1 - w2)/C times the cross-entropy; without others w2 counts a third, softmax of 0."""
    losses = []
    for stage in (0, 1):
        method, batch = made(2, agreement=0.0, target_weight=4.0), data(2)
        with torch.no_grad():  # uniform outputs
            method.head[1][2].weight.zero_()
            method.head[1][2].bias.zero_()
        batch = Batch(batch.inputs, torch.zeros(6, dtype=torch.int64))
        method.on_train_epoch_start(EpochContext(2 * stage))
        known = torch.tensor([90.0, 0.0, 0.0]).double().expand(6, 3)
        if stage:
            method.unimodal_outputs = lambda features, known=known: dict.fromkeys(features, known)
        losses.append(float(method.training_step(batch, sgd(method)).losses["ab"[stage]]))
    log3 = float(torch.tensor(3.0).double().log())
    assert losses == pytest.approx([(4 - 1 / 3) / 3 * log3, (4 - 1) / 3 * log3], abs=1e-12)


def test_what_keeps_still() -> None:
    """In a stage: the other encoders with their statistics, and b; the released variant moves the statistics."""
    for variant, still in (("paper", True), ("released", False)):
        method, batch = made(2, norm=True, variant=variant), data(2)
        run(method, batch, 2)  # a joins
        before = weights(method)
        engine = sgd(method)
        method.on_train_epoch_start(EpochContext(2, engine=engine))
        method.training_step(batch, engine)
        changed = {n for n, t in weights(method).items() if not torch.equal(t, before[n])}
        first = {n for n in changed if n.startswith("model.encoders.0.")}
        assert ("model.encoders.0.1.running_mean" in first) is not still
        assert not [n for n in first if "running" not in n and "num_batches" not in n]
        assert any(n.startswith("model.encoders.1.") for n in changed)
        assert "boost_rate" not in changed


def test_the_agreement_has_a_gradient_in_the_paper_only() -> None:
    ends = {}
    for variant in ("paper", "released"):
        for agreement in (0.0, 0.5):
            method = made(2, variant=variant, agreement=agreement)
            run(method, data(2), 3)
            ends[variant, agreement] = weights(method)
    assert_identical(ends["released", 0.0], ends["released", 0.5])
    first = "model.encoders.1.0.weight"
    assert not torch.equal(ends["paper", 0.0][first], ends["paper", 0.5][first])


def test_stages_start_with_fresh_momentum() -> None:
    method, batch = made(2, stage_epochs=2), data(2)
    engine = sgd(method, momentum=0.9)
    known = []
    for epoch in range(4):
        method.on_train_epoch_start(EpochContext(epoch, engine=engine))
        known.append(len(engine.optimizers[0].state))
        method.training_step(batch, engine)
    assert known[0] == 0
    assert known[1] > 0
    assert known[2:] == [0, 0]
    assert method.stage == 1


def test_modalities_join_at_their_first_stage() -> None:
    method, batch = made(2), data(2)
    before = method.predict(batch.inputs).output
    method.on_train_epoch_start(EpochContext(0))
    alone = method.predict(batch.inputs)
    assert torch.allclose(alone.output, alone.unimodal["a"])
    assert torch.allclose(before, alone.unimodal["a"] + alone.unimodal["b"])


def test_refusals() -> None:
    with pytest.raises(MethodError, match="on_train_epoch_start"):
        made(2).training_step(data(2), sgd(made(2)))
    with pytest.raises(MethodError, match="`stage_epochs`"):
        made(2, stage_epochs=0)
    encoders = {"a": nn.Linear(3, 4), "b": nn.Linear(4, 5)}
    model = MultimodalModel(encoders, Concat({"a": 4, "b": 5}), nn.Linear(9, 3))
    with pytest.raises(ModelError, match="equal feature width"):
        ReconBoost(model, Classification(3))
    equal = MultimodalModel({"a": nn.Linear(3, 4), "b": nn.Linear(4, 4)}, Concat({"a": 4, "b": 4}), nn.Linear(8, 3))
    for task in (Regression(), MultiLabel(3)):
        with pytest.raises((MethodError, UnsupportedError), match="`task`"):
            ReconBoost(equal, task)
