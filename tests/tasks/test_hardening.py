"""Heads of the wrong width, targets that are probabilities, and bundles for every task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from equimodal import Batch, Classification, MultimodalModel, PlainEngine
from equimodal.batch import Tokens
from equimodal.data import Missing, from_arrays, load, load_bundle, write_bundle
from equimodal.diagnostics import evaluate, rule_scores, subset_table
from equimodal.errors import DataError, ModelError, TargetError
from equimodal.features import affine_head, on_rows
from equimodal.fusion import Concat, FiLM
from equimodal.inference import fitted_temperature
from equimodal.methods import Method, get
from equimodal.tasks import MultiLabel, Regression, Segmentation, Task
from tests import formulas
from tests.helpers import announce

G = torch.Generator().manual_seed(0)
X = {m: torch.randn(6, 5, generator=G) for m in ("a", "b")}
SOFT = torch.softmax(2 * torch.randn(6, 3, generator=G), dim=1)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
RNG = np.random.default_rng(0)
ARRAYS: dict[str, Any] = {
    "inputs": {"a": RNG.normal(size=(20, 4)), "b": RNG.normal(size=(20, 3))},
    "split": ["train"] * 10 + ["validation"] * 5 + ["test"] * 5,
}


def method_of(name: str, task: Task, outputs: int, **options: Any) -> Method:
    torch.manual_seed(0)
    encoders = {m: nn.Linear(5, 4) for m in X}
    return get(name)(MultimodalModel(encoders, Concat(dict.fromkeys(X, 4)), nn.Linear(8, outputs)), task, **options)


def step(method: Method, target: Tensor) -> None:
    announce(method)
    method.training_step(Batch(X, target), PlainEngine(torch.optim.SGD(method.parameters(), lr=0.1)))


# ---- width of the output ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outputs", [2, 4])
@pytest.mark.parametrize("name", ["Joint", "MultiLoss", "ModalityDropout", "CGGM"])
def test_a_head_of_another_width_is_named(name: str, outputs: int) -> None:
    with pytest.raises(ModelError, match=rf"`head`: expected an output \(B, 3\).*Found \(6, {outputs}\)"):
        step(method_of(name, Classification(3), outputs), LABELS)


@pytest.mark.parametrize(
    ("task", "target", "wrong"),
    [
        (Classification(3), LABELS, [(6, 2), (6, 4), (6,), (6, 3, 2)]),
        (Classification(3), SOFT, [(6, 2), (6, 4)]),
        (MultiLabel(3), SOFT, [(6, 2), (6, 4), (6,)]),
        (Regression(), SOFT[:, 0], [(6, 2), (6,), (6, 1, 4)]),
        (Regression(3, loss="gaussian_nll"), SOFT, [(6, 3), (6, 7)]),
        (Segmentation(3), torch.zeros(6, 4, 4).long(), [(6, 2, 4, 4), (6, 4, 4, 4), (6, 3)]),
    ],
    ids=lambda value: value.name if isinstance(value, Task) else "",
)
def test_every_way_into_a_task_compares_the_width(task: Task, target: Tensor, wrong: list[tuple[int, ...]]) -> None:
    for shape in wrong:
        output = torch.zeros(shape)
        for read in (task.loss, task.residual, task.score_terms):
            with pytest.raises(ModelError, match=rf"`head`.*\(B, {task.outputs}\b.*task.outputs"):
                read(output, target)


def test_the_comparison_stays_in_one_compiled_graph() -> None:
    task = Classification(3)
    compiled = torch.compile(task.loss, backend="eager", fullgraph=True)
    z = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    assert torch.equal(compiled(z, LABELS), task.loss(z, LABELS))


class Steps(nn.Module):
    """(B, 5) to three tokens of width 4."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tokens:
        return Tokens.full(self.map(x)[:, None].expand(-1, 3, -1))


class Grid(nn.Module):
    """(B, 5) to a map of width 4."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        grid: Tensor = self.map(x)[..., None, None].expand(-1, -1, 2, 3)
        return grid


@pytest.mark.parametrize("fusion", [FiLM, lambda sizes: Concat(sizes, sequences="time")], ids=["FiLM", "Concat"])
@pytest.mark.parametrize(("kind", "found"), [(Steps, "Tokens"), (Grid, r"a tensor \(6, [48], 2, 3\)")])
def test_a_linear_head_on_features_that_are_not_pooled(kind: Any, found: str, fusion: Any) -> None:
    made = fusion(dict.fromkeys(X, 4))
    width = 4 if kind is Steps or isinstance(made, FiLM) else 8
    bare = (nn.Linear(width, 3), nn.Sequential(nn.Dropout(), nn.Linear(width, 3)))
    for head in bare:
        model = MultimodalModel({m: kind() for m in X}, made, head)
        with pytest.raises(ModelError, match=rf"`head`: expected one that reads.*{found}.*Pool.*on_rows"):
            step(get("Joint")(model, Classification(3)), LABELS)
    for head in (on_rows(nn.Linear(width, 3), dense=False), affine_head(width, 3)):
        step(get("Joint")(MultimodalModel({m: kind() for m in X}, made, head), Classification(3)), LABELS)


# ---- targets that are probabilities ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]], r"sum to 1\. Found \[2\.0, 0\.0\] in rows \[0, 1\]"),
        ([[0.0, 1.0, 0.0], [0.5, 0.4, 0.05]], r"Found \[0\.9[0-9]*\] in rows \[1\].*MultiLabel"),
    ],
)
def test_rows_that_are_no_probabilities(rows: list[list[float]], found: str) -> None:
    with pytest.raises(TargetError, match=found):
        Classification(3).check_target(torch.tensor(rows))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_rounded_probabilities_pass(dtype: torch.dtype) -> None:
    many = torch.softmax(torch.randn(200, 50, generator=torch.Generator().manual_seed(2)), dim=1)
    Classification(50).check_target(many.to(dtype))
    Classification(3).check_target(torch.full((2, 3), 0.33, dtype=dtype))


def best_temperature(z: np.ndarray[Any, Any], q: np.ndarray[Any, Any]) -> float:
    """By another optimiser, over log T."""
    optimize = pytest.importorskip("scipy.optimize")

    def loss(log_t: float) -> float:
        return float(-(q * formulas.log_softmax(z / np.exp(log_t), axis=1)).sum())

    return float(np.exp(optimize.minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-9}).x))


def test_temperature_of_soft_targets() -> None:
    g = torch.Generator().manual_seed(3)
    z = 3 * torch.randn(80, 4, generator=g, dtype=torch.float64)
    q = torch.softmax(z / 2.5 + 0.3 * torch.randn(80, 4, generator=g, dtype=torch.float64), dim=1)
    own = fitted_temperature(z, q, "categorical")
    assert float(own) == pytest.approx(best_temperature(z.numpy(), q.numpy()), rel=1e-6)
    assert float(fitted_temperature(z, torch.softmax(z / 2.5, 1), "categorical")) == pytest.approx(2.5, rel=1e-9)
    assert fitted_temperature(z.float(), q.float(), "categorical").dtype == torch.float32


def test_certain_probabilities_are_labels() -> None:
    g = torch.Generator().manual_seed(4)
    z = torch.randn(80, 4, generator=g, dtype=torch.float64)
    y = torch.where(torch.rand(80, generator=g) < 0.7, z.argmax(1), 0)
    hard = fitted_temperature(z, y, "categorical")
    assert 0.1 < float(hard) < 10
    soft = fitted_temperature(z, nn.functional.one_hot(y, 4).double(), "categorical")
    torch.testing.assert_close(soft, hard, rtol=1e-8, atol=0)


def test_temperature_of_soft_labels() -> None:
    z = torch.randn(60, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    assert float(fitted_temperature(z, torch.sigmoid(z / 1.7), "bernoulli")) == pytest.approx(1.7, rel=1e-9)
    y = torch.sigmoid(z / 1.7) > torch.rand(60, 3, generator=torch.Generator().manual_seed(6))
    hard = fitted_temperature(z, y.long(), "bernoulli")
    torch.testing.assert_close(fitted_temperature(z, y.double(), "bernoulli"), hard, rtol=1e-8, atol=0)


@pytest.mark.parametrize("options", [{"calibrated": True}, {"inference": "auto"}], ids=["calibrated", "auto"])
@pytest.mark.parametrize("name", ["Joint", "MLA", "MIE", "CGGM"])
def test_soft_targets_after_training(name: str, options: dict[str, Any]) -> None:
    pytest.importorskip("torchmetrics")
    method = method_of(name, Classification(3), 3, **options)
    step(method, SOFT)
    soft, hard = [Batch(X, SOFT)], [Batch(X, SOFT.argmax(1))]
    method.fit_inference(soft)
    found, of_labels = evaluate(method, soft, metrics=True), evaluate(method, hard, metrics=True)
    assert found.metrics == of_labels.metrics
    assert found.score == of_labels.score
    assert found.loss != of_labels.loss
    scores = rule_scores(method, soft, soft)
    assert {"mean+temperature", "product+temperature"} <= set(scores)
    assert subset_table(method, soft, metrics=True)[-1].metric == pytest.approx(found.metrics["accuracy"])


def test_metrics_of_labels_of_any_type() -> None:
    pytest.importorskip("torchmetrics")
    g = torch.Generator().manual_seed(7)
    p, y = torch.rand(12, 3, generator=g), torch.rand(12, 3, generator=g)
    hard = MultiLabel(3).metrics()(p, (y >= 0.5).long())
    for target in (y, (y >= 0.5).float(), y >= 0.5, (y >= 0.5).to(torch.uint8)):
        assert MultiLabel(3).metrics()(p, target) == hard


# ---- bundles ---------------------------------------------------------------------------------------------------------

WORDS = RNG.integers(0, 2, size=(20, 3))
MASKS = RNG.integers(0, 3, size=(20, 4, 4))


@pytest.mark.parametrize(
    ("task", "target", "classes", "made"),
    [
        ("multilabel", WORDS, ["x", "y", "z"], "MultiLabel(num_labels=3)"),
        ("multilabel", WORDS.astype(bool), None, "MultiLabel(num_labels=3)"),
        ("regression", RNG.normal(size=20), None, "Regression(size=1, loss='l1', sentiment=False)"),
        ("regression", RNG.integers(0, 9, size=(20, 2)), None, "Regression(size=2, loss='l1', sentiment=False)"),
        ("segmentation", MASKS, None, "Segmentation(num_classes=3, dice_weight=0.5, regions=['1', '2'])"),
        ("segmentation", MASKS, ["n", "c", "r", "e"], None),
    ],
)
def test_bundles_of_every_task(tmp_path: Path, task: Any, target: Any, classes: Any, made: str | None) -> None:
    pytest.importorskip("yaml")
    data = load_bundle(write_bundle(tmp_path / "own.npz", **ARRAYS, target=target, task=task, classes=classes))
    assert data.task.name == task
    assert made is None or repr(data.task) == made
    data.task.check_target(data.train.target)
    np.testing.assert_allclose(data.train.target.numpy(), target[:10], rtol=1e-6)
    assert torch.equal(from_arrays(**ARRAYS, target=target, task=task, classes=classes).test.target, data.test.target)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"task": "ranking"}, "`task`: expected one of classification, multilabel"),
        ({"task": "multilabel", "target": np.zeros(20, int)}, r"`target`.*0 and 1 of shape \(N, L\)"),
        ({"task": "multilabel", "target": WORDS - 1}, "`target`.*from -1 to 0"),
        ({"task": "multilabel", "target": WORDS / 2}, "`target`.*float64"),
        ({"task": "regression", "target": ["low"] * 20}, "`target`: expected numbers"),
        ({"task": "regression", "target": np.zeros(20), "classes": ["a", "b"]}, "`classes`: expected None"),
        ({"task": "segmentation", "target": np.zeros((20, 4), int)}, r"`target`.*\(N, H, W\)"),
        ({"task": "segmentation", "target": MASKS - 1}, "expected labels 0 to"),
        ({"present": {"a": np.full(20, 0.5)}}, r"`present\['a'\]`: expected booleans.*\[0\.5\]"),
        ({"present": {"a": [1] * 19 + [2]}}, r"`present\['a'\]`.*\[1, 2\]"),
        ({"present": {"a": [1.0] * 19 + [float("nan")]}}, r"`present\['a'\]`.*nan"),
        ({"present": {"a": ["yes"] * 20}}, r"`present\['a'\]`.*'yes'"),
    ],
)
def test_what_a_bundle_refuses(tmp_path: Path, changes: dict[str, Any], match: str) -> None:
    pytest.importorskip("yaml")
    with pytest.raises(DataError, match=match):
        write_bundle(tmp_path / "own.npz", **{**ARRAYS, "target": [0, 1] * 10, **changes})
    assert list(tmp_path.iterdir()) == []


def test_presence_as_whole_numbers_and_as_floats() -> None:
    flags = [0] + [1] * 19
    for present in (flags, [float(f) for f in flags], np.array(flags, dtype=bool)):
        data = from_arrays(**ARRAYS, target=[0, 1] * 10, present={"a": present})
        assert data.train.present["a"].tolist() == [False] + [True] * 9


def test_another_draw_as_the_page_says() -> None:
    one, other = (load("avdigits", missing=Missing("audio=0.5", seed=seed)) for seed in (0, 4))
    assert not torch.equal(one.train.present["audio"], other.train.present["audio"])
