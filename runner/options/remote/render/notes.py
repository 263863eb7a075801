"""Message texts of notes about models on servers, and about failures between draft and
fallback model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from runner_base import format_count
from runner_base.render.notes import Template

if TYPE_CHECKING:
    from runner.options.remote.incidents import Incident


def _describe_retries(requests: int, causes: list[tuple[str, int]]) -> str:
    times = ", ".join(f"{number} × {kind}" for kind, number in causes)
    return f"{format_count(requests, 'request was', 'requests were')} sent again: the server {times}"


def _describe_unhashed_model(address: str, name: str) -> str:
    whoever = address.replace(", ", " or ")
    return (
        f"a remote model cannot be hashed: if {whoever} changes the model behind the name {name}, "
        "this job still counts as done"
    )


NOTES: Mapping[str, Template] = {
    "room_ignored": "ignored from what {address} says of its model: {fault}",
    "unhashed": _describe_unhashed_model,
    "sent_again": _describe_retries,
    "own_key_sent": "the server sent its own key back: it was replaced by *** in {places} places",
    "uncounted_answers": lambda number: (
        f"the server did not count the tokens of {format_count(number, 'answer')}: they count as 0"
    ),
    "budget_ignored": lambda ignored, answers, key: (
        f"the server ignored the budget for thinking in {ignored} of {format_count(answers, 'answer')}: "
        f"see {key}.thinking_budget"
    ),
    "thinking_uncounted": lambda unknown, answers: (
        f"the server did not count the tokens of thinking in {unknown} of {format_count(answers, 'answer')}, "
        "so whether it kept to the budget is unknown"
    ),
    "longer_than_limit": lambda longer, answers: (
        f"{longer} of {format_count(answers, 'answer')} are longer than their limit of new tokens: the server counts "
        "thinking and answer together, and the thinking was shorter than its budget"
    ),
    "not_compared": "{program} was {finding}",
    "would_answer_alone": "the student cannot be loaded, so the teacher would answer alone: {error}",
    "answers_alone": "the student cannot be loaded, so the teacher answers alone ({error})",
    "run_again": "{reason}; once a student can be loaded, rerun=all runs the job again",
}
INCIDENTS = {
    "broke_down": "the student broke down ({error}) and the teacher continued alone",
    "not_asked": "the student could not be asked ({error})",
    "no_text": "the student failed or returned no text",
    "no_json": 'a review was not JSON {{"score", "feedback"}} and counted as below the threshold',
}


def format_incident(incident: Incident, count: int) -> str:
    return f"{INCIDENTS[incident.kind].format(error=incident.error)}: {count} times"
