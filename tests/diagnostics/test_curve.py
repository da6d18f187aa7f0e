"""What is read off curves, and their figures."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from equimodal.diagnostics import Curve, draw_curves, effective_robustness, relative_robustness
from equimodal.errors import MethodError, StorageError

LEVELS = (0.0, 0.5, 1.0)
CURVE = Curve("audio", "gaussian", LEVELS, ((0.8, 0.8), (0.5, 0.7), (0.2, 0.4)), "accuracy")


def test_mean_and_spread_by_hand() -> None:
    assert CURVE.mean == pytest.approx([0.8, 0.6, 0.3])
    assert CURVE.spread == pytest.approx([0.0, math.sqrt(0.02), math.sqrt(0.02)])
    assert Curve("a", "missing", (0.0, 0.5), ((1.0,), (0.5,))).spread == [0.0, 0.0]


def test_relative_robustness_is_the_area() -> None:
    assert CURVE.relative_robustness == pytest.approx(0.5 * (0.7 + 0.45))
    assert CURVE.retained == pytest.approx(0.575 / 0.8)
    levels, scores = np.linspace(0, 1, 11), np.random.default_rng(0).random(11)
    assert relative_robustness(list(levels), list(scores)) == pytest.approx(np.trapezoid(scores, levels))
    assert relative_robustness([0.0, 0.9], [0.5, 0.5]) == pytest.approx(0.45)  # an area, not a mean
    assert Curve("a", "missing", (0.0, 1.0), ((-1.0,), (-2.0,))).retained is None
    with pytest.raises(MethodError, match="one per level"):
        relative_robustness([0.0, 1.0], [1.0])


def test_effective_robustness_takes_the_clean_difference_off() -> None:
    reference = [0.6, 0.4, 0.1]
    assert effective_robustness(LEVELS, [r + 0.2 for r in reference], reference) == pytest.approx(0.0)
    # differences from the shifted reference (0.8, 0.6, 0.3): 0, 0.1, 0.2
    assert effective_robustness(LEVELS, [0.8, 0.7, 0.5], reference) == pytest.approx(0.5 * (0.05 + 0.15))


def test_the_record_is_plain() -> None:
    full = Curve("all", "missing", (0.0, 0.5), ((0.5,), (0.25,)), "mae", ((1.0,), (2.0,)), (0.0, 0.4))
    record = json.loads(json.dumps(full.record()))
    assert record["score"] == {"mean": [0.5, 0.25], "std": [0.0, 0.0], "draws": [[0.5], [0.25]]}
    assert record["mae"]["mean"] == [1.0, 2.0]
    assert record["absent"] == [0.0, 0.4]
    assert record["relative_robustness"] == pytest.approx(0.1875)
    assert "accuracy" not in CURVE.record()


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_figures(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib")
    others = [Curve(str(i), "missing", (0.0, 0.5), ((1.0,), (0.5,))) for i in range(5)]
    path = draw_curves({"MLA": [CURVE, *others], "Joint": [CURVE]}, tmp_path / "new" / f"curves{suffix}")
    first = path.read_bytes()
    start = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix]
    assert first.startswith(start)
    if suffix == ".svg":
        assert b"audio: gaussian" in first or b"clipPath" in first
    draw_curves({"MLA": [CURVE, *others], "Joint": [CURVE]}, path)
    assert path.read_bytes() == first
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_figures_that_cannot_be_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(MethodError, match="'curves.txt'"):
        draw_curves([CURVE], tmp_path / "curves.txt")
    with pytest.raises(MethodError, match="0 curves"):
        draw_curves([], tmp_path / "curves.png")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="could not be written"):
        draw_curves([CURVE], tmp_path / "file" / "curves.png")
