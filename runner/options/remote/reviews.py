"""Prompts for reviewing and revising a draft answer, and the parser of reviews."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from runner_engine import Message, Prompt

VERSION = 1  # raise it when these prompts change, because answers change with them

REVIEW = """You are a teacher and review a student's answer to a task. Reply with one JSON object and nothing else:
{"score": S, "feedback": "F"}
S is a number from 0 (useless) to 1 (right and complete). F says in at most three sentences what is wrong, and how to
mend it."""
REVISE = "A teacher has reviewed this answer: {feedback}\nAnswer once more, mended. Give the whole answer."
FEEDBACK_CHARACTERS = 2000


@dataclass(frozen=True)
class Review:
    """The fallback model's review of a draft answer. `score` is None if it could not be parsed."""

    score: float | None
    feedback: str


def format_prompt_as_text(prompt: Prompt) -> str:
    """Convert a prompt to plain text. Each turn of a conversation becomes a paragraph."""
    if isinstance(prompt, str):
        return prompt
    turns = [part for part in prompt if isinstance(part, Message)]
    return (
        turns[0].content if len(turns) == 1 else "\n\n".join(f"{turn.role}: {turn.content}" for turn in turns)
    )


def build_review_prompt(prompt: Prompt, answer: str) -> Prompt:
    return Message("system", REVIEW), Message(
        "user", f"Task:\n{format_prompt_as_text(prompt)}\n\nThe student's answer:\n{answer}"
    )


def build_revision_prompt(prompt: Prompt, answer: str, feedback: str) -> Prompt:
    revise = REVISE.format(feedback=feedback)
    if isinstance(prompt, str):
        return f"{prompt}{answer}\n\n{revise}\n\n{prompt}"  # plain text can only be continued
    turns = tuple(part for part in prompt if isinstance(part, Message))
    return (*turns, Message("assistant", answer), Message("user", revise))


def parse_review(review_text: str) -> Review:
    """Parse the first valid JSON object in a review. Without one, the whole text becomes the feedback."""
    decoder, start = json.JSONDecoder(), review_text.find("{")
    for _ in range(20):
        if start < 0:
            break
        try:
            value, _ = decoder.raw_decode(review_text, start)
        except (ValueError, RecursionError):
            value = None
        score = value.get("score") if isinstance(value, dict) else None
        if (
            isinstance(score, int | float)
            and not isinstance(score, bool)
            and math.isfinite(score)
            and 0 <= score <= 1
        ):
            feedback = value.get("feedback")
            return Review(float(score), feedback[:FEEDBACK_CHARACTERS] if isinstance(feedback, str) else "")
        start = review_text.find("{", start + 1)
    return Review(None, review_text.strip()[:FEEDBACK_CHARACTERS])
