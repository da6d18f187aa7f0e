"""Properties under torch.compile, which traces with the backend ``eager`` and so needs no C++ compiler."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from equimodal.batch import Batch
from equimodal.engine import PlainEngine
from equimodal.errors import UnsupportedError
from equimodal.methods import Method, StepReport
from equimodal.model import MultimodalModel
from equimodal.testing._cases import Case
from equimodal.testing._expect import expect, expect_error, expect_identical, expect_near
from equimodal.testing._graphs import EmulatedGraphs, GraphEngine
from equimodal.testing._loops import sgd, train, weights
from equimodal.testing._models import CLASSES, WIDTH, concat, mlp, plain_batch
from equimodal.testing._property import Property

TWO = {"a": 5, "b.c": 4}
"""Two modalities: each more is one more trace."""


@contextmanager
def fresh_compiler() -> Iterator[None]:
    """Nothing compiled before, and nothing left afterwards."""
    torch.compiler.reset()
    try:
        yield
    finally:
        torch.compiler.reset()


def compiled_encoders(case: Case) -> None:
    """Encoders compiled before the method is made give the eager weights (1e-9)."""
    case.claims("compile")
    with fresh_compiler():
        eager, batch = case.plain(sizes=TWO), _vectors(TWO)
        torch.manual_seed(0)
        encoders: dict[str, nn.Module] = {m: mlp(n, WIDTH) for m, n in TWO.items()}
        head = nn.Linear(WIDTH * len(encoders), CLASSES)
        wrapped: Any = {m: torch.compile(e, backend="eager", fullgraph=True) for m, e in encoders.items()}
        compiled = case.on(MultimodalModel(wrapped, concat(encoders), head).double())
        for method in (eager, compiled):
            method.predict(batch.inputs)
            train(method, sgd(method, clip_norm=0.5), range(3), [batch], total=3)
        expect_near(_plain_names(eager), _plain_names(compiled), 1e-9, "with compiled encoders")


def compiled_loss(case: Case, backward: bool = False, sizes: Mapping[str, int] = TWO) -> None:
    """Each phase's loss compiles to one graph, whose results last one step, and gives the eager weights and reports.

    (1e-9; or compiling is refused.) A prediction comes first: what a model learns from its first inputs would cost a
    second trace of every phase.
    """
    with fresh_compiler():
        eager, compiled = case.plain(sizes=sizes), case.plain(sizes=sizes)
        batch = _vectors(sizes)
        for method in (eager, compiled):
            method.predict(batch.inputs)
        graphs = EmulatedGraphs(backward)
        engine = GraphEngine(graphs, sgd(compiled).optimizers, clip_norm=0.5)
        if case.departure("compiled-loss") == "refused":
            with expect_error(UnsupportedError, "", "a compiled loss, which is declared as refused"):
                train(compiled, engine, range(1), [batch], total=3)
            expect_identical(weights(eager), weights(compiled), "after the refusal")
            return
        expected = reports_of(eager, sgd(eager, clip_norm=0.5), batch)
        with graphs.running(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*CUDA graphs need batches of one shape")  # methods that drop modalities
            found = reports_of(compiled, engine, batch)
        expect(graphs.steps >= 4, f"graph mode: expected a mark at each of 3 steps. Found {graphs.steps - 1}.")
        expect_near(weights(eager), weights(compiled), 1e-9, "with a compiled loss")
        expect_near(expected, found, 1e-9, "reports of a compiled loss")


def reports_of(method: Method, engine: PlainEngine, batch: Batch) -> dict[str, Tensor]:
    """Everything that the steps of three epochs report, as it is in the end."""
    reports: list[StepReport] = []
    step = method.training_step

    def noted(*arguments: Any) -> StepReport:
        reports.append(step(*arguments))
        return reports[-1]

    with mock.patch.object(method, "training_step", noted):
        train(method, engine, range(3), [batch], total=3)
    found: dict[str, Tensor] = {}
    for number, report in enumerate(reports):
        for kind in ("losses", "scores", "coefficients", "extras"):
            for name, value in getattr(report, kind).items():
                entries = value if isinstance(value, Mapping) else {"": value}
                for key, entry in entries.items():
                    found[f"{number}/{kind}/{name}/{key}"] = torch.as_tensor(entry).detach()
    return found


def _vectors(sizes: Mapping[str, int]) -> Batch:
    return plain_batch(sizes, CLASSES, 12, 0)


def _plain_names(method: Method) -> dict[str, Tensor]:
    return {n.replace("_orig_mod.", ""): t for n, t in weights(method).items()}


PROPERTIES = (
    Property(compiled_encoders, "compile"),
    Property(compiled_loss, "compile"),
)
