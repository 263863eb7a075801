from __future__ import annotations

import random

import pytest

from runner.options.agents.graph import Graph
from runner.options.agents.keys import DecisionMethod, Domain, Mode, Role
from runner.options.agents.sandbox import CodeOutcome, CodeStatus
from runner.options.agents.team import AgentCall, Answered, Discussion, Team, majority
from runner_base.result import Answer, Call, FinishReason


def answered(
    turn: AgentCall, text: str, reason: FinishReason = FinishReason.stop, code: str | None = None
) -> Answered:
    call = Call(
        Answer(text, [1, 2], reason), "sha", 100, 0.1, turn.who, error="boom" if reason == "error" else None
    )
    outcome = (
        CodeOutcome(code, CodeStatus.ok if code else CodeStatus.code_failed) if turn.writes_code else None
    )
    return Answered(turn, call, outcome)


def discussion(
    mode: Mode = Mode.full_connected,
    decision: DecisionMethod = DecisionMethod.final_refer,
    rounds: int = 1,
    agents: int = 4,
    roles: list[Role] | None = None,
) -> Discussion:
    graph, rng = Graph.of(mode, agents, seed=0), random.Random(0)
    team = Team.of(graph.agents, roles, Domain.brief, decision)
    return Discussion(team, "test/0", "How many?", [graph.draw(rng, number) for number in range(rounds)])


def play(one: Discussion, texts: dict[str, str]) -> list[list[str]]:
    """Answer all that is ready, again and again; return which calls were ready together."""
    lots = []
    while turns := one.ready():
        lots.append([turn.id.removeprefix("test/0/") for turn in turns])
        for turn in turns:
            one.take(answered(turn, texts.get(lots[-1][0], "#### 7"), code="7"))
    return lots


@pytest.mark.parametrize(
    ("mode", "rounds", "lots"),
    [
        (Mode.full_connected, 1, [["0/0"], ["0/1"], ["0/2"], ["0/3"], ["decision"]]),
        (Mode.debate, 1, [["0/0", "0/1", "0/2", "0/3"], ["decision"]]),
        (Mode.debate, 2, [["0/0", "0/1", "0/2", "0/3"], ["1/0", "1/1", "1/2", "1/3"], ["decision"]]),
        (Mode.direct_answer, 1, [["0/0"], ["decision"]]),
        # the last agent speaks to the first of the next round
        (
            Mode.chain,
            2,
            [["0/0"], ["0/1"], ["0/2"], ["0/3"], ["1/0"], ["1/1"], ["1/2"], ["1/3"], ["decision"]],
        ),
    ],
)
def test_a_call_is_ready_as_soon_as_all_that_it_hears_has_spoken(
    mode: Mode, rounds: int, lots: list[list[str]]
) -> None:
    one = discussion(mode, rounds=rounds)
    assert play(one, {}) == lots
    assert one.has_ended
    assert one.answer == "7"


def test_agents_hear_their_neighbours_and_the_decision_hears_the_last_round() -> None:
    one = discussion(Mode.chain, rounds=2)
    seen: dict[str, AgentCall] = {}
    while turns := one.ready():
        for turn in turns:
            seen[turn.id.removeprefix("test/0/")] = turn
            one.take(answered(turn, f"words of {turn.round}/{turn.agent}\n#### 7", code="7"))
    assert "words of 0/0" in seen["0/1"].messages[-1].content
    assert "words" not in seen["0/0"].messages[-1].content
    assert "7" in seen["1/0"].messages[-1].content, "a math solver is told numbers"
    decision = seen["decision"].messages[-1].content
    assert all(f"words of 1/{agent}" in decision for agent in range(4))
    assert "words of 0" not in decision
    assert [(turn.who, turn.writes_code) for turn in list(seen.values())[:4]] == [
        ("Math Solver", False),
        ("Mathematical Analyst", False),
        ("Programming Expert", True),
        ("Inspector", False),
    ]
    assert seen["0/1"].asked_sha256 != seen["1/1"].asked_sha256


def test_shares_of_a_prompt() -> None:
    one = discussion(Mode.star, agents=3, roles=[Role.inspector])
    play(one, {"0/0": "a long story " * 9, "0/1": "short"})
    last = one.answered["test/0/0/2"].turn
    shares = {str(link): share for link, share in last.shares().items()}
    assert list(shares) == ["1 → 3", "2 → 3"]
    assert shares["1 → 3"] > 5 * shares["2 → 3"] > 0
    alone = len(one.answered["test/0/0/0"].turn.messages[-1].content)
    assert sum(shares.values()) < 1 - alone / len(last.messages[-1].content) * 0.2
    assert [str(link) for link in one.answered["test/0/decision"].turn.shares()] == [
        f"{source} → decision" for source in (1, 2, 3)
    ]
    temporal = AgentCall("x", 0, 1, Role.inspector, Domain.brief, "?", (), last.spatial)
    assert [str(link) for link in temporal.shares()] == ["1 → 1 (round before)", "2 → 1 (round before)"]


def test_votes() -> None:
    assert majority(["2", "3", None, "3"]) == "3"
    assert majority(["2", "3", None]) == "2", "of equally many the first"
    assert majority([None, None]) is None
    one = discussion(Mode.debate, DecisionMethod.majority_vote)
    had_ended = one.has_ended
    for turn, number in zip(one.ready(), (5, 6, 0, 6), strict=True):
        one.take(answered(turn, f"#### {number}"))
    assert one.ready() == []
    assert (had_ended, one.has_ended) == (False, True)
    assert (one.votes, one.answer) == (["5", "6", None, "6"], "6"), "a program that failed has no vote"


def test_direct_takes_the_last_agents_number() -> None:
    one = discussion(Mode.debate, DecisionMethod.direct)
    for turn, number in zip(one.ready(), (5, 6, 6, 8), strict=True):
        one.take(answered(turn, f"#### {number}", code="6"))
    assert (one.answer, one.speaker.call.answer.text) == ("8", "#### 8")


def test_a_failed_call_is_the_questions_end_and_no_answer() -> None:
    one = discussion(Mode.debate, DecisionMethod.majority_vote)
    turns = one.ready()
    one.take(answered(turns[0], "#### 3"))
    one.take(answered(turns[1], "", FinishReason.error))
    one.take(answered(turns[3], "#### 3"))  # it was on its way
    assert one.has_ended
    assert one.ready() == []
    assert (one.answer, one.failed and one.failed.turn.id) == (None, "test/0/0/1")


def test_a_failed_program_has_no_number_and_its_text_is_seen() -> None:
    one = discussion(
        Mode.chain, DecisionMethod.direct, agents=2, roles=[Role.programming_expert, Role.inspector]
    )
    (writer,) = one.ready()
    one.take(answered(writer, "answer = 1 / 0 or 12"))
    assert one.answered[writer.id].answer is None
    (reader,) = one.ready()
    assert "answer = 1 / 0 or 12" in reader.messages[-1].content


def test_a_text_that_was_cut_off_has_its_number_only_behind_the_mark() -> None:
    turn = discussion(Mode.debate).ready()[0]
    assert answered(turn, "3 * 4 = 12, then", FinishReason.length).answer is None
    assert answered(turn, "#### 12\nand so", FinishReason.length).answer == "12"
    assert answered(turn, "3 * 4 = 12").answer == "12"


def test_roles_cycle_and_have_names_for_people() -> None:
    titles = ["Math Solver", "Mathematical Analyst", "Programming Expert", "Inspector"]
    assert [role.words for role in Role] == titles
    assert Team.of(5, None, Domain.brief, DecisionMethod.direct).roles[4] is Role.math_solver
    team = Team.of(3, [Role.inspector, Role.math_solver], Domain.brief, DecisionMethod.direct)
    assert team.roles == (Role.inspector, Role.math_solver, Role.inspector)


def test_rounds_are_not_changed_by_who_answers_first() -> None:
    one = discussion(Mode.debate, rounds=2)
    turns = one.ready()
    for turn in reversed(turns):
        one.take(answered(turn, f"#### {turn.agent}", code="2"))
    prompts = [turn.messages for turn in one.ready()]
    other = discussion(Mode.debate, rounds=2)
    for turn in other.ready():
        other.take(answered(turn, f"#### {turn.agent}", code="2"))
    assert prompts == [turn.messages for turn in other.ready()]
