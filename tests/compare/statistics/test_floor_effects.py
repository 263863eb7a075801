"""Scores that say little about a model."""

from __future__ import annotations

import pytest

from runner_base.notes import note
from runner_compare.metrics import BOUNDS
from runner_compare.render.answers import format_cut_off_message
from runner_compare.render.columns import OF_SCORED
from runner_compare.statistics.floor_effects import (
    LIMIT,
    all_solved_note,
    create_cut_off_answers_note,
    create_unsolved_or_unreadable_notes,
)


def scored(correct: int, cut_off: int, n: int = 20) -> dict[str, float]:
    return {"correct": correct, "n": n, "cut_off": cut_off}


@pytest.mark.parametrize(
    ("metrics", "params", "words"),
    [
        (scored(0, 20), {LIMIT: "64"}, "20 of 20 cut off at 64 tokens: raise generation.max_new_tokens"),
        (scored(12, 2), {LIMIT: "256"}, "2 of 20 cut off at 256 tokens: raise generation.max_new_tokens"),
        (scored(12, 2), {}, "2 of 20 cut off: raise its limit"),  # another tool's run
        (scored(12, 1), {LIMIT: "256"}, ""),
        (scored(0, 0, n=0), {LIMIT: "256"}, ""),
        # completions without verdicts may be meant to be cut off
        ({"n": 20.0, "cut_off": 20.0}, {LIMIT: "64"}, ""),
    ],
)
def test_what_a_job_says_of_answers_that_were_cut_off(
    metrics: dict[str, float], params: dict[str, str], words: str
) -> None:
    assert format_cut_off_message(metrics, params) == words


def test_other_questions_tell_more_where_all_answers_are_the_same() -> None:
    assert all_solved_note([1.0, 1.0]) == note("all_solved")
    assert all_solved_note([0.0, 0.05]) == all_solved_note([1.0, 0.0]) == all_solved_note([None, 1.0]) is None
    assert create_cut_off_answers_note([scored(9, 0), scored(5, 10)]) == note("mostly_cut_off")
    assert create_cut_off_answers_note([scored(20, 0), scored(20, 0)]) is None


def test_of_several_answers_to_a_question_each_that_was_cut_off_counts() -> None:
    """Three of four are cut off, and the fourth elects itself: no vote is, by the job's own
    count."""
    several = scored(20, 0) | {"answers_each": 4.0, BOUNDS[0]: 0.25, BOUNDS[1]: 1.0}
    assert create_cut_off_answers_note([several, several]) == note("mostly_cut_off")
    assert (
        format_cut_off_message(several, {LIMIT: "64"})
        == f"60 of 80 answers cut off at 64 tokens: raise {LIMIT}"
    )
    # whose record has only the questions of which all answers were cut off
    earlier = {"answers_each": 4.0}
    assert create_cut_off_answers_note([scored(0, 9) | earlier]) is None
    assert create_cut_off_answers_note([scored(0, 10) | earlier]) == note("mostly_cut_off")


def test_the_columns_of_missing_answers_are_never_left_out() -> None:
    assert (OF_SCORED["no_answer"], OF_SCORED["cut_off"]) == (0, 0)


def test_two_jobs_that_are_broken_alike_show_nothing() -> None:
    def job(unread: float, right: float) -> dict[str, float]:
        return {"n": 300, "correct": right, "accuracy": right / 300, "no_answer": unread}

    nobody = create_unsolved_or_unreadable_notes([job(0, 0), job(0, 0)], [0.0, 0.0])
    assert nobody == (note("none_solved"), note("ask_easier"))
    for unread, right, accuracies in ((300, 300), (0, 0), [0.0, 0.0]), ((200, 160), (90, 100), [0.3, 0.33]):
        found = create_unsolved_or_unreadable_notes(list(map(job, unread, right)), accuracies)
        counts = [(count, 300) for count in unread]
        assert found == (note("few_read", unread=counts, is_none=right == (0, 0)), note("read_some"))
    for sides in (
        [job(300, 0), job(0, 250)],  # the candidate alone is broken
        [job(140, 160), job(140, 160)],
        [job(0, 300), job(0, 300)],  # a loss would be seen
        [{"perplexity": 3.0}, {"perplexity": 3.0}],
    ):
        known = [side.get("accuracy") for side in sides]
        assert create_unsolved_or_unreadable_notes(sides, known) is None
