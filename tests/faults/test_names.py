"""A name that is not known is refused with the nearest known one, at every door: Python and command line."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import pytest
import torch
from torch import nn

from equimodal import Batch, Classification, Inference, MultimodalModel, Regression
from equimodal.data import from_arrays, load, load_avdigits, loader, synthetic
from equimodal.encoders import for_modality
from equimodal.errors import EquimodalError, MethodError, did_you_mean
from equimodal.fusion import Concat
from equimodal.methods import Joint, Unimodal, Within, available, get
from equimodal.methods.parts import Companions, SampleTable
from equimodal.testing import plain_model
from tests.faults.families import attempt, many

DATA = load_avdigits()
X = {"audio": np.zeros((12, 3)), "video": np.ones((12, 2))}
SPLIT = np.repeat(["train", "validation", "test"], 4)
Y = np.arange(12) % 2


def small() -> MultimodalModel:
    torch.manual_seed(0)
    return plain_model({"audio": 3, "video": 2}, 4, 2).float()


def make(name: str, **options: Any) -> Any:
    method: Any = get(name)
    return method(small(), Classification(2), **options)


def predicted(inputs: Any, **more: Any) -> Any:
    return Joint(small(), Classification(2)).predict(inputs, **more)


AUDIO, VIDEO, ALL = torch.zeros(4, 3), torch.ones(4, 2), torch.ones(4) > 0
BOTH = {"audio": AUDIO, "video": VIDEO}
PYTHON: dict[str, tuple[str, Callable[[str], Any]]] = {
    "method": ("CGGM", get),
    "dataset": ("synthetic", load),
    "rule": ("uncertainty", lambda n: Joint(small(), Classification(2), inference=n)),  # type: ignore[arg-type]
    "rule alone": ("precision", lambda n: Inference(("a", "b"), n)),  # type: ignore[arg-type]
    "measure": ("entropy", lambda n: Inference(("a", "b"), "uncertainty", measure=n)),  # type: ignore[arg-type]
    "option of a method": ("strong_first", lambda n: make("MLA", order=n)),
    "modality of inputs": ("audio", lambda n: predicted({n: AUDIO, "video": VIDEO})),
    "modality of present": ("audio", lambda n: predicted({"audio": AUDIO, "video": VIDEO}, present={n: ALL})),
    "modality of a batch": ("audio", lambda n: Batch({"audio": AUDIO}).only(n)),
    "presence of a batch": ("audio", lambda n: Batch({"audio": AUDIO, "video": VIDEO}, None, {n: ALL})),
    "modality of Unimodal": ("audio", lambda n: Unimodal(small(), Classification(2), modality=n)),
    "encoder of a model": ("audio", lambda n: small().encoder(n)),
    "kind of an encoder": ("conv2d", lambda n: for_modality(DATA.modalities["image"], encoder=n)),  # type: ignore[arg-type]
    "option of an encoder": ("dropout", lambda n: for_modality(DATA.modalities["image"], **{n: 0.1})),  # type: ignore[arg-type]
    "size of an encoder": ("small", lambda n: for_modality(DATA.modalities["image"], size=n)),  # type: ignore[arg-type]
    "loss of a regression": ("gaussian_nll", lambda n: Regression(loss=n)),  # type: ignore[arg-type]
    "option of a task": ("label_smoothing", lambda n: DATA.choose_task(**{n: 0.1})),
    "word of an option": ("balanced", lambda n: DATA.choose_task(class_weight=n)),
    "task of arrays": ("classification", lambda n: from_arrays(X, Y, SPLIT, task=n)),  # type: ignore[arg-type]
    "modality of arrays": ("audio", lambda n: from_arrays(X, Y, SPLIT, present={n: np.ones(12)})),
    "option of a dataset": ("redundancy", lambda n: load("synthetic", **{n: 1})),  # type: ignore[arg-type]
    "regime": ("redundant", lambda n: synthetic(2, regime=n)),  # type: ignore[arg-type]
    "missing modality": ("audio", lambda n: from_arrays(X, Y, SPLIT, missing={n: 0.5})),
    "augmented modality": ("image", lambda n: loader(DATA.train, 8, augment={n: ["flip"]})),
    "augmentation": ("spec_mask", lambda n: loader(DATA.train, 8, augment={"audio": [n]})),
    "companion": ("audio", lambda n: Companions({"audio": nn.Linear(3, 4)})[n]),
    "companion of a model": (
        "audio", lambda n: Companions.of({n: nn.Linear(3, 4)}, small()).features(Batch(BOTH)),
    ),
    "teacher": ("audio", lambda n: make("UMT", teachers={n: small(), "video": small()})),
    "column": ("audio", lambda n: SampleTable(["audio", "video"]).update({n: None})),
}  # fmt: skip


def misspelt(name: str, rng: np.random.Generator) -> str:
    """A letter left out, doubled, or exchanged with its neighbour; in another case, at times."""
    at = int(rng.integers(1, len(name) - 1))
    kind = int(rng.integers(3))
    made = (
        name[:at] + name[at + 1 :], name[:at] + name[at] * 2 + name[at + 1 :],
        name[: at - 1] + name[at] + name[at - 1] + name[at + 1 :],
    )[kind]  # fmt: skip
    return made if made != name else name + "x"


@pytest.mark.parametrize("door", PYTHON)
def test_a_misspelt_name_is_told_its_neighbour(door: str) -> None:
    name, build = PYTHON[door]
    for rng in many(2, seed=60):
        wrong = misspelt(name, rng)
        with pytest.raises(EquimodalError) as caught:
            build(wrong)
        assert wrong in str(caught.value)
        assert re.search(f"Did you mean .*{name!r}", str(caught.value)), str(caught.value)
    with pytest.raises(EquimodalError) as caught:
        build("qqqqqqqqqqqq")
    assert "Did you mean" not in str(caught.value)


COMMANDS: dict[str, tuple[str, str]] = {
    "tran --method MLA": ("tran", "train"),
    "train --methd MLA": ("--methd", "--method"),
    "train --method CGMM": ("CGMM", "CGGM"),
    "train --method MLA --data synthetc": ("synthetc", "synthetic"),
    "train --method MLA --training.optimizer admw": ("admw", "adamw"),
    "train --method MLA --options.inference skil": ("skil", "skill"),
    "train --method MLA --options.order shufled": ("shufled", "shuffled"),
    "train --method MLA --options.alfa 1": ("--options.alfa", "--options.alpha"),
    "train --method MLA --model.size smal": ("smal", "small"),
    "train --method MLA --model.fusion Conat": ("Conat", "Concat"),
    "train --method MLA --model.encoders.imag.dropout 0.1": ("imag", "image"),
    "train --method MLA --model.encoders.image.dropot 0.1": ("dropot", "dropout"),
    "train --method MLA --model.encoders.image.encoder con2d": ("con2d", "conv2d"),
    "train --method MLA --missing imge=.3": ("imge", "image"),
    "train --method MLA --data.options.noize 1": ("noize", "noise"),
    "train --method MLA --data.task.smoothing 0.1": ("smoothing", "label_smoothing"),
    "train --method MLA --data.task.class_weight balnced": ("balnced", "balanced"),
    "train --method MLA --data synthetic --data.options.regime nose": ("nose", "noise"),
    "compare --methods MLA,Jiont": ("Jiont", "Joint"),
    "describe CGMM": ("CGMM", "CGGM"),
    "data prepar cremad": ("prepar", "prepare"),
    "data prepare cremad --raw x --out y": ("cremad", "crema-d"),
    "data describe avdigit": ("avdigit", "avdigits"),
}


@pytest.mark.parametrize("line", COMMANDS)
def test_a_misspelt_word_of_a_command_line_is_told_its_neighbour(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("jsonargparse")
    from equimodal.cli import main

    more = ["--out", "/dev/null/x"] if line.split()[0] in ("train", "compare") else []
    assert main([*line.split(), *more]) in (1, 2)
    said = capsys.readouterr().err
    wrong, near = COMMANDS[line]
    assert wrong in said
    assert re.search(f"Did you mean .*{near!r}", said), said


def test_what_is_near() -> None:
    assert did_you_mean(["auido", "x"], {"audio": 1}) == " Did you mean 'audio'?"
    for nothing in (None, 3, "", [], ["qq"], "audio" * 10_000, torch.ones(1)):
        assert did_you_mean(nothing, ["audio", None, 3]) == ""


# ---- names and bounds that a method's author gives -------------------------------------------------------------------


@pytest.mark.parametrize(
    "bounds",
    [
        {"above": 1, "below": 0}, {"at_least": 1, "at_most": 0}, {"above": 1, "at_most": 1},
        {"at_least": 1, "below": 1}, {"above": 0, "at_least": 1}, {"below": 0, "at_most": 1},
        {"above": float("nan")}, {"at_most": float("nan")},
    ],
)  # fmt: skip
def test_bounds_that_no_number_is_between_are_refused(bounds: dict[str, float]) -> None:
    with pytest.raises(MethodError, match="`Within`: expected at most one lower bound, and one upper bound"):
        Annotated[float, Within(**bounds)]  # type: ignore[arg-type]
    assert Within(at_least=1, at_most=1) == Within(at_least=1, at_most=1)


@pytest.mark.parametrize("columns", ["audio", [], ["a", "a"], ["a", ""], ["a", 1], [None]])
def test_columns_are_a_list_of_different_names(columns: Any) -> None:
    with pytest.raises(MethodError, match="`columns`: expected a list of different names"):
        SampleTable(columns)


def test_prototypes_of_soft_labels_say_what_they_were_given() -> None:
    from equimodal.unimodal import Prototype

    model, inputs = small(), {"audio": AUDIO, "video": VIDEO}
    with pytest.raises(EquimodalError, match=r"Found torch.float32 \(4, 2\).*Probabilities.*argmax"):
        Prototype(model, Classification(2)).fit([Batch(inputs, torch.full((4, 2), 0.5))])
    with pytest.raises(EquimodalError, match=r"class indices \(B,\) for prototypes. Found none\.$"):
        Prototype(model, Classification(2)).fit([Batch(inputs)])


@pytest.mark.parametrize("name", [n for n in available(outside=False) if n not in ("UMT", "G2D")])
def test_no_method_predicts_with_a_head_of_another_width(name: str) -> None:
    """Whether it was trained or not; what it does not use may be of any width."""
    head = nn.Linear(8, 5)
    encoders = {"audio": nn.Linear(3, 4), "video": nn.Linear(2, 4)}
    model = MultimodalModel(encoders, Concat({"audio": 4, "video": 4}), head)
    method, message = attempt(get(name), model, Classification(2))
    output, message = (None, message) if method is None else attempt(lambda: method.predict(BOTH).output)
    assert "head" in message if output is None else output.shape == (4, 2)
