"""Plans of jobs with counts that nothing can hold: a plan must end, with a state or an error."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from runner.config.root import RunnerConfig
from runner.config.tasks import TASKS
from runner.grid.plan import plan_job
from runner_base.errors import ConfigError

Make = Callable[..., RunnerConfig]
ABSURD = 10**12
NEEDED: dict[str, dict[str, Any]] = {
    "generate": {"prompt": "x"},
    "agents": {"domain": "brief", "optimized_spatial": True},
}


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    def end(*_: object) -> NoReturn:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def planned_state(make_config: Make, task: str, **keys: Any) -> str:
    """Return a planned job's state, or why it cannot work."""
    try:
        with at_most(120):
            planned = plan_job([], make_config(task=TASKS[task](**NEEDED.get(task, {}) | keys)))
    except ConfigError as error:
        return str(error)
    return planned.problem or planned.state
