"""task.rotate: measures a model's position bias from questions with rotated choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from runner.scorers import LETTERS
from runner.tasks import Item
from runner.tasks.gsm8k.judging import JudgedSample
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner.tasks.gsm8k.reliability import CheckOutcome
from runner_base.notes import note
from runner_compare import ENDS
from runner_compare.statistics import ALPHA

if TYPE_CHECKING:  # imports numpy
    from runner_compare.statistics import QuestionInOrders

TITLE = "choices by position"


def compute_position_bias_report(
    judged_samples: Sequence[JudgedSample], items: Mapping[int, Item], task: Gsm8kConfig
) -> tuple[CheckOutcome, list[dict[str, float | str]]]:
    """Return metrics, notes and a table on position bias.

    Questions with an unanswered order are omitted.
    """
    by_question: dict[int, list[JudgedSample]] = {}
    for judgement in judged_samples:
        by_question.setdefault(judgement.sample.index // task.rotate, []).append(judgement)
    whole = [
        some
        for some in by_question.values()
        if len(some) == _count_choice_orders(some, items, task)
        and not any(judgement.sample.failed for judgement in some)
    ]
    if not whole:
        return CheckOutcome(), []
    asked = [_collect_picks_by_choice_order(some, items, task) for some in whole]
    from runner_compare.statistics import measure_position_bias  # imports numpy, which a plan does not need

    bias = measure_position_bias(asked)
    at = bias.most_preferred
    most = bias.positions[at]
    ends = (most.share - most.expected, most.low - most.expected, most.high - most.expected)
    same = [_distinct_picked_choices(question) for question in asked]
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


def _count_choice_orders(
    judged_samples: Sequence[JudgedSample], items: Mapping[int, Item], task: Gsm8kConfig
) -> int:
    return min(task.rotate, len(items[judged_samples[0].sample.index].choices))


def _collect_picks_by_choice_order(
    judged_samples: Sequence[JudgedSample], items: Mapping[int, Item], task: Gsm8kConfig
) -> QuestionInOrders:
    asked_items = [items[judgement.sample.index] for judgement in judged_samples]
    choices = len(asked_items[0].choices)
    letters = [judgement.votes[task.judged_by].answer for judgement in judged_samples]
    picks = [
        LETTERS.index(letter) if letter is not None and letter in LETTERS[:choices] else None
        for letter in letters
    ]
    from runner_compare.statistics import QuestionInOrders

    return QuestionInOrders(choices, tuple(item.shift for item in asked_items), tuple(picks))


def _distinct_picked_choices(question: QuestionInOrders) -> set[int | None]:
    pairs = zip(question.picks, question.shifts, strict=True)
    return {None if pick is None else (pick - shift) % question.choices for pick, shift in pairs}
