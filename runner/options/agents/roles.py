"""The messages of an agent's call and of the decision, from its role, the question and what its
neighbours said.

The shared parts come first: the system message (the role's head and examples) is the same for all
questions, the question is the same in all rounds, and the neighbours' texts come last. So the
engine's prefix tree computes common prefixes once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from runner.config.extractors import Extractor
from runner.options.agents.keys import Domain, Role
from runner.options.agents.sandbox import CodeOutcome
from runner.options.agents.wording import Wording, wording_of
from runner.scorers import extract, extract_all, numbers
from runner.scorers import letters as letter_notation
from runner_engine import Message

ROLES = tuple(Role)
NOTHING = "(no answer)"
# What a chat template's special tokens look like: <|im_end|>, </s>, <end_of_turn>, <｜User｜>,
# [INST], <<SYS>>.
_SPECIAL = re.compile(r"<(?=[|｜/a-zA-Z_])|\[(?=/?[A-Z_]+\])")
_LONGEST_WHY = 200


@dataclass(frozen=True)
class AgentMessage:
    """What an agent said in a round: its text, the answer in it, and the outcome of its program if
    it wrote one."""

    agent: int  # from 0 on
    role: Role
    text: str
    answer: str | None
    code: CodeOutcome | None = None


def answer_of(
    role: Role | None,
    text: str,
    code: CodeOutcome | None = None,
    is_whole: bool = True,
    letters: bool = False,
) -> str | None:
    """Return a program's answer, or the number or letter in a text: if that was cut off, only one
    after ####.

    A number may stand anywhere. Letters stand in many sentences, so one that is marked as the
    answer goes first.
    """
    if role is not None and role.writes_code:
        return code.answer if code else None
    if not letters:
        return extract(text, numbers, Extractor.flexible if is_whole else Extractor.strict)
    found = extract_all(text, letter_notation)
    rules = (Extractor.the_answer_is, Extractor.strict, Extractor.boxed, Extractor.flexible)
    return next((found[rule] for rule in rules if found[rule]), None) if is_whole else found[Extractor.strict]


def agent_message(
    agent: int,
    role: Role,
    text: str,
    code: CodeOutcome | None = None,
    is_whole: bool = True,
    letters: bool = False,
) -> AgentMessage:
    """Return what an agent said, with its number in plain form, or its letter."""
    return AgentMessage(agent, role, text, answer_of(role, text, code, is_whole, letters), code)


def messages(
    role: Role,
    domain: Domain,
    question: str,
    spatial: Sequence[AgentMessage],
    temporal: Sequence[AgentMessage],
    letters: bool = False,
) -> tuple[Message, ...]:
    """Return an agent's call; spatial neighbours spoke in this round, temporal ones in the round
    before."""
    wording = wording_of(domain, letters)
    parts = [wording.question.format(question=question)]
    if role.hears_numbers:
        for hint, neighbours in ((wording.numbers_now, spatial), (wording.numbers_before, temporal)):
            numbers = [neighbour.answer for neighbour in neighbours if neighbour.answer is not None]
            if numbers:
                parts.append(hint.format(numbers=", ".join(numbers)))
    else:
        for title, template, neighbours in (
            (wording.texts_now, wording.said_now, spatial),
            (wording.texts_before, wording.said_before, temporal),
        ):
            parts += _texts(domain, title, template, neighbours)
    return Message("system", head(role, domain, letters)), Message("user", _joined(wording, parts))


def decision_messages(
    domain: Domain, question: str, heard: Sequence[AgentMessage], letters: bool = False
) -> tuple[Message, ...]:
    """Return the call of the deciding agent, which sees what each agent said in the last round."""
    wording = wording_of(domain, letters)
    parts = [wording.question.format(question=question)]
    parts += _texts(domain, wording.texts_last, wording.said_now, heard)
    return Message("system", wording.decision), Message("user", _joined(wording, parts))


def head(role: Role, domain: Domain, letters: bool = False) -> str:
    """Return a role's system message: its head, and its worked examples where the domain has some."""
    wording = wording_of(domain, letters)
    examples = [
        "Question: {question}\n\nReply:\n{reply}".format(**example)
        for example in wording.examples.get(role, ())
    ]
    return "\n\n".join([wording.heads[role], *(["Examples:", *examples] if examples else [])])


def quoted(domain: Domain, message: AgentMessage) -> str:
    """Return what an agent said, as its neighbours see it; no line of it can pass for one of the
    prompt's own."""
    wording = wording_of(domain)
    text = _without_middle(unmarked(message.text).strip(), wording.longest) or NOTHING
    if not wording.in_one_line:
        text = "\n".join(f"> {line}".rstrip() for line in text.splitlines())
    else:
        # a program's lines are told apart by semicolons
        text = ("; " if message.role.writes_code else " ").join(
            line.strip() for line in text.splitlines() if line.strip()
        )
    if message.code is None:
        return text
    why = _without_middle(" ".join(unmarked(message.code.why).split()), _LONGEST_WHY)
    result = (
        wording.code_failed.format(why=why)
        if message.code.answer is None
        else wording.code_gives.format(answer=message.code.answer)
    )
    return f"{text}{' ' if wording.in_one_line else chr(10)}{result}"


def unmarked(text: str) -> str:
    """Return a text without special tokens of a chat template: a blank is inserted after their
    first character.

    Engines put messages into the template as text, and tokenizers then read `<|im_end|>` anywhere
    as the end of the turn. A neighbour's text is data, so it must not be able to end a turn or to
    begin one.
    """
    return _SPECIAL.sub(r"\g<0> ", text)


def _texts(domain: Domain, title: str, template: str, heard: Sequence[AgentMessage]) -> list[str]:
    texts = [
        template.format(agent=message.agent + 1, role=message.role.words, text=quoted(domain, message))
        for message in heard
    ]
    return [title, *texts] if texts else []


def _joined(wording: Wording, parts: list[str]) -> str:
    return ("\n" if wording.in_one_line else "\n\n").join(parts)


def _without_middle(text: str, longest: int) -> str:
    """Shorten a text: its end holds the answer, so its middle is left out."""
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]} … {text[-half:]}"
