"""A small CREMA-D in its true format: wav and flv files of several actors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.data.prepare.media import flat_frames, tone, write_video, write_wav

CODES = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")
SMALL: dict[str, Any] = {
    "sample_rate": 4000,
    "seconds": 1.0,
    "n_fft": 64,
    "hop": 100,
    "size": 16,
    "frames": 2,
    "fps": 10.0,
}


def write_cremad(folder: Path, actors: int = 8, emotions: tuple[str, ...] = CODES) -> list[str]:
    """Clips of 0.4 s: pitch and brightness depend on the emotion; returns their names."""
    clips = []
    for actor in range(1001, 1001 + actors):
        for number, code in enumerate(emotions):
            clip = f"{actor}_DFA_{code}_XX"
            write_wav(folder / "AudioWAV" / f"{clip}.wav", tone(0.4, 8000, 300.0 + 200 * number), 8000)
            frames = flat_frames([20 + 30 * number + (actor - 1001)] * 12, 36, 48)
            write_video(folder / "VideoFlash" / f"{clip}.flv", frames, 30, "flv", tone(0.4, 22050), 22050)
            clips.append(clip)
    return clips


def write_lists(folder: Path, clips: list[str], every: int = 4) -> Path:
    """train.csv and test.csv as OGM-GE publishes them: every fourth clip is for testing."""
    folder.mkdir(parents=True, exist_ok=True)
    test = [clip for i, clip in enumerate(clips) if i % every == 0]
    for part, own in (("train", [c for c in clips if c not in test]), ("test", test)):
        lines = [f"{clip},{clip.split('_')[2]}" for clip in own]
        (folder / f"{part}.csv").write_text("\ufeff" + "\n".join(lines) + "\n", encoding="utf-8")
    return folder


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Name -> content of the files of a bundle."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def rows_of(folder: Path, name: str) -> npt.NDArray[Any]:
    """An array of a bundle, in memory."""
    return np.asarray(np.load(folder / f"{name}.npy"))
