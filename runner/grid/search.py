"""A search: another package's sweeper launches trials lot by lot; here they are counted, shown and ranked together."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.sweeper import Sweeper
from omegaconf import OmegaConf

from runner.core.console import plain
from runner.core.errors import RunnerError
from runner.core.metrics import described
from runner.core.result import Record, Status
from runner.grid.plan import Outcome, PlannedJob, objective
from runner.grid.show import GridView, labels, show_hints, table_lines
from runner.report import show_grid

RESULTS = "optimization_results.yaml"  # where Optuna's sweeper leaves the best trial


@dataclass
class Trials:
    """All trials of a search, over all lots in which they are launched."""

    wanted: Callable[[], int] = lambda: 0  # how many there will be, as far as that is known
    keys: tuple[str, ...] = ()  # what is searched over
    maximize: bool = True
    plan: list[PlannedJob] = field(default_factory=list)
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    @property
    def total(self) -> int:
        """How many trials there are in all, or at least."""
        return max(self.wanted(), len(self.plan))

    def view(self) -> GridView:
        """Return a view that goes on counting where the lot before has ended."""
        failed = sum(outcome.status is not Status.FINISHED for outcome in self.outcomes.values())
        named = labels(self.plan, self.keys)
        return GridView(named, self.total, done=len(self.outcomes), failed=failed, began=self.began)

    def best(self) -> tuple[PlannedJob, str, float] | None:
        """Return the best trial with what it is judged by; of equal ones the first."""
        judged = [
            (planned, *found)
            for number, planned in enumerate(self.plan)
            if (outcome := self.outcomes.get(number)) and outcome.record and (found := _judged(outcome.record))
        ]
        return max(judged, key=lambda it: it[2] if self.maximize else -it[2], default=None)

    def show(self) -> None:
        """Print the table of all trials and the best one."""
        settings = next((planned.config for planned in self.plan if planned.config is not None), None)
        if settings is None:
            return
        interrupted = len(self.outcomes) < len(self.plan)
        show_grid(table_lines(self.plan, self.outcomes, interrupted, self.keys), settings.print)
        if settings.print.value == "table" and (found := self.best()) is not None:
            planned, name, value = found
            metric = described(name)
            said = f"{metric.label} {metric.write(value)} {metric.unit}".rstrip()
            values = " ".join(text for text in planned.overrides if text.partition("=")[0] in self.keys)
            print(plain(f"best of {len(self.outcomes)} trials: {said}, {planned.job_id}\n  {values}"))
        show_hints(settings)


def _judged(record: Record) -> tuple[str, float] | None:
    try:
        return objective(record)
    except RunnerError:
        return None


def optuna_search(**settings: Any) -> Sweeper:
    """Return Optuna's sweeper with a search's counting before it."""
    from hydra_plugins.hydra_optuna_sweeper.optuna_sweeper import OptunaSweeper

    class OptunaSearch(Search, OptunaSweeper):
        """hydra/sweeper=optuna."""

    return OptunaSearch(**settings)


class Search:
    """Put before Optuna's sweeper, it counts trials over all lots and shows them at the end."""

    sweeper: Any  # the plugin's own

    def sweep(self, arguments: list[str]) -> None:
        """Search, and show what there is to show, however it ends."""
        import optuna

        optuna.logging.set_verbosity(logging.WARNING)  # the name of a study in memory is no news
        its, parser = self.sweeper, OverridesParser.create()
        swept = [it.key_or_group for it in parser.parse_overrides(arguments) if it.is_sweep_override()]
        trials = Trials(lambda: its.n_trials, (*map(str, its.params or {}), *swept), "max" in str(its.direction))
        if not hasattr(its.launcher, "trials"):  # another launcher, which keeps no outcomes
            super().sweep(arguments)  # type: ignore[misc]
            found: Any = OmegaConf.load(Path(its.sweep_dir, RESULTS))
            values = " ".join(f"{key}={value}" for key, value in found.best_params.items())
            print(plain(f"best of {its.n_trials} trials: {found.best_value}\n  {values}"))
            return
        its.launcher.trials = trials
        try:
            super().sweep(arguments)  # type: ignore[misc]
        finally:
            trials.show()
