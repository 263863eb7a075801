"""Command line of `runner-compare`: load and select runs, build tables, then print, save and log."""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runner_base import (
    ConfigError,
    JobFailed,
    format_unknown_choice_message,
    join_first_names,
    print_message,
    run_with_exit_code,
)
from runner_compare.features.across_tools.compute import pair_questions_across_tools
from runner_compare.features.files.compute import compare_model_files
from runner_compare.features.files.section import ComparisonFiles
from runner_compare.features.flips.compute import TableFlips, find_flipped_questions
from runner_compare.features.gates.section import (
    Requirements,
    RequirementTerm,
    check_requirements_on_runs,
    collect_requirements,
    format_unmet_requirements,
    merge_margins_with_requirements,
    parse_requirements,
)
from runner_compare.features.missing_jobs.section import ComparisonMissingJobs
from runner_compare.features.planning.compute import parse_plan_target, plan_questions
from runner_compare.features.pooled.compute import PooledTable, build_pooled_tables
from runner_compare.features.pooled.section import ComparisonPooledTables
from runner_compare.features.recall.compute import recompute_effective_lengths_with_margin
from runner_compare.features.recovery.compute import ComparisonRecovery, build_recovery_table
from runner_compare.features.recovery.render.card import check_card_paths, write_cards
from runner_compare.features.registry import load_comparison_sections
from runner_compare.features.seeds.compute import require_pooled_seeds
from runner_compare.features.tokens.render.tables import write_llama_perplexity_statistics
from runner_compare.model.comparison import Comparison, View
from runner_compare.model.data import CLUSTER, JOB_ID, TEAM, NotPaired, Run, Table, key_label
from runner_compare.model.default_selection import select_newest_comparable_runs
from runner_compare.model.missing_jobs import (
    MissingJob,
    find_jobs_with_errors,
    mention_missing_jobs,
    select_missing_jobs,
)
from runner_compare.model.question_metrics import select_runs_with_metric
from runner_compare.model.repeated_answers import RepeatedAnswerMetric
from runner_compare.model.scores import count_tables_with_same_score
from runner_compare.model.selection import (
    filter_by_values,
    filter_runs,
    find_runs_by_id,
    parse_config_keys,
    parse_config_values,
    parse_margins,
    select_newest_run_per_job,
)
from runner_compare.model.table import ComparisonOptions, build_comparison_table
from runner_compare.options import (
    LLAMA,
    build_command_with_source_options,
    check_option_combinations,
    create_parser,
    find_first_set_option,
    reject_conflicting_options,
)
from runner_compare.reader import Reader
from runner_compare.readers import load as other_tools
from runner_compare.readers.lm_eval import evaluations
from runner_compare.readers.records import Records, open_recorded_runs
from runner_compare.render.output import FORMATS, save_comparison
from runner_compare.section import NamesRuns
from runner_compare.statistics.pooling import PoolingWeights

FOLDER = "comparison"  # of the files that --log adds
NAMED_ON_PAGE = ("experiment", "grid", "task", "runs", "where", "by", "baseline", "ignore", "pool", "margin", "require",
                 "plan_questions", "recall_margin", "flips", "lm_eval", "results")  # fmt: skip


def main(arguments: list[str]) -> int:
    """Run a comparison (`runner-compare` without a subcommand) and return the exit code."""
    return run_with_exit_code(
        "runner-compare", lambda: _run_parsed_options(create_parser().parse_args(arguments))
    )


def _run_parsed_options(options: argparse.Namespace) -> int:
    try:
        with tempfile.TemporaryDirectory() as scratch:
            return run_comparison(options, Path(scratch))
    except NotPaired as reason:  # a file that was there a moment ago is gone
        raise JobFailed(str(reason), code="changed") from reason


@dataclass
class ComparisonRun:
    """Comparison with the reader and records of its runs, and the MLflow run to which --log adds it."""

    comparison: Comparison
    reader: Reader
    records: Records | None
    target: str | None
    missing_jobs: list[MissingJob]


def build_comparison(
    options: argparse.Namespace, scratch_folder: Path, jobs_without_result: Sequence[MissingJob] = ()
) -> ComparisonRun:
    """Load and select runs, and compute the requested comparison.

    `jobs_without_result`: jobs that the caller knows to have no result.
    """
    aim = parse_plan_target(options.plan_questions) if options.plan_questions else None
    check_option_combinations(options)
    check_card_paths(options.card)
    # before a reader notes in the options what it has opened
    command = build_command_with_source_options(options)
    records = None if reads_other_tools(options) else open_recorded_runs(options, scratch_folder)
    every_run, reader = (
        load_runs_of_other_tools(options) if records is None else (records.runs, records.reader)
    )
    chosen = select_runs(options, every_run)
    runs, every_run = exclude_failed_runs(options, chosen, every_run)
    check_cluster_field_recorded(options, runs)
    runs, reader = apply_run_selection_options(options, runs, reader)
    grid_jobs = None if records is None else records.grid_jobs
    missing = [*jobs_without_result, *select_missing_jobs(options, grid_jobs, runs)]
    target = records.find_log_target(runs) if records is not None and options.log else None
    terms = parse_requirements(options.require, runs)
    margins = merge_margins_with_requirements(terms, parse_margins(options.margin))
    if options.flips:
        tables = [build_flipped_questions_table(options, runs, every_run, reader)]
    else:
        with mention_missing_jobs(missing):
            tables = build_task_tables(options, runs, reader, terms, margins)
    if options.lm_eval and isinstance(reader, evaluations.FilesReader) and not options.unpaired:
        evaluations.check_same_documents(tables, reader)
    if aim is not None:
        plan_questions(tables, aim)
    if options.recall_margin:
        recompute_effective_lengths_with_margin(tables, options.recall_margin)
    view = View(
        options.explain,
        options.columns == "all",
        options.plot,
        command,
        "" if records is None else records.shown_at,
    )
    comparison = Comparison(tables, view)
    comparison.get_section_data(ComparisonMissingJobs).jobs = missing
    unanswered = [] if options.count_errors else find_jobs_with_errors(chosen)
    comparison.get_section_data(Requirements).of_rows = check_requirements_on_runs(
        tables, terms, reader, [*missing, *unanswered]
    )
    if options.files:
        comparison.get_section_data(ComparisonFiles).table = compare_model_files(
            runs, reader, options.baseline, margins, _parse_tolerance(options)
        )
    if options.pool:
        comparison.get_section_data(ComparisonPooledTables).tables = pool_tables_over_tasks(
            options, tables, runs, reader, margins
        )
    if options.card:
        comparison.get_section_data(ComparisonRecovery).table = build_recovery_table(
            tables,
            reader,
            margins,
            _find_pooling_keys(options, runs),
            PoolingWeights(options.pool or PoolingWeights.tasks),
        )
    return ComparisonRun(comparison, reader, records, target, [*missing, *unanswered])


def run_comparison(options: argparse.Namespace, scratch_folder: Path) -> int:
    """Compare runs, then print, save and log the comparison. Returns 1 if a requirement failed,
    else 0.
    """
    compared = build_comparison(options, scratch_folder)
    comparison, reader, records, target = (
        compared.comparison,
        compared.reader,
        compared.records,
        compared.target,
    )
    tables = comparison.tables
    if options.format == LLAMA:
        write_llama_perplexity_statistics(tables, reader, sys.stdout)
    else:
        FORMATS[options.format](comparison, sys.stdout)
    sys.stdout.flush()
    if options.format not in ("table", "markdown", "json"):  # which name them
        for job in comparison.get_section_data(ComparisonMissingJobs).jobs:
            print_message(job.message)
    if options.save or target:
        folder = Path(options.save).expanduser() if options.save else scratch_folder / FOLDER
        names = save_comparison(comparison, folder, reader, collect_non_default_options(options))
        if options.save:
            print_message(f"saved in {options.save}: {', '.join(names)}")
        if target and records is not None:
            records.log_comparison(target, folder, names, FOLDER)
            print_message(f"logged to MLflow run {target}: {FOLDER}/")
    recovery = comparison.get_section_data(ComparisonRecovery).table
    if recovery is not None:
        write_cards(recovery, options.card)
        print_message(f"card: {', '.join(options.card)}")
    if options.publish and records is not None:
        paths = records.publish_comparison(tables, Path(options.publish).expanduser(), options.benchmark)
        print_message(f"files to publish (nothing was uploaded): {', '.join(map(str, paths))}")
    failed = format_unmet_requirements(collect_requirements(comparison))
    for line in failed:
        print_message(line)
    return 1 if failed else 0


def reads_other_tools(options: argparse.Namespace) -> bool:
    return bool(options.lm_eval or options.results)


def load_runs_of_other_tools(options: argparse.Namespace) -> tuple[list[Run], Reader]:
    """Load runs from other tools' files. Raises ConfigError for options that need an MLflow store."""
    if options.lm_eval and options.results:
        raise ConfigError(
            "--lm-eval and --results: give all folders to --results, which reads lm-eval's, too",
            code="conflict",
        )
    source = "--lm-eval" if options.lm_eval else "--results"
    if option := find_first_set_option(options, "tracking_uri", "experiment", "grid", "log"):
        raise ConfigError(
            f"{source} does not use an MLflow store, which this option requires. Omit one of the two options",
            key=option,
            code="conflict",
        )
    # which is computed, and no metric in the files
    metric = "" if RepeatedAnswerMetric.from_name(options.metric) else options.metric
    if options.lm_eval:
        return evaluations.load_evaluations(options.lm_eval, options.cluster or None, metric)
    return other_tools.load_results(options.results, options.cluster or None, metric)


def apply_run_selection_options(
    options: argparse.Namespace, runs: list[Run], reader: Reader
) -> tuple[list[Run], Reader]:
    """Apply --metric, --across-tools and --teams, then select the newest comparable run of each job."""
    # a metric of other tools' files was read with them
    if options.metric and (RepeatedAnswerMetric.from_name(options.metric) or not reads_other_tools(options)):
        runs = select_runs_with_metric(runs, options.metric, reader)
    if options.across_tools:
        runs, reader = pair_questions_across_tools(runs, options.results, reader)
    if options.teams:
        runs = add_agent_team_params(runs, reader)
    return select_newest_comparable_runs(options, runs), reader


def add_agent_team_params(runs: list[Run], reader: Reader) -> list[Run]:
    """Set the param `team` of agent runs. Raises ConfigError if no run is an agent run."""
    for section in load_comparison_sections():
        if isinstance(section, NamesRuns):
            runs = [*section.name_runs(runs, reader)]
    if not any(TEAM in run.params for run in runs):
        raise ConfigError(
            "--teams names teams of task=agents, and there is no such job among these", code="no_effect"
        )
    return runs


def check_cluster_field_recorded(options: argparse.Namespace, runs: list[Run]) -> None:
    """Raise ConfigError if a job did not record the field that --cluster names."""
    without = sorted(run.job_id for run in runs if run.get_value(CLUSTER) != options.cluster)
    if options.cluster and without:
        fix = f"Run these jobs again with {CLUSTER}={options.cluster}. Tasks of word problems then reuse their answers"
        raise ConfigError(
            f"jobs did not record this field: {join_first_names(without)}. {fix}",
            key="--cluster",
            value=options.cluster,
            code="missing",
        )


def select_runs(options: argparse.Namespace, runs: list[Run]) -> list[Run]:
    runs = find_runs_by_id(options.runs, runs, "--runs") if options.runs else select_newest_run_per_job(runs)
    tasks = sorted({run.task for run in runs})
    if options.task:
        if options.task not in tasks:
            raise ConfigError(
                format_unknown_choice_message("task with finished runs", options.task, tasks),
                key="--task",
                value=options.task,
                code="unknown_choice",
            )
        runs = [run for run in runs if run.task == options.task]
    for text in options.where:
        runs = filter_runs(runs, text)
    return runs


def exclude_failed_runs(
    options: argparse.Namespace, runs: list[Run], all_runs: list[Run]
) -> tuple[list[Run], list[Run]]:
    """Exclude jobs in which a question failed with an error, unless --count-errors is set. Prints
    these jobs.
    """
    for run in runs:
        if run.errors:
            what = "counted as not solved" if options.count_errors else "left out"
            fix = "" if options.count_errors else " Run it again, or count them as not solved: --count-errors"
            n = f"{run.metrics['n']:.0f}" if "n" in run.metrics else "its"
            print(
                f"{what}: {run.job_id}. {run.errors} of {n} questions ended in an error.{fix}",
                file=sys.stderr,
            )
    if options.count_errors:
        return runs, all_runs
    if all(run.errors for run in runs):
        raise ConfigError(
            "nothing is left to compare: every job has questions that ended in an error", code="empty"
        )
    return [run for run in runs if not run.errors], [run for run in all_runs if not run.errors]


def build_task_tables(
    options: argparse.Namespace,
    runs: list[Run],
    reader: Reader,
    terms: list[RequirementTerm],
    margins: dict[str, float],
) -> list[Table]:
    tolerance = _parse_tolerance(options)
    check_has_baseline(options, terms)
    baseline = parse_config_values(options.baseline, runs, "--baseline") if options.baseline else {}
    candidates = filter_by_values(runs, baseline, "--baseline", options.baseline) if baseline else []
    by = parse_config_keys(options.by, runs, "--by") if options.by else []
    ignore = parse_config_keys(options.ignore, runs, "--ignore") if options.ignore else []
    if ignore and not baseline:
        raise ConfigError(
            "needs a baseline: add --baseline KEY=VALUE", key="--ignore", value=options.ignore, code="missing"
        )
    base = None
    if set(baseline) == {JOB_ID}:  # one named run is the baseline of all others
        if by:
            fix = "with --by, the baseline must be values of the --by keys, e.g. KEY=VALUE"
            raise ConfigError(fix, key="--baseline", value=options.baseline, code="conflict")
        base, baseline = candidates[0], {}
    tables = []
    several = count_tables_with_same_score(runs)
    for task in sorted({run.task for run in runs}):
        of_task = [run for run in runs if run.task == task]
        task_base = base if base is not None and base.task == task else None
        keys = (
            (baseline, by) if baseline or base or by else choose_default_baseline_and_keys(options, of_task)
        )
        if options.across_tools:
            keys, task_base = ({}, []), of_task[0]
        choice = ComparisonOptions(
            *keys,
            options.seeds,
            options.unpaired,
            task_base,
            margins,
            tolerance,
            several[task],
            ignore,
            is_each=getattr(options, "each", False),
        )
        tables.append(build_comparison_table(of_task, choice, reader))
    if options.seeds:
        require_pooled_seeds(tables)
    return tables


def check_has_baseline(options: argparse.Namespace, terms: list[RequirementTerm]) -> None:
    """Raise ConfigError if an option needs a baseline and none is set."""
    names_one = bool(options.baseline) or reads_other_tools(options)  # by default the first path
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


def _parse_tolerance(options: argparse.Namespace) -> float | None:
    """Return --tolerance as a fraction, or None if it is not set."""
    tolerance = None if options.tolerance is None else float(options.tolerance) / 100
    if tolerance is not None and not 0 <= tolerance <= 10:  # NaN fails, too
        raise ConfigError(
            "the tolerance must be a percentage from 0 to 1000",
            key="--tolerance",
            value=f"{options.tolerance:g}",
            code="bad_value",
        )
    return tolerance


def choose_default_baseline_and_keys(
    options: argparse.Namespace, runs: list[Run]
) -> tuple[dict[str, str], list[str]]:
    """Return the default baseline and the row keys. Results of other tools have the first path as
    baseline.
    """
    if options.lm_eval:
        return evaluations.choose_baseline_and_row_keys(options.lm_eval, runs)
    return other_tools.choose_baseline_and_row_keys(options.results, runs) if options.results else ({}, [])


def pool_tables_over_tasks(
    options: argparse.Namespace,
    tables: list[Table],
    runs: list[Run],
    reader: Reader,
    margins: dict[str, float],
) -> list[PooledTable]:
    by = _find_pooling_keys(options, runs)
    return build_pooled_tables(tables, PoolingWeights(options.pool), by, margins, reader)


def _find_pooling_keys(options: argparse.Namespace, runs: list[Run]) -> list[str]:
    by = parse_config_keys(options.by, runs, "--by") if options.by else []
    return by or ([] if options.baseline else choose_default_baseline_and_keys(options, runs)[1])


def build_flipped_questions_table(
    options: argparse.Namespace, runs: list[Run], all_runs: list[Run], reader: Reader
) -> Table:
    """Build the table of the two runs in --flips, with the questions that exactly one of them
    solved.
    """
    reject_conflicting_options(options, "flips")
    with_verdicts = [run for run in runs if run.correct_and_total] or runs
    first, second = (find_single_run(text, with_verdicts, all_runs, reader) for text in options.flips)
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
    table = build_comparison_table([first, second], ComparisonOptions(base=first), reader)
    note = next((row.note for row in table.rows if row.note), None)
    if note is not None or not table.has_accuracies:
        raise ConfigError(
            f"{note or f'task {first.task} has no verdicts'}", key="--flips", value=named, code="mismatch"
        )
    table.get_section_data(TableFlips).pairs = [find_flipped_questions(second, first, reader)]
    return table


def find_single_run(
    run_id_or_filter: str, runs: list[Run], all_runs: list[Run], reader: Reader, option: str = "--flips"
) -> Run:
    """Return the run with this id, or the only run that matches the filter.

    The id may be of an older run of a job. `option` is the option that errors name.
    """
    matching = (
        filter_runs(runs, run_id_or_filter, option)
        if re.search("[=<>]", run_id_or_filter)
        else find_runs_by_id([run_id_or_filter], all_runs, option)
    )
    if len(matching) > 1:
        several = ", ".join(sorted(run.job_id for run in matching)[:4])
        keys = reader.key_rules.find_differing_keys([run.params for run in matching])
        differ = f"; they differ in {', '.join(map(key_label, keys[:4]))}" if keys else ""
        raise ConfigError(
            f"{len(matching)} runs match ({several}){differ}: name one",
            key=option,
            value=run_id_or_filter,
            code="ambiguous",
        )
    return matching[0]


def collect_non_default_options(options: argparse.Namespace) -> dict[str, str]:
    """Return the options that the user set, by name, as on the command line."""
    given = {name: getattr(options, name) for name in NAMED_ON_PAGE}
    given |= {"unpaired": "yes" if options.unpaired else ""}
    return {
        name: value if isinstance(value, str) else " · ".join(value) for name, value in given.items() if value
    }
