"""Implements task.rotate, which asks a multiple-choice question several times with rotated choices.

All orders of a question form one cluster.

In the k-th order every choice is moved on by the same number of positions, so that with as many
orders as choices each choice is once at each position: a model that always prefers one letter
then has 1 in 4 right of four choices.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from runner.datasets.items import Item
from runner.datasets.row_layouts import append_choices
from runner.scorers import LETTERS
from runner_base import ConfigError
from runner_base.notes import Note, note

FEW = 8  # questions: fewer can have the same right letter by chance


def rotate_choices(items: list[Item], num_orders: int) -> list[Item]:
    if num_orders == 1:
        return items
    without = next((item for item in items if not item.choices), None)
    if without is not None:
        fix = "Set task.choices_key" if without.gold in LETTERS else "Omit task.rotate"
        raise ConfigError(
            f"question {without.number} has no separate answer choices to rotate. {fix}",
            key="task.rotate",
            value=num_orders,
            code="unsupported",
        )
    return [
        _rotate_question_choices(item, shift, item.number * num_orders + number)
        for item in items
        for number, shift in enumerate(compute_rotation_shifts(len(item.choices), num_orders))
    ]


def compute_rotation_shifts(num_choices: int, num_orders: int) -> list[int]:
    num_orders = min(num_orders, num_choices)
    return [number * num_choices // num_orders for number in range(num_orders)]


def make_constant_gold_letter_notes(items: list[Item], num_orders: int) -> list[Note]:
    """Return a warning if all correct answers have the same letter.

    A model that prefers this letter would get a too high accuracy.
    """
    letters = Counter(item.gold for item in items if item.choices)
    if num_orders > 1 or len(letters) != 1 or letters.total() < FEW:
        return []
    (letter,) = letters
    return [note("same_letter", "warning", letter=letter, questions=letters.total())]


def _rotate_question_choices(item: Item, shift: int, question_number: int) -> Item:
    """Rotate a question's choices by `shift` positions, so that the last choices come first."""
    start = len(item.choices) - shift
    choices = item.choices[start:] + item.choices[:start]
    gold = LETTERS[(LETTERS.index(item.gold) + shift) % len(choices)]
    cluster = item.cluster if item.cluster is not None else f"question {item.position}"
    question = append_choices(item.stem, choices)
    return replace(
        item,
        question=question,
        choices=choices,
        gold=gold,
        answer=f"#### {gold}",
        cluster=cluster,
        number=question_number,
        shift=shift,
    )
