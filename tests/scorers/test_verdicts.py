"""Verdicts on what models write: outputs that were judged by hand, for every extractor, and for the
scorer of a plug-in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runner.scorers.verdicts import judge_answer
from runner.scorers.votes import count_majority_votes
from runner_base.model_text import Ending, FinishReason
from runner_base.result import Answer, Verdict
from runner_base.thinking import TAGS, Tag, Tags, parse_thinking_spans, split_thinking


def lines_of(name: str) -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in Path(__file__).with_name(name).read_text(encoding="utf-8").splitlines()
    ]


JUDGED, THINKING = lines_of("judged_by_hand.jsonl"), lines_of("thinking_outputs.jsonl")


def written(one: dict[str, Any]) -> Answer:
    reason = FinishReason(one["finish_reason"])
    return Answer(
        one["text"], [], reason, thinking=one.get("thinking"), in_thinking=one.get("in_thinking", False)
    )


def tags_of(one: dict[str, Any]) -> Tags:
    """Return the tags that are known; `is_named`: those that a user has to name."""
    return (Tag(*one["tags"]),) if one.get("is_named") else TAGS


@pytest.mark.parametrize("one", JUDGED, ids=lambda one: one["why"])
def test_outputs_are_judged_as_by_hand(one: dict[str, Any]) -> None:
    verdicts = {
        way: verdict.value for way, verdict in judge_answer(written(one), one["gold"]).verdicts.items()
    }
    assert verdicts == one["expected"], one["text"]


def test_at_least_forty_outputs_were_judged() -> None:
    assert len(JUDGED) >= 40
    assert {verdict for one in JUDGED for verdict in one["expected"].values()} == {it.value for it in Verdict}


@pytest.mark.parametrize("one", THINKING, ids=lambda one: f"{one['kind']}: {one['why']}")
def test_outputs_of_models_that_think_are_read_as_by_hand(one: dict[str, Any]) -> None:
    apart = {"in_thinking": one.get("in_thinking", False), "thinking": one.get("thinking")}
    answer = Answer.from_text(one["text"], [], FinishReason(one["finish_reason"]), tags_of(one), **apart)
    verdicts = {way: verdict.value for way, verdict in judge_answer(answer, one["gold"]).verdicts.items()}
    # the verdict without an extractor
    expected = {key: it for key, it in one["expected"].items() if key != "reader"}
    thinking, ending = answer.parts.thinking.strip(), answer.ending or Ending.no_thinking
    found = {"answer": answer.parts.answer.strip(), "thinking": thinking, "ending": ending.value, **verdicts}
    assert {key: found[key] for key in expected} == expected


def test_two_hundred_outputs_of_models_that_think_were_judged() -> None:
    assert (
        len({(one["text"], one.get("thinking"), one["finish_reason"], one["gold"]) for one in THINKING})
        == 200
    )
    endings = {one["expected"]["ending"] for one in THINKING}
    # a budget is no part of a text
    assert endings == {it.value for it in Ending} - {Ending.budget_spent.value}
    assert {one["expected"]["reader"] for one in THINKING} == {it.value for it in Verdict}


@pytest.mark.parametrize("one", THINKING, ids=lambda one: f"{one['kind']}: {one['why']}")
def test_a_text_is_read_while_it_is_written(one: dict[str, Any]) -> None:
    text, is_begun = one["text"], one.get("in_thinking", False)
    whole = parse_thinking_spans(text, tags_of(one), is_begun).spans
    for end in range(len(text)):
        *before, last = parse_thinking_spans(text[:end], tags_of(one), is_begun, is_complete=False).spans
        assert before == whole[: len(before)]
        assert (last.start, last.is_thinking) == (whole[len(before)].start, whole[len(before)].is_thinking)


@pytest.mark.parametrize("tag", TAGS)
def test_every_pair_of_tags_divides_a_text(tag: Tag) -> None:
    opening, closing, _ = tag
    assert split_thinking(f"{opening}so 3{closing}#### 7").answer == "#### 7"
    assert split_thinking(f"{opening}so 3{closing}#### 7").thinking == "so 3"
    assert split_thinking(f"so 3{closing}#### 7").answer == "#### 7"
    assert split_thinking(f"{opening}so 3").is_open
    assert split_thinking(f"it says '{closing}': 7").answer == f"it says '{closing}': 7"


def test_a_text_without_thinking_is_an_answer_as_it_is() -> None:
    assert split_thinking(" 3 < 4, and [4] is #### 4\n") == split_thinking("").__class__(
        "", " 3 < 4, and [4] is #### 4\n"
    )
    assert split_thinking("hm", in_thinking=True).is_open


def test_an_answer_that_ended_in_its_thinking_has_no_vote() -> None:
    texts = ["<think>#### 9", "<think>#### 9", "<think>#### 9</think>#### 7"]
    vote = count_majority_votes(
        [judge_answer(Answer(text, [], FinishReason.stop), "7") for text in texts], "strict"
    )
    assert (vote.answer, vote.verdict, vote.right, vote.wrong) == ("7", Verdict.correct, (1,), ())
    none = count_majority_votes(
        [judge_answer(Answer(text, [], FinishReason.stop), "9") for text in texts[:2]], "flexible"
    )
    assert (none.answer, none.verdict) == (None, Verdict.cut_off)


LOOP = "so we add the apples and the pears again, and then " * 8


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"It is 17. {LOOP}", Verdict.wrong),  # 17 is the last number
        (LOOP, Verdict.no_answer),
        (f"It is 18. {LOOP}", Verdict.correct),
        ("it is 17, and then we add", Verdict.cut_off),
        (f"<think>{LOOP}", Verdict.no_answer),
        ("<think>we add the apples", Verdict.cut_off),
        ("".join(f"On day {day} she eats three eggs for breakfast. " for day in range(30)), Verdict.cut_off),
    ],
)
def test_an_answer_that_was_cut_off_in_a_loop_is_judged_as_complete(text: str, expected: Verdict) -> None:
    answer = Answer.from_text(text, [1], FinishReason.length)
    assert judge_answer(answer, "18").verdicts["flexible"] is expected
