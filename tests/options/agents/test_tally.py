from __future__ import annotations

import random
from dataclasses import replace

import pytest

from runner.datasets.items import Item
from runner.options.agents.attack import Tampering
from runner.options.agents.graph import Graph
from runner.options.agents.keys import Attack, DecisionMethod, Domain, Mode, Role
from runner.options.agents.sandbox import CodeOutcome, CodeStatus
from runner.options.agents.tally import AttackTally, Tally, attacked_edges
from runner.options.agents.team import Answered, Discussion, Team
from runner_base.result import Answer, Call, FinishReason


def played(prompt_tokens: int) -> Discussion:
    """A chain of four with all roles; the program fails."""
    graph = Graph.of(Mode.chain, 4, seed=0)
    team = Team.of(4, None, Domain.brief, DecisionMethod.final_refer)
    discussion = Discussion(team, "test/0", "How many?", [graph.draw(random.Random(0), 0)])
    while turns := discussion.ready():
        for turn in turns:
            call = Call(
                Answer("12 + 3 = 15\n#### 15", [1, 2, 3], FinishReason.stop),
                "sha",
                prompt_tokens,
                0.1,
                turn.who,
            )
            code = CodeOutcome(None, CodeStatus.code_failed, "why") if turn.writes_code else None
            discussion.take(Answered(turn, call, code))
    return discussion


def test_costs_by_role_and_by_edge() -> None:
    tally = Tally()
    for _ in range(2):
        tally.add(played(100))
    metrics = tally.metrics(2)
    assert metrics == {
        "calls": 10,
        "code_failed": 2,
        "prompt_tokens": 1000,
        "new_tokens": 30,
        "prompt_tokens_per_question": 500,
        "new_tokens_per_question": 15,
    }
    rows = tally.rows()
    assert [row["tokens of"] for row in rows] == [
        "Math Solver",
        "Mathematical Analyst",
        "Programming Expert",
        "Inspector",
        "decision",
        "edge 1 → 2",
        "edge 2 → 3",
        "edge 3 → 4",
        "edge 1 → decision",
        "edge 2 → decision",
        "edge 3 → decision",
        "edge 4 → decision",
    ]
    assert [row["programs failed"] for row in rows[:5]] == [None, None, 2, None, None]
    to_decision = [row["prompt tokens"] for row in rows[8:]]
    assert all(tokens > 0 for tokens in to_decision)
    assert sum(to_decision) < 200, (
        "they have brought a part of the decision's prompts, the question is the rest"
    )
    assert to_decision[2] > to_decision[0], "what the program came to is a text, too"
    facts = tally.facts()
    assert facts["tokens_by_role"].startswith("Math Solver 200 + 6 · Mathematical Analyst 200 + 6 · ")
    assert facts["prompt_tokens_by_edge"].count(" → ") == 7


ITEM = Item("How many?", "#### 7", "7")


def ended(*numbers: int, decided: int, fails: bool = False) -> Discussion:
    """A debate of as many agents, which say these numbers, and a decision."""
    graph = Graph.of(Mode.debate, len(numbers), seed=0)
    team = Team.of(len(numbers), [Role.inspector], Domain.brief, DecisionMethod.final_refer)
    attack = Tampering.of(Attack.liar, 0, "0", "7")
    one = Discussion(team, "test/0", ITEM.question, [graph.draw(random.Random(0), 0)], attack)
    while turns := one.ready():
        for turn in turns:
            number = decided if turn.agent is None else numbers[turn.agent]
            reason = FinishReason.error if fails and turn.agent == 1 else FinishReason.stop
            one.take(
                Answered(
                    turn,
                    Call(Answer(f"#### {number}", [1, 2], reason), "sha", 10, 0.1, turn.who, error="boom"),
                )
            )
    return one


def test_what_came_of_it_is_counted() -> None:
    tally = AttackTally(Attack.liar, 0)
    for discussion in (
        ended(9, 7, 7, decided=9),  # followed
        ended(9, 7, 7, decided=7),  # not followed
        # followed by another agent, too: of 9 and 7 the earlier one counts
        ended(9, 9, 7, decided=9),
        ended(7, 8, 8, decided=7),  # it says the truth: no lie, whatever it was told
        ended(9, 7, 7, decided=9, fails=True),
    ):
        tally.add(discussion, ITEM)
    metrics = tally.metrics()
    assert (metrics["told_lies"], metrics["followed_attack"]) == (3, 2)
    assert (metrics["honest_correct"], metrics["honest_accuracy"]) == (2, 2 / 5)
    assert (metrics["attacked_prompt_tokens"], metrics["attacked_new_tokens"]) == (50, 10)
    tally.add(ended(9, 7, 7, decided=9), replace(ITEM, left_out=True))
    assert tally.metrics()["told_lies"] == 3
    assert tally.metrics()["attacked_new_tokens"] == 12, "it costs tokens all the same"
    assert "told_lies" not in AttackTally(Attack.cut_link, 0).metrics()


@pytest.mark.parametrize(("agent", "rounds", "count"), [(0, 1, 3), (0, 2, 6), (3, 2, 6)])
def test_edges_of_an_agent_are_those_to_others(agent: int, rounds: int, count: int) -> None:
    graph = Graph.of(Mode.full_connected, 4, seed=0)
    assert attacked_edges(graph, agent, rounds) == count, "without its own memory"
    graph.spatial.live[agent, 1] = False
    assert attacked_edges(graph, agent, rounds) == count - 1
    graph.spatial.live[2, agent] = False
    assert attacked_edges(graph, agent, rounds) == count - 1
