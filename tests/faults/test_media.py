"""Sound, pictures, films and volumes: what is whole is read rightly, everything else is refused with its reason."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from equimodal.data.prepare import UnreadableError
from equimodal.data.prepare.readers import (
    frames_at,
    grid_frames,
    read_image,
    read_sound,
    read_volume,
    same_place,
    standardised,
    whole_numbers,
)
from tests.data.prepare.media import flat_frames, write_video
from tests.faults.families import attempt, many

av = pytest.importorskip("av")
image_module = pytest.importorskip("PIL.Image")
soundfile = pytest.importorskip("soundfile")
nibabel = pytest.importorskip("nibabel")
pytest.importorskip("soxr")
Array = npt.NDArray[Any]

# ---- sound -----------------------------------------------------------------------------------------------------------


def wave(count: int, rate: int, pitch: float) -> Array:
    return 0.4 * np.sin(2 * np.pi * pitch * np.arange(count) / rate)


def wav_bytes(samples: Array, rate: int, coded: str) -> bytes:
    """A wav file of one channel, by hand: the data chunk is the last one."""
    tag, width = {"16": (1, 2), "32": (1, 4), "float": (3, 4), "double": (3, 8)}[coded]
    if tag == 1:
        data = np.round(samples * (2 ** (8 * width - 1) - 1)).astype(f"<i{width}").tobytes()
    else:
        data = samples.astype(f"<f{width}").tobytes()
    fmt = b"fmt " + struct.pack("<IHHIIHH", 16, tag, 1, rate, rate * width, width, 8 * width)
    body = fmt + b"data" + struct.pack("<I", len(data)) + data
    content: bytes = b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body
    return content


def test_a_wav_is_whole_if_its_samples_are_whatever_its_sizes_say(tmp_path: Path) -> None:
    path, whole, cut = tmp_path / "a.wav", 0, 0
    for rng in many(80, seed=70):
        rate, coded = int(rng.choice([8000, 16000])), str(rng.choice(["16", "32", "float", "double"]))
        samples = wave(int(rng.integers(2000, 6000)), rate, float(rng.integers(200, 2000)))
        content = bytearray(wav_bytes(samples, rate, coded))
        start = content.index(b"data")
        if rng.integers(2):  # a chunk in between, of odd length and padded
            note = b"LIST" + struct.pack("<I", 5) + b"hello\0"
            content[start:start] = note
            start += len(note)
        content[4:8] = struct.pack("<I", int(rng.choice([0, 8, len(content), len(content) * 3, 0xFFFFFFFF, 36])))
        if rng.integers(2):
            lost = int(rng.integers(16, len(content) - start - 8))
            path.write_bytes(bytes(content[:-lost]))
            with pytest.raises(UnreadableError, match=r"ends (after \d+ of \d+ bytes of sound|before)"):
                read_sound(path, rate)
            cut += 1
        else:
            path.write_bytes(bytes(content) + b"more" * int(rng.integers(3)))
            np.testing.assert_allclose(read_sound(path, rate), samples, atol=1e-4)
            whole += 1
    assert min(whole, cut) > 20


def test_sound_is_in_its_range_or_refused_with_a_share(tmp_path: Path) -> None:
    path, refused, right = tmp_path / "a.wav", 0, 0
    for rng in many(60, seed=71):
        samples = wave(8000, 16000, 440.0)
        scale = float(rng.choice([1.0, 0.01, 2.4, 2.6, 10.0, 128.0, 32768.0, 2.0**31]))
        given = samples * scale
        spoilt = int(rng.integers(3)) == 0
        if spoilt:
            given[rng.integers(8000)] = rng.choice([np.nan, np.inf, -np.inf])
        path.write_bytes(wav_bytes(given, 16000, str(rng.choice(["float", "double"]))))
        found, message = attempt(read_sound, path, 16000)
        if found is None:
            refused += 1
            assert "NaN or infinite" in message if spoilt else "% of its samples are beyond" in message
            assert spoilt or scale > 2.5
        else:
            right += 1
            assert not spoilt
            np.testing.assert_allclose(found, given, atol=1e-5 * max(scale, 1))
    assert min(refused, right) > 10


def test_nothing_is_left_of_a_sound_that_is_too_short(tmp_path: Path) -> None:
    for count, rate in itertools.product(range(6), (8000, 16000, 48000, 96000)):
        (tmp_path / "a.wav").write_bytes(wav_bytes(wave(count, rate, 440.0), rate, "float"))
        found, message = attempt(read_sound, tmp_path / "a.wav", 16000)
        assert (found is not None and len(found) > 0) or "no sound" in message or "too short" in message


def test_a_sound_whose_rate_changes_is_refused(tmp_path: Path) -> None:
    def piece(rate: int) -> bytes:
        with av.open(str(tmp_path / "x.aac"), "w", format="adts") as box:
            stream = box.add_stream("aac", rate=rate)
            stream.layout = "mono"
            frame = av.AudioFrame.from_ndarray(wave(rate, rate, 440.0).astype(np.float32)[None], "fltp", "mono")
            frame.sample_rate, frame.pts = rate, 0
            box.mux([*stream.encode(frame), *stream.encode(None)])
        return (tmp_path / "x.aac").read_bytes()

    for first, second in itertools.permutations((22050, 44100, 48000), 2):
        (tmp_path / "a.mp4").write_bytes(piece(first) + piece(second))
        with pytest.raises(UnreadableError, match=f"changes from {first} to {second} Hz"):
            read_sound(tmp_path / "a.mp4", 16000)
        (tmp_path / "a.mp4").write_bytes(piece(first) + piece(first))
        sound = read_sound(tmp_path / "a.mp4", 16000)[4000:12000]
        assert abs(np.abs(np.fft.rfft(sound * np.hanning(8000))).argmax() * 2 - 440) <= 4


# ---- films -----------------------------------------------------------------------------------------------------------


def film(path: Path, times: list[float], levels: list[int], total: float) -> Path:
    """An H.264 film with a flat picture at each time; the last one is shown until ``total`` seconds."""
    with av.open(str(path), "w") as box:
        stream = box.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.options = 64, 48, "yuv420p", {"bf": "0"}
        stream.codec_context.time_base = Fraction(1, 1000)
        packets: list[Any] = []
        for time, picture in zip(times, flat_frames(levels), strict=True):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for packet, begin, end in zip(packets, times, [*times[1:], total], strict=True):
            packet.duration = round((end - begin) * 1000)
            box.mux(packet)
    return path


def test_every_frame_has_its_own_time(tmp_path: Path) -> None:
    for number, rng in enumerate(many(12, seed=72)):
        steps = rng.choice([0.04, 0.1, 0.5, 1.0, 1.5], size=int(rng.integers(4, 9)))
        times = [0.0, *np.round(np.cumsum(steps), 3).tolist()]
        levels = [int(v) for v in rng.permutation(np.arange(20, 220, 20))[: len(times)]]
        last = times[-1] + float(rng.choice([0.04, 2.0, 8.0]))
        path = film(tmp_path / f"{number}.{['mp4', 'mkv'][rng.integers(2)]}", times, levels, last)
        expected, grid = [], 0.0
        for time, level in zip(times, levels, strict=True):
            if time >= grid:
                expected.append(level)
                grid = len(expected) * 0.5
        np.testing.assert_allclose([f[5, 5, 0] for f in grid_frames(path, 2.0)], expected, atol=5)
        asked = sorted(float(t) for t in np.round(rng.uniform(0.05, min(last - 0.05, times[-1] + 1), size=3), 3))
        shown = [levels[int(np.searchsorted(times, t, side="right")) - 1] for t in asked]
        np.testing.assert_allclose([f[5, 5, 0] for f in frames_at(path, asked)], shown, atol=5)
        with pytest.raises(UnreadableError, match="ends before"):
            frames_at(path, [last + 1.0])


def test_frames_are_turned_and_mirrored_as_the_file_says(tmp_path: Path) -> None:
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :32], picture[24:, :32], picture[:24, 32:] = 200, 130, 60
    path = write_video(tmp_path / "a.mp4", [picture] * 5, 10, "h264")
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 44
    for flat in ((1, 0, 0, 1), (-1, 0, 0, 1), (1, 0, 0, -1), (-1, 0, 0, -1),
                 (0, 1, 1, 0), (0, 1, -1, 0), (0, -1, 1, 0), (0, -1, -1, 0)):  # fmt: skip
        a, b, c, d = flat
        content[place : place + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
        path.write_bytes(bytes(content))
        corners = {(x, y): int(picture[8 if y < 0 else -8, 8 if x < 0 else -8, 0]) for x in (-1, 1) for y in (-1, 1)}
        expected = {(a * x + c * y, b * x + d * y): level for (x, y), level in corners.items()}
        (shown,) = grid_frames(path, 1.0)
        assert shown.shape[:2] == ((48, 64) if b == 0 else (64, 48))
        found = {(x, y): int(shown[6 if y < 0 else -6, 6 if x < 0 else -6, 0]) for x, y in expected}
        assert all(abs(found[k] - expected[k]) < 8 for k in expected), flat
    content[place : place + 36] = struct.pack(">9i", 46341, 46341, 0, -46341, 46341, 0, 0, 0, 1 << 30)
    path.write_bytes(bytes(content))
    with pytest.raises(UnreadableError, match="no quarter turn"):
        grid_frames(path, 1.0)


# ---- pictures --------------------------------------------------------------------------------------------------------


RANGES: list[tuple[Any, float]] = [
    (np.uint8, 1.0), (np.int32, 1.0), (np.uint16, 1.0), (np.float32, 1.0), (np.float32, 1 / 255), (np.uint16, 257.0),
    (np.int32, 257.0), (np.float32, 257.0), (np.uint16, 4.0), (np.int32, 1e6), (np.float32, -1.0), (np.int32, 16.0),
]  # fmt: skip


def test_a_picture_has_its_brightness_whatever_its_type_or_is_refused(tmp_path: Path) -> None:
    refused = right = 0
    for rng in many(60, seed=73):
        grey = rng.integers(0, 256, (20, 30))
        grey[0, 0] = 255
        kind, scale = RANGES[rng.integers(len(RANGES))]
        values = (grey * scale).astype(kind)
        if kind is np.float32 and not rng.integers(4):
            values[3, 3], scale = [np.nan, np.inf][rng.integers(2)], np.nan
        path = tmp_path / "a.tiff"
        image_module.fromarray(values).save(path)
        found, message = attempt(read_image, path, 16)
        if found is None:
            refused += 1
            assert "what is white" in message or "NaN" in message
            assert scale not in (1.0, 1 / 255)
            assert scale != 257.0 or kind is np.float32
        else:
            right += 1
            assert abs(float(found.mean()) - grey.mean()) < 3
    assert min(refused, right) > 10


def test_a_picture_is_turned_as_its_camera_noted(tmp_path: Path) -> None:
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[:20, :30], picture[20:, :30], picture[:20, 30:] = 200, 130, 60
    turns: dict[int, Callable[[Array], Array]] = {
        1: lambda p: p, 2: lambda p: p[:, ::-1], 3: lambda p: p[::-1, ::-1], 4: lambda p: p[::-1],
        5: lambda p: p.swapaxes(0, 1), 6: lambda p: np.rot90(p, -1), 7: lambda p: np.rot90(p.swapaxes(0, 1), 2),
        8: lambda p: np.rot90(p, 1),
    }  # fmt: skip
    for orientation, turn in turns.items():
        image = image_module.fromarray(picture)
        exif = image.getexif()
        exif[0x0112] = orientation
        image.save(tmp_path / "a.png", exif=exif)
        image_module.fromarray(np.ascontiguousarray(turn(picture))).save(tmp_path / "b.png")
        assert np.array_equal(read_image(tmp_path / "a.png", 16), read_image(tmp_path / "b.png", 16)), orientation


# ---- volumes ---------------------------------------------------------------------------------------------------------

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def stored(values: Array, affine: Array, order: tuple[int, ...], mirror: tuple[int, ...]) -> Any:
    """The same volume with its axes in another order, some of them backwards; the affine says so."""
    change = np.stack([np.array(order, float), np.array(mirror, float)], 1)
    turned = nibabel.orientations.apply_orientation(values, change)
    return nibabel.Nifti1Image(turned, affine @ nibabel.orientations.inv_ornt_aff(change, values.shape))


def test_a_volume_is_the_same_in_all_48_orientations(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(1, 999, (6, 7, 5)).astype(np.int16)
    affine = LPS @ np.array([[1, 0, 0, -12.0], [0, 1.5, 0, 4], [0, 0, 2, 9], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / "first.nii")
    first = read_volume(tmp_path / "first.nii")
    assert np.array_equal(first.values, values)
    for order in itertools.permutations(range(3)):
        for mirror in itertools.product((1, -1), repeat=3):
            nibabel.save(stored(values, affine, order, mirror), tmp_path / "other.nii")
            other = read_volume(tmp_path / "other.nii")
            same_place(other, first)
            assert np.array_equal(other.values, values), (order, mirror)


def test_a_volume_that_lies_elsewhere_is_refused(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(1, 999, (6, 7, 5)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, LPS), tmp_path / "a.nii")
    first = read_volume(tmp_path / "a.nii")
    for rng in many(30, seed=74):
        moved = LPS.copy()
        how = int(rng.integers(3))
        if how == 0:
            moved[int(rng.integers(3)), 3] += float(rng.choice([-1, 1])) * float(rng.uniform(0.2, 50))
        elif how == 1:
            moved[int(rng.integers(3))] *= float(rng.choice([0.5, 0.9, 1.1, 2.0]))
        else:
            turn = float(rng.choice([-1, 1])) * float(rng.uniform(0.1, 0.7))
            moved[:2, :2] = moved[:2, :2] @ [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
        nibabel.save(nibabel.Nifti1Image(values, moved), tmp_path / "b.nii")
        with pytest.raises(UnreadableError, match="voxels beside the outline"):
            same_place(read_volume(tmp_path / "b.nii"), first)
    nowhere = nibabel.Nifti1Image(values, None)
    nibabel.save(nowhere, tmp_path / "c.nii")
    with pytest.raises(UnreadableError, match="does not say where it lies"):
        same_place(read_volume(tmp_path / "c.nii"), first)
    same_place(read_volume(tmp_path / "c.nii"), read_volume(tmp_path / "c.nii"))


def test_labels_are_whole_numbers_or_refused(tmp_path: Path) -> None:
    for rng in many(30, seed=75):
        labels = rng.choice([0, 1, 2, 4], size=(6, 6, 5)).astype(np.float64)
        labels[0, 0, :4] = [0, 1, 2, 4]
        image = nibabel.Nifti1Image(labels.astype(np.float32), LPS)
        image.header.set_data_dtype([np.int16, np.uint8, np.float32, np.int32][rng.integers(4)])
        nibabel.save(image, tmp_path / "a.nii.gz")
        assert np.array_equal(whole_numbers(read_volume(tmp_path / "a.nii.gz").values), labels)
        labels[1, 1, 1] += float(rng.choice([0.5, 0.02, -0.3, 0.1]))
        with pytest.raises(UnreadableError, match="no labels"):
            whole_numbers(labels)


def test_voxels_below_0_count_and_another_background_is_refused() -> None:
    for rng in many(20, seed=76):
        volume = np.zeros((8, 8, 8))
        volume[2:6, 2:6, 2:6] = rng.normal(size=(4, 4, 4))
        found = standardised(volume)
        inside = volume[volume != 0]
        np.testing.assert_allclose(found[volume != 0], (inside - inside.mean()) / inside.std(), atol=1e-5)
        assert not found[volume == 0].any()
        with pytest.raises(UnreadableError, match="background of"):
            standardised(volume + float(rng.choice([-1024, 1, -1])))
