"""Implements hydra/sweeper=optuna. Optuna proposes the values of each trial and stores the study in a
database.

A trial is a normal job. The search runs a few trials at a time and reports their scores to
Optuna. After a kill the same command continues: a finished trial is not repeated, and a
running one runs again with the same values. A trial's random numbers depend on seed and
trial number, so an interrupted search proposes the same values.

hydra-optuna-sweeper pins Optuna at 2.10, whose storage fails with current SQLAlchemy, so no
search survives a kill.
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
from runner.grid.outcomes import JobOutcome
from runner.grid.plan import plan_jobs
from runner.grid.trials import Trials
from runner.options.launchers import pruning
from runner.options.launchers.render.notes import NOTES
from runner.options.launchers.search_pictures import plot_study_to_files
from runner.options.launchers.search_space import (
    SearchSettings,
    SearchSpace,
    get_first_value_per_distribution,
    make_study_name,
)
from runner.options.launchers.trial_owners import OWNER, hold_trial_owner_lock, is_trial_abandoned
from runner_base import (
    ConfigError,
    Status,
    TrackingError,
    escape_control_characters,
    lock_file,
    print_message,
    redact_secrets,
    report_step,
    write_text_atomically,
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
    """A hyperparameter search with Optuna. Repeating the command of a killed search continues it."""

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
        """Open the Optuna study, run the search, and close the study's database."""
        import optuna

        if self.master.plan:
            raise ConfigError(NO_PLAN, code="unsupported")
        if self.master.gate.baseline is not None:
            raise ConfigError(
                "a search has no verdicts. Run its jobs as a grid",
                key="gate.baseline",
                value=self.master.gate.baseline,
                code="unsupported",
            )
        optuna.logging.set_verbosity(logging.WARNING)  # it would log each trial
        self.space = SearchSpace.parse(arguments, self.params)
        self.distributions = self.space.make_distributions()
        self.wanted = self.settings.num_trials(self.distributions)
        output_dir = Path(self.master.output_dir).expanduser().absolute()
        check_output_folder("output_dir", self.master.output_dir)
        with ExitStack() as opened:
            self.study = self.open_study(output_dir, opened)
            self.run_search_and_print_results(output_dir)

    def run_search_and_print_results(self, output_dir: Path) -> None:
        """Run the trials of the open study, and print the results even if the search fails or is stopped."""
        self.folder = Path(self.master.hydra.sweep.dir, self.study.study_name)
        self.folder.mkdir(parents=True, exist_ok=True)
        is_maximum = self.settings.direction == "maximize"
        self.trials = Trials(self.wanted, tuple(self.space.varied), is_maximum, pruning.KEYS)
        if isinstance(self.launcher, PlanLauncher):
            self.launcher.trials = self.trials
        try:
            self.locks = output_dir / ".searches"
            with hold_trial_owner_lock(self.locks) as owner:
                self.run_unfinished_and_new_trials(owner)
        finally:
            with report_step("describing the search"):
                self.print_and_save_search_results()

    def open_study(self, output_dir: Path, exit_stack: ExitStack) -> Study:
        """Open the Optuna study of this search. The exit stack closes its database connections."""
        import optuna
        from sqlalchemy.exc import SQLAlchemyError

        (first,) = plan_jobs(
            [self.space.trial_overrides(get_first_value_per_distribution(self.distributions))],
            self.context,
            self.master,
        )
        if self.prunes:
            pruning.require_prunable_search(first, self.space.varied, self.settings.direction)
            if not isinstance(self.launcher, PlanLauncher):
                raise ConfigError(
                    "pruning needs the progress of running jobs. Use hydra/launcher=workers or ray",
                    key=pruning.KEY,
                    code="unsupported",
                )
        # not every search can run the job at its corner
        job = first.job_id or " ".join(sorted(self.space.fixed))
        name = self.study_name or make_study_name(self.space, self.settings, job)
        output_dir.mkdir(parents=True, exist_ok=True)
        uri = self.storage or f"sqlite:///{output_dir / DATABASE}"
        # rejects a space that the sampler cannot search
        self.settings.make_sampler(self.distributions, 0)
        try:
            storage = optuna.storages.RDBStorage(uri)
            exit_stack.callback(storage.engine.dispose)
            study = optuna.create_study(
                storage=storage,
                study_name=name,
                direction=self.settings.direction,  # type: ignore[arg-type]
                load_if_exists=True,
            )
        except (SQLAlchemyError, ImportError, ValueError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise TrackingError(
                reason, key="hydra.sweeper.storage", value=redact_secrets(uri), code="unreadable"
            ) from error
        if (begun_with := study.user_attrs.get(JOB, job)) != job:
            raise ConfigError(
                (
                    "the study was started with another model, data set or setting "
                    f"(job {begun_with}, now {job}). Restore the settings, or give another study name"
                ),
                key="hydra.sweeper.study_name",
                value=name,
                code="mismatch",
            )
        study.set_user_attr(JOB, job)
        if study.direction.name.lower() != self.settings.direction:
            raise ConfigError(
                (
                    "the existing study has "
                    f"hydra.sweeper.direction={study.direction.name.lower()}. Use the same "
                    "direction, or give another name"
                ),
                key="hydra.sweeper.study_name",
                value=name,
                code="mismatch",
            )
        return study

    def run_unfinished_and_new_trials(self, trial_owner: dict[str, str]) -> None:
        """Run the trials that an earlier run left unfinished, then new trials up to the requested number."""
        from optuna.trial import TrialState

        begun = self.study.get_trials(deepcopy=False)
        finished = [trial for trial in begun if trial.state.is_finished()]
        left_open = [
            trial
            for trial in begun
            if trial.state == TrialState.RUNNING and is_trial_abandoned(trial, trial_owner)
        ]
        if begun:
            study = self.study.study_name
            _print_note(note("trials_begun", study=study, done=len(finished), left_open=len(left_open)))
        self.restore_finished_trials(
            [trial for trial in finished if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        )
        while batch := self.next_batch(trial_owner):
            self.run_batch(batch)

    def restore_finished_trials(self, finished_trials: Sequence[FrozenTrial]) -> None:
        """Add trials that earlier runs finished to the results table, using their job records."""
        overrides = [
            self.trial_overrides(trial, skip_comparison=pruning.FULL in trial.user_attrs)
            for trial in finished_trials
        ]
        for planned in plan_jobs(overrides, self.context, self.master):
            if planned.record is not None:
                self.trials.outcomes[len(self.trials.plan)] = JobOutcome(Status.FINISHED, planned.record)
                planned.unnamed = pruning.KEYS
                self.trials.plan.append(planned)
        if missing := len(finished_trials) - len(self.trials.plan):
            folder = self.master.output_dir
            _print_note(note("trials_without_result", "warning", trials=missing, folder=folder))

    def next_batch(self, trial_owner: dict[str, str]) -> list[Trial]:
        from optuna.trial import TrialState

        with lock_file(self.locks / f"{self.study.study_name}.lock"):  # of two processes, each takes others
            trials = self.study.get_trials(deepcopy=False)
            left_open = [
                trial
                for trial in trials
                if trial.state == TrialState.RUNNING and is_trial_abandoned(trial, trial_owner)
            ]
            batch = [self.propose_trial(trial_owner, trial) for trial in left_open[: self.settings.n_jobs]]
            new = min(self.settings.n_jobs - len(batch), self.wanted - len(trials))
            return [*batch, *(self.propose_trial(trial_owner) for _ in range(new))]

    def propose_trial(
        self, trial_owner: dict[str, str], unfinished_trial: FrozenTrial | None = None
    ) -> Trial:
        """Create a new trial, or reopen an unfinished one. Optuna's sampler proposes values for keys
        without one.
        """
        from optuna.trial import Trial

        storage = self.study._storage
        trial_id = (
            unfinished_trial._trial_id if unfinished_trial else storage.create_new_trial(self.study._study_id)
        )
        # as `ask` does; but here the random numbers follow from the number of the trial, which is
        # known only now
        self.study.sampler = self.settings.make_sampler(
            self.distributions, storage.get_trial(trial_id).number
        )
        trial = Trial(self.study, trial_id)
        trial.set_user_attr(OWNER, trial_owner)
        if self.prunes and unfinished_trial is None:
            trial.set_user_attr(pruning.AGAINST, pruning.choose_trial_baseline(self.study, self.wanted))
        for key, distribution in self.distributions.items():
            trial._suggest(key, distribution)  # it keeps a value that is there
        return trial

    def trial_overrides(self, trial: Trial | FrozenTrial, skip_comparison: bool = False) -> list[str]:
        """Return the overrides for the job of a trial.

        With pruning, they include a comparison unless `skip_comparison` is set.
        """
        against = None if skip_comparison else trial.user_attrs.get(pruning.AGAINST)
        return [*self.space.trial_overrides(trial.params), *pruning.build_early_stopping_overrides(against)]

    def launch_trials(self, trials: list[Trial], skip_comparison: bool = False) -> Sequence[JobReturn]:
        overrides = [self.trial_overrides(trial, skip_comparison) for trial in trials]
        return self.launcher.launch(overrides, initial_job_idx=trials[0].number)

    def run_batch(self, trials: list[Trial]) -> None:
        """Run trials and report their scores to the Optuna study.

        Failed trials stay unfinished, unless the sweeper allows failures.
        """
        from optuna.trial import TrialState

        failed: list[JobReturn] = []
        before, returns = len(self.trials.plan), [*self.launch_trials(trials)]
        if self.prunes:
            self.report_or_rerun_pruned_trials(trials, returns, before)
        for trial, ended in zip(trials, returns, strict=True):
            if ended.status is JobStatus.COMPLETED:
                self.record_score(trial, float(ended.return_value))
                continue
            failed.append(ended)
            if self.settings.max_failure_rate > 0:
                self.record_score(trial, None)
        every = [trial.state for trial in self.study.get_trials(deepcopy=False) if trial.state.is_finished()]
        share = every.count(TrialState.FAIL) / max(len(every), 1)
        if failed and (self.settings.max_failure_rate == 0 or share > self.settings.max_failure_rate):
            _ = failed[0].return_value  # raises the job's error

    def report_or_rerun_pruned_trials(
        self, trials: list[Trial], job_returns: list[JobReturn], first_job_index: int
    ) -> None:
        """Report pruned trials to the study. Trials that may be the best are run again without pruning."""
        against = [trial.user_attrs.get(pruning.AGAINST) for trial in trials]
        known = [
            trial.value for trial in self.study.get_trials(deepcopy=False) if pruning.FULL in trial.user_attrs
        ]
        best = max((value for value in known if value is not None), default=float("-inf"))
        in_full = []
        for index, trial in enumerate(trials):
            record = self.trials.outcomes[first_job_index + index].record
            if job_returns[index].status is not JobStatus.COMPLETED or record is None:
                continue
            fate = pruning.decide_trial_outcome(record, best)
            if fate is pruning.TrialOutcome.in_full:
                in_full.append(index)
            elif fate is pruning.TrialOutcome.pruned:
                trial.report(
                    float(job_returns[index].return_value), int(record.result.metrics["questions_asked"])
                )
                self.record_score(trial, None, is_pruned=True)
            elif against[index] is None:
                trial.set_user_attr(pruning.FULL, record.job_id)
        if not in_full:
            return
        whole, self.trials = (self.trials, Trials(len(in_full), self.trials.keys, unnamed=pruning.KEYS))
        self.launcher.trials = self.trials  # type: ignore[attr-defined]
        try:
            again = self.launch_trials([trials[index] for index in in_full], skip_comparison=True)
        finally:
            ran, self.trials = self.trials, whole
            self.launcher.trials = whole  # type: ignore[attr-defined]
        for number, index in enumerate(in_full):
            job_returns[index] = again[number]
            whole.plan[first_job_index + index], whole.outcomes[first_job_index + index] = (
                ran.plan[number],
                ran.outcomes[number],
            )
            if (record := ran.outcomes[number].record) is not None:
                trials[index].set_user_attr(pruning.FULL, record.job_id)

    def record_score(self, trial: Trial, score: float | None, is_pruned: bool = False) -> None:
        import optuna

        # one that searches all combinations would stop a loop of Optuna's own here, after the last
        self.study.sampler = optuna.samplers.RandomSampler()
        without_score = optuna.trial.TrialState.PRUNED if is_pruned else optuna.trial.TrialState.FAIL
        state = without_score if score is None else None
        self.study.tell(trial.number, score, state, skip_if_finished=True)

    def print_and_save_search_results(self) -> None:
        """Print all trials and the best trial. Saves the best trial and plots in the study's folder."""
        from optuna.trial import TrialState

        complete = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if complete:
            best = self.study.best_trial
            results = {"name": "optuna", "study": self.study.study_name, "trials": len(complete)}
            results |= {"best_params": best.params, "best_value": best.value}
            write_text_atomically(self.folder / RESULTS, OmegaConf.to_yaml(OmegaConf.create(results)))
        if complete and not self.trials.plan:  # another launcher, which keeps no outcomes
            self.restore_finished_trials(complete)
        if self.trials.plan:
            self.trials.print_trial_results()
        elif complete:
            score, params = self.study.best_value, self.study.best_params
            summary = note("best_trial", trials=len(complete), score=score, params=params)
            print(escape_control_characters(render_note(summary, NOTES)))
        pictures = plot_study_to_files(self.study, self.folder)
        if pictures:
            _print_note(note("pictures_drawn", names=pictures, folder=self.folder))


def _print_note(message: Note) -> None:
    print_message(render_note(message, NOTES))
