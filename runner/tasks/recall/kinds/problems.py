"""Recall kind `problem`: hides a word problem's story in a text and asks the problem's question at
the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from runner.datasets.word_problems import DISTINCT, Problem, Split, generate_problem
from runner.tasks.recall.cases import Case, CaseSettings, RenderedCase, ValueForm, insert_needles_into_filler

BEFORE = (
    "A short story is hidden within the following text. Make sure to memorize it. I will ask a question about it "
    "afterwards."
)
INSTRUCTION = "Solve it step by step. End with '#### ' and the number."


def draw_problem_cases(settings: CaseSettings) -> Iterator[Case]:
    """Draw cases with a word problem of the test split at each depth."""
    for depth in settings.depths:
        for number in settings.case_numbers:
            index = settings.create_random(depth, number).randrange(DISTINCT)
            yield Case(
                settings.kind,
                number,
                depth,
                partial(_render_case, settings, depth, generate_problem(Split.TEST, index)),
            )


def _render_case(
    settings: CaseSettings, depth: float, hidden_problem: Problem, num_units: int
) -> RenderedCase:
    story, question = _split_story_and_question(hidden_problem.question)
    context = insert_needles_into_filler(settings.filler, num_units, [(depth, story)])
    return RenderedCase(
        BEFORE, context, f"{question}\n\n{INSTRUCTION}", "Answer:", (hidden_problem.gold,), ValueForm.total
    )


def _split_story_and_question(question: str) -> tuple[str, str]:
    """Split a word problem into its story and its final question."""
    story, _, asks = question.rpartition(". ")
    return f"{story}.", asks
