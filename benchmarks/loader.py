"""Samples per second from a prepared CREMA-D against decoding its raw files, and the memory of the loader.

    python benchmarks/loader.py [--clips 7442] [--distinct 48] [--batch 64] [--workers 2] [--rows 8000]
        [--only-rows] [--dir DIR] [--out FILE.json]

Writes `--distinct` clips in the true format (16 kHz wav, 480 x 360 flv at 30 frames per second, 2.5 s) and prepares
them with the default parameters. The prepared arrays are repeated to `--clips` samples on the disk. Both sides give
batches of the same kind, with the same number of processes (and the prepared one in place, too, with none); rounds are
taken in turn, so that a busy machine slows all of them.

Memory is that of the loader and its workers, sampled at every batch of three epochs: `own` is memory that belongs to
the processes, `mapped` what they see of files. Exit code 1 if the prepared side is less than 5 times as fast, or memory
grows after the first epoch.

Rows: the same arrays (`--rows` samples of 3 x 32 x 32 bytes, 768 and 128 numbers) as a memory-mapped bundle; as Parquet
read by row groups, of lists and of contents of .npy files, written in several ways; as Parquet and as a dataset of
Hugging Face with a cache folder; rounds of five epochs in turn. Samples per second are of processor time, since an
epoch of the bundle is so short that on a busy machine it may have a core alone. Exit code 1 if one with a cache gives
less than 0.9 of the bundle's. Reading numbers out of Parquet in every epoch costs more than reading them from a mapped
file, whatever is done; the cache is for that.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from equimodal import Batch
from equimodal.data import Field, from_rows, load, loader, prepare, write_bundle
from equimodal.data.prepare import Item, Preparation

Array = npt.NDArray[Any]
CODES = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")
LEAST_RATIO, MOST_GROWTH, LEAST_ROWS_RATIO = 5.0, 1.10, 0.9
PLAIN: dict[str, Any] = {"use_dictionary": False}
LAYOUTS: dict[str, dict[str, Any]] = {
    "": {},
    ", no dictionaries": PLAIN,
    ", no dictionaries, not compressed": PLAIN | {"compression": "none"},
    ", no dictionaries, zstd": PLAIN | {"compression": "zstd"},
    ", no dictionaries, gzip": PLAIN | {"compression": "gzip"},
    ", no dictionaries, groups of 50": PLAIN | {"row_group_size": 50},
    ", no dictionaries, groups of 2000": PLAIN | {"row_group_size": 2000},
}
"""How Parquet may be written: otherwise as PyArrow does by default, which is with snappy, in groups of 500 rows."""
SECONDS, FPS, HEIGHT, WIDTH, RATE = 2.5, 30, 360, 480, 16000


# ---- raw files -------------------------------------------------------------------------------------------------------


def write_raw(folder: Path, count: int) -> None:
    """Clips of speech-like noise and of a textured picture that moves, with sensor noise."""
    import av
    import soundfile

    for name in ("AudioWAV", "VideoFlash"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    big = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)
    for number in range(count):
        clip = f"{1001 + number // len(CODES)}_DFA_{CODES[number % len(CODES)]}_XX"
        sound = rng.normal(0, 0.1, int(SECONDS * RATE)).astype(np.float32)
        soundfile.write(folder / "AudioWAV" / f"{clip}.wav", sound, RATE, subtype="PCM_16")
        picture = np.kron(np.roll(big, number, 1), np.ones((30, 30, 1), np.uint8))
        with av.open(str(folder / "VideoFlash" / f"{clip}.flv"), "w") as container:
            stream: Any = container.add_stream("flv", rate=FPS)
            stream.height, stream.width, stream.pix_fmt, stream.bit_rate = HEIGHT, WIDTH, "yuv420p", 1_200_000
            for time_step in range(int(SECONDS * FPS)):
                noise = rng.integers(-6, 7, (HEIGHT, WIDTH, 1))
                pixels = (np.roll(picture, 2 * time_step, 1).astype(int) + noise).clip(0, 255).astype(np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode(None))


def repeat_bundle(source: Path, target: Path, count: int) -> None:
    """The arrays of a bundle, repeated to ``count`` samples; written in pieces."""
    target.mkdir()
    for path in source.glob("*.npy"):
        array = np.load(path, mmap_mode="r")
        out = np.lib.format.open_memmap(target / path.name, "w+", array.dtype, (count, *array.shape[1:]))
        for start in range(0, count, len(array)):
            out[start : start + len(array)] = array[: count - start]
        out.flush()
        del out
    (target / "card.yaml").write_bytes((source / "card.yaml").read_bytes())


def forget(folder: Path) -> None:
    """Take the files out of the cache of the system, as far as it lets us."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# ---- the two sides ---------------------------------------------------------------------------------------------------


class Raw(Dataset[dict[str, Array]]):
    """Clips decoded when they are asked for, as the released scripts do."""

    def __init__(self, preparation: Preparation[Any], items: tuple[Item, ...], count: int) -> None:
        self.preparation, self.items, self.count = preparation, items, count
        self.mean = np.array([123.675, 116.28, 103.53], np.float32)[:, None, None, None]
        self.deviation = np.array([58.395, 57.12, 57.375], np.float32)[:, None, None, None]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Array]:
        torch.set_num_threads(1)
        item = self.items[index % len(self.items)]
        video = self.preparation.decode(item, "video").astype(np.float32)
        return {"audio": self.preparation.decode(item, "audio"), "video": (video - self.mean) / self.deviation}


def timed(batches: Any, count: int) -> float:
    """Samples per second from the start of the processes until ``count`` batches are there."""
    samples, begin = 0, time.perf_counter()
    for _, batch in zip(range(count), batches):
        samples += len(batch) if isinstance(batch, Batch) else len(batch["audio"])
    return samples / (time.perf_counter() - begin)


# ---- memory ----------------------------------------------------------------------------------------------------------


def memory() -> dict[str, int]:
    """Bytes of this process and its children: own, and mapped from files."""
    own = mapped = 0
    for pid in [os.getpid(), *children(os.getpid())]:
        try:
            fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        except OSError:
            continue
        own += int(fields.get("RssAnon", "0 kB").split()[0]) * 1024
        mapped += int(fields.get("RssFile", "0 kB").split()[0]) * 1024
    return {"own": own, "mapped": mapped}


def children(pid: int) -> list[int]:
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        found = [int(p) for t in threads for p in (t / "children").read_text().split()]
    except OSError:
        return []
    return [*found, *(p for child in found for p in children(child))]


def epochs_of(folder: Path, batch: int, workers: int) -> list[dict[str, Any]]:
    """Speed and largest memory of three epochs; the first begins with nothing in the cache."""
    data = load(folder)
    batches = loader(data.train, batch, seed=0, num_workers=workers)
    forget(folder)
    results = []
    for epoch in range(3):
        largest = {"own": 0, "mapped": 0}
        samples, begin = 0, time.perf_counter()
        for item in batches:
            samples += len(item)
            largest = {key: max(value, largest[key]) for key, value in memory().items()}
        seconds = time.perf_counter() - begin
        results.append({"epoch": epoch, "samples_per_second": samples / seconds, **largest})
        print(f"epoch {epoch}: {samples / seconds:.0f} samples/s, memory own {largest['own'] / 1e6:.0f} MB, "
              f"mapped {largest['mapped'] / 1e6:.0f} MB", flush=True)  # fmt: skip
    return results


# ---- rows ------------------------------------------------------------------------------------------------------------


def write_rows(folder: Path, count: int) -> None:
    """The same samples as a bundle, Parquet files and a dataset of Hugging Face."""
    import datasets
    import pyarrow as pa
    from pyarrow import parquet

    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    wide, narrow = (rng.normal(size=(count, size)).astype(np.float32) for size in (768, 128))
    target, split = rng.integers(0, 4, count), np.repeat([0, 1, 2], [count - 2 * (count // 8), count // 8, count // 8])
    write_bundle(folder / "bundle", inputs={"image": image, "wide": wide, "narrow": narrow}, target=target, split=split)
    columns = {"wide": wide, "narrow": narrow}
    table = pa.table(
        {"image": pa.array([i.tobytes() for i in image], pa.binary()), "target": target, "split": split}
        | {k: pa.FixedSizeListArray.from_arrays(pa.array(v.ravel()), v.shape[1]) for k, v in columns.items()}
    )
    arrays = (("image", image), ("wide", wide), ("narrow", narrow))
    stored = {k: pa.array([npy(row) for row in v], pa.binary()) for k, v in arrays}
    for name, own in {"lists": table, ".npy": pa.table({**stored, "target": target, "split": split})}.items():
        for layout, options in LAYOUTS.items():
            parquet.write_table(own, folder / f"{name}{layout}.parquet", **{"row_group_size": 500, **options})
    datasets.Dataset(table).save_to_disk(str(folder / "huggingface"))


def npy(array: Array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def pixels(content: bytes) -> Array:
    return np.frombuffer(content, np.uint8).reshape(3, 32, 32)


def rows_of(folder: Path, count: int, batch: int, rounds: int) -> list[dict[str, float]]:
    """Samples per second of each form, and the ratios to the bundle."""
    import datasets

    write_rows(folder, count)
    vectors: dict[str, Any] = {"wide": "vector", "narrow": "vector"}
    # cache_bytes is less than the numbers need, so that they are not kept in memory
    small: dict[str, Any] = {"target": "target", "split": "split", "statistics": count, "cache_bytes": 15_000_000}
    lists: dict[str, Any] = {**small, "inputs": {"image": Field("image", decode=pixels), **vectors}}
    arrays: dict[str, Any] = {**small, "inputs": {"image": "image", **vectors}}
    stored = datasets.load_from_disk(str(folder / "huggingface"))
    sets: dict[str, Any] = {
        "bundle": load(folder / "bundle"),
        **{
            f"parquet by row groups, {name}{layout}": from_rows(folder / f"{name}{layout}.parquet", **own)
            for name, own in (("lists", lists), (".npy", arrays))
            for layout in LAYOUTS
        },
        "parquet, cache": from_rows(folder / "lists.parquet", **lists, cache=folder / "cache"),
        "hugging face, cache": from_rows(stored, **lists, cache=folder / "cache"),
    }
    found = []
    for number in range(rounds):
        speed = {}
        for name, data in sets.items():
            batches = loader(data.train, batch, seed=number)
            timed(batches, len(batches))
            begin = time.process_time()
            samples = sum(len(own) for _ in range(5) for own in batches)
            speed[name] = samples / (time.process_time() - begin)
        found.append({**speed, **{f"ratio: {n}": s / speed["bundle"] for n, s in speed.items() if n != "bundle"}})
        print("rows, round", number, {key: round(value, 2) for key, value in found[-1].items()}, flush=True)
    return found


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    (folder / "rows").mkdir()
    rows = rows_of(folder / "rows", options.rows, options.batch, max(5, options.rounds))
    of_rows = {key: statistics.median(r[key] for r in rows) for key in rows[0] if key.startswith("ratio")}
    least = min(value for key, value in of_rows.items() if key.endswith("cache"))
    if options.only_rows:
        return {"rows": rows, "rows_ratios": of_rows, "least_rows_ratio": LEAST_ROWS_RATIO,
                "passed": least >= LEAST_ROWS_RATIO, "versions": versions()}  # fmt: skip
    write_raw(folder / "raw", options.distinct)
    begin = time.perf_counter()
    prepare.prepare("crema-d", folder / "raw", folder / "small", workers=options.workers)
    seconds = time.perf_counter() - begin
    print(f"prepared {options.distinct} clips in {seconds:.1f} s", flush=True)
    repeat_bundle(folder / "small", folder / "full", options.clips)

    preparation = prepare.get("crema-d")(folder / "raw", prepare.get("crema-d").Parameters())
    items = preparation.index().items
    data = load(folder / "full")
    rounds = []
    for number in range(options.rounds):
        few = Raw(preparation, items, 8 * options.batch)
        slow = timed(DataLoader(few, options.batch, num_workers=options.workers), 8)
        pair = {"raw": slow}
        for name, workers in (("prepared", options.workers), ("prepared, in place", 0)):
            # a new loader each time: all that is prefetched is counted
            batches = loader(data.train, options.batch, seed=number, num_workers=workers)
            pair[name] = timed(batches, len(batches))
        rounds.append({**pair, "ratio": pair["prepared"] / slow, "ratio in place": pair["prepared, in place"] / slow})
        print("round", number, {key: round(value, 1) for key, value in rounds[-1].items()}, flush=True)
    epochs = epochs_of(folder / "full", options.batch, options.workers)
    first, last = epochs[0], epochs[-1]
    total = {key: first["own"] + first["mapped"] if key == "first" else last["own"] + last["mapped"] for key in
             ("first", "last")}  # fmt: skip
    ratio, in_place = (statistics.median(r[key] for r in rounds) for key in ("ratio", "ratio in place"))
    growth = {"own": last["own"] / first["own"], "all": total["last"] / total["first"]}
    return {
        "clips": options.clips,
        "distinct": options.distinct,
        "batch": options.batch,
        "workers": options.workers,
        "bytes": sum(p.stat().st_size for p in (folder / "full").iterdir()),
        "rounds": rounds,
        "ratio": ratio,
        "ratio_in_place": in_place,
        "least_ratio": LEAST_RATIO,
        "epochs": epochs,
        "growth": growth,
        "most_growth": MOST_GROWTH,
        "rows": rows,
        "rows_ratios": of_rows,
        "least_rows_ratio": LEAST_ROWS_RATIO,
        "passed": min(ratio, in_place) >= LEAST_RATIO
        and max(growth.values()) <= MOST_GROWTH
        and least >= LEAST_ROWS_RATIO,
        "versions": versions(),
        "processor": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
    }


def versions() -> dict[str, str]:
    names = ("torch", "numpy", "av", "soundfile", "pyarrow", "datasets")
    return {name: importlib.metadata.version(name) for name in names}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=7442)
    parser.add_argument("--distinct", type=int, default=48)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--only-rows", action="store_true", help="leave the raw files out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", type=Path, default=None, help="where to work; default: the system's temporary folder")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/loader.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        result = run(options, Path(folder))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"rows {result['rows_ratios']} (with a cache at least {LEAST_ROWS_RATIO})")
    if "ratio" in result:
        print(
            f"ratio {result['ratio']:.1f} (at least {LEAST_RATIO}), growth {result['growth']} (at most {MOST_GROWTH})"
        )
    print(options.out)
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
