from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from job_engines import open_engine

from runner.config.root import RunnerConfig
from runner.datasets.word_problems import Split, generate_problems
from runner.options.agents.discussion import AgentCall, AnsweredCall, Discussion, Team
from runner.options.agents.discussion_player import BATCHES, DiscussionPlayer
from runner.options.agents.graph import Graph
from runner.options.agents.keys import DecisionMethod, PromptStyle, Role, Topology
from runner.sandbox.sandbox import CodeOutcome, CodeStatus
from runner_base.dtypes import Dtype
from runner_base.result import Answer, FinishReason
from runner_engine.sessions.base import Capability, Completion, Event, Request, RequestId
from runner_engine.sessions.session import Session
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig

EMBEDDED = Path(__file__).parents[3] / "runner_engine" / "embedded" / "model"
Make = Callable[..., RunnerConfig]


def discussions(
    count: int, mode: Topology = Topology.chain, roles: Sequence[Role] | None = None, rounds: int = 1
) -> list[Discussion]:
    graph = Graph.create_from_topology(mode, 4, seed=0)
    team = Team.create_team_with_cycled_roles(
        4, roles or [Role.inspector], PromptStyle.brief, DecisionMethod.final_refer
    )
    asked = [problem.question for problem in generate_problems(Split.TEST, count)]
    rng = random.Random(0)
    return [
        Discussion(
            team, f"test/{at}", question, [graph.draw_round_edges(rng, number) for number in range(rounds)]
        )
        for at, question in enumerate(asked)
    ]


class Kept:
    """Records in memory."""

    def __init__(self, *known: AnsweredCall) -> None:
        self.known = {answered.turn.id: answered for answered in known}
        self.added: list[AnsweredCall] = []
        self.coded: list[AnsweredCall] = []

    def find_answer(self, call: AgentCall) -> AnsweredCall | None:
        return self.known.get(call.id)

    def add(self, answered_call: AnsweredCall) -> None:
        self.added.append(answered_call)

    def add_code_outcome(self, answered_call: AnsweredCall) -> None:
        self.coded.append(answered_call)

    def find_partial_answer(self, call: AgentCall) -> None:
        """Nothing is begun."""

    def save_partial_answers(self, completions: list[Completion]) -> str:
        return f"{len(completions)} under way"


class Seven:
    """Every program comes to 7."""

    def run_program(self, reply: str) -> CodeOutcome:
        return CodeOutcome("7", CodeStatus.ok)


class Picky(Session):
    """Answers one request a step: the one that `choose` picks."""

    def __init__(self, choose: Callable[[list[str]], str], fails: str = "") -> None:
        super().__init__(frozenset(Capability))
        self.choose, self.fails = choose, fails
        self.waiting: dict[RequestId, Request] = {}
        self.lots: list[list[str]] = []
        self.order: list[str] = []

    def _admit(self, request: Request) -> Request:
        return request

    def _run_step(self, submitted: list[Request], cancelled: set[RequestId]) -> list[Event]:
        self.waiting |= {request.id: request for request in submitted}
        self.lots.append([str(request.id) for request in submitted])
        events: list[Event] = [
            completion(key, FinishReason.cancelled) for key in cancelled if self.waiting.pop(key)
        ]
        if self.waiting:
            key = self.choose([str(key) for key in self.waiting])
            del self.waiting[key]
            self.order.append(key)
            events.append(completion(key, FinishReason.error if key == self.fails else FinishReason.stop))
        return events

    def _drop_requests(self) -> None:
        self.waiting.clear()


def completion(key: RequestId, reason: FinishReason) -> Completion:
    error = "boom" if reason is FinishReason.error else None
    return Completion(Answer("so\n#### 7", [1, 2, 3], reason), "sha", 50, 0.2, key, 0.1, error=error)


def first(keys: list[str]) -> str:
    return keys[0]


def test_no_question_waits_for_another() -> None:
    def others_first(keys: list[str]) -> str:
        return next((key for key in keys if not key.startswith("test/0/")), keys[0])

    session, ended = Picky(others_first), list[str]()
    with DiscussionPlayer(Kept(), Seven(), lambda: session) as player:
        player.run_discussions(discussions(3), lambda discussion: ended.append(discussion.key))
    assert ended[-1] == "test/0"
    assert len(session.order) == 15
    assert session.order.index("test/0/0/0") == 10, "the others have gone all their way meanwhile"


def test_programs_run_while_others_decode() -> None:
    others_ended = threading.Event()

    class Slow:
        def run_program(self, reply: str) -> CodeOutcome:
            assert others_ended.wait(60), "nothing went on while this ran"
            return CodeOutcome("7", CodeStatus.ok)

    def ended(discussion: Discussion) -> None:
        if discussion.key == "test/1":
            others_ended.set()

    one, other = discussions(1, Topology.chain, [Role.programming_expert]), discussions(2)[1:]
    with DiscussionPlayer(Kept(), Slow(), lambda: Picky(first)) as player:
        player.run_discussions([*one, *other], ended)
    assert all(discussion.answer == "7" for discussion in (*one, *other))


def test_what_is_ready_goes_in_lots_of_what_is_under_way() -> None:
    session = Picky(first)
    with DiscussionPlayer(Kept(), Seven(), lambda: session) as player:
        player.run_discussions(discussions(40))
    lots = [len(lot) for lot in session.lots if lot]
    assert lots[0] == 40
    assert min(lots[: len(lots) // 2]) >= 40 // BATCHES - 1, (
        "as long as much is under way, nothing goes alone"
    )
    assert sum(lots) == 200


def test_an_error_ends_its_question_and_no_other() -> None:
    records, session = Kept(), Picky(first, fails="test/0/0/0")
    played = discussions(2, Topology.debate)
    with DiscussionPlayer(records, Seven(), lambda: session) as player:
        player.run_discussions(played)
        assert (played[0].failed is not None, played[0].answer, played[1].answer) == (True, None, "7")
        (again,) = discussions(1)
        again.key = "test/5"
        player.run_discussions([again])
    assert again.answer == "7", "the session goes on"
    asked = [answered.turn.id for answered in records.added]
    assert asked.count("test/0/0/0") == 1
    assert not [key for key in asked if key.startswith("test/0/") and key != "test/0/0/0"], (
        "the others were cancelled"
    )


def test_what_is_recorded_is_not_asked() -> None:
    before = Kept()
    with DiscussionPlayer(before, Seven(), lambda: Picky(first)) as player:
        player.run_discussions(discussions(2, roles=list(Role)))
    # without outcomes
    known = [answered for answered in before.added if answered.turn.id != "test/1/decision"]
    after, session = Kept(*known), Picky(first)
    with DiscussionPlayer(after, Seven(), lambda: session) as player:
        player.run_discussions(discussions(2, roles=list(Role)))
    assert session.order == ["test/1/decision"]
    assert [answered.turn.id for answered in after.coded] == ["test/0/0/2", "test/1/0/2"], (
        "programs without outcome run"
    )

    def never() -> Session:
        raise AssertionError("no engine is needed")

    whole = Kept(*before.added, *before.coded)
    with DiscussionPlayer(whole, Seven(), never) as player:
        player.run_discussions(discussions(2, roles=list(Role)))
    assert (whole.added, whole.coded) == ([], [])


def test_what_breaks_the_sandbox_ends_the_job() -> None:
    class Broken:
        def run_program(self, reply: str) -> CodeOutcome:
            raise OSError("no process can be started")

    with (
        pytest.raises(OSError, match="no process"),
        DiscussionPlayer(Kept(), Broken(), lambda: Picky(first)) as player,
    ):
        player.run_discussions(discussions(1, roles=[Role.programming_expert]))


def test_batches_give_the_same_transcripts_as_one_agent_at_a_time(make_config: Make) -> None:
    """The embedded model in float32: calls that decode together, share prefixes and come in any
    order, and alone."""
    config = make_config(
        model=LocalModelConfig(name=str(EMBEDDED), device="cpu", dtype=Dtype.float32),
        generation=GenerationConfig(max_new_tokens=32),
    )
    engine = open_engine(config)
    engine.load()

    def made() -> list[Discussion]:
        return discussions(2, Topology.full_connected, list(Role), rounds=2)

    def transcripts(lots: list[list[Discussion]], rows: int | None) -> dict[str, str]:
        with DiscussionPlayer(Kept(), Seven(), lambda: engine.open(rows)) as player:
            for lot in lots:
                player.run_discussions(lot)
        return {
            key: one.call.answer.text
            for lot in lots
            for discussion in lot
            for key, one in discussion.answered.items()
        }

    together = transcripts([made()], None)
    alone = transcripts([[discussion] for discussion in made()], 1)
    engine.close()
    assert len(together) == 2 * 9
    assert together == alone
    assert len(set(together.values())) > 6, "they say different things"
