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


def run(label: str, seed: int = 0, score: float = 0.8, **changes: Any) -> dict[str, Any]:
    """A run of a classification with three classes, as a comparison keeps it."""
    bins = [[0.35, 0.5, 4], [0.9, 0.75, 4]]
    return {
        "method": label,
        "seed": seed,
        "folder": f"cells/{label}/seed{seed}",
        "score": score,
        "metrics": {"accuracy": score, "score": score, "samples": 8},
        "unimodal": {"audio": 0.6, "video": 0.5},
        "probe": {"audio": 0.7, "video": 0.5},
        "rule": "mean",
        "rules": {"mean": {"validation": 0.7, "test": 0.71}, "product": {"validation": 0.75, "test": 0.72}},
        "selection": {"by": "best validation score", "epoch": 3, "score": 0.7 + 0.01 * seed},
        "parameters": 1234,
        "seconds": 5.0,
        "parts": {},
        "details": {
            "kind": "categorical",
            "samples": 8,
            "classes": {
                "number": [0, 1, 2], "all": 3, "support": [3, 3, 2],
                "precision": [1.0, 0.5, 0.25], "recall": [0.5, 0.5, 0.5], "f1": [0.6, 0.5, 0.3],
            },
            "confusion": [[2, 1, 0], [0, 3, 0], [1, 0, 1]],
            "confused": [[0, 1, 1], [2, 0, 1]],
            "calibration": {name: {"error": 0.1, "bins": bins} for name in ("prediction", "unimodal/audio")},
            "worst": [[17, 0, 1, 0.93], [4, 2, 0, 0.61]],
        },
        **changes,
    }  # fmt: skip


def advice(**changes: Any) -> dict[str, Any]:
    """What a comparison says of the rules of a row."""
    return {
        "documented": "mean",
        "recommended": "product",
        "validation": 0.75,
        "gain": 0.05,
        "test": 0.72,
        "difference": {"mean": 0.01, "low": 0.002, "high": 0.018},
        **changes,
    }
