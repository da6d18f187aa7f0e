"""The five ways to unimodal outputs: what defines each, by hand and by axiom, and what each refuses."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from equimodal import Batch, Classification, MultimodalModel
from equimodal.batch import Presence, Tokens
from equimodal.errors import BatchError, MethodError, ModelError, UnsupportedError
from equimodal.fusion import Concat, CrossAttention, FiLM, Fusion, Gated, Late, LateTransformer, LowRank, Sum
from equimodal.methods import Joint
from equimodal.unimodal import Masked, OwnHeads, Prototype, Shapley, Split, UnimodalOutputs, unimodal_outputs
from tests.fusion.test_fusion import NAMES, double

TASK = Classification(3)
COUNTS = (2, 3, 5)
FUSIONS = ("Concat", "Sum", "FiLM", "Gated", "LowRank", "CrossAttention", "Late", "LateTransformer")


def fusion_of(name: str, sizes: Mapping[str, int]) -> Fusion:
    if name == "Late":
        return Late(sizes, 3)
    if name == "CrossAttention":
        return CrossAttention(sizes, 4, 2, 1)
    if name == "LateTransformer":
        return LateTransformer(sizes, 4, 2, 4, 1)
    kinds: dict[str, Any] = {"Concat": Concat, "Sum": Sum, "FiLM": FiLM, "Gated": Gated, "LowRank": LowRank}
    built: Fusion = kinds[name](sizes)
    return built


def model_of(fusion: Fusion, head: nn.Module | None = None, seed: int = 0) -> MultimodalModel:
    torch.manual_seed(seed)
    encoders = {m: nn.Linear(5, 4) for m in fusion.feature_sizes}
    default = nn.Identity() if isinstance(fusion, Late) else nn.Linear(fusion.out_features, 3)
    return MultimodalModel(encoders, double(fusion), default if head is None else head).double()


def features_of(model: MultimodalModel, seed: int = 0) -> tuple[dict[str, Tensor], Presence]:
    g = torch.Generator().manual_seed(seed)
    x = {m: torch.randn(8, 5, generator=g, dtype=torch.float64) for m in model.modalities}
    rows = torch.arange(8)
    present = Presence({m: rows % (i + 2) != i for i, m in enumerate(model.modalities[:2])})
    return model.encode(x, present), present


# ---- split ----------------------------------------------------------------------------------------------------------

AFFINE: dict[str, Any] = {
    "linear": lambda d: nn.Linear(d, 3),
    "no bias": lambda d: nn.Linear(d, 3, bias=False),
    "two": lambda d: nn.Sequential(nn.Linear(d, 7), nn.Identity(), nn.Linear(7, 3)),
}


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", ["Concat", "Sum", "Late"])
@pytest.mark.parametrize("fill", ["zeros", "learnt", "renormalise"])
@pytest.mark.parametrize("head", AFFINE)
def test_split_sums_to_the_fused_output(count: int, name: str, fill: Any, head: str) -> None:
    sizes = dict.fromkeys(NAMES[:count], 4)
    fusion = Late(sizes, 3, fill=fill) if name == "Late" else {"Concat": Concat, "Sum": Sum}[name](sizes, fill)
    model = model_of(fusion, AFFINE[head](fusion.out_features))
    features, present = features_of(model)
    for masks in (None, present):
        parts = Split(model)(features, masks)
        fused = model.head(model.fuse(features, masks))
        assert torch.allclose(torch.stack(list(parts.values())).sum(0), fused, atol=1e-12)


def test_split_by_hand() -> None:
    head = nn.Linear(3, 1)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 2.0, 3.0]]))
        head.bias.fill_(10.0)
    encoders = {"a": nn.Linear(1, 2), "b": nn.Linear(1, 1)}
    model = MultimodalModel(encoders, Concat({"a": 2, "b": 1}), head)
    features = {"a": torch.tensor([[4.0, 5.0]]), "b": torch.tensor([[6.0]])}
    parts = Split(model)(features)
    assert {m: z.item() for m, z in parts.items()} == {"a": 4 + 10 + 5, "b": 18 + 5}
    assert list(Split(model)({"b": features["b"]})) == ["b"]


def test_split_of_maps_and_tokens() -> None:
    head: nn.Module
    for head in (nn.Conv2d(7, 3, 1), nn.Conv2d(7, 3, 3, padding=1)):
        convs = {"a": nn.Conv2d(1, 4, 1), "b": nn.Conv2d(1, 3, 1)}
        model = MultimodalModel(convs, Concat({"a": 4, "b": 3}), head).double()
        features = model.encode({m: torch.randn(2, 1, 6, 6, dtype=torch.float64) for m in convs})
        parts = Split(model)(features)
        assert torch.allclose(parts["a"] + parts["b"], head(model.fuse(features)), atol=1e-12)
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(7, 3)).double()
    model = MultimodalModel(convs, Concat({"a": 4, "b": 3}), pooled)
    parts = Split(model)(features)
    assert torch.allclose(parts["a"] + parts["b"], model.head(model.fuse(features)), atol=1e-12)
    from equimodal.features import affine_head

    g = torch.Generator().manual_seed(0)
    for sequences in ("pool", "time", "aligned"):
        fusion = Concat({"a": 4, "b": 4}, sequences=sequences)
        head = affine_head(fusion.out_features, 3).double()
        model = MultimodalModel({"a": nn.Linear(1, 4), "b": nn.Linear(1, 4)}, fusion, head)
        tokens = {
            m: Tokens.of_lengths(torch.randn(6, 5, 4, generator=g, dtype=torch.float64), torch.arange(6))
            for m in ("a", "b")
        }
        parts = Split(model)(tokens)
        assert torch.allclose(parts["a"] + parts["b"], head(fusion(tokens)), atol=1e-12)


@pytest.mark.parametrize(
    ("fusion", "head"),
    [
        (FiLM({"a": 4, "b": 4}), None),
        (Gated({"a": 4, "b": 4}), None),
        (LowRank({"a": 4, "b": 4}), None),
        (CrossAttention({"a": 4, "b": 4}, 4, 2, 1), None),
        (LateTransformer({"a": 4, "b": 4}, 4, 2, 4, 1), None),
        (Concat({"a": 4, "b": 4}), nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3))),
        (Concat({"a": 4, "b": 4}), nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 3))),
    ],
)
def test_split_refuses_what_has_no_split(fusion: Fusion, head: nn.Module | None) -> None:
    model = model_of(fusion, head)
    with pytest.raises(ModelError, match="can be split exactly. Found"):
        Split(model)


# ---- masked ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", FUSIONS)
def test_masked_is_the_prediction_from_one_modality(count: int, name: str) -> None:
    model = model_of(fusion_of(name, dict.fromkeys(NAMES[:count], 4)))
    g = torch.Generator().manual_seed(1)
    x = {m: torch.randn(8, 5, generator=g, dtype=torch.float64) for m in model.modalities}
    parts = Masked(model)(model.encode(x))
    for m in model.modalities:
        assert torch.allclose(parts[m], model({m: x[m]}), atol=1e-12)
    if name == "Late":  # the mean over what is there is this modality's own output
        own = OwnHeads(model, TASK)(model.encode(x))
        assert all(torch.allclose(parts[m], own[m], atol=1e-12) for m in own)


@pytest.mark.parametrize("name", FUSIONS)
def test_masked_with_absent_modalities_is_finite_and_ignores_others(name: str) -> None:
    model = model_of(fusion_of(name, dict.fromkeys(NAMES[:3], 4)))
    features, present = features_of(model)
    features = {m: h.detach().requires_grad_() for m, h in features.items()}
    parts = Masked(model)(features, present)
    for m, z in parts.items():
        assert torch.isfinite(z).all()
        gradients = torch.autograd.grad(z.sum(), list(features.values()), allow_unused=True, retain_graph=True)
        for other, gradient in zip(features, gradients, strict=True):
            assert other == m or gradient is None or not gradient.any()


def test_masked_baselines() -> None:
    model = model_of(FiLM({"a": 4, "b": 4}, fill="learnt"))
    features, _ = features_of(model)
    zeros = {m: torch.zeros_like(h) for m, h in features.items()}
    by_hand = model.head(model.fuse({"a": features["a"], "b": zeros["b"]}))
    assert torch.allclose(Masked(model, "zeros")(features)["a"], by_hand)
    assert not torch.allclose(Masked(model, "absent")(features)["a"], by_hand)  # the learnt token stands there
    mean = {m: h.mean(0) for m, h in features.items()}
    given = Masked(model, mean)(features)["a"]
    assert torch.allclose(given, model.head(model.fuse({"a": features["a"], "b": mean["b"].expand(8, 4)})))
    for bad in ("ones", {"a": torch.zeros(4)}, {"a": torch.zeros(4), "b": torch.zeros(3)}):
        with pytest.raises(ModelError, match="`baseline`"):
            Masked(model, bad)  # type: ignore[arg-type]


class Join(nn.Module):
    def forward(self, features: dict[str, Tensor], present: object = None) -> Tensor:
        return torch.cat(list(features.values()), dim=1)


def test_a_fusion_that_does_not_say_how_it_fills() -> None:
    model = MultimodalModel({"a": nn.Linear(2, 4), "b": nn.Linear(2, 4)}, Join(), nn.Linear(8, 2))
    for way in (Masked, Shapley):
        with pytest.raises(ModelError, match="attribute `fill`"):
            way(model)
    assert Masked(model, "zeros")(model.encode({m: torch.zeros(3, 2) for m in "ab"}))["a"].shape == (3, 2)


def test_extra_passes_leave_running_statistics_alone() -> None:
    head = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 3))
    model = model_of(Concat({"a": 4, "b": 4}), head).train()
    features, _ = features_of(model)
    before = {n: b.clone() for n, b in model.named_buffers()}
    Masked(model)(features)
    Shapley(model)(features)
    assert all(torch.equal(before[n], b) for n, b in model.named_buffers())
    assert all(m.training for m in model.modules())


# ---- shapley --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", FUSIONS)
def test_shapley_axioms(count: int, name: str) -> None:
    model = model_of(fusion_of(name, dict.fromkeys(NAMES[:count], 4)))
    features, present = features_of(model)
    found = Shapley(model)(features, present)
    nobody = {m: torch.zeros(8, dtype=torch.bool) for m in model.modalities}
    nothing = model.head(model.fuse({m: torch.zeros_like(h) for m, h in features.items()}, nobody))
    everything = model.head(model.fuse(features, present))
    assert torch.allclose(torch.stack(list(found.values())).sum(0), everything - nothing, atol=1e-10)  # efficiency
    for m, mask in present.items():
        assert torch.allclose(found[m][~mask], torch.zeros(1, dtype=torch.float64), atol=1e-12)  # dummy


@pytest.mark.parametrize("count", [2, 3])
def test_shapley_is_the_mean_over_orders(count: int) -> None:
    model = model_of(LowRank(dict.fromkeys(NAMES[:count], 4)))
    features, present = features_of(model)

    def value(subset: tuple[str, ...]) -> Tensor:
        masks = {m: present.get(m, torch.ones(8, dtype=torch.bool)) & (m in subset) for m in model.modalities}
        output: Tensor = model.head(model.fuse(features, masks))
        return output

    expected = {m: torch.zeros(8, 3, dtype=torch.float64) for m in model.modalities}
    for order in itertools.permutations(model.modalities):
        for position, m in enumerate(order):
            expected[m] += (value(order[: position + 1]) - value(order[:position])) / math.factorial(count)
    found = Shapley(model)(features, present)
    for m, z in found.items():
        assert torch.allclose(z, expected[m], atol=1e-12)


def test_shapley_of_an_additive_model_is_the_split_without_the_bias() -> None:
    model = model_of(Concat(dict.fromkeys(NAMES[:3], 4)))
    features, _ = features_of(model)
    bias = model.head.bias
    assert isinstance(bias, Tensor)
    split, shapley = Split(model)(features), Shapley(model)(features)
    assert all(torch.allclose(shapley[m], split[m] - bias / 3, atol=1e-12) for m in split)


def test_shapley_refuses() -> None:
    model = model_of(Concat(dict.fromkeys(NAMES[:5], 4)))
    with pytest.raises(UnsupportedError, match="here 32 for 5 modalities"):
        Shapley(model, most=4)

    class Mean(Join):
        fill = "renormalise"

        def forward(self, features: dict[str, Tensor], present: Any = None) -> Tensor:
            masks = torch.stack([present[m] for m in features]).double()
            return torch.stack(list(features.values())).sum(0) / masks.sum(0)[:, None]

    broken = MultimodalModel({"a": nn.Linear(5, 4), "b": nn.Linear(5, 4)}, Mean(), nn.Linear(4, 3), {"a": 4, "b": 4})
    with pytest.raises(ModelError, match="finite output when every modality is absent"):
        Shapley(broken.double())(features_of(broken)[0])


# ---- prototypes and own heads ---------------------------------------------------------------------------------------


def test_prototypes_by_hand() -> None:
    class Same(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return x + 0 * self.weight.sum()

    model = MultimodalModel({"a": Same(2, 2), "b": Same(2, 2)}, Sum({"a": 2, "b": 2}), nn.Linear(2, 2))
    way = Prototype(model, Classification(2))
    x = {"a": torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 4.0], [9.0, 9.0]]), "b": torch.ones(4, 2)}
    y = torch.tensor([0, 0, 1, 1])
    with pytest.raises(ModelError, match="call fit"):
        way(model.encode(x))
    present = {"a": torch.tensor([True, True, True, False])}
    model.train()
    assert way.fit([Batch({m: v[:2] for m, v in x.items()}, y[:2]), Batch({m: v[2:] for m, v in x.items()}, y[2:], {"a": present["a"][2:]})]) is way  # fmt: skip # noqa: E501
    assert model.training
    assert way.centres("a").tolist() == [[1, 0], [0, 4]]
    assert way.centres("b").tolist() == [[1, 1], [1, 1]]
    z = way({"a": torch.tensor([[1.0, 4.0]])})
    assert z["a"].tolist() == [[-4, -1]]
    other = Prototype(model, Classification(2))
    other.load_state_dict(copy.deepcopy(way.state_dict()))
    assert torch.equal(other({"a": x["a"]})["a"], way({"a": x["a"]})["a"])
    with pytest.raises(ModelError, match=r"every class that have 'a'. Found none of the classes \[1\]"):
        way.fit([Batch(x, torch.zeros(4, dtype=torch.long))])
    with pytest.raises(BatchError, match="at least one training batch"):
        way.fit([])
    with pytest.raises(BatchError, match="class indices"):
        way.fit([Batch(x, torch.eye(2).repeat(2, 1))])

    class Validation(list[Batch]):
        split = type("Split", (), {"part": "validation"})

    with pytest.raises(MethodError, match="Found the validation split"):
        way.fit(Validation([Batch(x, y)]))


def test_own_heads() -> None:
    model = model_of(Gated({"a": 4, "b": 4}))
    heads = {m: nn.Linear(4, 3).double() for m in "ab"}
    features, _ = features_of(model)
    found = OwnHeads(model, TASK, heads)(features)
    assert all(torch.equal(found[m], heads[m](features[m])) for m in "ab")
    assert len(list(OwnHeads(model, TASK).parameters())) == 4
    late = model_of(Late({"a": 4, "b": 4}, 3))
    assert not list(OwnHeads(late, TASK).parameters())  # those of the fusion are used, and stay the model's
    with pytest.raises(ModelError, match="`heads`"):
        OwnHeads(model, TASK, {"a": heads["a"]})


# ---- inside a method ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["split", "masked", "shapley"])
def test_a_method_takes_a_way(way: Any) -> None:
    model = model_of(Concat(dict.fromkeys(NAMES[:3], 4)))
    method = Joint(model, TASK, unimodal=way, inference="uncertainty").double()
    x = {m: torch.randn(5, 5, dtype=torch.float64) for m in model.modalities}
    present = {NAMES[0]: torch.tensor([True, False, True, True, False])}
    found = method.predict(x, present).unimodal
    assert isinstance(method.unimodal, UnimodalOutputs)
    with torch.no_grad():
        expected = method.unimodal(model.encode(x, present), present)
    for m in model.modalities:
        mask = present.get(m, torch.ones(5, dtype=torch.bool))
        assert torch.allclose(found[m][mask], expected[m][mask], atol=1e-12)
        assert not found[m][~mask].any()
    # the way holds the model without owning it
    assert not [n for n in method.state_dict() if n.startswith("unimodal")]
    copied = copy.deepcopy(method)
    assert isinstance(copied.unimodal, UnimodalOutputs)
    assert copied.unimodal.model is copied.model


def test_joint_reads_what_it_is_told_to_read() -> None:
    model = model_of(Gated({"a": 4, "b": 4}))
    x = {m: torch.randn(5, 5, dtype=torch.float64) for m in "ab"}
    assert not Joint(model, TASK).predict(x).unimodal
    with pytest.raises(UnsupportedError, match="unimodal='masked'"):
        Joint(model, TASK, inference="mean")
    for way in ("masked", "shapley", Masked(model, "zeros"), Prototype(model, TASK)):
        if isinstance(way, Prototype):
            way.double().fit([(x, torch.tensor([0, 1, 2, 0, 1]))])
        found = Joint(model, TASK, unimodal=way, inference="mean").predict(x)
        expected = torch.stack([torch.softmax(z, 1) for z in found.unimodal.values()]).mean(0)
        assert torch.allclose(found.probabilities, expected, atol=1e-6)
    with pytest.raises(ModelError, match="can be split exactly"):
        Joint(model, TASK, unimodal="split")


def test_names_and_objects() -> None:
    model, other = model_of(Gated({"a": 4, "b": 4})), model_of(Gated({"a": 4, "b": 4}))
    assert unimodal_outputs(None, model, TASK) is None
    own = Join()
    assert unimodal_outputs(own, model, TASK) is own
    masked = Masked(model)
    assert unimodal_outputs(masked, model, TASK) is masked
    with pytest.raises(ModelError, match="made for this model"):
        unimodal_outputs(masked, other, TASK)
    with pytest.raises(ModelError, match="can be split exactly"):
        unimodal_outputs("split", model, TASK)
    with pytest.raises(UnsupportedError, match="MultiLoss"):
        unimodal_outputs("heads", model, TASK)
    with pytest.raises(UnsupportedError, match="call its fit"):
        unimodal_outputs("prototype", model, TASK)
    with pytest.raises(ModelError, match="Found 'spilt'"):
        unimodal_outputs("spilt", model, TASK)  # type: ignore[arg-type]
    assert isinstance(unimodal_outputs("heads", model_of(Late({"a": 4, "b": 4}, 3)), TASK), OwnHeads)
    with pytest.raises(UnsupportedError, match="Found 'regression'"):
        Prototype(model, type("T", (), {"name": "regression", "outputs": 1})())


def test_batch_norm_with_one_sample_in_a_step() -> None:
    from tests.helpers import announce, sgd

    head = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 3))
    method = Joint(model_of(Concat({"a": 4, "b": 4}), head), TASK)
    batch = Batch({m: torch.zeros(1, 5, dtype=torch.float64) for m in "ab"}, torch.tensor([0]))
    engine = sgd(method)
    announce(method, engine)
    with pytest.raises(BatchError, match=r"`batch \(phase joint\)`: expected at least 2 samples"):
        method.training_step(batch, engine)


def test_addends_of_a_regression_are_no_predictions() -> None:
    from equimodal.tasks import Regression

    model = model_of(Concat({"a": 4, "b": 4}), nn.Linear(8, 1))
    x = {m: torch.randn(5, 5, dtype=torch.float64) for m in "ab"}
    assert not Joint(model, Regression()).predict(x).unimodal
    shares = Joint(model, Regression(), unimodal="split").predict(x)
    assert torch.allclose(shares.unimodal["a"] + shares.unimodal["b"], shares.output, atol=1e-12)
    for options in ({"unimodal": "split"}, {"unimodal": "shapley"}, {}):
        with pytest.raises(UnsupportedError, match="unimodal='masked'"):
            Joint(model, Regression(), inference="mean", **options)  # type: ignore[arg-type]
    masked = Joint(model, Regression(), unimodal="masked", inference="mean").predict(x)
    assert torch.allclose(masked.output, (masked.unimodal["a"] + masked.unimodal["b"]) / 2, atol=1e-12)
    late = model_of(Late({"a": 4, "b": 4}, 1))
    mean = Joint(late, Regression(), inference="mean").predict(x)  # its heads do predict
    assert torch.allclose(mean.output, late(x), atol=1e-12)


def test_the_usual_split_knows_how_absent_modalities_were_filled() -> None:
    model = model_of(Concat({"a": 4, "b": 4}, "renormalise"))
    x = {m: torch.randn(5, 5, dtype=torch.float64) for m in "ab"}
    present = {"b": torch.arange(5) < 2}
    found = Joint(model, TASK).predict(x, present)
    bias = model.head.bias
    assert isinstance(bias, Tensor)
    assert torch.allclose(found.unimodal["a"][2:] + bias / 2, found.output[2:], atol=1e-12)
