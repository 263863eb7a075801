"""A word problem of the embedded data in a text: its story is hidden, and its question asked at the
end."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from runner.datasets.word_problems import DISTINCT, Problem, Split, problem
from runner.tasks.recall.cases import Asked, Case, Form, Recipe, hidden

BEFORE = (
    "A short story is hidden within the following text. Make sure to memorize it. I will ask a question about it "
    "afterwards."
)
INSTRUCTION = "Solve it step by step. End with '#### ' and the number."


def story_problem(recipe: Recipe) -> Iterator[Case]:
    """Draw a problem of the test split for each depth."""
    for depth in recipe.depths:
        for number in recipe.numbers:
            index = recipe.random(depth, number).randrange(DISTINCT)
            yield Case(recipe.kind, number, depth, partial(_asked, recipe, depth, problem(Split.TEST, index)))


def _asked(recipe: Recipe, depth: float, hidden_problem: Problem, size: int) -> Asked:
    """Return the case with so many units of filler."""
    story, question = _parts(hidden_problem.question)
    context = hidden(recipe.filler, size, [(depth, story)])
    return Asked(
        BEFORE, context, f"{question}\n\n{INSTRUCTION}", "Answer:", (hidden_problem.gold,), Form.total
    )


def _parts(question: str) -> tuple[str, str]:
    """Return the story of a problem, and the sentence that asks."""
    story, _, asks = question.rpartition(". ")
    return f"{story}.", asks
