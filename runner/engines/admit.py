"""Admission: what a request becomes – its tokens, its limit and how it is sampled, or why it cannot begin."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from runner.config.root import RunnerConfig
from runner.core.errors import ConfigError
from runner.engines.base import Message, Request, prompt_sha256
from runner.engines.rows import Row


class Admission:
    """Turns requests into rows; any thread may ask."""

    def __init__(
        self, config: RunnerConfig, tokenizer: Any, model_name: str, room: float, branch_room: float | None = None
    ) -> None:
        self.generation, self.seed = config.generation, config.seed
        self.tokenizer, self.model_name = tokenizer, model_name
        self.room = int(min(room, 1e9))  # tokens, the prompt's and the new ones
        self.branch_room = self.room if branch_room is None else min(self.room, int(branch_room))
        self._lock = threading.Lock()  # tokenizers do not promise to serve several threads at once

    def encode(self, request: Request) -> tuple[str | Sequence[int], list[int]]:
        """Return the prompt as the model sees it (text, or ids as given) and its token ids."""
        with self._lock:
            return self._encode(request)

    def rows(self, request: Request) -> list[Row]:
        """Return a row for each choice, one for each branch, or one for a continuation; a row may be an error."""
        with self._lock:
            seen, ids = self._encode(request)
            if request.branches:
                return self._branches(request, seen, ids)
            if request.continuation is not None:
                return [self._continuation(request, seen, ids)]
        sampling = request.sampling.over(self.generation, self.seed)
        limit = min(request.max_new_tokens or self.generation.max_new_tokens, self.room - len(ids))
        error = None if ids and limit >= 1 else self._why_not(len(ids))
        sha256 = prompt_sha256(seen)
        return [Row(request, ids, sha256, limit, choice, sampling, error=error) for choice in range(request.n)]

    def _branches(self, request: Request, seen: str | Sequence[int], main: list[int]) -> list[Row]:
        """Put each text behind the prompt as it is, without special tokens; choices count from 1."""
        begun = [self._ids(text, special=False) for text in request.branches]
        longest, room = len(main) + max(map(len, begun)), self.branch_room
        error = None if main else self._why_not(0)
        if longest >= room:
            error = f"the prompt with its longest branch has {longest} tokens, the model has room for {room}"
        wanted = request.max_new_tokens or self.generation.max_new_tokens
        sampling = request.sampling.over(self.generation, self.seed)
        sha256 = prompt_sha256(json.dumps([seen, request.branches], ensure_ascii=False))
        return [
            Row(
                request, [*main, *ids], sha256, min(wanted, room - len(main) - len(ids)), number, sampling,
                branch_at=len(main), error=error,
            )
            for number, ids in enumerate(begun, start=1)
        ]  # fmt: skip

    def _continuation(self, request: Request, seen: str | Sequence[int], ids: list[int]) -> Row:
        """Cut the continuation's tokens from those of the whole text: a word may be other tokens than alone."""
        continuation = request.continuation
        if not isinstance(continuation, str):
            given = list(continuation or ())
        elif isinstance(seen, str):
            is_text = isinstance(request.prompt, str)  # a chat's template has put the special tokens
            given = self._ids(seen + continuation, special=is_text)[len(ids) :]
        else:
            given = self._ids(continuation, special=False)
        error = None if ids else self._why_not(0)
        if ids and not given:
            error = "the continuation has no tokens, so there is nothing to score"
        elif len(ids) + len(given) - 1 > self.room:
            count = len(ids) + len(given)
            error = f"the prompt and its continuation have {count} tokens, the model has room for {self.room}"
        return Row(request, ids, prompt_sha256(seen), 0, given=given, error=error)

    def _why_not(self, tokens: int) -> str:
        if not tokens:
            return "the prompt has no tokens, so there is nothing to go on from"
        return f"the prompt has {tokens} tokens, the model has room for {self.room}"

    def _encode(self, request: Request) -> tuple[str | Sequence[int], list[int]]:
        prompt = request.prompt
        if isinstance(prompt, str):
            return prompt, self._ids(prompt, special=True)
        if all(isinstance(part, Message) for part in prompt):
            text = self._chat([part for part in prompt if isinstance(part, Message)])
            return text, self._ids(text, special=False)
        ids = [part for part in prompt if isinstance(part, int)]
        return ids, ids

    def _chat(self, messages: list[Message]) -> str:
        """Put the turns into the model's template."""
        if not self.tokenizer.chat_template:
            raise ConfigError(
                f"model.name={self.model_name} has no chat template, so it cannot be asked as a chat: "
                "use task.prompt=text (gsm8k) or task.format=raw (generate)"
            )
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            text: str = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:  # some templates refuse a system message, or two turns of one role in a row
            roles = ", ".join(message.role for message in messages)
            raise ConfigError(f"the chat template of model.name={self.model_name} refuses {roles}: {error}") from error
        return text

    def _ids(self, text: str, special: bool) -> list[int]:
        """Return token ids, with or without special tokens around them."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=special)["input_ids"]
        return ids
