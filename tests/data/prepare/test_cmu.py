"""CMU-MOSI and CMU-MOSEI from pickles as MMSA and MulT have them."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from equimodal import MultimodalModel, PlainEngine
from equimodal.batch import Tokens
from equimodal.data import load, loader
from equimodal.data.prepare import check, prepare
from equimodal.encoders import for_modality
from equimodal.errors import DataError, UnknownNameError
from equimodal.fusion import Concat
from equimodal.methods import Joint

SIZES = {"train": 6, "valid": 3, "test": 3}
SCORES = [1.6, -0.8, 0.0, -3.0, 3.0, 0.2]


def mmsa(aligned: bool = True, videos: str = "own") -> dict[str, Any]:
    """What MMSA's aligned_50.pkl and unaligned_50.pkl hold, smaller."""
    rng = np.random.default_rng(0)
    content: dict[str, Any] = {}
    for part, n in SIZES.items():
        steps = {"text": 4, "audio": 4 if aligned else 6, "vision": 4 if aligned else 5}
        widths = {"text": 8, "audio": 5, "vision": 3}
        own = {m: rng.normal(size=(n, steps[m], widths[m])).astype(np.float32) for m in steps}
        bert = np.zeros((n, 3, 4))
        bert[:, 0] = [101, 7592, 102, 0]
        bert[:, 1] = [1, 1, 1, 0]
        own["text"][:, 3] = 0
        prefix = part if videos == "own" else "v"
        content[part] = {
            **own,
            "raw_text": np.array(["hello"] * n),
            "annotations": np.array(["Positive"] * n),
            "id": np.array([f"{prefix}{i // 2}$_${i + 1}" for i in range(n)]),
            "text_bert": bert,
            "classification_labels": np.ones(n),
            "regression_labels": np.array(SCORES[:n]),
        }
        if not aligned:
            content[part]["audio_lengths"] = [1 + i for i in range(n)]
            content[part]["vision_lengths"] = np.full(n, 5)
    return content


def mult() -> dict[str, Any]:
    """What MulT's mosi_data.pkl holds, smaller: float64, labels (N, 1, 1), names with start and end, padding first."""
    content: dict[str, Any] = {}
    for part, n in SIZES.items():
        rng = np.random.default_rng(len(part))
        own = {m: rng.normal(size=(n, 4, w)) for m, w in (("text", 6), ("audio", 5), ("vision", 2))}
        for array in own.values():
            array[0, :2] = 0
        ids = [[f"{part}video[{i}]".encode(), str(i).encode(), str(i + 1.5).encode()] for i in range(n)]
        content[part] = {**own, "id": ids, "labels": np.array(SCORES[:n]).reshape(n, 1, 1)}
    return content


def write(folder: Path, content: Any, name: str = "aligned_50.pkl", protocol: int = 4) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol))
    return folder


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return found


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_the_aligned_file_of_mmsa(tmp_path: Path, protocol: int) -> None:
    raw = write(tmp_path / "raw", mmsa(), "MOSI/Processed/aligned_50.pkl", protocol)
    report = prepare("cmu-mosi", raw, tmp_path / "out", workers=0)
    assert (report.samples, report.missing, report.incomplete) == (12, 0, 0)
    data = load(tmp_path / "out")
    assert data.parts == {"train": 6, "validation": 3, "test": 3}
    assert {m: d.shape for m, d in data.modalities.items()} == {"text": (4, 8), "audio": (4, 5), "vision": (4, 3)}
    assert data.protocol.name == "official"
    assert data.protocol.verified
    assert data.task.name == "regression"
    np.testing.assert_allclose(data.train.target.numpy(), SCORES, atol=1e-7)
    np.testing.assert_allclose(data.test.target.numpy(), SCORES[:3], atol=1e-7)


def test_values_and_masks_are_those_of_the_file(tmp_path: Path) -> None:
    content = mmsa(aligned=False)
    raw = write(tmp_path / "raw", content, "unaligned_50.pkl")
    prepare("cmu-mosi", raw, tmp_path / "out", workers=0, layout="unaligned")
    batch = load(tmp_path / "out").train.batch()
    text, audio, vision = (batch.inputs[m] for m in ("text", "audio", "vision"))
    assert isinstance(audio, Tokens)
    assert audio.mask.sum(1).tolist() == [1, 2, 3, 4, 5, 6]
    assert text.mask.tolist() == [[True, True, True, False]] * 6  # the mask of the token numbers
    assert bool(vision.mask.all())
    own = content["train"]["audio"].astype(np.float64)
    real = np.concatenate([own[i, : i + 1] for i in range(6)])
    expected = (own - real.mean(0)) / real.std(0)
    for i in range(6):
        np.testing.assert_allclose(audio.values[i, : i + 1].numpy(), expected[i, : i + 1], rtol=1e-4, atol=1e-5)
    assert not audio.values[~audio.mask].any()


def test_the_tokens_are_there_when_asked_for(tmp_path: Path) -> None:
    prepare("cmu-mosi", write(tmp_path / "raw", mmsa()), tmp_path / "out", workers=0)
    data = load(tmp_path / "out", modalities=["tokens", "audio"])
    assert data.train.batch([0]).inputs["tokens"].tolist() == [[101, 7592, 102, 0]]


def test_the_targets(tmp_path: Path) -> None:
    prepare("cmu-mosi", write(tmp_path / "raw", mmsa()), tmp_path / "out", workers=0)
    assert load(tmp_path / "out", target="non-negative").train.target.tolist() == [1, 0, 1, 0, 1, 1]
    positive = load(tmp_path / "out", target="positive")
    assert positive.train.target.tolist() == [1, 0, 0, 0, 1, 1]
    assert positive.classes == ("not positive", "positive")
    without = load(tmp_path / "out", target="positive", protocol="official-nonzero")
    assert without.parts == {"train": 5, "validation": 2, "test": 2}
    assert without.train.target.tolist() == [1, 0, 0, 1, 1]
    assert without.protocol.unused == 3


def test_the_file_of_mult(tmp_path: Path) -> None:
    content = mult()
    raw = write(tmp_path / "raw", content, "mosi_data.pkl", 2)
    prepare("cmu-mosi", raw, tmp_path / "out", workers=0)
    data = load(tmp_path / "out")
    text = data.train.batch().inputs["text"]
    assert text.mask[0].tolist() == [False, False, True, True]  # padding is at the front
    assert bool(text.mask[1:].all())
    ids, videos = np.load(tmp_path / "out" / "id.npy"), np.load(tmp_path / "out" / "video.npy")
    assert "trainvideo[0]" in ids.tolist()
    assert set(videos) == {"trainvideo", "validvideo", "testvideo"}
    stored = np.load(tmp_path / "out" / "audio.npy")
    keys = np.load(tmp_path / "out" / "key.npy").tolist()
    expected = content["test"]["audio"][1].astype(np.float32)
    np.testing.assert_array_equal(stored[keys.index("test-00001")], expected)


def test_mosei_has_its_own_file_names(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", mult(), "mosei_senti_data_noalign.pkl")
    assert prepare("cmu-mosei", raw, tmp_path / "out", workers=0, layout="unaligned").samples == 12
    with pytest.raises(DataError, match="unaligned_50.pkl or mosi_data_noalign.pkl. Found .'mosei_senti_data_noalign"):
        prepare("cmu-mosi", raw, tmp_path / "other", workers=0, layout="unaligned")
    assert prepare("cmu-mosi", raw, tmp_path / "named", file="mosei_senti_data_noalign.pkl", workers=0).samples == 12
    with pytest.raises(DataError, match=r"`file`: expected a pickle below .* Found no 'x.pkl'"):
        prepare("cmu-mosi", raw, tmp_path / "other", workers=0, file="x.pkl")


def test_what_is_not_finite_becomes_zero_and_is_counted(tmp_path: Path) -> None:
    content = mmsa()
    content["train"]["audio"][0, 0] = [-np.inf, np.nan, np.inf, -np.inf, 1.0]
    content["test"]["vision"][1, 2, 1] = np.nan
    raw = write(tmp_path / "raw", content)
    prepare("cmu-mosi", raw, tmp_path / "out", workers=0)
    cleaned = manifest(tmp_path / "out")["notes"]["cleaned"]
    assert cleaned["train"]["audio"] == {"-inf": 2, "inf": 1, "nan": 1}
    assert cleaned["test"]["vision"] == {"-inf": 0, "inf": 0, "nan": 1}
    assert cleaned["valid"]["text"] == {"-inf": 0, "inf": 0, "nan": 0}
    keys = np.load(tmp_path / "out" / "key.npy").tolist()
    assert np.load(tmp_path / "out" / "audio.npy")[keys.index("train-00000"), 0].tolist() == [0, 0, 0, 0, 1]


def test_a_sample_without_any_real_step_keeps_one_of_zeros(tmp_path: Path) -> None:
    content = mmsa()
    content["train"]["vision"][2] = 0
    prepare("cmu-mosi", write(tmp_path / "raw", content), tmp_path / "out", workers=0)
    assert manifest(tmp_path / "out")["notes"]["empty"]["train"] == {"text": 0, "audio": 0, "vision": 1}
    vision = load(tmp_path / "out").train.batch().inputs["vision"]
    assert vision.mask[2].tolist() == [True, False, False, False]


def test_a_score_that_is_not_there_is_a_missing_sample(tmp_path: Path) -> None:
    content = mmsa()
    content["train"]["regression_labels"][1] = np.nan
    raw = write(tmp_path / "raw", content)
    with pytest.raises(DataError, match="Found 1 of 12"):
        prepare("cmu-mosi", raw, tmp_path / "out", workers=0)
    assert prepare("cmu-mosi", raw, tmp_path / "out", workers=0, max_missing=0.1).samples == 11
    assert manifest(tmp_path / "out")["missing"] == [
        {"path": "aligned_50.pkl: train-00001", "reason": "its score is NaN"}
    ]


def test_videos_in_two_parts_are_not_passed_over_in_silence(tmp_path: Path) -> None:
    prepare("cmu-mosi", write(tmp_path / "raw", mmsa(videos="shared")), tmp_path / "out", workers=0)
    protocol = load(tmp_path / "out").protocol
    assert not protocol.disjoint
    assert protocol.shared == {"video": 2}


def broken(path: list[str], value: Any) -> dict[str, Any]:
    content = mmsa()
    place = content
    for name in path[:-1]:
        place = place[name]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], "expected a dictionary with train, valid and test. Found list"),
        (broken(["valid"], None), r"expected the part 'valid'. Found \['test', 'train'\]"),
        (broken(["train", "audio"], None), "part 'train': expected the field `audio`. Found"),
        (broken(["train", "regression_labels"], None), "expected the field `labels`"),
        (broken(["train", "audio"], np.zeros((6, 4))), r"`audio`: expected numbers of shape \(6, steps, features\)"),
        (broken(["train", "text"], np.full((6, 4, 8), "a")), "`text`: expected numbers of shape"),
        (
            broken(["train", "vision"], np.zeros((5, 4, 3))),
            r"`vision`: expected .*\(6, steps, .* Found float64 \(5, 4, 3\)",
        ),
        (broken(["test", "audio"], np.ones((3, 4, 6))), r"part 'test': `audio`: expected \(4, 5\) as in train"),
        (broken(["test", "id"], ["a"]), "`id`: expected 3 names. Found 1"),
        (broken(["train", "text_bert"], np.zeros((6, 2, 4))), r"`text_bert`: expected \(6, 3, steps\)"),
        (
            broken(["train", "audio_lengths"], [9] * 6),
            "`audio_lengths`: expected 0 to 4, the steps of `audio`. Found 9",
        ),
        (broken(["train", "audio_lengths"], [1]), "`audio_lengths`: expected 6 whole numbers"),
        (broken(["train", "regression_labels"], np.zeros((6, 7))), "expected one number per sample"),
        (broken(["train", "regression_labels"], np.full(6, 4.0)), "expected scores from -3 to 3. Found 4"),
        (broken(["train", "audio"], [np.zeros((4, 5)), np.zeros((3, 5))] * 3), "Found pieces of different shapes"),
        (mmsa(aligned=False), "same number of steps in every modality of an aligned file"),
    ],
)
def test_files_with_another_schema_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    raw = write(tmp_path / "raw", content)
    with pytest.raises(DataError, match=message):
        prepare("cmu-mosi", raw, tmp_path / "out", workers=0)
    assert not (tmp_path / "out").exists()


def test_two_files_of_one_layout_are_a_question(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", mmsa())
    write(raw, mult(), "mosi_data.pkl")
    with pytest.raises(DataError, match=r"Found \['aligned_50.pkl', 'mosi_data.pkl'\]. Name it with `file`"):
        prepare("cmu-mosi", raw, tmp_path / "out", workers=0)


class Hostile:
    def __init__(self, trace: str) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (self.trace,)


def test_a_hostile_file_does_not_run(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", {**mmsa(), "extra": Hostile(str(tmp_path / "it-ran"))})
    with pytest.raises(DataError, match="mkdir"):
        prepare("cmu-mosi", raw, tmp_path / "out", workers=0)
    assert not (tmp_path / "it-ran").exists()


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", mmsa())
    path = raw / "aligned_50.pkl"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="truncated, corrupt or foreign"):
        prepare("cmu-mosi", raw, tmp_path / "out", workers=0)


def test_wrong_parameters_are_refused(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", mmsa())
    with pytest.raises(DataError, match="`layout`: expected one of"):
        prepare("cmu-mosi", raw, tmp_path / "out", layout="word")
    with pytest.raises(UnknownNameError, match="Did you mean 'layout'"):
        prepare("cmu-mosi", raw, tmp_path / "out", layuot="aligned")


def test_two_runs_are_equal_and_a_changed_file_is_seen(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", mmsa())
    first, second = (prepare("cmu-mosi", raw, tmp_path / name, workers=0) for name in ("one", "two"))
    assert first.fingerprint == second.fingerprint
    assert load(tmp_path / "one").fingerprint == load(tmp_path / "two").fingerprint
    assert check(tmp_path / "one", source=raw).ok
    content = mmsa()
    content["train"]["audio"][0, 0, 0] += 1
    write(raw, content)
    assert not check(tmp_path / "one", source=raw).ok
    third = prepare("cmu-mosi", raw, tmp_path / "three", workers=0)
    assert third.fingerprint != first.fingerprint


@pytest.mark.parametrize("target", ["score", "positive"])
def test_a_step_of_training(tmp_path: Path, target: str) -> None:
    prepare("cmu-mosi", write(tmp_path / "raw", mmsa(aligned=False), "unaligned_50.pkl"), tmp_path / "out", workers=0,
            layout="unaligned")  # fmt: skip
    data = load(tmp_path / "out", target=target)
    torch.manual_seed(0)
    encoders = {name: for_modality(spec, out_features=4) for name, spec in data.modalities.items()}
    model = MultimodalModel(encoders, Concat(dict.fromkeys(encoders, 4)), torch.nn.Linear(12, data.task.outputs))
    method = Joint(model, data.task)
    engine = PlainEngine(torch.optim.AdamW(method.parameters(), lr=0.01))
    losses = []
    for epoch in range(8):
        batches = loader(data.train, 3, seed=0)
        batches.set_epoch(epoch)
        losses += [float(method.training_step(batch, engine).losses["joint"]) for batch in batches]
    assert np.mean(losses[-2:]) < np.mean(losses[:2])
