"""Runs one job of a grid, and determines its outcome and its objective for a search."""

from __future__ import annotations

from dataclasses import dataclass

from runner.config.root import RunnerConfig
from runner.run import run
from runner.tracking.sink import NotLogged
from runner_base import ConfigError, JobAlreadyRunning, JobFailed, Record, RunnerError, Status, signals
from runner_base.errors import get_fatal_gpu_error_message
from runner_compare import LOG_LIKELIHOOD
from runner_engine import BaseModelCache


@dataclass
class JobOutcome:
    """Outcome of a job. The object can be pickled, because it is sent between processes."""

    status: Status
    record: Record | None = None
    message: str = ""
    exit_code: int = 0
    is_held_elsewhere: bool = False  # another process is doing the job
    lost_gpu: str = ""  # the error after which its process can use the GPU no more
    note: str = ""  # what else happened on the way


def run_grid_job(
    config: RunnerConfig,
    config_yaml: str = "",
    base_models: BaseModelCache | None = None,
    should_wait: bool = True,
) -> JobOutcome:
    """Run one job of a grid. An error ends only this job, not the grid."""
    try:
        record = run(config, config_yaml, base_models, should_wait)
        return JobOutcome(record.status, record, record.error or "", exit_code=1 if record.error else 0)
    except SystemExit as error:  # it would end the process with all of its jobs
        return JobOutcome(Status.FAILED, message=f"the job called sys.exit({error.code!r})", exit_code=1)
    except Exception as error:  # noqa: BLE001  # no error of one job may end the grid
        if signals.has_unhandled_interrupt():
            raise signals.Interrupted from None
        return make_outcome_from_error(error)


def make_outcome_from_error(error: Exception) -> JobOutcome:
    """Return the outcome of a job that raised an error.

    A job whose results could only not be logged counts as finished.
    """
    if isinstance(error, NotLogged):
        return JobOutcome(Status.FINISHED, error.record, str(error))
    if isinstance(error, RunnerError):
        return JobOutcome(
            Status.FAILED,
            None,
            str(error),
            error.exit_code,
            is_held_elsewhere=isinstance(error, JobAlreadyRunning),
        )
    message = f"{type(error).__name__}: {error}"
    return JobOutcome(
        Status.FAILED, message=message, exit_code=1, lost_gpu=get_fatal_gpu_error_message(error)
    )


def extract_objective(record: Record) -> tuple[str, float]:
    """Return the name and value of the metric that a search maximizes. Raises JobFailed for a
    failed job.

    The metric is accuracy, likelihood or decode speed.
    """
    if record.status is not Status.FINISHED:
        raise JobFailed(record.error or record.status.value, code="failed")
    for name in (
        "accuracy",
        LOG_LIKELIHOOD,
        "best_decode_tok_per_s",
        "best_output_tok_per_s",
        "decode_tok_per_s",
    ):
        if name in record.result.metrics:
            return name, record.result.metrics[name]
    raise ConfigError(
        (
            "this task has no metric that a search could optimize. Use task=gsm8k, "
            "task=likelihood or task=sweep"
        ),
        code="unsupported",
    )
