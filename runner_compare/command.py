"""The command line of `runner-compare`, and its steps: load → choose → tabulate → show, save,
log."""

from __future__ import annotations

import argparse
import atexit
import gc
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from runner_base import ConfigError, JobFailed, exit_code_of, few, run_entry, say, unknown
from runner_compare.features.across_tools.compute import across_tools
from runner_compare.features.files.compute import file_table
from runner_compare.features.files.section import ComparedFiles
from runner_compare.features.flips.compute import FlipsOfTable, find_flips
from runner_compare.features.gates.section import (
    Requirements,
    Term,
    check,
    checked,
    failure_lines,
    margins_with,
    parse_requirements,
)
from runner_compare.features.missing_jobs.section import Missing
from runner_compare.features.planning.compute import parse_aim, plan_questions
from runner_compare.features.pooled.compute import PooledTable, pooled_tables
from runner_compare.features.pooled.section import PooledVerdicts
from runner_compare.features.recall.compute import with_margin
from runner_compare.features.registry import every_section
from runner_compare.features.seeds.compute import check_seeds
from runner_compare.features.tokens.render.tables import write_llama
from runner_compare.model.answer_votes import Chance
from runner_compare.model.comparable import newest_comparable
from runner_compare.model.comparison import Comparison
from runner_compare.model.data import CLUSTER, JOB_ID, TEAM, NotPaired, Run, Table, label
from runner_compare.model.question_numbers import with_number
from runner_compare.model.scores import metrics_of_scores
from runner_compare.model.selection import newest, parse_keys, parse_margins, parse_pairs, pick, select, where
from runner_compare.model.table import ComparisonOptions, tabulate
from runner_compare.model.unfinished import MissingJob, naming_missing, select_missing, with_errors
from runner_compare.options import LLAMA, check_together, first_given, parser, refuse_beside
from runner_compare.reader import Reader
from runner_compare.readers import load as other_tools
from runner_compare.readers.lm_eval import evaluations
from runner_compare.readers.records import Records, open_records
from runner_compare.render.output import FORMATS, save
from runner_compare.section import NamesRuns
from runner_compare.statistics.pooling import Weights

FOLDER = "comparison"  # of the files that --log adds
NAMED_ON_PAGE = ("experiment", "grid", "task", "runs", "where", "by", "baseline", "ignore", "pool", "margin", "require",
                 "plan_questions", "recall_margin", "flips", "lm_eval", "results")  # fmt: skip


def entry() -> NoReturn:
    """Console script: print the comparison and exit: 0 done, 1 a requirement failed, 2 the user's
    input is wrong."""
    gc.disable()  # a search for reference cycles among thousands of runs would take longer than loading them
    atexit.register(gc.freeze)  # and no such search when Python ends
    run_entry("runner-compare", lambda: main(sys.argv[1:]))


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit code."""
    return exit_code_of("runner-compare", lambda: _compare(parser().parse_args(arguments)))


def _compare(options: argparse.Namespace) -> int:
    try:
        with tempfile.TemporaryDirectory() as scratch:
            return compare(options, Path(scratch))
    except NotPaired as reason:  # a file that was there a moment ago is gone
        raise JobFailed(str(reason), code="changed") from reason


@dataclass
class Compared:
    """A comparison, what reads its samples, the records that it is of, and what --log adds it
    to."""

    comparison: Comparison
    reader: Reader
    records: Records | None
    target: str | None


def comparison_of(
    options: argparse.Namespace, scratch: Path, known_missing: Sequence[MissingJob] = ()
) -> Compared:
    """Load, choose and tabulate, and add what else was asked for. `known_missing`: jobs that the
    caller knows to have no result."""
    aim = parse_aim(options.plan_questions) if options.plan_questions else None
    check_together(options)
    records = None if of_other_tools(options) else open_records(options, scratch)
    every_run, reader = load_files(options) if records is None else (records.runs, records.reader)
    chosen = choose(options, every_run)
    runs, every_run = without_errors(options, chosen, every_run)
    check_clusters(options, runs)
    runs, reader = as_asked(options, runs, reader)
    grid_jobs = None if records is None else records.grid_jobs
    missing = [*known_missing, *select_missing(options, grid_jobs, runs)]
    target = records.target_of(runs) if records is not None and options.log else None
    terms = parse_requirements(options.require, runs)
    margins = margins_with(terms, parse_margins(options.margin))
    if options.flips:
        tables = [tabulate_flips(options, runs, every_run, reader)]
    else:
        with naming_missing(missing):
            tables = tabulate_tasks(options, runs, reader, terms, margins)
    if options.lm_eval and isinstance(reader, evaluations.FilesReader) and not options.unpaired:
        evaluations.refuse_other_documents(tables, reader)
    if aim is not None:
        plan_questions(tables, aim)
    if options.recall_margin:
        with_margin(tables, options.recall_margin)
    comparison = Comparison(tables, options.explain)
    comparison.of(Missing).jobs = missing
    unanswered = [] if options.count_errors else with_errors(chosen)
    comparison.of(Requirements).of_rows = check(tables, terms, reader, [*missing, *unanswered])
    if options.files:
        comparison.of(ComparedFiles).table = file_table(
            runs, reader, options.baseline, margins, _tolerance(options)
        )
    if options.pool:
        comparison.of(PooledVerdicts).tables = pool_tasks(options, tables, runs, reader, margins)
    return Compared(comparison, reader, records, target)


def compare(options: argparse.Namespace, scratch: Path) -> int:
    """Compare; print, save and log. Return 1 if a requirement failed, else 0."""
    compared = comparison_of(options, scratch)
    comparison, reader, records, target = (
        compared.comparison,
        compared.reader,
        compared.records,
        compared.target,
    )
    tables = comparison.tables
    if options.format == LLAMA:
        write_llama(tables, reader, sys.stdout)
    else:
        FORMATS[options.format](comparison, sys.stdout)
    sys.stdout.flush()
    if options.format not in ("table", "markdown", "json"):  # which name them
        for job in comparison.of(Missing).jobs:
            say(job.line)
    if options.save or target:
        folder = Path(options.save).expanduser() if options.save else scratch / FOLDER
        names = save(comparison, folder, reader, options_as_given(options))
        if options.save:
            say(f"saved in {options.save}: {', '.join(names)}")
        if target and records is not None:
            records.log(target, folder, names, FOLDER)
            say(f"logged to MLflow run {target}: {FOLDER}/")
    if options.publish and records is not None:
        paths = records.publish(tables, Path(options.publish).expanduser(), options.benchmark)
        say(f"to publish, nothing was uploaded: {', '.join(map(str, paths))}")
    failed = failure_lines(checked(comparison))
    for line in failed:
        say(line)
    return 1 if failed else 0


def of_other_tools(options: argparse.Namespace) -> bool:
    """Whether files of other tools are compared, and not jobs of the runner."""
    return bool(options.lm_eval or options.results)


def load_files(options: argparse.Namespace) -> tuple[list[Run], Reader]:
    """Return what other tools have written; options that need an MLflow store are rejected."""
    if options.lm_eval and options.results:
        raise ConfigError(
            "--lm-eval and --results: give all folders to --results, which reads lm-eval's, too",
            code="conflict",
        )
    source = "--lm-eval" if options.lm_eval else "--results"
    if option := first_given(options, "tracking_uri", "experiment", "grid", "log"):
        raise ConfigError(
            f"{source} reads folders and no MLflow store: leave out one of the two",
            key=option,
            code="conflict",
        )
    # which is computed, and no metric in the files
    metric = "" if Chance.named(options.metric) else options.metric
    if options.lm_eval:
        return evaluations.load(options.lm_eval, options.cluster or None, metric)
    return other_tools.load(options.results, options.cluster or None, metric)


def as_asked(options: argparse.Namespace, runs: list[Run], reader: Reader) -> tuple[list[Run], Reader]:
    """Return the chosen runs with what the options make of them before they are tabulated: another
    number than the verdicts, questions paired across tools, names of teams, one run of each job."""
    # a metric of other tools' files was read with them
    if options.metric and (Chance.named(options.metric) or not of_other_tools(options)):
        runs = with_number(runs, options.metric, reader)
    if options.across_tools:
        runs, reader = across_tools(runs, options.results, reader)
    if options.teams:
        runs = name_teams(runs, reader)
    return newest_comparable(options, runs), reader


def name_teams(runs: list[Run], reader: Reader) -> list[Run]:
    """Give the runs of teams the parameter `team`; ConfigError if there are none."""
    for section in every_section():
        if isinstance(section, NamesRuns):
            runs = [*section.named(runs, reader)]
    if not any(TEAM in run.params for run in runs):
        raise ConfigError(
            "--teams names teams of task=agents, and there is no such job among these", code="no_effect"
        )
    return runs


def check_clusters(options: argparse.Namespace, runs: list[Run]) -> None:
    """Raise ConfigError if a job has not recorded the field that --cluster names."""
    without = sorted(run.job_id for run in runs if run.value(CLUSTER) != options.cluster)
    if options.cluster and without:
        fix = f"run them again with {CLUSTER}={options.cluster}; word problems reuse their answers"
        raise ConfigError(
            f"not recorded by {few(without)}: {fix}", key="--cluster", value=options.cluster, code="missing"
        )


def choose(options: argparse.Namespace, runs: list[Run]) -> list[Run]:
    """Return the runs that --runs, --task and --where leave."""
    runs = pick(options.runs, runs, "--runs") if options.runs else newest(runs)
    tasks = sorted({run.task for run in runs})
    if options.task:
        if options.task not in tasks:
            raise ConfigError(
                unknown("task with finished runs", options.task, tasks),
                key="--task",
                value=options.task,
                code="unknown_choice",
            )
        runs = [run for run in runs if run.task == options.task]
    for text in options.where:
        runs = where(runs, text)
    return runs


def without_errors(
    options: argparse.Namespace, runs: list[Run], every_run: list[Run]
) -> tuple[list[Run], list[Run]]:
    """Leave out and name the jobs with questions that ended in errors, or keep them with
    --count-errors."""
    for run in runs:
        if run.errors:
            what = "counted as not solved" if options.count_errors else "left out"
            fix = "" if options.count_errors else " Run it again, or count them as not solved: --count-errors"
            n = f"{run.metrics['n']:.0f}" if "n" in run.metrics else "its"
            print(
                f"{what}: {run.job_id}, {run.errors} of {n} questions ended in an error.{fix}",
                file=sys.stderr,
            )
    if options.count_errors:
        return runs, every_run
    if all(run.errors for run in runs):
        raise ConfigError(
            "nothing is left to compare: every job has questions that ended in an error", code="empty"
        )
    return [run for run in runs if not run.errors], [run for run in every_run if not run.errors]


def tabulate_tasks(
    options: argparse.Namespace, runs: list[Run], reader: Reader, terms: list[Term], margins: dict[str, float]
) -> list[Table]:
    tolerance = _tolerance(options)
    check_has_baseline(options, terms)
    baseline = parse_pairs(options.baseline, runs, "--baseline") if options.baseline else {}
    candidates = select(runs, baseline, "--baseline", options.baseline) if baseline else []
    by = parse_keys(options.by, runs, "--by") if options.by else []
    ignore = parse_keys(options.ignore, runs, "--ignore") if options.ignore else []
    if ignore and not baseline:
        raise ConfigError(
            "needs a baseline: add --baseline KEY=VALUE", key="--ignore", value=options.ignore, code="missing"
        )
    base = None
    if set(baseline) == {JOB_ID}:  # one named run is the baseline of all others
        if by:
            fix = "with --by, give the baseline by the values of those keys"
            raise ConfigError(fix, key="--baseline", value=options.baseline, code="conflict")
        base, baseline = candidates[0], {}
    tables = []
    several = metrics_of_scores(runs)
    for task in sorted({run.task for run in runs}):
        of_task = [run for run in runs if run.task == task]
        task_base = base if base is not None and base.task == task else None
        keys = (baseline, by) if baseline or base or by else default_comparison(options, of_task)
        if options.across_tools:
            keys, task_base = ({}, []), of_task[0]
        choice = ComparisonOptions(
            *keys, options.seeds, options.unpaired, task_base, margins, tolerance, several[task], ignore
        )
        tables.append(tabulate(of_task, choice, reader))
    if options.seeds:
        check_seeds(tables)
    return tables


def check_has_baseline(options: argparse.Namespace, terms: list[Term]) -> None:
    """Reject what says something about differences where nothing is compared with a baseline."""
    names_one = bool(options.baseline) or of_other_tools(options)  # by default the first path
    has_one = names_one or bool(options.by)
    compares = any(term.is_comparison for term in terms)
    need = "needs a baseline: add --baseline KEY=VALUE"
    if options.pool and not names_one:
        raise ConfigError(f"a pooled verdict {need}", key="--pool", value=options.pool, code="missing")
    if options.margin and not (has_one or options.files):
        raise ConfigError(f"a margin {need}", key="--margin", value=" ".join(options.margin), code="missing")
    if compares and not has_one:
        raise ConfigError(need, key="--require", value=" ".join(options.require), code="missing")
    if options.plan_questions and not has_one:
        raise ConfigError(
            f"a plan {need}", key="--plan-questions", value=" ".join(options.plan_questions), code="missing"
        )


def _tolerance(options: argparse.Namespace) -> float | None:
    """Return by how much speeds may differ by noise alone, as a share, if the user says so."""
    tolerance = None if options.tolerance is None else float(options.tolerance) / 100
    if tolerance is not None and not 0 <= tolerance <= 10:  # NaN fails, too
        raise ConfigError(
            "must be a percentage from 0 to 1000",
            key="--tolerance",
            value=f"{options.tolerance:g}",
            code="bad_value",
        )
    return tolerance


def default_comparison(options: argparse.Namespace, runs: list[Run]) -> tuple[dict[str, str], list[str]]:
    """Return the baseline and the rows of a table if the user names none: none, or the first path
    of other tools."""
    if options.lm_eval:
        return evaluations.default_comparison(options.lm_eval, runs)
    return other_tools.default_comparison(options.results, runs) if options.results else ({}, [])


def pool_tasks(
    options: argparse.Namespace,
    tables: list[Table],
    runs: list[Run],
    reader: Reader,
    margins: dict[str, float],
) -> list[PooledTable]:
    """Return the verdicts over several tasks."""
    by = parse_keys(options.by, runs, "--by") if options.by else []
    if not options.baseline and not by:
        by = default_comparison(options, runs)[1]
    return pooled_tables(tables, Weights(options.pool), by, margins, reader)


def tabulate_flips(
    options: argparse.Namespace, runs: list[Run], every_run: list[Run], reader: Reader
) -> Table:
    """Return the table of the two runs in --flips, with the questions that only one of them
    solved."""
    refuse_beside(options, "flips")
    with_verdicts = [run for run in runs if run.score] or runs
    first, second = (one_run(text, with_verdicts, every_run, reader) for text in options.flips)
    named = " ".join(options.flips)
    if first.run_id == second.run_id:
        raise ConfigError(f"both are {first.job_id}", key="--flips", value=named, code="bad_value")
    if first.task != second.task:
        raise ConfigError(
            f"task {first.task} and task {second.task} have no question in common",
            key="--flips",
            value=named,
            code="mismatch",
        )
    table = tabulate([first, second], ComparisonOptions(base=first), reader)
    note = next((row.note for row in table.rows if row.note), None)
    if note is not None or not table.scored:
        raise ConfigError(
            f"{note or f'task {first.task} has no verdicts'}", key="--flips", value=named, code="mismatch"
        )
    table.of(FlipsOfTable).pairs = [find_flips(second, first, reader)]
    return table


def one_run(text: str, runs: list[Run], every_run: list[Run], reader: Reader) -> Run:
    """Return the run with this id (also an older run of a job), or the only run that passes this
    filter."""
    matching = (
        where(runs, text, "--flips") if re.search("[=<>]", text) else pick([text], every_run, "--flips")
    )
    if len(matching) > 1:
        several = ", ".join(sorted(run.job_id for run in matching)[:4])
        keys = reader.key_rules.differing_keys([run.params for run in matching])
        differ = f"; they differ in {', '.join(map(label, keys[:4]))}" if keys else ""
        raise ConfigError(
            f"{len(matching)} runs match ({several}){differ}: name one",
            key="--flips",
            value=text,
            code="ambiguous",
        )
    return matching[0]


def options_as_given(options: argparse.Namespace) -> dict[str, str]:
    """Return the given options as they were on the command line."""
    given = {name: getattr(options, name) for name in NAMED_ON_PAGE}
    given |= {"unpaired": "yes" if options.unpaired else ""}
    return {
        name: value if isinstance(value, str) else " · ".join(value) for name, value in given.items() if value
    }
