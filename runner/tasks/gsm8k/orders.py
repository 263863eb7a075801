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
from runner_compare import ENDS, points
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
    for it in judged:
        by_question.setdefault(it.sample.index // task.rotate, []).append(it)
    whole = [
        some
        for some in by_question.values()
        if len(some) == _orders(some, items, task) and not any(it.sample.failed for it in some)
    ]
    if not whole:
        return CheckOutcome(), []
    asked = [_asked(some, items, task) for some in whole]
    from runner_compare.statistics import position_bias  # imports numpy, which a plan does not need

    bias = position_bias(asked)
    at = bias.most_preferred
    most = bias.positions[at]
    ends = (most.share - most.expected, most.low - most.expected, most.high - most.expected)
    same = [_chosen_texts(one) for one in asked]
    metrics = {
        "questions_in_all_orders": len(whole),
        **{
            f"position_bias_points{end}": 100 * value for end, value in zip(ENDS, ends, strict=True)
        },
        "position_bias_p": bias.p,
        "same_in_all_orders_share": sum(len(texts) == 1 and None not in texts for texts in same)
        / len(whole),
        "right_in_all_orders_share": sum(all(it.sample.solved for it in some) for some in whole)
        / len(whole),
    }
    rows: list[dict[str, float | str]] = [
        {
            "choice": LETTERS[number],
            "chosen %": 100 * one.share,
            "low %": 100 * one.low,
            "high %": 100 * one.high,
            "without bias %": 100 * one.expected,
        }
        for number, one in enumerate(bias.positions)
    ]
    notes = []
    if bias.p < ALPHA:
        notes.append(
            f"position bias (p = {bias.p:.2g}): {LETTERS[at]} is chosen in {most.share:.1%} of the answers, and would "
            f"be in {most.expected:.1%} without ({points(ends[0])} points, 95 % {points(ends[1])} to {points(ends[2])})"
        )
    return CheckOutcome(metrics, notes), rows


def _orders(some: Sequence[Judged], items: Mapping[int, Item], task: Gsm8kConfig) -> int:
    return min(task.rotate, len(items[some[0].sample.index].choices))


def _asked(some: Sequence[Judged], items: Mapping[int, Item], task: Gsm8kConfig) -> AskedInOrders:
    its_items = [items[it.sample.index] for it in some]
    choices = len(its_items[0].choices)
    letters = [it.votes[task.judged_by].answer for it in some]
    picks = [
        LETTERS.index(letter) if letter is not None and letter in LETTERS[:choices] else None
        for letter in letters
    ]
    from runner_compare.statistics import AskedInOrders

    return AskedInOrders(choices, tuple(item.shift for item in its_items), tuple(picks))


def _chosen_texts(one: AskedInOrders) -> set[int | None]:
    pairs = zip(one.picks, one.shifts, strict=True)
    return {None if pick is None else (pick - shift) % one.choices for pick, shift in pairs}
