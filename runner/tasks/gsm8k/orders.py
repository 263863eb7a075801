"""task.rotate: what answers to the same question in several orders of its choices say about the
model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from runner.scorers import LETTERS
from runner.tasks import Item
from runner.tasks.gsm8k.judging import Judged
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner.tasks.gsm8k.trust import CheckOutcome
from runner_base.notes import note
from runner_compare import ENDS
from runner_compare.statistics import ALPHA

if TYPE_CHECKING:  # imports numpy
    from runner_compare.statistics import AskedInOrders

TITLE = "choices by position"


def report(
    judged: Sequence[Judged], items: Mapping[int, Item], task: Gsm8kConfig
) -> tuple[CheckOutcome, list[dict[str, float | str]]]:
    """Return whether the model prefers a position, how often it chooses the same text, and a table
    by position.

    Questions of which an order has no answer are left out.
    """
    by_question: dict[int, list[Judged]] = {}
    for judgement in judged:
        by_question.setdefault(judgement.sample.index // task.rotate, []).append(judgement)
    whole = [
        some
        for some in by_question.values()
        if len(some) == _orders(some, items, task) and not any(judgement.sample.failed for judgement in some)
    ]
    if not whole:
        return CheckOutcome(), []
    asked = [_asked(some, items, task) for some in whole]
    from runner_compare.statistics import position_bias  # imports numpy, which a plan does not need

    bias = position_bias(asked)
    at = bias.most_preferred
    most = bias.positions[at]
    ends = (most.share - most.expected, most.low - most.expected, most.high - most.expected)
    same = [_chosen_texts(question) for question in asked]
    metrics = {
        "questions_in_all_orders": len(whole),
        **{f"position_bias_points{end}": 100 * value for end, value in zip(ENDS, ends, strict=True)},
        "position_bias_p": bias.p,
        "same_in_all_orders_share": sum(len(texts) == 1 and None not in texts for texts in same) / len(whole),
        "right_in_all_orders_share": sum(all(judgement.sample.solved for judgement in some) for some in whole)
        / len(whole),
    }
    rows: list[dict[str, float | str]] = [
        {
            "choice": LETTERS[number],
            "chosen %": 100 * position.share,
            "low %": 100 * position.low,
            "high %": 100 * position.high,
            "without bias %": 100 * position.expected,
        }
        for number, position in enumerate(bias.positions)
    ]
    notes = []
    if bias.p < ALPHA:
        notes.append(
            note(
                "position_bias",
                "warning",
                p=bias.p,
                letter=LETTERS[at],
                share=most.share,
                expected=most.expected,
                ends=ends,
            )
        )
    return CheckOutcome(metrics, notes), rows


def _orders(some: Sequence[Judged], items: Mapping[int, Item], task: Gsm8kConfig) -> int:
    return min(task.rotate, len(items[some[0].sample.index].choices))


def _asked(some: Sequence[Judged], items: Mapping[int, Item], task: Gsm8kConfig) -> AskedInOrders:
    asked_items = [items[judgement.sample.index] for judgement in some]
    choices = len(asked_items[0].choices)
    letters = [judgement.votes[task.judged_by].answer for judgement in some]
    picks = [
        LETTERS.index(letter) if letter is not None and letter in LETTERS[:choices] else None
        for letter in letters
    ]
    from runner_compare.statistics import AskedInOrders

    return AskedInOrders(choices, tuple(item.shift for item in asked_items), tuple(picks))


def _chosen_texts(question: AskedInOrders) -> set[int | None]:
    pairs = zip(question.picks, question.shifts, strict=True)
    return {None if pick is None else (pick - shift) % question.choices for pick, shift in pairs}
