"""Messages of a command on starting, waiting, resuming and interrupting."""

from __future__ import annotations

from runner_base import format_count

STOPPING = "stopping when the current step is done; a second Ctrl-C stops at once"
HOW_TO_RESUME = "run the same command to resume"
# what a command does while nothing else is printed
FINDING_KNOWN_JOBS = "looking for jobs that other hosts have done"
FETCHING_KNOWN_JOBS = "fetching what other hosts have done"
READING_GRID_RUNS = "reading the grid's runs in MLflow"
STARTING_GRID_RUN = "starting the grid's run in MLflow"
ENDING_GRID_RUN = "ending the grid's run in MLflow"


def held_elsewhere_message(job_id: str) -> str:
    return f"{job_id} is being done by another process"


def waiting_message(job_id: str) -> str:
    return f"waiting for the process that does {job_id}"


def resuming_message(recorded: float, total: int, begun: int) -> str:
    """Return what an interrupted start of a job has left. Empty if it has left nothing."""
    parts = [f"{int(recorded):,} of {total:,} recorded"] if recorded else []
    parts += [f"{format_count(begun, 'answer')} begun earlier"] if begun else []
    return f"resuming: {', '.join(parts)}" if parts else ""
