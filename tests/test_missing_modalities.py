"""Absent content influences nothing on the whole way: arrays, dataset, loader, training, evaluation, prediction."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from equimodal import PlainEngine
from equimodal.batch import tree_map, tree_tensors
from equimodal.data import Dataset, Missing, from_arrays, loader, take_away, write_bundle
from equimodal.diagnostics import evaluate, input_spread, missing_curves, noise_curves, probe_scores, subset_table
from equimodal.engine import Phase
from equimodal.errors import DataError, UnsupportedError
from equimodal.methods import Method, available, refuse_incomplete
from equimodal.studies import (
    DataConfig,
    ModelConfig,
    RunConfig,
    TrainingConfig,
    build_method,
    build_model,
    predict_run,
    run,
)
from tests.helpers import (
    METHOD_SETTINGS,
    Settings,
    assert_identical,
    companions_of,
    setting_id,
    stepper,
    train,
    weights,
)

Array = npt.NDArray[Any]
Setting = tuple[str, Settings]
KINDS = {"audio": "vector", "video": "sequence", "image": "image", "text": "tokens", "pose": "vector"}
SHAPES: dict[str, tuple[int, ...]] = {"audio": (5,), "video": (6, 4), "image": (1, 6, 6), "text": (7,), "pose": (3,)}
WORDS = 20
SIZES = {"train": 48, "validation": 18, "test": 18}
RATES = "train:all=0.3;validation:video=0.5;test:all=0.4"
BLOCK = 12  # training samples without the second modality, one whole batch when they are not shuffled

COMPLETE = [s for s in METHOD_SETTINGS if not s[1].get("mixup_alpha")]
# every setting with three modalities, every method with two and with five
CASES = [(3, s) for s in COMPLETE] + [(count, (name, {})) for count in (2, 5) for name in available()]


def inputs_of(names: list[str]) -> tuple[dict[str, Array], Array]:
    """Inputs that carry the class, and the class."""
    rng = np.random.default_rng(3)
    count = sum(SIZES.values())
    target = np.arange(count) % 3
    found: dict[str, Array] = {}
    for m in names:
        if KINDS[m] == "tokens":
            found[m] = np.where(rng.random((count, 7)) < 0.5, target[:, None] + 1, rng.integers(1, WORDS, (count, 7)))
            continue
        values = rng.standard_normal((count, *SHAPES[m])).astype(np.float32)
        values.reshape(count, -1)[:, :3] += 2 * np.eye(3, dtype=np.float32)[target]
        found[m] = values
    return found, target


def natural(names: list[str]) -> dict[str, Array]:
    """What the data lack by themselves: the second modality in a block of samples, the last one in every fifth."""
    count = sum(SIZES.values())
    return {names[-1]: np.arange(count) % 5 != 0, names[1]: np.arange(count) >= BLOCK}


def arguments(names: list[str], inputs: dict[str, Array], target: Array) -> dict[str, Any]:
    return {
        "inputs": inputs,
        "target": target,
        "split": np.repeat(list(SIZES), list(SIZES.values())),
        "present": natural(names),
        "kinds": {m: KINDS[m] for m in names},
    }


def spoilt(inputs: dict[str, Array], data: Dataset) -> dict[str, Array]:
    """The inputs with NaN (of token ids: a word that no vocabulary has) wherever ``data`` lacks them."""
    found = {m: x.copy() for m, x in inputs.items()}
    for split in (data.train, data.validation, data.test):
        for m, mask in split.present.items():
            gone = split.rows[~mask].numpy()
            found[m][gone] = np.nan if found[m].dtype.kind == "f" else 10**6
    return found


def pair(names: list[str]) -> tuple[Dataset, Dataset]:
    """The same data with any content, and with NaN, where modalities are absent."""
    inputs, target = inputs_of(names)
    clean = from_arrays(**arguments(names, inputs, target), missing=Missing(RATES, seed=5))
    dirty = from_arrays(**arguments(names, spoilt(inputs, clean), target), missing=Missing(RATES, seed=5))
    return clean, dirty


@pytest.fixture(scope="module")
def pairs() -> dict[int, tuple[Dataset, Dataset]]:
    return {count: pair(list(KINDS)[:count]) for count in (2, 3, 5)}


def model_config() -> ModelConfig:
    return ModelConfig(feature_size=6, size="small", encoders={"text": {"vocabulary": WORDS}})


def method_for(data: Dataset, setting: Setting) -> Method:
    torch.manual_seed(0)
    config = model_config()
    config.encoders = {m: o for m, o in config.encoders.items() if m in data.modalities}
    model, needed = build_model(data, config), companions_of(setting[0])
    return build_method(model, data, setting[0], {**({} if needed is None else needed(model, data.task)), **setting[1]})


def note_gradients(engine: PlainEngine, found: dict[str, Tensor]) -> None:
    """Write down every loss, and every gradient that a step is made with."""
    descend, step = engine.descend, engine.step

    def noted_descend(*arguments: Any) -> Any:
        descent = descend(*arguments)
        found[f"{len(found)} loss"] = descent.loss.detach().clone()
        return descent

    def noted_step(phase: Phase, *arguments: Any) -> None:
        for number, p in enumerate(phase.parameters):
            if p.grad is not None:
                found[f"{len(found)} gradient {number} of {phase.name}"] = p.grad.clone()
        step(phase, *arguments)

    setattr(engine, "descend", noted_descend)  # noqa: B010
    setattr(engine, "step", noted_step)  # noqa: B010


def trace(data: Dataset, setting: Setting) -> dict[str, Tensor]:
    """Everything that training, evaluation and prediction give."""
    method = method_for(data, setting)
    refuse_incomplete(method, data.train.present)
    engine = stepper(setting, method)
    found: dict[str, Tensor] = {}
    note_gradients(engine, found)
    ordered = list(loader(data.train, BLOCK, shuffle=False))
    assert data.train.present[list(data.modalities)[1]][:BLOCK].sum() == 0  # a whole batch lacks the modality
    train(method, engine, range(1), ordered, total=2)
    train(method, engine, range(1, 2), list(loader(data.train, 16, seed=1)), total=2)
    found |= {f"weight {n}": t for n, t in weights(method).items()}
    method.eval()
    validation, test = loader(data.validation, 7), loader(data.test, 7)
    found["rule"] = torch.tensor([ord(c) for c in method.fit_inference(validation)])
    for name, batches in (("validation", validation), ("test", test)):
        scores = evaluate(method, batches, metrics=True)
        numbers = [scores.score, scores.loss, *scores.unimodal.values(), *scores.metrics.values()]
        found[f"scores {name}"] = torch.tensor(numbers, dtype=torch.float64)
    for number, batch in enumerate(test):
        prediction = method.predict(batch.inputs, batch.present)
        found[f"prediction {number}"] = prediction.output
        found |= {f"{number} weight of {m}": w for m, w in prediction.weights.items()}
    return found


# ---- bit for bit ---------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::equimodal.errors.OptimizerWarning")  # AdamW cancels a scale on the gradient
@pytest.mark.parametrize(("count", "setting"), CASES, ids=lambda v: str(v) if isinstance(v, int) else setting_id(v))
def test_absent_content_influences_nothing_from_arrays_to_predictions(
    pairs: dict[int, tuple[Dataset, Dataset]], count: int, setting: Setting
) -> None:
    clean, dirty = pairs[count]
    ours, theirs = trace(dirty, setting), trace(clean, setting)
    assert_identical(ours, theirs)
    # CGGM's released rule may diverge on its own; everything else must stay finite
    if setting[1].get("variant") != "released":
        assert all(bool(torch.isfinite(t).all()) for t in ours.values() if t.is_floating_point())
    assert {name.split()[1] for name in ours if name[0].isdigit()} >= {"loss", "gradient"}


def test_the_dirty_data_are_dirty(pairs: dict[int, tuple[Dataset, Dataset]]) -> None:
    clean, dirty = pairs[5]
    batch = dirty.train.batch()
    for m in KINDS:
        mask = dirty.train.present[m]
        assert torch.equal(mask, clean.train.present[m])
        assert 0 < int(mask.sum()) < len(mask)
        values = tree_tensors(batch.inputs[m])[0].float().flatten(1)
        absent = values[~mask]
        assert bool((absent.isnan() | (absent > 1e5)).any(1).all())
        assert bool(values[mask].isfinite().all())


@pytest.mark.parametrize("count", [2, 5])
def test_probes_subsets_and_curves_do_not_read_absent_content(
    pairs: dict[int, tuple[Dataset, Dataset]], count: int
) -> None:
    found = []
    for data in pairs[count]:
        method = method_for(data, ("Ensemble", {}))
        parts: list[Any] = [loader(s, 16, shuffle=False) for s in (data.train, data.validation, data.test)]
        noisy = [m for m in data.modalities if m != "text"]
        found.append((
            probe_scores(method, parts[0], parts[1], parts[2]),
            subset_table(method, parts[2], metrics=True),
            missing_curves(method, parts[2], [0.4, 0.8], draws=2, metrics=True),
            noise_curves(method, parts[2], input_spread(parts[0], noisy), noisy, [0.5], draws=2),
        ))  # fmt: skip
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ["Joint", "MLA", "CGGM"])
def test_whole_runs_and_their_predictions_are_the_same(name: str, tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    names = ["audio", "video", "image"]
    inputs, target = inputs_of(names)
    clean = from_arrays(**arguments(names, inputs, target), missing=Missing(RATES, seed=5))
    found = []
    for folder, values in (("clean", inputs), ("dirty", spoilt(inputs, clean))):
        path = write_bundle(tmp_path / folder / "mine.npz", **arguments(names, inputs, target))
        with np.load(path) as stored:
            content = dict(stored)
        content |= {f"input_{m}": x for m, x in values.items()}
        assert np.isnan(content["input_video"]).any() == (folder == "dirty")
        np.savez(path, **content)
        config = RunConfig(
            name, {}, DataConfig(str(path), missing=RATES, missing_seed=5), ModelConfig(feature_size=6, size="small"),
            TrainingConfig(epochs=2, batch_size=16, device="cpu"),
        )  # fmt: skip
        metrics = run(config, tmp_path / folder / "run")
        recorded = json.loads((tmp_path / folder / "run" / "environment.json").read_text())["data"]["present"]
        assert recorded["train"]["video"] < 0.7
        found.append(({k: v for k, v in metrics.items() if k != "seconds"}, predict_run(tmp_path / folder / "run")))
    assert found[0][0] == found[1][0]
    for key, column in found[0][1].items():
        np.testing.assert_array_equal(column, found[1][1][key])


# ---- nothing left --------------------------------------------------------------------------------------------------


def test_a_modality_that_no_training_sample_has_is_refused() -> None:
    names = ["audio", "video"]
    inputs, target = inputs_of(names)
    given = {**arguments(names, inputs, target), "present": {"video": np.arange(len(target)) >= SIZES["train"]}}
    with pytest.raises(DataError, match="modality 'video': expected training samples that have it. Found none of 48"):
        from_arrays(**given)
    with pytest.raises(DataError, match="'audio': expected training samples"):
        from_arrays(**{**given, "present": {}}, missing="train:audio=1")


@pytest.mark.parametrize("name", available())
def test_a_modality_that_no_test_sample_has(name: str, pairs: dict[int, tuple[Dataset, Dataset]]) -> None:
    data = pairs[3][1]
    method = method_for(data, (name, {}))
    without = take_away(data.test, {"video": 1.0})
    batch = without.batch()
    assert batch.present is not None
    only = batch.present["audio"] | batch.present["image"]
    spoilt_video = {**batch.inputs, "video": tree_map(lambda t: torch.full_like(t, torch.nan), batch.inputs["video"])}
    expected = method.predict(batch.inputs, batch.present).output
    assert torch.equal(method.predict(spoilt_video, batch.present).output[only], expected[only])
    assert evaluate(method, loader(without, 5)).samples == len(without)


def test_mixup_says_before_training_that_it_needs_complete_samples(
    pairs: dict[int, tuple[Dataset, Dataset]], tmp_path: Path
) -> None:
    data = pairs[3][0]
    with pytest.raises(UnsupportedError, match=r"`mixup_alpha`: mixing .* Absent in the training samples: audio in"):
        refuse_incomplete(method_for(data, ("MIE", {"mixup_alpha": 1.0})), data.train.present)
    config = RunConfig("MIE", {"mixup_alpha": 1.0}, model=ModelConfig(feature_size=6, size="small"))
    with pytest.raises(UnsupportedError, match="Use mixup_alpha=0 for MIE"):
        run(config, tmp_path / "run", data=data)
    assert not (tmp_path / "run").exists()
