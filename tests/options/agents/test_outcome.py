from __future__ import annotations

import random

from runner.datasets.items import Item
from runner.options.agents.discussion import AnsweredCall, Discussion, Team
from runner.options.agents.discussion_sample import get_team_finish_reason, make_sample
from runner.options.agents.graph import Graph
from runner.options.agents.keys import DecisionMethod, PromptStyle, Role, Topology
from runner_base.result import Answer, Call, FinishReason, Verdict

ITEM = Item("How many?", "#### 7", "7")


def ended(decision: DecisionMethod, *said: tuple[str, FinishReason], backwards: bool = False) -> Discussion:
    """A debate of two, and the decision where there is one, that say this; seconds that do not add
    up evenly."""
    graph = Graph.create_from_topology(Topology.debate, 2, seed=0)
    team = Team.create_team_with_cycled_roles(2, [Role.inspector], PromptStyle.brief, decision)
    discussion, left = (
        Discussion(team, "test/0", ITEM.question, [graph.draw_round_edges(random.Random(0), 0)]),
        list(said),
    )
    while turns := discussion.take_ready_calls():
        answers = []
        for turn in turns:
            text, reason = left.pop(0)
            error = "boom" if reason is FinishReason.error else None
            answer, seconds = Answer(text, [1, 2], reason), 0.1 + len(left) / 3
            call = Call(answer, "sha", 10, seconds, turn.role_name, error=error, cost_usd=0.25)
            answers.append(AnsweredCall(turn, call))
        for answered in reversed(answers) if backwards else answers:
            discussion.add_answer(answered)
    return discussion


STOP, LENGTH, ERROR = FinishReason.stop, FinishReason.length, FinishReason.error


def test_verdicts() -> None:
    vote, last, final = (DecisionMethod.majority_vote, DecisionMethod.direct, DecisionMethod.final_refer)
    for discussion, verdict in (
        (ended(vote, ("7", STOP), ("8", STOP)), Verdict.correct),
        (ended(last, ("7", STOP), ("8", STOP)), Verdict.wrong),
        (ended(last, ("7", STOP), ("none", STOP)), Verdict.no_answer),
        (ended(last, ("7", STOP), ("3 and", LENGTH)), Verdict.cut_off),
        (ended(vote, ("none", STOP), ("3 and", LENGTH)), Verdict.cut_off),
        (ended(vote, ("none", STOP), ("none", STOP)), Verdict.no_answer),
        (ended(vote, ("7", STOP), ("3 and", LENGTH)), Verdict.correct),
        (ended(final, ("1", STOP), ("2", STOP), ("7", STOP)), Verdict.correct),
    ):
        assert make_sample(0, ITEM, discussion).answer.verdict is verdict
    assert get_team_finish_reason(ended(vote, ("7", STOP), ("3 and", LENGTH))) is STOP


def test_a_sample_has_the_sums_of_its_calls_in_whatever_order_they_came() -> None:
    said = ("7", STOP), ("8", STOP), ("so 7", STOP)
    sample = make_sample(3, ITEM, ended(DecisionMethod.final_refer, *said))
    assert (sample.index, sample.prompt_tokens, sample.answer.new_tokens, sample.cost_usd) == (3, 30, 6, 0.75)
    assert (sample.answer.text, sample.answer.extracted, sample.calls) == ("so 7", {"team": "7"}, None)
    assert sample == make_sample(3, ITEM, ended(DecisionMethod.final_refer, *said, backwards=True))


def test_an_error_is_the_questions() -> None:
    sample = make_sample(0, ITEM, ended(DecisionMethod.majority_vote, ("7", STOP), ("", ERROR)))
    assert (sample.failed, sample.answer.extracted) == (True, {"team": None})
    assert sample.error == "Inspector, call test/0/0/1: boom"
