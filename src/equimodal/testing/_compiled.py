"""Properties under torch.compile, which traces with the backend ``eager`` and so needs no C++ compiler."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from equimodal.batch import Batch
from equimodal.errors import UnsupportedError
from equimodal.methods import Method
from equimodal.model import MultimodalModel
from equimodal.testing._cases import Case
from equimodal.testing._expect import expect_error, expect_identical, expect_near
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


def compiled_loss(case: Case, backend: str = "eager", sizes: Mapping[str, int] = TWO) -> None:
    """Each phase's loss compiles to one graph and gives the eager weights (1e-9), or compiling is refused.

    A prediction comes first: what a model learns from its first inputs would cost a second trace of every phase.
    """
    with fresh_compiler():
        eager, compiled = case.plain(sizes=sizes), case.plain(sizes=sizes)
        batch = _vectors(sizes)
        for method in (eager, compiled):
            method.predict(batch.inputs)
        engine = sgd(compiled, clip_norm=0.5, compile={"backend": backend, "fullgraph": True})
        if case.departure("compiled-loss") == "refused":
            with expect_error(UnsupportedError, "", "a compiled loss, which is declared as refused"):
                train(compiled, engine, range(1), [batch], total=3)
            expect_identical(weights(eager), weights(compiled), "after the refusal")
            return
        train(eager, sgd(eager, clip_norm=0.5), range(3), [batch], total=3)
        train(compiled, engine, range(3), [batch], total=3)
        expect_near(weights(eager), weights(compiled), 1e-9, "with a compiled loss")


def _vectors(sizes: Mapping[str, int]) -> Batch:
    return plain_batch(sizes, CLASSES, 12, 0)


def _plain_names(method: Method) -> dict[str, Tensor]:
    return {n.replace("_orig_mod.", ""): t for n, t in weights(method).items()}


PROPERTIES = (
    Property(compiled_encoders, "compile"),
    Property(compiled_loss, "compile"),
)
