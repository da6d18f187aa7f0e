"""Sound and video, written with real encoders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from equimodal.data.prepare import UnreadableError
from equimodal.data.prepare.readers import (
    frame_range,
    frames_at,
    grid_frames,
    log_spectrogram,
    read_sound,
    repeat,
    resize,
    spread,
)
from tests.data.prepare.media import cut, flat_frames, tone, write_video, write_wav

pytest.importorskip("av")
pytest.importorskip("soundfile")
pytest.importorskip("soxr")
CODECS = [
    ("clip.flv", "flv"),
    ("clip.mp4", "h264"),
    ("clip.avi", "mpeg4"),
    ("clip.avi", "mjpeg"),
    ("clip.mkv", "mpeg4"),
]


def steps(seconds: float, fps: int = 30) -> list[np.ndarray]:
    """Frames whose gray level is 20 + 40 per second."""
    return flat_frames([20 + 40 * (i // fps) for i in range(int(seconds * fps))])


@pytest.mark.parametrize(("name", "codec"), CODECS)
def test_frames_are_those_of_the_seconds(tmp_path: Path, name: str, codec: str) -> None:
    path = write_video(tmp_path / name, steps(2.5), 30, codec)
    frames = grid_frames(path, 1.0)
    assert len(frames) == 3
    np.testing.assert_allclose([f[5, 5, 0] for f in frames], [20, 60, 100], atol=4)
    np.testing.assert_allclose([f[5, -5, 0] for f in frames], [40, 80, 120], atol=4)
    assert len(grid_frames(path, 2.0)) == 5


def test_frames_of_a_rate_that_is_no_whole_number(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", steps(3, 25), 25, "h264")
    np.testing.assert_allclose([f[5, 5, 0] for f in grid_frames(path, 1.5)], [20, 20, 60, 100, 100], atol=4)


@pytest.mark.parametrize(("name", "codec"), CODECS)
def test_a_range_of_frames(tmp_path: Path, name: str, codec: str) -> None:
    path = write_video(tmp_path / name, steps(2.5), 30, codec)
    color, gray = frame_range(path, 28, 4), frame_range(path, 28, 4, gray=True)
    assert color.shape == (4, 48, 64, 3)
    np.testing.assert_allclose(color[:, 5, 5, 1], [20, 20, 60, 60], atol=4)
    np.testing.assert_allclose(gray[:, 5, 5], [20, 20, 60, 60], atol=4)
    with pytest.raises(UnreadableError, match="has 75 frames; frames 74 to 76 are asked for"):
        frame_range(path, 74, 3)


def test_a_video_without_frames_is_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", [], 30, "mpeg4", tone(0.5, 16000), 16000)
    with pytest.raises(UnreadableError, match="has 0 frames; frames 0 to 2 are asked for"):
        frame_range(path, 0, 3)
    with pytest.raises(UnreadableError, match="holds no frames"):
        grid_frames(path, 1.0)
    with pytest.raises(UnreadableError, match="ends before 0.10 s"):
        frames_at(path, [0.1])


def test_sound_of_a_wav_file(tmp_path: Path) -> None:
    left = tone(0.5, 16000, 440, 0.5)
    path = write_wav(tmp_path / "a.wav", np.stack([left, np.zeros_like(left)], 1), 16000)
    sound = read_sound(path, 16000)
    assert sound.dtype == np.float32
    np.testing.assert_allclose(sound, left / 2, atol=1e-4)


def test_resampling_keeps_the_pitch(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", tone(1.0, 16000, 440), 16000)
    sound = read_sound(path, 22050)
    assert abs(len(sound) - 22050) <= 1
    np.testing.assert_allclose(sound[2000:20000], tone(1.0, 22050, 440)[2000:20000], atol=2e-3)


@pytest.mark.parametrize(("name", "codec"), [("clip.flv", "flv"), ("clip.mp4", "h264"), ("clip.mkv", "mpeg4")])
def test_sound_of_a_video(tmp_path: Path, name: str, codec: str) -> None:
    path = write_video(tmp_path / name, steps(1.0), 30, codec, tone(1.0, 22050, 1000), 22050)
    sound = read_sound(path, 16000)
    spectrum = np.abs(np.fft.rfft(sound[4000:12000]))
    assert abs(np.argmax(spectrum) * 16000 / 8000 - 1000) <= 4
    assert 0.8 < len(sound) / 16000 < 1.2


def test_spectrogram_is_that_of_its_definition() -> None:
    rng = np.random.default_rng(0)
    for length, n_fft, hop in ((66150, 512, 353), (1000, 64, 100), (5000, 256, 128)):
        samples = rng.normal(0, 0.1, length).astype(np.float32)
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
        padded = np.pad(samples.astype(np.float64), n_fft // 2)
        frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop]
        expected = np.abs(np.fft.rfft(frames * window)).T + 1e-7
        own = log_spectrogram(samples, n_fft, hop)
        assert own.shape == expected.shape == (1 + n_fft // 2, 1 + length // hop)
        np.testing.assert_allclose(np.exp(own.astype(np.float64)), expected, atol=1e-5)


def test_repetition_and_choice() -> None:
    assert repeat(np.arange(3), 7).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert repeat(np.arange(5), 3).tolist() == [0, 1, 2]
    frames = [np.full(1, i) for i in range(10)]
    assert [int(f[0]) for f in spread(frames, 3)] == [0, 3, 6]
    assert [int(f[0]) for f in spread(frames[:2], 3)] == [0, 1, 1]
    assert [int(f[0]) for f in spread(frames[:1], 2)] == [0, 0]


def test_resizing() -> None:
    image = np.zeros((4, 8, 3), np.uint8)
    image[:, 4:] = 200
    small = resize(image, 2, 2)
    assert small.shape == (2, 2, 3)
    assert small[0, 0, 0] < 40
    assert small[0, 1, 0] > 160
    assert resize(image, 4, 8) is image
    assert resize(image[..., 0], 2, 4).shape == (2, 4)


@pytest.mark.parametrize(("name", "codec"), CODECS)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6])
def test_truncated_videos_are_refused(tmp_path: Path, name: str, codec: str, share: float) -> None:
    path = write_video(tmp_path / name, steps(2.5), 30, codec)
    cut(path, share)
    with pytest.raises(UnreadableError) as caught:
        grid_frames(path, 1.0)
    assert str(tmp_path) not in str(caught.value)


def test_truncated_corrupt_and_silent_sound_is_refused(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", tone(0.5, 16000), 16000)
    cut(path, 0.6)
    with pytest.raises(UnreadableError, match="ends after 9582 of 16000 bytes of sound"):
        read_sound(path, 16000)
    path.write_bytes(b"no sound" * 20)
    with pytest.raises(UnreadableError, match="no readable sound") as caught:
        read_sound(path, 16000)
    assert str(tmp_path) not in str(caught.value)
    write_wav(path, np.zeros(0, np.float32), 16000)
    with pytest.raises(UnreadableError, match="no sound in it"):
        read_sound(path, 16000)
    mute = write_video(tmp_path / "mute.mp4", steps(0.5), 30, "h264")
    with pytest.raises(UnreadableError, match="no sound in it"):
        read_sound(mute, 16000)
    mute.write_bytes(b"no video" * 20)
    with pytest.raises(UnreadableError, match="cannot be decoded"):
        grid_frames(mute, 1.0)
    with pytest.raises(UnreadableError, match="no video in it"):
        grid_frames(write_wav(tmp_path / "b.wav", tone(0.5, 16000), 16000), 1.0)
