"""A million rows, and more data than memory: time and memory of a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equimodal.data import write_bundle

pytestmark = pytest.mark.slow
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
SECONDS, BYTES, FIRST = 10.0, 700_000_000, 0.5
"""Of a process's own time for the fastest of several openings, of its memory, of its time for a first batch: an object
per row, or a list of all positions, exceeds them on any machine. What it takes is half a second, 0.3 GB and 4 ms."""

_COMMON = """
import json, resource, sys, time
import torch
from pathlib import Path
import pyarrow.parquet
from equimodal.data import from_rows, load, loader
torch.set_num_threads(1)

def memory(kind):
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[kind].split()[0]) * 1024

def opened():
    if sys.argv[1].endswith(".parquet"):
        inputs = {"a": "vector", "b": "vector"}
        return from_rows(sys.argv[1], "target", inputs, split="split", **json.loads(sys.argv[2]))
    return load(sys.argv[1])
"""
_MILLION = """
before, times = memory("VmHWM"), []
data = opened()
split = data.train
peak = memory("VmHWM") - before
for _ in range(3):
    begin = time.process_time()
    opened().train
    times.append(time.process_time() - begin)
batches, first = loader(split, 64, seed=0), []
for epoch in range(5):
    batches.set_epoch(epoch)
    begin = time.thread_time()
    next(iter(batches))
    first.append(time.thread_time() - begin)
print(json.dumps({"seconds": min(times), "bytes": peak, "first": sorted(first)[2], "rows": len(split)}))
"""
_LARGE = """
limit = memory("VmData") + int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
before, seen, losses = memory("RssAnon"), [], []
data = opened()
batches, model = loader(data.train, 64, seed=0), torch.nn.Linear(data.modalities["a"].shape[0], 2)
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
for epoch in range(2):
    for batch in batches:
        loss = torch.nn.functional.cross_entropy(model(batch.inputs["a"]), batch.target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
        seen.append(len(batch))
print(json.dumps({"own": memory("RssAnon") - before, "seen": sum(seen), "first": losses[0], "last": losses[-1]}))
"""


def run(text: str, *arguments: str) -> dict[str, Any]:
    own = subprocess.run(
        [sys.executable, "-c", _COMMON + text, *arguments], capture_output=True, text=True, timeout=600, check=False
    )
    assert own.returncode == 0, own.stderr[-3000:]
    found: dict[str, Any] = json.loads(own.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("form", ["folder", "parquet"])
def test_a_million_rows_are_there_at_once(form: str, tmp_path: Path) -> None:
    count, random = 1_000_000, np.random.default_rng(0)
    a, b = (random.normal(size=(count, size)).astype(np.float32) for size in (8, 4))
    target = np.array(["no", "yes", "maybe"])[random.integers(0, 3, count)]
    split = np.repeat(["train", "validation", "test"], [count - 100_000, 50_000, 50_000])
    there = random.random(count) > 0.1
    if form == "folder":
        path = write_bundle(
            tmp_path / "rows", inputs={"a": a, "b": b}, target=target, split=split, present={"b": there}
        )
    else:
        path = tmp_path / "rows.parquet"
        lists = {k: pa.FixedSizeListArray.from_arrays(pa.array(v.ravel()), v.shape[1]) for k, v in (("a", a), ("b", b))}
        lists["b"] = pa.FixedSizeListArray.from_arrays(pa.array(b.ravel()), 4, mask=pa.array(~there))
        pq.write_table(pa.table({**lists, "target": target, "split": split}), path, row_group_size=100_000)
    found = run(_MILLION, str(path), "{}")
    assert found["rows"] == count - 100_000
    assert found["seconds"] <= SECONDS, found
    assert found["bytes"] <= BYTES, found
    assert found["first"] <= FIRST, found


@pytest.mark.parametrize("options", ["{}", "cache"])
def test_more_data_than_memory(options: str, tmp_path: Path) -> None:
    """About 400 MB of numbers, of which a process that may have 340 MB more than at its start trains two epochs."""
    count, width = 12_800, 8_000
    path, random = tmp_path / "rows.parquet", np.random.default_rng(0)
    with pq.ParquetWriter(
        path,
        pa.schema({"a": pa.list_(pa.float32(), width), "b": pa.float32(), "target": pa.int64(), "split": pa.int64()}),
    ) as writer:
        for start in range(0, count, 256):
            target = random.integers(0, 2, 256)
            a = (random.normal(size=(256, width)) + target[:, None]).astype(np.float32)
            split = np.where(np.arange(start, start + 256) % 64 == 0, 1, 0)
            columns = [pa.FixedSizeListArray.from_arrays(pa.array(a.ravel()), width), pa.array(split, pa.float32())]
            writer.write_table(pa.table([*columns, target, split], schema=writer.schema))
    given = {"cache_bytes": 40_000_000, **({"cache": str(tmp_path / "cache")} if options == "cache" else {})}
    assert path.stat().st_size > 350_000_000
    found = run(_LARGE, str(path), json.dumps(given), "340000000")
    assert found["seen"] == 2 * (count - count // 64)
    assert found["own"] < 250_000_000, found
    assert found["last"] < found["first"]
