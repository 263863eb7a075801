"""How a job of a grid ended, in a form that crosses processes."""

from __future__ import annotations

from dataclasses import dataclass

from runner.config.root import RunnerConfig
from runner.core.errors import ConfigError, JobHeld, RunnerError
from runner.core.result import Record, Status
from runner.engines.kinds import BaseCache
from runner.run import run
from runner.store.ledger import NotLogged


@dataclass
class Outcome:
    """How a job ended."""

    status: Status
    record: Record | None = None
    message: str = ""
    exit_code: int = 0
    held: bool = False  # another process is doing it


def run_job(config: RunnerConfig, config_yaml: str = "", bases: BaseCache | None = None, wait: bool = True) -> Outcome:
    """Do one job of a grid: an error ends this job and no other."""
    try:
        record = run(config, config_yaml, bases, wait)
        return Outcome(record.status, record, record.error or "", exit_code=1 if record.error else 0)
    except JobHeld as error:
        return Outcome(Status.FAILED, message=str(error), exit_code=error.exit_code, held=True)
    except NotLogged as error:
        return Outcome(Status.FINISHED, error.record, str(error))
    except RunnerError as error:
        return Outcome(Status.FAILED, message=str(error), exit_code=error.exit_code)
    except Exception as error:  # noqa: BLE001  # whatever breaks in one job must not end the grid
        return Outcome(Status.FAILED, message=f"{type(error).__name__}: {error}", exit_code=1)


def objective(record: Record) -> float:
    """Return the one number that a search maximises: accuracy, else the speed of decoding."""
    for name in ("accuracy", "best_decode_tok_per_s", "decode_tok_per_s"):
        if name in record.result.metrics:
            return record.result.metrics[name]
    raise ConfigError("this task has no number to search for: use task=gsm8k or task=sweep")
