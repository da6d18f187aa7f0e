"""Every entry of a comparison against its controls and against the best single modality, on the same samples."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from equimodal.diagnostics import Outcomes, holm, paired_difference

BySeed = Mapping[int, Mapping[str, Outcomes]]
_OWN = "unimodal/"


def differences(entries: Mapping[str, BySeed], controls: Sequence[str], independent: str) -> dict[str, dict[str, Any]]:
    """Label -> rival -> difference with its interval; ``p_holm`` is corrected over the entries that meet a rival.

    The rivals are the controls, and ``"best single modality"``: of the entry that trains every modality by itself, the
    one with the highest mean score on TEST data, which is the hardest to beat.

    Args:
        entries: label -> seed -> outcomes of a run; runs without outcomes are left out.
        controls: labels of the controls.
        independent: label of the entry whose encoders are trained independently; empty for none.
    """
    rivals: dict[str, dict[int, Outcomes]] = {c: _named(entries[c], "prediction") for c in controls if c in entries}
    single = best_single(entries.get(independent, {}))
    if single:
        rivals["best single modality"] = _named(entries[independent], single)
    compared: dict[str, dict[str, Any]] = {label: {} for label in entries}
    for rival, theirs in rivals.items():
        met: dict[str, dict[str, Any]] = {}
        for label, by_seed in entries.items():
            own = _named(by_seed, "prediction")
            seeds = [s for s in own if s in theirs and own[s].numerator.shape == theirs[s].numerator.shape]
            if label != rival and seeds:
                met[label] = dataclasses.asdict(paired_difference([own[s] for s in seeds], [theirs[s] for s in seeds]))
        corrected = holm({label: d["p"] for label, d in met.items()})
        for label, difference in met.items():
            compared[label][rival] = {**difference, "p_holm": corrected[label]}
    return compared


def best_single(by_seed: BySeed) -> str:
    """The unimodal output with the highest mean score, as outcomes name it; empty where there is none."""
    scores: dict[str, list[float]] = {}
    for outcomes in by_seed.values():
        for name, own in outcomes.items():
            if name.startswith(_OWN):
                scores.setdefault(name, []).append(float(own.score()))
    return max(scores, key=lambda n: statistics.fmean(scores[n])) if scores else ""


def _named(by_seed: BySeed, name: str) -> dict[int, Outcomes]:
    return {seed: outcomes[name] for seed, outcomes in by_seed.items() if name in outcomes}
