"""How rows end: at a stop token, at a stop text in the answer or at a limit; and what text they have.

Stop texts are those of an answer: a row that thinks goes on behind them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from runner_base import Answer, FinishReason
from runner_base.thinking import TAGS, Tags, is_part_of_tag, new_pieces, read
from runner_engine.decode.rows import BROKEN_SAMPLING, NO_NUMBERS, NO_TOKEN, NOT_SAMPLED, Row
from runner_engine.decode.tokens.sampling import leave_only
from runner_engine.grammars import leave_allowed
from runner_engine.models.tokenizing import text_of
from runner_engine.sessions import Completion, Delta, Event, ThoughtReader

MAX_CACHED = 50_000  # answers to whether a token may complete a stop text


class Stopping:
    """Ends rows at a stop token, at a stop text or at their limit, and returns their text.

    It caches which tokens can complete which stop text.
    """

    def __init__(self, tokenizer: Any, stops: frozenset[int] = frozenset(), tags: Tags = TAGS) -> None:
        self.tokenizer, self.stops, self.tags = tokenizer, stops, tags
        self._completes: dict[tuple[str, int], bool] = {}
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self._special = {number for number, token in added.items() if token.special}
        # tags that are special tokens stay in the text, which would not tell thinking from answer
        # without them
        self._tags = {number for number in self._special if is_part_of_tag(added[number].content, tags)}
        self.thoughts = ThoughtReader(tokenizer, tags, self._text)

    def accept(self, row: Row, token: int, seconds: float, events: list[Event]) -> bool:
        """Append a token to a row, add a delta or its completion to the events; return whether it
        goes on."""
        if token in (NO_TOKEN, NOT_SAMPLED):
            of_grammar = None if row.held is None else row.held.error
            row.permanent = row.held is not None and row.held.is_of_request
            row.error = of_grammar or (NO_NUMBERS if token == NO_TOKEN else BROKEN_SAMPLING)
            events.append(self.completion(row, FinishReason.error, seconds))
            return False
        row.tokens.append(token)
        row.token_times.append(time.perf_counter())
        reason = self.finish_reason(row)
        if row.request.deltas:
            events += self.new_deltas(row, is_over=reason is not None)
        if reason is not None:
            events.append(self.completion(row, reason, seconds))
        return reason is None

    def cancel(self, row: Row, seconds: float, events: list[Event]) -> None:
        """End a row as cancelled, with its text so far."""
        if row.request.deltas:
            events += self.new_deltas(row, is_over=True)
        events.append(self.completion(row, FinishReason.cancelled, seconds))

    def completion(self, row: Row, reason: FinishReason, seconds: float) -> Completion:
        return row.completion(reason, seconds, self.answer(row, reason))

    def force(self, logits: torch.Tensor, rows: Iterable[Row], places: Sequence[int] | None = None) -> None:
        """Leave rows whose budget of thinking is spent one token to choose from, and those that a
        grammar holds the tokens that it allows; places: their lines in the logits."""
        bound = [
            (at if places is None else places[at], row)
            for at, row in enumerate(rows)
            if row.thought.budget is not None or row.held is not None
        ]
        forced = {line: self.forced(row) for line, row in bound}
        leave_only(logits, {line: token for line, token in forced.items() if token is not None})
        held = {line: row.held for line, row in bound if row.held is not None}
        leave_allowed(logits, {line: one for line, one in held.items() if one.has_begun})

    def _follow(self, row: Row) -> None:
        """Look at a row's new tokens. What a grammar holds is no thinking, whatever it looks like;
        it begins behind the thinking that the prompt has begun."""
        held = row.held
        if held is not None and held.has_begun:
            held.follow(row.tokens)
            return
        self.thoughts.follow(row.thought, row.tokens)
        if held is None:
            return
        if row.thought.is_undecided:  # the next token would say whether a closing tag counts
            self.thoughts.close(row.thought, row.tokens)
        if row.thought.tag is None:
            held.begins_at = row.thought.answer_from
            held.follow(row.tokens)

    def drop_impossible(self, row: Row) -> None:
        """Drop the tokens that a row was begun with from where its own budget would have ended the
        thinking."""
        self._follow(row)
        del row.tokens[row.thought.seen :]

    def forced(self, row: Row) -> int | None:
        """Return the token that must come next; None if the model chooses."""
        self._follow(row)
        return row.thought.forced[0] if row.thought.forced else None

    def finish_reason(self, row: Row) -> FinishReason | None:
        """Return why the row ends after its last token, or None if it goes on."""
        tokens, request, thought = row.tokens, row.request, row.thought
        self._follow(row)
        if not request.ignore_eos:
            if tokens[-1] in self.stops and not thought.forced:
                return FinishReason.stop
            if request.stop and thought.tag is None and self._is_stopped(row):
                return FinishReason.stop
        if row.held is not None and row.held.is_complete:
            return FinishReason.stop
        budget = thought.budget if thought.tag is None else None
        if budget is not None and len(tokens) - thought.answer_from >= budget.answer_tokens:
            return FinishReason.length
        at_limit = FinishReason.context if row.fills_context else FinishReason.length
        return at_limit if len(tokens) >= row.limit else None

    def _is_stopped(self, row: Row) -> bool:
        """Whether the last token completes a stop text in the answer."""
        tokens, first, is_behind = row.tokens, row.thought.answer_from, row.thought.answer_from > 0
        possible = [stop for stop in row.request.stop if self._may_complete(stop, tokens[-1])]
        if not possible or len(tokens) == first:
            return False
        # a token has at least one byte, so these tokens contain any stop text that the last one
        # completes
        reach = max(len(stop.encode()) for stop in possible) + 4
        while is_behind and first < len(tokens) and not self._text([tokens[first]]).strip():
            first += 1  # blank lines behind the thinking are no end of the answer
        start = max(len(tokens) - reach, first)
        tail = text_of(self.tokenizer, tokens[start:], skip_special_tokens=True)
        if is_behind and start == first:
            tail = tail.lstrip()
        return any(stop in tail for stop in possible)

    def answer(self, row: Row, reason: FinishReason) -> Answer:
        """Return a row's thinking and its answer, without the stop token, cut before the first stop
        text."""
        thought = row.thought
        self._follow(row)
        if self._is_untagged(row):
            return Answer.read(self.whole_text(row), row.tokens, reason, ())
        return Answer.read(
            self.whole_text(row),
            row.tokens,
            reason,
            self.tags,
            in_thinking=row.thought.in_thinking,
            is_spent=thought.is_spent,
            closed=thought.closed,
            thinking_tokens=thought.used,
            answer_tokens=0 if thought.tag is not None else len(row.tokens) - thought.answer_from,
        )

    def _is_untagged(self, row: Row) -> bool:
        """Whether nothing in a row's text is a tag of thinking."""
        return row.request.is_raw or (row.held is not None and not row.thought.in_thinking)

    def whole_text(self, row: Row) -> str:
        """Return a row's text with thinking and tags, without the stop token, cut at the answer's
        first stop text."""
        tokens, request = row.tokens, row.request
        kept = tokens[:-1] if tokens and tokens[-1] in self.stops and not request.ignore_eos else tokens
        has_marks = request.offers_tools or row.held is not None
        text = self._text_with_special(kept) if has_marks else self._text(kept)
        begin = self._answer_begin(row, text)
        return text[: min((at for stop in request.stop if (at := text.find(stop, begin)) >= 0), default=None)]

    def _answer_begin(self, row: Row, text: str) -> int:
        """Return where the answer begins in a row's text, behind blanks; its end if the row is
        still thinking."""
        if not (
            row.request.stop
            and (row.thought.in_thinking or row.thought.spans > 1 or row.thought.is_undecided)
        ):
            return 0
        last = read(text, self.tags, row.thought.in_thinking, closed=row.thought.closed).spans[-1]
        return len(text) if last.is_thinking else len(text) - len(text[last.start :].lstrip())

    def _text(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, without special tokens that are no tags."""
        if self._tags.isdisjoint(tokens):
            return text_of(self.tokenizer, tokens, skip_special_tokens=True)
        kept = [token for token in tokens if token in self._tags or token not in self._special]
        return text_of(self.tokenizer, kept, skip_special_tokens=False)

    def _text_with_special(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens with the special ones, in which many models write calls."""
        return text_of(self.tokenizer, tokens, skip_special_tokens=False)

    def new_deltas(self, row: Row, is_over: bool = False) -> list[Delta]:
        """Return the text since the last delta that no later token can change or cut, without
        tags."""
        text, request = self.whole_text(row), row.request
        in_thinking = row.thought.in_thinking
        tags, in_thinking = ((), False) if self._is_untagged(row) else (self.tags, in_thinking)
        pieces, row.sent = new_pieces(
            text, row.sent, tags, in_thinking, is_over, request.stop, row.thought.closed
        )
        return [Delta(request.id, row.choice, piece.text, piece.is_thinking) for piece in pieces]

    def _may_complete(self, stop: str, token: int) -> bool:
        """Return whether a token's text contains the stop text's last character: most do not, which
        saves a search."""
        key = stop[-1], token
        known = self._completes.get(key)
        if known is None:
            if len(self._completes) >= MAX_CACHED:  # each client of a server may have its own stop texts
                self._completes.clear()
            text = text_of(self.tokenizer, [token])
            # a part of a character decodes to U+FFFD, and a space may be lost at the start of a
            # text
            known = stop[-1] in text or "\ufffd" in text or stop[-1].isspace()
            self._completes[key] = known
        return known
