"""Titles of tables, and the line about the questions of a plan."""

from __future__ import annotations

from runner.options.multiple_choice.questions import ChoiceQuestion
from runner_base import format_count
from runner_base.texts import format_percent

BY_SUBJECT = "accuracy by subject"


def format_question_summary(questions: int, subjects: int, chance: float, metric: str) -> str:
    of_subjects = f" of {format_count(subjects, 'subject')}" if subjects > 1 else ""
    return (
        f"{format_count(questions, 'question')}{of_subjects}. A random choice is right in "
        f"{format_percent(chance)} of them. Decided by {metric}"
    )


def format_scored_continuations(question: ChoiceQuestion) -> str:
    """Return the scored texts of a question, and the prompts before them if these differ."""
    if len({*question.contexts}) == 1:
        return f"scored after it: {' |'.join(question.continuations)}"
    pairs = zip(question.contexts, question.continuations, strict=True)
    return "\n".join(f"scored: …{context[-60:]} →{text}" for context, text in pairs)
