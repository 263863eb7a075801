"""task.rotate: asks each multiple-choice question in several orders of its choices, which form one
cluster.

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
    """Return each question in `num_orders` orders of its choices, or in fewer if it has fewer choices."""
    if num_orders == 1:
        return items
    without = next((item for item in items if not item.choices), None)
    if without is not None:
        fix = "give task.choices_key" if without.gold in LETTERS else "leave it out"
        raise ConfigError(
            f"question {without.number} has no list of choices to rotate. {fix}",
            key="task.rotate",
            value=num_orders,
            code="unsupported",
        )
    return [
        _rotate_question_choices(item, shift, item.number * num_orders + number)
        for item in items
        for number, shift in enumerate(evenly_spaced_shifts(len(item.choices), num_orders))
    ]


def evenly_spaced_shifts(num_choices: int, num_orders: int) -> list[int]:
    """Return the rotation of the choices in each order, as evenly spaced numbers of positions."""
    num_orders = min(num_orders, num_choices)
    return [number * num_choices // num_orders for number in range(num_orders)]


def same_letter_notes(items: list[Item], num_orders: int) -> list[Note]:
    """Return a warning if the same letter is always right, because a letter preference would look like
    knowledge.
    """
    letters = Counter(item.gold for item in items if item.choices)
    if num_orders > 1 or len(letters) != 1 or letters.total() < FEW:
        return []
    (letter,) = letters
    return [note("same_letter", "warning", letter=letter, questions=letters.total())]


def _rotate_question_choices(item: Item, shift: int, number: int) -> Item:
    """Return a question with its choices rotated by `shift` positions, so that the last ones come first."""
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
        number=number,
        shift=shift,
    )
