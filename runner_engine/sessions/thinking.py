"""Where a row stands between thinking and answer, and what its budget forces.

Tags are read in the text and not in the tokens: a tag may be one special token or several usual
ones. Most tokens cannot end a tag, so a row that does not think costs one look into a table for
each token.

When a budget is spent, the tokens of the closing tag come next, whatever the model would have said.
They are forced by the logits, so that random numbers and penalties are as if the model had drawn
them, and an answer that is continued from its tokens is the one that was not interrupted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from runner_base.thinking import TAGS, Tag, Tags, read
from runner_engine.models.tokenizing import ids_of
from runner_engine.settings.generation import GenerationConfig

MOST_OPENING = 16  # tokens of an opening tag, and of the blanks before it
MOST_PARTIAL = 4  # tokens beyond a budget that may complete a character
MAX_CACHED = 50_000
_NAMED = re.compile(r"(?:</(?P<angle>[\w:.-]{1,40})>|\[/(?P<square>[\w:.-]{1,40})\])")
_THINKS = re.compile(r"think|thought|reasoning(?!_)", re.IGNORECASE)


class Budget(NamedTuple):
    """How long a row may think, and how long its answer may be then."""

    tokens: int
    answer_tokens: int
    end: str | None = None  # the text that ends the thinking; None: the closing tag


@dataclass
class Thought:
    """How far a row is between thinking and answer."""

    opened_by: Tag | None = None  # the prompt ended in this opening tag
    budget: Budget | None = None  # None: it thinks as long as it wants
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

    def at_start(self) -> Thought:
        """Return where the row stood before its first token."""
        return Thought(self.opened_by, self.budget)

    @property
    def in_thinking(self) -> bool:
        """Whether the row's text begins within the thinking."""
        return self.opened_by is not None

    @property
    def used(self) -> int:
        """The tokens of thinking so far."""
        return self.tokens + (self.seen - self.begins_at if self.tag is not None else 0)


class ThoughtReader:
    """Follows the thinking of rows, token by token."""

    def __init__(self, tokenizer: Any, tags: Tags, raw_text: Callable[[Sequence[int]], str]) -> None:
        self.tokenizer, self.tags, self.raw_text = tokenizer, tags, raw_text
        self._last_characters = frozenset(mark[-1] for tag in tags for mark in tag[:2])
        self._may_end: dict[int, bool] = {}  # whether a token may be the last one of a tag
        self._ends: dict[tuple[Tag, str | None], list[int]] = {}

    def follow(self, thought: Thought, tokens: Sequence[int]) -> None:
        """Look at the tokens that have come; afterwards `thought` says where the row stands, and
        what must follow.

        It stops before a token that is not the one that had to come: an answer may begin with those
        of another budget.
        """
        is_free = not thought.forced and (thought.tag is None or thought.budget is None)
        is_next = thought.seen + 1 == len(tokens) and not thought.is_undecided
        if is_free and is_next and self._may_end.get(tokens[-1]) is False:  # the usual case
            thought.seen += 1
            return
        self._force(thought, tokens)
        while thought.seen < len(tokens) and thought.forced[:1] in ([], [tokens[thought.seen]]):
            self._look(thought, tokens)
            self._force(thought, tokens)

    def _look(self, thought: Thought, tokens: Sequence[int]) -> None:
        """Look at one more token."""
        token = tokens[thought.seen]
        thought.seen += 1
        is_forced = bool(thought.forced)
        if is_forced:
            thought.forced.pop(0)
        is_end = is_forced and not thought.forced
        if not (thought.is_undecided or is_end or self._may_end_tag(token)):
            return
        was_undecided, text = thought.is_undecided, self.raw_text(tokens[: thought.seen])
        if is_end and thought.tag is not None and (at := text.rfind(thought.tag.closing)) >= 0:
            thought.closed.append((at, at + len(thought.tag.closing)))
        found = read(text, self.tags, thought.in_thinking, is_whole=False, closed=thought.closed)
        thought.is_undecided = found.is_undecided
        if len(found.spans) == thought.spans:
            return
        thought.spans = len(found.spans)
        assert found.tag is not None
        if found.is_open:
            if thought.tag is None:
                thought.begins_at = thought.seen - was_undecided
            thought.tag = found.tag
            return
        begin = thought.forced_at if is_forced else self._begin_of(found.tag.closing, tokens[: thought.seen])
        thought.tokens += max(begin - (thought.answer_from if thought.tag is None else thought.begins_at), 0)
        thought.tag, thought.answer_from = None, thought.seen - was_undecided

    def close(self, thought: Thought, tokens: Sequence[int]) -> None:
        """Let the closing tag in which the tokens end count, whatever follows it."""
        text = self.raw_text(tokens[: thought.seen])
        if thought.tag is None or not text.endswith(thought.tag.closing):
            return
        mark = thought.tag.closing
        thought.closed.append((len(text) - len(mark), len(text)))
        thought.tokens += self._begin_of(mark, tokens[: thought.seen]) - thought.begins_at
        thought.tag, thought.is_undecided = None, False
        thought.answer_from, thought.spans = thought.seen, thought.spans + 1

    def _force(self, thought: Thought, tokens: Sequence[int]) -> None:
        """Let the tokens that end the thinking come next, if its budget is spent."""
        budget = thought.budget
        if budget is None or thought.tag is None or thought.forced or thought.used < budget.tokens:
            return
        is_partial = self.raw_text(tokens[: thought.seen]).endswith("\ufffd")
        if is_partial and thought.used < budget.tokens + MOST_PARTIAL:
            return
        thought.forced, thought.forced_at, thought.is_spent = (
            self.end_of(thought.tag, budget.end),
            thought.seen,
            True,
        )

    def end_of(self, tag: Tag, end: str | None) -> list[int]:
        """Return a copy of the tokens that end a thinking."""
        known = self._ends.get((tag, end))
        if known is None:
            known = self._ends[tag, end] = end_tokens(self.tokenizer, tag, end)
        return [*known]

    def _may_end_tag(self, token: int) -> bool:
        known = self._may_end.get(token)
        if known is None:
            if len(self._may_end) >= MAX_CACHED:
                self._may_end.clear()
            known = self._may_end[token] = not self._last_characters.isdisjoint(self.raw_text([token]))
        return known

    def _begin_of(self, mark: str, tokens: Sequence[int]) -> int:
        """Return how many tokens are before the last occurrence of a tag."""
        return next((at for at in range(len(tokens) - 1, -1, -1) if mark in self.raw_text(tokens[at:])), 0)


def end_text(tag: Tag, end: str | None) -> str:
    """Return the text that ends a thinking: the closing tag, behind the user's words or within
    them."""
    text = end or ""
    return text if tag.end in text else text + tag.end


def end_tokens(tokenizer: Any, tag: Tag, end: str | None) -> list[int]:
    """Return the tokens that end a thinking."""
    text = end_text(tag, end)
    name = str(getattr(tokenizer, "name_or_path", "the model"))
    before = ids_of(tokenizer, "a", special=False, named=name)
    # alone, some texts begin with another space
    whole = ids_of(tokenizer, "a" + text, special=False, named=name)
    return whole[len(before) :] if whole[: len(before)] == before else ids_of(tokenizer, text, False, name)


def tags_of(generation: GenerationConfig, tokenizer: Any = None) -> Tags:
    """Return the tags around thinking: those of the config, else the usual ones and those that the
    model names itself.

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
