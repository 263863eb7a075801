"""Decides at the end of a grid which candidates may be released (`gate.baseline`).

Early stopping uses the same baseline and margin: a candidate stops when its verdict is decided. The
verdicts are those of `runner-compare gate`.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from runner.config.root import PrintMode, RunnerConfig
from runner.grid.grid_output import build_job_labels
from runner.grid.outcomes import JobOutcome
from runner.grid.plan import PlannedJob, plan_job
from runner.render import progress_messages
from runner.tasks import named_job
from runner.tracking.stores import create_store_from_config
from runner_base import (
    ConfigError,
    JobFailed,
    Record,
    Status,
    escape_control_characters,
    print_message,
    report_step,
)
from runner_compare import JOB_ID

KEY = "gate.baseline"
BASELINE_GROUPS = (*named_job.MODEL_GROUPS, "generation")  # the baseline may differ in these


def check_gate_settings(plan: Sequence[PlannedJob]) -> None:
    """Raise ConfigError if the gate cannot decide, before any job runs."""
    configs = [planned.config for planned in plan if planned.config is not None]
    if len({repr(config.gate) for config in configs}) > 1:
        raise ConfigError("must be the same for all jobs of the grid", key="gate", code="conflict")
    if not configs or configs[0].gate.baseline is None:
        return
    baseline = configs[0].gate.baseline
    baseline_ids = _find_baseline_ids(plan)
    planned_ids = {planned.job_id or " ".join(planned.overrides) for planned in plan}
    if planned_ids <= baseline_ids:
        raise ConfigError("every job is the baseline. Add a candidate", key=KEY, value=baseline, code="empty")
    for job_id in sorted(baseline_ids - planned_ids - {planned.after for planned in plan}):
        if named_job.find_job_by_id(configs[0], job_id).read_finished_record() is None:
            raise ConfigError(
                f"job {job_id} is not complete. Add it to the grid, or run it first",
                key=KEY,
                value=baseline,
                code="not_found",
            )


@contextmanager
def exit_with_gate_verdict_afterwards(
    plan: Sequence[PlannedJob], outcomes: Mapping[int, JobOutcome]
) -> Iterator[None]:
    """After this block reports the grid's results, run the gate and exit with its code.

    A failed job is no error then, but a candidate with the verdict NO-GO. Without gate.baseline, do nothing.
    """
    if _first_config(plan).gate.baseline is None:
        yield
        return
    try:
        yield
    except JobFailed as failure:
        print_message(f"error: {failure}")
    raise SystemExit(run_gate(plan, outcomes))


def prepare_release_gate_for_job(overrides: list[str], config: RunnerConfig) -> Callable[[Record], int]:
    """Check the gate of a single job. The returned function runs the gate and returns the exit code."""
    plan = [plan_job(overrides, config)]
    check_gate_settings(plan)
    return lambda record: run_gate(plan, {0: JobOutcome(record.status, record, record.error or "")})


def run_gate(plan: Sequence[PlannedJob], outcomes: Mapping[int, JobOutcome]) -> int:
    """Compare the finished jobs with the baseline, log and print the verdicts, and return the exit code."""
    from runner_compare import gate  # a plan needs none of it

    config = _first_config(plan)
    reference, store = config.gate.baseline, create_store_from_config(config)
    assert reference is not None
    finished, failed = _list_finished_and_failed_jobs(plan, outcomes)
    unfinished_ids = {planned.job_id for planned in plan} - finished
    baseline_ids = _find_baseline_ids(plan)
    if baseline_ids <= unfinished_ids:
        raise ConfigError(
            "the baseline did not finish. See errors above", key=KEY, value=reference, code="not_found"
        )
    # one job, or values that select a baseline for each candidate
    named = [f"{JOB_ID}={job_id}" for job_id in baseline_ids]
    with report_step(progress_messages.DECIDING_GATE):
        result = gate(
            named[0] if len(named) == 1 else ",".join(shlex.split(reference)),
            runs=sorted(finished | (baseline_ids - unfinished_ids)),
            failed=failed,
            margin=() if config.gate.policy is not None else config.gate.margin or (),
            policy=config.gate.policy,
            each=config.gate.each,
            output_dir=config.output_dir,
            tracking_uri=store.uri if store is not None else None,
            experiment=store.experiment if store is not None else None,
            log=store is not None,
        )
    result = replace(result, report=replace(result.report, baseline=reference))
    if config.print is PrintMode.json:
        print(json.dumps(result.to_dict(), ensure_ascii=False))
    elif config.print.is_table:
        print(escape_control_characters(str(result)))
    return result.exit_code


def _list_finished_and_failed_jobs(
    plan: Sequence[PlannedJob], outcomes: Mapping[int, JobOutcome]
) -> tuple[set[str], dict[str, str]]:
    """Return the ids of finished jobs, and the other jobs' labels with the reasons."""
    finished: set[str] = set()
    failed: dict[str, str] = {}
    for number, (planned, label) in enumerate(zip(plan, build_job_labels([*plan]), strict=True)):
        outcome = outcomes.get(number)
        record = outcome.record if outcome is not None else planned.record
        if planned.same_as is not None:
            continue
        if record is not None and record.status is Status.FINISHED:
            finished.add(record.job_id)
        else:
            failed[label] = outcome.message if outcome is not None else planned.problem
    return finished, failed


def _find_baseline_ids(plan: Sequence[PlannedJob]) -> set[str]:
    """Return the id of each job's baseline. Jobs that differ in a seed, for example, have several baselines."""
    ids = {_find_baseline_id(planned, planned.config) for planned in plan if planned.config is not None}
    return ids - {""}


def _find_baseline_id(planned: PlannedJob, config: RunnerConfig) -> str:
    """Return the id of the job's baseline, or an empty text if that job cannot run."""
    reference = config.gate.baseline
    assert reference is not None
    if named_job.is_job_id(reference, config.task):
        return reference
    baseline = named_job.apply_overrides_from_text(config, KEY, reference, BASELINE_GROUPS)
    return planned.job_id if baseline == config else plan_job([], baseline).job_id


def _first_config(plan: Sequence[PlannedJob]) -> RunnerConfig:
    return next(planned.config for planned in plan if planned.config is not None)
