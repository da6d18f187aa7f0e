"""A dataset in plain text."""

from __future__ import annotations

from equimodal.data._dataset import Dataset


def describe(dataset: Dataset) -> str:
    """What ``dataset`` holds, as plain text: counts, modalities, classes, protocol, provenance, fingerprint.

    Example:
        >>> from equimodal.data import load_avdigits
        >>> print(describe(load_avdigits()).splitlines()[0])
        avdigits: train 3000, validation 600, test 1000 samples
    """
    card = dataset.card
    counts = ", ".join(f"{part} {n}" for part, n in dataset.parts.items())
    lines = [f"{dataset.name}: {counts} samples"]
    if card.description:
        lines.append(f"  {card.description}")
    train = dataset.train
    presence = train.present
    for name, modality in dataset.modalities.items():
        notes = [modality.kind, " x ".join(map(str, modality.shape))]
        notes += [modality.description] if modality.description else []
        notes += [f"units: {modality.units}"] if modality.units else []
        notes += [f"standardised {card.modalities[name].standardise}"]
        if name in presence:
            notes.append(f"absent in {int((~presence[name]).sum())} training samples")
        lines.append(f"  modality {name}: {'; '.join(notes)}")
    if dataset.classes:
        own = train.class_counts
        lines.append(f"  target {dataset.target}: {len(dataset.classes)} classes, training samples of each: ")
        lines[-1] += ", ".join(f"{name} {n}" for name, n in own.items())
    else:
        lines.append(f"  target {dataset.target}: {card.targets[dataset.target].task}")
    lines.append(f"  protocol {dataset.protocol}")
    if dataset.protocol.description:
        lines.append(f"    {dataset.protocol.description}")
    if dataset.protocol.unused:
        lines.append(f"    {dataset.protocol.unused} samples in no part")
    lines.append(f"  licence: {card.licence or 'not stated'}")
    lines += [f"  source: {text}" for text in card.source]
    lines += [f"  cite: {text}" for text in card.citation]
    lines.append(f"  fingerprint: sha256 {dataset.fingerprint}")
    return "\n".join(lines)
