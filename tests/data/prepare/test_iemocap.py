"""IEMOCAP from its session folders, and from the feature files of MMIN."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from equimodal.batch import Tokens
from equimodal.data import load
from equimodal.data.prepare import UnreadableError, check, prepare
from equimodal.data.prepare.readers import _faces, frames_at, log_mel
from equimodal.errors import DataError
from tests.data.prepare.iemocap import manifest, stored, train_a_little, turn_name
from tests.data.prepare.media import cut, flat_frames, tone, write_video, write_wav

for module in ("av", "soundfile", "soxr", "h5py"):
    pytest.importorskip(module)
Array = npt.NDArray[Any]
RATE, FPS = 16000, 5
CODES = ("neu", "ang", "sad", "hap", "exc", "fru", "xxx")
SMALL: dict[str, Any] = {"seconds": 0.5, "bands": 8, "size": 16, "length": 6, "min_count": 1, "workers": 0}
WORDS = {"neu": "Excuse me.", "ang": "Get out!", "sad": "I'm alone.", "hap": "How lovely.", "exc": "I won, I won!"}


def write_dialogue(folder: Path, session: int, marker: str) -> None:
    """Seven utterances of a second, every 1.5 s; the film is a level of gray per second, its right half lighter."""
    name = f"Ses0{session}{marker}_impro01"
    dialog = folder / f"Session{session}" / "dialog"
    labels = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
    lines = []
    for number, code in enumerate(CODES):
        start, turn = 0.5 + 1.5 * number, turn_name(session, marker, number)
        labels.append(f"[{start:.4f} - {start + 1:.4f}]\t{turn}\t{code}\t[2.5000, 2.5000, 2.5000]")
        labels += ["C-E2:\tNeutral;\t()", "A-E3:\tval 3; act 2; dom 2;\t()", ""]
        lines.append(f"{turn} [{start:08.4f}-{start + 1:08.4f}]: {WORDS.get(code, 'Well.')}")
        sound = tone(0.3, RATE, 200.0 + 100 * number)
        write_wav(folder / f"Session{session}" / "sentences" / "wav" / name / f"{turn}.wav", sound, RATE)
    lines += ["M: [breathing]", f"Ses0{session}{marker}_impro01_FXX0 [012.0000-012.5000]: [LAUGHTER]"]
    for place, content in (("EmoEvaluation", labels), ("transcriptions", lines)):
        path = dialog / place / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(content) + "\n")
    frames = flat_frames([16 * (i // FPS) for i in range(12 * FPS)], 96, 144)
    write_video(dialog / "avi" / "DivX" / f"{name}.avi", frames, FPS, "mpeg4")


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("iemocap")
    for session in (1, 2, 3):
        for marker in "FM":
            write_dialogue(folder, session, marker)
    (folder / "Session1" / "dialog" / "EmoEvaluation" / "._Ses01F_impro01.txt").write_bytes(b"\x00\x05\x16\x07")
    (folder / "Session1" / "dialog" / "EmoEvaluation" / "Categorical").mkdir()
    return folder


@pytest.fixture
def raw(release: Path, tmp_path: Path) -> Path:
    """A copy whose files can be spoilt."""
    import shutil

    return Path(shutil.copytree(release, tmp_path / "raw"))


def test_counts_labels_and_speakers(release: Path, tmp_path: Path) -> None:
    report = prepare("iemocap", release, tmp_path / "out", **SMALL)
    assert (report.samples, report.missing) == (30, 0)  # 6 dialogues, 5 of 7 utterances
    data = load(tmp_path / "out")
    assert data.classes == ("angry", "happy", "neutral", "sad")
    keys = stored(tmp_path / "out", "key").tolist()
    emotion = dict(zip(keys, stored(tmp_path / "out", "emotion").tolist()))
    assert [emotion[turn_name(2, "M", n)] for n in range(5)] == [2, 0, 3, 1, 1]  # neu ang sad hap exc
    speaker = dict(zip(keys, stored(tmp_path / "out", "speaker").tolist()))
    assert speaker[turn_name(2, "M", 0)] == "Ses02F"
    assert speaker[turn_name(2, "M", 1)] == "Ses02M"
    found = manifest(tmp_path / "out")
    assert found["notes"]["labels"] == dict.fromkeys(sorted(CODES), 6)
    assert [p["path"] for p in found["ignored"]] == ["Session1/dialog/EmoEvaluation/._Ses01F_impro01.txt"]


def test_excited_can_be_left_out(release: Path, tmp_path: Path) -> None:
    assert prepare("iemocap", release, tmp_path / "out", excited="drop", **SMALL).samples == 24
    assert (stored(tmp_path / "out", "emotion") == 1).sum() == 6


def test_the_folds_keep_speakers_apart(release: Path, tmp_path: Path) -> None:
    prepare("iemocap", release, tmp_path / "out", **SMALL)
    speaker, tested = stored(tmp_path / "out", "speaker"), []
    for session in (1, 2, 3):
        data = load(tmp_path / "out", protocol=f"session{session}")
        assert data.protocol.verified
        assert data.parts == {"train": 10, "validation": 10, "test": 10}
        tested += sorted(set(speaker[data.test.rows.numpy()]))
        assert set(speaker[data.validation.rows.numpy()]) == {f"Ses0{session % 3 + 1}{g}" for g in "FM"}
    assert tested == [f"Ses0{s}{g}" for s in (1, 2, 3) for g in "FM"]


def test_the_frame_is_of_the_speaker_in_the_middle_of_the_utterance(release: Path, tmp_path: Path) -> None:
    prepare("iemocap", release, tmp_path / "out", **SMALL)
    keys, video = stored(tmp_path / "out", "key").tolist(), stored(tmp_path / "out", "video").astype(int)
    assert video.shape == (30, 3, 1, 16, 16)
    for number in range(5):
        second = int(0.5 + 1.5 * number + 0.5)  # the middle of the utterance
        left = video[keys.index(turn_name(1, "F" if number % 2 == 0 else "M", number))]  # who wears markers
        right = video[keys.index(turn_name(1, "M" if number % 2 == 0 else "F", number))]
        assert abs(left - 16 * second).max() < 8
        assert abs(right - (16 * second + 20)).max() < 8


def test_crops(release: Path, tmp_path: Path) -> None:
    prepare("iemocap", release, tmp_path / "full", crop="full", frames=2, **SMALL)
    full = stored(tmp_path / "full", "video").astype(int)
    assert full.shape == (30, 3, 2, 16, 16)
    assert (full[..., 12] - full[..., 3] > 12).all()
    prepare("iemocap", release, tmp_path / "half", crop="half", **SMALL)
    half = stored(tmp_path / "half", "video").astype(int)
    assert (half.max((1, 2, 3, 4)) - half.min((1, 2, 3, 4)) < 10).all()


def test_faces_are_looked_for_in_the_speakers_part(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("skimage")
    prepare("iemocap", release, tmp_path / "speaker", frames=2, **SMALL)
    prepare("iemocap", release, tmp_path / "none", crop="face", frames=2, **SMALL)
    assert stored(tmp_path / "none", "face").tolist() == [[0, 0]] * 30
    np.testing.assert_array_equal(stored(tmp_path / "none", "video"), stored(tmp_path / "speaker", "video"))
    seen = []

    def found(frame: Array) -> _faces.Square | None:
        seen.append(frame.shape)
        return _faces.Square(10, 12, 20) if len(seen) % 2 else None

    monkeypatch.setattr(_faces, "find_face", found)
    prepare("iemocap", release, tmp_path / "faces", crop="face", frames=2, margin=0, **SMALL)
    assert set(seen) == {(52, 52, 3)}  # rows 22 to 73 of 96, columns 10 to 61 of 72
    assert stored(tmp_path / "faces", "face").tolist() == [[2, 1]] * 30
    assert len(seen) == 60  # each frame once, for both arrays


def test_the_words(release: Path, tmp_path: Path) -> None:
    prepare("iemocap", release, tmp_path / "out", **SMALL)
    vocabulary = (tmp_path / "out" / "vocabulary.txt").read_text().splitlines()
    row = stored(tmp_path / "out", "key").tolist().index(turn_name(3, "F", 1))
    ids = stored(tmp_path / "out", "text")[row]
    length = int(stored(tmp_path / "out", "text_length")[row])
    assert [vocabulary[i] for i in ids[:length]] == ["get", "out", "!"]
    assert not ids[length:].any()
    text = load(tmp_path / "out").train.batch([0]).inputs["text"]
    assert isinstance(text, Tokens)
    assert text.values.dtype == torch.int64
    assert int(text.mask.sum()) == int(stored(tmp_path / "out", "text_length")[load(tmp_path / "out").train.rows[0]])


def test_the_filter_bank_is_that_of_the_wav(release: Path, tmp_path: Path) -> None:
    prepare("iemocap", release, tmp_path / "out", **SMALL)
    import soundfile

    name = turn_name(1, "F", 3)
    samples, _ = soundfile.read(release / "Session1" / "sentences" / "wav" / "Ses01F_impro01" / f"{name}.wav")
    audio = stored(tmp_path / "out", "audio")[stored(tmp_path / "out", "key").tolist().index(name)]
    assert audio.shape == (1, 8, 50)
    expected = kaldi(samples.astype(np.float32), RATE, 8)
    assert len(expected) == 28  # 0.3 s: 1 + (4800 - 400) // 160
    np.testing.assert_allclose(audio[0, :, :28], expected.T, atol=2e-3)
    assert not audio[0, :, 28:].any()


def kaldi(samples: Array, rate: int, bands: int) -> Array:
    """Kaldi's filter bank, step by step in float64."""
    samples = samples.astype(np.float64) - samples.astype(np.float64).mean()
    size, step, points = rate * 25 // 1000, rate * 10 // 1000, 512
    mel = [1127 * np.log(1 + f / 700) for f in (20, rate / 2)]
    edges = np.linspace(mel[0], mel[1], bands + 2)
    rows = []
    for start in range(0, len(samples) - size + 1, step):
        frame = samples[start : start + size] - samples[start : start + size].mean()
        emphasised = np.array([frame[i] - 0.97 * frame[max(i - 1, 0)] for i in range(size)])
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / (size - 1))
        padded = np.zeros(points)
        padded[:size] = emphasised * window
        power = np.abs(np.fft.fft(padded))[: points // 2] ** 2
        row = []
        for b in range(bands):
            total = 0.0
            for k in range(points // 2):
                m = 1127 * np.log(1 + k * rate / points / 700)
                rise = (m - edges[b]) / (edges[b + 1] - edges[b])
                fall = (edges[b + 2] - m) / (edges[b + 2] - edges[b + 1])
                total += max(0.0, min(rise, fall)) * power[k]
            row.append(np.log(max(total, float(np.finfo(np.float32).eps))))
        rows.append(row)
    return np.array(rows)


def test_log_mel_against_its_definition() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 800).astype(np.float32)
    np.testing.assert_allclose(log_mel(noise, RATE, 5), kaldi(noise, RATE, 5), rtol=1e-5)
    with pytest.raises(UnreadableError, match="less than one frame"):
        log_mel(noise[:300], RATE, 5)


def test_log_mel_against_transformers() -> None:
    utilities = pytest.importorskip("transformers.audio_utils")
    rate = 16000
    noise = np.random.default_rng(1).normal(0, 0.1, rate)
    weights = utilities.mel_filter_bank(
        257, 23, 20.0, rate / 2, rate, mel_scale="kaldi", triangularize_in_mel_space=True
    )
    theirs = utilities.spectrogram(
        noise - noise.mean(), utilities.window_function(400, "hann", periodic=False), 400, 160, fft_length=512,
        power=2.0, center=False, preemphasis=0.97, mel_filters=weights, log_mel="log", remove_dc_offset=True,
        mel_floor=np.finfo(np.float32).eps,
    )  # fmt: skip
    np.testing.assert_allclose(log_mel(noise, rate, 23), theirs.T, rtol=0, atol=2e-6)


def test_a_spectrogram_instead(release: Path, tmp_path: Path) -> None:
    prepare("iemocap", release, tmp_path / "out", audio="stft", **SMALL)
    assert load(tmp_path / "out").modalities["audio"].shape == (1, 257, 51)


def test_frames_of_a_part_of_a_video(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", flat_frames([4 * i for i in range(50)]), FPS, "mpeg4")
    for seconds in ([0.0, 0.1, 0.25], [7.05, 9.9], [3.0]):
        found = [float(f[:, :20].mean()) for f in frames_at(path, seconds)]
        assert found == pytest.approx([4 * int(s * FPS) for s in seconds], abs=3)
    with pytest.raises(UnreadableError, match="ends before 11.00 s"):
        frames_at(path, [9.0, 11.0])


def test_lists_of_mla_are_marked_as_overlapping(release: Path, tmp_path: Path) -> None:
    lists = tmp_path / "lists"
    lists.mkdir()
    turns = [turn_name(s, g, n) for s in (1, 2, 3) for g in "FM" for n in range(5)]
    sides = {"train": turns[:20], "test": turns[20:25]}
    for part, names in sides.items():
        text = "".join(f"{name}.mp4 [split|sign] Hm. [split|sign] Sad\n" for name in names)
        (lists / f"my_{part}_iemo.txt").write_text(text)
    prepare("iemocap", release, tmp_path / "out", lists=str(lists), **SMALL)
    data = load(tmp_path / "out", protocol="mla")
    assert data.parts == {"train": 20, "validation": 5, "test": 5}
    assert not data.protocol.disjoint
    assert data.protocol.shared["speaker"] > 0
    (lists / "my_test_iemo.txt").write_text("Ses09F_impro01_F000.mp4 [split|sign] Hm. [split|sign] Sad\n")
    with pytest.raises(DataError, match="Ses09F_impro01_F000: in the lists, and not among the utterances"):
        prepare("iemocap", release, tmp_path / "other", lists=str(lists), **SMALL)
    (lists / "my_test_iemo.txt").write_text(f"{turns[0]}.mp4 [split|sign] Hm. [split|sign] Sad\n")
    with pytest.raises(DataError, match=f"Found {turns[0]} in two"):
        prepare("iemocap", release, tmp_path / "other", lists=str(lists), **SMALL)
    (lists / "my_test_iemo.txt").write_text("something\n")
    with pytest.raises(DataError, match="line 1: expected SesNNG_NAME.mp4"):
        prepare("iemocap", release, tmp_path / "other", lists=str(lists), **SMALL)


def test_the_fold_of_the_feature_files(release: Path, tmp_path: Path) -> None:
    lists = tmp_path / "lists"
    lists.mkdir()
    with pytest.raises(DataError, match="`lists`: expected my_train_iemo.txt"):
        prepare("iemocap", release, tmp_path / "out", lists=str(lists), **SMALL)
    for stem, session in (("trn", 1), ("val", 2), ("tst", 3)):
        names = [turn_name(session, g, n) for g in "FM" for n in range(5)]
        np.save(lists / f"{stem}_int2name.npy", np.array(names, dtype="S").reshape(-1, 1))
    prepare("iemocap", release, tmp_path / "out", lists=str(lists), **SMALL)
    data = load(tmp_path / "out", protocol="cggm")
    assert data.parts == {"train": 10, "validation": 10, "test": 10}
    assert data.protocol.verified


def test_holes_and_spoilt_files_are_listed(raw: Path, tmp_path: Path) -> None:
    wav = raw / "Session1" / "sentences" / "wav" / "Ses01F_impro01"
    (wav / f"{turn_name(1, 'F', 0)}.wav").unlink()
    cut(wav / f"{turn_name(1, 'F', 1)}.wav", 0.5)
    (wav / f"{turn_name(1, 'F', 2)}.wav").write_bytes(b"")
    write_wav(wav / f"{turn_name(1, 'F', 3)}.wav", tone(0.01, RATE), RATE)
    cut(raw / "Session2" / "dialog" / "avi" / "DivX" / "Ses02M_impro01.avi", 0.5)
    words = raw / "Session3" / "dialog" / "transcriptions" / "Ses03F_impro01.txt"
    words.write_text(words.read_text().replace(f"{turn_name(3, 'F', 2)} ", "Ses03F_nothing "))
    with pytest.raises(DataError, match="expected at most 1.00% of the samples missing"):
        prepare("iemocap", raw, tmp_path / "out", **SMALL)
    report = prepare("iemocap", raw, tmp_path / "out", max_missing=0.5, **SMALL)
    problems = {(p["sample"], p["array"]): p["reason"] for p in manifest(tmp_path / "out")["unreadable"]}
    assert problems[turn_name(1, "F", 0), "audio"] == "no such file"
    assert "of" in problems[turn_name(1, "F", 1), "audio"]
    assert problems[turn_name(1, "F", 2), "audio"] == "an empty file"
    assert "less than one frame" in problems[turn_name(1, "F", 3), "audio"]
    assert problems[turn_name(3, "F", 2), "text"] == f"has no line for {turn_name(3, 'F', 2)}"
    films = [key for key, array in problems if array == "video"]
    assert films
    assert {name[:6] for name in films} == {"Ses02M"}  # what begins after the cut
    assert report.missing == 5 + len(films)
    kept = prepare("iemocap", raw, tmp_path / "kept", max_missing=0.9, incomplete="keep", **SMALL)
    assert (kept.samples, kept.missing, kept.incomplete) == (30, 0, report.missing)
    assert set(load(tmp_path / "kept").train.present) | set(load(tmp_path / "kept").test.present) == {
        "audio", "video", "text",
    }  # fmt: skip


def test_other_places(raw: Path, tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    outer.mkdir()
    raw.rename(outer / "IEMOCAP_full_release")
    inner = outer / "IEMOCAP_full_release" / "Session1" / "dialog" / "avi"
    for film in (inner / "DivX").iterdir():
        film.rename(inner / film.name)
    assert prepare("iemocap", outer, tmp_path / "out", **SMALL).samples == 30
    with pytest.raises(DataError, match="expected Session1 to Session5. Found"):
        prepare("iemocap", inner, tmp_path / "no", **SMALL)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"excited": "yes"}, "`excited`"),
        ({"crop": "mouth"}, "`crop`"),
        ({"margin": -1}, "`margin`"),
        ({"seconds": 0}, "`seconds`"),
    ],
)
def test_wrong_parameters_are_refused(release: Path, tmp_path: Path, parameters: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"{message}: expected"):
        prepare("iemocap", release, tmp_path / "out", **{**SMALL, **parameters})


def test_two_runs_are_equal_and_a_changed_file_is_seen(raw: Path, tmp_path: Path) -> None:
    first = prepare("iemocap", raw, tmp_path / "one", **SMALL)
    second = prepare("iemocap", raw, tmp_path / "two", **{**SMALL, "workers": 2})
    assert first.fingerprint == second.fingerprint
    name = turn_name(1, "F", 0)
    write_wav(raw / "Session1" / "sentences" / "wav" / "Ses01F_impro01" / f"{name}.wav", tone(0.3, RATE, 999), RATE)
    assert not check(tmp_path / "one", source=raw).ok


def test_a_step_of_training(release: Path, tmp_path: Path) -> None:
    prepare("iemocap", release, tmp_path / "out", **SMALL)
    losses = train_a_little(tmp_path / "out", ["audio"])
    assert np.mean(losses[-2:]) < np.mean(losses[:2])
