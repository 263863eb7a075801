from __future__ import annotations

import random

from runner.options.agents.call_costs import CostTally
from runner.options.agents.discussion import AnsweredCall, Discussion, Team
from runner.options.agents.graph import Graph
from runner.options.agents.keys import DecisionMethod, PromptStyle, Topology
from runner.sandbox.sandbox import CodeOutcome, CodeStatus
from runner_base.result import Answer, Call, FinishReason


def played(prompt_tokens: int) -> Discussion:
    """A chain of four with all roles; the program fails."""
    graph = Graph.create_from_topology(Topology.chain, 4, seed=0)
    team = Team.create_team_with_cycled_roles(4, None, PromptStyle.brief, DecisionMethod.final_refer)
    discussion = Discussion(team, "test/0", "How many?", [graph.draw_round_edges(random.Random(0), 0)])
    while turns := discussion.take_ready_calls():
        for turn in turns:
            call = Call(
                Answer("12 + 3 = 15\n#### 15", [1, 2, 3], FinishReason.stop),
                "sha",
                prompt_tokens,
                0.1,
                turn.role_name,
            )
            code = CodeOutcome(None, CodeStatus.code_failed, "why") if turn.writes_code else None
            discussion.add_answer(AnsweredCall(turn, call, code))
    return discussion


def test_costs_by_role_and_by_edge() -> None:
    tally = CostTally()
    for _ in range(2):
        tally.add_discussion(played(100))
    metrics = tally.compute_metrics(2)
    assert metrics == {
        "calls": 10,
        "code_failed": 2,
        "prompt_tokens": 1000,
        "new_tokens": 30,
        "prompt_tokens_per_question": 500,
        "new_tokens_per_question": 15,
    }
    rows = tally.build_token_cost_rows()
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
    facts = tally.build_token_count_facts()
    assert facts["tokens_by_role"].startswith("Math Solver 200 + 6 · Mathematical Analyst 200 + 6 · ")
    assert facts["prompt_tokens_by_edge"].count(" → ") == 7
