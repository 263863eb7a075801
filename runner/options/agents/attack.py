"""Attacks on one agent of a team: what it is told, what it says, or what of that arrives is not as
it should be.

The agent stays in the graph as any other, and neither the other agents nor the decision are told.
All that an attack makes up follows from the seed and the question, so a restart makes up the same.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from runner.options.agents.keys import Attack
from runner.options.agents.roles import AgentMessage, agent_message
from runner.options.agents.sandbox import CodeOutcome, CodeStatus
from runner.scorers import LETTERS, replaced_letter, replaced_number

LARGEST_ERROR = 9  # a false number is this much larger than the right one, at most
FEWEST_CHOICES = 4  # assumed where the question itself holds the choices, so that nobody has counted them
NOISE = "abcdefghijklmnopqrstuvwxyz"  # neither a number nor the letter of a choice


@dataclass(frozen=True)
class Tampering:
    """What an attack does to the discussion of one question; the default does nothing."""

    attack: Attack = Attack.none
    agent: int = 0  # who is attacked, from 0 on
    seed: str = ""  # of this question
    lie: str = ""  # the false answer

    @classmethod
    def of(cls, attack: Attack, agent: int, seed: str, gold: str, choices: int = 0) -> Tampering:
        """Return the attack on a question whose right answer is known, so that what is false is
        surely wrong."""
        return cls(attack, agent, seed, false_answer(gold, random.Random(f"{seed} lie"), choices))

    def lies(self, agent: int) -> bool:
        """Whether an agent is told to lie."""
        return self.attack is Attack.liar and agent == self.agent

    def said(self, message: AgentMessage) -> AgentMessage:
        """Return what an agent is taken to have said, by listeners, votes and the decision."""
        is_falsified = self.attack is Attack.false_answer and message.agent == self.agent
        return falsified(message, self.lie) if is_falsified else message

    def heard(self, message: AgentMessage, listener: int) -> AgentMessage:
        """Return what arrives over an edge; a cut link leads to another agent, and spares the
        agent's own memory."""
        is_cut = self.attack is Attack.cut_link and message.agent == self.agent != listener
        return noise(message, random.Random(f"{self.seed} {message.text}")) if is_cut else message


def false_answer(gold: str, rng: random.Random, choices: int = 0) -> str:
    """Return a wrong answer: a slightly larger number, or the letter of another choice."""
    if gold in LETTERS:
        letters = LETTERS[: choices or max(FEWEST_CHOICES, LETTERS.index(gold) + 1)]
        return rng.choice(letters.replace(gold, ""))
    error = rng.randint(1, LARGEST_ERROR)
    sign, number = ("-", gold[1:]) if gold.startswith("-") else ("", gold)
    top, slash, bottom = number.partition("/")
    if slash:  # a fraction in lowest terms stays one
        return f"{sign}{int(top) + error * int(bottom)}/{bottom}"
    whole, point, rest = number.partition(".")
    return f"{sign}{int(whole) + error}{point}{rest}"


def falsified(message: AgentMessage, lie: str) -> AgentMessage:
    """Return a reply whose answer is another one wherever it stands; a program gets a last line
    that assigns it."""
    text = message.text.rstrip()
    is_letter = lie in LETTERS
    if message.role.writes_code:
        line, fence = f"answer = {lie!r}" if is_letter else f"answer = {lie}", "\n```"
        text = f"{text.removesuffix(fence)}\n{line}{fence * text.endswith(fence)}"
        return AgentMessage(message.agent, message.role, text, lie, CodeOutcome(lie, CodeStatus.ok))
    if message.answer is not None:
        text = (replaced_letter if is_letter else replaced_number)(text, message.answer, lie)
    told = agent_message(message.agent, message.role, text, letters=is_letter)
    return (
        told
        if told.answer == lie
        else replace(told, text=f"{text}\nThe answer is {lie}".lstrip(), answer=lie)
    )


def noise(message: AgentMessage, rng: random.Random) -> AgentMessage:
    """Return random letters of the same length instead of a message: no answer can be read in
    them."""
    text = "".join(rng.choice(NOISE) if sign.isalnum() else sign for sign in message.text)
    return AgentMessage(message.agent, message.role, text, None)
