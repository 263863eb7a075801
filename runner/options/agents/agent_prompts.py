"""Builds the chat messages for the agents' model calls and for the team's final decision.

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
from runner.options.agents.wording import PromptTexts, load_prompt_texts
from runner.sandbox.sandbox import CodeOutcome
from runner.scorers import extract_by_all_extractors, extract_canonical_answer, numbers
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
    """An agent's reply in one discussion round: its text, its extracted answer, and the outcome of its
    program.
    """

    agent: int  # from 0 on
    role: Role
    text: str
    answer: str | None
    code: CodeOutcome | None = None


def extract_agent_answer(
    role: Role | None,
    reply_text: str,
    code_outcome: CodeOutcome | None = None,
    is_complete: bool = True,
    expects_letter: bool = False,
) -> str | None:
    """Extract an agent's answer from its reply: its program's result, a number, or a letter. None without an
    answer.

    In a truncated text, only an answer after #### is used.

    A number may be anywhere. Letters occur in many sentences, so a letter marked as the answer
    has precedence.
    """
    if role is not None and role.writes_code:
        return code_outcome.answer if code_outcome else None
    if not expects_letter:
        return extract_canonical_answer(
            reply_text, numbers, Extractor.flexible if is_complete else Extractor.strict
        )
    found = extract_by_all_extractors(reply_text, letter_notation)
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
    """Parse an agent's reply and extract its answer: a number in plain form, or a letter."""
    return AgentMessage(
        agent, role, text, extract_agent_answer(role, text, code, is_complete, expects_letter), code
    )


def build_agent_messages(
    role: Role,
    prompt_style: PromptStyle,
    question: str,
    current_round_replies: Sequence[AgentMessage],
    previous_round_replies: Sequence[AgentMessage],
    expects_letter: bool = False,
) -> tuple[Message, ...]:
    """Build the chat messages of an agent's call.

    Spatial neighbours replied in the same round, temporal neighbours in the previous round.
    """
    wording = load_prompt_texts(prompt_style, expects_letter)
    parts = [wording.question.format(question=question)]
    if role.hears_numbers:
        for hint, neighbours in (
            (wording.numbers_now, current_round_replies),
            (wording.numbers_before, previous_round_replies),
        ):
            numbers = [neighbour.answer for neighbour in neighbours if neighbour.answer is not None]
            if numbers:
                parts.append(hint.format(numbers=", ".join(numbers)))
    else:
        for title, template, neighbours in (
            (wording.texts_now, wording.said_now, current_round_replies),
            (wording.texts_before, wording.said_before, previous_round_replies),
        ):
            parts += _format_replies(prompt_style, title, template, neighbours)
    return Message("system", build_system_message(role, prompt_style, expects_letter)), Message(
        "user", _join_parts(wording, parts)
    )


def build_decision_messages(
    prompt_style: PromptStyle, question: str, replies: Sequence[AgentMessage], expects_letter: bool = False
) -> tuple[Message, ...]:
    """Return the chat messages for the deciding agent, which reads all replies of the last round."""
    wording = load_prompt_texts(prompt_style, expects_letter)
    parts = [wording.question.format(question=question)]
    parts += _format_replies(prompt_style, wording.texts_last, wording.said_now, replies)
    return Message("system", wording.decision), Message("user", _join_parts(wording, parts))


def build_system_message(role: Role, prompt_style: PromptStyle, expects_letter: bool = False) -> str:
    """Return the system message for a role, with worked examples if the prompt style includes them."""
    wording = load_prompt_texts(prompt_style, expects_letter)
    examples = [
        "Question: {question}\n\nReply:\n{reply}".format(**example)
        for example in wording.examples.get(role, ())
    ]
    return "\n\n".join([wording.heads[role], *(["Examples:", *examples] if examples else [])])


def quote_reply(prompt_style: PromptStyle, message: AgentMessage) -> str:
    """Quote an agent's reply for the prompts of other agents, as a protection against prompt injection."""
    wording = load_prompt_texts(prompt_style)
    text = _truncate_middle(escape_special_tokens(message.text).strip(), wording.longest) or NOTHING
    if not wording.in_one_line:
        text = "\n".join(f"> {line}".rstrip() for line in text.splitlines())
    else:
        # a program's lines are told apart by semicolons
        text = ("; " if message.role.writes_code else " ").join(
            line.strip() for line in text.splitlines() if line.strip()
        )
    if message.code is None:
        return text
    why = _truncate_middle(" ".join(escape_special_tokens(message.code.why).split()), _LONGEST_WHY)
    result = (
        wording.code_failed.format(why=why)
        if message.code.answer is None
        else wording.code_gives.format(answer=message.code.answer)
    )
    return f"{text}{' ' if wording.in_one_line else chr(10)}{result}"


def escape_special_tokens(text: str) -> str:
    """Insert a space into special tokens of the chat template, so that they are tokenized as plain text.

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


def _truncate_middle(text: str, max_characters: int) -> str:
    """Shorten a text by removing its middle. The end is kept because it contains the answer."""
    if len(text) <= max_characters:
        return text
    half = max_characters // 2
    return f"{text[:half]} … {text[-half:]}"
