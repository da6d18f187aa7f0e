"""What must hold for every registered method; a new method is covered by being there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from equimodal.methods import available, get
from equimodal.testing import PROPERTIES, Check, Job, NotApplicable, checks_of, judge, work
from tests.helpers import METHOD_SETTINGS, case_of, run
from tests.processes import together

CASES = [case_of(setting) for setting in METHOD_SETTINGS]


def checks() -> list[Check]:
    """The properties of training, prediction, checkpoints, bad input and of what a class says of itself."""
    return [
        check
        for property_ in PROPERTIES.values()
        if property_.group == "method"
        for name in available(outside=False)
        for check in checks_of(property_, [case for case in CASES if case.method is get(name)])
    ]


@pytest.mark.parametrize("check", checks(), ids=str)
def test_property(check: Check) -> None:
    run(check)


# ---- processes ------------------------------------------------------------------------------------------------------


def replicated(name: str) -> bool:
    """Not the statistics that each process keeps of its own samples until they are summed."""
    return not any(part in name for part in (".covariances.", ".numerators", ".denominators"))


@pytest.mark.distributed
def test_two_processes_equal_one(tmp_path: Path) -> None:
    """Half batches on two processes against the same halves as micro-batches, and against the joined batch, on one."""
    jobs = [Job("two_processes_equal_one", case) for case in CASES]
    jobs += [Job("two_processes_equal_one", case, uneven=True) for case in CASES if not case.options]
    together(work, str(tmp_path), jobs)
    ranks = [torch.load(tmp_path / f"rank{r}.pt", weights_only=True) for r in range(2)]
    for job, *outcomes in zip(jobs, *ranks, strict=True):
        try:
            judge(job, outcomes, replicated)
        except NotApplicable:
            assert job.case.departure("processes"), job
