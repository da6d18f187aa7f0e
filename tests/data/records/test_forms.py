"""What every collection of rows must do."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from equimodal.data import Field, loader
from equimodal.data._loader import Loader
from equimodal.errors import DataError
from tests.data.records.helpers import COUNT, FORMS, check, columns, dataset, has, picture, rows, sound
from tests.processes import context

for needed in ("pyarrow", "datasets", "webdataset", "PIL"):
    pytest.importorskip(needed)


def order(batches: Any) -> list[list[int]]:
    return [batch.index.tolist() for batch in batches]


@pytest.mark.parametrize("form", FORMS)
def test_batches_hold_what_the_rows_hold(form: str, tmp_path: Path) -> None:
    data = dataset(form, tmp_path, groups=columns(form)["who"], overlapping=True)
    assert data.parts == {"train": 24, "validation": 12, "test": 12}
    assert data.classes == ("no", "yes")
    assert set(next(iter(data.train.groups.values())).tolist()) == set(range(6))
    for split in (data.train, data.validation, data.test):
        check(split.batch())
    seen: list[int] = []
    for batch in loader(data.train, 5, seed=3):
        check(batch)
        seen += batch.index.tolist()  # type: ignore[union-attr]
    assert sorted(seen) == data.train.rows.tolist()


@pytest.mark.parametrize("form", FORMS)
def test_a_continued_epoch_has_the_rest_of_its_batches(form: str, tmp_path: Path) -> None:
    data = dataset(form, tmp_path)
    whole = loader(data.train, 5, seed=3)
    expected = [order(whole) for _ in range(3)]
    stopped = loader(data.train, 5, seed=3)
    order(stopped)
    iterator = iter(stopped)
    first = [next(iterator).index.tolist() for _ in range(2)]  # type: ignore[union-attr]
    state = json.loads(json.dumps(stopped.state_dict()))
    again = loader(dataset(form, tmp_path).train, 5, seed=3)
    again.load_state_dict(state)
    assert [first + order(again), order(again)] == expected[1:]
    again.load_state_dict(state)
    rest = list(again)
    for batch in rest:
        check(batch)


@pytest.mark.parametrize("form", FORMS)
def test_worker_processes_give_the_same_batches(form: str, tmp_path: Path) -> None:
    data = dataset(form, tmp_path)
    plain, ahead = loader(data.train, 5, seed=1), loader(data.train, 5, seed=1, num_workers=2)
    for _ in range(2):
        for one, other in zip(plain, ahead, strict=True):
            check(other)
            assert torch.equal(one.index, other.index)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FORMS)
def test_processes_that_share_batches_see_each_sample_once(form: str, tmp_path: Path) -> None:
    data = dataset(form, tmp_path)
    shares = [Loader(data.train, 3, True, 7, True, 0, torch.arange(24), share=(rank, 2)) for rank in range(2)]
    joint = order(loader(data.train, 6, seed=7, drop_last=True))
    parts = [order(own) for own in shares]
    assert [joint[n][rank::2] for rank in range(2) for n in range(4)] == parts[0] + parts[1]
    assert sorted(i for part in parts for b in part for i in b) == data.train.rows.tolist()


def test_one_process_continues_as_two(tmp_path: Path) -> None:
    data = dataset("parquet", tmp_path)
    one = loader(data.train, 6, seed=7, drop_last=True)
    iterator = iter(one)
    next(iterator)
    state = one.state_dict()
    rest = order(iterator)
    for rank in range(2):
        own = Loader(data.train, 3, True, 7, True, 0, torch.arange(24), share=(rank, 2))
        own.load_state_dict(state)
        assert order(own) == [batch[rank::2] for batch in rest]
    apart = loader(data.train, 3, seed=7, drop_last=True, indices=range(0, 24, 2))
    with pytest.raises(DataError, match=r"samples 12 \(stored: 24\), batch_size 3 \(stored: 6\)"):
        apart.load_state_dict(state)
    planned = loader(data.train, 6, seed=7, drop_last=True)
    planned.plan(dict.fromkeys(data.modalities, range(24)))
    state = planned.state_dict()
    state["plan"]["processes"] = 2
    with pytest.raises(DataError, match=r"shared by 1 process\(es\). Found one of 2. Continue with as many"):
        planned.load_state_dict(state)


class Decoder:
    """Sounds; refuses what must not be decoded."""

    def __init__(self, refused: set[int]) -> None:
        self.refused, self.seen = refused, set[int]()

    def __call__(self, content: Any) -> Any:
        if content is None or int(content[0]) in self.refused:
            raise AssertionError(content)
        self.seen.add(int(content[0]))
        return np.asarray(content, np.float32)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_absent_is_never_decoded(form: str, tmp_path: Path) -> None:
    decode = Decoder(set())
    fields = {
        "sound": Field("vector", columns(form)["sound"], decode=decode, standardise="none"),
        "words": Field("tokens", columns(form)["words"], length=2),
    }
    data = dataset(form, tmp_path, inputs=fields, missing="sound=0.5")
    first = min(i for i in data.train.rows.tolist() if has("sound", i))  # whose shape was looked at
    for split in (data.train, data.validation, data.test):
        decode.seen = set()
        batch = split.batch()
        assert batch.present is not None
        there = set(batch.index[batch.present["sound"]].tolist())  # type: ignore[index]
        assert decode.seen == there < set(split.rows.tolist())
    batches = loader(data.train, 5)
    batches.plan({"sound": [-1] * 10 + [3, 4], "words": list(range(12))}, target=list(range(12)))
    wanted = data.train.rows[[3, 4]]
    decode.refused = set(range(COUNT)) - set(wanted[data.train.present["sound"][[3, 4]]].tolist())
    assert len(list(batches)) == 3
    assert first < COUNT


@pytest.mark.parametrize("form", FORMS[:3])
def test_a_cache_is_decoded_once(form: str, tmp_path: Path) -> None:
    decode = Decoder(set())
    name, cache = columns(form), tmp_path / "cache"
    fields = {
        "image": Field("image", name["image"], size=8, standardise="none"),
        "sound": Field("vector", name["sound"], decode=decode, standardise="none"),
        "words": Field("tokens", name["words"], length=2),
    }
    for number in range(2):
        data = dataset(form, tmp_path, inputs=fields, cache=cache)
        assert data._store.blocks is None
        if number:
            assert len(decode.seen) == 1  # whose shape was looked at
        for split in (data.train, data.validation, data.test):
            check(split.batch())
        for batch in loader(data.train, 5, num_workers=1):
            check(batch)
        decode.seen = set()
    files = len(list(cache.iterdir()))
    stale = Field("vector", name["sound"], decode=Decoder(set()).__call__, standardise="none")
    dataset(form, tmp_path, inputs={**fields, "sound": stale}, cache=cache)
    assert len(list(cache.iterdir())) == files + 2


def test_a_list_has_no_cache(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="`cache`: expected a collection on disk"):
        dataset("list", tmp_path, cache=tmp_path)


@pytest.mark.parametrize("form", FORMS)
def test_a_row_without_a_target_is_refused(form: str, tmp_path: Path) -> None:
    own = rows()
    own[17]["label"] = own[31]["label"] = None
    row = 17
    with pytest.raises(DataError, match=rf"column '{columns(form)['label']}', row {row}: expected a value .*`target`"):
        dataset(form, tmp_path, own)


def train_until_killed(folder: str, number: int) -> None:
    """Write down each batch and the state after it; the process is killed before it writes the next."""
    data = dataset("parquet", Path(folder), cache_bytes=1 << 12)
    batches = loader(data.train, 5, seed=3)
    for _ in range(2):
        for batch in batches:
            number -= 1
            if number < 0:
                Path(folder, "ready").write_text("")
                time.sleep(60)
            state = {"seen": batch.index.tolist(), "state": batches.state_dict()}  # type: ignore[union-attr]
            temporary = Path(folder, "state.new")
            with Path(folder, "log").open("a") as log:
                log.write(json.dumps(state["seen"]) + "\n")
            temporary.write_text(json.dumps(state))
            temporary.replace(Path(folder, "state"))


@pytest.mark.slow
def test_a_killed_process_continues_with_the_next_batch(tmp_path: Path) -> None:
    process = context().Process(target=train_until_killed, args=(str(tmp_path), 7))
    process.start()
    until = time.monotonic() + 60
    while not (tmp_path / "ready").exists():
        assert process.is_alive()
        assert time.monotonic() < until
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    seen = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    data = dataset("parquet", tmp_path, cache_bytes=1 << 12)
    again = loader(data.train, 5, seed=3)
    again.load_state_dict(json.loads((tmp_path / "state").read_text())["state"])
    assert again.epoch == 1
    whole = loader(data.train, 5, seed=3)
    assert seen + order(again) == order(whole) + order(whole)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_tar_files_are_read_as_webdataset_reads_them(tmp_path: Path) -> None:
    import webdataset

    data = dataset("webdataset", tmp_path)
    paths = sorted(str(p) for p in tmp_path.glob("*.tar"))
    own = webdataset.WebDataset(paths, shardshuffle=False).decode()
    count = 0
    for row, sample in enumerate(own):
        count += 1
        assert ("png" in sample) == has("image", row)
        if has("sound", row):
            np.testing.assert_array_equal(sample["sound.npy"], sound(row))
        if has("image", row):
            assert picture(row)[:4] == b"\x89PNG"
        assert sample["label.txt"] == data.classes[row % 2]
    assert count == data.num_samples == COUNT
