"""hydra/sweeper=optuna: Optuna proposes the values of each trial, and its study in a database
remembers all of them.

A trial is a normal job. The search asks for a few trials at a time, runs them, and tells their
scores. After a kill the same command goes on: a finished trial is not repeated, and one that was
running is run with the same values. The random numbers of a trial come from the seed and its
number, so that a search that was interrupted proposes what it would have proposed.

hydra-optuna-sweeper pins Optuna at 2.10, whose storage fails with today's SQLAlchemy: no search
survives a kill.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from runner.grid.launchers import NO_PLAN, LaunchingSweeper, PlanLauncher
from runner.grid.outcomes import Outcome
from runner.grid.plan import plan_all
from runner.grid.trials import Trials
from runner.options.launchers import pruning
from runner.options.launchers.render.notes import NOTES
from runner.options.launchers.search_pictures import draw
from runner.options.launchers.search_space import SearchSettings, SearchSpace, corner, study_name
from runner.options.launchers.trial_owners import OWNER, is_abandoned, owned
from runner_base import (
    ConfigError,
    Status,
    TrackingError,
    doing,
    hold,
    plain,
    say,
    without_secrets,
    write_atomically,
)
from runner_base.errors import check_output_folder
from runner_base.notes import Note, note
from runner_base.render.notes import render_note

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

RESULTS = "optimization_results.yaml"  # the best trial, in the study's folder
DATABASE = "searches.db"  # in OUTPUT_DIR, unless hydra.sweeper.storage names another one
JOB = "job"  # an attribute of a study: the id of the job at the first values of all keys


class OptunaSearch(LaunchingSweeper):
    """A search that can be killed at any time."""

    def __init__(
        self,
        params: Any = None,
        sampler: Any = None,
        storage: str | None = None,
        study_name: str | None = None,
        prune: bool = False,
        **settings: Any,
    ) -> None:
        sampler = dict(sampler or {})
        self.settings = SearchSettings(sampler=str(sampler.get("name")), seed=sampler.get("seed"), **settings)
        self.params, self.storage, self.study_name, self.prunes = (
            dict(params or {}),
            storage,
            study_name,
            prune,
        )

    def sweep(self, arguments: list[str]) -> None:
        """Open the study, search in it, and close its database."""
        import optuna

        if self.master.plan:
            raise ConfigError(NO_PLAN, code="unsupported")
        optuna.logging.set_verbosity(logging.WARNING)  # it would log each trial
        self.space = SearchSpace.of(arguments, self.params)
        self.distributions = self.space.distributions()
        self.wanted = self.settings.trials_in(self.distributions)
        output_dir = Path(self.master.output_dir).expanduser().absolute()
        check_output_folder("output_dir", self.master.output_dir)
        with ExitStack() as opened:
            self.study = self.open_study(output_dir, opened)
            self.search_and_show(output_dir)

    def search_and_show(self, output_dir: Path) -> None:
        """Search in the open study, and show the trials however the search ends."""
        self.folder = Path(self.master.hydra.sweep.dir, self.study.study_name)
        self.folder.mkdir(parents=True, exist_ok=True)
        is_maximum = self.settings.direction == "maximize"
        self.trials = Trials(self.wanted, tuple(self.space.varied), is_maximum, pruning.KEYS)
        if isinstance(self.launcher, PlanLauncher):
            self.launcher.trials = self.trials
        try:
            self.locks = output_dir / ".searches"
            with owned(self.locks) as owner:
                self.search(owner)
        finally:
            with doing("describing the search"):
                self.show()

    def open_study(self, output_dir: Path, opened: ExitStack) -> Study:
        """Open the study of this search; `opened` closes the connections that Optuna keeps to its database."""
        import optuna
        from sqlalchemy.exc import SQLAlchemyError

        (first,) = plan_all([self.space.overrides(corner(self.distributions))], self.context, self.master)
        if self.prunes:
            pruning.check_search(first, self.space.varied, self.settings.direction)
            if not isinstance(self.launcher, PlanLauncher):
                raise ConfigError(
                    "only hydra/launcher=workers and ray tell how far a job came",
                    key=pruning.KEY,
                    code="unsupported",
                )
        # not every search can run the job at its corner
        job = first.job_id or " ".join(sorted(self.space.fixed))
        name = self.study_name or study_name(self.space, self.settings, job)
        output_dir.mkdir(parents=True, exist_ok=True)
        uri = self.storage or f"sqlite:///{output_dir / DATABASE}"
        # rejects a space that the sampler cannot search
        self.settings.proposing(self.distributions, 0)
        try:
            storage = optuna.storages.RDBStorage(uri)
            opened.callback(storage.engine.dispose)
            study = optuna.create_study(
                storage=storage,
                study_name=name,
                direction=self.settings.direction,  # type: ignore[arg-type]
                load_if_exists=True,
            )
        except (SQLAlchemyError, ImportError, ValueError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise TrackingError(
                reason, key="hydra.sweeper.storage", value=without_secrets(uri), code="unreadable"
            ) from error
        if (begun_with := study.user_attrs.get(JOB, job)) != job:
            raise ConfigError(
                f"this study was begun with another model, data set or setting "
                f"({begun_with} at its first values, now {job}): take these back, or use another name",
                key="hydra.sweeper.study_name",
                value=name,
                code="mismatch",
            )
        study.set_user_attr(JOB, job)
        if study.direction.name.lower() != self.settings.direction:
            raise ConfigError(
                f"this study was begun with hydra.sweeper.direction="
                f"{study.direction.name.lower()}: use that, or another name",
                key="hydra.sweeper.study_name",
                value=name,
                code="mismatch",
            )
        return study

    def search(self, owner: dict[str, str]) -> None:
        """Run what an earlier start has left, then new trials, until there are as many as
        wanted."""
        from optuna.trial import TrialState

        begun = self.study.get_trials(deepcopy=False)
        finished = [trial for trial in begun if trial.state.is_finished()]
        left_open = [
            trial for trial in begun if trial.state == TrialState.RUNNING and is_abandoned(trial, owner)
        ]
        if begun:
            study = self.study.study_name
            _say(note("trials_begun", study=study, done=len(finished), left_open=len(left_open)))
        self.recall([trial for trial in finished if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)])
        while batch := self.next_batch(owner):
            self.run(batch)

    def recall(self, finished: Sequence[FrozenTrial]) -> None:
        """Put the finished trials of earlier starts into the table, from the records of their
        jobs."""
        overrides = [self.overrides_of(trial, in_full=pruning.FULL in trial.user_attrs) for trial in finished]
        for planned in plan_all(overrides, self.context, self.master):
            if planned.record is not None:
                self.trials.outcomes[len(self.trials.plan)] = Outcome(Status.FINISHED, planned.record)
                planned.unnamed = pruning.KEYS
                self.trials.plan.append(planned)
        if missing := len(finished) - len(self.trials.plan):
            folder = self.master.output_dir
            _say(note("trials_without_result", "warning", trials=missing, folder=folder))

    def next_batch(self, owner: dict[str, str]) -> list[Trial]:
        """Return the trials to run now: those that were left open, then new ones; empty if there
        are enough."""
        from optuna.trial import TrialState

        with hold(self.locks / f"{self.study.study_name}.lock"):  # of two processes, each takes others
            trials = self.study.get_trials(deepcopy=False)
            left_open = [
                trial for trial in trials if trial.state == TrialState.RUNNING and is_abandoned(trial, owner)
            ]
            batch = [self.propose(owner, trial) for trial in left_open[: self.settings.n_jobs]]
            new = min(self.settings.n_jobs - len(batch), self.wanted - len(trials))
            return [*batch, *(self.propose(owner) for _ in range(new))]

    def propose(self, owner: dict[str, str], left_open: FrozenTrial | None = None) -> Trial:
        """Ask for a new trial, or reopen one; a start that was killed may not have proposed all of
        its values."""
        from optuna.trial import Trial

        storage = self.study._storage
        trial_id = left_open._trial_id if left_open else storage.create_new_trial(self.study._study_id)
        # as `ask` does; but here the random numbers follow from the number of the trial, which is
        # known only now
        self.study.sampler = self.settings.proposing(self.distributions, storage.get_trial(trial_id).number)
        trial = Trial(self.study, trial_id)
        trial.set_user_attr(OWNER, owner)
        if self.prunes and left_open is None:
            trial.set_user_attr(pruning.AGAINST, pruning.compared_with(self.study, self.wanted))
        for key, distribution in self.distributions.items():
            trial._suggest(key, distribution)  # it keeps a value that is there
        return trial

    def overrides_of(self, trial: Trial | FrozenTrial, in_full: bool = False) -> list[str]:
        """Return the overrides of a trial's job; `in_full`: of the one that is compared with no
        other."""
        against = None if in_full else trial.user_attrs.get(pruning.AGAINST)
        return [*self.space.overrides(trial.params), *pruning.overrides_of(against)]

    def launch(self, batch: list[Trial], in_full: bool = False) -> Sequence[JobReturn]:
        """Run the jobs of trials."""
        overrides = [self.overrides_of(trial, in_full) for trial in batch]
        return self.launcher.launch(overrides, initial_job_idx=batch[0].number)

    def run(self, batch: list[Trial]) -> None:
        """Run trials, and tell the study their scores; one that fails stays open, unless failures
        are allowed."""
        from optuna.trial import TrialState

        failed: list[JobReturn] = []
        before, returns = len(self.trials.plan), [*self.launch(batch)]
        if self.prunes:
            self.prune(batch, returns, before)
        for trial, ended in zip(batch, returns, strict=True):
            if ended.status is JobStatus.COMPLETED:
                self.tell(trial, float(ended.return_value))
                continue
            failed.append(ended)
            if self.settings.max_failure_rate > 0:
                self.tell(trial, None)
        every = [trial.state for trial in self.study.get_trials(deepcopy=False) if trial.state.is_finished()]
        share = every.count(TrialState.FAIL) / max(len(every), 1)
        if failed and (self.settings.max_failure_rate == 0 or share > self.settings.max_failure_rate):
            _ = failed[0].return_value  # raises the job's error

    def prune(self, batch: list[Trial], returns: list[JobReturn], before: int) -> None:
        """Tell which trials are pruned, and run those in full that may be best; their jobs begin at
        `before`."""
        against = [trial.user_attrs.get(pruning.AGAINST) for trial in batch]
        known = [
            trial.value for trial in self.study.get_trials(deepcopy=False) if pruning.FULL in trial.user_attrs
        ]
        best = max((value for value in known if value is not None), default=float("-inf"))
        in_full = []
        for index, trial in enumerate(batch):
            record = self.trials.outcomes[before + index].record
            if returns[index].status is not JobStatus.COMPLETED or record is None:
                continue
            fate = pruning.fate_of(record, best)
            if fate is pruning.Fate.in_full:
                in_full.append(index)
            elif fate is pruning.Fate.pruned:
                trial.report(
                    float(returns[index].return_value), int(record.result.metrics["questions_asked"])
                )
                self.tell(trial, None, pruned=True)
            elif against[index] is None:
                trial.set_user_attr(pruning.FULL, record.job_id)
        if not in_full:
            return
        whole, self.trials = (self.trials, Trials(len(in_full), self.trials.keys, unnamed=pruning.KEYS))
        self.launcher.trials = self.trials  # type: ignore[attr-defined]
        try:
            again = self.launch([batch[index] for index in in_full], in_full=True)
        finally:
            ran, self.trials = self.trials, whole
            self.launcher.trials = whole  # type: ignore[attr-defined]
        for number, index in enumerate(in_full):
            returns[index] = again[number]
            whole.plan[before + index], whole.outcomes[before + index] = (
                ran.plan[number],
                ran.outcomes[number],
            )
            if (record := ran.outcomes[number].record) is not None:
                batch[index].set_user_attr(pruning.FULL, record.job_id)

    def tell(self, trial: Trial, score: float | None, pruned: bool = False) -> None:
        """Record the score of a trial, or that it was pruned or has failed."""
        import optuna

        # one that searches all combinations would stop a loop of Optuna's own here, after the last
        self.study.sampler = optuna.samplers.RandomSampler()
        without_score = optuna.trial.TrialState.PRUNED if pruned else optuna.trial.TrialState.FAIL
        state = without_score if score is None else None
        self.study.tell(trial.number, score, state, skip_if_finished=True)

    def show(self) -> None:
        """Print the table and the best trial; write it and the study's pictures to the study's
        folder."""
        from optuna.trial import TrialState

        complete = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if complete:
            best = self.study.best_trial
            results = {"name": "optuna", "study": self.study.study_name, "trials": len(complete)}
            results |= {"best_params": best.params, "best_value": best.value}
            write_atomically(self.folder / RESULTS, OmegaConf.to_yaml(OmegaConf.create(results)))
        if complete and not self.trials.plan:  # another launcher, which keeps no outcomes
            self.recall(complete)
        if self.trials.plan:
            self.trials.show()
        elif complete:
            score, params = self.study.best_value, self.study.best_params
            summary = note("best_trial", trials=len(complete), score=score, params=params)
            print(plain(render_note(summary, NOTES)))
        pictures = draw(self.study, self.folder)
        if pictures:
            _say(note("pictures_drawn", names=pictures, folder=self.folder))


def _say(fact: Note) -> None:
    say(render_note(fact, NOTES))
