"""The search: controls first, then other rates, every method as it recommends itself, then what a sampler suggests."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equimodal.data import Dataset
from equimodal.errors import EquimodalError, EquimodalWarning
from equimodal.methods import get, refuse_incomplete
from equimodal.studies.comparisons import (
    WorkerDiedError,
    WorkerPool,
    count_operations,
    declared_cost,
    measure_cost,
    worker_pool,
)
from equimodal.studies.runs import Terminated, Termination, own_randomness, read_lines
from equimodal.studies.setup import RunConfig, fixed_rate, method_options, seeded
from equimodal.studies.tuning._config import TuneConfig
from equimodal.studies.tuning._journal import TRIALS, plan_of, ranges_of, reason, spent
from equimodal.studies.tuning._plan import least, remaining, rungs
from equimodal.studies.tuning._space import Choice, Range, drawn, option_space
from equimodal.studies.tuning._trial import advance, advance_apart, config_of

if TYPE_CHECKING:
    import optuna

Progress = Callable[[int, int, str], None]
_TRIES = 50  # points in a row that no method takes, before the search gives up
_EPSILON = 1e-9
_WAYS = Choice(("default", "recommended", "searched"))
CONTROL, START, FINISH = "control: ", "start: ", "finish: "


@dataclass
class Job:
    """A trial that is running or may go on.

    Args:
        trial: of Optuna.
        config: of its run.
        folder: of its run.
        cost: of a step, in joint steps.
        done: epochs, of those that were looked at.
        until: where it is looked at next.
    """

    trial: optuna.Trial
    config: RunConfig
    folder: Path
    cost: float
    done: int
    until: int

    @property
    def label(self) -> str:
        """For people."""
        return f"trial {self.trial.number}, {self.config.method}"


class Search:
    """Spends the budget of a tuning.

    Args:
        config: of the tuning.
        folder: of the tuning.
        data: to train on.
        study: the journal.
        length: epochs of a trial.
        termination: says whether the process was asked to end.
        progress: called with (joint epochs spent, budget, what is running).
    """

    def __init__(
        self,
        config: TuneConfig,
        folder: Path,
        data: Dataset,
        study: optuna.Study,
        length: int,
        termination: Termination,
        progress: Progress | None,
    ) -> None:
        import optuna

        self._config, self._folder, self._data, self._study = config, folder, data, study
        self._length, self._termination, self._progress = length, termination, progress
        self._rungs = rungs(length, config.reduction)
        study.pruner = optuna.pruners.SuccessiveHalvingPruner(
            min_resource=least(length, config.reduction), reduction_factor=config.reduction
        )
        training = replace(config.training, epochs=length)
        self._base = RunConfig("", {}, config.data, config.model, training, config.seed, probe=False)
        self._known = ranges_of(study)
        self._methods = self._values("method", config.searched(data))
        self._fusions = self._values("fusion", config.usable_fusions(data))
        used = self._used()  # a tuning goes on with the controls that it began with
        self._controls = [c for c in config.controls(data) if c in self._methods and (
            f"{CONTROL}{c}" in used or not any(plan.startswith(START) for plan in used))]  # fmt: skip
        self._ready: list[Job] = []
        self._running: dict[Future[dict[str, Any]], Job] = {}

    # ---- the loop ----------------------------------------------------------------------------------------------------

    def run(self, workers: int) -> None:
        """Try until the budget is spent; what was begun before is continued.

        Args:
            workers: processes; 1 trains in this one.
        """
        self._ready = self._begun()
        self._tell("")
        with self._pool(workers) as pool:
            while True:
                while len(self._running) < workers:
                    job = self._next()
                    if job is None:
                        break
                    self._submit(pool, job)
                    if pool is None:
                        break
                if not self._running:
                    return
                if self._termination.requested and pool is None:
                    raise Terminated(self._folder)
                for future in list(self._running) if pool is None else pool.wait():
                    self._look(self._running.pop(future), future)
                self._tell("")

    @contextmanager
    def _pool(self, workers: int) -> Iterator[WorkerPool | None]:
        """Processes for the trials; none for a single worker."""
        with warnings.catch_warnings():
            # of single trials: what they are worth is measured
            warnings.filterwarnings("ignore", category=EquimodalWarning)
            if workers == 1:
                yield None
                return
            with worker_pool(workers, self._termination, self._folder) as pool:
                yield pool

    def _submit(self, pool: WorkerPool | None, job: Job) -> None:
        if pool is not None:
            self._running[pool.submit(advance_apart, job.config.to_dict(), str(job.folder), job.until)] = job
            return
        future: Future[dict[str, Any]] = Future()
        self._running[future] = job
        try:
            found = advance(job.config, job.folder, job.until, self._data, termination=self._termination,
                            progress=lambda event: self._tell(job.label, event["epoch"]))  # fmt: skip
        except Terminated as stop:
            raise Terminated(self._folder) from stop
        except Exception as error:  # noqa: BLE001 (recorded; the other trials go on)
            future.set_exception(error)
        else:
            future.set_result(found)

    def _look(self, job: Job, future: Future[dict[str, Any]]) -> None:
        """What a trial has come to: it goes on, is stopped, or is finished."""
        import optuna

        failure = future.exception()
        if isinstance(failure, WorkerDiedError):
            raise EquimodalError(
                f"A worker process died while {job.label} ran: out of memory, or a script without "
                "`if __name__ == '__main__':` around its calls. What was tried is kept: call again with the same "
                "folder, and with fewer workers."
            ) from failure
        found = {} if failure is not None else future.result()
        if failure is not None or found["score"] is None:
            why = "no finite prediction" if failure is None else reason(failure)
            job.trial.set_user_attr("why", why)
            job.trial.set_user_attr("charged", job.cost * (job.until - job.done))
            self._study.tell(job.trial, state=optuna.trial.TrialState.FAIL)
            return
        job.trial.set_user_attr("result", found)
        job.trial.report(found["score"], job.until)
        job.done = job.until
        if job.done >= self._length:
            self._study.tell(job.trial, found["score"])
            return
        if not self._stopped(job.trial):
            self._ready.append(replace(job, until=self._after(job.done)))

    def _stopped(self, trial: optuna.Trial) -> bool:
        """Stop a trial that is not among the best of its rung; asking twice gives the same answer."""
        import optuna

        stop = trial.should_prune()  # asked of controls too: others are measured against them
        if not stop or plan_of(trial).startswith((CONTROL, FINISH)):
            return False
        self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        return True

    def _after(self, done: int) -> int:
        return next(r for r in self._rungs if r > done)

    # ---- what comes next ---------------------------------------------------------------------------------------------

    def _next(self) -> Job | None:
        if self._ready:
            return self._ready.pop(0)
        for _ in range(_TRIES):
            plan = self._plan()
            if plan is None and self.left() < self._cheapest() * self._length - _EPSILON:
                return self._last()
            job = self._ask(plan)
            if job is not None:
                return job
        return None

    def left(self) -> float:
        """The joint epochs that are not promised to any trial."""
        promised = [j.cost * (self._length - j.done) for j in (*self._ready, *self._running.values())]
        return remaining(self._config.budget, spent(self._study), promised)

    def _cheapest(self) -> float:
        return min(declared_cost(replace(self._base, method=m), len(self._data.modalities)) or 1.0
                   for m in self._methods)  # fmt: skip

    def _plan(self) -> tuple[str, dict[str, Any]] | None:
        """The next trial that does not ask the sampler: its name and point; ``None`` when all are made."""
        used = self._used()
        usual = {"fusion": self._config.model.fusion, "lr": self._config.training.lr, "sharpness": "off",
                 "options": "default"}  # fmt: skip
        points = {f"{CONTROL}{name}": {**usual, "method": name} for name in self._controls}
        if not used >= set(points):
            return next((name, point) for name, point in points.items() if name not in used)
        if self.left() < self._length - _EPSILON:
            return None
        best = self.best_control()
        if best is not None:
            factor = self._config.lr_span**0.5
            for word, lr in (("higher", usual["lr"] * factor), ("lower", usual["lr"] / factor)):
                points[f"{START}{best}, {word} rate"] = {**usual, "method": best, "lr": lr}
        others = [m for m in self._methods if m not in self._controls]
        for name in sorted(others, key=lambda m: not get(m).info.featured):
            points[f"{START}{name}"] = {**usual, "method": name, "options": "recommended"}
        return next(((name, point) for name, point in points.items() if name not in used), None)

    def _used(self) -> set[str]:
        """Plans of the trials that were begun; one that a killed process only announced is taken up again."""
        import optuna

        waiting = optuna.trial.TrialState.WAITING
        return {plan_of(t) for t in self._study.get_trials(deepcopy=False) if t.state != waiting}

    def best_control(self) -> str | None:
        """Name of the finished control with the best score; ``None`` while some are running."""
        import optuna

        states = optuna.trial.TrialState
        trials = [t for t in self._study.get_trials(deepcopy=False) if plan_of(t).startswith(CONTROL)]
        done = [t for t in trials if t.state == states.COMPLETE]
        if not done or any(not t.state.is_finished() for t in trials):
            return None
        best = max(done, key=lambda t: (t.value if t.value is not None else -float("inf"), -t.number))
        return str(best.params["method"])

    def _last(self) -> Job | None:
        """With what is left, the stopped trial that came farthest and can be finished, the best of them."""
        import optuna

        if self._running:
            return None
        trials = self._study.get_trials(deepcopy=False)
        used = self._used()
        left = self.left()
        able = [
            t for t in trials
            if t.state == optuna.trial.TrialState.PRUNED and f"{FINISH}{t.number}" not in used
            and t.user_attrs["cost"] * (self._length - (t.last_step or 0)) <= left + _EPSILON
        ]  # fmt: skip
        if not able:
            return None
        best = max(able, key=lambda t: (t.last_step or 0, t.value if t.value is not None else 0.0, -t.number))
        return self._ask((f"{FINISH}{best.number}", dict(best.params)))

    # ---- one trial ---------------------------------------------------------------------------------------------------

    def _ask(self, plan: tuple[str, dict[str, Any]] | None) -> Job | None:
        """A new trial; ``None`` if no method takes its point, or it does not fit into the budget."""
        import optuna

        number = len(self._study.get_trials(deepcopy=False))
        # a sampler of its own for each trial: an interrupted search draws what an uninterrupted one does
        self._study.sampler = optuna.samplers.TPESampler(seed=(self._config.seed * 100_003 + number) % 2**32)
        waiting = self._study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.WAITING,))
        number -= len(waiting)
        if plan is not None and not waiting:
            self._study.enqueue_trial(plan[1], user_attrs={"plan": plan[0]})
        trial = self._study.ask()
        config = config_of(self._suggest(trial), self._base)
        try:
            cost = self._cost(config)
            with own_randomness():
                refuse_incomplete(seeded(config, self._data), self._data.train.present)
        except Exception as error:  # noqa: BLE001 (recorded; the other trials go on)
            trial.set_user_attr("why", f"refused: {reason(error)}")
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
            return None
        name, _, other = plan_of(trial).partition(FINISH)
        finish = not name and bool(other)
        start, folder = 0, f"trial{trial.number}"
        if finish:
            before = self._study.get_trials(deepcopy=False)[int(other)]
            start, folder = int(before.last_step or 0), str(before.user_attrs["folder"])
        if cost * (self._length - start) > self.left() + _EPSILON:
            trial.set_user_attr("why", "refused: it does not fit into what is left of the budget")
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
            return None
        for key, value in {"cost": cost, "start": start, "folder": folder, "config": config.to_dict()}.items():
            trial.set_user_attr(key, value)  # the configuration last: with it the trial has begun
        return Job(trial, config, self._folder / TRIALS / folder, cost, start, self._after(start))

    def _suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        method = str(self._draw(trial, "method", Choice(tuple(self._methods))))
        if len(self._fusions) > 1 and not get(method).info.fusion.startswith("ignored"):
            self._draw(trial, "fusion", Choice(tuple(self._fusions)))
        lr, span = fixed_rate(self._config.training), self._config.lr_span
        self._draw(trial, "lr", Range(lr / span, lr * span, log=True))
        if self._config.sharpness and "sharpness" in method_options(method):
            mode = self._draw(trial, "sharpness", Choice(("off", "momentum", "full")))
            if mode != "off":
                self._draw(trial, "sharpness.radius", Range(0.01, 0.2, log=True))
        space, advice = option_space(method), self._advice(method)
        way = self._draw(trial, "options", _WAYS) if space or advice else ""
        if way == "searched":
            for option, entry in space.items():
                self._draw(trial, f"{method}.{option}", entry)
        return dict(trial.params) | (advice if way == "recommended" else {})

    def _draw(self, trial: optuna.Trial, name: str, entry: Choice | Range) -> Any:  # as it was drawn first
        return drawn(trial, name, self._known.setdefault(name, entry))

    def _values(self, name: str, now: list[str]) -> list[str]:
        known = self._known.get(name)
        return list(known.values) if isinstance(known, Choice) else now

    def _advice(self, method: str) -> dict[str, Any]:
        """What a method recommends, but for what is compared on stored outputs."""
        found = get(method).recommended(self._data.task)
        return {f"{method}.{name}": v for name, v in found.items() if name not in ("inference", "calibrated")}

    def _cost(self, config: RunConfig) -> float:
        declared = declared_cost(config, len(self._data.modalities))
        if declared is None or self._config.cost == "measured":
            return measure_cost(self._data, {"": config})[""]
        chosen = {name: value for name, value in config.options.items() if name != "sharpness"}
        if not chosen:
            return declared
        usual = count_operations(self._data, replace(config, options={}))
        own = count_operations(self._data, replace(config, options=chosen))
        return declared * own / usual if usual else declared

    def _begun(self) -> list[Job]:
        """Trials that another process left unfinished, the first ones first."""
        import optuna

        jobs = []
        for known in self._study.get_trials(deepcopy=False):
            if known.state != optuna.trial.TrialState.RUNNING:
                continue
            trial = optuna.trial.Trial(self._study, known._trial_id)
            attrs = known.user_attrs
            if "config" not in attrs:  # it had not begun
                trial.set_user_attr("plan", None)
                trial.set_user_attr("why", "interrupted before it began")
                self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
                continue
            start = int(attrs["start"])
            done = max([start, *known.intermediate_values])
            job = Job(trial, RunConfig.from_dict(attrs["config"]), self._folder / TRIALS / attrs["folder"],
                      float(attrs["cost"]), done, 0)  # fmt: skip
            if done >= self._length:  # all but the last word was said
                self._study.tell(trial, known.intermediate_values[done])
            elif done > start and self._stopped(trial):
                continue
            else:
                jobs.append(replace(job, until=self._after(done)))
        return jobs

    def _tell(self, text: str, epoch: int | None = None) -> None:
        if self._progress is None:
            return
        done = spent(self._study)
        for job in self._running.values():
            now = len(read_lines(job.folder / "history.jsonl")) if epoch is None else epoch
            done += job.cost * max(0, min(now, job.until) - job.done)
            text = text or job.label
        best = max((t.value for t in self._study.get_trials(deepcopy=False) if t.value is not None), default=None)
        text += "" if best is None or not text else f", best {best:.4g}"
        self._progress(round(done), round(self._config.budget), text)
