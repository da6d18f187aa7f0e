"""``--recommended``: the options that a method advises for the task of the data; those that are given count."""

from __future__ import annotations

import pytest
import yaml

from equimodal.methods import MLA
from equimodal.studies import Entry
from equimodal.tasks import Regression
from tests.cli.helpers import CLI, DATA, TINY

NUMBERS = ["--data.options.task", "regression"]


def test_train_takes_the_advice_for_the_task_and_what_is_given(cli: CLI) -> None:
    """MLA for a regression: its paper's rule does not exist there, and explicit options win."""
    asked = ["train", "--method", "mla", *TINY, *NUMBERS, "--options.alpha_scale", "absolute", "--recommended"]
    shown = yaml.safe_load(cli([*asked, "--print_config"]))["options"]
    assert (shown["inference"], shown["projector_reset"], shown["alpha_scale"]) == ("skill", "epoch", "absolute")
    assert shown["alpha"] == 0.1
    assert "by rule 'skill'" in cli([*asked, "--quiet"])


def test_without_it_the_defaults_are_the_papers(cli: CLI) -> None:
    shown = yaml.safe_load(cli(["train", "--method", "MLA", *TINY, "--print_config"]))["options"]
    assert (shown["inference"], shown["projector_reset"]) == (None, "never")


def test_compare_gives_it_to_every_method_and_entry(monkeypatch: pytest.MonkeyPatch, cli: CLI) -> None:
    from equimodal.cli import _compare

    seen = {}
    monkeypatch.setattr(_compare, "run_and_report", lambda config, *_, **__: seen.update(config.entries) or 0)
    entries = "{mine: {method: MLA, options: {alpha_scale: absolute}}, plain: {method: Joint}}"
    cli(["compare", "--methods", "mla,Unimodal", "--entries", entries, *DATA, *NUMBERS, "--recommended", "--out", "x"])
    advice = MLA.recommended(Regression())
    assert seen == {
        "MLA, recommended": Entry("MLA", advice),
        "Unimodal": Entry("Unimodal"),
        "mine": Entry("MLA", {**advice, "alpha_scale": "absolute"}),
        "plain": Entry("Joint", {"inference": "skill"}),
    }


def test_describe_shows_it(cli: CLI) -> None:
    text = " ".join(cli(["describe", "CGGM"]).split())
    assert "(--recommended): inference skill, rho null, variant bounded" in text
    assert "(--recommended): the defaults" in " ".join(cli(["describe", "Unimodal"]).split())
