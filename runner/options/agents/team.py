"""A team's discussion of one question: which calls can be made now, given the answers so far, and
how it ends.

A discussion is plain state, without engine and files. So it makes no difference whether a call is
answered now or was recorded by an earlier start.

One agent may also answer a question several times. A vote over the samples is self-consistency; the
deciding agent, which reads all of them, picks the best of them.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from runner.options.agents.graph import Round
from runner.options.agents.keys import DECISION, DecisionMethod, Domain, Role
from runner.options.agents.roles import AgentMessage, agent_message, answer_of, decision_messages, messages
from runner.options.agents.sandbox import CodeOutcome
from runner_base import Call, FinishReason
from runner_engine import Message

Sources = tuple[tuple[int, int], ...]  # round and agent of each message that is heard


@dataclass(frozen=True)
class Team:
    """The agents, and how they decide on an answer."""

    roles: tuple[Role, ...]  # of each agent
    domain: Domain
    decision: DecisionMethod
    letters: bool = False  # answers are letters of choices, and not numbers

    @classmethod
    def of(
        cls,
        agents: int,
        roles: Sequence[Role] | None,
        domain: Domain,
        decision: DecisionMethod,
        letters: bool = False,
    ) -> Team:
        """Give each agent a role; the roles repeat."""
        cycle = list(roles or Role)
        return cls(tuple(cycle[agent % len(cycle)] for agent in range(agents)), domain, decision, letters)

    @property
    def titles(self) -> tuple[str, ...]:
        """Return the role of each agent in words."""
        return tuple(role.words for role in self.roles)


@dataclass(frozen=True)
class Link:
    """The edge by which a text came into a prompt; edges to the decision count as spatial."""

    kind: str
    source: int
    target: int | None  # None: the decision

    @property
    def ends(self) -> tuple[int, int]:
        """Speaker and listener as numbers, for sorting."""
        return self.source, -1 if self.target is None else self.target

    def __str__(self) -> str:
        target = DECISION if self.target is None else str(self.target + 1)
        return f"{self.source + 1} → {target}{(' (round before)' if self.kind == 'temporal' else '')}"


@dataclass(frozen=True)
class AgentCall:
    """One call of an agent, with its inputs."""

    id: str
    agent: int | None  # None: the agent that decides
    round: int
    role: Role | None
    domain: Domain
    question: str
    spatial: tuple[AgentMessage, ...]
    temporal: tuple[AgentMessage, ...]
    letters: bool = False

    @property
    def who(self) -> str:
        return DECISION if self.role is None else self.role.words

    @property
    def writes_code(self) -> bool:
        """Whether the answer is a program that is run."""
        return self.role is not None and self.role.writes_code

    @cached_property
    def messages(self) -> tuple[Message, ...]:
        """The messages that the agent gets."""
        return self._messages(self.spatial, self.temporal)

    @cached_property
    def asked_sha256(self) -> str:
        """Fingerprint of these messages; it needs no tokenizer."""
        text = json.dumps([message.as_dict() for message in self.messages], ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def shares(self) -> dict[Link, float]:
        """Return the share of the prompt's characters that each edge contributes."""
        whole = _characters(self.messages)
        shares = {}
        for kind, inputs in (("spatial", self.spatial), ("temporal", self.temporal)):
            for message in inputs:
                others = tuple(other for other in inputs if other is not message)
                rest = (others, self.temporal) if kind == "spatial" else (self.spatial, others)
                link = Link(kind, message.agent, self.agent)
                shares[link] = (whole - _characters(self._messages(*rest))) / whole
        return shares

    def _messages(
        self, spatial: tuple[AgentMessage, ...], temporal: tuple[AgentMessage, ...]
    ) -> tuple[Message, ...]:
        if self.role is None:
            return decision_messages(self.domain, self.question, spatial, self.letters)
        return messages(self.role, self.domain, self.question, spatial, temporal, self.letters)


@dataclass(frozen=True)
class Answered:
    """The answer to a call, with the outcome of its program."""

    turn: AgentCall
    call: Call
    code: CodeOutcome | None = None

    @property
    def failed(self) -> bool:
        """Whether the call ended in an error."""
        return self.call.failed

    @property
    def answer(self) -> str | None:
        """The number or the letter in the answer."""
        return answer_of(self.turn.role, self.text, self.code, self.is_whole, self.turn.letters)

    @property
    def text(self) -> str:
        """What follows the thinking: others hear this, and the answer stands in it."""
        return self.call.answer.parts.answer

    @property
    def is_whole(self) -> bool:
        """Whether the text ended by itself, and was not cut off, nor within its thinking."""
        answer = self.call.answer
        return answer.finish_reason is FinishReason.stop and not answer.parts.is_open


class Discussion:
    """One question under discussion: `ready` returns the calls whose inputs exist, `take` gets
    their answers."""

    def __init__(self, team: Team, key: str, question: str, rounds: Sequence[Round]) -> None:
        self.team, self.key, self.question, self.rounds = team, key, question, tuple(rounds)
        self.answered: dict[str, Answered] = {}  # by id, in order of arrival
        self.failed: Answered | None = None  # the call whose error is the question's
        self._pending: dict[
            tuple[int, int], tuple[Sources, Sources]
        ] = {  # of each call to come: whom it hears
            (number, agent): (
                tuple((number, heard) for heard in taken.hears(agent)),
                tuple((number - 1, remembered) for remembered in taken.remembers(agent)),
            )
            for number, taken in enumerate(self.rounds)
            for agent in range(len(team.roles))
        }
        self._speaking = list(self._pending)  # round and agent of every call but the decision
        # returned, or none is needed
        self._decision_is_out = team.decision is not DecisionMethod.final_refer
        self._said: dict[tuple[int, int], AgentMessage] = {}  # by round and agent
        self._decided: Answered | None = None

    def ready(self) -> list[AgentCall]:
        """Return the calls that can be made now and were not returned before; none once a call has
        failed."""
        if self.failed:
            return []
        calls = []
        for (at_round, agent), (spatial, temporal) in list(self._pending.items()):
            if all(source in self._said for source in (*spatial, *temporal)):
                del self._pending[at_round, agent]
                key, role, letters = (
                    f"{self.key}/{at_round}/{agent}",
                    self.team.roles[agent],
                    self.team.letters,
                )
                inputs = self._of(spatial), self._of(temporal)
                calls.append(
                    AgentCall(key, agent, at_round, role, self.team.domain, self.question, *inputs, letters)
                )
        last = self.last_round
        if not self._decision_is_out and len(last) == len(self.team.roles):
            self._decision_is_out = True
            key = f"{self.key}/{DECISION}"
            domain, letters = self.team.domain, self.team.letters
            calls.append(
                AgentCall(key, None, len(self.rounds), None, domain, self.question, last, (), letters)
            )
        return calls

    def take(self, answered: Answered) -> None:
        """Add the answer to a call."""
        turn = answered.turn
        self.answered[turn.id] = answered
        if answered.failed:
            self.failed = self.failed or answered
        elif turn.agent is None or turn.role is None:
            self._decided = answered
        else:
            text, letters = answered.text, self.team.letters
            message = agent_message(turn.agent, turn.role, text, answered.code, answered.is_whole, letters)
            self._said[turn.round, turn.agent] = message

    @property
    def has_ended(self) -> bool:
        """Whether there is an answer, or a call has failed."""
        if self.failed or self._decided:
            return True
        return self.team.decision is not DecisionMethod.final_refer and len(self.answered) == len(
            self._speaking
        )

    @property
    def speaker(self) -> Answered:
        """The call whose text is the team's: the decision, or the last agent's."""
        assert self.has_ended
        at_round, agent = self._speaking[-1]
        last = f"{self.key}/{at_round}/{agent}"
        return self.failed or self._decided or self.answered[last]

    @property
    def answer(self) -> str | None:
        """The number or letter that the team has agreed on."""
        if self.failed:
            return None
        match self.team.decision:
            case DecisionMethod.majority_vote:
                return majority(self.votes)
            case DecisionMethod.direct:
                return self.votes[-1]
            case DecisionMethod.final_refer:
                return self.speaker.answer

    @property
    def votes(self) -> list[str | None]:
        """The number or letter of each agent in the last round."""
        return [message.answer for message in self.last_round]

    @property
    def text(self) -> str:
        """The reply that counts as the team's: the decision's, or the last agent's."""
        is_agents = not self.failed and self.team.decision is DecisionMethod.direct
        return self.last_round[-1].text if is_agents else self.speaker.text

    @property
    def last_round(self) -> tuple[AgentMessage, ...]:
        """What the agents said in the last round."""
        last = len(self.rounds) - 1
        return self._of([spoken for spoken in self._speaking if spoken[0] == last and spoken in self._said])

    def _of(self, sources: Iterable[tuple[int, int]]) -> tuple[AgentMessage, ...]:
        return tuple(self._said[source] for source in sources)


class SampledDiscussion(Discussion):
    """One question that one agent answers several times; no sample is told of another."""

    def __init__(self, team: Team, key: str, question: str, samples: int) -> None:
        super().__init__(
            replace(team, roles=team.roles[:1] * samples), key, question, [Round((), (), (), 0.0)]
        )


def majority(votes: Sequence[str | None]) -> str | None:
    """Return the number or letter that most agents have; ties go to the earliest agent."""
    counts = Counter(vote for vote in votes if vote is not None)
    return counts.most_common(1)[0][0] if counts else None


def _characters(messages: Sequence[Message]) -> int:
    return sum(len(message.content) for message in messages)
