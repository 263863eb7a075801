"""What a command says where it goes on with an earlier start's work, and where it is interrupted."""

from __future__ import annotations

from runner_base import counted

STOPPING = "stopping when the current step is done; a second Ctrl-C stops at once"
HOW_TO_RESUME = "run the same command to resume"


def resuming(recorded: float, total: int, begun: int) -> str:
    """Return what an interrupted start of a job has left; empty if it has left nothing."""
    parts = [f"{int(recorded):,} of {total:,} recorded"] if recorded else []
    parts += [f"{counted(begun, 'answer')} begun earlier"] if begun else []
    return f"resuming: {', '.join(parts)}" if parts else ""
