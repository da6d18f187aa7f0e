"""Numbers per sample: which samples they are of, over micro-batches and processes, and the table that keeps them."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from equimodal import Batch, Classification, MultimodalModel, PlainEngine
from equimodal.data import load_avdigits, loader
from equimodal.engine import Objective, Phase, SampleValues, gather_rows, sample_index
from equimodal.errors import BatchError, DataError, MethodError
from equimodal.fusion import Concat
from equimodal.methods import EpochContext, Joint
from equimodal.methods.parts import SampleTable, branch_phase
from tests.features import facility_workers, workers
from tests.features.users import Remembering, indexed, user
from tests.helpers import sgd, split

MASK = torch.tensor([True, False, True, False])


def a_batch(index: Tensor | None = None) -> Batch:
    """Four samples, two of which have "b"; the input "a" says which sample it is."""
    inputs = {"a": torch.arange(4.0)[:, None], "b": 10 + torch.arange(4.0)[:, None]}
    return Batch(inputs, torch.tensor([0, 1, 0, 1]), {"b": MASK}, index)


def of(index: list[int], values: list[float]) -> SampleValues:
    return SampleValues(torch.tensor(values), torch.tensor(index))


# ---- which samples ---------------------------------------------------------------------------------------------------


def test_values_of_all_samples_and_of_those_with_a_modality() -> None:
    batch = a_batch(torch.tensor([40, 41, 42, 43]))
    every = SampleValues.of(batch.inputs["a"][:, 0].clone().requires_grad_(), batch)
    assert every.index.tolist() == [40, 41, 42, 43]
    assert not every.values.requires_grad
    part = batch.only("b")
    assert part is not None
    ways = [SampleValues.of(part.inputs["b"][:, 0], part), SampleValues.of(batch.inputs["b"][:, 0][MASK], batch, "b")]
    for found in ways:
        assert found.index.tolist() == [40, 42]
        assert found.values.tolist() == [10, 12]
    assert sample_index(batch, "a").tolist() == [40, 41, 42, 43]
    assert sample_index(batch, "c").tolist() == []
    assert SampleValues.of(torch.zeros(0), batch, "c").index.tolist() == []


def test_what_is_refused() -> None:
    with pytest.raises(BatchError, match=r"`batch.index`.*Found None.*equimodal.data.loader.*Batch\(\.\.\., index="):
        SampleValues.of(torch.zeros(4), a_batch())
    batch = a_batch(torch.arange(4))
    with pytest.raises(MethodError, match=r"each of the 4 samples of the batch. Found 2"):
        SampleValues.of(torch.zeros(2), batch)
    with pytest.raises(MethodError, match=r"each of the 2 samples with 'b' of the batch. Found 4"):
        SampleValues.of(torch.zeros(4), batch, "b")


def test_a_method_without_an_index_says_so_in_its_first_step() -> None:
    method, batch = user("numbers per sample"), indexed()
    with pytest.raises(BatchError, match="`batch.index`"):
        method.training_step(Batch(batch.inputs, batch.target), sgd(method))


def test_over_micro_batches() -> None:
    """Values and index are joined in order; a name that a micro-batch does not give is left out there."""
    x = nn.Parameter(torch.ones(1))

    def objective(batch: Batch) -> Objective:
        rows = {"all": SampleValues.of(batch.inputs["a"][:, 0], batch)}
        if batch.count("b"):
            rows["b"] = SampleValues.of(batch.inputs["b"][:, 0].index_select(0, _present(batch)), batch, "b")
        return Objective(x.sum(), rows=rows)

    descent = PlainEngine(torch.optim.SGD([x], lr=0.1)).descend(
        Phase("p", objective, [x]), split(a_batch(torch.tensor([7, 3, 9, 3])), 4)
    )
    assert descent.rows["all"].index.tolist() == [7, 3, 9, 3]
    assert descent.rows["all"].values.tolist() == [0, 1, 2, 3]
    assert descent.rows["b"].index.tolist() == [7, 9]
    assert descent.rows["b"].values.tolist() == [10, 12]


def _present(batch: Batch) -> Tensor:
    rows = batch.rows("b")
    return torch.arange(len(batch)) if rows is None else rows


def test_of_a_phase_about_one_branch() -> None:
    """The objective of a branch sees `batch.only(m)`, whose rows go with its own index."""
    model = MultimodalModel({"a": nn.Linear(1, 2), "b": nn.Linear(1, 2)}, Concat({"a": 2, "b": 2}), nn.Linear(4, 2))

    def objective(own: Batch, batch: Batch) -> Objective:
        loss = model.encode(own.inputs)["b"].square().sum(1)
        return Objective(loss.mean(), rows={"b": SampleValues.of(own.inputs["b"][:, 0], own)})

    phase = branch_phase(model, "b", nn.Linear(2, 2), objective)
    with pytest.warns(UserWarning, match="in no optimizer"):
        rows = sgd(model).descend(phase, split(a_batch(torch.tensor([4, 5, 6, 7])), 2)).rows
    assert rows["b"].index.tolist() == [4, 6]
    assert rows["b"].values.tolist() == [10, 12]


def test_of_the_first_pass_only() -> None:
    from equimodal import Sharpness

    x = nn.Parameter(torch.ones(1))
    phase = Phase("p", lambda b: Objective(x.square().sum(), rows={"x": SampleValues.of(x.expand(len(b)), b)}), [x])
    descent = PlainEngine(torch.optim.SGD([x], lr=0.1)).descend(
        phase, [a_batch(torch.arange(4))], Sharpness(radius=0.5)
    )
    assert descent.rows["x"].values.tolist() == [1, 1, 1, 1]


# ---- the table -------------------------------------------------------------------------------------------------------


def test_the_table_keeps_the_last_number_and_grows() -> None:
    table = SampleTable(["a", "b"])
    table.update({"a": of([1, 3], [0.5, 0.25])})
    assert len(table) == 4
    table.update({"a": of([3], [2.0]), "b": of([0, 6], [9.0, 8.0])})
    assert table.values[:, 0].tolist() == [0, 0.5, 0, 2.0, 0, 0, 0]
    assert table.values[:, 1].tolist() == [9.0, 0, 0, 0, 0, 0, 8.0]
    assert table.seen[:, 0].tolist() == [False, True, False, True, False, False, False]
    assert table.seen[:, 1].tolist() == [True, *[False] * 5, True]
    values, seen = table.at(torch.tensor([3, 0, 100, -1]))
    assert values.tolist() == [[2, 0], [0, 9], [0, 0], [0, 0]]
    assert seen.tolist() == [[True, False], [False, True], [False, False], [False, False]]


def test_a_sample_that_comes_twice_has_the_mean_of_its_numbers() -> None:
    numbers = [5.0, 1.0, 3.0, 7.0]
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        table = SampleTable(["a"])
        table.update({"a": of([4], [100.0])})
        table.update({"a": of([[4, 2, 4, 4][i] for i in order], [numbers[i] for i in order])})
        assert table.values[:, 0].tolist() == [0, 0, 1, 0, 5]
    table.update({"a": of([4], [6.0])})  # and nothing is left over
    assert table.values[4].tolist() == [6]


def test_an_empty_table_and_an_empty_update() -> None:
    table = SampleTable(["a", "b"])
    values, seen = table.at(torch.tensor([0, 5]))
    assert values.tolist() == [[0, 0], [0, 0]]
    assert not seen.any()
    table.update({})
    table.update({"a": None, "b": SampleValues(torch.zeros(0), torch.zeros(0, dtype=torch.int64))})
    assert len(table) == 0


def test_room_for_a_loader() -> None:
    """Ours says which rows of the dataset it has, torch's how many samples; anything else says nothing."""
    batches = loader(load_avdigits().train, 64)
    table = SampleTable(["image"])
    table.reserve_for(EpochContext(0, loader=batches))
    assert len(table) == int(batches.split.rows.max()) + 1
    index = next(iter(batches)).index
    assert index is not None
    table.update({"image": SampleValues(torch.ones(len(index)), index)})
    assert len(table) == int(batches.split.rows.max()) + 1
    assert int(table.seen.sum()) == 64
    other = SampleTable(["image"])
    other.reserve_for(EpochContext(0, loader=torch.utils.data.DataLoader([1, 2, 3])))  # type: ignore[arg-type]
    assert len(other) == 3
    other.reserve_for(EpochContext(0, loader=[indexed()]))
    other.reserve_for(EpochContext(0))
    other.reserve(2)
    assert len(other) == 3


def test_what_the_table_refuses() -> None:
    for columns in ([], ["a", "a"]):
        with pytest.raises(MethodError, match="`columns`"):
            SampleTable(columns)
    table = SampleTable(["a"])
    with pytest.raises(MethodError, match=r"columns \['a'\]. Found unknown \['z'\]"):
        table.update({"z": of([0], [1.0])})
    with pytest.raises(MethodError, match=r"rows\['a'\].*one number per sample.*\(1, 2\)"):
        table.update({"a": SampleValues(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64))})
    with pytest.raises(DataError, match="at least 0. Found -3"):
        table.update({"a": of([2, -3], [1.0, 1.0])})
    assert len(table) == 0


def test_where_looking_would_wait_for_the_device_it_does_not_grow() -> None:
    """With the device of no memory, on which any look would be an error."""
    table = SampleTable(["a"]).to("meta")
    rows = {"a": SampleValues(torch.zeros(2, device="meta"), torch.zeros(2, dtype=torch.int64, device="meta"))}
    with pytest.raises(MethodError, match=r"`size`.*does not grow on meta.*table.reserve_for\(context\)"):
        table.update(rows)
    table.reserve(4)
    table.update(rows)
    values, seen = table.at(rows["a"].index)
    assert (values.shape, seen.shape) == ((2, 1), (2, 1))


def test_the_table_is_in_the_state_and_takes_the_size_of_what_is_loaded() -> None:
    table = SampleTable(["a", "b"])
    table.update({"a": of([0, 9], [1.5, 2.5]), "b": of([4], [3.5])})
    file = io.BytesIO()
    torch.save(nn.ModuleList([table]).state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert set(state) == {"0.values", "0.seen"}
    for size in (0, 30):
        other = nn.ModuleList([SampleTable(["a", "b"], size)])
        other.load_state_dict(state)
        loaded: Any = other[0]
        assert torch.equal(loaded.values, table.values)
        assert torch.equal(loaded.seen, table.seen)
        loaded.update({"b": of([9, 9], [1.0, 3.0])})
        assert loaded.values[9].tolist() == [2.5, 2.0]
    with pytest.raises(RuntimeError, match="size mismatch"):
        nn.ModuleList([SampleTable(["a"])]).load_state_dict(state)


def test_precision() -> None:
    """Float32 at least, whatever the module is cast to and whatever it is given."""
    table = SampleTable(["a"], 2)
    table.update({"a": SampleValues(torch.tensor([1.0001], dtype=torch.float64), torch.tensor([0]))})
    table.half()
    table.bfloat16()
    assert table.values.dtype == torch.float32
    assert float(table.values[0]) == pytest.approx(1.0001)
    table.update({"a": SampleValues(torch.tensor([0.5], dtype=torch.float16), torch.tensor([1]))})
    assert table.values[1].tolist() == [0.5]
    assert table.double().values.dtype == torch.float64
    assert table.values.device == table.seen.device


@pytest.mark.distributed
def test_processes_have_one_table(tmp_path: Path) -> None:
    """Samples of one process, of both, of neither; other numbers of them."""
    ours, theirs = workers.run(facility_workers.tables, tmp_path / "group")
    for (a, b), (c, d) in zip(ours[:2], theirs[:2], strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)
    values, seen = ours[0]
    assert values[:, 0].tolist() == [1, 0, 8, 0, 0, 4]  # the mean of 2, 4 and 6
    assert values[:, 1].tolist() == [0, 0, 0, 7, 0, 0]
    assert seen.sum().item() == 4
    values, seen = ours[1]
    assert values[:, 0].tolist() == [1, 0, 8, 0, 0, 4, 0, 0, 0, 1.5]
    assert seen.sum().item() == 5
    assert [t.tolist() for t in ours[2]] == [[[1, 1]], [0.5]]
    assert [t.tolist() for t in theirs[2]] == [[[1, 1]], [0.5]]


def test_gathering_rows_on_one_process() -> None:
    rows = [torch.ones(2, 3), torch.zeros(2)]
    assert all(a is b for a, b in zip(gather_rows(rows), rows, strict=True))


# ---- a method that remembers -----------------------------------------------------------------------------------------


def test_what_a_method_remembers_is_the_loss_that_each_sample_had() -> None:
    """Step by step, by plain torch; the second step weighs by what the first left."""
    method = user("numbers per sample")
    assert isinstance(method, Remembering)
    engine = sgd(method)
    table: dict[tuple[int, str], float] = {}
    for seed in range(3):
        batch = indexed(12, seed, uneven=True)
        assert batch.index is not None
        losses = {m: loss.detach() for m, loss in method.losses(batch).items()}
        weight = torch.tensor([1 + sum(table.get((int(i), m), 0.0) for m in method.modalities) for i in batch.index])
        expected = sum(float((weight * loss).mean()) for loss in losses.values())
        report = method.training_step(split(batch, 3), engine)
        assert float(report.losses["joint"]) == pytest.approx(expected, rel=1e-6)
        found: dict[tuple[int, str], list[float]] = {}
        for m in method.modalities:
            mask = None if batch.present is None else batch.present.get(m)
            for row, i in enumerate(batch.index.tolist()):
                if mask is None or bool(mask[row]):
                    found.setdefault((i, m), []).append(float(losses[m][row]))
        table |= {key: sum(values) / len(values) for key, values in found.items()}
        for (i, m), value in table.items():
            assert float(method.memory.values[i, method.modalities.index(m)]) == pytest.approx(value, abs=1e-12)
        assert int(method.memory.seen.sum()) == len(table)


def test_a_method_without_such_numbers_pays_nothing() -> None:
    method = Joint(user("parts").model, Classification(3))
    descent = sgd(method).descend(next(iter(method.phases([indexed()]))), [indexed()])
    assert descent.rows == {}
    assert len(descent.gradients) == 0
    assert SimpleNamespace(**vars(descent)).count == 12
