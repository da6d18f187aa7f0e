"""ExpertPool against a loop that is written out, its members, and what is saved and exported of them."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from equimodal import Batch, Classification, MultiLabel, MultimodalModel, PlainEngine, Regression, Segmentation
from equimodal.batch import Tokens
from equimodal.errors import EquimodalWarning, MethodError, ModelError
from equimodal.export import InferenceModel
from equimodal.functional import fuse_gaussians
from equimodal.fusion import Concat, LateTransformer, LowRank
from equimodal.methods import EpochContext, ExpertPool
from equimodal.methods.parts import Members, mean_output, redrawn
from tests.methods.toys import CLASSES, RATE, SIZES, WIDTH, features_of, mask_of, small_batch, small_model

SMOOTHING = 0.1


def pool(count: int = 2, seed: int = 0, **options: Any) -> ExpertPool:
    model = small_model(count, seed)
    return ExpertPool(model, Classification(CLASSES), **options).double().train()


def smooth_loss(z: Tensor, y: Tensor) -> Tensor:
    """The docstring's formula, sample by sample."""
    total = torch.zeros((), dtype=z.dtype)
    for row, label in zip(z, y.tolist(), strict=True):
        log_p = row - row.exp().sum().log()
        total = total - (1 - SMOOTHING) * log_p[label] - SMOOTHING * log_p.mean()
    return total / len(z)


@pytest.mark.parametrize(("count", "absent"), [(2, False), (2, True), (3, True)])
def test_three_steps_are_those_of_a_plain_loop(count: int, absent: bool) -> None:
    method, twin = pool(count, weight=0.7), pool(count)
    twin.load_state_dict(method.state_dict())
    engine = PlainEngine(torch.optim.SGD(method.parameters(), lr=RATE))
    model: Any = twin.model
    heads: Any = twin.heads[0]
    for step in range(3):
        batch = small_batch(count, step, absent)
        method.training_step(batch, engine)
        features, y = features_of(model, batch), batch.target
        assert y is not None
        loss = smooth_loss(torch.cat(list(features.values()), 1) @ model.head.weight.T + model.head.bias, y)
        for m, h in features.items():
            mask = mask_of(batch, m)
            loss = loss + 0.7 * smooth_loss(heads[m](h[mask]), y[mask])
        own = [p for p in twin.parameters() if p.requires_grad]
        for p, g in zip(own, torch.autograd.grad(loss, own), strict=True):
            p.data -= RATE * g
        for (name, p), q in zip(method.named_parameters(), twin.parameters(), strict=True):
            assert torch.allclose(p, q, atol=1e-12, rtol=0), name


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_weight_that_grows(epochs: int) -> None:
    """Each epoch is a step with the constant weight of that epoch: 0, 0.35, 0.7; of a single epoch the whole."""
    method = pool(2, weight=0.7, schedule="growing")
    with pytest.raises(MethodError, match="needs to know the epoch"):
        method.training_step(small_batch(2, 0), PlainEngine(torch.optim.SGD(method.parameters(), lr=RATE)))
    with pytest.raises(MethodError, match=r"`context.epochs`"):
        method.on_train_epoch_start(EpochContext(0))
    engine = PlainEngine(torch.optim.SGD(method.parameters(), lr=RATE))
    for epoch in range(epochs):
        twin = pool(2, weight=0.7 if epochs == 1 else 0.35 * epoch)
        twin.load_state_dict(method.state_dict() | {"_extra_state": twin.get_extra_state()})
        method.on_train_epoch_start(EpochContext(epoch, epochs=epochs))
        method.training_step(small_batch(2, epoch), engine)
        twin.training_step(small_batch(2, epoch), PlainEngine(torch.optim.SGD(twin.parameters(), lr=RATE)))
        for (name, p), q in zip(method.named_parameters(), twin.parameters(), strict=True):
            assert torch.allclose(p, q, atol=1e-12, rtol=0), name
    again = pool(2, weight=0.7, schedule="growing")
    again.load_state_dict(method.state_dict())
    assert again.share == method.share == 1


def test_the_weight_grows_by_itself_in_segmentation_only() -> None:
    segmentation: Any = ExpertPool(small_model(2), Segmentation(2))
    assert segmentation.share is None
    assert pool(2).share == 1
    assert ExpertPool(small_model(2), Segmentation(2), schedule="constant").share == 1


def test_two_members_are_two_trainings_on_the_same_batches() -> None:
    """Clipping included: each member has a step of its own."""
    both: Any = pool(2, members=2)
    alone: list[Any] = [pool(2), pool(2)]
    for one, model, heads in zip(alone, both.model.members, both.heads, strict=True):
        one.model.load_state_dict(model.state_dict())
        one.heads[0].load_state_dict(heads.state_dict())
    methods = [both, *alone]
    engines = [PlainEngine(torch.optim.Adam(m.parameters(), lr=0.05), clip_norm=0.5) for m in methods]
    for step in range(4):
        for method, engine in zip(methods, engines, strict=True):
            report = method.training_step(small_batch(2, step), engine)
        if step == 0:
            assert report.phases == ["joint"]
    for one, model, heads in zip(alone, both.model.members, both.heads, strict=True):
        for p, q in zip([*model.parameters(), *heads.parameters()], one.parameters(), strict=True):
            assert torch.equal(p, q)
    batch = small_batch(2, 9)
    found, expected = both.eval().outputs(batch.inputs, batch.present), [
        one.eval().outputs(batch.inputs, batch.present) for one in alone
    ]  # fmt: skip
    assert torch.allclose(found[0], (expected[0][0] + expected[1][0]) / 2, atol=1e-12)
    for m, z in found[1].items():
        mask = mask_of(batch, m)
        assert torch.allclose(z[mask], (expected[0][1][m] + expected[1][1][m])[mask] / 2, atol=1e-12)


def test_equal_weights_are_the_pool_of_all_experts_of_both_members() -> None:
    """softmax of the mean of the log-probabilities of 2 (M + 1) experts, written out."""
    both: Any = pool(2, members=2).eval()
    batch = small_batch(2, 1, absent=False)
    logs = []
    for member, heads in zip(both.model.each(), both.heads, strict=True):
        features = member.encode(batch.inputs)
        logs += [member.head(member.fuse(features)), *heads(features).values()]
    expected = torch.stack([torch.log_softmax(z, 1) for z in logs]).mean(0)
    found = both.predict(batch.inputs)  # before it is fitted weights are equal
    assert torch.allclose(found.probabilities, torch.softmax(expected, 1), atol=1e-12)


def test_means_of_each_kind_of_output() -> None:
    z = [torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 2.0]])]
    assert mean_output(z, "point").tolist() == [[2.0, 1.0]]
    gaussian = mean_output(z, "gaussian")
    # (1 + e^2) / 2 within, and 1 between
    assert gaussian[0, 0] == 2.0
    assert float(gaussian[0, 1].exp()) == pytest.approx((1 + torch.e**2) / 2 + 1, rel=1e-6)
    assert torch.equal(gaussian, fuse_gaussians(dict(zip("ab", z, strict=True)), None, "mean")[0])
    assert mean_output(z[:1], "categorical") is z[0]


def test_features_of_every_kind_are_joined_and_shared_again() -> None:
    class Fixed(nn.Module):
        modalities, feature_sizes = ("v", "t", "m", "s"), {"v": 2, "t": 3, "m": 2, "s": (1, 2)}

        def __init__(self, seed: int) -> None:
            super().__init__()
            g = torch.Generator().manual_seed(seed)

            def draw(*shape: int) -> Tensor:
                return torch.randn(*shape, generator=g)

            mask = torch.tensor([[True, False], [True, True]])
            self.features = {
                "v": draw(2, 2), "t": Tokens(draw(2, 2, 3), mask), "m": draw(2, 2, 3, 3),
                "s": (draw(2, 1, 4, 4), draw(2, 2, 2, 2)),
            }  # fmt: skip
            self.head = nn.Identity()

        def encode(self, inputs: Any, present: Any = None, modalities: Any = None) -> Any:
            return self.features

        def fuse(self, features: Any, present: Any = None) -> Any:
            return features["v"]

        def parameters_of(self, modality: str) -> list[nn.Parameter]:
            return []

    models: list[Any] = [Fixed(0), Fixed(1)]
    both = Members(models, "categorical")
    assert both.feature_sizes == {"v": 4, "t": 6, "m": 4, "s": (2, 4)}
    joined = both.encode({})
    assert joined["v"].shape == (2, 4)
    assert joined["t"].values.shape == (2, 2, 6)
    assert [f.shape[1] for f in joined["s"]] == [2, 4]
    for model, share in zip(models, both.shares(joined), strict=True):
        assert torch.equal(share["v"], model.features["v"])
        assert all(torch.equal(a, b) for a, b in zip(share["t"], model.features["t"], strict=True))
        assert torch.equal(share["m"], model.features["m"])
        assert all(torch.equal(a, b) for a, b in zip(share["s"], model.features["s"], strict=True))
    assert torch.equal(both({}), (models[0].features["v"] + models[1].features["v"]) / 2)


# ---- drawing anew ----------------------------------------------------------------------------------------------------


def test_copies_draw_every_layer_anew_and_leave_the_original() -> None:
    sizes = {"a": 4, "b": 3}
    fusions = [LowRank(sizes, out_features=4), LateTransformer(sizes, width=4, heads=2, hidden=4, layers=1)]
    for fusion in fusions:
        body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.GELU())
        model = MultimodalModel({"a": body, "b": nn.Linear(5, 3)}, fusion, nn.Linear(4, 2))
        body.get_buffer("1.running_mean").fill_(7.0)
        before = copy.deepcopy(model.state_dict())
        copied: Any = redrawn(model)
        assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
        for (name, p), q in zip(model.named_parameters(), copied.parameters(), strict=True):
            constant = bool((p == p.flatten()[0]).all())
            assert bool((p != q).any()) != constant, name
        assert copied.get_buffer("encoders.0.1.running_mean").tolist() == [0.0] * 4


def test_attention_keeps_its_own_way_of_drawing() -> None:
    attention: Any = redrawn(nn.MultiheadAttention(4, 2))
    assert attention.get_parameter("out_proj.bias").tolist() == [0.0] * 4


def test_frozen_and_pretrained_parts_are_copied_as_they_are() -> None:
    loaded, frozen, own = nn.Linear(3, 2), nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 2)
    loaded.pretrained = True  # type: ignore[assignment]
    copied: Any = redrawn(nn.Sequential(loaded, frozen, own))
    same = [torch.equal(a, b) for a, b in zip([loaded.weight, frozen.weight, own.weight],
                                             [m.weight for m in copied], strict=True)]  # fmt: skip
    assert same == [True, True, False]
    assert copied[0] is not loaded


class Token(nn.Module):
    out_features = 2

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.token = nn.Parameter(value)

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :2] + self.token


def test_a_layer_that_nobody_can_draw_is_refused_by_name() -> None:
    model = MultimodalModel({"a": Token(torch.randn(2))}, Concat({"a": 2}), nn.Linear(2, 2))
    with pytest.raises(ModelError, match=r"Found none in `model.encoders.0`, a Token. .*models=\[...\]"):
        ExpertPool(model, Classification(2), members=2)
    ExpertPool(model, Classification(2), members=2, models=[copy.deepcopy(model)])
    constant = MultimodalModel({"a": Token(torch.zeros(2))}, Concat({"a": 2}), nn.Linear(2, 2))
    ExpertPool(constant, Classification(2), members=2)


def test_models_that_are_given() -> None:
    with pytest.raises(MethodError, match="`models`: expected 1, the further members of members=2. Found 2"):
        pool(2, members=2, models=[small_model(2), small_model(2)])
    with pytest.raises(MethodError, match="`models`: expected 0"):
        pool(2, models=[small_model(2)])
    with pytest.raises(ModelError, match=r"`models`: expected the modalities \['audio', 'video'\] in each"):
        pool(2, members=2, models=[small_model(3)])
    with pytest.raises(ModelError, match="Found Linear as number 2"):
        pool(2, members=2, models=[nn.Linear(2, 2)])


def test_heads_that_are_given_are_drawn_anew_for_the_other_member() -> None:
    heads = {m: nn.Linear(WIDTH, CLASSES) for m in list(SIZES)[:2]}
    both: Any = pool(2, members=2, heads=heads)
    assert both.heads[0]["audio"] is heads["audio"]
    assert not torch.equal(both.heads[1]["audio"].weight, both.heads[0]["audio"].weight)


# ---- smoothing -------------------------------------------------------------------------------------------------------


def test_where_labels_are_smoothed() -> None:
    model = small_model(2)
    task = Classification(CLASSES, class_weight=[1.0, 2.0, 3.0])
    method: Any = ExpertPool(model, task)
    assert task.label_smoothing == 0  # the user's task, which judges, stays
    assert method.loss_task.label_smoothing == 0.1
    method.double()
    assert method.loss_task.class_weight.dtype == torch.float64
    assert not [n for n in method.state_dict() if "smoothed" in n]
    own = Classification(CLASSES, label_smoothing=0.3)
    assert ExpertPool(small_model(2), own).loss_task is own
    for other in (Regression(CLASSES), MultiLabel(CLASSES)):
        assert ExpertPool(small_model(2), other).loss_task is other


# ---- one object ------------------------------------------------------------------------------------------------------


def trained(**options: Any) -> tuple[ExpertPool, Batch]:
    method = pool(2, **options)
    engine = PlainEngine(torch.optim.SGD(method.parameters(), lr=RATE))
    for step in range(10):
        method.training_step(small_batch(2, step), engine)
    validation = [small_batch(2, seed) for seed in range(50, 60)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EquimodalWarning)
        method.fit_inference(validation)
    return method, validation[0]


def test_one_state_holds_both_members_once() -> None:
    method, batch = trained(members=2)
    other = pool(2, seed=3, members=2)
    other.load_state_dict(method.state_dict())
    a, b = (m.predict(batch.inputs, batch.present) for m in (method, other))
    assert a.rule == "skill"
    assert torch.equal(a.output, b.output)
    tensors = [t.data_ptr() for t in method.state_dict().values() if isinstance(t, Tensor) and t.numel()]
    assert len(set(tensors)) == len(tensors)


def test_one_file_of_both() -> None:
    method, batch = trained(members=2)
    exported = InferenceModel(method, batch.inputs)
    inputs = {m: torch.where(mask_of(batch, m)[:, None], x, 0.0) for m, x in batch.inputs.items()}
    present = {m: mask_of(batch, m) for m in inputs}
    found = exported(inputs, present)["output"]
    assert torch.allclose(found, method.predict(batch.inputs, batch.present).output, atol=1e-10)
    program = torch.export.export(exported, (inputs, present))
    assert torch.allclose(program.module()(inputs, present)["output"], found, atol=1e-10)


def test_any_subset_at_prediction_time() -> None:
    method, batch = trained(members=2)
    audio = method.predict({"audio": torch.nan_to_num(batch.inputs["audio"])})
    assert bool(torch.isfinite(audio.output).all())
    assert "video" not in audio.weights or float(audio.weights["video"].max()) == 0.0
