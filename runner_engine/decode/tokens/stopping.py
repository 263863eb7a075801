"""Ends sequences at stop tokens, stop strings or limits, and decodes their text.

Stop strings apply to the answer. Inside thinking they do not end a sequence.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from runner_base import Answer, FinishReason
from runner_base.thinking import TAGS, Tags, is_part_of_tag, parse_thinking_spans, split_streamable_text
from runner_engine.decode.sequences import BROKEN_SAMPLING, NO_NUMBERS, NO_TOKEN, NOT_SAMPLED, TokenSequence
from runner_engine.decode.tokens.sampling import force_tokens
from runner_engine.grammars import mask_disallowed_tokens
from runner_engine.models.tokenization import decode_token_ids
from runner_engine.sessions import Completion, Delta, Event, ThinkingTracker

MAX_CACHED = 50_000  # answers to whether a token may complete a stop text


class Stopping:
    """Ends sequences at stop tokens, stop strings or limits, and builds their completions.

    Caches which tokens can complete which stop string.
    """

    def __init__(
        self, tokenizer: Any, stop_token_ids: frozenset[int] = frozenset(), tags: Tags = TAGS
    ) -> None:
        self.tokenizer, self.stops, self.tags = tokenizer, stop_token_ids, tags
        self._completes: dict[tuple[str, int], bool] = {}
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self._special = {number for number, token in added.items() if token.special}
        # tags that are special tokens stay in the text, which would not tell thinking from answer
        # without them
        self._tags = {number for number in self._special if is_part_of_tag(added[number].content, tags)}
        self.thoughts = ThinkingTracker(tokenizer, tags, self._decode_with_thinking_tags)

    def accept_token(
        self, sequence: TokenSequence, token: int, elapsed_s: float, events: list[Event]
    ) -> bool:
        """Append a token to a sequence, and append the resulting events to `events`.

        Returns whether the sequence continues.
        """
        if token in (NO_TOKEN, NOT_SAMPLED):
            of_grammar = None if sequence.held is None else sequence.held.error
            sequence.permanent = sequence.held is not None and sequence.held.is_of_request
            sequence.error = of_grammar or (NO_NUMBERS if token == NO_TOKEN else BROKEN_SAMPLING)
            events.append(self.build_completion(sequence, FinishReason.error, elapsed_s))
            return False
        sequence.tokens.append(token)
        sequence.token_times.append(time.perf_counter())
        reason = self.find_finish_reason(sequence)
        if sequence.request.deltas:
            events += self.build_unsent_text_deltas(sequence, is_finished=reason is not None)
        if reason is not None:
            events.append(self.build_completion(sequence, reason, elapsed_s))
        return reason is None

    def cancel_sequence(self, sequence: TokenSequence, elapsed_s: float, events: list[Event]) -> None:
        """End a sequence as cancelled. Its completion keeps the text generated so far."""
        if sequence.request.deltas:
            events += self.build_unsent_text_deltas(sequence, is_finished=True)
        events.append(self.build_completion(sequence, FinishReason.cancelled, elapsed_s))

    def build_completion(
        self, sequence: TokenSequence, finish_reason: FinishReason, elapsed_s: float
    ) -> Completion:
        return sequence.to_completion(finish_reason, elapsed_s, self.build_answer(sequence, finish_reason))

    def constrain_logits(
        self, logits: torch.Tensor, sequences: Iterable[TokenSequence], indices: Sequence[int] | None = None
    ) -> None:
        """Mask logits of tokens that the grammar disallows.

        After an exhausted thinking budget, only the forced token stays.

        indices: each sequence's index in the logits; None means in order.
        """
        bound = [
            (at if indices is None else indices[at], row)
            for at, row in enumerate(sequences)
            if row.thought.budget is not None or row.held is not None
        ]
        forced = {line: self.get_forced_token(row) for line, row in bound}
        force_tokens(logits, {line: token for line, token in forced.items() if token is not None})
        held = {line: row.held for line, row in bound if row.held is not None}
        mask_disallowed_tokens(logits, {line: one for line, one in held.items() if one.has_started})

    def _update_thinking_and_grammar(self, sequence: TokenSequence) -> None:
        """Update the thinking and grammar states of a sequence with its new tokens.

        Text under a grammar is never thinking. The grammar begins after thinking that the prompt
        has opened.
        """
        held = sequence.held
        if held is not None and held.has_started:
            held.update(sequence.tokens)
            return
        self.thoughts.update(sequence.thought, sequence.tokens)
        if held is None:
            return
        if sequence.thought.is_undecided:  # the next token would say whether a closing tag counts
            self.thoughts.end_thinking_at_closing_tag(sequence.thought, sequence.tokens)
        if sequence.thought.tag is None:
            held.begins_at = sequence.thought.answer_from
            held.update(sequence.tokens)

    def truncate_resumed_tokens(self, sequence: TokenSequence) -> None:
        """Truncate the tokens of a resumed answer at the request's thinking budget."""
        self._update_thinking_and_grammar(sequence)
        del sequence.tokens[sequence.thought.seen :]

    def get_forced_token(self, sequence: TokenSequence) -> int | None:
        self._update_thinking_and_grammar(sequence)
        return sequence.thought.forced[0] if sequence.thought.forced else None

    def find_finish_reason(self, sequence: TokenSequence) -> FinishReason | None:
        """Return the finish reason after the last token of a sequence, or None if the sequence continues."""
        tokens, request, thought = sequence.tokens, sequence.request, sequence.thought
        self._update_thinking_and_grammar(sequence)
        if not request.ignore_eos:
            if tokens[-1] in self.stops and not thought.forced:
                return FinishReason.stop
            if request.stop and thought.tag is None and self._completes_stop_string(sequence):
                return FinishReason.stop
        if sequence.held is not None and sequence.held.is_complete:
            return FinishReason.stop
        budget = thought.budget if thought.tag is None else None
        if budget is not None and len(tokens) - thought.answer_from >= budget.answer_tokens:
            return FinishReason.length
        at_limit = FinishReason.context if sequence.fills_context else FinishReason.length
        return at_limit if len(tokens) >= sequence.limit else None

    def _completes_stop_string(self, sequence: TokenSequence) -> bool:
        tokens, first, is_behind = (
            sequence.tokens,
            sequence.thought.answer_from,
            sequence.thought.answer_from > 0,
        )
        possible = [
            stop for stop in sequence.request.stop if self._can_complete_stop_string(stop, tokens[-1])
        ]
        if not possible or len(tokens) == first:
            return False
        # a token has at least one byte, so these tokens contain any stop text that the last one
        # completes
        reach = max(len(stop.encode()) for stop in possible) + 4
        while (
            is_behind and first < len(tokens) and not self._decode_with_thinking_tags([tokens[first]]).strip()
        ):
            first += 1  # blank lines behind the thinking are no end of the answer
        start = max(len(tokens) - reach, first)
        tail = decode_token_ids(self.tokenizer, tokens[start:], skip_special_tokens=True)
        if is_behind and start == first:
            tail = tail.lstrip()
        return any(stop in tail for stop in possible)

    def build_answer(self, sequence: TokenSequence, finish_reason: FinishReason) -> Answer:
        """Build the answer of a sequence, with the thinking separated from the answer's text.

        The stop token and the first stop string are excluded.
        """
        thought = sequence.thought
        self._update_thinking_and_grammar(sequence)
        if self._ignores_thinking_tags(sequence):
            return Answer.from_text(self.decode_text(sequence), sequence.tokens, finish_reason, ())
        return Answer.from_text(
            self.decode_text(sequence),
            sequence.tokens,
            finish_reason,
            self.tags,
            in_thinking=sequence.thought.is_thinking_at_start,
            is_spent=thought.is_spent,
            closed=thought.closed,
            thinking_tokens=thought.used_tokens,
            answer_tokens=0 if thought.tag is not None else len(sequence.tokens) - thought.answer_from,
        )

    def _ignores_thinking_tags(self, sequence: TokenSequence) -> bool:
        """Whether thinking tags are plain text, as in raw requests and under a grammar."""
        return sequence.request.is_raw or (
            sequence.held is not None and not sequence.thought.is_thinking_at_start
        )

    def decode_text(self, sequence: TokenSequence) -> str:
        """Return the text of a sequence, including thinking and tags, up to the first stop string.

        The stop token is removed.
        """
        tokens, request = sequence.tokens, sequence.request
        kept = tokens[:-1] if tokens and tokens[-1] in self.stops and not request.ignore_eos else tokens
        has_marks = request.has_tools or sequence.held is not None
        text = self._decode_with_special(kept) if has_marks else self._decode_with_thinking_tags(kept)
        begin = self._find_answer_start(sequence, text)
        return text[: min((at for stop in request.stop if (at := text.find(stop, begin)) >= 0), default=None)]

    def _find_answer_start(self, sequence: TokenSequence, text: str) -> int:
        """Return the index of the first non-blank character of the answer.

        Returns the text length while the model thinks.
        """
        if not (
            sequence.request.stop
            and (
                sequence.thought.is_thinking_at_start
                or sequence.thought.spans > 1
                or sequence.thought.is_undecided
            )
        ):
            return 0
        last = parse_thinking_spans(
            text, self.tags, sequence.thought.is_thinking_at_start, forced_tags=sequence.thought.closed
        ).spans[-1]
        return len(text) if last.is_thinking else len(text) - len(text[last.start :].lstrip())

    def _decode_with_thinking_tags(self, tokens: Sequence[int]) -> str:
        """Decode tokens to text without special tokens, except thinking tags."""
        if self._tags.isdisjoint(tokens):
            return decode_token_ids(self.tokenizer, tokens, skip_special_tokens=True)
        kept = [token for token in tokens if token in self._tags or token not in self._special]
        return decode_token_ids(self.tokenizer, kept, skip_special_tokens=False)

    def _decode_with_special(self, tokens: Sequence[int]) -> str:
        """Decode tokens to text with special tokens, which many models use in tool calls."""
        return decode_token_ids(self.tokenizer, tokens, skip_special_tokens=False)

    def build_unsent_text_deltas(self, sequence: TokenSequence, is_finished: bool = False) -> list[Delta]:
        """Return the text generated since the last streamed delta, without thinking tags.

        Text that later tokens may still change is held back.
        """
        text, request = self.decode_text(sequence), sequence.request
        in_thinking = sequence.thought.is_thinking_at_start
        tags, in_thinking = ((), False) if self._ignores_thinking_tags(sequence) else (self.tags, in_thinking)
        pieces, sequence.sent = split_streamable_text(
            text, sequence.sent, tags, in_thinking, is_finished, request.stop, sequence.thought.closed
        )
        return [Delta(request.id, sequence.choice, piece.text, piece.is_thinking) for piece in pieces]

    def _can_complete_stop_string(self, stop_string: str, token: int) -> bool:
        """Whether a token may contain the last character of a stop string.

        Other tokens need no search for the stop string.
        """
        key = stop_string[-1], token
        known = self._completes.get(key)
        if known is None:
            if len(self._completes) >= MAX_CACHED:  # each client of a server may have its own stop texts
                self._completes.clear()
            text = decode_token_ids(self.tokenizer, [token])
            # a part of a character decodes to U+FFFD, and a space may be lost at the start of a
            # text
            known = stop_string[-1] in text or "\ufffd" in text or stop_string[-1].isspace()
            self._completes[key] = known
        return known
