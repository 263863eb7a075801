"""A team's discussion of one question: which calls can be made now, given what has come back, and how it ends.

A discussion is plain state: it knows no engine and no files. So it goes the same way whether a call is answered now or
was recorded by an earlier start.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

from runner.agents.graph import Round
from runner.agents.roles import AgentMessage, decision_messages, messages, number, said
from runner.agents.sandbox import CodeOutcome
from runner.agents.wording import Role
from runner.config.agents import AgentRole, DecisionMethod, Domain
from runner.core.result import Call, FinishReason
from runner.engines.base import Message

Sources = tuple[tuple[int, int], ...]  # round and agent of each that is heard
DECISION = "decision"  # stands for the agent that decides: in ids, in rows, in edges


@dataclass(frozen=True)
class Team:
    """Who takes part, and how it comes to an answer."""

    roles: tuple[Role, ...]  # of each agent
    domain: Domain
    decision: DecisionMethod

    @classmethod
    def of(cls, agents: int, roles: Sequence[AgentRole] | None, domain: Domain, decision: DecisionMethod) -> Team:
        """Give each agent a role: they cycle."""
        cycle = [Role[role.name] for role in roles] if roles else list(Role)
        return cls(tuple(cycle[agent % len(cycle)] for agent in range(agents)), domain, decision)

    @property
    def titles(self) -> tuple[str, ...]:
        """Return the role of each agent in words."""
        return tuple(role.value for role in self.roles)


@dataclass(frozen=True)
class Link:
    """By which edge a text came into a prompt; what the decision reads counts as spatial."""

    kind: str
    source: int
    target: int | None  # None: the decision

    @property
    def ends(self) -> tuple[int, int]:
        """Who speaks and who listens, as numbers that can be sorted."""
        return self.source, -1 if self.target is None else self.target

    def __str__(self) -> str:
        target = DECISION if self.target is None else str(self.target + 1)
        return f"{self.source + 1} → {target}{' (round before)' * (self.kind == 'temporal')}"


@dataclass(frozen=True)
class AgentCall:
    """A call that is to be asked."""

    id: str
    agent: int | None  # None: the agent that decides
    round: int
    role: Role | None
    domain: Domain
    question: str
    spatial: tuple[AgentMessage, ...]
    temporal: tuple[AgentMessage, ...]

    @property
    def who(self) -> str:
        """The role, in words."""
        return DECISION if self.role is None else self.role.value

    @property
    def writes_code(self) -> bool:
        """Whether what it says is run."""
        return self.role is not None and self.role.writes_code

    @cached_property
    def messages(self) -> tuple[Message, ...]:
        """What the agent is told."""
        return self._messages(self.spatial, self.temporal)

    @cached_property
    def asked_sha256(self) -> str:
        """Fingerprint of what the agent is told, which needs no tokenizer."""
        text = json.dumps([asdict(message) for message in self.messages], ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def shares(self) -> dict[Link, float]:
        """Return which share of the prompt's characters each edge has brought."""
        whole = _characters(self.messages)
        found = {}
        for kind, heard in (("spatial", self.spatial), ("temporal", self.temporal)):
            for one in heard:
                others = tuple(other for other in heard if other is not one)
                rest = (others, self.temporal) if kind == "spatial" else (self.spatial, others)
                link = Link(kind, one.agent, self.agent)
                found[link] = (whole - _characters(self._messages(*rest))) / whole
        return found

    def _messages(self, spatial: tuple[AgentMessage, ...], temporal: tuple[AgentMessage, ...]) -> tuple[Message, ...]:
        if self.role is None:
            return decision_messages(self.domain, self.question, spatial)
        return messages(self.role, self.domain, self.question, spatial, temporal)


@dataclass(frozen=True)
class Answered:
    """What came back of a turn, its program's outcome included."""

    turn: AgentCall
    call: Call
    code: CodeOutcome | None = None
    permanent: bool = False  # of an error: asking again cannot turn it into an answer
    cost_usd: float | None = None

    @property
    def failed(self) -> bool:
        """Whether it ended in an error, which is no answer."""
        return self.call.finish_reason is FinishReason.error

    @property
    def answer(self) -> str | None:
        """The number that it came to."""
        return number(self.turn.role, self.call.text, self.code, self.is_whole)

    @property
    def is_whole(self) -> bool:
        """Whether it came to its own end."""
        return self.call.finish_reason is FinishReason.stop


class Discussion:
    """One question on its way: `ready` gives out the calls whose inputs are there, `take` brings in what came back."""

    def __init__(self, team: Team, key: str, question: str, rounds: Sequence[Round]) -> None:
        self.team, self.key, self.question, self.rounds = team, key, question, tuple(rounds)
        self.answered: dict[str, Answered] = {}  # by id, in the order in which it came
        self.failed: Answered | None = None  # the call whose error is the question's
        self._left: dict[tuple[int, int], tuple[Sources, Sources]] = {  # of each call to come: who is heard in it
            (number, agent): (
                tuple((number, one) for one in taken.hears(agent)),
                tuple((number - 1, one) for one in taken.remembers(agent)),
            )
            for number, taken in enumerate(self.rounds)
            for agent in range(len(team.roles))
        }
        self._deciding = team.decision is not DecisionMethod.final_refer  # whether that call was given out or is none
        self._said: dict[tuple[int, int], AgentMessage] = {}  # by round and agent
        self._decided: Answered | None = None

    def ready(self) -> list[AgentCall]:
        """Return the calls that can be asked now and were not given out before; none once a call has failed."""
        if self.failed:
            return []
        found = []
        for (at_round, agent), (spatial, temporal) in list(self._left.items()):
            if all(source in self._said for source in (*spatial, *temporal)):
                del self._left[at_round, agent]
                role, heard = self.team.roles[agent], (self._of(spatial), self._of(temporal))
                key = f"{self.key}/{at_round}/{agent}"
                found.append(AgentCall(key, agent, at_round, role, self.team.domain, self.question, *heard))
        last = self._last_round()
        if not self._deciding and len(last) == len(self.team.roles):
            self._deciding = True
            key = f"{self.key}/{DECISION}"
            found.append(AgentCall(key, None, len(self.rounds), None, self.team.domain, self.question, last, ()))
        return found

    def take(self, answered: Answered) -> None:
        """Bring in what came back of a call."""
        turn = answered.turn
        self.answered[turn.id] = answered
        if answered.failed:
            self.failed = self.failed or answered
        elif turn.agent is None or turn.role is None:
            self._decided = answered
        else:
            one = said(turn.agent, turn.role, answered.call.text, answered.code, answered.is_whole)
            self._said[turn.round, turn.agent] = one

    @property
    def has_ended(self) -> bool:
        """Whether the answer is there, or a call has failed."""
        if self.failed or self._decided:
            return True
        calls = len(self.rounds) * len(self.team.roles)
        return self.team.decision is not DecisionMethod.final_refer and len(self.answered) == calls

    @property
    def speaker(self) -> Answered:
        """The call whose text is the team's: the decision, or the last agent's."""
        assert self.has_ended
        last = f"{self.key}/{len(self.rounds) - 1}/{len(self.team.roles) - 1}"
        return self.failed or self._decided or self.answered[last]

    @property
    def answer(self) -> str | None:
        """The number that the team has come to."""
        if self.failed:
            return None
        if self.team.decision is DecisionMethod.majority_vote:
            return majority(self.votes)
        return self.speaker.answer

    @property
    def votes(self) -> list[str | None]:
        """The number of each agent in the last round."""
        return [one.answer for one in self._last_round()]

    def _last_round(self) -> tuple[AgentMessage, ...]:
        last = len(self.rounds) - 1
        agents = range(len(self.team.roles))
        return self._of([(last, agent) for agent in agents if (last, agent) in self._said])

    def _of(self, sources: Iterable[tuple[int, int]]) -> tuple[AgentMessage, ...]:
        return tuple(self._said[source] for source in sources)


def majority(votes: Sequence[str | None]) -> str | None:
    """Return the number that most agents have; of equally many, the one that came first."""
    counts = Counter(vote for vote in votes if vote is not None)
    return counts.most_common(1)[0][0] if counts else None


def _characters(messages: Sequence[Message]) -> int:
    return sum(len(message.content) for message in messages)
