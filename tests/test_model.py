"""The model: encoders, presence, names as free text, and fusion."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from equimodal import Multimodal, MultimodalModel
from equimodal.errors import BatchError, ModelError
from equimodal.fusion import Concat, Sum
from tests.helpers import CLASSES, NAMES, WIDTH, make_batch, make_encoders, make_model, weights


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_forward_with_mixed_encoders_and_awkward_names(count: int) -> None:
    model, batch = make_model(count), make_batch(count)
    typed: Multimodal = model  # a type checker sees that the protocol is met
    assert typed.modalities == model.modalities
    assert model.modalities == NAMES[:count]
    assert model(batch.inputs).shape == (12, CLASSES)
    features = model.encode(batch.inputs)
    assert list(features) == list(NAMES[:count])
    by_hand = model.head(torch.cat([model.encoder(m)(batch.inputs[m]) for m in model.modalities], dim=1))
    assert torch.equal(model(batch.inputs), by_hand)


def test_state_survives_a_round_trip_with_awkward_names() -> None:
    model, other = make_model(5), make_model(5, seed=1)
    other.load_state_dict(model.state_dict())
    x = make_batch(5).inputs
    assert torch.equal(model(x), other(x))


def test_parameters_belong_to_modalities_by_object() -> None:
    model = make_model(5)
    for m in model.modalities:
        assert {id(p) for p in model.parameters_of(m)} == {id(p) for p in model.encoder(m).parameters()}
    shared = [p for m in model.modalities for p in model.parameters_of(m)]
    assert len({id(p) for p in shared}) == len(shared)
    wrapped = nn.Sequential(model.encoder("keys"))  # wrapping changes names, not objects
    again = MultimodalModel({"keys": wrapped}, Concat({"keys": WIDTH}), nn.Linear(WIDTH, 2))
    assert [id(p) for p in again.parameters_of("keys")] == [id(p) for p in model.parameters_of("keys")]
    with pytest.raises(BatchError, match="`modality`"):
        model.parameters_of("nobody")


@pytest.mark.parametrize("content", [0.0, math.nan, math.inf, 1e30])
def test_absent_content_changes_nothing(content: float) -> None:
    model, batch = make_model(3), make_batch(3)
    absent = torch.tensor([True, False, False] * 4)
    x = {m: v.clone() for m, v in batch.inputs.items()}
    reference = {m: v.clone() for m, v in x.items()}
    x["the keys"][absent] = content
    reference["the keys"][absent] = 0.0
    present = {"the keys": ~absent}
    ours, theirs = model(x, present), model(reference, present)
    assert torch.equal(ours, theirs)
    features = model.encode(x, present)["the keys"]
    assert (features[absent] == 0).all()
    alone = model.encoder("the keys")(x["the keys"][~absent])
    assert torch.equal(features[~absent], alone)
    ours.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_a_modality_absent_everywhere_or_left_out() -> None:
    model, batch = make_model(3), make_batch(3)
    nobody = {"keys": torch.zeros(12, dtype=torch.bool)}
    left_out = {m: v for m, v in batch.inputs.items() if m != "keys"}
    assert torch.equal(model(batch.inputs, nobody), model(left_out))
    assert model.encode(left_out).keys() == left_out.keys()
    with pytest.raises(BatchError, match="expected an entry for"):
        model.encode(left_out, None, ["keys"])


def test_only_present_rows_are_encoded() -> None:
    seen: list[int] = []
    model, batch = make_model(2), make_batch(2)
    model.encoder("the keys").register_forward_pre_hook(lambda _, x: seen.append(len(x[0])))
    present = torch.arange(12) < 5
    model(batch.inputs, {"the keys": present})
    model(batch.inputs, {"the keys": present & False})
    model(batch.inputs, {"the keys": present | True})
    assert seen == [5, 12]


def test_unknown_modality() -> None:
    with pytest.raises(BatchError, match=r"unknown \['smell'\]"):
        make_model(2)({**make_batch(2).inputs, "smell": torch.zeros(12, 1)})


def test_an_encoder_without_parameters_is_refused() -> None:
    with pytest.raises(ModelError, match=r"`encoders\['b'\]`: expected a module with parameters"):
        MultimodalModel({"a": nn.Linear(1, 2), "b": nn.Flatten()}, Concat({"a": 2, "b": 2}), nn.Linear(4, 2))


def test_shared_parameters_are_refused() -> None:
    shared = nn.Linear(2, 2)
    with pytest.raises(ModelError, match=r"`encoders\['b'\]`.*shared with 'a'"):
        MultimodalModel({"a": shared, "b": nn.Sequential(shared)}, Sum({"a": 2, "b": 2}), nn.Linear(2, 2))


def test_feature_sizes() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.layer(x)
            return out

    join = _Join()
    with pytest.raises(ModelError, match="`feature_sizes`: the width of 'a'"):
        MultimodalModel({"a": Own()}, join, nn.Linear(4, 2))
    assert MultimodalModel({"a": Own()}, join, nn.Linear(4, 2), {"a": 4}).feature_sizes == {"a": 4}
    assert MultimodalModel({"a": nn.Linear(3, 4)}, join, nn.Linear(4, 2)).feature_sizes == {"a": 4}
    with pytest.raises(ModelError, match="unknown"):
        MultimodalModel({"a": Own()}, join, nn.Linear(4, 2), {"a": 4, "b": 4})
    wrong = MultimodalModel({"a": Own()}, Concat({"a": 5}), nn.Linear(5, 2))
    with pytest.raises(ModelError, match=r"`encoders\['a'\]`: expected features of shape \(7, 5\). Found \(7, 4\)"):
        wrong({"a": torch.zeros(7, 3)})
    with pytest.raises(ModelError, match="`encoders`"):
        MultimodalModel({}, join, nn.Linear(1, 1))


class _Join(nn.Module):
    def forward(self, features: dict[str, Tensor], present: object = None) -> Tensor:
        return torch.cat(list(features.values()), dim=1)


def test_an_encoder_that_returns_no_tensor() -> None:
    class Raw(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(2, 3, batch_first=True)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            out: tuple[Tensor, Tensor] = self.gru(x)
            return out

    model = MultimodalModel({"a": Raw()}, Concat({"a": 3}), nn.Linear(3, 2))
    with pytest.raises(ModelError, match="Found tuple"):
        model({"a": torch.zeros(2, 4, 2)})


def test_batch_norm_with_one_sample() -> None:
    encoder = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    model = MultimodalModel({"a.b": encoder}, Concat({"a.b": 4}), nn.Linear(4, 2))
    with pytest.raises(BatchError, match=r"`inputs\['a\.b'\]`: expected at least 2 samples"):
        model({"a.b": torch.zeros(1, 3)})
    with pytest.raises(BatchError, match="at least 2 samples"):  # one present row of three
        model({"a.b": torch.zeros(3, 3)}, {"a.b": torch.tensor([True, False, False])})
    assert model.eval()({"a.b": torch.zeros(1, 3)}).shape == (1, 2)


def test_concat_and_sum_by_hand() -> None:
    sizes = {"a": 2, "b": 1}
    h = {"b": torch.tensor([[5.0], [6.0]]), "a": torch.tensor([[1.0, 2.0], [3.0, 4.0]])}
    assert Concat(sizes)(h).tolist() == [[1, 2, 5], [3, 4, 6]]  # in the order of the sizes, not of the features
    assert Concat(sizes).columns("b") == slice(2, 3)
    assert Concat(sizes).out_features == 3
    total = Sum({"a": 2, "c": 2})
    assert total({"a": h["a"], "c": 10 * h["a"]}).tolist() == [[11, 22], [33, 44]]
    assert total.out_features == 2
    for fusion in (Concat(sizes), total):
        with pytest.raises(ModelError, match="`features`"):
            fusion({"z": h["a"]})
        with pytest.raises(ModelError, match="`features`"):
            fusion({})
    with pytest.raises(ModelError, match=r"`features\['a'\]`"):
        Concat(sizes)({"a": torch.zeros(2, 3), "b": torch.zeros(2, 1)})
    with pytest.raises(ModelError, match="one width"):
        Sum(sizes)
    with pytest.raises(ModelError, match="`modality`"):
        Concat(sizes).columns("z")
    for bad in ({}, {"a": 0}, {"a": 1.5}):
        with pytest.raises(ModelError, match="`feature_sizes`"):
            Concat(bad)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="`fill`"):
        Concat(sizes, "ones")  # type: ignore[arg-type]


def test_learnt_fill_replaces_absent_rows_and_learns() -> None:
    fusion = Concat({"a.b": 2, "keys": 1}, fill="learnt").double()
    with torch.no_grad():
        for token in fusion.tokens:
            token.fill_(7.0)
    h = {"a.b": torch.ones(2, 2, dtype=torch.float64), "keys": torch.ones(2, 1, dtype=torch.float64)}
    fused = fusion(h, {"a.b": torch.tensor([True, False])})
    assert fused.tolist() == [[1, 1, 1], [7, 7, 1]]
    fused.sum().backward()
    assert [None if t.grad is None else t.grad.tolist() for t in fusion.tokens] == [[1, 1], None]
    assert fusion({"keys": h["keys"]}).tolist() == [[7, 7, 1]] * 2


def test_deepcopy_is_independent() -> None:
    model = make_model(3)
    other = copy.deepcopy(model)
    before = weights(model)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(1)
    assert all(torch.equal(before[n], t) for n, t in weights(model).items())


def test_a_single_modality_is_a_model_too() -> None:
    encoders = make_encoders(1)
    model = MultimodalModel(encoders, Sum(dict.fromkeys(encoders, WIDTH)), nn.Linear(WIDTH, 2))
    assert model({NAMES[0]: torch.zeros(4, 5)}).shape == (4, 2)


def test_lazy_encoders_and_sparse_gradients_are_refused_by_name() -> None:
    from equimodal import Batch, Classification, PlainEngine
    from equimodal.errors import UnsupportedError
    from equimodal.methods import MIE, MLA, Joint

    class Words(nn.Module):
        def __init__(self, sparse: bool) -> None:
            super().__init__()
            self.table = nn.Embedding(20, 8, sparse=sparse)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            features: torch.Tensor = self.table(x)
            return features.mean(1)

    batch = Batch({"a": torch.randn(8, 6), "t": torch.randint(0, 20, (8, 5))}, torch.arange(8) % 3)
    for kind in (Joint, MLA, MIE):
        lazy = MultimodalModel({"a": nn.LazyLinear(8), "t": Words(False)}, Concat({"a": 8, "t": 8}), nn.Linear(16, 3))
        with pytest.raises(ModelError, match=r"parameters_of\('a'\).*lazy module"):
            kind(lazy, Classification(3))
        model = MultimodalModel({"a": nn.Linear(6, 8), "t": Words(True)}, Concat({"a": 8, "t": 8}), nn.Linear(16, 3))
        method = kind(model, Classification(3))
        engine = PlainEngine(torch.optim.SGD(method.parameters(), lr=0.1))
        with pytest.raises(UnsupportedError, match="encoder of 't', with sparse=True"):
            method.training_step(batch, engine)
