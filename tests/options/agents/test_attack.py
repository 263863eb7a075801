"""What an attack changes, who notices, and whether training drops the edges of an agent that does
harm."""

from __future__ import annotations

import random
from collections.abc import Callable
from fractions import Fraction
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.options.agents.attack import LARGEST_ERROR, Tampering, false_answer, falsified, noise
from runner.options.agents.graph import Graph
from runner.options.agents.keys import Attack, Baseline, DecisionMethod, Domain, Mode, Role
from runner.options.agents.learning import Learner, Play
from runner.options.agents.methods import Ours
from runner.options.agents.roles import AgentMessage, agent_message, head
from runner.options.agents.sandbox import CodeOutcome, CodeStatus
from runner.options.agents.tally import attacked_edges
from runner.options.agents.team import AgentCall, Answered, Discussion, Team
from runner.scorers.numbers import plain_number
from runner_base.result import Answer, Call, FinishReason

SOLVED = "Ana has 3+4=7 apples, so $7.00.\nThe answer is 7"
Say = Callable[[AgentCall], str]


def discussion(
    attack: Attack,
    agent: int = 0,
    *,
    graph: Graph | None = None,
    decision: DecisionMethod = DecisionMethod.final_refer,
    seed: str = "0",
    rounds: int = 1,
    roles: list[Role] | None = None,
    letters: bool = False,
) -> Discussion:
    graph = graph or Graph.of(Mode.full_connected, 4, seed=0)
    team = Team.of(4, roles, Domain.brief, decision, letters)
    rng = random.Random(seed)
    drawn = [graph.draw(rng, number) for number in range(rounds)]
    return Discussion(
        team, "test/0", "How many?", drawn, Tampering.of(attack, agent, seed, "B" if letters else "7")
    )


def played(one: Discussion, say: Say) -> dict[str, AgentCall]:
    """Answer all calls; return them by agent, the last round's."""
    calls = {}
    while turns := one.ready():
        for turn in turns:
            text = say(turn)
            code = CodeOutcome("7", CodeStatus.ok) if turn.writes_code else None
            one.take(
                Answered(turn, Call(Answer(text, [1], FinishReason.stop), "sha", 10, 0.1, turn.who), code)
            )
            calls[f"{turn.round}/{turn.agent}" if turn.agent is not None else "decision"] = turn
    return calls


def user(call: AgentCall) -> str:
    return call.messages[-1].content


@given(st.integers(-(10**12), 10**12), st.integers(0, 99), st.integers(1, 12), st.integers(0, 2**32))
def test_a_false_number_is_a_plain_number_close_to_the_right_one(
    top: int, rest: int, bottom: int, seed: int
) -> None:
    for gold in (str(top), plain_number(f"{top}.{rest:02d}"), plain_number(f"{abs(top) % 10**6}/{bottom}")):
        lie = false_answer(gold, random.Random(seed))
        assert lie == plain_number(lie) != gold
        assert false_answer(gold, random.Random(seed)) == lie
        assert abs(Fraction(lie) - Fraction(gold)) in range(1, LARGEST_ERROR + 1)


@pytest.mark.parametrize(
    ("gold", "choices", "possible"), [("B", 2, "A"), ("C", 3, "AB"), ("A", 0, "BCD"), ("F", 0, "ABCDE")]
)
def test_a_false_letter_is_that_of_another_choice(gold: str, choices: int, possible: str) -> None:
    found = {false_answer(gold, random.Random(seed), choices) for seed in range(200)}
    assert found == set(possible)


def test_a_falsified_reply_says_the_false_number_wherever_it_said_its_own() -> None:
    told = falsified(agent_message(0, Role.math_solver, SOLVED), "12")
    assert (told.text, told.answer) == ("Ana has 3+4=12 apples, so 12.\nThe answer is 12", "12")
    for text in ("I cannot tell.", "", "7 or 8, so 8. I take one of these"):
        told = falsified(agent_message(0, Role.inspector, text), "12")
        assert agent_message(0, Role.inspector, told.text).answer == told.answer == "12"
    letter = falsified(
        agent_message(0, Role.inspector, "B is larger than A.\nThe answer is B", letters=True), "C"
    )
    assert (letter.text, letter.answer) == ("C is larger than A.\nThe answer is C", "C")


@pytest.mark.parametrize("text", ["```python\nanswer = 3 + 4\n```", "answer = 3 + 4", "no program"])
@pytest.mark.parametrize("lie", ["12", "C"])
def test_a_falsified_program_does_what_the_others_are_told(text: str, lie: str) -> None:
    failed = CodeOutcome(None, CodeStatus.code_failed, "SyntaxError")
    told = falsified(AgentMessage(2, Role.programming_expert, text, None, failed), lie)
    assert told.code == CodeOutcome(lie, CodeStatus.ok)
    assert told.answer == lie
    if text != "no program":
        scope: dict[str, object] = {}
        exec(told.text.replace("```python", "").replace("```", ""), scope)
        assert str(scope["answer"]) == lie
        assert told.text.count("```") == text.count("```")


def test_noise_is_as_long_as_what_was_said_and_holds_no_answer() -> None:
    said = agent_message(1, Role.programming_expert, "answer = 3 + 4  # 7", CodeOutcome("7", CodeStatus.ok))
    heard = noise(said, random.Random(0))
    assert (len(heard.text), heard.answer, heard.code) == (len(said.text), None, None)
    assert not any(sign.isdigit() or sign.isupper() for sign in heard.text)
    assert heard.text != noise(said, random.Random(1)).text


@pytest.mark.parametrize("domain", Domain)
@pytest.mark.parametrize("letters", [False, True])
def test_only_the_liar_is_told_to_lie(domain: Domain, letters: bool) -> None:
    graph = Graph.of(Mode.full_connected, 4, seed=0)
    heads = {}
    for attack in (Attack.none, Attack.liar):
        team = Team.of(4, None, domain, DecisionMethod.final_refer, letters)
        drawn = [graph.draw(random.Random(0), 0)]
        one = Discussion(
            team, "test/0", "How many?", drawn, Tampering.of(attack, 2, "0", "B" if letters else "7")
        )
        calls = played(one, lambda turn: "The answer is 7")
        assert [call.who for call in calls.values()] == [*team.titles, "decision"], "it keeps its role's name"
        heads[attack] = {key: call.messages for key, call in calls.items()}
    changed = [key for key in heads[Attack.none] if heads[Attack.none][key] != heads[Attack.liar][key]]
    assert changed == ["0/2"], "neither the others nor the decision are told"
    told = heads[Attack.liar]["0/2"][0].content
    assert "lie" in told.lower()
    assert told != head(Role.math_solver, domain, letters, lies=True), (
        "one that writes programs lies in programs"
    )
    assert "Examples" not in told


def test_a_false_answer_reaches_listeners_votes_and_the_decision() -> None:
    lie = discussion(Attack.false_answer, 1).tampering.lie
    one = discussion(Attack.false_answer, 1, roles=[Role.inspector])
    calls = played(one, lambda turn: SOLVED)
    assert lie not in user(calls["0/1"])
    for key in ("0/2", "0/3", "decision"):
        assert f"2: Ana has 3+4={lie} apples" in user(calls[key])
        assert "1: Ana has 3+4=7 apples" in user(calls[key])
    assert one.votes == ["7", lie, "7", "7"]
    assert one.answer == "7"
    last = discussion(Attack.false_answer, 3, decision=DecisionMethod.direct, roles=[Role.inspector])
    played(last, lambda turn: SOLVED)
    assert last.answer == last.tampering.lie, (
        "where the last agent decides, what it is taken to have said decides"
    )
    solver = discussion(Attack.false_answer, 0, roles=[Role.inspector, Role.math_solver])
    assert f"Other answers: {solver.tampering.lie}." in user(played(solver, lambda turn: SOLVED)["0/1"])


def test_a_cut_link_spares_votes_the_decision_and_the_agents_own_memory() -> None:
    one = discussion(Attack.cut_link, 1, roles=[Role.inspector], rounds=2)
    calls = played(one, lambda turn: f"{SOLVED} of agent {turn.agent}")
    assert "of agent 1" in user(calls["1/1"])
    assert "of agent 1" in user(calls["decision"])
    assert one.votes == ["0", "1", "2", "3"]
    for key in ("0/2", "0/3", "1/0", "1/2", "1/3"):
        assert "of agent 1" not in user(calls[key])
        assert "\n2: " in user(calls[key]), "something arrives"
        assert "of agent" in user(calls[key]), "from the others, too"
    told_numbers = discussion(Attack.cut_link, 0, roles=[Role.inspector, Role.math_solver])
    assert user(played(told_numbers, lambda turn: SOLVED)["0/1"]) == "How many?", "noise holds no number"


def test_without_an_attack_nothing_is_changed_and_a_restart_makes_up_the_same() -> None:
    plain = {key: call.messages for key, call in played(discussion(Attack.none), lambda turn: SOLVED).items()}
    for attack in Attack:
        first, second = (
            {key: call.messages for key, call in played(discussion(attack), lambda turn: SOLVED).items()}
            for _ in range(2)
        )
        assert first == second
        assert (first == plain) == (attack is Attack.none)
    other = played(discussion(Attack.cut_link, seed="1"), lambda turn: SOLVED)
    assert other["0/1"].messages != played(discussion(Attack.cut_link), lambda turn: SOLVED)["0/1"].messages


# ------------------------------------------------------------------------- does pruning drop the
# agent that does harm?

SEEDS, ITERATIONS = 12, 30
BY_CHANCE = 3 * 7 / 12  # of an agent's three edges to others, since 7 of the 12 edges stay


def kept(
    attack: Attack, attacked: int, decision: DecisionMethod, say: Callable[[bool, AgentCall], str]
) -> float:
    """Train teams of four on a script; return how many edges to others the agent has kept in the
    mean."""
    return sum(_kept(attack, attacked, decision, say, seed) for seed in range(SEEDS)) / SEEDS


def _kept(
    attack: Attack, attacked: int, decision: DecisionMethod, say: Callable[[bool, AgentCall], str], seed: int
) -> int:
    graph, rng = (Graph.of(Mode.full_connected, 4, seed=0, optimized_spatial=True), random.Random(seed))
    learner = Learner(graph, Ours(0.25, ITERATIONS // 2, Baseline.mean, 0.0))
    for iteration in range(ITERATIONS):
        plays: list[Play] = []
        for number in range(4):
            name, is_lucky = f"{seed}/{iteration}/{number}", rng.random() < 0.5
            one = discussion(
                attack, attacked, graph=graph, decision=decision, seed=name, roles=[Role.inspector]
            )
            played(one, partial(say, is_lucky))
            plays.append((one.rounds, one.answer == "7"))
        learner.step(plays)
    return attacked_edges(graph, attacked, rounds=1)


def credulous(_: bool, turn: AgentCall) -> str:
    """Who is told to lie says 8. Who hears something else than 7, or noise, repeats it. Everybody
    else is right."""
    wrong = sorted({message.answer or "0" for message in turn.spatial} - {"7"})
    return f"The answer is {8 if turn.lies else wrong[0] if wrong else 7}"


def indifferent(is_lucky: bool, _: AgentCall) -> str:
    """Half of the questions are solved, whoever hears whom."""
    return f"The answer is {7 if is_lucky else 5}"


@pytest.mark.parametrize(
    ("attack", "attacked", "decision"),
    [
        (Attack.false_answer, 0, DecisionMethod.majority_vote),
        (Attack.false_answer, 3, DecisionMethod.majority_vote),
        (Attack.liar, 0, DecisionMethod.majority_vote),
        (Attack.cut_link, 0, DecisionMethod.direct),
    ],
)
def test_pruning_drops_the_edges_of_an_agent_that_misleads_the_others(
    attack: Attack, attacked: int, decision: DecisionMethod
) -> None:
    """And of no agent that misleads nobody: neither without an attack nor where the others do not
    listen."""
    assert kept(attack, attacked, decision, credulous) < 0.5 * BY_CHANCE
    without = kept(Attack.none, attacked, decision, indifferent)
    assert without == pytest.approx(BY_CHANCE, abs=0.6)
    if attack is not Attack.liar:  # one who is told to lie, and does not, is one without an attack
        assert kept(attack, attacked, decision, indifferent) == pytest.approx(BY_CHANCE, abs=0.6)
