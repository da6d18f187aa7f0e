"""Encoders sharded by FSDP2: two processes with half of the weights each equal one with all of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from equimodal.engine._sharding import check_sharding, is_sharded, local, sharded_modules, total_norm
from tests.features import workers
from tests.features.helpers import SETTINGS, Setting, data, departure, plain_method
from tests.features.test_processes import local as of_one_process
from tests.helpers import assert_near, setting_id, split, train

pytestmark = pytest.mark.distributed
FOUNDING: list[Setting] = [("Joint", {}), ("MLA", {}), ("CGGM", {"window": 1}), ("MIE", {})]
CASES = [
    *((s, uneven, "plain") for s in SETTINGS for uneven in (False, True) if not (uneven and s[1].get("mixup_alpha"))),
    *((s, False, way) for s in FOUNDING for way in ("adamw", "accumulation")),
    *((s, False, "sharpness") for s in FOUNDING[:3]),
]


def test_sharded(tmp_path: Path) -> None:
    """Every setting, with a prediction after each step; the founding methods under further features too."""
    ranks = workers.run(workers.train_sharded, tmp_path / "group", CASES)
    for number, (setting, uneven, way) in enumerate(CASES):
        label = f"{setting_id(setting)}, {way}, uneven: {uneven}"
        kind = departure(setting, "sharded")
        (found, held), (theirs, held_there) = (r[number][:2] for r in ranks)
        if kind == "refused":
            assert found == theirs == "UnsupportedError", label
            assert ranks[0][number][2] == ranks[1][number][2] == [], f"{label}: moved before it refused"
            continue
        assert isinstance(found, dict), f"{label}: {found} {held}"
        shared = [n for n in found if not of_one_process(n)]
        assert all(torch.equal(found[n], theirs[n]) for n in shared), f"{label}: replicas differ"
        for here, there in zip(held, held_there, strict=True):
            assert here + there == pytest.approx(1 if here else 0), label
            assert max(here, there) < 0.7, f"{label}: holds {here:.2f} of it"
        if kind is not None:
            continue
        whole = workers.sharded_method(setting, way)
        batches = workers.sharded_batches(uneven)
        train(whole, workers.sharded_engine(whole, way), range(2), batches, total=2,
              after_step=lambda: workers.looked_at(whole))  # noqa: B023  # fmt: skip
        expected = workers.whole_weights(whole)
        try:
            assert_near({n: t for n, t in expected.items() if n in shared}, {n: found[n] for n in shared}, 1e-9)
        except AssertionError as error:
            raise AssertionError(f"{label}: {error}") from error


def test_what_is_refused(tmp_path: Path) -> None:
    """Nothing waits for ever: what one process cannot do is refused on both, before any weight is gathered."""
    ranks = workers.run(workers.refuse_sharded, tmp_path / "group")
    expected = {
        "head": "UnsupportedError: `model`: expected sharded parameters in encoders only. Found 'model.head.",
        "tensor parallel": "UnsupportedError: `model`: expected parameters sharded by fully_shard",
        "wrapper": "UnsupportedError: `model`: expected modules without DistributedDataParallel",
        "loss scale": "UnsupportedError: `model`: expected whole encoders with a loss scale. Found ['a', 'b.c'",
        "compile": "UnsupportedError: `model`: expected whole encoders with torch.compile. Found ['a', 'b.c'",
        "trainer": "UnsupportedError: `strategy`: expected one that keeps whole parameters. Found encoders sharded by",
    }
    for found in ranks:
        for name, text in expected.items():
            assert found[name].startswith(text), found[name]
    for name in ("Joint", "MLA"):
        for found in ranks:
            assert found[f"{name}, idle encoder"].startswith("BatchError"), found
            assert "1 to 2 micro-batches" in found[f"{name}, micro-batches"]
            assert found[f"{name}, afterwards"] == "trained"
        assert "without a sample of ['b.c']" in ranks[1][f"{name}, idle encoder"]
        assert "on another process" in ranks[0][f"{name}, idle encoder"]
        assert "inputs['b.c']" in ranks[1][f"{name}, NaN"]
        assert "another process" in ranks[0][f"{name}, NaN"]


def test_checkpoints(tmp_path: Path) -> None:
    """A run continued from a file per process equals the one that went on; one whole file loads into a whole model."""
    settings: list[Setting] = [*FOUNDING, ("MIE", {"sam": None, "alternate": "stage", "stage_epochs": (1, 2)})]
    ranks = workers.run(workers.continue_sharded, tmp_path / "group", settings)
    for setting, ours, theirs in zip(settings, *ranks, strict=True):
        for went_on, continued, _, _ in (ours, theirs):
            assert all(torch.equal(t, continued[n]) for n, t in went_on.items()), setting
        alone = plain_method(setting, seed=2)
        alone.load_state_dict(ours[2])
        assert torch.allclose(alone.predict(data(4, 9).inputs).output, ours[3], atol=1e-12, rtol=0), setting


def test_whole_models_have_no_shards() -> None:
    """One process, nothing sharded: the helpers do what plain torch does."""
    method = plain_method(("Joint", {}))
    assert check_sharding(method) == ()
    assert sharded_modules(method) == []
    p = torch.tensor([3.0, 4.0])
    assert local(p) is p
    assert not is_sharded(p)
    assert total_norm([p, torch.tensor([12.0])]) == 13
    assert [len(b) for b in split(workers.sharded_batches(uneven=True)[0], 4)] == [3] * 4


def test_fsdp_of_the_first_kind_is_refused() -> None:
    """Its parameters are flattened; known by name, as it cannot be made on one CPU process."""
    from equimodal.errors import UnsupportedError

    method = plain_method(("Joint", {}))
    wrapper = type("FullyShardedDataParallel", (nn.Module,), {})
    method.add_module("wrapped", wrapper())
    with pytest.raises(UnsupportedError, match=r"fully_shard\(encoder\)"):
        check_sharding(method)
