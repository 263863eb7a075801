"""Converts requests to token sequences: applies the chat template, tokenizes, and checks limits."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from runner_base import ConfigError, format_unknown_choice_message
from runner_base.notes import Note, note
from runner_base.thinking import find_open_tag
from runner_engine.checkpoints.resolved_model import ResolvedModel
from runner_engine.decode.sequences import TokenSequence
from runner_engine.grammars import GrammarCache, GrammarState
from runner_engine.models.base_loading import LoadedModel
from runner_engine.models.load_tokenizer import load_tokenizer
from runner_engine.models.tokenization import decode_token_ids, encode_text
from runner_engine.models.vocabulary import check_token_ids, count_token_ids_with_embedding
from runner_engine.sessions import (
    MOST_OPENING,
    MOST_PARTIAL,
    ChatTemplate,
    Message,
    OfferedTools,
    Request,
    ThinkingBudget,
    ThinkingState,
    check_scorable_prompt,
    check_template_values,
    encode_thinking_end,
    find_thinking_tags,
    request_sha256,
)
from runner_engine.settings.rope import READ_BEYOND
from runner_engine.spec import ModelSpec


class RequestEncoder:
    """Converts requests to token sequences. Thread-safe."""

    def __init__(
        self,
        spec: ModelSpec,
        tokenizer: Any,
        model_name: str,
        max_context_tokens: float,
        max_branch_tokens: float | None = None,
        model_generation: Mapping[str, Any] | None = None,
        vocab_size: float = math.inf,
        grammars: GrammarCache | None = None,
    ) -> None:
        self.generation, self.seed = spec.generation.apply_model_defaults(model_generation or {}), spec.seed
        self.tokenizer, self.model_name, self.adapters = tokenizer, model_name, spec.lora.adapter_names
        self.room = int(min(max_context_tokens, 1e9))  # tokens, the prompt's and the new ones
        self.room_hint = f": {READ_BEYOND} reads on"  # an engine that does not read on empties it
        self.branch_room = self.room if max_branch_tokens is None else min(self.room, int(max_branch_tokens))
        values = check_template_values(spec.model.chat_template_kwargs, tokenizer, spec.model.name)
        self.template = ChatTemplate(tokenizer, model_name, values)
        self.vocab_size = vocab_size  # the model's token ids are below it
        self.tags = find_thinking_tags(self.generation, tokenizer)
        self.grammars = grammars
        self._lock = threading.Lock()  # tokenizers may not be thread-safe
        self._longest_end: int | None = None  # tokens of the longest end of a thinking that is forced

    def encode_prompt(self, request: Request) -> tuple[str | Sequence[int], list[int]]:
        """Apply the chat template and return the prompt and its token ids.

        The prompt is a text, or token ids if the request gives them.
        """
        prompt = request.prompt
        if isinstance(prompt, str):
            return prompt, self._tokenize(prompt, add_special_tokens=True)
        if all(isinstance(part, Message) for part in prompt):
            text = self._render_chat([part for part in prompt if isinstance(part, Message)])
            return text, self._tokenize(text, add_special_tokens=False)
        ids = self._check_token_ids([part for part in prompt if isinstance(part, int)])
        return ids, ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """Decode token ids as text from the middle of a longer text.

        Some tokenizers drop a leading space at the start of a text.
        """
        before = self._tokenize("a", add_special_tokens=False)
        with self._lock:
            alone, text = (
                decode_token_ids(
                    self.tokenizer, some, skip_special_tokens=False, clean_up_tokenization_spaces=False
                )
                for some in (before, [*before, *token_ids])
            )
        return text[len(alone) :]

    def create_sequences(
        self, request: Request, is_active: Callable[[], bool] = lambda: True
    ) -> list[TokenSequence]:
        """Return a request's token sequences: one for each choice or branch, or one for its continuation.

        A sequence that cannot run has an error. is_active: returns False once the request is
        cancelled.
        """
        if request.adapter is not None and request.adapter not in self.adapters:
            raise ConfigError(
                format_unknown_choice_message("adapter", request.adapter, self.adapters),
                code="unknown_choice",
            )
        seen, ids = self.encode_prompt(request)
        if request.branches:
            return self._create_branch_sequences(request, seen, ids)
        if request.continuation is not None:
            return [self._create_sequence_for_scoring(request, seen, ids)]
        sampling = request.sampling.fill_unset_sampling_parameters(self.generation, self.seed).effective
        budget = self._get_thinking_budget(request)
        wanted, room = (
            self._resolve_max_new_tokens(request) + self._compute_max_thinking_tokens(budget),
            self.room - len(ids),
        )
        limit = min(wanted, room)
        error = None if ids and limit >= 1 else self._prompt_length_error(len(ids))
        sha256, tag = request_sha256(seen, request), find_open_tag(self._get_prompt_end(seen), self.tags)
        begun: Sequence[tuple[int, ...]] = [()] * request.n
        if request.begun is not None and error is None:
            begun = request.begun.get_stored_choice_tokens(sha256, request.n)
        return [
            TokenSequence(
                request,
                ids,
                sha256,
                limit,
                choice,
                sampling,
                fills_context=room < wanted,
                error=error,
                tokens=list(tokens),
                thought=ThinkingState(tag, budget),
                held=self._create_grammar_state(request, is_active),
            )
            for choice, tokens in enumerate(begun)
        ]

    def _create_grammar_state(self, request: Request, is_active: Callable[[], bool]) -> GrammarState | None:
        """Return the initial grammar state of a request, or None without a grammar.

        Raises ConfigError for an invalid grammar.
        """
        if request.grammar is None:
            return None
        assert self.grammars is not None, "only the encoder of a loaded model can create sequences"
        return self.grammars.compile_grammar_to_initial_state(request.grammar, is_active)

    def _get_prompt_end(self, prompt: str | Sequence[int]) -> str:
        if isinstance(prompt, str):
            return prompt
        with self._lock:
            return decode_token_ids(self.tokenizer, prompt[-MOST_OPENING:], skip_special_tokens=False)

    def _create_branch_sequences(
        self, request: Request, prompt: str | Sequence[int], prompt_ids: list[int]
    ) -> list[TokenSequence]:
        """Create one sequence per branch: the prompt followed by the branch's text.

        Branch numbers start at 1. No special tokens are added.
        """
        branches = [self._tokenize(text, add_special_tokens=False) for text in request.branches]
        longest, room = len(prompt_ids) + max(map(len, branches)), self.branch_room
        error = None if prompt_ids else self._prompt_length_error(0)
        if longest >= room:
            error = note("branch_too_long", tokens=longest, room=room)
        wanted = self._resolve_max_new_tokens(request)
        sampling, budget = (
            request.sampling.fill_unset_sampling_parameters(self.generation, self.seed).effective,
            self._get_thinking_budget(request),
        )
        sha256, most = request_sha256(prompt, request), wanted + self._compute_max_thinking_tokens(budget)
        end = self._get_prompt_end(prompt)
        return [
            TokenSequence(
                request,
                [*prompt_ids, *ids],
                sha256,
                min(most, room - len(prompt_ids) - len(ids)),
                number,
                sampling,
                branch_at=len(prompt_ids),
                error=error,
                thought=ThinkingState(find_open_tag(f"{end}{text}", self.tags), budget),
            )
            for number, (ids, text) in enumerate(zip(branches, request.branches, strict=True), start=1)
        ]

    def _create_sequence_for_scoring(
        self, request: Request, prompt: str | Sequence[int], prompt_ids: list[int]
    ) -> TokenSequence:
        """Create the sequence that scores a continuation.

        Tokenizes prompt and continuation together, then splits off the continuation's tokens.

        Tokenized alone, the continuation may have different tokens.
        """
        continuation = request.continuation
        if not isinstance(continuation, str):
            given = self._check_token_ids(list(continuation or ()))
        elif isinstance(prompt, str):
            check_scorable_prompt(request.prompt, prompt)
            # a chat template adds the special tokens itself
            is_text = isinstance(request.prompt, str)
            given = self._tokenize(prompt + continuation, add_special_tokens=is_text)[len(prompt_ids) :]
        else:
            given = self._tokenize(continuation, add_special_tokens=False)
        self._check_token_ids([token for tokens in request.score_token_ids for token in tokens])
        error = None if prompt_ids else self._prompt_length_error(0)
        if prompt_ids and not given:
            error = note("empty_continuation")
        elif len(prompt_ids) + len(given) - 1 > self.room:
            error = note(
                "continuation_too_long", tokens=len(prompt_ids) + len(given), room=self._context_limit_note()
            )
        elif request.score_token_ids and len(request.score_token_ids) != len(given):
            error = note("scores_unlike_tokens", entries=len(request.score_token_ids), tokens=len(given))
        return TokenSequence(
            request, prompt_ids, request_sha256(prompt, request), 0, given=given, error=error
        )

    def _check_token_ids(self, token_ids: list[int]) -> list[int]:
        """Raise ConfigError for token ids that have no embedding in the model.

        Such ids would fail the forward pass for all sequences.
        """
        check_token_ids(token_ids, self.vocab_size, self.tokenizer, self.model_name)
        return token_ids

    def _resolve_max_new_tokens(self, request: Request) -> int:
        return self.generation.max_new_tokens if request.max_new_tokens is None else request.max_new_tokens

    def _get_thinking_budget(self, request: Request) -> ThinkingBudget | None:
        own, of_job = request.thinking_tokens, self.generation.thinking_tokens
        tokens = of_job if own is None else own
        return (
            None
            if tokens is None
            else ThinkingBudget(tokens, self._resolve_max_new_tokens(request), self.generation.thinking_end)
        )

    def _compute_max_thinking_tokens(self, budget: ThinkingBudget | None) -> int:
        if budget is None:
            return 0
        if self._longest_end is None:
            with self._lock:
                self._longest_end = max(
                    len(encode_thinking_end(self.tokenizer, tag, budget.end)) for tag in self.tags
                )
        return budget.tokens + MOST_OPENING + MOST_PARTIAL + self._longest_end

    def _prompt_length_error(self, num_tokens: int) -> Note:
        return (
            note("prompt_too_long", tokens=num_tokens, room=self._context_limit_note())
            if num_tokens
            else note("empty_prompt")
        )

    def _context_limit_note(self) -> Note:
        return note("room", tokens=self.room, hint=self.room_hint)

    def _render_chat(self, messages: list[Message]) -> str:
        """Render the chat template without holding a lock, because rendering may be slow."""
        offered = next((message.tools for message in messages if isinstance(message, OfferedTools)), None)
        turns = [message.to_dict() for message in messages if not isinstance(message, OfferedTools)]
        return self.template.render(turns, tools=offered)

    def _tokenize(self, text: str, add_special_tokens: bool) -> list[int]:
        with self._lock:
            ids = encode_text(self.tokenizer, text, add_special_tokens, self.model_name)
        return self._check_token_ids(ids)


def get_non_default_generation_settings(model: Any) -> dict[str, Any]:
    """Return the settings of a model's generation config that differ from transformers'
    defaults.
    """
    settings: dict[str, Any] = model.generation_config.to_diff_dict()
    return settings


def find_stop_token_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Return the end-of-sequence token ids of the tokenizer and of the model's generation config."""
    declared = getattr(model.generation_config, "eos_token_id", None)
    several = declared if isinstance(declared, list) else [declared]
    return frozenset(token for token in [tokenizer.eos_token_id, *several] if token is not None)


def create_request_encoder(loaded: LoadedModel, spec: ModelSpec) -> RequestEncoder:
    # branches cannot slide
    window = getattr(loaded.model.config.get_text_config(), "sliding_window", None)
    room, own, vocab_size = (
        loaded.metrics["max_positions"],
        get_non_default_generation_settings(loaded.model),
        count_token_ids_with_embedding(loaded.model),
    )
    stops = find_stop_token_ids(loaded.model, loaded.tokenizer)
    grammars = GrammarCache(loaded.tokenizer, vocab_size, stops)
    name = spec.model.name
    return RequestEncoder(spec, loaded.tokenizer, name, room, window, own, vocab_size, grammars)


def create_tokenizer_only_encoder(resolved: ResolvedModel) -> RequestEncoder:
    model = resolved.files.model
    tokenizer = load_tokenizer(f"model.name={model.name}", resolved.files.path, model.trust_remote_code)
    rows = resolved.files.text_settings.get("vocab_size", math.inf)
    return RequestEncoder(resolved.spec, tokenizer, model.name, math.inf, vocab_size=rows)
