"""A row is one completion that an engine computes: how requests become rows, and how a row ends."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from runner_base import Answer, FinishReason
from runner_base.thinking import Tag, opened_by
from runner_engine.checkpoints.resolve import ResolvedModel
from runner_engine.kv_cache.kv_cache import rounded
from runner_engine.kv_cache.prefix import Prefix
from runner_engine.models.load_tokenizer import load_tokenizer
from runner_engine.models.tokenizing import ids_of, text_of
from runner_engine.models.vocabulary import check_ids
from runner_engine.sessions.base import Completion, Message, Request, check_scored, request_sha256
from runner_engine.sessions.chat_template import ChatTemplate, template_values
from runner_engine.sessions.scores import TokenScores
from runner_engine.sessions.thinking import MOST_OPENING, MOST_PARTIAL, Budget, Thought, end_tokens, tags_of
from runner_engine.settings.sampling import GREEDY, Sampling
from runner_engine.spec import ModelSpec

NO_TOKEN = -1  # a sampler's result if the logits are not numbers
NOT_SAMPLED = -2  # its result if a row's own settings break it
NO_NUMBERS = "the model's logits are not numbers (NaN): its weights are damaged, or overflow in this dtype"
BROKEN_SAMPLING = "its next token could not be sampled with its settings, see the log: other rows go on"


@dataclass(eq=False)
class Row:
    """One of the n choices of a request, one of its branches, or its continuation that is to be scored."""

    request: Request
    prompt: list[int]
    sha256: str
    limit: int  # most new tokens
    choice: int = 0  # number of the choice; of a branch: its number, from 1
    sampling: Sampling = GREEDY  # with all defaults, as far as they change its tokens
    given: list[int] | None = None  # the continuation to score; then nothing is generated
    branch_at: int = 0  # where the branch begins in the prompt
    error: str | None = None  # why it cannot begin or continue
    tokens: list[int] = field(default_factory=list)
    entered_s: float = 0.0
    first_token_s: float = 0.0
    prefix: Prefix | None = None  # the deepest one that it attends to
    source: Prefix | None = None  # a deeper one, of which it gets a copy in its slot
    generator: torch.Generator | None = None
    places: int = 0  # its own tokens in the scheduler's KV cache
    blocks: list[int] = field(default_factory=list)  # of the prompt cache, with the beginning of its pending tokens
    copied: int = 0  # tokens in these blocks
    rest: int = 0  # last tokens of its prefix, of which its slot has a copy before its own ones: less than a page
    sent: int = 0  # characters of its text, tags included, that were sent as deltas or stand between them
    scores: TokenScores = field(default_factory=TokenScores)  # of the continuation's tokens scored so far
    token_times: list[float] = field(default_factory=list)  # when each of its tokens came out
    opened_by: Tag | None = None  # the prompt ended in this opening tag
    budget: Budget | None = None  # of its thinking; None: it thinks as long as it wants
    thought: Thought = field(init=False)  # where it stands between thinking and answer
    permanent: bool = field(init=False)  # the error was known before the row ran, so it would come again

    def __post_init__(self) -> None:
        self.permanent = self.error is not None
        self.thought = Thought(self.opened_by, self.budget)

    def begin_again(self) -> None:
        """Drop its tokens."""
        self.tokens.clear()
        self.thought = Thought(self.opened_by, self.budget)

    @property
    def in_thinking(self) -> bool:
        """Whether its text begins within the thinking."""
        return self.opened_by is not None

    @property
    def path(self) -> list[Prefix]:
        """The shared prefixes that it continues, from the root down."""
        return self.prefix.path if self.prefix else []

    @property
    def needed(self) -> list[Prefix]:
        """The prefixes that are computed before it enters: those of its path, and those that it gets a copy of."""
        return self.source.path if self.source else self.path

    @property
    def shared(self) -> int:
        """Prompt tokens whose keys and values are in shared prefixes."""
        return self.prefix.length if self.prefix else 0

    @property
    def pending(self) -> list[int]:
        """Tokens that the model has not read when the row enters; it need not read a continuation's last one."""
        return self.prompt[self.shared :] + (self.tokens if self.given is None else self.given[:-1])

    @property
    def need(self) -> int:
        """Own tokens that it may have in the KV cache when it ends."""
        more = self.limit if self.given is None else len(self.given) - 1
        own = len(self.prompt) - self.shared + more
        return self.rest + rounded(own) if self.rest else own

    def completion(self, reason: FinishReason, seconds: float, answer: Answer | None = None) -> Completion:
        """Return its completion."""
        return Completion(
            answer or Answer.read("", self.tokens, reason, in_thinking=self.in_thinking),
            id=self.request.id,
            prompt_sha256=self.sha256,
            prompt_tokens=len(self.prompt),
            first_token_s=self.first_token_s,
            seconds=seconds,
            error=self.error,
            permanent=self.permanent,
            choice=self.choice,
            logprobs=self.scores.logprobs or None,
            greedy=self.scores.greedy or None,
            top_logprobs=self.scores.top_logprobs or None,
            drawn_logprobs=self.scores.drawn_logprobs or None,
            score_token_logprobs=self.scores.score_token_logprobs or None,
            min_logprobs=self.scores.min_logprobs or None,
            token_times=self.token_times or None,
        )


class Admission:
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
    ) -> None:
        self.generation, self.seed = spec.generation.with_model_defaults(own or {}), spec.seed
        self.tokenizer, self.model_name = tokenizer, model_name
        self.room = int(min(room, 1e9))  # tokens, the prompt's and the new ones
        self.branch_room = self.room if branch_room is None else min(self.room, int(branch_room))
        values = template_values(spec.model.chat_template_kwargs, tokenizer, spec.model.name)
        self.template = ChatTemplate(tokenizer, model_name, values)
        self.vocab_size = vocab_size  # the model's token ids are below it
        self.tags = tags_of(self.generation, tokenizer)
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
        """Return the text that token ids have within a longer text: at its start some tokens lose a space."""
        before = self._ids("a", special=False)
        with self._lock:
            alone, text = (
                text_of(self.tokenizer, some, skip_special_tokens=False, clean_up_tokenization_spaces=False)
                for some in (before, [*before, *ids])
            )
        return text[len(alone) :]

    def rows(self, request: Request) -> list[Row]:
        """Return a row for each choice, for each branch, or for the continuation; a row may have an error."""
        seen, ids = self.encode(request)
        if request.branches:
            return self._branches(request, seen, ids)
        if request.continuation is not None:
            return [self._continuation(request, seen, ids)]
        sampling = request.sampling.over(self.generation, self.seed).effective
        budget = self._budget(request)
        limit = min(self._wanted(request) + self._most_thinking(budget), self.room - len(ids))
        error = None if ids and limit >= 1 else self._rejection_reason(len(ids))
        sha256, tag = request_sha256(seen, request), opened_by(self._end_of(seen), self.tags)
        begun: Sequence[tuple[int, ...]] = [()] * request.n
        if request.begun is not None and error is None:
            begun = request.begun.of(sha256, request.n)
        return [
            Row(
                request, ids, sha256, limit, choice, sampling, error=error, tokens=list(tokens), opened_by=tag,
                budget=budget,
            )
            for choice, tokens in enumerate(begun)
        ]  # fmt: skip

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
            error = f"the prompt with its longest branch has {longest} tokens, the model has room for {room}"
        wanted = self._wanted(request)
        sampling, budget = request.sampling.over(self.generation, self.seed).effective, self._budget(request)
        sha256, most = request_sha256(seen, request), wanted + self._most_thinking(budget)
        end = self._end_of(seen)
        return [
            Row(
                request, [*main, *ids], sha256, min(most, room - len(main) - len(ids)), number, sampling,
                branch_at=len(main), error=error, opened_by=opened_by(f"{end}{text}", self.tags), budget=budget,
            )
            for number, (ids, text) in enumerate(zip(branches, request.branches, strict=True), start=1)
        ]  # fmt: skip

    def _continuation(self, request: Request, seen: str | Sequence[int], ids: list[int]) -> Row:
        """Cut the continuation's tokens from those of the whole text: its text alone may have other tokens."""
        continuation = request.continuation
        if not isinstance(continuation, str):
            given = self._known(list(continuation or ()))
        elif isinstance(seen, str):
            check_scored(request.prompt, seen)
            is_text = isinstance(request.prompt, str)  # a chat template adds the special tokens itself
            given = self._ids(seen + continuation, special=is_text)[len(ids) :]
        else:
            given = self._ids(continuation, special=False)
        self._known([one for some in request.score_token_ids for one in some])
        error = None if ids else self._rejection_reason(0)
        if ids and not given:
            error = "the continuation has no tokens, so there is nothing to score"
        elif len(ids) + len(given) - 1 > self.room:
            count = len(ids) + len(given)
            error = f"the prompt and its continuation have {count} tokens, the model has room for {self.room}"
        elif request.score_token_ids and len(request.score_token_ids) != len(given):
            count = len(request.score_token_ids)
            error = f"score_token_ids has {count} entries, but the continuation has {len(given)} tokens"
        return Row(request, ids, request_sha256(seen, request), 0, given=given, error=error)

    def _known(self, ids: list[int]) -> list[int]:
        """Refuse token ids without an embedding: they would break the pass and fail all its rows."""
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

    def _rejection_reason(self, tokens: int) -> str:
        if not tokens:
            return "the prompt is empty: it has no tokens"
        return f"the prompt has {tokens} tokens, the model has room for {self.room}"

    def _chat(self, messages: list[Message]) -> str:
        """Render the chat template, without the lock, because that may take long."""
        return self.template.render([message.as_dict() for message in messages])

    def _ids(self, text: str, special: bool) -> list[int]:
        """Return the token ids of a text, with or without special tokens around them."""
        with self._lock:
            ids = ids_of(self.tokenizer, text, special, self.model_name)
        return self._known(ids)


def own_generation(model: Any) -> dict[str, Any]:
    """Return the settings of the model's generation config that differ from transformers' defaults."""
    settings: dict[str, Any] = model.generation_config.to_diff_dict()
    return settings


def stop_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Return the end tokens of the tokenizer and of the model's generation config."""
    declared = getattr(model.generation_config, "eos_token_id", None)
    several = declared if isinstance(declared, list) else [declared]
    return frozenset(token for token in [tokenizer.eos_token_id, *several] if token is not None)


def admission_of(resolved: ResolvedModel) -> Admission:
    """Return what turns requests into rows, with the tokenizer alone: no weight is read."""
    model = resolved.files.model
    tokenizer = load_tokenizer(f"model.name={model.name}", resolved.files.path, model.trust_remote_code)
    rows = resolved.files.text_settings.get("vocab_size", math.inf)
    return Admission(resolved.spec, tokenizer, model.name, math.inf, vocab_size=rows)
