"""Records of comparisons as ``study.json`` holds them."""

from __future__ import annotations

from typing import Any

CONTROL_ROWS = ("Joint", "MultiLoss", "Ensemble", "Unimodal[audio]", "Unimodal[video]")


def row(label: str, score: float = 0.8, **changes: Any) -> dict[str, Any]:
    kind = label.partition("[")[0]
    return {
        "method": label,
        "class": kind,
        "options": {"modality": label[9:-1]} if kind == "Unimodal" else {},
        "control": label in CONTROL_ROWS,
        "seeds": 3,
        "score_mean": score,
        "score_std": 0.012,
        "scores": [score - 0.01, score, score + 0.01],
        "per_modality": {"audio": [0.7, 0.01], "video": [0.5, 0.02]},
        "under_trained": {"audio": [-0.0001, 0.01], "video": [0.123, 0.02]},
        "rules": {"mean": {"validation": 0.7, "test": 0.71}, "product": {"validation": 0.75, "test": 0.72}},
        "cost": 1.25,
        **changes,
    }


def epochs(*scores: float | None, **changes: Any) -> list[dict[str, Any]]:
    return [
        {
            "epoch": i,
            "train_loss": 1.0 / (i + 1),
            "validation_score": score,
            "unimodal": {"audio": score, "video": score},
            "coefficients": {},
            "extras": {},
            **changes,
        }
        for i, score in enumerate(scores)
    ]


def study(*extra: dict[str, Any], controls: bool = True, **changes: Any) -> dict[str, Any]:
    rows = [row(label, 0.6 + 0.01 * i) for i, label in enumerate(CONTROL_ROWS)] if controls else []
    return {
        "title": "a comparison",
        "dataset": {"name": "toy", "fingerprint": "12ab", "modalities": ["audio", "video"], "samples": {"train": 10}},
        "protocol": {"name": "by-speaker", "validation": "one speaker"},
        "selection": "best validation score",
        "rows": [*rows, *extra],
        "histories": [],
        "incomplete": [],
        "environment": {"python": "3.11", "versions": {"torch": "2.13"}},
        "commands": ["equimodal compare --methods MLA"],
        **changes,
    }
