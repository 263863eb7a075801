"""Builds chat messages for an agent's call and for the team's decision, from role, question and
neighbours' replies.

Shared parts come first: a role's system message is the same for all questions, the question
is the same in all rounds, and the neighbours' replies come last. So the engine's prefix
tree computes common prefixes once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from runner.config.extractors import Extractor
from runner.options.agents.keys import PromptStyle, Role
from runner.options.agents.sandbox import CodeOutcome
from runner.options.agents.wording import PromptTexts, load_prompt_texts
from runner.scorers import extract_by_all_extractors, extract_by_extractor, numbers
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
    """One agent's reply in one round: its text, its answer, and the outcome of its program."""

    agent: int  # from 0 on
    role: Role
    text: str
    answer: str | None
    code: CodeOutcome | None = None


def extract_answer(
    role: Role | None,
    text: str,
    code: CodeOutcome | None = None,
    is_complete: bool = True,
    expects_letter: bool = False,
) -> str | None:
    """Return the answer of a reply: its program's result, or the number or letter in its text. A
    truncated text counts only after ####.

    A number may be anywhere. Letters occur in many sentences, so a letter marked as the answer
    has precedence.
    """
    if role is not None and role.writes_code:
        return code.answer if code else None
    if not expects_letter:
        return extract_by_extractor(text, numbers, Extractor.flexible if is_complete else Extractor.strict)
    found = extract_by_all_extractors(text, letter_notation)
    rules = (Extractor.the_answer_is, Extractor.strict, Extractor.boxed, Extractor.flexible)
    return (
        next((found[rule] for rule in rules if found[rule]), None) if is_complete else found[Extractor.strict]
    )


def make_agent_reply(
    agent: int,
    role: Role,
    text: str,
    code: CodeOutcome | None = None,
    is_complete: bool = True,
    expects_letter: bool = False,
) -> AgentMessage:
    """Return an agent's reply with the answer extracted: a number in plain form, or a letter."""
    return AgentMessage(
        agent, role, text, extract_answer(role, text, code, is_complete, expects_letter), code
    )


def build_agent_messages(
    role: Role,
    domain: PromptStyle,
    question: str,
    spatial_replies: Sequence[AgentMessage],
    temporal_replies: Sequence[AgentMessage],
    expects_letter: bool = False,
) -> tuple[Message, ...]:
    """Return the chat messages of an agent's call. Spatial neighbours replied in this round, temporal
    ones in the previous round.
    """
    wording = load_prompt_texts(domain, expects_letter)
    parts = [wording.question.format(question=question)]
    if role.hears_numbers:
        for hint, neighbours in (
            (wording.numbers_now, spatial_replies),
            (wording.numbers_before, temporal_replies),
        ):
            numbers = [neighbour.answer for neighbour in neighbours if neighbour.answer is not None]
            if numbers:
                parts.append(hint.format(numbers=", ".join(numbers)))
    else:
        for title, template, neighbours in (
            (wording.texts_now, wording.said_now, spatial_replies),
            (wording.texts_before, wording.said_before, temporal_replies),
        ):
            parts += _format_replies(domain, title, template, neighbours)
    return Message("system", build_system_message(role, domain, expects_letter)), Message(
        "user", _join_parts(wording, parts)
    )


def build_decision_messages(
    domain: PromptStyle, question: str, replies: Sequence[AgentMessage], expects_letter: bool = False
) -> tuple[Message, ...]:
    """Return the chat messages of the deciding agent, which reads each agent's reply of the last
    round.
    """
    wording = load_prompt_texts(domain, expects_letter)
    parts = [wording.question.format(question=question)]
    parts += _format_replies(domain, wording.texts_last, wording.said_now, replies)
    return Message("system", wording.decision), Message("user", _join_parts(wording, parts))


def build_system_message(role: Role, domain: PromptStyle, expects_letter: bool = False) -> str:
    """Return a role's system message, with worked examples if the prompt style has some."""
    wording = load_prompt_texts(domain, expects_letter)
    examples = [
        "Question: {question}\n\nReply:\n{reply}".format(**example)
        for example in wording.examples.get(role, ())
    ]
    return "\n\n".join([wording.heads[role], *(["Examples:", *examples] if examples else [])])


def quote_reply(domain: PromptStyle, message: AgentMessage) -> str:
    """Return an agent's reply quoted for its neighbours, so that no line can be mistaken for part of
    the prompt itself.
    """
    wording = load_prompt_texts(domain)
    text = _cut_middle(escape_special_tokens(message.text).strip(), wording.longest) or NOTHING
    if not wording.in_one_line:
        text = "\n".join(f"> {line}".rstrip() for line in text.splitlines())
    else:
        # a program's lines are told apart by semicolons
        text = ("; " if message.role.writes_code else " ").join(
            line.strip() for line in text.splitlines() if line.strip()
        )
    if message.code is None:
        return text
    why = _cut_middle(" ".join(escape_special_tokens(message.code.why).split()), _LONGEST_WHY)
    result = (
        wording.code_failed.format(why=why)
        if message.code.answer is None
        else wording.code_gives.format(answer=message.code.answer)
    )
    return f"{text}{' ' if wording.in_one_line else chr(10)}{result}"


def escape_special_tokens(text: str) -> str:
    """Break up a chat template's special tokens in a text: a space is inserted after the first
    character of each.

    Engines insert messages into the template as text, and tokenizers read `<|im_end|>` anywhere
    as the end of the turn. A neighbour's text is data, so it must not be able to end or begin a
    turn.
    """
    return _SPECIAL.sub(r"\g<0> ", text)


def _format_replies(
    domain: PromptStyle, title: str, template: str, replies: Sequence[AgentMessage]
) -> list[str]:
    texts = [
        template.format(agent=message.agent + 1, role=message.role.words, text=quote_reply(domain, message))
        for message in replies
    ]
    return [title, *texts] if texts else []


def _join_parts(wording: PromptTexts, parts: list[str]) -> str:
    return ("\n" if wording.in_one_line else "\n\n").join(parts)


def _cut_middle(text: str, max_characters: int) -> str:
    """Shorten a text by cutting out its middle, because the end contains the answer."""
    if len(text) <= max_characters:
        return text
    half = max_characters // 2
    return f"{text[:half]} … {text[-half:]}"
