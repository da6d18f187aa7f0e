"""CGGM's bounded balance rule: the formula with numbers by hand, its place in the method, and what it is for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from equimodal import Classification, MultimodalModel, PlainEngine, Regression
from equimodal.data import SyntheticDataset, loader, synthetic
from equimodal.diagnostics import evaluate
from equimodal.errors import MethodError
from equimodal.functional import balance_terms, bounded_balance
from equimodal.fusion import Concat
from equimodal.methods import CGGM, EpochContext, Joint, Method, StepReport


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_numbers_by_hand() -> None:
    """Three modalities, e = 2/3; the first is held back, the other two are favoured by 0.1 and 0.2.

    r = (1/4)(1/2) = 1/8 and (1/2)(1) = 1/2, so they are favoured by 0.0125 and 0.1, and the first gives these 0.1125.
    """
    e = 2 / 3
    balance = tensor(e - 0.3, e + 0.1, e + 0.2)
    found = bounded_balance(balance, gain=tensor(0.4, 0.1, 0.2), headroom=tensor(0.2, 0.3, 0.6), ratio=10.0)
    assert found.tolist() == pytest.approx([e - 0.1125, e + 0.0125, e + 0.1], abs=1e-12)


def test_the_ratio_by_hand() -> None:
    """(0.2, 0.8) with ratio 2: 0.2 is raised to 0.4, and 1.2 is rescaled to 1."""
    found = bounded_balance(tensor(0.2, 0.8), gain=tensor(1.0, 1.0), headroom=tensor(1.0, 1.0), ratio=2.0)
    assert found.tolist() == pytest.approx([1 / 3, 2 / 3], abs=1e-12)
    equal = bounded_balance(tensor(0.2, 0.8), gain=tensor(1.0, 1.0), headroom=tensor(1.0, 1.0), ratio=1.0)
    assert equal.tolist() == pytest.approx([0.5, 0.5], abs=1e-12)


@pytest.mark.parametrize(
    ("gain", "headroom"),
    [
        ((0.3, 0.0), (0.5, 0.7)),  # noise: it has gained nothing
        ((0.3, -0.1), (0.5, 0.7)),
        ((0.3, 0.3), (0.5, 0.0)),  # it has nothing left to gain
        ((0.0, 0.0), (0.5, 0.5)),  # nobody has gained anything yet
        ((-0.1, 0.0), (0.0, 0.0)),
    ],
)
def test_who_can_gain_nothing_is_not_favoured(gain: tuple[float, float], headroom: tuple[float, float]) -> None:
    found = bounded_balance(tensor(0.05, 0.95), gain=tensor(*gain), headroom=tensor(*headroom))
    assert found.tolist() == [0.5, 0.5]  # exactly


def test_the_paper_rule_where_all_can_gain_alike() -> None:
    balance = balance_terms(tensor(0.03, 0.02, 0.025), floor=1e-6)
    same = tensor(0.5, 0.5, 0.5)
    assert torch.allclose(bounded_balance(balance, same, same, ratio=1e6), balance, atol=1e-12, rtol=0)


def test_sum_and_ratio_hold_whatever_comes_in() -> None:
    generator = torch.Generator().manual_seed(0)
    for count in (2, 3, 6):
        for _ in range(50):
            balance = balance_terms(torch.randn(count, generator=generator, dtype=torch.float64).clamp_min(0))
            gain, headroom = torch.randn(2, count, generator=generator, dtype=torch.float64)
            found = bounded_balance(balance, gain, headroom, ratio=3.0)
            assert float(found.sum()) == pytest.approx(count - 1, abs=1e-9)
            assert float(found.max() / found.min()) <= 3.0 + 1e-9


def test_refusals() -> None:
    with pytest.raises(MethodError, match=r"`balance`, `gain`, `headroom`: expected shape \(M,\)"):
        bounded_balance(tensor(0.5, 0.5), tensor(0.1), tensor(0.1, 0.1))
    with pytest.raises(MethodError, match="`ratio`: expected a number >= 1. Found 0.5"):
        bounded_balance(tensor(0.5, 0.5), tensor(0.1, 0.2), tensor(0.1, 0.1), ratio=0.5)
    with pytest.raises(MethodError, match="`ratio`"):
        CGGM(model(), Classification(2), ratio=0.9)


def model(outputs: int = 2, sizes: tuple[int, int] = (3, 4)) -> MultimodalModel:
    encoders = {"a": nn.Linear(sizes[0], 4), "b": nn.Linear(sizes[1], 4)}
    return MultimodalModel(encoders, Concat({"a": 4, "b": 4}), nn.Linear(8, outputs))


@pytest.mark.parametrize("task", [Classification(2), Regression()])
def test_the_method_uses_the_gain_since_the_first_window(task: Classification | Regression) -> None:
    """Sums of the classifiers' scores are put in by hand; B is that of the formula on the same numbers."""
    method = CGGM(model(task.outputs), task, variant="bounded", window=1, momentum=0.0, ratio=1.5)
    progress, engine = method.progress, PlainEngine(torch.optim.SGD(method.parameters(), lr=0.1))
    series = [(0.30, 0.25), (0.50, 0.30), (0.55, 0.45)]
    best = 1.0
    if isinstance(task, Regression):
        series, best = [(a - 1, b - 1) for a, b in series], 0.0
    report = StepReport()
    for a, b in series:
        sums = {"numerator/a": tensor(8 * a), "denominator/a": tensor(8), "numerator/b": tensor(8 * b),
                "denominator/b": tensor(8)}  # fmt: skip
        progress.update(sums, engine, report)
    first, before, last = (tensor(*s) for s in series[:1] + series[1:])
    improvement = last - before
    if isinstance(task, Regression):
        improvement = improvement / last.abs().mean()
    expected = bounded_balance(balance_terms(improvement, floor=1e-3), last - first, best - last, 1.5)
    assert progress.balance.tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    assert float((progress.balance - 0.5).abs().max()) > 0.01


def test_the_first_score_is_part_of_the_state_of_this_variant_alone() -> None:
    assert "progress.first" in CGGM(model(), Classification(2), variant="bounded").state_dict()
    assert "progress.first" not in CGGM(model(), Classification(2)).state_dict()


def test_a_neutral_rho_for_any_number_of_modalities() -> None:
    assert CGGM(model(), Classification(2), rho=None).rho == 2.0


def score(method: Method, data: SyntheticDataset, seed: int) -> float:
    """Test score after a short training with AdamW."""
    engine = PlainEngine(torch.optim.AdamW(method.parameter_groups(2e-3), lr=2e-3))
    batches = loader(data.train, 64, shuffle=True, seed=seed, drop_last=True)
    for epoch in range(8):
        method.train()
        method.on_train_epoch_start(EpochContext(epoch, epochs=8, steps=len(batches), loader=batches, engine=engine))
        for batch in batches:
            method.training_step(batch, engine)
    return evaluate(method, loader(data.test, 512)).score


def test_one_good_modality_and_one_of_noise() -> None:
    """The paper's rule holds the good one back for the other; bounded training is within two points of joint."""
    data = synthetic(2, regime="noise", speed=[0.3, 1.0], train=1000, validation=10, test=1000)
    totals = dict.fromkeys(("joint", "paper", "bounded"), 0.0)
    for seed in range(3):
        for name in totals:
            torch.manual_seed(seed)
            encoders = {m: nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 16)) for m in data.modalities}
            body = MultimodalModel(encoders, Concat(dict.fromkeys(encoders, 16)), nn.Linear(32, 4))
            method: Method = Joint(body, data.task)
            if name == "paper":
                method = CGGM(body, data.task)
            elif name == "bounded":
                method = CGGM(body, data.task, variant="bounded", rho=None)
            totals[name] += score(method, data, seed) / 3
    assert totals["bounded"] > totals["joint"] - 0.02
    assert totals["paper"] < totals["joint"] - 0.05
