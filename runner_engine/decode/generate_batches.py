"""Static batching with transformers' `generate`, for models whose states only `generate` supports.

`generate` gets prompts of equal length, so that no padding is needed, and runs a batch
until its last sequence ends. Sampling and stopping are ours, as in the other decoders:
the sampler leaves `generate` one token to choose from, and `Stopping` ends the sequences.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from runner_base import signals
from runner_engine.decode.compat_probe import get_max_length_with_fixed_rope
from runner_engine.decode.sequences import TokenSequence
from runner_engine.decode.tokens import Stopping, create_sampler, score_tokens
from runner_engine.memory import MemoryGuard, record_activation_peak, record_cache_peak
from runner_engine.models.base_loading import LoadedModel
from runner_engine.sessions import EngineStats, Event, RequestId


class GenerateBatch:
    """A batch of prompts with equal length that one call of `generate` decodes to the end."""

    def __init__(
        self,
        loaded: LoadedModel,
        sequences: list[TokenSequence],
        stats: EngineStats,
        stopping: Stopping,
        memory_guard: MemoryGuard,
    ) -> None:
        self.loaded, self.stats, self.stopping, self.memory = loaded, stats, stopping, memory_guard
        self.alive, self.width = dict(enumerate(sequences)), len(sequences)

    def step(self, events: list[Event]) -> None:
        started = time.perf_counter()
        rows = list(self.alive.values())
        sampler = create_sampler(rows, int(self.loaded.metrics["vocab_size"]), self.loaded.device)
        self.stats.prefill_tokens += sum(len(row.pending_tokens) for row in rows)

        picked = torch.empty(0, dtype=torch.float32)

        def sample_one_token(_token_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            nonlocal picked
            self.stopping.constrain_logits(scores, self.alive.values(), list(self.alive))
            picked = sampler.sample(scores)
            # generate needs a token for each row, even if it has none
            possible = picked.clamp(min=0)
            return torch.full_like(scores, -math.inf).scatter_(1, possible[:, None], 0.0)

        def accept_tokens_and_find_finished(token_ids: torch.Tensor, _scores: Any, **__: Any) -> torch.Tensor:
            signals.raise_if_signal_waits()
            tokens, passed = picked.tolist(), time.perf_counter() - started
            for at, row in list(self.alive.items()):
                if not row.first_token_s:
                    row.first_token_s = passed
                else:
                    self.stats.decode_tokens += 1
                if not self.stopping.accept_token(row, tokens[at], passed, events):
                    del self.alive[at]
            self.memory.check(self.width if self.alive else 0)  # its error ends generate
            return torch.tensor([at not in self.alive for at in range(self.width)], device=token_ids.device)

        if (
            get_max_length_with_fixed_rope(self.loaded) < math.inf
        ):  # a short pass: the embedding forgets the longest row so far
            with torch.inference_mode():
                self.loaded.model(
                    input_ids=torch.tensor([rows[0].pending_tokens[:1]], device=self.loaded.device)
                )
        prompts, most = (
            [row.pending_tokens for row in rows],
            max(row.limit - len(row.tokens) for row in rows),
        )
        output = generate_with_callbacks(
            self.loaded, prompts, most, sample_one_token, accept_tokens_and_find_finished
        )
        record_cache_peak(self.stats, output.past_key_values)
        record_activation_peak(self.stats, self.loaded, sum(map(len, prompts)), len(prompts))
        passed = time.perf_counter() - started
        self.stats.prefill_s += rows[0].first_token_s
        self.stats.decode_s += passed - rows[0].first_token_s

    def cancel_requests(self, request_ids: Collection[RequestId], events: list[Event]) -> None:
        """Ignore cancellation, because one step decodes whole answers."""


def generate_with_callbacks(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    logits_processor: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    stopping_criterion: Callable[..., torch.Tensor] | None = None,
) -> Any:
    """Run transformers' `generate` on prompts of equal length, with greedy decoding or a logits processor.

    The model's own generation config is not used: sampling and stopping are decided here.
    """
    with torch.inference_mode(), _reset_generation_config(loaded.model):
        return loaded.model.generate(
            input_ids=torch.tensor([list(prompt) for prompt in prompts], device=loaded.device),
            generation_config=GenerationConfig(
                max_new_tokens=max_new_tokens,
                do_sample=False,
                return_dict_in_generate=True,
                output_logits=logits_processor is None,
            ),
            logits_processor=LogitsProcessorList([logits_processor] if logits_processor else []),
            stopping_criteria=StoppingCriteriaList([stopping_criterion] if stopping_criterion else []),
        )


def score_without_cache(loaded: LoadedModel, sequences: list[TokenSequence], stats: EngineStats) -> None:
    for row in sequences:
        with torch.inference_mode():
            logits = loaded.model(input_ids=torch.tensor([row.pending_tokens], device=loaded.device)).logits[
                0
            ]
        given = row.given or []
        record_activation_peak(stats, loaded, len(row.pending_tokens), len(logits))
        score_tokens(row, logits[-len(given) :], given)


@contextmanager
def _reset_generation_config(model: Any) -> Iterator[None]:
    """Context manager that replaces a model's generation config with the default values.

    Also resets the base model inside an adapter model.
    """
    inside = model.get_base_model() if hasattr(model, "get_base_model") else model
    own_settings = [(one, one.generation_config) for one in (model, inside)]
    try:
        for one, _ in own_settings:
            one.generation_config = GenerationConfig()
        yield
    finally:
        for one, settings in own_settings:
            one.generation_config = settings
