"""The local engine: batched, left-padded decoding of a transformers model on one device.

Prompts are sorted by length (longest first, so that what does not fit fails early), cut into batches, prefilled
once and decoded step by step. A row leaves as soon as it ends; once half the rows of a batch are gone, their
share of the KV cache is dropped.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jinja2 import TemplateError

from runner.config import RunnerConfig
from runner.engine.base import Completion, EngineReport, EngineStats, Message, Request, prompt_sha256
from runner.engine.sampling import Sampler
from runner.engine.shelf import Shelf
from runner.errors import ConfigError
from runner.model.load import Loaded, adapt, load_base, release
from runner.result import FinishReason


@dataclass
class Row:
    """A request on its way: what it asks, and what it has got so far."""

    request: Request
    prompt: list[int]
    sha256: str
    limit: int  # new tokens it may have
    tokens: list[int] = field(default_factory=list)
    first_token_s: float = 0.0


class LocalEngine:
    """Runs the model that the groups model, quantization, lora and rope describe."""

    def __init__(self, config: RunnerConfig, shelf: Shelf | None = None) -> None:
        self.config = config
        self.stats = EngineStats()
        self._own_shelf = shelf is None
        self._shelf = shelf or Shelf()
        self._loaded: Loaded | None = None

    def load(self) -> EngineReport:
        """Load the model if that has not happened, and report what is there."""
        loaded = self._model()
        return EngineReport(dict(loaded.metrics), dict(loaded.facts), list(loaded.notes))

    def close(self) -> None:
        """Take the adapter off; let go of the base, unless it was put on a shelf for the next job."""
        if self._loaded is not None and not (release(self._loaded, self.config) and not self._own_shelf):
            self._shelf.clear()
        self._loaded = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def encode(self, request: Request) -> tuple[str | Sequence[int], list[int]]:
        """Return the prompt as the model sees it (text, or ids as given) and its token ids."""
        return _encode(self._model().tokenizer, request, self.config.model.name)

    def complete(self, requests: Sequence[Request], batch_size: int | None = None) -> Iterator[Completion]:
        """Yield each completion as its row ends."""
        loaded = self._model()
        size = batch_size or self.config.generation.batch_size
        rows = []
        for request in requests:
            row = self._row(loaded, request)
            if row.limit < 1:
                yield _too_long(row, loaded)
            else:
                rows.append(row)
        rows.sort(key=lambda row: len(row.prompt), reverse=True)
        for start in range(0, len(rows), size):
            yield from self._decode(loaded, rows[start : start + size])

    def _model(self) -> Loaded:
        if self._loaded is None:
            base, reused = self._shelf.get(self.config, load_base)
            try:
                self._loaded = adapt(base, self.config)
            except BaseException:
                self._shelf.clear()  # half an adapter may be on it
                raise
            self._loaded.metrics["base_loads"] = 0 if reused else 1
            self.stats.load_s += self._loaded.metrics["load_s"]
        return self._loaded

    def _row(self, loaded: Loaded, request: Request) -> Row:
        text, ids = _encode(loaded.tokenizer, request, self.config.model.name)
        room = int(min(loaded.metrics["max_positions"], 1e9)) - len(ids)
        limit = min(request.max_new_tokens or self.config.generation.max_new_tokens, room)
        return Row(request, ids, prompt_sha256(text), limit)

    def _decode(self, loaded: Loaded, rows: list[Row]) -> Iterator[Completion]:
        from transformers import DynamicCache

        device, stops = loaded.device, _stop_tokens(loaded)
        started = time.perf_counter()
        input_ids, mask = _left_pad([row.prompt for row in rows], loaded.tokenizer.pad_token_id or 0, device)  # [B, P]
        positions = (mask.cumsum(dim=-1) - 1).clamp_(min=0)  # [B, P]: padding does not count
        cache = DynamicCache(config=loaded.model.config)
        vocab_size = int(loaded.metrics["vocab_size"])
        indices, prompts = [row.request.index for row in rows], [row.prompt for row in rows]
        sampler = Sampler(self.config.generation, self.config.seed, indices, prompts, vocab_size, device)

        tokens = sampler.pick(self._forward(loaded, input_ids, mask, positions, cache))  # [B]
        chosen: list[int] = tokens.tolist()  # waits for the device
        busy_s = time.perf_counter() - started  # time spent here: what the caller does with a completion is not ours
        self.stats.prefill_s += busy_s
        self.stats.prefill_tokens += sum(len(row.prompt) for row in rows)
        for row in rows:
            row.first_token_s = busy_s

        alive = list(range(len(rows)))  # places in the batch of the rows that still want tokens
        while True:
            started = time.perf_counter()
            completions = []
            for at in alive:
                rows[at].tokens.append(chosen[at])
                reason = _finished(rows[at], stops, loaded.tokenizer)
                if reason is not None:
                    completions.append((at, _completion(rows[at], reason, stops, loaded.tokenizer, busy_s)))
            self.stats.decode_s += time.perf_counter() - started
            yield from (completion for _, completion in completions)
            ended = {at for at, _ in completions}
            alive = [at for at in alive if at not in ended]
            if not alive:
                return
            started = time.perf_counter()
            if len(alive) <= len(rows) // 2:
                kept = torch.tensor(alive, device=device)
                cache.batch_select_indices(kept)
                sampler.keep(kept)
                mask, positions, tokens = mask[kept], positions[kept], tokens[kept]
                rows = [rows[at] for at in alive]
                alive = list(range(len(rows)))
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)  # [B, P + steps]
            positions = positions[:, -1:] + 1  # [B, 1]
            tokens = sampler.pick(self._forward(loaded, tokens[:, None], mask, positions, cache))
            chosen = tokens.tolist()
            step_s = time.perf_counter() - started
            busy_s += step_s
            self.stats.decode_s += step_s
            self.stats.decode_tokens += len(alive)

    def _forward(
        self, loaded: Loaded, input_ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Any
    ) -> torch.Tensor:
        """Return the logits [B, V] after the last position."""
        with torch.inference_mode():
            output = loaded.model(
                input_ids=input_ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        logits: torch.Tensor = output.logits[:, -1]
        return logits


def _encode(tokenizer: Any, request: Request, model_name: str) -> tuple[str | Sequence[int], list[int]]:
    """Return the prompt as the model sees it (text, or ids as given) and its token ids."""
    prompt = request.prompt
    if isinstance(prompt, str):
        return prompt, tokenizer(prompt)["input_ids"]
    if all(isinstance(part, Message) for part in prompt):
        if not tokenizer.chat_template:
            raise ConfigError(
                f"model.name={model_name} has no chat template, so it cannot be asked as a chat: "
                "use task.prompt=text (gsm8k) or task.format=raw (generate)"
            )
        turns = [{"role": part.role, "content": part.content} for part in prompt if isinstance(part, Message)]
        try:
            text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:  # some templates refuse a system message, or two turns of one role in a row
            roles = ", ".join(turn["role"] for turn in turns)
            raise ConfigError(f"the chat template of model.name={model_name} refuses {roles}: {error}") from error
        return text, tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = [part for part in prompt if isinstance(part, int)]
    return ids, ids


def _left_pad(prompts: list[list[int]], pad: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and mask, both [B, longest], the prompts flush right."""
    width = max(map(len, prompts))
    ids = [[pad] * (width - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _stop_tokens(loaded: Loaded) -> frozenset[int]:
    """The tokens that end a completion, by the tokenizer and by the model's generation config."""
    declared = getattr(loaded.model.generation_config, "eos_token_id", None)
    several = declared if isinstance(declared, list) else [declared]
    return frozenset(token for token in [loaded.tokenizer.eos_token_id, *several] if token is not None)


def _finished(row: Row, stops: frozenset[int], tokenizer: Any) -> FinishReason | None:
    """Say why the row has ended, or None while it goes on."""
    if not row.request.ignore_eos:
        if row.tokens[-1] in stops:
            return FinishReason.stop
        if row.request.stop:
            # a token holds at least one byte, so this many tokens hold any stop string that the last one completes
            reach = max(len(stop.encode()) for stop in row.request.stop) + 4
            tail = tokenizer.decode(row.tokens[-reach:], skip_special_tokens=True)
            if any(stop in tail for stop in row.request.stop):
                return FinishReason.stop
    return FinishReason.length if len(row.tokens) >= row.limit else None


def _completion(row: Row, reason: FinishReason, stops: frozenset[int], tokenizer: Any, seconds: float) -> Completion:
    said = row.tokens[:-1] if row.tokens[-1] in stops and not row.request.ignore_eos else row.tokens
    text = tokenizer.decode(said, skip_special_tokens=True)
    cuts = [at for stop in row.request.stop if (at := text.find(stop)) >= 0]
    return Completion(
        index=row.request.index,
        text=text[: min(cuts)] if cuts else text,
        token_ids=row.tokens,
        finish_reason=reason,
        prompt_sha256=row.sha256,
        prompt_tokens=len(row.prompt),
        first_token_s=row.first_token_s,
        seconds=seconds,
    )


def _too_long(row: Row, loaded: Loaded) -> Completion:
    room = int(loaded.metrics["max_positions"])
    return Completion(
        index=row.request.index,
        text="",
        token_ids=[],
        finish_reason=FinishReason.error,
        prompt_sha256=row.sha256,
        prompt_tokens=len(row.prompt),
        first_token_s=0.0,
        seconds=0.0,
        error=f"the prompt has {len(row.prompt)} tokens, the model has room for {room}",
    )
