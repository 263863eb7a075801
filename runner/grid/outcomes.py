"""Running one job of a grid, how it ended, and the number that a search takes of it."""

from __future__ import annotations

from dataclasses import dataclass

from runner.config.root import RunnerConfig
from runner.run import run
from runner.tracking.sink import NotLogged
from runner_base import ConfigError, JobFailed, JobHeld, Record, RunnerError, Status, signals
from runner_base.errors import lost_gpu
from runner_compare import LOG_LIKELIHOOD
from runner_engine import BaseCache


@dataclass
class Outcome:
    """How a job ended, in a form that can be sent to another process."""

    status: Status
    record: Record | None = None
    message: str = ""
    exit_code: int = 0
    is_held_elsewhere: bool = False  # another process is doing the job
    lost_gpu: str = ""  # the error after which its process can use the GPU no more
    note: str = ""  # what else happened on the way


def run_job(
    config: RunnerConfig, config_yaml: str = "", bases: BaseCache | None = None, wait: bool = True
) -> Outcome:
    """Run one job of a grid; an error ends only this job."""
    try:
        record = run(config, config_yaml, bases, wait)
        return Outcome(record.status, record, record.error or "", exit_code=1 if record.error else 0)
    except SystemExit as error:  # it would end the process with all of its jobs
        return Outcome(Status.FAILED, message=f"the job called sys.exit({error.code!r})", exit_code=1)
    except Exception as error:  # noqa: BLE001  # no error of one job may end the grid
        if signals.is_unanswered():
            raise signals.Interrupted from None
        return outcome_of_error(error)


def outcome_of_error(error: Exception) -> Outcome:
    """Return the outcome of a job that raised an error: it has failed, unless only its store did
    not answer."""
    if isinstance(error, NotLogged):
        return Outcome(Status.FINISHED, error.record, str(error))
    if isinstance(error, RunnerError):
        return Outcome(
            Status.FAILED, None, str(error), error.exit_code, is_held_elsewhere=isinstance(error, JobHeld)
        )
    message = f"{type(error).__name__}: {error}"
    return Outcome(Status.FAILED, message=message, exit_code=1, lost_gpu=lost_gpu(error))


def objective(record: Record) -> tuple[str, float]:
    """Return what a search maximises: accuracy, likelihood or decoding speed; JobFailed if the job
    failed."""
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
        "this task has no number to search for: use task=gsm8k, task=likelihood or task=sweep",
        code="unsupported",
    )
