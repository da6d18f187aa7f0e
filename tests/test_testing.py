"""The checks for methods can fail: each finds what it is for and says by how much; what is declared is right."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, cast

import pytest
import torch
from torch import Tensor, nn

from equimodal import Batch, Sharpness
from equimodal.engine import Objective, Phase
from equimodal.errors import EquimodalError, MethodError, PropertyError, UnknownNameError, UnsupportedError
from equimodal.methods import Joint, Method, MethodInfo, Unimodal, Within, check_options
from equimodal.tasks import Task
from equimodal.testing import (
    PROPERTIES,
    Case,
    Check,
    NotApplicable,
    Report,
    check_method,
    expect_identical,
    expect_near,
    settings_of,
)
from tests.helpers import NAMES


def info(**changes: Any) -> MethodInfo:
    return replace(Joint.info, control=False, defaults={}, **changes)


class TaskLoss(Joint):
    """Uses the task's loss, which does not know of micro-batches."""

    info = info()

    def _objective(self, batch: Batch) -> Objective:
        return Objective(self.task.loss(self._fused(self._features(batch), batch), cast(Tensor, batch.target)))


class ByName(Joint):
    """Visits modalities by the alphabet."""

    info = info()

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        for m in sorted(self.modalities):
            yield Phase(m, self._objective, self.multimodal.parameters_of(m))


class ByOrder(Joint):
    """Visits modalities in the order of the encoders and does not say so."""

    info = info()

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        for m in self.modalities:
            yield Phase(m, self._objective, self.multimodal.parameters_of(m))


class ReadsAbsent(Joint):
    """Encodes the rows that are not there."""

    info = info()

    def _features(self, batch: Batch) -> dict[str, Tensor]:
        return self.multimodal.encode(batch.inputs)


class Forgets(Joint):
    """Has a state that no checkpoint holds."""

    info = info()
    steps = 0

    def _objective(self, batch: Batch) -> Objective:
        self.steps += 1
        return Objective(super()._objective(batch).total / self.steps)


class Counts(Joint):
    """Counts predictions in a buffer."""

    info = info()
    calls: Tensor

    def __init__(self, model: nn.Module, task: Task) -> None:
        super().__init__(model, task)
        self.register_buffer("calls", torch.zeros(()))

    def fused_output(self, features: Any, present: Any) -> Tensor | None:
        self.calls += 1
        return super().fused_output(features, present)


class Draws(Joint):
    """Draws from the global generator to predict."""

    info = info()

    def fused_output(self, features: Any, present: Any) -> Tensor | None:
        output = super().fused_output(features, present)
        return None if output is None else output + 0 * torch.rand(())


class Climbs(Joint):
    """Maximises the loss."""

    info = info()

    def _objective(self, batch: Batch) -> Objective:
        return Objective(-super()._objective(batch).total)


class Pretends(Joint):
    """Declares regression and refuses it."""

    info = info(tasks=("classification", "regression"))

    def __init__(self, model: nn.Module, task: Task) -> None:
        if task.name == "regression":
            raise UnsupportedError("`task`: expected classes. Found numbers. Use another method.")
        super().__init__(model, task)


class Breaks(Joint):
    """Looks at a number inside the loss, which no compiler can follow."""

    info = info()

    def _objective(self, batch: Batch) -> Objective:
        total = super()._objective(batch).total
        return Objective(total if float(total.detach()) > -1 else total * 2)


class Widens(Joint):
    """Returns one output too many."""

    info = info()

    def fused_output(self, features: Any, present: Any) -> Tensor | None:
        output = super().fused_output(features, present)
        return None if output is None else torch.cat([output, output[:, :1]], 1)


class Writes(Joint):
    """Changes the samples of the batch that it is given."""

    info = info()

    def prepare(self, batches: list[Batch]) -> list[Batch]:
        for batch in batches:
            cast(Tensor, batch.inputs[self.modalities[0]]).add_(1e-6)
        return batches


class Nudges(Joint):
    """Moves an encoder that is frozen."""

    info = info()

    def after_step(self, *_: Any) -> None:
        for p in self.parameters():
            p.data.mul_(0.999)


class Rude(Joint):
    """Refuses a fusion without saying what it refuses."""

    info = info()

    def __init__(self, model: nn.Module, task: Task) -> None:
        super().__init__(model, task)
        if type(model.fusion).__name__ == "FiLM":
            raise UnsupportedError("no thanks")


class Unsourced(Joint):
    """Says neither what an option is nor where its default is from, and takes it by position."""

    info = info()

    def __init__(self, model: nn.Module, task: Task, power: float = 0.5, way: Literal["a", "b"] = "a") -> None:
        super().__init__(model, task)


class Inherits(Joint):
    """Has no info of its own."""


class Silent(Joint):
    """Leaves a fact out."""

    info = info(cost="")


class Numbers(Joint):
    """Names another number than the default.

    Args:
        power: of nothing.
    """

    info = info()

    def __init__(self, model: nn.Module, task: Task, *, power: Annotated[float, "0.3, paper"] = 0.5) -> None:
        super().__init__(model, task)


class Misspelt(Joint):
    """Departs from a feature that does not exist."""

    info = info(engine={"accumulations": "refused: for this test"})


FAULTS: list[tuple[type[Method], str, str]] = [
    (TaskLoss, "micro_batches_are_one_batch_on_a_task", r"weighted-False\]: in three micro-batches"),
    (ByName, "names_do_not_matter", "with other names: expected equal numbers to the last bit"),
    (ByOrder, "order_of_encoders_does_not_matter", "expected equal numbers within 1e-09"),
    (ReadsAbsent, "absent_content_influences_nothing", "NonFiniteError"),
    (Forgets, "resuming_is_exact", "continued after 5 of 10 steps"),
    (Counts, "prediction_changes_nothing", r"\['calls'\] to differ by"),
    (Draws, "prediction_changes_nothing", "random state"),
    (Climbs, "runs_learns_and_predicts", "expected the loss to fall below 0.93 of"),
    (Pretends, "runs_learns_and_predicts_on_a_task", "UnsupportedError: `task`: expected classes"),
    (Widens, "runs_learns_and_predicts", r"\(3 times\): ModelError: .*Found \(24, 4\)"),
    (Breaks, "compiled_loss", "compiled_loss.*: UserError: .*data-dependent"),
    (Writes, "runs_learns_and_predicts", "training or prediction wrote into 'audio.raw'"),
    (Rude, "every_fusion_trains_or_is_refused", "begins with the parameter's name. Found: no thanks"),
    (Nudges, "a_frozen_encoder_keeps_still", "the frozen encoder"),
    (Unsourced, "options_are_documented", r"Missing: \['power', 'way'\]"),
    (Unsourced, "defaults_have_a_source", r"Missing: \['power', 'way'\]"),
    (Unsourced, "options_are_keywords", r"expected options after a `\*`. Found \['power', 'way'\]"),
    (Unsourced, "choices_are_checked", "way='no such choice': expected EquimodalError. Found no error"),
    (Inherits, "info_says_everything", "`info`: expected a MethodInfo of the class's own. Found None"),
    (Silent, "info_says_everything", "`info.cost`: expected an entry. Found none"),
    (Numbers, "defaults_have_a_source", "`power` is 0.5 by default, and its source says '0.3, paper'"),
    (Misspelt, "engine_departures_are_well_formed", r"Found \['accumulations'\]"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "name", "text"), FAULTS, ids=lambda v: v if isinstance(v, str) else v.__name__)
def test_a_fault_is_found_and_named(method: type[Method], name: str, text: str) -> None:
    with pytest.raises(PropertyError, match=text) as caught:
        check_method(method, settings=[{}], only=[name])
    assert name in str(caught.value)
    report = check_method(method, settings=[{}], only=[name], raises=False)
    assert report.failed
    assert all(key.startswith(f"{name}[{method.__name__}") for key in report.failed)


def test_the_class_without_the_faults_has_the_properties() -> None:
    """What the faulty classes are derived from, so that each failed for its own reason."""

    class Sound(Joint):
        """As Joint."""

        info = info()

    report = check_method(Sound, settings=[{}], only=list(dict.fromkeys(name for _, name, _ in FAULTS)))
    assert not report.not_applicable


# ---- what a class declares ------------------------------------------------------------------------------------------


class ForClasses(Joint):
    """For classification only, with one batch at a time."""

    info = info(tasks=("classification",), engine={"accumulation": "refused: for this test", "float16": "refused: too"})


def test_what_is_declared_as_refused_is_right() -> None:
    names = ["runs_learns_and_predicts_on_a_task", "accumulation", "float16", "an_overflow_leaves_no_trace",
             "an_unknown_task_is_refused"]  # fmt: skip
    report = check_method(ForClasses, settings=[{}], only=names)
    tasks = [f"{task}-{count}" for task in ("classification", "weighted") for count in (2, 3)]
    assert report.held == [
        "an_unknown_task_is_refused[ForClasses]",
        *(f"runs_learns_and_predicts_on_a_task[ForClasses-{task}]" for task in tasks),
        "accumulation[ForClasses-3]", "accumulation[ForClasses-4]", "float16[ForClasses]",
    ]  # fmt: skip
    assert "does not declare the task 'regression' (`info.tasks`)" in report.not_applicable.values()
    assert "declares 'float16' as refused (`info.engine`)" in report.not_applicable.values()
    text = str(report)
    assert text.startswith("ForClasses: 8 held, 17 not applicable, 0 failed\n\nnot applicable:\n")
    assert "runs_learns_and_predicts_on_a_task (8 times): does not declare the task 'regression'" in text


class Unrefusing(ForClasses):
    """Takes what it says that it refuses."""

    info = ForClasses.info

    def training_step(self, batch: Any, engine: Any) -> Any:
        kept, type(self).info = self.info, replace(self.info, engine={})
        try:
            return super().training_step(batch, engine)
        finally:
            type(self).info = kept


@pytest.mark.parametrize("name", ["accumulation", "float16"])
def test_what_is_declared_as_refused_must_be_refused(name: str) -> None:
    with pytest.raises(PropertyError, match="which is declared as refused: expected UnsupportedError. Found no error"):
        check_method(Unrefusing, settings=[{}], only=[name])


class Alone(Joint):
    """For one process only."""

    info = info(engine={"processes, sharded, trainer, evaluation": "refused: for this test"})


class Crashes(Joint):
    """Fails in the second process."""

    info = info()

    def _objective(self, batch: Batch) -> Objective:
        import torch.distributed as dist

        if dist.is_initialized() and dist.get_rank() == 1:
            raise RuntimeError("no such device in this process")
        return super()._objective(batch)


@pytest.mark.distributed
@pytest.mark.slow
def test_two_processes_refuse_or_fail_by_name() -> None:
    names = ["two_processes_equal_one", "sharded_encoders", "a_failure_on_one_stops_both"]
    report = check_method(Alone, settings=[{}], processes=True, only=names)
    assert len(report.not_applicable) == 5
    assert all("refused, and refuses it" in reason for reason in report.not_applicable.values())
    report = check_method(Crashes, settings=[{}], processes=True, only=names[:1], raises=False)
    assert list(report.failed) == ["two_processes_equal_one[Crashes]", "two_processes_equal_one[Crashes-uneven]"]
    assert "no such device in this process" in str(report)
    with pytest.raises(MethodError, match="'sharded_encoders' needs two processes"):
        check_method(Alone, only=names[1:])


class Demanding(Method):
    """Needs a teacher for every modality.

    Args:
        teachers: modality -> module.
        share: of the teachers.
        way: how.
    """

    info = info()

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        teachers: Mapping[str, nn.Module],
        share: Annotated[float, Within(at_least=0), "ours"] = 0.5,
        way: Annotated[Literal["plain", "squared"] | None, "ours"] = "plain",
        detach: Annotated[bool, "ours"] = True,
        sharpness: Sharpness | None = None,
    ) -> None:
        super().__init__(model, task, sharpness=sharpness)
        check_options(Demanding.__init__, locals())
        if way is None:
            raise MethodError("`way`: expected a way. Found None. Choose one.")
        self.teachers = nn.ModuleDict({str(i): teachers[m] for i, m in enumerate(self.modalities)})

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        def objective(batch: Batch) -> Objective:
            features = self.multimodal.encode(batch.inputs, batch.present)
            return Objective(self.loss(self.multimodal.head(self.multimodal.fuse(features, batch.present)), batch))

        return [Phase("joint", objective, list(self.model.parameters()))]


def teachers(model: Any, task: Any) -> dict[str, Any]:
    return {"teachers": {m: nn.Linear(2, 2) for m in model.modalities}}


def test_required_options_and_settings() -> None:
    assert settings_of(Demanding, teachers) == [{}, {"way": "squared"}, {"detach": False}]  # None is refused by name
    report = check_method(Demanding, shared=teachers, only=["names_do_not_matter", "choices_are_checked"])
    assert report.held == [
        "choices_are_checked[Demanding]", "names_do_not_matter[Demanding]",
        "names_do_not_matter[Demanding-way=squared]", "names_do_not_matter[Demanding-detach=False]",
    ]  # fmt: skip
    with pytest.raises(PropertyError, match="missing 1 required keyword-only argument: 'teachers'"):
        check_method(Demanding, settings=[{}], only=["names_do_not_matter"])


# ---- the check itself -----------------------------------------------------------------------------------------------


def test_what_it_is_not_given() -> None:
    with pytest.raises(MethodError, match="a subclass of equimodal.methods.Method. Found 3"):
        check_method(3)  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="Unknown property 'accumulate'. Did you mean 'accumulation'"):
        check_method(Joint, only=["accumulate"])


def test_it_leaves_no_trace() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    check_method(Joint, settings=[{}], only=["runs_learns_and_predicts", "resuming_is_exact"])
    assert torch.equal(before, torch.get_rng_state())
    with pytest.raises(PropertyError):
        Check(PROPERTIES["runs_learns_and_predicts"], Case(Climbs), (3,)).run()
    assert torch.equal(before, torch.get_rng_state())


def test_comparisons_see_nan_and_shapes() -> None:
    a = {"w": torch.tensor([1.0, float("nan")])}
    for other in (torch.tensor([1.0, 2.0]), torch.tensor([1.0])):
        for compare in (expect_near, expect_identical):
            with pytest.raises(PropertyError, match="w.* differ by inf"):
                compare(a, {"w": other})
    with pytest.raises(PropertyError, match=r"Found \['v', 'w'\] in one"):
        expect_near(a, {"v": a["w"]})
    with pytest.raises(PropertyError, match="w to differ by 1"):
        expect_near({"w": torch.ones(2)}, {"w": torch.tensor([1.0, 2.0])})


def test_errors_are_assertions_and_of_our_family() -> None:
    assert issubclass(PropertyError, (AssertionError, EquimodalError))
    assert str(Report("X")) == "X: 0 held, 0 not applicable, 0 failed"


def test_it_needs_no_test_framework() -> None:
    import subprocess

    code = (
        "import sys\nfor name in ('pytest', 'lightning', 'yaml', 'jsonargparse', 'scipy', 'sklearn'):\n"
        "    sys.modules[name] = None\n"
        "from equimodal.testing import check_method\nfrom equimodal.methods import Joint\n"
        "print(check_method(Joint, settings=[{}], only=['names_do_not_matter', 'accumulation']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("Joint: 3 held"), done.stderr


def test_one_modality_in_any_order() -> None:
    """Which encoder it trains is said, so the order of the others does not matter."""

    class Named(Unimodal):
        info = replace(Unimodal.info, order="")

    Check(PROPERTIES["order_of_encoders_does_not_matter"], Case(Named, {"modality": NAMES[1]})).run()
    with pytest.raises(PropertyError):
        Check(PROPERTIES["order_of_encoders_does_not_matter"], Case(Named)).run()
    with pytest.raises(NotApplicable, match="by default the first encoder"):
        Check(PROPERTIES["order_of_encoders_does_not_matter"], Case(Unimodal)).run()


def test_every_property_says_what_holds() -> None:
    assert all(p.check.__doc__ for p in PROPERTIES.values())
    assert {p.group for p in PROPERTIES.values()} == {"method", "task", "engine", "compile"}
