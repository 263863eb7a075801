"""State of a team's discussion of one question: the agent calls that are ready, and whether the discussion
has ended.

A discussion is plain state without engine and files. So a new answer and a recorded one
have the same effect.

One agent may also answer a question several times. A vote over the samples is
self-consistency. The deciding agent, which reads all samples, picks the best one.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from runner.options.agents.agent_prompts import (
    AgentMessage,
    build_agent_messages,
    build_decision_messages,
    extract_agent_answer,
    make_agent_reply,
)
from runner.options.agents.graph import Round
from runner.options.agents.keys import DECISION, DecisionMethod, PromptStyle, Role
from runner.sandbox.sandbox import CodeOutcome
from runner_base import Call, FinishReason
from runner_engine import Message

Sources = tuple[tuple[int, int], ...]  # round and agent of each message that is heard


@dataclass(frozen=True)
class Team:
    """A team of agents, and the method by which it decides on one answer."""

    roles: tuple[Role, ...]  # of each agent
    domain: PromptStyle
    decision: DecisionMethod
    letters: bool = False  # answers are letters of choices, and not numbers

    @classmethod
    def create_team_with_cycled_roles(
        cls,
        num_agents: int,
        roles: Sequence[Role] | None,
        prompt_style: PromptStyle,
        decision: DecisionMethod,
        expects_letter: bool = False,
    ) -> Team:
        """Create a team of agents. If there are more agents than roles, the roles are repeated."""
        cycle = list(roles or Role)
        return cls(
            tuple(cycle[agent % len(cycle)] for agent in range(num_agents)),
            prompt_style,
            decision,
            expects_letter,
        )

    @property
    def role_titles(self) -> tuple[str, ...]:
        """The role name of each agent."""
        return tuple(role.words for role in self.roles)


@dataclass(frozen=True)
class PromptEdge:
    """Graph edge that passes one agent's reply into the prompt of another agent.

    Edges to the deciding agent are spatial.
    """

    kind: str
    source: int
    target: int | None  # None: the decision

    @property
    def sort_key(self) -> tuple[int, int]:
        return self.source, -1 if self.target is None else self.target

    def __str__(self) -> str:
        target = DECISION if self.target is None else str(self.target + 1)
        return f"{self.source + 1} → {target}{(' (previous round)' if self.kind == 'temporal' else '')}"


@dataclass(frozen=True)
class AgentCall:
    """A model call of one agent in one round, with the replies that its prompt contains."""

    id: str
    agent: int | None  # None: the agent that decides
    round: int
    role: Role | None
    domain: PromptStyle
    question: str
    spatial: tuple[AgentMessage, ...]
    temporal: tuple[AgentMessage, ...]
    letters: bool = False

    @property
    def role_name(self) -> str:
        return DECISION if self.role is None else self.role.words

    @property
    def writes_code(self) -> bool:
        return self.role is not None and self.role.writes_code

    @cached_property
    def messages(self) -> tuple[Message, ...]:
        return self._build_messages(self.spatial, self.temporal)

    @cached_property
    def messages_sha256(self) -> str:
        """SHA-256 of the call's chat messages. It does not depend on a tokenizer."""
        text = json.dumps([message.to_dict() for message in self.messages], ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def compute_prompt_fraction_by_edge(self) -> dict[PromptEdge, float]:
        """Return the fraction of the prompt's characters that comes from each graph edge."""
        whole = _count_characters(self.messages)
        shares = {}
        for kind, inputs in (("spatial", self.spatial), ("temporal", self.temporal)):
            for message in inputs:
                others = tuple(other for other in inputs if other is not message)
                rest = (others, self.temporal) if kind == "spatial" else (self.spatial, others)
                link = PromptEdge(kind, message.agent, self.agent)
                shares[link] = (whole - _count_characters(self._build_messages(*rest))) / whole
        return shares

    def _build_messages(
        self, spatial: tuple[AgentMessage, ...], temporal: tuple[AgentMessage, ...]
    ) -> tuple[Message, ...]:
        if self.role is None:
            return build_decision_messages(self.domain, self.question, spatial, self.letters)
        return build_agent_messages(self.role, self.domain, self.question, spatial, temporal, self.letters)


@dataclass(frozen=True)
class AnsweredCall:
    """An answered agent call: its completion, and the outcome of its program if it has one."""

    turn: AgentCall
    call: Call
    code: CodeOutcome | None = None

    @property
    def is_failed(self) -> bool:
        return self.call.failed

    @property
    def answer(self) -> str | None:
        """The number or letter that the agent's reply gives as its answer."""
        return extract_agent_answer(self.turn.role, self.text, self.code, self.is_complete, self.turn.letters)

    @property
    def text(self) -> str:
        """Text of the reply without the model's thinking. It contains the answer, and other agents read
        it.
        """
        return self.call.answer.parts.answer

    @property
    def is_complete(self) -> bool:
        """Whether the reply is complete: not truncated, and not inside the model's thinking."""
        answer = self.call.answer
        return answer.finish_reason is FinishReason.stop and not answer.parts.is_open


class Discussion:
    """A team's discussion of one question.

    `take_ready_calls` returns the next agent calls, and `add_answer` stores their answers.
    """

    def __init__(self, team: Team, key: str, question: str, rounds: Sequence[Round]) -> None:
        self.team, self.key, self.question, self.rounds = team, key, question, tuple(rounds)
        self.answered: dict[str, AnsweredCall] = {}  # by id, in order of arrival
        self.failed: AnsweredCall | None = None  # the call whose error is the question's
        self._pending: dict[
            tuple[int, int], tuple[Sources, Sources]
        ] = {  # of each call to come: whom it hears
            (number, agent): (
                tuple((number, heard) for heard in taken.spatial_sources(agent)),
                tuple((number - 1, remembered) for remembered in taken.temporal_sources(agent)),
            )
            for number, taken in enumerate(self.rounds)
            for agent in range(len(team.roles))
        }
        self._speaking = list(self._pending)  # round and agent of every call but the decision
        # returned, or none is needed
        self._decision_is_out = team.decision is not DecisionMethod.final_refer
        self._said: dict[tuple[int, int], AgentMessage] = {}  # by round and agent
        self._decided: AnsweredCall | None = None

    def take_ready_calls(self) -> list[AgentCall]:
        """Return the agent calls whose prompts have become complete since the last call of this method.

        The list is empty after a failed call.
        """
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
                inputs = self._replies(spatial), self._replies(temporal)
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

    def add_answer(self, answered_call: AnsweredCall) -> None:
        turn = answered_call.turn
        self.answered[turn.id] = answered_call
        if answered_call.is_failed:
            self.failed = self.failed or answered_call
        elif turn.agent is None or turn.role is None:
            self._decided = answered_call
        else:
            text, letters = answered_call.text, self.team.letters
            message = make_agent_reply(
                turn.agent, turn.role, text, answered_call.code, answered_call.is_complete, letters
            )
            self._said[turn.round, turn.agent] = message

    @property
    def has_ended(self) -> bool:
        """Whether the team has an answer, or a call has failed."""
        if self.failed or self._decided:
            return True
        return self.team.decision is not DecisionMethod.final_refer and len(self.answered) == len(
            self._speaking
        )

    @property
    def final_agent_call(self) -> AnsweredCall:
        assert self.has_ended
        at_round, agent = self._speaking[-1]
        last = f"{self.key}/{at_round}/{agent}"
        return self.failed or self._decided or self.answered[last]

    @property
    def answer(self) -> str | None:
        """The number or letter on which the team has decided, or None."""
        if self.failed:
            return None
        match self.team.decision:
            case DecisionMethod.majority_vote:
                return majority_vote(self.votes)
            case DecisionMethod.direct:
                return self.votes[-1]
            case DecisionMethod.final_refer:
                return self.final_agent_call.answer

    @property
    def votes(self) -> list[str | None]:
        return [message.answer for message in self.last_round]

    @property
    def text(self) -> str:
        """The team's final reply: that of the deciding agent if there is one, otherwise the last agent's."""
        is_agents = not self.failed and self.team.decision is DecisionMethod.direct
        return self.last_round[-1].text if is_agents else self.final_agent_call.text

    @property
    def last_round(self) -> tuple[AgentMessage, ...]:
        last = len(self.rounds) - 1
        return self._replies(
            [spoken for spoken in self._speaking if spoken[0] == last and spoken in self._said]
        )

    def _replies(self, sources: Iterable[tuple[int, int]]) -> tuple[AgentMessage, ...]:
        return tuple(self._said[source] for source in sources)


class SampledDiscussion(Discussion):
    """A question that one agent answers several times independently."""

    def __init__(self, team: Team, key: str, question: str, samples: int) -> None:
        super().__init__(
            replace(team, roles=team.roles[:1] * samples), key, question, [Round((), (), (), 0.0)]
        )


def majority_vote(votes: Sequence[str | None]) -> str | None:
    counts = Counter(vote for vote in votes if vote is not None)
    return counts.most_common(1)[0][0] if counts else None


def _count_characters(messages: Sequence[Message]) -> int:
    return sum(len(message.content) for message in messages)
