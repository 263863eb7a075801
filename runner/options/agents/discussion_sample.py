"""Converts a finished discussion to the sample record of its question."""

from __future__ import annotations

import math

from runner.datasets.items import Item
from runner.options.agents.discussion import AnsweredCall, Discussion
from runner.options.agents.keys import DecisionMethod
from runner_base import Answer, FinishReason, Sample, Verdict
from runner_engine import prompt_sha256


def make_sample(index: int, item: Item, discussion: Discussion) -> Sample:
    """Return a question's sample record, with token counts summed over all agent calls."""
    # in whatever order they came
    every = sorted(discussion.answered.values(), key=lambda answered: answered.turn.id)
    costs = [answered.call.cost_usd for answered in every if answered.call.cost_usd is not None]
    reason, answer = get_team_finish_reason(discussion), discussion.answer
    verdict = Verdict.correct if answer == item.gold else Verdict.wrong
    if answer is None:
        verdict = Verdict.no_answer if reason is FinishReason.stop else Verdict.cut_off
    votes = ", ".join(vote or "no answer" for vote in discussion.votes)
    has_voted = discussion.team.decision is DecisionMethod.majority_vote and not discussion.failed
    return Sample(
        Answer(
            f"The agents' answers: {votes}." if has_voted else discussion.text,
            token_ids=[],
            finish_reason=reason,
            new_tokens=sum(answered.call.answer.num_tokens for answered in every),
            extracted={"team": answer},
            verdict=verdict,
        ),
        index=index,
        prompt_sha256=prompt_sha256(item.question),
        prompt_tokens=sum(answered.call.prompt_tokens for answered in every),
        seconds=round(math.fsum(answered.call.seconds for answered in every), 6),
        error=describe_failure(discussion) if discussion.failed else None,
        permanent=discussion.failed is not None and discussion.failed.call.permanent,
        question=item.question,
        gold=item.gold,
        cluster=item.cluster,
        cost_usd=sum(costs) if costs else None,
        left_out=item.left_out,
    )


def get_team_finish_reason(discussion: Discussion) -> FinishReason:
    """Return the finish reason of a team's answer.

    Without an answer, the reason is truncation if any agent's reply was truncated.
    """
    if discussion.failed or discussion.team.decision is not DecisionMethod.majority_vote:
        return _get_agent_call_finish_reason(discussion.final_agent_call)
    reasons = {_get_agent_call_finish_reason(answered) for answered in discussion.answered.values()}
    return (
        FinishReason.length
        if discussion.answer is None and any(reason.is_cut_off for reason in reasons)
        else FinishReason.stop
    )


def _get_agent_call_finish_reason(answered_call: AnsweredCall) -> FinishReason:
    answer = answered_call.call.answer
    is_cut_off = answer.finish_reason is FinishReason.stop and answer.parts.is_open
    return FinishReason.length if is_cut_off else answer.finish_reason


def describe_failure(discussion: Discussion) -> str:
    assert discussion.failed is not None
    return f"{discussion.failed.turn.role_name}, call {discussion.failed.turn.id}: {discussion.failed.call.error}"
