"""Files of a run that were changed are named by whatever reads them; other versions are named too."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from equimodal.errors import CheckpointError, DataError, EquimodalError, EquimodalWarning
from tests.faults.families import many

pytest.importorskip("lightning")
studies = pytest.importorskip("equimodal.studies")
safetensors = pytest.importorskip("safetensors.torch")
FILES = ("config.yaml", "environment.json", "history.jsonl", "metrics.json", "weights.safetensors", "outcomes.npz")
DATA = studies.DataConfig("synthetic", options={"train": 48, "validation": 24, "test": 24})
TRAINING = studies.TrainingConfig(epochs=2, batch_size=16, device="cpu")
MODEL = studies.ModelConfig(feature_size=8, size="small")


def config(**changes: Any) -> Any:
    return studies.RunConfig("Joint", data=DATA, model=MODEL, training=TRAINING, probe=False, **changes)


def comparison() -> Any:
    entries = {"Joint": studies.Entry("Joint"), "MultiLoss": studies.Entry("MultiLoss")}
    return studies.StudyConfig(entries, [0], DATA, MODEL, TRAINING, controls=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    studies.run(config(), folder / "run", loggers=False)
    studies.compare(comparison(), folder / "study", cost=False)
    return folder


def flip(content: bytes, rng: np.random.Generator) -> bytes:
    place = int(rng.integers(len(content)))
    return content[:place] + bytes([content[place] ^ int(rng.integers(1, 256))]) + content[place + 1 :]


CHANGES: dict[str, Callable[[bytes, np.random.Generator], bytes | None]] = {
    "flip": flip,
    "cut": lambda content, rng: content[: int(rng.integers(len(content)))],
    "longer": lambda content, rng: content + b"\n" * int(rng.integers(1, 3)),
    "digit": lambda content, rng: content.replace(b"0", b"1", 1),
    "empty": lambda content, rng: b"",
    "gone": lambda content, rng: None,
}


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_is_named_by_everything_that_reads_it(made: Path, tmp_path: Path, name: str) -> None:
    for number, rng in enumerate(many(5, seed=50)):
        how = list(CHANGES)[(number + len(name)) % len(CHANGES)]
        run, study = tmp_path / f"run{number}", tmp_path / f"study{number}"
        shutil.copytree(made / "run", run)
        shutil.copytree(made / "study", study)
        for place in (run, study / "cells" / "MultiLoss" / "seed0"):
            content = (place / name).read_bytes()
            changed = CHANGES[how](content, rng)
            if changed is None:
                (place / name).unlink()
            else:
                assert changed != content
                (place / name).write_bytes(changed)
        # without results or weights a run is unfinished, and is finished again from its checkpoints
        again = how == "gone" and name in ("metrics.json", "weights.safetensors")
        calls: list[Callable[[], Any]] = [partial(studies.load_run, run), partial(studies.predict_run, run)]
        if not again:
            calls.append(partial(studies.run, config(), run, resume=True, loggers=False))
            calls.append(partial(studies.compare, comparison(), study, cost=False))
        for call in calls:
            with pytest.raises(EquimodalError, match=name.replace(".", "[.]")):
                call()
        if again:
            assert (
                studies.run(config(), run, resume=True, loggers=False)["test"]
                == json.loads((made / "run" / "metrics.json").read_text())["test"]
            )
            studies.load_run(run)


def test_without_its_hashes_a_run_is_refused_and_one_of_the_first_version_is_not(made: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(made / "run", run)
    (run / "content.json").unlink()
    with pytest.raises(DataError, match="content.json.*Found nothing"):
        studies.load_run(run)
    stored = json.loads((run / "environment.json").read_text())
    del stored["format"]  # as version 0.1 wrote it
    (run / "environment.json").write_text(json.dumps(stored))
    studies.load_run(run)
    for broken in ("[]", "{}", '{"sha256": 1}', "{", '{"sha256": {"config.yaml": 3}}'):
        (run / "content.json").write_text(broken)
        with pytest.raises(DataError, match="content.json"):
            studies.load_run(run)


def test_results_that_cannot_be_are_refused_with_their_field(made: Path, tmp_path: Path) -> None:
    """Also where nobody kept hashes."""
    cell = tmp_path / "study" / "cells" / "Joint" / "seed0"
    shutil.copytree(made / "study", tmp_path / "study")
    (cell / "content.json").unlink()
    stored = json.loads((cell / "environment.json").read_text())
    del stored["format"]
    (cell / "environment.json").write_text(json.dumps(stored))
    whole = json.loads((cell / "metrics.json").read_text())
    wrong: list[tuple[tuple[str, ...], Any]] = [
        (("method",), "MLA"), (("seed",), 7), (("test", "score"), 5.0), (("test", "score"), -0.5), (("test",), None),
        (("test", "score"), None), (("test", "score"), "0.5"), (("test", "unimodal"), {"m1": 2.0}),
        (("validation",), []), (("test", "unimodal"), 3), (("seconds",), None), (("seconds",), -1),
    ]  # fmt: skip
    for path, value in wrong:
        changed = json.loads(json.dumps(whole))
        place = changed
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        (cell / "metrics.json").write_text(json.dumps(changed))
        study = studies.compare(comparison(), tmp_path / "study", cost=False)
        assert [row["method"] for row in study["rows"]] == ["MultiLoss"]
        (said,) = study["incomplete"]
        assert "metrics.json" in said
        assert f"`{path[0]}" in said


def test_a_comparison_that_was_changed_is_not_reported(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "study", tmp_path / "study")
    assert studies.load_study(tmp_path / "study")["rows"]
    for number, rng in enumerate(many(6, seed=51)):
        path = tmp_path / "study" / "study.json"
        content = path.read_bytes()
        path.write_bytes(flip(content, rng))
        with pytest.raises(DataError, match=r"study[.]json.*changed"):
            studies.load_study(tmp_path / "study")
        path.write_bytes(content)
        assert number >= 0


def test_a_line_that_is_no_record_does_not_end_the_history(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "run", tmp_path / "run")
    path = tmp_path / "run" / "history.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    read_lines = pytest.importorskip("equimodal.studies.runs").read_lines
    for rng in many(30, seed=52):
        kinds = [b"\xff\xfe", b"[1]", b"{", b"null", b"", b"0" * 5000, b"[" * 9000]
        garbage = kinds[rng.integers(len(kinds))] + b"\n"
        place = int(rng.integers(len(lines) + 1))
        path.write_bytes(b"".join([*lines[:place], garbage, *lines[place:]]))
        with pytest.raises(DataError, match=rf"history[.]jsonl`: line {place + 1}: "):
            read_lines(path)
        cut = int(rng.integers(1, len(lines[-1])))
        path.write_bytes(b"".join(lines)[:-cut])  # an interrupted write
        assert len(read_lines(path)) == len(lines) - 1


def test_other_versions_are_named(made: Path, tmp_path: Path) -> None:
    for package in ("torch", "equimodal"):
        run = tmp_path / package
        shutil.copytree(made / "run", run)
        stored = json.loads((run / "environment.json").read_text())
        now = stored["versions"][package]
        stored["versions"][package] = "0.0.9"
        (run / "environment.json").write_text(json.dumps(stored))
        (run / "content.json").unlink()
        del stored["format"]
        (run / "environment.json").write_text(json.dumps(stored))
        with pytest.warns(EquimodalWarning, match=f"{package} 0.0.9, here {now.replace('+', '.')}"):
            studies.load_run(run)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        studies.load_run(made / "run")


def test_weights_that_would_be_rounded_or_are_not_finite_are_refused(made: Path, tmp_path: Path) -> None:
    whole = safetensors.load_file(made / "run" / "weights.safetensors")
    path = tmp_path / "weights.safetensors"
    _, _, method = studies.load_run(made / "run")
    before = {n: t.clone() for n, t in method.state_dict().items() if isinstance(t, torch.Tensor)}
    floats = [n for n, t in whole.items() if t.is_floating_point() and n.startswith("model.")]
    for rng in many(20, seed=53):
        name = floats[int(rng.integers(len(floats)))]
        changed = dict(whole)
        if rng.integers(2):
            changed[name] = whole[name].clone()
            changed[name].view(-1)[int(rng.integers(whole[name].numel()))] = float(
                rng.choice([np.nan, np.inf, -np.inf])
            )
            expected = "finite weights"
        else:
            kinds = [torch.int8, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.float8_e4m3fn]
            changed[name] = whole[name].to(kinds[rng.integers(len(kinds))])
            expected = "types of"
        safetensors.save_file(changed, path, {"equimodal": "{}"})
        match = rf"weights.safetensors.*{expected}.*{name.removeprefix('model.')}"
        for load, module in ((studies.load_weights, method), (studies.load_model_weights, method.model)):
            with pytest.raises(CheckpointError, match=match):
                load(module, path)
        after = method.state_dict()
        assert all(torch.equal(t, after[n]) for n, t in before.items())
