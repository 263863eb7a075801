"""Messages of a command about starting, waiting, resuming and interrupting."""

from __future__ import annotations

from runner_base import format_count

STOPPING = "stopping after the current step; press Ctrl-C again to stop at once"
HOW_TO_RESUME = "run the same command to resume"
# steps of a command, printed if they take long
FINDING_KNOWN_JOBS = "looking for jobs that other hosts have finished"
FETCHING_KNOWN_JOBS = "fetching results of other hosts"
READING_GRID_RUNS = "reading the grid's runs in MLflow"
STARTING_GRID_RUN = "starting the grid's run in MLflow"
ENDING_GRID_RUN = "ending the grid's run in MLflow"


def held_elsewhere_message(job_id: str) -> str:
    return f"another process is running {job_id}"


def waiting_message(job_id: str) -> str:
    return f"waiting for the process that runs {job_id}"


def format_resuming_message(num_recorded: float, total: int, num_unfinished: int) -> str:
    parts = [f"{int(num_recorded):,} of {total:,} recorded"] if num_recorded else []
    parts += [f"{format_count(num_unfinished, 'answer')} begun"] if num_unfinished else []
    return f"resuming: {', '.join(parts)}" if parts else ""


DECIDING_GATE = "deciding which candidates may be released"
