"""Embedded questions with four choices, made of the generated word problems."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

from runner.datasets.word_problems import Problem, Split, generate_problem
from runner.options.multiple_choice.keys import LEVELS
from runner_base import ConfigError, format_unknown_choice_message

NUM_CHOICES = 4
ERRORS = (-20, -10, -3, -2, -1, 1, 2, 3, 10, 20)  # by which the results of wrong choices differ


def generate_multiple_choice_records(split: str, count: int) -> Iterator[dict[str, Any]]:
    """Yield the first questions of a split. The levels alternate."""
    names = [each.value for each in Split]
    if split not in names:
        raise ConfigError(
            format_unknown_choice_message("split of the embedded data", split, names),
            key="task.split",
            value=split,
            code="unknown_choice",
        )
    for index in range(count):
        yield _build_multiple_choice_record(
            generate_problem(Split(split), index), Random(f"{split}/{index}"), 1 + index % 2
        )


def _build_multiple_choice_record(problem: Problem, random: Random, level: int) -> dict[str, Any]:
    gold = int(problem.gold)
    possible = [gold + error for error in ERRORS if gold + error > 0]
    results = [gold, *random.sample(possible, NUM_CHOICES - 1)]
    random.shuffle(results)
    choices = [
        _replace_worked_answer_result(problem, result) if level == 1 else str(result) for result in results
    ]
    return {
        "question": problem.question,
        "choices": choices,
        "answer": results.index(gold),
        "level": LEVELS[level],
    }


def _replace_worked_answer_result(problem: Problem, result: int) -> str:
    """Return the worked answer with another result in its last step."""
    steps = problem.answer.rpartition("\n")[0]
    before, _, last = steps.rpartition("=")
    return f"{before}={result}{last.removeprefix(problem.gold)}"
