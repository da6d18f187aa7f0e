"""All checks over one model, or over what is on record of one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from equimodal.diagnostics.checks._finding import SEVERITIES, Finding, NotMeasured, Report, Unchecked
from equimodal.diagnostics.checks._registry import Check, checks, control, get
from equimodal.diagnostics.checks._subject import Data, Records, Subject
from equimodal.engine import load_random_state, save_random_state
from equimodal.errors import EquimodalError, MethodError
from equimodal.methods import Method
from equimodal.methods import get as method_named
from equimodal.tasks import Task


def check(
    model: nn.Module,
    train: Data | None = None,
    validation: Data | None = None,
    test: Data | None = None,
    *,
    task: Task | None = None,
    ignore: Iterable[str] = (),
    fast: bool = False,
    alone: Method | None = None,
    rivals: Mapping[str, Method] | None = None,
    optimizer: Optimizer | Callable[[list[dict[str, Any]]], Optimizer] | None = None,
    groups: Mapping[str, Mapping[str, Sequence[object]]] | None = None,
    history: Sequence[Mapping[str, Any]] = (),
    using: Iterable[Check] | None = None,
) -> Report:
    """Look at a trained model for what usually goes wrong in multimodal training; nothing of it is changed.

    The model may have been trained anywhere: what counts is that it has the members of
    :class:`~equimodal.Multimodal`, or is a :class:`~equimodal.methods.Method`. What is not given is not guessed: the
    report says which checks were not made, and why. Folders of runs and comparisons:
    :func:`equimodal.studies.check_run`, :func:`~equimodal.studies.check_study`.

    Args:
        model: trained; a method, or a model, which is then looked at as joint training left it.
        train: training data: a split, a loader or any batches with targets.
        validation: validation data.
        test: test data, on which scores are compared; without them the validation data are.
        task: of a model that is no method.
        ignore: codes of checks that are left out.
        fast: leave out what trains or takes gradients.
        alone: a method whose modalities were trained each by itself on the same data, for comparisons.
        rivals: name -> controls, trained on the same data.
        optimizer: what the method was trained with, or a function that makes one of parameter groups.
        groups: part -> kind of group -> label of each sample, where the data do not know them.
        history: epochs as ``history.jsonl`` holds them: ``{"epoch": 0, "validation": {"unimodal": {"audio": 0.5}}}``.
        using: checks with thresholds of their own, instead of all registered ones.

    Raises:
        ModelError: the model lacks members of the protocol.
        MethodError: a path or something else was given, or a model without a task.
        UnknownNameError: ``ignore`` holds a code that is none.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from equimodal import Batch, Classification, MultimodalModel
        >>> from equimodal.fusion import Concat
        >>> model = MultimodalModel({m: nn.Linear(2, 2) for m in "ab"}, Concat({"a": 2, "b": 2}), nn.Linear(4, 2))
        >>> batch = Batch({"a": torch.eye(2), "b": torch.eye(2)}, torch.tensor([0, 1]))
        >>> report = check(model, [batch], [batch], [batch], task=Classification(2), fast=True)
        >>> "EQ016" in report.codes  # the test samples are the training samples
        True
    """
    method = _method(model, task)
    given: dict[str, Data | None] = {"train": train, "validation": validation, "test": test}
    records = Records(history=[history] if history else ())
    data = {part: found for part, found in given.items() if found is not None}
    subject = Subject(
        type(model).__name__, method, data, records=records, fast=fast, alone=alone, rivals=rivals, optimizer=optimizer,
        groups=groups,
    )  # fmt: skip
    return run_checks(subject, ignore=ignore, using=using)


def run_checks(subject: Subject, *, ignore: Iterable[str] = (), using: Iterable[Check] | None = None) -> Report:
    """The report of all checks, or of those in ``using``; a check that cannot be made is listed with its reason."""
    muted = muted_codes(ignore)
    made = [get(code)() for code in checks()] if using is None else list(using)
    findings: list[Finding] = []
    passed: list[str] = []
    unchecked: list[Unchecked] = []
    state = save_random_state()
    try:
        for one in made:
            if one.code in muted:
                continue
            try:
                own = list(one.run(subject))
            except NotMeasured as why:
                unchecked.append(Unchecked(one.code, one.title, str(why), ""))
            except (EquimodalError, RuntimeError, ValueError, TypeError) as error:  # of the model that is looked at
                said = " ".join(str(error).split())
                kind = "" if isinstance(error, EquimodalError) else f"{type(error).__name__}: "
                unchecked.append(Unchecked(one.code, one.title, f"the model refused: {kind}{said}", ""))
            else:
                findings += own
                passed += [] if own else [one.code]
    finally:
        load_random_state(state)
    return Report(subject.label, in_order(findings), tuple(passed), tuple(unchecked), muted)


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Worst first, then by code."""
    return tuple(sorted(findings, key=lambda f: (SEVERITIES.index(f.severity), f.code)))


def muted_codes(ignore: Iterable[str]) -> tuple[str, ...]:
    """The codes to leave out, as the registry writes them.

    Raises:
        UnknownNameError: a code is none; near ones are named.
    """
    names = [ignore] if isinstance(ignore, str) else list(ignore)
    return tuple(dict.fromkeys(get(name).code for name in names))


def _method(model: Any, task: Task | None) -> Method:
    if isinstance(model, (str, Path, os.PathLike)):
        raise MethodError(
            f"`model`: expected a trained method or model. Found the path {str(model)!r}. A run's folder is checked by "
            "equimodal.studies.check_run(path), a comparison's by check_study(path)."
        )
    if isinstance(model, Method):
        return model
    if not isinstance(model, nn.Module):
        raise MethodError(
            f"`model`: expected a trained method, or a torch module with the members of equimodal.Multimodal. Found "
            f"{type(model).__name__}. See docs/own-model.md."
        )
    wrap = method_named(control("reference"))
    if task is None and all(hasattr(model, name) for name in ("modalities", "encode", "head")):
        raise MethodError("`task`: expected one, as a model alone does not say what it predicts. Found None. Give "
                          "task=Classification(C), or the method that the model was trained with.")  # fmt: skip
    from equimodal.tasks import Classification

    return wrap(model, task or Classification(2))
