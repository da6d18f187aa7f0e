"""AGM: against a loop written out from the equations, its responses, its window, and the regimes at the edge."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any, ClassVar, cast

import pytest
import torch
from torch import Tensor, nn

from equimodal import Batch, Classification, MultimodalModel, PlainEngine
from equimodal.errors import MethodError, ModelError, UnsupportedError
from equimodal.fusion import Concat, Gated
from equimodal.methods import EpochContext, Method, get
from equimodal.tasks import Regression
from tests.helpers import assert_near, sgd, weights
from tests.methods.toys import CLASSES, RATE, WIDTH, features_of, mask_of, small_batch, small_method, small_model


def deep(count: int) -> MultimodalModel:
    """With a head that cannot be split."""
    model = small_model(count)
    head = nn.Sequential(nn.Linear(WIDTH * count, 5), nn.Tanh(), nn.Linear(5, CLASSES))
    encoders = {m: model.encoder(m) for m in model.modalities}
    return MultimodalModel(encoders, Concat(dict.fromkeys(encoders, WIDTH)), head).double()


def responses_of(model: MultimodalModel, batch: Batch) -> dict[str, Tensor]:
    """Mean over all orders of what a modality adds, starting from an output of 0; per sample, over what it has."""
    features = features_of(model, batch)
    names = list(features)
    masks = {m: mask_of(batch, m) for m in names}

    def output(row: int, subset: tuple[str, ...]) -> Tensor:
        if not subset:
            return torch.zeros(CLASSES, dtype=torch.float64)
        parts = [features[m][row] if m in subset else torch.zeros(WIDTH, dtype=torch.float64) for m in names]
        return cast(Tensor, model.head(torch.cat(parts)))

    rows: dict[str, list[Tensor]] = {m: [] for m in names}
    for row in range(len(batch)):
        own = [m for m in names if bool(masks[m][row])]
        orders = list(itertools.permutations(own))
        for m in names:
            terms = [output(row, o[: o.index(m) + 1]) - output(row, o[: o.index(m)]) for o in orders if m in o]
            rows[m].append(torch.stack(terms).mean(0) if terms else torch.zeros(CLASSES, dtype=torch.float64))
    return {m: torch.stack(r) for m, r in rows.items()}


class WrittenOut:
    """The published algorithm with its running means."""

    def __init__(self, model: MultimodalModel, alpha: float) -> None:
        self.model, self.alpha, self.steps = model, alpha, 0
        self.mean = dict.fromkeys(model.modalities, 0.0)

    def step(self, batch: Batch) -> dict[str, float]:
        u = responses_of(self.model, batch)
        target = cast(Tensor, batch.target)
        e = {m: float(nn.functional.cross_entropy(z[mask_of(batch, m)], target[mask_of(batch, m)])) for m, z in
             {m: z.detach() for m, z in u.items()}.items()}  # fmt: skip
        count = len(e)
        r = {m: math.exp(count / (count - 1) * (sum(e.values()) / count - e[m])) for m in e}
        tau = {m: math.exp(count / (count - 1) * (sum(self.mean.values()) / count - self.mean[m])) for m in e}
        kappa = {m: math.exp(self.alpha * min(tau[m] - r[m], 10)) for m in e}
        total = torch.stack(list(u.values())).sum(0)
        residual = torch.autograd.grad(nn.functional.cross_entropy(total, target), total, retain_graph=True)[0]
        surrogate = torch.stack([kappa[m] * (residual * z).sum() for m, z in u.items()]).sum()
        parameters = list(self.model.parameters())
        with torch.no_grad():
            for p, g in zip(parameters, torch.autograd.grad(surrogate, parameters), strict=True):
                p.sub_(RATE * g)
        for m in e:
            self.mean[m] = (self.mean[m] * self.steps + e[m]) / (self.steps + 1)
        self.steps += 1
        return kappa


def engine_for(method: Method) -> PlainEngine:
    return PlainEngine(torch.optim.SGD(method.parameters(), lr=RATE))


def method_on(model: MultimodalModel, **options: Any) -> Any:
    made: Any = get("AGM")
    return made(model, Classification(CLASSES), **options).double().train()


@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize("count", [2, 3])
def test_three_steps_against_the_algorithm_written_out(count: int, absent: bool) -> None:
    method = method_on(deep(count), alpha=8.0)
    reference = WrittenOut(copy.deepcopy(method.model), 8.0)
    engine = engine_for(method)
    for step in range(3):
        batch = small_batch(count, step, absent)
        report = method.training_step(batch, engine)
        kappa = reference.step(batch)
        assert max(abs(k - 1) for k in kappa.values()) > 0.05
        assert {m: float(k) for m, k in report.coefficients["response"].items()} == pytest.approx(kappa, abs=1e-12)
        assert_near(weights(method.model), weights(reference.model), 1e-12)


@pytest.mark.parametrize("pieces", [[(0, 5), (5, 12)], [(0, 1), (1, 7), (7, 12)]])
def test_micro_batches_have_the_factors_of_the_whole_batch(pieces: list[tuple[int, int]]) -> None:
    whole, parts = (method_on(deep(3)) for _ in range(2))
    engines = [engine_for(whole), engine_for(parts)]
    for step in range(2):
        batch = small_batch(3, step)
        whole.training_step(batch, engines[0])
        parts.training_step([batch.select(torch.arange(a, b)) for a, b in pieces], engines[1])
        assert_near(weights(whole), weights(parts), 1e-12)


def test_responses_of_two_modalities_are_the_published_ones() -> None:
    model, batch = deep(2), small_batch(2, 0, absent=False)
    u = responses_of(model, batch)
    h = features_of(model, batch)
    nothing = torch.zeros_like(h["audio"])
    both, audio, video = (
        model.head(torch.cat(pair, 1))
        for pair in ((h["audio"], h["video"]), (h["audio"], nothing), (nothing, h["video"]))
    )
    assert_near({"u": u["audio"]}, {"u": (both - video + audio) / 2}, 1e-12)
    method = method_on(model)
    features = model.encode(batch.inputs)
    found = method._responses(features, model.head(model.fuse(features)), batch)
    assert_near(found, u, 1e-12)


def test_a_linear_head_without_bias_gives_its_split() -> None:
    model = small_model(3)
    head = nn.Linear(3 * WIDTH, CLASSES, bias=False).double()
    encoders = {m: model.encoder(m) for m in model.modalities}
    model = MultimodalModel(encoders, Concat(dict.fromkeys(encoders, WIDTH)), head)
    batch = small_batch(3, 0)
    h = model.encode(batch.inputs, batch.present)
    found = method_on(model)._responses(h, model.head(model.fuse(h, batch.present)), batch)
    blocks = {m: head.weight[:, i * WIDTH : (i + 1) * WIDTH] for i, m in enumerate(encoders)}
    expected = {m: h[m] @ blocks[m].T for m in encoders}
    assert_near(found, expected, 1e-12)


def test_after_the_window_it_is_joint_training() -> None:
    """The released code keeps the last factors in force."""
    method, joint = method_on(deep(2), end=0), small_method("Joint", 2)
    method.training_step(small_batch(2, 0), engine_for(method))
    joint = cast(Any, get("Joint"))(copy.deepcopy(method.model), Classification(CLASSES)).double()
    method.on_train_epoch_start(EpochContext(1))
    batch = small_batch(2, 1)
    report = method.training_step(batch, engine_for(method))
    joint.training_step(batch, engine_for(joint))
    assert "response" not in report.coefficients
    assert_near(weights(method.model), weights(joint.model), 0.0)


def test_before_the_window_only_the_means_go_on() -> None:
    method = method_on(deep(2), start=1)
    joint: Any = cast(Any, get("Joint"))(copy.deepcopy(method.model), Classification(CLASSES)).double()
    batch = small_batch(2, 0)
    method.training_step(batch, engine_for(method))
    joint.training_step(batch, engine_for(joint))
    assert_near(weights(method.model), weights(joint.model), 1e-14)
    assert method.steps.tolist() == [1, 1]
    assert (method.averages < 0).all()


def test_a_modality_that_nobody_has_keeps_its_mean() -> None:
    method = method_on(deep(3))
    batch = small_batch(3, 0, absent=False)
    nobody = torch.zeros(12, dtype=torch.bool)
    engine = engine_for(method)
    method.training_step(batch, engine)
    before = method.averages.clone()
    report = method.training_step(Batch(batch.inputs, batch.target, {"audio": nobody}), engine)
    assert method.steps.tolist() == [1, 2, 2]
    assert method.averages[0] == before[0]
    assert float(report.coefficients["response"]["audio"]) == 1
    alone = Batch(batch.inputs, batch.target, {"audio": nobody, "video": nobody})
    report = method.training_step(alone, engine)
    assert [float(k) for k in report.coefficients["response"].values()] == [1, 1, 1]


def test_a_regression_is_scored_by_what_each_modality_predicts() -> None:
    """l = -log(mean error) of the output with the other modality absent; r is the ratio of the errors."""
    encoders = {"a": nn.Linear(1, 1, bias=False), "b": nn.Linear(1, 1, bias=False)}
    model = MultimodalModel(encoders, Concat({"a": 1, "b": 1}), nn.Linear(2, 1)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(1.0)
        model.head.bias.zero_()  # type: ignore[operator]
    made: Any = get("AGM")
    method = made(model, Regression(), alpha=2.0).double()
    batch = Batch(
        {"a": torch.tensor([[1.0], [2.0]]).double(), "b": torch.full((2, 1), 0.5).double()},
        torch.tensor([2.0, 3.0]).double(),
    )
    report = method.training_step(batch, engine_for(method))
    # errors: a alone predicts 1, 2: 1; b alone 0.5: (1.5 + 2.5) / 2 = 2; r = (2, 1/2), tau = 1
    kappa = {m: float(k) for m, k in report.coefficients["response"].items()}
    assert kappa == pytest.approx({"a": math.exp(-2), "b": math.exp(1)}, abs=1e-12)


def test_refusals() -> None:
    for options in ({"alpha": 0}, {"cap": 0}, {"start": -1}, {"end": 0.5}):
        with pytest.raises(MethodError, match=f"`{next(iter(options))}`"):
            small_method("AGM", 2, **options)

    class Unfilled(nn.Module):
        feature_sizes: ClassVar[dict[str, int]] = {"audio": WIDTH, "video": WIDTH}

        def forward(self, features: Any, present: Any) -> Tensor:
            return torch.cat(list(features.values()), 1)

    model = small_model(2)
    encoders = {m: model.encoder(m) for m in model.modalities}
    with pytest.raises(ModelError, match="`fusion`.*fill"):
        method_on(MultimodalModel(encoders, Unfilled(), nn.Linear(8, CLASSES)))
    many = {str(i): nn.Linear(2, 2) for i in range(7)}
    with pytest.raises(UnsupportedError, match="128 for 7 modalities"):
        method_on(MultimodalModel(many, Concat(dict.fromkeys(many, 2)), nn.Linear(14, CLASSES)))


def test_a_gated_fusion_trains() -> None:
    model = small_model(2)
    encoders = {m: model.encoder(m) for m in model.modalities}
    gated = Gated({"audio": WIDTH, "video": WIDTH})
    method = method_on(MultimodalModel(encoders, gated, nn.Linear(gated.out_features, CLASSES)))
    report = method.training_step(small_batch(2, 0), sgd(method))
    assert set(report.coefficients["response"]) == {"audio", "video"}
