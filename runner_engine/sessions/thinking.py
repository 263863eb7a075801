"""Tracks whether a sequence is thinking or answering. Enforces its thinking budget.

Tags are read in the text and not in the tokens: a tag may be one special token or several
ordinary ones. Most tokens cannot end a tag, so a sequence without thinking costs one
table lookup per token.

When a budget is spent, the tokens of the closing tag come next. They are forced through
the logits, so that random numbers and penalties are as if the model had sampled them, and
a resumed answer equals an uninterrupted one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from runner_base.thinking import TAGS, Tag, Tags, parse_thinking_spans
from runner_engine.models.tokenization import encode_text
from runner_engine.settings.generation import GenerationConfig

MOST_OPENING = 16  # tokens of an opening tag, and of the blanks before it
MOST_PARTIAL = 4  # tokens beyond a budget that may complete a character
MAX_CACHED = 50_000
_NAMED = re.compile(r"(?:</(?P<angle>[\w:.-]{1,40})>|\[/(?P<square>[\w:.-]{1,40})\])")
_THINKS = re.compile(r"think|thought|reasoning(?!_)", re.IGNORECASE)


class ThinkingBudget(NamedTuple):
    """Token limits for the thinking of a sequence and for the answer after thinking."""

    tokens: int
    answer_tokens: int
    end: str | None = None  # the text that ends the thinking; None: the closing tag


@dataclass
class ThinkingState:
    """Thinking state of a sequence: the open tag, token counts and forced tokens."""

    opened_by: Tag | None = None  # the prompt ended in this opening tag
    budget: ThinkingBudget | None = None  # None: it thinks as long as it wants
    tag: Tag | None = field(init=False)  # in whose thinking it is now
    forced: list[int] = field(default_factory=list)  # the tokens that come next
    is_spent: bool = False  # the budget has ended a thinking
    closed: list[tuple[int, int]] = field(default_factory=list)  # where in the text, tags included
    tokens: int = 0  # of thinking that has ended, without tags
    answer_from: int = 0  # tokens before the answer
    seen: int = 0  # tokens of the row that were looked at
    spans: int = 1  # of their text
    begins_at: int = 0  # tokens before the thinking that is open
    forced_at: int = 0  # tokens before the ones that were forced last
    is_undecided: bool = False  # whether the last token was a tag depends on the next one

    def __post_init__(self) -> None:
        self.tag = self.opened_by

    def reset_copy(self) -> ThinkingState:
        return ThinkingState(self.opened_by, self.budget)

    @property
    def is_thinking_at_start(self) -> bool:
        """Whether the generated text starts with thinking, because the prompt opened a thinking tag."""
        return self.opened_by is not None

    @property
    def used_tokens(self) -> int:
        """Number of thinking tokens generated so far."""
        return self.tokens + (self.seen - self.begins_at if self.tag is not None else 0)


class ThinkingTracker:
    """Updates the thinking states of sequences with each new token."""

    def __init__(self, tokenizer: Any, tags: Tags, decode_tokens: Callable[[Sequence[int]], str]) -> None:
        self.tokenizer, self.tags, self.raw_text = tokenizer, tags, decode_tokens
        self._last_characters = frozenset(mark[-1] for tag in tags for mark in tag[:2])
        self._may_end: dict[int, bool] = {}  # whether a token may be the last one of a tag
        self._ends: dict[tuple[Tag, str | None], list[int]] = {}

    def update(self, state: ThinkingState, tokens: Sequence[int]) -> None:
        """Update a thinking state with new tokens, and set the tokens that it forces next.

        Stops before a token that differs from the forced one, because a resumed answer may have
        had another budget.
        """
        is_free = not state.forced and (state.tag is None or state.budget is None)
        is_next = state.seen + 1 == len(tokens) and not state.is_undecided
        if is_free and is_next and self._may_end.get(tokens[-1]) is False:  # the usual case
            state.seen += 1
            return
        self._force_end_of_thinking(state, tokens)
        while state.seen < len(tokens) and state.forced[:1] in ([], [tokens[state.seen]]):
            self._update_state_with_next_token(state, tokens)
            self._force_end_of_thinking(state, tokens)

    def _update_state_with_next_token(self, state: ThinkingState, tokens: Sequence[int]) -> None:
        token = tokens[state.seen]
        state.seen += 1
        is_forced = bool(state.forced)
        if is_forced:
            state.forced.pop(0)
        is_end = is_forced and not state.forced
        if not (state.is_undecided or is_end or self._can_complete_tag(token)):
            return
        was_undecided, text = state.is_undecided, self.raw_text(tokens[: state.seen])
        if is_end and state.tag is not None and (at := text.rfind(state.tag.closing)) >= 0:
            state.closed.append((at, at + len(state.tag.closing)))
        found = parse_thinking_spans(
            text, self.tags, state.is_thinking_at_start, is_complete=False, forced_tags=state.closed
        )
        state.is_undecided = found.is_undecided
        if len(found.spans) == state.spans:
            return
        state.spans = len(found.spans)
        assert found.tag is not None
        if found.is_open:
            if state.tag is None:
                state.begins_at = state.seen - was_undecided
            state.tag = found.tag
            return
        begin = (
            state.forced_at
            if is_forced
            else self._count_tokens_before(found.tag.closing, tokens[: state.seen])
        )
        state.tokens += max(begin - (state.answer_from if state.tag is None else state.begins_at), 0)
        state.tag, state.answer_from = None, state.seen - was_undecided

    def end_thinking_at_closing_tag(self, state: ThinkingState, tokens: Sequence[int]) -> None:
        """End the thinking if the tokens end with a closing tag."""
        text = self.raw_text(tokens[: state.seen])
        if state.tag is None or not text.endswith(state.tag.closing):
            return
        mark = state.tag.closing
        state.closed.append((len(text) - len(mark), len(text)))
        state.tokens += self._count_tokens_before(mark, tokens[: state.seen]) - state.begins_at
        state.tag, state.is_undecided = None, False
        state.answer_from, state.spans = state.seen, state.spans + 1

    def _force_end_of_thinking(self, state: ThinkingState, tokens: Sequence[int]) -> None:
        """When the thinking budget is used up, force the tokens that end thinking."""
        budget = state.budget
        if budget is None or state.tag is None or state.forced or state.used_tokens < budget.tokens:
            return
        is_partial = self.raw_text(tokens[: state.seen]).endswith("\ufffd")
        if is_partial and state.used_tokens < budget.tokens + MOST_PARTIAL:
            return
        state.forced, state.forced_at, state.is_spent = (
            self.get_thinking_end_token_ids(state.tag, budget.end),
            state.seen,
            True,
        )

    def get_thinking_end_token_ids(self, tag: Tag, end_text: str | None) -> list[int]:
        """Return a new list with the token ids that end thinking."""
        known = self._ends.get((tag, end_text))
        if known is None:
            known = self._ends[tag, end_text] = encode_thinking_end(self.tokenizer, tag, end_text)
        return [*known]

    def _can_complete_tag(self, token: int) -> bool:
        known = self._may_end.get(token)
        if known is None:
            if len(self._may_end) >= MAX_CACHED:
                self._may_end.clear()
            known = self._may_end[token] = not self._last_characters.isdisjoint(self.raw_text([token]))
        return known

    def _count_tokens_before(self, tag_text: str, tokens: Sequence[int]) -> int:
        """Return the number of tokens before the last occurrence of a tag."""
        return next(
            (at for at in range(len(tokens) - 1, -1, -1) if tag_text in self.raw_text(tokens[at:])), 0
        )


def build_thinking_end_text(tag: Tag, user_text: str | None) -> str:
    """Return the text that ends thinking.

    The closing tag is appended if the user's text does not contain it.
    """
    text = user_text or ""
    return text if tag.cut_text in text else text + tag.cut_text


def encode_thinking_end(tokenizer: Any, tag: Tag, user_text: str | None) -> list[int]:
    text = build_thinking_end_text(tag, user_text)
    name = str(getattr(tokenizer, "name_or_path", "the model"))
    before = encode_text(tokenizer, "a", add_special_tokens=False, model_name=name)
    # alone, some texts begin with another space
    whole = encode_text(tokenizer, "a" + text, add_special_tokens=False, model_name=name)
    return (
        whole[len(before) :] if whole[: len(before)] == before else encode_text(tokenizer, text, False, name)
    )


def find_thinking_tags(generation: GenerationConfig, tokenizer: Any = None) -> Tags:
    """Return the thinking tags that the config sets.

    Without a config value, returns the usual tags and those of the model.

    A model names tags in its chat template and among its tokenizer's added tokens.
    """
    if generation.thinking_tags:
        known = {tag[:2]: tag for tag in TAGS}
        pairs = zip(generation.thinking_tags[::2], generation.thinking_tags[1::2], strict=True)
        return tuple(known.get(pair, Tag(*pair)) for pair in pairs)
    template = getattr(tokenizer, "chat_template", None)
    texts = list(template.values()) if isinstance(template, dict) else [template or ""]
    added = getattr(tokenizer, "added_tokens_decoder", {})
    texts += [token.content for token in added.values()]
    found = []
    for match in _NAMED.finditer("\n".join(map(str, texts))):
        name, (left, right) = match["angle"] or match["square"], "<>" if match["angle"] else "[]"
        if _THINKS.search(name):
            found.append(Tag(f"{left}{name}{right}", match[0]))
    closings = {tag.closing for tag in TAGS}
    return TAGS + tuple(dict.fromkeys(tag for tag in found if tag.closing not in closings))
