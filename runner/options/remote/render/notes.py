"""Message templates of notes about models on servers, and about failures of draft and fallback models."""

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
    return f"the remote model {name} cannot be hashed. Use rerun=all after the model on {whoever} has changed"


NOTES: Mapping[str, Template] = {
    "room_ignored": (
        "{address} sent an invalid value in its description of the model. The value was ignored: {fault}"
    ),
    "unhashed": _describe_unhashed_model,
    "other_prompt_tokens": "it counts {current} tokens instead of {recorded} for the same prompt",
    "other_logprobs": (
        "log-probabilities of the same prompts differ by {gap:.2g} nats per token, and noise explains at most "
        "{max_gap:.2g}"
    ),
    "prompt_changed": lambda expected, counted: (
        f"the server has {'truncated' if counted < expected else 'changed'} the prompt: it counts {counted} "
        f"prompt tokens instead of {expected}"
    ),
    "prompts_truncated": (
        "the server at {address} may truncate prompts: it counts {tokens:,} tokens for each of {prompts} prompts "
        "of {min_characters:,} to {max_characters:,} characters. Raise the context length of the server"
    ),
    "texts_changed": (
        "the model on {address} may have changed since {job} ran: it answers the same prompts differently. "
        "Use rerun=all to run the job again"
    ),
    "sent_again": _describe_retries,
    "own_key_sent": "the server's answers contained the API key. It was replaced with *** in {places} places",
    "uncounted_answers": lambda number: (
        f"{format_count(number, 'answer')} recorded with 0 tokens, because the server reported no token count"
    ),
    "budget_ignored": lambda ignored, answers, key: (
        f"the server ignored the thinking budget in {ignored} of {format_count(answers, 'answer')}. "
        f"Check {key}.thinking_budget_dialect"
    ),
    "thinking_uncounted": lambda unknown, answers: (
        f"{unknown} of {format_count(answers, 'answer')} may exceed the thinking budget. The server "
        "did not report their thinking tokens"
    ),
    "longer_than_limit": lambda longer, answers: (
        f"{longer} of {format_count(answers, 'answer')} exceed the limit of new tokens. The server has a "
        "single limit for thinking and answer, so an answer can use unspent thinking tokens"
    ),
    "not_compared": "{program} was {finding}",
    "would_answer_alone": "the draft model cannot be loaded, so only the fallback model would answer: {error}",
    "answers_alone": "the draft model cannot be loaded, so only the fallback model answers ({error})",
    "run_again": "{reason}. To repeat the job with the draft model, fix the error and use rerun=all",
}
INCIDENTS = {
    "broke_down": "the draft model failed ({error}), and only the fallback model continued",
    "not_asked": "the request to the draft model failed ({error})",
    "no_text": "the draft model failed or returned no text",
    "no_json": 'a review was not valid JSON with "score" and "feedback", so the draft was treated as insufficient',
}


def format_incident(incident: Incident, count: int) -> str:
    return f"{INCIDENTS[incident.kind].format(error=incident.error)}: {count} times"
