"""Build the embedded dataset `avdigits`: handwritten digits paired with spoken digits.

    python scripts/build_avdigits.py [OUTPUT.npz] [--train N --validation N --test N]

Images are the 1797 real digits of scikit-learn (UCI, 8 x 8). Speech is synthesised with espeak-ng, turned into log-mel
spectrograms and stored as uint8. The same versions of espeak-ng, NumPy and SciPy give the same bytes. Needs the program
espeak-ng and the packages numpy, scipy, scikit-learn.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import wave
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

SEED = 20240613
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029", "en-us-nyc")
# a speaker is a voice of espeak-ng: it sets formants, bandwidths, breath and pitch range
SPEAKERS = {
    "train": (
        "m1", "m2", "m3", "m4", "f1", "f2", "f3", "klatt", "klatt2", "Alex", "Andy", "Annie", "Alicia", "Denis",
        "Diogo", "Gene", "Hugo", "Jacky", "Lee", "Marco", "Mario", "Michael", "croak", "whisper",
    ),
    "validation": ("m5", "m6", "f4", "klatt3", "Linda", "Pablo"),
    "test": ("m7", "m8", "f5", "klatt4", "Andrea", "Belinda", "David", "Steph", "Tweaky", "whisperf"),
}  # fmt: skip
PARTS = ("train", "validation", "test")
# images per digit; few for training, so that they are learnt fast and leave something for the voice to add
IMAGES = {"train": 40, "validation": 40}  # the rest is for test

RATE, FFT, HOP, BANDS, FRAMES, FLOOR = 8000, 256, 176, 32, 32, -60.0
LEVELS = 32  # steps of 2 dB, finer than the noise and half the file


def speak(word: str, accent: str, speaker: str, speed: int, pitch: int) -> Array:
    """The word as a waveform at ``RATE``, silence at both ends removed."""
    from scipy.signal import resample_poly

    command = ["espeak-ng", "-v", f"{accent}+{speaker}", "-s", str(speed), "-p", str(pitch), "--stdout", word]
    raw = subprocess.run(command, check=True, capture_output=True).stdout
    with wave.open(io.BytesIO(raw)) as file:
        rate = file.getframerate()
        sound = np.frombuffer(file.readframes(-1), dtype="<i2").astype(np.float64) / 32768
    divisor = np.gcd(rate, RATE)
    sound = resample_poly(sound, RATE // divisor, rate // divisor)
    loud = np.flatnonzero(np.abs(sound) > 0.02 * np.abs(sound).max())
    return np.asarray(sound[loud[0] : loud[-1] + 1])


def mel_filters() -> Array:
    """(BANDS, FFT // 2 + 1) triangles of equal height on the HTK mel scale, 60 Hz to 4 kHz."""
    mel = np.linspace(2595 * np.log10(1 + 60 / 700), 2595 * np.log10(1 + RATE / 2 / 700), BANDS + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    frequency = np.arange(FFT // 2 + 1) * RATE / FFT
    rise = (frequency - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - frequency) / (edges[2:] - edges[1:-1])[:, None]
    return np.maximum(np.minimum(rise, fall), 0) + 1e-3 * (np.abs(frequency - edges[1:-1, None]) < RATE / FFT)


def spectrogram(sound: Array, filters: Array) -> Array:
    """(BANDS, FRAMES) uint8: 0 is ``FLOOR`` dB below the loudest value, ``LEVELS - 1`` the loudest value."""
    padded = np.zeros(FFT + HOP * (FRAMES - 1))
    padded[: min(len(sound), len(padded))] = sound[: len(padded)]
    frames = np.lib.stride_tricks.sliding_window_view(padded, FFT)[::HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(FFT), axis=1)) ** 2
    decibel = 10 * np.log10(power @ filters.T + 1e-10).T
    decibel = np.clip(decibel - decibel.max(), FLOOR, 0)
    return np.rint((decibel - FLOOR) / -FLOOR * (LEVELS - 1)).astype(np.uint8)


def utterances(part: str, count: int, rng: np.random.Generator) -> dict[str, Array]:
    """``count`` spoken digits of the part's speakers, classes balanced."""
    filters = mel_filters()
    digits = rng.permutation(np.arange(count) % 10)
    speakers = rng.integers(len(SPEAKERS[part]), size=count)
    accents = rng.integers(len(ACCENTS), size=count)
    speeds = rng.integers(150, 301, size=count)
    pitches = rng.integers(15, 86, size=count)
    audio = np.empty((count, BANDS, FRAMES), np.uint8)
    for i in range(count):
        speaker = SPEAKERS[part][speakers[i]]
        sound = speak(WORDS[digits[i]], ACCENTS[accents[i]], speaker, int(speeds[i]), int(pitches[i]))
        sound = np.concatenate([np.zeros(rng.integers(0, 2400)), sound])
        level = np.sqrt(np.mean(sound**2)) * 10 ** (-rng.uniform(5, 20) / 20)
        length = FFT + HOP * (FRAMES - 1)
        heard = np.zeros(max(len(sound), length))
        heard[: len(sound)] = sound
        audio[i] = spectrogram(heard + rng.normal(scale=level, size=len(heard)), filters)
    offset = sum(len(SPEAKERS[p]) for p in PARTS[: PARTS.index(part)])
    return {"audio": audio, "digit": digits.astype(np.uint8), "speaker": (speakers + offset).astype(np.uint8)}


def images_of_parts(rng: np.random.Generator) -> tuple[Array, Array, dict[str, Array]]:
    """All images, their labels, and the disjoint image numbers of each part."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, labels = digits.images.astype(np.uint8), digits.target.astype(np.uint8)
    chosen: dict[str, list[Array]] = {part: [] for part in PARTS}
    cuts = np.cumsum([IMAGES["train"], IMAGES["validation"]])
    for digit in range(10):
        members = rng.permutation(np.flatnonzero(labels == digit))
        for part, piece in zip(PARTS, np.split(members, cuts), strict=True):
            chosen[part].append(piece)
    return images, labels, {part: np.concatenate(pieces) for part, pieces in chosen.items()}


def build(counts: dict[str, int]) -> dict[str, Array]:
    """The arrays of the dataset."""
    rng = np.random.default_rng(SEED)
    images, labels, members = images_of_parts(rng)
    pieces: list[dict[str, Array]] = []
    for code, part in enumerate(PARTS):
        piece = utterances(part, counts[part], rng)
        pair = np.empty(counts[part], np.uint16)
        for digit in range(10):
            own = rng.permutation(members[part][labels[members[part]] == digit])
            rows = np.flatnonzero(piece["digit"] == digit)
            pair[rows] = np.resize(own, len(rows))  # each image once before any is used again
        pieces.append({**piece, "pair_image": pair, "split": np.full(counts[part], code, np.uint8)})
    arrays = {key: np.concatenate([p[key] for p in pieces]) for key in pieces[0]}
    return {"images": images, **arrays}


def write(path: Path, arrays: dict[str, Array]) -> None:
    """An .npz whose bytes depend on the arrays alone (fixed dates and attributes inside)."""
    temporary = path.with_name(path.name + ".tmp")
    with zipfile.ZipFile(temporary, "w") as archive:
        for name in sorted(arrays):
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.ascontiguousarray(arrays[name]), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, buffer.getvalue(), compress_type=zipfile.ZIP_DEFLATED, compresslevel=9)
    temporary.replace(path)


def main() -> None:
    """Command line."""
    here = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = here / "src" / "equimodal" / "data" / "embedded" / "avdigits.npz"
    parser.add_argument("output", type=Path, nargs="?", default=default)
    parser.add_argument("--train", type=int, default=3000)
    parser.add_argument("--validation", type=int, default=600)
    parser.add_argument("--test", type=int, default=1000)
    options = parser.parse_args()
    arrays = build({part: getattr(options, part) for part in PARTS})
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write(options.output, arrays)
    print(f"{options.output}: {options.output.stat().st_size / 1e6:.2f} MB")
    for name, array in sorted(arrays.items()):
        print(f"  {name} {array.dtype} {array.shape}")


if __name__ == "__main__":
    main()
