"""What would run, what is done and what cannot work: known before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from runner.checkpoints import resolve
from runner.config.root import RunnerConfig
from runner.core.errors import ConfigError, RunnerError
from runner.core.result import Record
from runner.engines.kinds import kind_of
from runner.run import check, identify, must_start_anew
from runner.store.jobs import Job
from runner.store.ledger import is_logged
from runner.tasks.base import Previews, Uses, task_of


class State(StrEnum):
    """Where a job stands before the grid starts."""

    todo = "to do"
    go_on = "go on"  # samples of an interrupted run are there
    done = "done"
    impossible = "impossible"


@dataclass
class Planned:
    """One job of a grid, as it is known beforehand."""

    overrides: list[str]
    config: RunnerConfig | None = None
    config_yaml: str = ""
    resolved: resolve.Resolved | None = None  # None: the config itself cannot work
    job: Job | None = None
    state: State = State.impossible
    problem: str = ""  # why it cannot work
    notes: list[str] = field(default_factory=list)  # why it may not work well
    exit_code: int = 0
    record: Record | None = None  # of a job that is done
    unlogged: bool = False  # done, but MLflow does not have it yet, or task.output asks for a copy
    base: str = ""  # jobs with the same base share one load; empty: nothing to load
    measures: bool = False  # its numbers suffer when something runs beside it
    cost: float = 1.0  # a rough size of the work, to start long jobs first
    same_as: int | None = None  # an earlier job of the grid that is this very job

    @property
    def name(self) -> str:
        """What tells this job from the others, for people."""
        return " ".join(self.overrides) or "(no overrides)"


def plan_job(overrides: list[str], config: RunnerConfig, config_yaml: str = "") -> Planned:
    """Identify a job and look it up; an input that cannot work is its state, not an exception."""
    resolved = resolve.resolve(config)
    planned = Planned(overrides, config, config_yaml, resolved)
    planned.cost = rough_cost(config)
    try:
        task = task_of(config)
        planned.measures = Uses.machine in task.USES
        planned.base = kind_of(config.model).base_key(config) if Uses.weights in task.USES else ""
        with resolve.only_looking(config.plan):
            inputs, planned.job = identify(config, task, resolved)
            anew = must_start_anew(config, task, planned.job)
            planned.record = None if anew else planned.job.recorded()
            if planned.record is None:
                planned.notes = check(config, task, resolved)
                if config.plan and isinstance(task, Previews):
                    planned.notes.append(task.preview(inputs).replace("\n", "\n    "))
    except resolve.ToDownload as absent:  # a job's id rests on what its files hold
        planned.state, planned.notes = State.todo, [str(absent)]
    except RunnerError as error:
        planned.problem, planned.exit_code, planned.base = str(error), error.exit_code, ""  # nothing will be loaded
    else:
        if planned.record is not None:
            planned.state = State.done
            planned.unlogged = not is_logged(config, planned.record) or config.task.wants_delivery
        else:
            started = planned.job.samples_path.exists() and not anew
            planned.state = State.go_on if started else State.todo
    return planned


def refuse_stdin(config: RunnerConfig) -> None:
    """Refuse, in a grid, prompts that only this process could read: its workers have no stdin."""
    if config.task.reads_stdin:
        raise ConfigError("task.prompts=-: the jobs of a grid cannot read stdin, give a file: task.prompts=FILE")


def rough_cost(config: RunnerConfig) -> float:
    """Guess how long a job takes next to the others: questions × tokens; only the order matters."""
    return float(config.task.questions * config.generation.max_new_tokens)


def mark_twins(plan: list[Planned]) -> None:
    """Find jobs that stand in the grid twice under different names: each is done once."""
    first: dict[str, int] = {}
    for number, planned in enumerate(plan):
        if planned.job is not None:
            earlier = first.setdefault(planned.job.job_id, number)
            planned.same_as = earlier if earlier != number else None


def counts(plan: Iterable[Planned]) -> dict[State, int]:
    """Count the jobs in each state."""
    totals = dict.fromkeys(State, 0)
    for planned in plan:
        totals[planned.state] += 1
    return totals
