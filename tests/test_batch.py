"""Batches: shapes, presence, and the errors that name what is wrong."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from equimodal import Batch, Presence
from equimodal.batch import tree_map, tree_tensors
from equimodal.errors import BatchError, EquimodalError, NonFiniteError
from tests.helpers import make_batch


def mask(*values: int) -> Tensor:
    return torch.tensor(values).bool()


def test_presence_rows_and_counts() -> None:
    presence = Presence({"a.b": mask(1, 0, 1), "the keys": mask(1, 1, 1), "none": mask(0, 0, 0)})
    rows = presence.rows("a.b")
    assert rows is not None
    assert rows.tolist() == [0, 2]
    assert presence.rows("the keys") is None  # all present: nothing to gather
    assert presence.rows("unknown") is None
    assert [presence.count(m) for m in presence] == [2, 3, 0]
    assert presence.count("unknown", 3) == 3
    with pytest.raises(BatchError, match="`batch_size`"):
        presence.count("unknown")
    assert Presence.of(presence) is presence
    assert Presence.of(None) is None


@pytest.mark.parametrize(
    "bad", [torch.ones(3), torch.ones(3, 1).bool(), [True, False], torch.tensor(True), torch.ones(3, dtype=torch.int64)]
)
def test_a_mask_must_be_a_boolean_vector(bad: Any) -> None:
    with pytest.raises(BatchError, match=r"`present\['a'\]`: expected a boolean"):
        Presence({"a": bad})


def test_masks_of_different_length() -> None:
    with pytest.raises(BatchError, match="expected 2 samples"):
        Presence({"a": mask(1, 1), "b": mask(1, 1, 1)})


def test_a_sample_without_any_modality_is_named() -> None:
    inputs = {"a": torch.zeros(3, 1), "b": torch.zeros(3, 1)}
    present = {"a": mask(1, 0, 0), "b": mask(1, 1, 0)}
    with pytest.raises(BatchError, match=r"batch row \[2\]"):
        Batch(inputs, None, present)
    with pytest.raises(BatchError, match=r"dataset index \[77\]"):
        Batch(inputs, None, present, torch.tensor([5, 6, 77]))
    Batch(inputs, None, {"a": mask(0, 0, 0)})  # b has no mask, so it is there


@pytest.mark.parametrize(
    ("inputs", "target", "present", "index"),
    [
        ({"a": torch.zeros(3, 1), "b": torch.zeros(4, 1)}, None, None, None),
        ({"a": torch.zeros(3, 1)}, torch.zeros(2), None, None),
        ({"a": torch.zeros(3, 1)}, None, {"a": mask(1, 1)}, None),
        ({"a": torch.zeros(3, 1)}, None, None, torch.arange(4)),
    ],
)
def test_mismatched_sample_counts(inputs: Any, target: Any, present: Any, index: Any) -> None:
    with pytest.raises(BatchError, match="same number of samples"):
        Batch(inputs, target, present, index)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "at least one entry"),
        (torch.zeros(3), "expected a mapping"),
        (None, "expected a mapping"),
        ({"a": "text"}, "expected a tensor or a nesting"),
        ({"a": []}, "expected a tensor or a nesting"),
        ({"a": torch.tensor(1.0)}, "share their first"),
        ({"a": [torch.zeros(2), torch.zeros(3)]}, "share their first"),
        ({"a": torch.zeros(0, 3)}, "Found an empty batch"),
    ],
)
def test_malformed_inputs(inputs: Any, message: str) -> None:
    with pytest.raises(BatchError, match=message):
        Batch(inputs)


def test_presence_of_an_unknown_modality() -> None:
    with pytest.raises(BatchError, match=r"unknown \['c'\]"):
        Batch({"a": torch.zeros(1, 1)}, None, {"c": mask(1)})


def test_what_loaders_yield() -> None:
    x, y = {"a": torch.zeros(2, 1)}, torch.zeros(2)
    assert Batch.of((x, y)).target is y
    assert Batch.of([x, y]).target is y
    assert Batch.of({"inputs": x, "target": y, "index": torch.arange(2)}).index is not None
    batch = Batch(x)
    assert Batch.of(batch) is batch
    for bad in (x, {"inputs": x, "label": y}, (x, y, y), torch.zeros(2), "text"):
        with pytest.raises(BatchError, match="`batch`"):
            Batch.of(bad)  # type: ignore[arg-type]


def test_only_takes_the_samples_that_have_it() -> None:
    x = {"a": {"deep": [torch.arange(4.0)[:, None]]}, "b": torch.zeros(4, 2)}
    batch = Batch(x, torch.arange(4), {"a": mask(0, 1, 0, 1), "b": mask(1, 1, 1, 1)}, torch.arange(4) + 10)
    own = batch.only("a")
    assert own is not None
    assert own.modalities == ("a",)
    assert own.inputs["a"]["deep"][0].flatten().tolist() == [1, 3]
    assert own.target is not None
    assert own.index is not None
    assert own.target.tolist() == [1, 3]
    assert own.index.tolist() == [11, 13]
    assert own.present is None
    whole = batch.only("b")
    assert whole is not None
    assert whole.inputs["b"] is x["b"]  # nothing copied
    assert batch.count("a") == 2
    assert batch.count("b") == 4
    nobody = Batch(x, torch.arange(4), {"a": mask(0, 0, 0, 0)})
    assert nobody.only("a") is None
    assert nobody.count("a") == 0
    with pytest.raises(BatchError, match="`modality`"):
        batch.only("c")


def test_extras_travel_with_their_samples() -> None:
    x = {"a": torch.arange(4.0)[:, None], "b": torch.zeros(4, 2)}
    extras = {"weight": torch.arange(4) * 10, "kept": torch.arange(8).reshape(4, 2)}
    batch = Batch(x, torch.arange(4), {"a": mask(0, 1, 0, 1)}, torch.arange(4) + 5, extras)
    own, whole = batch.only("a"), batch.only("b")
    assert own is not None
    assert whole is not None
    assert own.extras["weight"].tolist() == [10, 30]
    assert own.extras["kept"].tolist() == [[2, 3], [6, 7]]
    assert whole.extras["weight"] is extras["weight"]
    part = batch.select(torch.tensor([3, 0, 3]))
    assert part.extras["weight"].tolist() == [30, 0, 30]
    assert part.present is not None
    assert part.present["a"].tolist() == [True, False, True]
    assert part.index is not None
    assert part.index.tolist() == [8, 5, 8]
    assert part.inputs["a"].flatten().tolist() == [3, 0, 3]
    assert part.target is not None
    assert part.target.tolist() == [3, 0, 3]
    assert part.count("a") == 2
    assert batch.to("meta").extras["kept"].device.type == "meta"
    more = batch.with_extras(weight=torch.ones(4), noise=torch.zeros(4, 3))
    assert sorted(more.extras) == ["kept", "noise", "weight"]
    assert more.extras["weight"].tolist() == [1, 1, 1, 1]
    assert batch.extras["weight"].tolist() == [0, 10, 20, 30]  # the batch itself is not changed
    assert more.count("a") == 2
    assert not Batch(x).extras


def test_extras_from_loaders_of_other_kinds() -> None:
    x, weight = {"a": torch.zeros(2, 1)}, torch.ones(2)
    assert Batch.of({"inputs": x, "target": torch.zeros(2), "extras": {"weight": weight}}).extras["weight"] is weight
    rows = [{"inputs": {"a": torch.zeros(1)}, "target": 0, "extras": {"weight": float(i)}} for i in range(3)]
    collated = Batch.of(next(iter(torch.utils.data.DataLoader(rows, batch_size=3))))  # type: ignore[arg-type]
    assert collated.extras["weight"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("extras", "message"),
    [
        ({"weight": torch.zeros(2)}, "same number of samples.*'weight'.*2"),
        ({"weight": torch.tensor(1.0)}, r"`extras\['weight'\]`: expected a tensor of shape .*without axes"),
        ({"weight": [1.0, 2.0, 3.0]}, r"`extras\['weight'\]`: .*Found list"),
        (torch.zeros(3), "`extras`: expected a mapping.*Found Tensor"),
    ],
)
def test_malformed_extras(extras: Any, message: str) -> None:
    with pytest.raises(BatchError, match=message):
        Batch({"a": torch.zeros(3, 1)}, extras=extras)


def test_to_keeps_everything() -> None:
    batch = Batch({"a": (torch.zeros(2, 1), "label")}, torch.zeros(2), {"a": mask(1, 1)}, torch.arange(2))
    moved = batch.to("cpu")
    assert moved.inputs["a"][1] == "label"
    assert moved.presence is not None
    assert moved.count("a") == 2
    meta = Batch({"a": torch.zeros(2, 1), "b": torch.zeros(2, 1)}, None, {"a": mask(1, 0)}).to("meta")
    assert meta.count("a") == 1  # rows were found on the host
    assert meta.inputs["b"].device.type == "meta"


def test_non_finite_inputs_are_named_with_modality_and_samples() -> None:
    x = {"fine": torch.zeros(4, 2), "the keys": {"x": torch.zeros(4, 3), "n": torch.zeros(4, dtype=torch.int64)}}
    x["the keys"]["x"][1, 2] = math.nan  # type: ignore[index]
    x["the keys"]["x"][3, 0] = -math.inf  # type: ignore[index]
    batch = Batch(x, torch.zeros(4), None, torch.arange(4) + 20)
    with pytest.raises(NonFiniteError, match=r"inputs\['the keys'\] of batch 6.*2 sample\(s\).*indices \[21, 23\]"):
        batch.check_finite(6)
    with pytest.raises(NonFiniteError, match=r"batch rows \[1, 3\]"):
        Batch(x).check_finite()
    present = {"the keys": mask(1, 0, 1, 0)}
    absent = Batch(x, torch.zeros(4), present)
    assert absent.check_finite() is absent
    present = {"the keys": mask(1, 0, 1, 1)}
    with pytest.raises(NonFiniteError, match=r"1 sample\(s\).*\[23\]"):
        Batch(x, torch.zeros(4), present, torch.arange(4) + 20).check_finite()
    with pytest.raises(NonFiniteError, match="`target`"):
        Batch({"a": torch.zeros(2, 1)}, torch.tensor([0.0, math.nan])).check_finite()


def test_trees() -> None:
    tree = {"b": [torch.ones(2), "s", None], "a": (torch.zeros(2), 3)}
    doubled = tree_map(lambda t: t * 2, tree)
    assert doubled["b"][1:] == ["s", None]
    assert doubled["b"][0].tolist() == [2, 2]
    assert isinstance(doubled["a"], tuple)
    assert len(tree_tensors(tree)) == 2


def test_every_error_is_of_one_family() -> None:
    with pytest.raises(EquimodalError):
        Batch({})
    with pytest.raises(ValueError, match="inputs"):
        Batch({})


def test_batches_go_through_a_loader_with_workers_pickled() -> None:
    from multiprocessing.reduction import ForkingPickler

    batch = make_batch(3)
    again = ForkingPickler.loads(ForkingPickler.dumps(Batch(batch.inputs, batch.target, {"keys": mask(*[1] * 12)})))
    assert again.count("keys") == 12
