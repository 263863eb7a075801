from __future__ import annotations

import random

import pytest

from runner.options.agents.discussion import AgentCall, AnsweredCall, Discussion, Team, majority_vote
from runner.options.agents.graph import Graph
from runner.options.agents.keys import DecisionMethod, PromptStyle, Role, Topology
from runner.sandbox.sandbox import CodeOutcome, CodeStatus
from runner_base.result import Answer, Call, FinishReason


def answered(
    turn: AgentCall, text: str, reason: FinishReason = FinishReason.stop, code: str | None = None
) -> AnsweredCall:
    call = Call(
        Answer(text, [1, 2], reason),
        "sha",
        100,
        0.1,
        turn.role_name,
        error="boom" if reason == "error" else None,
    )
    outcome = (
        CodeOutcome(code, CodeStatus.ok if code else CodeStatus.code_failed) if turn.writes_code else None
    )
    return AnsweredCall(turn, call, outcome)


def discussion(
    mode: Topology = Topology.full_connected,
    decision: DecisionMethod = DecisionMethod.final_refer,
    rounds: int = 1,
    agents: int = 4,
    roles: list[Role] | None = None,
) -> Discussion:
    graph, rng = Graph.create_from_topology(mode, agents, seed=0), random.Random(0)
    team = Team.create_team_with_cycled_roles(graph.num_agents, roles, PromptStyle.brief, decision)
    return Discussion(
        team, "test/0", "How many?", [graph.draw_round_edges(rng, number) for number in range(rounds)]
    )


def play(one: Discussion, texts: dict[str, str]) -> list[list[str]]:
    """Answer all that is ready, again and again; return which calls were ready together."""
    lots = []
    while turns := one.take_ready_calls():
        lots.append([turn.id.removeprefix("test/0/") for turn in turns])
        for turn in turns:
            one.add_answer(answered(turn, texts.get(lots[-1][0], "#### 7"), code="7"))
    return lots


@pytest.mark.parametrize(
    ("mode", "rounds", "lots"),
    [
        (Topology.full_connected, 1, [["0/0"], ["0/1"], ["0/2"], ["0/3"], ["decision"]]),
        (Topology.debate, 1, [["0/0", "0/1", "0/2", "0/3"], ["decision"]]),
        (Topology.debate, 2, [["0/0", "0/1", "0/2", "0/3"], ["1/0", "1/1", "1/2", "1/3"], ["decision"]]),
        (Topology.direct_answer, 1, [["0/0"], ["decision"]]),
        # the last agent speaks to the first of the next round
        (
            Topology.chain,
            2,
            [["0/0"], ["0/1"], ["0/2"], ["0/3"], ["1/0"], ["1/1"], ["1/2"], ["1/3"], ["decision"]],
        ),
    ],
)
def test_a_call_is_ready_as_soon_as_all_that_it_hears_has_spoken(
    mode: Topology, rounds: int, lots: list[list[str]]
) -> None:
    one = discussion(mode, rounds=rounds)
    assert play(one, {}) == lots
    assert one.has_ended
    assert one.answer == "7"


def test_agents_hear_their_neighbours_and_the_decision_hears_the_last_round() -> None:
    one = discussion(Topology.chain, rounds=2)
    seen: dict[str, AgentCall] = {}
    while turns := one.take_ready_calls():
        for turn in turns:
            seen[turn.id.removeprefix("test/0/")] = turn
            one.add_answer(answered(turn, f"words of {turn.round}/{turn.agent}\n#### 7", code="7"))
    assert "words of 0/0" in seen["0/1"].messages[-1].content
    assert "words" not in seen["0/0"].messages[-1].content
    assert "7" in seen["1/0"].messages[-1].content, "a math solver is told numbers"
    decision = seen["decision"].messages[-1].content
    assert all(f"words of 1/{agent}" in decision for agent in range(4))
    assert "words of 0" not in decision
    assert [(turn.role_name, turn.writes_code) for turn in list(seen.values())[:4]] == [
        ("Math Solver", False),
        ("Mathematical Analyst", False),
        ("Programming Expert", True),
        ("Inspector", False),
    ]
    assert seen["0/1"].messages_sha256 != seen["1/1"].messages_sha256


def test_shares_of_a_prompt() -> None:
    one = discussion(Topology.star, agents=3, roles=[Role.inspector])
    play(one, {"0/0": "a long story " * 9, "0/1": "short"})
    last = one.answered["test/0/0/2"].turn
    shares = {str(link): share for link, share in last.compute_prompt_fraction_by_edge().items()}
    assert list(shares) == ["1 → 3", "2 → 3"]
    assert shares["1 → 3"] > 5 * shares["2 → 3"] > 0
    alone = len(one.answered["test/0/0/0"].turn.messages[-1].content)
    assert sum(shares.values()) < 1 - alone / len(last.messages[-1].content) * 0.2
    assert [str(link) for link in one.answered["test/0/decision"].turn.compute_prompt_fraction_by_edge()] == [
        f"{source} → decision" for source in (1, 2, 3)
    ]
    temporal = AgentCall("x", 0, 1, Role.inspector, PromptStyle.brief, "?", (), last.spatial)
    assert [str(link) for link in temporal.compute_prompt_fraction_by_edge()] == [
        "1 → 1 (previous round)",
        "2 → 1 (previous round)",
    ]


def test_votes() -> None:
    assert majority_vote(["2", "3", None, "3"]) == "3"
    assert majority_vote(["2", "3", None]) == "2", "of equally many the first"
    assert majority_vote([None, None]) is None
    one = discussion(Topology.debate, DecisionMethod.majority_vote)
    had_ended = one.has_ended
    for turn, number in zip(one.take_ready_calls(), (5, 6, 0, 6), strict=True):
        one.add_answer(answered(turn, f"#### {number}"))
    assert one.take_ready_calls() == []
    assert (had_ended, one.has_ended) == (False, True)
    assert (one.votes, one.answer) == (["5", "6", None, "6"], "6"), "a program that failed has no vote"


def test_direct_takes_the_last_agents_number() -> None:
    one = discussion(Topology.debate, DecisionMethod.direct)
    for turn, number in zip(one.take_ready_calls(), (5, 6, 6, 8), strict=True):
        one.add_answer(answered(turn, f"#### {number}", code="6"))
    assert (one.answer, one.final_agent_call.call.answer.text) == ("8", "#### 8")


def test_a_failed_call_is_the_questions_end_and_no_answer() -> None:
    one = discussion(Topology.debate, DecisionMethod.majority_vote)
    turns = one.take_ready_calls()
    one.add_answer(answered(turns[0], "#### 3"))
    one.add_answer(answered(turns[1], "", FinishReason.error))
    one.add_answer(answered(turns[3], "#### 3"))  # it was on its way
    assert one.has_ended
    assert one.take_ready_calls() == []
    assert (one.answer, one.failed and one.failed.turn.id) == (None, "test/0/0/1")


def test_a_failed_program_has_no_number_and_its_text_is_seen() -> None:
    one = discussion(
        Topology.chain, DecisionMethod.direct, agents=2, roles=[Role.programming_expert, Role.inspector]
    )
    (writer,) = one.take_ready_calls()
    one.add_answer(answered(writer, "answer = 1 / 0 or 12"))
    assert one.answered[writer.id].answer is None
    (reader,) = one.take_ready_calls()
    assert "answer = 1 / 0 or 12" in reader.messages[-1].content


def test_a_text_that_was_cut_off_has_its_number_only_behind_the_mark() -> None:
    turn = discussion(Topology.debate).take_ready_calls()[0]
    assert answered(turn, "3 * 4 = 12, then", FinishReason.length).answer is None
    assert answered(turn, "#### 12\nand so", FinishReason.length).answer == "12"
    assert answered(turn, "3 * 4 = 12").answer == "12"


def test_roles_cycle_and_have_names_for_people() -> None:
    titles = ["Math Solver", "Mathematical Analyst", "Programming Expert", "Inspector"]
    assert [role.words for role in Role] == titles
    assert (
        Team.create_team_with_cycled_roles(5, None, PromptStyle.brief, DecisionMethod.direct).roles[4]
        is Role.math_solver
    )
    team = Team.create_team_with_cycled_roles(
        3, [Role.inspector, Role.math_solver], PromptStyle.brief, DecisionMethod.direct
    )
    assert team.roles == (Role.inspector, Role.math_solver, Role.inspector)


def test_rounds_are_not_changed_by_who_answers_first() -> None:
    one = discussion(Topology.debate, rounds=2)
    turns = one.take_ready_calls()
    for turn in reversed(turns):
        one.add_answer(answered(turn, f"#### {turn.agent}", code="2"))
    prompts = [turn.messages for turn in one.take_ready_calls()]
    other = discussion(Topology.debate, rounds=2)
    for turn in other.take_ready_calls():
        other.add_answer(answered(turn, f"#### {turn.agent}", code="2"))
    assert prompts == [turn.messages for turn in other.take_ready_calls()]
