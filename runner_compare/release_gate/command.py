"""Command lines of `runner-compare gate` and `runner-compare pack`."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from runner_base import (
    ConfigError,
    JobFailed,
    Picture,
    RunnerError,
    convert_write_error,
    escape_control_characters,
    format_count,
    write_text_atomically,
)
from runner_base.command_line import CommandParser
from runner_compare.command import find_single_run, select_runs
from runner_compare.features.recovery.compute import build_recovery_table
from runner_compare.features.recovery.render.card import check_card_paths, write_cards
from runner_compare.model.data import NotPaired, Run
from runner_compare.model.missing_jobs import MissingJob
from runner_compare.options import WIDTH, create_parser
from runner_compare.readers.records import open_recorded_runs
from runner_compare.readers.runner_job import RESULT
from runner_compare.release_gate.compute import RuleTables, check_candidates_against_policy
from runner_compare.release_gate.history import History, open_history, read_nightly_gate_reports
from runner_compare.release_gate.pack import pack_job
from runner_compare.release_gate.policy_file import read_release_gate_policy
from runner_compare.release_gate.render import help_texts
from runner_compare.release_gate.render.junit import format_error_junit, format_junit
from runner_compare.release_gate.render.nights import (
    draw_nightly_gate_differences,
    print_nightly_gate_reports,
)
from runner_compare.release_gate.render.text import (
    build_verdict_section,
    format_error_markdown,
    format_gate_report,
    format_gate_report_as_markdown,
    format_one_line_report,
)
from runner_compare.release_gate.runs import compare_recorded_jobs_with_baseline, names_files, read_files
from runner_compare.release_gate.verdicts import GateReport, list_run_verdicts, to_dict


def run_gate(arguments: list[str]) -> int:
    """Run `runner-compare gate` and return its exit code."""
    if arguments[:1] == ["history"]:
        return run_gate_history_command(arguments[1:])
    options = create_gate_parser().parse_args(arguments)
    try:
        report = decide(options)
    except RunnerError as error:
        _write_files(options, format_error_markdown(str(error)), format_error_junit(str(error)))
        raise
    if options.json:
        print(json.dumps(to_dict(report), ensure_ascii=False))
    else:
        text = format_one_line_report(report) if options.compact else format_gate_report(report)
        print(escape_control_characters(text))
    _write_files(options, format_gate_report_as_markdown(report), format_junit(report))
    return report.exit_code


def _write_files(options: argparse.Namespace, markdown: str, junit: str) -> None:
    if options.summary:
        _append(Path(options.summary), markdown)
    if options.junit:
        write_text_atomically(Path(options.junit), junit, "--junit")


def run_pack_command(arguments: list[str]) -> int:
    """Run `runner-compare pack` and return its exit code."""
    options = create_pack_command_parser().parse_args(arguments)
    target = Path(options.output).expanduser()
    with tempfile.TemporaryDirectory() as scratch:
        folder, recorded_run = _find_job_to_pack(options, Path(scratch))
        packed = pack_job(folder, target, options.texts, recorded_run)
    size = f"{target.stat().st_size / 1024:,.0f} KiB"
    contents = [format_count(packed.questions, "question")]
    if packed.repeats:
        contents = [format_count(packed.runs, "run"), format_count(packed.repeats, "repeat")]
    print(escape_control_characters(f"{target}: {', '.join([*contents, size])}"))
    return 0


def run_gate_history_command(arguments: list[str]) -> int:
    """Run `runner-compare gate history` and return its exit code."""
    options = create_history_parser().parse_args(arguments)
    nights = read_nightly_gate_reports(Path(options.file).expanduser())
    if not nights:
        raise ConfigError("this history file is empty", key="history", value=options.file, code="empty")
    print_nightly_gate_reports(nights)
    if options.save:
        target = Path(options.save).expanduser()
        picture = Picture("nights", "Nights of a gate", lambda: draw_nightly_gate_differences(nights))
        content = picture.to_svg().encode() if target.suffix == ".svg" else picture.to_png()
        try:
            target.write_bytes(content)
        except OSError as error:
            raise convert_write_error(target, error, "--save") from error
    return 0


def decide(options: argparse.Namespace, jobs_without_result: Sequence[MissingJob] = ()) -> GateReport:
    """Compute the verdicts of a gate, and append them to the history file if there is one.

    `jobs_without_result`: jobs that the caller knows to have no result.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            scratch = Path(folder)
            if not options.history:
                return build_gate_report(options, scratch, None, jobs_without_result)[0]
            with open_history(Path(options.history).expanduser()) as history:
                report, ids = build_gate_report(options, scratch, history)
                history.append_nightly_gate_report(report, *ids)
                return report
    except NotPaired as reason:  # a file that was there a moment ago is gone
        raise JobFailed(str(reason), code="changed") from reason


def build_gate_report(
    options: argparse.Namespace,
    scratch: Path,
    history: History | None = None,
    jobs_without_result: Sequence[MissingJob] = (),
) -> tuple[GateReport, tuple[str, str]]:
    """Load the baseline and the candidates, and check the candidates against the requirements in the options.

    Also returns an id of the baseline and an id of the candidates' results.
    """
    check_card_paths(options.card)
    source = read_release_gate_policy(options)
    policy = source.policy
    is_file = names_files(options.baseline)
    of_records = [
        name for name in ("grid", "runs", "task", "experiment", "tracking_uri") if getattr(options, name)
    ]
    if is_file and of_records:
        raise ConfigError(
            "this option selects recorded jobs, but the baseline is a file. Omit the option",
            key=f"--{of_records[0].replace('_', '-')}",
            code="conflict",
        )
    if is_file and options.log:
        raise ConfigError(
            "this option needs recorded jobs. Give config values as the baseline, e.g. quantization=none",
            key="--log",
            code="conflict",
        )
    if is_file:
        paths = options.candidates or ["outputs"]
        runs = read_files(options.baseline, paths, policy, options.cluster or None, options.where)
    else:
        if options.candidates:
            raise ConfigError(
                "the candidates are files, so the baseline must be a file. Create it with runner-compare pack",
                key=options.baseline,
                code="conflict",
            )
        runs = compare_recorded_jobs_with_baseline(options, policy, scratch, jobs_without_result)
    policy = source.resolve_policy_limits([row.run for table in runs.tables for row in table.rows])
    ids = runs.baseline_id, runs.results_id
    night = None if history is None else history.get_nightly_report_number(*ids)
    policy = replace(policy, night=night)
    compared = [
        RuleTables(rule, of_rule.tables) for rule, of_rule in zip(policy.rules, runs.compared, strict=True)
    ]
    report = check_candidates_against_policy(
        compared, policy, runs.reader, runs.missing_jobs, runs.baseline, runs.baseline_setting
    )
    if options.card:
        shown = next((each for each in compared if each.has_accuracies), compared[0])
        recovery = build_recovery_table(shown.tables, runs.reader, dict(shown.rule.margins))
        write_cards(recovery, options.card, build_verdict_section(report))
    if options.log and runs.records is not None:
        runs.records.log_verdicts(list_run_verdicts(report))
    return report, ids


def _find_job_to_pack(options: argparse.Namespace, scratch: Path) -> tuple[Path, Run | None]:
    """Return the folder of the job to pack, which is given as a folder, a job id or config values.

    Also returns the recorded run, unless the job is given as a folder.
    """
    folder = Path(options.job).expanduser()
    if folder.is_dir():
        return folder, None
    words = ["--output-dir", options.output_dir, *(["--task", options.task] if options.task else [])]
    parsed = create_parser().parse_args(words)
    records = open_recorded_runs(parsed, scratch)
    runs = select_runs(parsed, records.runs)
    answered = [run for run in runs if run.correct_and_total or run.likelihood_unit]
    packable = answered or [run for run in runs if "task.repeats" in run.params] or runs
    run = find_single_run(options.job, packable, records.runs, records.reader, "JOB")
    for place in (Path(run.folder), Path(options.output_dir, "jobs", run.job_id)):
        if (place / RESULT).is_file():
            return place, run
    raise ConfigError(
        f"the folder of job {run.job_id} is not on this machine",
        key="pack",
        value=options.job,
        code="not_found",
    )


def _append(path: Path, text: str) -> None:
    """Append text to the summary file, which may contain the summaries of earlier CI steps."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise convert_write_error(path, error, "--summary") from error


def create_gate_parser() -> argparse.ArgumentParser:
    arguments = _create_parser("gate", help_texts.GATE_USAGE, help_texts.GATE, help_texts.GATE_EXAMPLES)
    add = arguments.add_argument
    add(
        "baseline",
        metavar="BASELINE",
        help="results to compare with: a packed job, a job folder, another tool's results, or config values of "
        "recorded jobs, e.g. quantization=none",
    )
    add(
        "candidates",
        nargs="*",
        metavar="RESULTS",
        help="files or folders with the candidates' results (default: outputs)",
    )
    add = arguments.add_argument_group("policy").add_argument
    repeated: Callable[..., object] = partial(add, action="append", default=[])
    repeated(
        "--margin",
        metavar="LOSS",
        help="maximum acceptable loss: 2 (points of accuracy), 0.01nats (likelihood per token) or 5%% (speed, "
        "time, memory)",
    )
    repeated(
        "--min",
        metavar="METRIC=VALUE",
        help="the metric's whole interval must be at least VALUE, e.g. accuracy=0.8",
    )
    repeated(
        "--max",
        metavar="METRIC=VALUE",
        help="the metric's whole interval must be at most VALUE, e.g. model_mib=4000",
    )
    add(
        "--pool",
        action="store_true",
        help="the margin applies to all questions of all tasks together. A single task fails only if its own loss is "
        "shown",
    )
    add(
        "--policy",
        metavar="FILE",
        help="YAML file with the requirements: rules of the tiers must and should, by task",
    )
    add(
        "--expect",
        default="",
        metavar="LABELS|FILE",
        help="names of candidates that must have a result, separated by commas, or a file with one name per line",
    )
    add(
        "--each",
        action="store_true",
        help="error rate of 5 %% per candidate (default: 5 %% for all candidates together, by Holm's procedure)",
    )
    add(
        "--cluster",
        default="",
        metavar="FIELD",
        help="field whose equal values define a cluster of questions",
    )
    repeated("--where", metavar="FILTER", help="only runs with these config values, e.g. task.split=test")
    add = arguments.add_argument_group("recorded jobs (without RESULTS)").add_argument
    add("--output-dir", default="outputs", help="the folder with mlflow.db (default: %(default)s)")
    add("--tracking-uri", help="another MLflow store")
    add("--experiment", help="the MLflow experiment")
    add("--task", help="only this task")
    add("--grid", metavar="ID|last", help="only the jobs of one grid")
    add("--runs", nargs="+", default=[], metavar="ID", help="only these job ids or MLflow run ids")
    add = arguments.add_argument_group("output").add_argument
    add("--json", action="store_true", help="one JSON object")
    add("--log", action="store_true", help="log each verdict to the candidate's run in MLflow")
    add("--compact", action="store_true", help="one line, for a chat message")
    add(
        "--summary",
        metavar="FILE",
        help="append the verdicts as Markdown to this file, e.g. $GITHUB_STEP_SUMMARY",
    )
    add(
        "--history",
        metavar="FILE",
        help="append the report to this file. The error rate of NO-GO is then at most 5 %% over all nights",
    )
    add("--junit", metavar="FILE", help="write JUnit XML: NO-GO is a failure, ASK is a skipped test")
    repeated = partial(add, action="append", default=[])
    repeated(
        "--card",
        metavar="FILE",
        help="write the recovery (accuracy divided by the baseline's accuracy) and all verdicts to an .html or "
        ".png file",
    )
    return arguments


def create_history_parser() -> argparse.ArgumentParser:
    arguments = _create_parser(
        "gate history", help_texts.HISTORY_USAGE, help_texts.HISTORY, help_texts.HISTORY_EXAMPLES
    )
    arguments.add_argument("file", metavar="FILE", help="the file of --history")
    arguments.add_argument("--save", metavar="FILE", help="also plot the nights to this .png or .svg file")
    return arguments


def create_pack_command_parser() -> argparse.ArgumentParser:
    arguments = _create_parser("pack", help_texts.PACK_USAGE, help_texts.PACK, help_texts.PACK_EXAMPLES)
    add = arguments.add_argument
    add(
        "job",
        metavar="JOB",
        help="a job folder, a job id, or config values of one job, e.g. quantization=none",
    )
    add(
        "-o", "--output", required=True, metavar="FILE", help="output file, whose name must end in .runner.gz"
    )
    add("--texts", action="store_true", help="also pack the texts of answers, which --flips shows")
    add("--output-dir", default="outputs", help="the folder with mlflow.db (default: %(default)s)")
    add("--task", help="only this task")
    return arguments


def _create_parser(name: str, usage: str, about: str, epilog: str) -> argparse.ArgumentParser:
    return CommandParser(
        f"runner-compare {name}",
        usage=usage,
        description=about,
        epilog=epilog,
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=26, width=WIDTH),
        allow_abbrev=False,
    )
