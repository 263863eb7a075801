"""What a question came to: one sample from all calls of its course."""

from __future__ import annotations

import math

from runner.agents.team import Course
from runner.config.agents import DecisionMethod
from runner.core.result import FinishReason, Sample, Verdict
from runner.datasets.gsm8k import Item
from runner.engines.base import prompt_sha256


def sample_of(index: int, item: Item, course: Course) -> Sample:
    """Return what a question came to; its calls stand in calls.jsonl, and here are their sums."""
    every = sorted(course.answered.values(), key=lambda one: one.turn.id)  # in whatever order they came
    costs = [one.cost_usd for one in every if one.cost_usd is not None]
    reason, answer = ended_by(course), course.answer
    verdict = Verdict.correct if answer == item.gold else Verdict.wrong
    if answer is None:
        verdict = Verdict.no_answer if reason is FinishReason.stop else Verdict.cut_off
    votes = ", ".join(vote or "no answer" for vote in course.votes)
    has_voted = course.team.decision is DecisionMethod.majority_vote and not course.failed
    return Sample(
        index=index,
        prompt_sha256=prompt_sha256(item.question),
        prompt_tokens=sum(one.call.prompt_tokens for one in every),
        text=f"The agents' answers: {votes}." if has_voted else course.speaker.call.text,
        token_ids=[],
        finish_reason=reason,
        seconds=round(math.fsum(one.call.seconds for one in every), 6),
        error=why(course) if course.failed else None,
        permanent=course.failed is not None and course.failed.permanent,
        question=item.question,
        gold=item.gold,
        extracted={"team": answer},
        verdict=verdict,
        new_tokens=sum(one.call.tokens for one in every),
        cost_usd=sum(costs) if costs else None,
    )


def ended_by(course: Course) -> FinishReason:
    """Return how the team's answer ended; a vote is cut off where nobody has one, and somebody was cut off."""
    if course.failed or course.team.decision is not DecisionMethod.majority_vote:
        return course.speaker.call.finish_reason
    reasons = {one.call.finish_reason for one in course.answered.values()}
    return FinishReason.length if course.answer is None and FinishReason.length in reasons else FinishReason.stop


def why(course: Course) -> str:
    """Say which call of a course has failed, and why."""
    assert course.failed is not None
    return f"{course.failed.turn.who}, call {course.failed.turn.id}: {course.failed.call.error}"
