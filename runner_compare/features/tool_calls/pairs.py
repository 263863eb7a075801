"""Pairs of answers to questions that offer functions: two rows at each step, one row at two lengths."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from runner_base.tool_outcomes import STEPS, WITHOUT_NEED, ToolOutcome
from runner_compare.model.data import Run, TooFew
from runner_compare.model.mean_pairs import cluster_field, compare_means, has_means, with_functions
from runner_compare.model.outcomes import Answers, Question, QuestionOutcome
from runner_compare.statistics import Compared
from runner_compare.ways.verdicts import at_both_ends, by_verdicts

EVERY_STEP = STEPS | {WITHOUT_NEED: frozenset({ToolOutcome.nothing_called})}
OF_NO_NEED = frozenset({ToolOutcome.nothing_called, ToolOutcome.called_without_need})


def answers_by_step(own: Answers, base: Answers) -> dict[str, tuple[Answers, Answers]]:
    """Return the answers of two rows for each step, solved where they have taken it.

    Only the questions count to which a step belongs.
    """
    without_need = {
        outcome.tools.category
        for side in (own, base)
        for outcome in side.values()
        if outcome.tools is not None and outcome.tools.outcome in OF_NO_NEED
    }
    found: dict[str, tuple[Answers, Answers]] = {}
    for step in EVERY_STEP:
        own_part, base_part = (
            {
                question: at_step(outcome, step)
                for question, outcome in side.items()
                if outcome.tools is not None
                and (outcome.tools.category in without_need) == (step == WITHOUT_NEED)
            }
            for side in (own, base)
        )
        if own_part and base_part:
            found[step] = own_part, base_part
    return found


def at_step(outcome: QuestionOutcome, step: str) -> QuestionOutcome:
    """Return an answer as solved where it has taken a step."""
    assert outcome.tools is not None
    return outcome._replace(solved=outcome.tools.outcome in EVERY_STEP[step], right=(0, 0))


def compare_lengths(run: Run, answers: Answers) -> dict[int, Compared]:
    """Compare each length of a row with its shortest one, on the same questions."""
    by_length: dict[int, dict[Question, QuestionOutcome]] = {}
    for question, outcome in _numbered(answers):
        if outcome.tools is not None:
            by_length.setdefault(outcome.tools.length, {})[question] = outcome
    shortest, *longer = sorted(by_length) or [0]
    compared: dict[int, Compared] = {}
    for length in longer:
        own, base = by_length[length], by_length[shortest]
        shared = [question for question in own if question in base]
        pairs = with_functions(shared, [(own[question], base[question]) for question in shared])
        by_means = partial(compare_means, field=cluster_field(run, run))
        if pairs:
            try:
                compared[length] = at_both_ends(by_means if has_means(pairs) else by_verdicts, pairs)
            except TooFew:
                continue  # families: nothing is said
    return compared


def _numbered(answers: Answers) -> Iterator[tuple[Question, QuestionOutcome]]:
    """Yield answers by question and right calls; the number is that among equal ones of a length."""
    counts: dict[tuple[int, str, str], int] = {}
    for (_, question, gold), outcome in answers.items():
        length = outcome.tools.length if outcome.tools else 0
        number = counts.get((length, question, gold), 0)
        counts[length, question, gold] = number + 1
        yield (number, question, gold), outcome
