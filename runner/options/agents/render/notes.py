"""Message texts of notes about a team of agents."""

from __future__ import annotations

from collections.abc import Mapping

from runner_base import format_count
from runner_base.render.notes import Template

NOTES: Mapping[str, Template] = {
    "not_sandboxed": "programs written by agents are not fully sandboxed: {missing}",
    "programs_failed": "{failed} of {written} programs failed. Most frequent reason ({count}): {why}",
    "programs_failed_without_roles": "{failures}. {advice}",
    "needs_roles": lambda keys: (
        f"The embedded model can play agent roles only with these overrides: {' '.join(keys)}"
    ),
    "calls_on_disk": lambda calls: (
        f"{format_count(calls, 'agent call was', 'agent calls were')} reused from an interrupted run"
    ),
    "calls_asked_again": "{calls} failed agent calls of an earlier run were repeated",
    "scored_left_out": (
        "{questions} questions of task.train_split={split} are also scored, so they were "
        "excluded from training"
    ),
    "questions_repeated": (
        "training used some questions repeatedly, because it needs {needed} and only {questions} exist"
    ),
}
