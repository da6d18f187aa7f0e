"""The embedded dataset: real handwritten digits with synthesised spoken digits, and a dial for the noise of each."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import as_file, files
from typing import Any

import numpy as np

from equimodal.data._arrays import Arrays
from equimodal.data._card import parse_card
from equimodal.data._dataset import Dataset, build
from equimodal.data._missing import Missing
from equimodal.errors import DataError, unknown_name

DEFAULT_NOISE = {"image": 0.5, "audio": 0.7}
"""Noise of :func:`load_avdigits` where nothing else is said."""

_CARD: dict[str, Any] = {
    "format": 1,
    "name": "avdigits",
    "version": "1",
    "description": "Handwritten digits (8 x 8) paired with spoken digits of the same class (log-mel spectrograms).",
    "source": [
        "images: UCI Optical Recognition of Handwritten Digits, as shipped with scikit-learn",
        "audio: synthesised with espeak-ng by scripts/build_avdigits.py",
    ],
    "licence": "images CC BY 4.0 (UCI); audio as this library",
    "citation": ["Alpaydin, Kaynak. Optical Recognition of Handwritten Digits. UCI Machine Learning Repository, 1998."],
    "modalities": {
        "image": {
            "array": "images",
            "index": "pair_image",
            "kind": "image",
            "shape": [1, 8, 8],
            "units": "ink, 0 to 16",
            "description": "handwritten digit",
            "transforms": [{"reshape": [1, 8, 8]}],
            "standardise": "global",
        },
        "audio": {
            "array": "audio",
            "kind": "image",
            "shape": [1, 32, 32],
            "units": "2 dB steps, 0 (60 dB below the maximum of the recording) to 31",
            "description": "spoken digit, log-mel spectrogram (mel bands x 22 ms frames), 8 kHz",
            "transforms": [{"reshape": [1, 32, 32]}],
            "standardise": "global",
        },
    },
    "targets": {"digit": {"array": "digit", "task": "classification", "classes": [str(i) for i in range(10)]}},
    "groups": {"speaker": "speaker", "image": "pair_image"},
    "protocols": {
        "speaker-disjoint": {
            "description": "24 voices for training, 6 for validation, 10 for test; no image in two parts",
            "array": "split",
            "train": 0,
            "validation": 1,
            "test": 2,
            "groups": ["speaker", "image"],
        }
    },
}


def load_avdigits(
    noise: Mapping[str, float] | None = None,
    protocol: str | None = None,
    seed: int = 0,
    missing: Missing | Mapping[str, Any] | str | None = None,
) -> Dataset:
    """The embedded dataset `avdigits`: 3000 / 600 / 1000 pairs of a handwritten and a spoken digit.

    Noise is the dial of the imbalance: with the default the image is learnt fast and dominates joint training, while
    the audio, which says nearly as much, stays under-trained (numbers in ``docs/data.md``). The noise of an image or
    a recording is drawn once, so that it is the same in every epoch, pair and run.

    Args:
        noise: modality -> standard deviation of Gaussian noise, in units of the standardised input; a modality that is
            left out keeps its default, ``{"image": 0.5, "audio": 0.7}``. 0 switches it off.
        protocol: ``"speaker-disjoint"``, the default: no voice and no image in two parts.
        seed: of the noise.
        missing: modalities to take away from samples, see :class:`Missing`.

    Raises:
        DataError: a noise below 0 or not finite.
        UnknownNameError: unknown modality or protocol.

    Example:
        >>> data = load_avdigits(noise={"audio": 0.0})
        >>> {name: modality.shape for name, modality in data.modalities.items()}
        {'image': (1, 8, 8), 'audio': (1, 32, 32)}
    """
    for name, value in (noise or {}).items():
        if name not in DEFAULT_NOISE:
            raise unknown_name("modality of avdigits", name, DEFAULT_NOISE)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
            raise DataError(f"`noise[{name!r}]`: expected a number of at least 0. Found {value!r}.")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise DataError(f"`seed`: expected a whole number of at least 0. Found {seed!r}.")
    dial = {**DEFAULT_NOISE, **{m: float(v) for m, v in (noise or {}).items()}}
    with as_file(files("equimodal.data") / "embedded" / "avdigits.npz") as path:
        arrays = dict(Arrays(path).items())
    dataset = build(
        arrays,
        parse_card(_CARD, "card avdigits"),
        origin="avdigits",
        protocol=protocol,
        options={"noise": dial, "seed": seed},
        missing=missing,
    )
    for position, (name, source) in enumerate(dataset._store.sources.items()):
        if dial[name] > 0:
            source.add_noise(dial[name], np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, position]))))
    return dataset
