"""Worker process of a grid: runs one job after another and keeps the loaded model in memory.

`runner/grid/workers.py` starts the worker and sends it jobs: the config, its YAML, and whether
to wait for another process that runs the same job. The worker sends back progress and outcome
of each job. It never outlives its parent. A crash, a kill or a hang ends one job, not the grid.
"""

from __future__ import annotations

import gc
import logging
import sys
from multiprocessing.connection import Connection

from runner.config.root import RunnerConfig
from runner.grid.forking import FORKS, freeze_imported_libraries, run_in_fork
from runner.grid.outcomes import JobOutcome, run_grid_job
from runner_base import INTERRUPTED, ProgressState, Status, child_process, process_role, progress, signals
from runner_base.console import StderrFilter, install_fault_tolerant_streams
from runner_base.loggers import enable_info_logging
from runner_engine import BaseModelCache
from runner_engine.devices import gpu


def main() -> None:
    """Run the jobs that the parent process sends, until it sends None or closes the connection."""
    descriptor, parent, forks = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == FORKS
    child_process.request_kill_when_parent_dies(parent)
    process_role.mark_as_command()
    install_fault_tolerant_streams()
    # the terminal's Ctrl-C reaches the parent only, which sends SIGTERM when a job is to stop
    signals.install_signal_handlers(override_ignored=True)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for handler in logging.getLogger().handlers:
        handler.addFilter(StderrFilter())
    enable_info_logging()
    bases = BaseModelCache()
    with Connection(descriptor) as connection:
        try:
            while (assignment := connection.recv()) is not None:
                if isinstance(assignment, RunnerConfig):  # the first job comes later
                    freeze_imported_libraries(assignment)
                elif not forks:
                    run_job_and_send_outcome(connection, bases, *assignment)
                elif run_in_fork(
                    assignment[0], lambda: run_job_and_send_outcome(connection, BaseModelCache(), *assignment)
                ):
                    return  # this is the copy, and its job has ended
        except (EOFError, OSError, KeyboardInterrupt):
            return  # the parent is gone, or wants this worker to stop
        finally:
            bases.clear()


def run_job_and_send_outcome(
    connection: Connection,
    base_models: BaseModelCache,
    config: RunnerConfig,
    config_yaml: str,
    wait_for_job_lock: bool,
) -> None:
    """Run one job and send its outcome to the parent. Ctrl-C records the job as KILLED and ends the
    worker.
    """

    def send_progress(state: ProgressState) -> None:
        try:
            connection.send(state)
        except OSError:  # the parent is gone: that is no failure of the job
            raise KeyboardInterrupt from None

    progress.set_progress_sink(send_progress)
    try:
        if not gc.get_freeze_count():  # the first job of this process
            freeze_imported_libraries(config)
        outcome = run_grid_job(config, config_yaml, base_models, wait_for_job_lock)
    except KeyboardInterrupt as stop:
        connection.send(
            JobOutcome(
                Status.KILLED, message=signals.format_interruption_message(stop), exit_code=INTERRUPTED
            )
        )
        raise
    finally:
        progress.set_progress_sink(None)
    outcome.lost_gpu = outcome.lost_gpu or gpu.get_gpu_failure_message()  # the grid then ends this worker
    connection.send(outcome)
