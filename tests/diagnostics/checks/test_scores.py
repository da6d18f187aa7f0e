"""Checks that compare scores, on outcomes that are counted by hand."""

from __future__ import annotations

import pytest
import torch

from equimodal.diagnostics.checks import NotApplicable, NotMeasured, Records, Subject
from tests.diagnostics.checks.constructed import data, earned, labels, recorded, run, subject, told


def test_a_modality_whose_head_reads_nothing_is_below_its_probe() -> None:
    (found,) = run("EQ001", subject(told((1.0, 0.0), (0.5, 0.0, 0.0))))
    assert (found.where, found.severity, found.page) == ("b", "warning", "docs/checks/eq001.md")
    assert found.number == pytest.approx(2 / 3)  # the probe is right everywhere, the constant for a third
    assert found.threshold == 0.03
    assert found.interval is not None
    assert found.interval[0] > 0.03
    assert "equimodal train" in found.next_step


def test_modalities_that_are_read_are_not_below_their_probes() -> None:
    assert run("EQ001", subject(told())) == []


def test_an_encoder_below_the_same_encoder_trained_alone_is_under_trained() -> None:
    own = {"prediction": earned(150), "unimodal/a": earned(100), "unimodal/b": earned(150), "probe/a": earned(100),
           "probe/b": earned(150)}  # fmt: skip
    alone = {"probe/a": earned(160), "probe/b": earned(152)}
    (found,) = run("EQ001", recorded(own, alone=[alone]))
    assert (found.where, found.title) == ("a", "The encoder of a modality is left under-trained")
    assert found.number == pytest.approx(0.3)


def test_probes_are_left_out_in_fast_mode_but_read_where_they_are_on_record() -> None:
    with pytest.raises(NotMeasured, match="fast mode"):
        run("EQ001", subject(told(), fast=True))
    own = {"prediction": earned(9), "unimodal/a": earned(5), "unimodal/b": earned(5), "probe/a": earned(190),
           "probe/b": earned(5)}  # fmt: skip
    fast = Subject("run", records=recorded(own).records, fast=True)
    assert [f.where for f in run("EQ001", fast)] == ["a"]


@pytest.mark.parametrize(
    ("right", "a", "title"), [(120, 140, "below"), (140, 140, "not above"), (180, 140, None), (198, 198, None)]
)
def test_the_prediction_against_the_best_single_modality(right: int, a: int, title: str | None) -> None:
    found = run("EQ002", recorded({"prediction": earned(right), "unimodal/a": earned(a), "unimodal/b": earned(60)}))
    assert [title in f.title for f in found if title] == ([True] if title else [])
    if title:
        assert found[0].number == pytest.approx((right - a) / 200)
        assert (found[0].where, found[0].threshold) == ("a", 0.0)
    else:
        assert found == []


def test_one_trained_modality_is_no_case_for_fusion() -> None:
    records = Records(outcomes=[{"prediction": earned(9)}], modalities=("a", "b"), trained=("a",), share=True)
    with pytest.raises(NotApplicable):
        run("EQ002", Subject("one", records=records))


def test_an_ensemble_that_is_better_is_named_with_its_lead() -> None:
    own = {"prediction": earned(120)}
    (found,) = run("EQ003", recorded(own, own, alone=[{"prediction": earned(170)}, {"prediction": earned(150)}]))
    assert found.number == pytest.approx(0.2)  # the mean of 0.25 and 0.15
    assert found.interval is not None
    assert found.interval[0] > 0
    assert run("EQ003", recorded(own, alone=[{"prediction": earned(121)}])) == []
    with pytest.raises(NotMeasured, match="alone="):
        run("EQ003", recorded(own))


def test_a_gain_within_noise_is_told_and_one_beyond_it_is_not() -> None:
    seeds = [{"prediction": earned(150)}, {"prediction": earned(142)}]
    noise = {
        "slight": [{"prediction": earned(148)}, {"prediction": earned(143)}],
        "weak": [{"prediction": earned(9)}] * 2,
    }
    (found,) = run("EQ009", recorded(*seeds, rivals=noise))
    assert found.number == pytest.approx((0.01 - 0.005) / 2)
    assert "slight" in found.reason
    assert run("EQ009", recorded(*seeds, rivals={"weak": noise["weak"]})) == []
    (worse,) = run("EQ009", recorded(*seeds, rivals={"strong": [{"prediction": earned(190)}] * 2}))
    assert worse.title == "The best control is better"


def test_a_gain_on_one_seed_is_a_note_and_controls_are_not_judged() -> None:
    rivals = {"weak": [{"prediction": earned(90)}]}
    (found,) = run("EQ009", recorded({"prediction": earned(150)}, rivals=rivals))
    assert (found.severity, found.title) == ("note", "The gain rests on one seed")
    with pytest.raises(NotApplicable, match="control"):
        run("EQ009", recorded({"prediction": earned(150)}, rivals=rivals, control=True))


def test_a_better_rule_is_chosen_on_validation_and_measured_on_test() -> None:
    own = {"prediction": earned(120), "rule/fused": earned(120), "rule/skill": earned(160), "rule/mean": earned(199)}
    rules = [("fused", {"fused": 0.6, "skill": 0.8, "mean": 0.5})]
    (found,) = run("EQ021", recorded(own, rules=rules))
    assert found.where == "skill"  # not the mean, which validation did not choose
    assert found.number == pytest.approx(0.2)
    assert "--options.inference skill" in found.next_step
    assert run("EQ021", recorded(own, rules=[("fused", {"fused": 0.9, "skill": 0.8})])) == []


def test_rules_of_a_model_are_tried_on_its_data() -> None:
    target = labels(192)
    wrong = torch.where(torch.arange(192) % 2 == 0, target, (target + 1) % 3)
    method = told((1.0, 2.0))  # b, which is wrong on every other sample, decides
    (found,) = run("EQ021", subject(method, data(b=wrong)))
    assert found.number == pytest.approx(0.5)
    assert "alone:a" in found.reason or "skill" in found.reason
