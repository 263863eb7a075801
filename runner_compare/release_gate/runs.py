"""Loads the baseline and the candidates of a gate from files or from recorded jobs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from runner_base import ConfigError, compute_short_json_hash, format_unknown_choice_message
from runner_compare.command import build_comparison
from runner_compare.model.baselines import format_key_differences
from runner_compare.model.data import Run, Table
from runner_compare.model.missing_jobs import JobState, MissingJob, find_jobs_with_errors
from runner_compare.model.selection import filter_runs
from runner_compare.model.table import ComparisonOptions, build_comparison_table
from runner_compare.options import create_parser
from runner_compare.reader import Reader
from runner_compare.readers.archive_files import PACKED_JOB_SUFFIX
from runner_compare.readers.lm_eval.config_keys import FOLDER_KEY
from runner_compare.readers.load import OPTION, ResultsReader, load_results
from runner_compare.readers.records import Records
from runner_compare.readers.runner_job import RESULT, SET_ASIDE
from runner_compare.readers.tool_run import ToolRun
from runner_compare.release_gate.compute import RuleTables
from runner_compare.release_gate.verdicts import Policy
from runner_compare.render.labels import shorten_row_names
from runner_compare.ways.repeats import select_compared_measures

MAX_VALUE = 40  # characters of a config value in the baseline's name
SWAPPED = ", as the first argument"
REPEATS_KEY = "task.repeats"  # a setting of tasks that measure
DATA_KEYS = ("task.data", "task.subset", "task.split")


@dataclass
class GateRuns:
    """Input of a gate: comparison tables by rule, and jobs without a result."""

    compared: list[RuleTables]
    reader: Reader
    missing_jobs: list[MissingJob]
    baseline: str  # its name
    baseline_setting: str  # its config values and its file name, for messages
    baseline_id: str  # is another one if its settings or its recorded run are others
    records: Records | None = None  # where verdicts can be logged

    @property
    def tables(self) -> list[Table]:
        return [table for of_rule in self.compared for table in of_rule.tables]

    @property
    def results_id(self) -> str:
        """Id of the candidates' results. A job that ran again has another id, even if its answers are equal."""
        rows = [row for table in self.tables for row in table.candidate_rows]
        results = {
            (row.run.job_id, row.run.run_id, getattr(self._find_run_in_files(row.run), "time", ""))
            for row in rows
        }
        missing = {(job.job_id or job.name, str(job.state)) for job in self.missing_jobs}
        return compute_short_json_hash([sorted(results), sorted(missing)], 16)

    def _find_run_in_files(self, run: Run) -> object:
        """Return the run that was loaded from a results file. None for a recorded job."""
        return self.reader.read.get(run.run_id) if isinstance(self.reader, ResultsReader) else None


def names_files(baseline: str) -> bool:
    """Return whether the BASELINE argument is a path instead of config values."""
    return "=" not in baseline or Path(baseline).expanduser().exists()


def read_files(
    baseline: str, candidates: Sequence[str], policy: Policy, cluster: str | None, filters: Sequence[str] = ()
) -> GateRuns:
    """Load the baseline and the candidates from files or folders, and compare them. The filters select
    candidates.
    """
    runs, reader = _load(baseline, candidates, policy, cluster)
    of_baseline = [run for run in runs if _source(run) == baseline]
    others = [run for run in runs if _source(run) != baseline]
    for filter_text in filters:
        others = filter_runs(others, filter_text)
    swapped = SWAPPED * any(path.endswith(PACKED_JOB_SUFFIX) for path in candidates)
    if not of_baseline:
        raise ConfigError(
            "no baseline result was found. Give a packed job or the folder of one job" + swapped,
            key=baseline,
            code="empty",
        )
    tasks = sorted({run.task for run in of_baseline})
    for rule in policy.rules:
        if rule.task and rule.task not in tasks:
            raise ConfigError(
                format_unknown_choice_message("task in the baseline", rule.task, tasks),
                key="task",
                value=rule.task,
                code="unknown_choice",
            )
    candidates_of: dict[str, list[Run]] = {}
    for base in of_baseline:
        if sum(other.task == base.task for other in of_baseline) > 1:
            names = ", ".join(other.job_id for other in of_baseline)
            raise ConfigError(
                f"the baseline has several results of task {base.task}: {names}. Select one of them{swapped}",
                key="baseline",
                value=baseline,
                code="ambiguous",
            )
        of_task = [
            run for run in others if run.task == base.task and not _is_same_job_as_baseline(reader, run, base)
        ]
        # another split or data set is not meant, unless there is nothing else
        of_task = [run for run in of_task if _asks_the_same(run, base)] or of_task
        if base.params.get(REPEATS_KEY):
            of_task = _select_same_workload(of_task, base, reader)
        if stopped := next((run for run in of_task if run.compared_while_running), None):
            raise ConfigError(
                f"{stopped.job_id} used early stopping (task.early_stop_vs), which requires recorded jobs. "
                "Give config values as the baseline, e.g. quantization=none",
                code="unsupported",
            )
        candidates_of[base.run_id] = of_task
    compared = [
        RuleTables(
            rule,
            [
                build_comparison_table(
                    [base, *candidates_of[base.run_id]],
                    ComparisonOptions(base=base, margins=dict(rule.margins), is_each=policy.is_each),
                    reader,
                )
                for base in of_baseline
                if rule.task in ("", base.task) and candidates_of[base.run_id]
            ],
        )
        for rule in policy.rules
    ]
    tables = [table for of_rule in compared for table in of_rule.tables]
    shown = {row.run.run_id for table in tables for row in table.candidate_rows}
    failed = find_jobs_with_errors([run for run in others if run.run_id in shown])
    killed = [
        job for path in candidates for base in of_baseline for job in _find_killed_jobs(Path(path), base.task)
    ]
    missing = [*{job.job_id or job.name: job for job in (*reader.unfinished, *failed, *killed)}.values()]
    if not tables and not missing and not policy.expected:
        raise ConfigError(
            f"no candidate has a result of task {', '.join(sorted({run.task for run in of_baseline}))}",
            key=" ".join(candidates),
            code="empty",
        )
    parts = [
        [run.task, getattr(reader.read.get(run.run_id), "time", ""), sorted(_settings(run).items())]
        for run in of_baseline
    ]
    name, setting = _build_baseline_display_names(tables, Path(baseline).name)
    return GateRuns(compared, reader, missing, name, setting, compute_short_json_hash(sorted(parts), 16))


def _load(
    baseline: str, candidates: Sequence[str], policy: Policy, cluster: str | None
) -> tuple[list[Run], ResultsReader]:
    """Load all results. With --expect, a candidate's folder may be empty."""
    try:
        return load_results([baseline, *candidates], cluster, may_be_damaged=candidates)
    except ConfigError as error:
        if error.key != OPTION:
            raise
        if error.code == "empty" and policy.expected and error.value in candidates:
            return _load(baseline, [path for path in candidates if path != error.value], policy, cluster)
        raise ConfigError(error.reason, key=error.value, code=error.code) from error


def _find_killed_jobs(folder: Path, task: str) -> list[MissingJob]:
    """Return a task's jobs whose folders have no result because they were killed or are still running."""
    return [
        MissingJob(config.parent.name, config.parent.name, JobState.interrupted)
        for config in sorted(folder.rglob("config.yaml"))
        if config.parent.name.startswith(f"{task}-")
        and SET_ASIDE not in config.parent.name
        and not config.with_name(RESULT).exists()
    ]


def compare_recorded_jobs_with_baseline(
    options: argparse.Namespace, policy: Policy, scratch: Path, jobs_without_result: Sequence[MissingJob] = ()
) -> GateRuns:
    """Compare recorded jobs with the baseline that the given config values select."""
    words = ["--baseline", options.baseline, "--output-dir", options.output_dir]
    words += [word for where in options.where for word in ("--where", where)]
    for name in ("tracking_uri", "experiment", "grid", "cluster"):
        if value := getattr(options, name):
            words += [f"--{name.replace('_', '-')}", value]
    words += ["--runs", *options.runs] if options.runs else []
    compared: list[RuleTables] = []
    missing: dict[str, MissingJob] = {}
    for rule in policy.rules:
        task = rule.task or options.task
        of_rule = [f"--margin={text}" for text in rule.margin_texts] + ([f"--task={task}"] if task else [])
        parsed = create_parser().parse_args([*words, *of_rule])
        parsed.each = policy.is_each
        found = build_comparison(parsed, scratch, jobs_without_result)
        compared.append(RuleTables(rule, found.comparison.tables))
        missing |= {job.job_id or job.name: job for job in found.missing_jobs}
    # each night runs the baseline again: its settings are what stays
    rows = [row for each in compared for table in each.tables for row in table.rows]
    job_ids = sorted({row.run.job_id for row in rows if row.is_baseline})
    name = options.baseline
    return GateRuns(
        compared,
        found.reader,
        [*missing.values()],
        name,
        name,
        compute_short_json_hash(job_ids, 16),
        found.records,
    )


def _source(run: Run) -> str:
    """Return the command-line path from which a run was loaded."""
    return run.params.get(FOLDER_KEY, "")


def _asks_the_same(run: Run, base: Run) -> bool:
    return all(run.params.get(key) == base.params.get(key) for key in DATA_KEYS)


def _select_same_workload(runs: list[Run], base: Run, reader: ResultsReader) -> list[Run]:
    """Return the measuring runs whose task has the settings of the baseline's task, e.g. its batch sizes.

    Earlier runs that the baseline also contains do not count as repeats. Raises ConfigError if no run
    remains.
    """
    baseline_runs = [base, *base.earlier]
    differing = [
        [
            key
            for key in reader.key_rules.find_differing_keys([run.params, base.params])
            if key.startswith("task.") and key != REPEATS_KEY
        ]
        for run in runs
    ]
    if runs and all(differing):
        raise ConfigError(
            f"{runs[0].job_id} measures another workload than the baseline: "
            f"{format_key_differences(runs[0], base, differing[0])}",
            code="mismatch",
        )
    return [
        replace(
            run,
            earlier=[each for each in run.earlier if not _has_same_measurements_as_any(each, baseline_runs)],
        )
        for run, keys in zip(runs, differing, strict=True)
        if not keys
    ]


def _has_same_measurements_as_any(run: Run, others: Sequence[Run]) -> bool:
    """Return whether a run has the measured values of another run, so that both are the same run."""
    measured = select_compared_measures(run.metrics)
    return any(measured.items() <= other.metrics.items() for other in others)


def _settings(run: Run) -> dict[str, str]:
    """Return a run's config values, without the path from which it was loaded."""
    return {key: value for key, value in run.params.items() if key != FOLDER_KEY}


def _is_same_job_as_baseline(reader: ResultsReader, run: Run, base: Run) -> bool:
    """Return whether a run and the baseline are the same job, loaded from two files."""
    candidate, baseline = reader.read.get(run.run_id), reader.read.get(base.run_id)
    return (
        isinstance(candidate, ToolRun)
        and isinstance(baseline, ToolRun)
        and bool(candidate.time)
        and (candidate.tool, candidate.time, candidate.params)
        == (baseline.tool, baseline.time, baseline.params)
    )


def _build_baseline_display_names(tables: Sequence[Table], file_name: str) -> tuple[str, str]:
    """Return two names of the baseline, e.g. `base.gz (none)` and `quantization=none (base.gz)`.

    Both contain the config values that differ from the candidates'.
    """
    for table in tables:
        for row in table.rows:
            if row.is_baseline and any(row.config.values()):
                (value,) = shorten_row_names([row], table.keys, MAX_VALUE)
                (setting,) = shorten_row_names([row], table.keys, MAX_VALUE, with_keys=True)
                return f"{file_name} ({value})", f"{setting} ({file_name})"
    return file_name, file_name
