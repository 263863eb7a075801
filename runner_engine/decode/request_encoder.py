"""How requests become rows: the prompt as the model sees it, its token ids, limits, and what is
wrong with it."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from runner_base import ConfigError, unknown
from runner_base.notes import Note, note
from runner_base.thinking import opened_by
from runner_engine.checkpoints.resolve import ResolvedModel
from runner_engine.decode.rows import Row
from runner_engine.grammars import Grammars, Held
from runner_engine.models.load import Loaded
from runner_engine.models.load_tokenizer import load_tokenizer
from runner_engine.models.tokenizing import ids_of, text_of
from runner_engine.models.vocabulary import check_ids, rows_of
from runner_engine.sessions import (
    MOST_OPENING,
    MOST_PARTIAL,
    Budget,
    ChatTemplate,
    Message,
    OfferedTools,
    Request,
    Thought,
    check_scored,
    end_tokens,
    request_sha256,
    tags_of,
    template_values,
)
from runner_engine.settings.rope import READ_BEYOND
from runner_engine.spec import ModelSpec


class RequestEncoder:
    """Turns requests into rows, in any thread."""

    def __init__(
        self,
        spec: ModelSpec,
        tokenizer: Any,
        model_name: str,
        room: float,
        branch_room: float | None = None,
        own: Mapping[str, Any] | None = None,
        vocab_size: float = math.inf,
        grammars: Grammars | None = None,
    ) -> None:
        self.generation, self.seed = spec.generation.with_model_defaults(own or {}), spec.seed
        self.tokenizer, self.model_name, self.adapters = tokenizer, model_name, spec.lora.names
        self.room = int(min(room, 1e9))  # tokens, the prompt's and the new ones
        self.room_hint = f": {READ_BEYOND} reads on"  # an engine that does not read on empties it
        self.branch_room = self.room if branch_room is None else min(self.room, int(branch_room))
        values = template_values(spec.model.chat_template_kwargs, tokenizer, spec.model.name)
        self.template = ChatTemplate(tokenizer, model_name, values)
        self.vocab_size = vocab_size  # the model's token ids are below it
        self.tags = tags_of(self.generation, tokenizer)
        self.grammars = grammars
        self._lock = threading.Lock()  # tokenizers may not be thread-safe
        self._longest_end: int | None = None  # tokens of the longest end of a thinking that is forced

    def encode(self, request: Request) -> tuple[str | Sequence[int], list[int]]:
        """Return the prompt as the model sees it (text, or ids as given) and its token ids."""
        prompt = request.prompt
        if isinstance(prompt, str):
            return prompt, self._ids(prompt, special=True)
        if all(isinstance(part, Message) for part in prompt):
            text = self._chat([part for part in prompt if isinstance(part, Message)])
            return text, self._ids(text, special=False)
        ids = self._known([part for part in prompt if isinstance(part, int)])
        return ids, ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text that token ids have within a longer text: at its start some tokens lose a
        space."""
        before = self._ids("a", special=False)
        with self._lock:
            alone, text = (
                text_of(self.tokenizer, some, skip_special_tokens=False, clean_up_tokenization_spaces=False)
                for some in (before, [*before, *ids])
            )
        return text[len(alone) :]

    def rows(self, request: Request, is_wanted: Callable[[], bool] = lambda: True) -> list[Row]:
        """Return a row for each choice, for each branch, or for the continuation; a row may have an
        error.

        is_wanted: whether the request has not been cancelled meanwhile."""
        if request.adapter is not None and request.adapter not in self.adapters:
            raise ConfigError(unknown("adapter", request.adapter, self.adapters), code="unknown_choice")
        seen, ids = self.encode(request)
        if request.branches:
            return self._branches(request, seen, ids)
        if request.continuation is not None:
            return [self._continuation(request, seen, ids)]
        sampling = request.sampling.over(self.generation, self.seed).effective
        budget = self._budget(request)
        wanted, room = self._wanted(request) + self._most_thinking(budget), self.room - len(ids)
        limit = min(wanted, room)
        error = None if ids and limit >= 1 else self._rejection_reason(len(ids))
        sha256, tag = request_sha256(seen, request), opened_by(self._end_of(seen), self.tags)
        begun: Sequence[tuple[int, ...]] = [()] * request.n
        if request.begun is not None and error is None:
            begun = request.begun.of(sha256, request.n)
        return [
            Row(
                request,
                ids,
                sha256,
                limit,
                choice,
                sampling,
                fills_context=room < wanted,
                error=error,
                tokens=list(tokens),
                thought=Thought(tag, budget),
                held=self._held(request, is_wanted),
            )
            for choice, tokens in enumerate(begun)
        ]

    def _held(self, request: Request, is_wanted: Callable[[], bool]) -> Held | None:
        """Return the beginning of the grammar that holds a choice; ConfigError if there is none."""
        if request.grammar is None:
            return None
        assert self.grammars is not None, "an encoder of a loaded model makes rows"
        return self.grammars.begin(request.grammar, is_wanted)

    def _end_of(self, seen: str | Sequence[int]) -> str:
        """Return the end of a prompt as text, in which the opening tag of a thinking may be."""
        if isinstance(seen, str):
            return seen
        with self._lock:
            return text_of(self.tokenizer, seen[-MOST_OPENING:], skip_special_tokens=False)

    def _branches(self, request: Request, seen: str | Sequence[int], main: list[int]) -> list[Row]:
        """Append each text to the prompt, without special tokens; choices count from 1."""
        branches = [self._ids(text, special=False) for text in request.branches]
        longest, room = len(main) + max(map(len, branches)), self.branch_room
        error = None if main else self._rejection_reason(0)
        if longest >= room:
            error = note("branch_too_long", tokens=longest, room=room)
        wanted = self._wanted(request)
        sampling, budget = (
            request.sampling.over(self.generation, self.seed).effective,
            self._budget(request),
        )
        sha256, most = request_sha256(seen, request), wanted + self._most_thinking(budget)
        end = self._end_of(seen)
        return [
            Row(
                request,
                [*main, *ids],
                sha256,
                min(most, room - len(main) - len(ids)),
                number,
                sampling,
                branch_at=len(main),
                error=error,
                thought=Thought(opened_by(f"{end}{text}", self.tags), budget),
            )
            for number, (ids, text) in enumerate(zip(branches, request.branches, strict=True), start=1)
        ]

    def _continuation(self, request: Request, seen: str | Sequence[int], ids: list[int]) -> Row:
        """Cut the continuation's tokens from those of the whole text: its text alone may have other
        tokens."""
        continuation = request.continuation
        if not isinstance(continuation, str):
            given = self._known(list(continuation or ()))
        elif isinstance(seen, str):
            check_scored(request.prompt, seen)
            # a chat template adds the special tokens itself
            is_text = isinstance(request.prompt, str)
            given = self._ids(seen + continuation, special=is_text)[len(ids) :]
        else:
            given = self._ids(continuation, special=False)
        self._known([token for tokens in request.score_token_ids for token in tokens])
        error = None if ids else self._rejection_reason(0)
        if ids and not given:
            error = note("empty_continuation")
        elif len(ids) + len(given) - 1 > self.room:
            error = note("continuation_too_long", tokens=len(ids) + len(given), room=self._room())
        elif request.score_token_ids and len(request.score_token_ids) != len(given):
            error = note("scores_unlike_tokens", entries=len(request.score_token_ids), tokens=len(given))
        return Row(request, ids, request_sha256(seen, request), 0, given=given, error=error)

    def _known(self, ids: list[int]) -> list[int]:
        """Refuse token ids without an embedding: they would break the pass and fail all its
        rows."""
        check_ids(ids, self.vocab_size, self.tokenizer, self.model_name)
        return ids

    def _wanted(self, request: Request) -> int:
        return self.generation.max_new_tokens if request.max_new_tokens is None else request.max_new_tokens

    def _budget(self, request: Request) -> Budget | None:
        """Return the budget of a request's thinking; None if it has none."""
        own, of_job = request.thinking_tokens, self.generation.thinking_tokens
        tokens = of_job if own is None else own
        return None if tokens is None else Budget(tokens, self._wanted(request), self.generation.thinking_end)

    def _most_thinking(self, budget: Budget | None) -> int:
        """Return the most tokens that come before the answer, tags included."""
        if budget is None:
            return 0
        if self._longest_end is None:
            with self._lock:
                self._longest_end = max(len(end_tokens(self.tokenizer, tag, budget.end)) for tag in self.tags)
        return budget.tokens + MOST_OPENING + MOST_PARTIAL + self._longest_end

    def _rejection_reason(self, tokens: int) -> Note:
        return note("prompt_too_long", tokens=tokens, room=self._room()) if tokens else note("empty_prompt")

    def _room(self) -> Note:
        return note("room", tokens=self.room, hint=self.room_hint)

    def _chat(self, messages: list[Message]) -> str:
        """Render the chat template, without the lock, because that may take long."""
        offered = next((message.tools for message in messages if isinstance(message, OfferedTools)), None)
        turns = [message.as_dict() for message in messages if not isinstance(message, OfferedTools)]
        return self.template.render(turns, tools=offered)

    def _ids(self, text: str, special: bool) -> list[int]:
        """Return the token ids of a text, with or without special tokens around them."""
        with self._lock:
            ids = ids_of(self.tokenizer, text, special, self.model_name)
        return self._known(ids)


def own_generation(model: Any) -> dict[str, Any]:
    """Return the settings of the model's generation config that differ from transformers'
    defaults."""
    settings: dict[str, Any] = model.generation_config.to_diff_dict()
    return settings


def stop_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Return the end tokens of the tokenizer and of the model's generation config."""
    declared = getattr(model.generation_config, "eos_token_id", None)
    several = declared if isinstance(declared, list) else [declared]
    return frozenset(token for token in [tokenizer.eos_token_id, *several] if token is not None)


def request_encoder_for(loaded: Loaded, spec: ModelSpec) -> RequestEncoder:
    """Return what turns requests to a loaded model into rows."""
    # branches cannot slide
    window = getattr(loaded.model.config.get_text_config(), "sliding_window", None)
    room, own, vocab_size = (
        loaded.metrics["max_positions"],
        own_generation(loaded.model),
        rows_of(loaded.model),
    )
    stops = stop_tokens(loaded.model, loaded.tokenizer)
    grammars = Grammars(loaded.tokenizer, vocab_size, stops)
    name = spec.model.name
    return RequestEncoder(spec, loaded.tokenizer, name, room, window, own, vocab_size, grammars)


def request_encoder_of(resolved: ResolvedModel) -> RequestEncoder:
    """Return what turns requests into rows, with the tokenizer alone: no weight is read."""
    model = resolved.files.model
    tokenizer = load_tokenizer(f"model.name={model.name}", resolved.files.path, model.trust_remote_code)
    rows = resolved.files.text_settings.get("vocab_size", math.inf)
    return RequestEncoder(resolved.spec, tokenizer, model.name, math.inf, vocab_size=rows)
