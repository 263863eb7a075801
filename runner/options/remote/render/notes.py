"""Message texts of notes about models on servers, and about failures of draft and fallback model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from runner_base import format_count
from runner_base.render.notes import Template

if TYPE_CHECKING:
    from runner.options.remote.incidents import Incident


def _describe_retries(requests: int, causes: list[tuple[str, int]]) -> str:
    times = ", ".join(f"{number} × {kind}" for kind, number in causes)
    return f"{format_count(requests, 'request was', 'requests were')} repeated: the server {times}"


def _describe_unhashed_model(address: str, name: str) -> str:
    whoever = address.replace(", ", " or ")
    return (
        f"the remote model {name} cannot be hashed: if {whoever} changes the model, "
        "rerun this job with rerun=all"
    )


NOTES: Mapping[str, Template] = {
    "room_ignored": "ignored part of what {address} reports about its model: {fault}",
    "unhashed": _describe_unhashed_model,
    "sent_again": _describe_retries,
    "own_key_sent": "the server returned its own key: *** replaces it in {places} places",
    "uncounted_answers": lambda number: (
        f"the server reported no token count for {format_count(number, 'answer')}: 0 tokens are recorded"
    ),
    "budget_ignored": lambda ignored, answers, key: (
        f"the server ignored the thinking budget in {ignored} of {format_count(answers, 'answer')}. "
        f"Check {key}.thinking_budget"
    ),
    "thinking_uncounted": lambda unknown, answers: (
        f"the server reported no count of thinking tokens in {unknown} of {format_count(answers, 'answer')}, "
        "so nobody knows whether it respected the thinking budget"
    ),
    "longer_than_limit": lambda longer, answers: (
        f"{longer} of {format_count(answers, 'answer')} exceed their limit of new tokens: the server applies "
        "one limit to thinking and answer together, and the thinking was short"
    ),
    "not_compared": "{program} was {finding}",
    "would_answer_alone": "the student cannot be loaded, so only the teacher would answer: {error}",
    "answers_alone": "the student cannot be loaded, so only the teacher answers ({error})",
    "run_again": "{reason}. To repeat the job with a student, fix this and use rerun=all",
}
INCIDENTS = {
    "broke_down": "the student failed ({error}) and only the teacher continued",
    "not_asked": "the request to the student failed ({error})",
    "no_text": "the student failed or returned no text",
    "no_json": 'a review was not valid JSON {{"score", "feedback"}}, so its score counts as below the threshold',
}


def format_incident(incident: Incident, count: int) -> str:
    return f"{INCIDENTS[incident.kind].format(error=incident.error)}: {count} times"
