"""Every method trains every family of encoders: a step, predictions, weights to a file and back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from equimodal import Batch, Classification, MultimodalModel
from equimodal.batch import Tokens, tree_map
from equimodal.encoders import MLP
from equimodal.fusion import Concat, CrossAttention
from equimodal.methods import Method, available, get
from equimodal.studies import load_weights, save_weights
from tests.encoders.families import FAMILIES, WIDTH, family
from tests.helpers import announce, companions_of, moved, sgd, weights

CLASSES = 3
SOME = ("gru", "transformer", "video", "bert")
# methods say that there is nothing to balance in it; tests of the methods look at that
FROZEN = pytest.mark.filterwarnings("ignore:The encoder of 'first' is frozen:equimodal.errors.EquimodalWarning")


def build(name: str, method: str, pool: str | None = None, seed: int = 0) -> Method:
    """The method on two modalities: ``first`` through the encoder in question, ``second`` through an MLP."""
    torch.manual_seed(seed)
    encoder = family(name).make(**({} if pool is None else {"pool": pool}))
    encoders: dict[str, nn.Module] = {"first": encoder, "second": MLP(3, (4,), WIDTH)}
    fusion = Concat(dict.fromkeys(encoders, WIDTH))
    model = MultimodalModel(encoders, fusion, nn.Linear(2 * WIDTH, CLASSES))
    task, needed = Classification(CLASSES), companions_of(method)
    return get(method)(model, task, **({} if needed is None else needed(model, task)))


def batch_of(name: str, size: int = 6) -> Batch:
    inputs = {"first": family(name).inputs(size), "second": torch.randn(size, 3)}
    return Batch(inputs, torch.arange(size) % CLASSES, None, torch.arange(size))


def step(method: Method, batch: Batch) -> None:
    """One step with everything that belongs to it."""
    engine = sgd(method, lr=1e-2, clip_norm=1.0)
    # the last epoch of two, in which no encoder of a method in stages waits
    announce(method.train(), engine, epoch=1, batches=[batch])
    report = method.training_step(batch, engine)
    assert bool(report.loss.isfinite())


@FROZEN
@pytest.mark.parametrize("method", available())
@pytest.mark.parametrize("name", FAMILIES)
def test_a_step_predictions_and_a_file(name: str, method: str, tmp_path: Path) -> None:
    first, batch = build(name, method), batch_of(name)
    before = weights(first)
    step(first, batch)
    changed = moved(before, first)
    fixed = {n for n, p in first.named_parameters() if not p.requires_grad}
    assert all(bool(delta.isfinite().all()) for delta in changed.values())
    assert not any(bool(changed[n].any()) for n in fixed)
    trained = [n for n in changed if n.startswith("model.encoders.0.") and n not in fixed]
    assert any(bool(changed[n].any()) for n in trained) or not trained
    assert any(bool(delta.any()) for delta in changed.values())

    predicted = first.eval().predict(batch.inputs).output
    assert predicted.shape == (6, CLASSES)
    assert bool(predicted.isfinite().all())
    save_weights(first, tmp_path / "w.safetensors")
    second = build(name, method, seed=1)
    assert not torch.equal(second.eval().predict(batch.inputs).output, predicted)
    load_weights(second, tmp_path / "w.safetensors")
    assert torch.equal(second.eval().predict(batch.inputs).output, predicted)


@pytest.mark.parametrize("method", available())
@pytest.mark.parametrize("name", SOME)
def test_sequences(name: str, method: str) -> None:
    first = build(name, method, family(name).sequence)
    batch = batch_of(name)
    before = weights(first)
    step(first, batch)
    assert any(bool(delta.any()) for n, delta in moved(before, first).items() if n.startswith("model.encoders.0."))
    assert first.eval().predict(batch.inputs).output.shape == (6, CLASSES)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_content_of_absent_rows_changes_nothing(name: str) -> None:
    """Zeros in place of absent content: loss, gradients and prediction are the same to the last bit."""
    batch = batch_of(name)
    present = {"first": torch.tensor([True, False, True, True, False, True])}
    outcomes = []
    for content in (False, True):
        torch.manual_seed(1)
        method = build(name, "Joint")

        def change(t: torch.Tensor, content: bool = content) -> torch.Tensor:
            rows = present["first"].reshape(-1, *[1] * (t.ndim - 1))
            return torch.where(rows, t, torch.zeros_like(t)) if content else t

        inputs = {**batch.inputs, "first": tree_map(change, batch.inputs["first"])}
        torch.manual_seed(2)
        step(method, Batch(inputs, batch.target, present, batch.index))
        outcomes.append((weights(method), method.eval().predict(inputs, present).output))
    assert torch.equal(outcomes[0][1], outcomes[1][1])
    assert all(torch.equal(value, outcomes[1][0][n]) for n, value in outcomes[0][0].items())


def test_sequences_reach_the_fusion_as_tokens() -> None:
    method = build("gru", "Joint", "tokens")
    features = method.multimodal.encode(batch_of("gru").inputs)
    assert isinstance(features["first"], Tokens)


def test_sequences_of_two_encoders_attend_to_each_other() -> None:
    """Padding (NaN) and absent rows reach neither loss nor gradients nor the prediction."""
    made = {"sensor": family("gru"), "face": family("video")}
    batch = Batch(
        {"sensor": made["sensor"].inputs(6), "face": made["face"].inputs(6)}, torch.arange(6) % CLASSES,
        {"sensor": torch.tensor([True, False, True, True, True, True]), "face": torch.tensor([True] * 5 + [False])},
    )  # fmt: skip
    torch.manual_seed(0)
    encoders = {m: f.make(pool=f.sequence) for m, f in made.items()}
    fusion = CrossAttention(dict.fromkeys(encoders, WIDTH), width=8, heads=2, layers=1)
    method = get("Joint")(MultimodalModel(encoders, fusion, nn.Linear(fusion.out_features, CLASSES)), Classification(3))
    before = weights(method)
    step(method, batch)
    changed = {n for n, delta in moved(before, method).items() if bool(delta.any())}
    assert all(any(n.startswith(f"model.encoders.{i}.") for n in changed) for i in (0, 1))
    assert bool(method.eval().predict(batch.inputs, batch.present).output.isfinite().all())
