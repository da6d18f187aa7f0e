"""Bundles: one .npz or a folder of .npy files, with a card that says what the arrays mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from equimodal._utils.files import companion_of, content_hash, standing
from equimodal._utils.outside import read_text
from equimodal._utils.plain_yaml import read_yaml
from equimodal.data._arrays import Arrays
from equimodal.data._card import Card, parse_card
from equimodal.data._dataset import Dataset, build
from equimodal.data._missing import Missing
from equimodal.errors import DataError, unknown_name

_PURPOSE = "Reading a card"
_LIMIT = 4 << 20  # bytes of a card


def shipped_cards() -> list[str]:
    """Names of the cards that come with the library.

    Example:
        >>> shipped_cards()
        ['avdigits', 'lggmri', 'mfeat', 'mosi', 'ravdess', 'utdmhad', 'wikidoc']
    """
    folder = files("equimodal.data") / "cards"
    return sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml"))


def load_card(card: str | Path | Mapping[str, Any]) -> Card:
    """The card in a YAML file, or shipped under a name, or given as nested plain values.

    Raises:
        DataError: not readable, or a field is wrong; the message names file, field, expected and found.
        UnknownNameError: neither a file nor the name of a shipped card.
        MissingExtraError: PyYAML is not installed.

    Example:
        >>> load_card("utdmhad").protocols["cross-subject"].groups
        ('subject',)
    """
    if isinstance(card, Mapping):
        return parse_card(dict(card), "`card`")
    path = Path(card)
    if path.exists():
        return parse_card(read_yaml(read_text(path, limit=_LIMIT), str(path), _PURPOSE, exact=True), str(path))
    if path.suffix or len(path.parts) > 1:
        raise DataError(f"{path}: expected a card (YAML). Found no such file.")
    if str(card) not in shipped_cards():
        raise unknown_name("card", str(card), shipped_cards())
    resource = files("equimodal.data") / "cards" / f"{card}.yaml"
    return parse_card(
        read_yaml(resource.read_text(encoding="utf-8"), f"card {card}", _PURPOSE, exact=True), f"card {card}"
    )


def load_bundle(
    path: str | Path,
    card: str | Path | Mapping[str, Any] | None = None,
    protocol: str | None = None,
    *,
    target: str | None = None,
    modalities: Sequence[str] | None = None,
    missing: Missing | Mapping[str, Any] | str | None = None,
) -> Dataset:
    """Load a bundle: plain arrays in one .npz file or a folder of .npy files, described by a card.

    A folder is memory-mapped: samples are read and prepared when a batch asks for them.

    Args:
        path: the .npz file or the folder.
        card: a YAML file, the name of a shipped card, or nested plain values. By default ``NAME.yaml`` next to
            ``NAME.npz`` (for a folder also ``card.yaml`` inside), else the shipped card of that name.
        protocol: name of the split protocol; the card's default otherwise.
        target: name of the target; the card's default otherwise.
        modalities: modalities to load, in this order; the card's default otherwise.
        missing: modalities to take away from samples, see :class:`Missing`.

    Raises:
        DataError: anything unreadable or inconsistent; names file, field, expected and found.
        UnknownNameError: unknown protocol, target, modality or card.
        NonFiniteError: NaN or infinity among the present training samples of a standardised modality.

    Example:
        >>> import numpy as np, tempfile
        >>> from equimodal.data import write_bundle
        >>> split = ["train"] * 2 + ["validation"] * 2 + ["test"] * 2
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_bundle(
        ...         Path(folder) / "mine.npz", inputs={"a": np.eye(6)}, target=["no", "yes"] * 3, split=split
        ...     )
        ...     load_bundle(path).parts
        {'train': 2, 'validation': 2, 'test': 2}
    """
    path = Path(path)
    arrays = Arrays(path)
    found = load_card(card if card is not None else find_card(path))
    return build(
        arrays,
        found,
        origin=str(path),
        protocol=protocol,
        target=target,
        modalities=modalities,
        mapped=arrays.mapped,
        missing=missing,
    )


def find_card(path: Path) -> str | Path:
    """Where the card of a bundle is: beside it, in it, or the name of a shipped one."""
    folder = standing(path)
    stem = path.name if folder.is_dir() else path.stem
    beside = [path.parent / f"{stem}.yaml"]
    if folder.is_dir():
        beside = [folder / "card.yaml", folder / f"{stem}.yaml", *beside]
    else:
        beside = [companion_of(path, beside[0], content_hash)]
    for candidate in beside:
        if candidate.is_file():
            return candidate
    if stem in shipped_cards():
        return stem
    raise DataError(
        f"{path}: expected a card that says what its arrays mean. Found neither {beside[-1]} nor a shipped card "
        "of that "
        f"name (shipped: {', '.join(shipped_cards())}). Write one (docs/data.md), or pass card=."
    )
