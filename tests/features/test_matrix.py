"""The table in the docs is what the tests prove, and every feature has a test."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from equimodal.engine._features import FEATURES, departures, refuse
from equimodal.errors import UnsupportedError
from equimodal.methods import MIE, Joint, ModalityDropout, available, get
from tests.features.helpers import data, plain_method
from tests.helpers import assert_identical, sgd, weights


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    path = Path(__file__).parents[2] / "tools" / "feature_matrix.py"
    spec = importlib.util.spec_from_file_location("feature_matrix", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["--check"]) == 0, capsys.readouterr().err


def test_a_change_makes_the_page_stale(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(get("Joint").info.engine, "order", "differs: for this test")
    assert tool.main(["--check"]) == 1
    monkeypatch.undo()
    monkeypatch.setitem(tool.FEATURES, "levitation", FEATURES["order"])
    assert tool.main(["--check"]) == 1


@pytest.mark.parametrize("feature", FEATURES)
def test_every_feature_has_a_test(tool: ModuleType, feature: str) -> None:
    assert tool.proofs(feature)


@pytest.mark.parametrize("name", available())
def test_what_methods_declare_is_well_formed(name: str) -> None:
    for key, text in get(name).info.engine.items():
        features, _, condition = key.partition(": ")
        assert set(features.split(", ")) <= set(FEATURES), key
        kind, _, sentence = text.partition(": ")
        assert kind in ("refused", "differs"), text
        assert sentence
        assert not sentence.endswith(".")
        if condition:
            departures(get(name), features.split(", ")[0])  # names an option that exists


def test_conditions() -> None:
    assert departures(MIE, "processes") == []
    assert departures(MIE, "processes", {"variant": "released"})[0].startswith("refused")
    assert departures(MIE, "processes", {"mixup_alpha": 1.0})[0].startswith("differs")
    assert departures(ModalityDropout, "accumulation")
    assert departures(plain_method(("MIE", {"variant": "released"})), "trainer")
    assert departures(Joint, "sharded") == []


def test_a_method_that_refuses_does_so_before_anything_is_computed() -> None:
    class Shy(Joint):
        info = type(Joint.info)(**{**vars(Joint.info), "engine": {"accumulation": "refused: for this test"}})

    method = plain_method(("Joint", {}))
    method.__class__ = Shy
    before, state = weights(method), torch.get_rng_state()
    with pytest.raises(UnsupportedError, match="Shy under accumulation: for this test"):
        method.training_step([data(), data()], sgd(method))
    assert_identical(before, weights(method))
    assert torch.equal(state, torch.get_rng_state())
    method.training_step(data(), sgd(method))
    Shy.info.engine["bfloat16"] = "refused: this too"  # type: ignore[index]
    engine = sgd(method, autocast=torch.bfloat16)
    for _ in range(2):  # also when asked again
        with pytest.raises(UnsupportedError, match=r"Shy under bfloat16: this too\. Train without it, or choose"):
            method.training_step(data(), engine)
    with pytest.raises(UnsupportedError, match="2 processes"):
        refuse(plain_method(("MIE", {"variant": "released"})), "processes")
