"""Static batches through transformers' own `generate`: for models whose state only `generate` can
handle.

`generate` gets prompts of equal length, so that no padding is needed, and runs a batch until its
last row ends. Sampling and stopping are ours, as on the other routes: the sampler leaves `generate`
one token to choose from, and `Stopping` ends the rows.
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
from runner_engine.decode.compat_probe import rope_stable_length
from runner_engine.decode.rows import Row
from runner_engine.decode.tokens import Stopping, sampler_of, score
from runner_engine.memory import MemoryGuard, note_cache, note_pass
from runner_engine.models.load import Loaded
from runner_engine.sessions import EngineStats, Event, RequestId


class Generated:
    """Rows of equal length that one call of `generate` decodes completely."""

    def __init__(
        self, loaded: Loaded, rows: list[Row], stats: EngineStats, stopping: Stopping, memory: MemoryGuard
    ) -> None:
        self.loaded, self.stats, self.stopping, self.memory = loaded, stats, stopping, memory
        self.alive, self.width = dict(enumerate(rows)), len(rows)

    def step(self, events: list[Event]) -> None:
        """Decode all rows."""
        started = time.perf_counter()
        rows = list(self.alive.values())
        sampler = sampler_of(rows, int(self.loaded.metrics["vocab_size"]), self.loaded.device)
        self.stats.prefill_tokens += sum(len(row.pending) for row in rows)

        picked = torch.empty(0, dtype=torch.float32)

        def choose(_: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            nonlocal picked
            self.stopping.force(scores, self.alive.values(), list(self.alive))
            picked = sampler.pick(scores)
            # generate needs a token for each row, even if it has none
            possible = picked.clamp(min=0)
            return torch.full_like(scores, -math.inf).scatter_(1, possible[:, None], 0.0)

        def note(ids: torch.Tensor, _: Any, **__: Any) -> torch.Tensor:
            signals.interrupt_if_noted()
            tokens, passed = picked.tolist(), time.perf_counter() - started
            for at, row in list(self.alive.items()):
                if not row.first_token_s:
                    row.first_token_s = passed
                else:
                    self.stats.decode_tokens += 1
                if not self.stopping.accept(row, tokens[at], passed, events):
                    del self.alive[at]
            self.memory.check(self.width if self.alive else 0)  # its error ends generate
            return torch.tensor([at not in self.alive for at in range(self.width)], device=ids.device)

        if (
            rope_stable_length(self.loaded) < math.inf
        ):  # a short pass: the embedding forgets the longest row so far
            with torch.inference_mode():
                self.loaded.model(input_ids=torch.tensor([rows[0].pending[:1]], device=self.loaded.device))
        prompts, most = ([row.pending for row in rows], max(row.limit - len(row.tokens) for row in rows))
        output = generate(self.loaded, prompts, most, choose, note)
        note_cache(self.stats, output.past_key_values)
        note_pass(self.stats, self.loaded, sum(map(len, prompts)), len(prompts))
        passed = time.perf_counter() - started
        self.stats.prefill_s += rows[0].first_token_s
        self.stats.decode_s += passed - rows[0].first_token_s

    def cancel(self, ids: Collection[RequestId], events: list[Event]) -> None:
        """Nothing is under way between two steps."""


def generate(
    loaded: Loaded,
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    choose: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    note: Callable[..., torch.Tensor] | None = None,
) -> Any:
    """Let `generate` continue prompts of equal length: greedily or by `choose`, until `note` ends
    the rows.

    The model's own generation settings are not used: sampling and stopping are decided here.
    """
    with torch.inference_mode(), _no_settings(loaded.model):
        return loaded.model.generate(
            input_ids=torch.tensor([list(prompt) for prompt in prompts], device=loaded.device),
            generation_config=GenerationConfig(
                max_new_tokens=new_tokens,
                do_sample=False,
                return_dict_in_generate=True,
                output_logits=choose is None,
            ),
            logits_processor=LogitsProcessorList([choose] if choose else []),
            stopping_criteria=StoppingCriteriaList([note] if note else []),
        )


def score_without_cache(loaded: Loaded, rows: list[Row], stats: EngineStats) -> None:
    """Score each continuation in one pass over its prompt and itself, without a cache."""
    for row in rows:
        with torch.inference_mode():
            logits = loaded.model(input_ids=torch.tensor([row.pending], device=loaded.device)).logits[0]
        given = row.given or []
        note_pass(stats, loaded, len(row.pending), len(logits))
        score(row, logits[-len(given) :], given)


@contextmanager
def _no_settings(model: Any) -> Iterator[None]:
    """Remove a model's generation settings temporarily, also those of a model inside an
    adapter's."""
    inside = model.get_base_model() if hasattr(model, "get_base_model") else model
    own_settings = [(one, one.generation_config) for one in (model, inside)]
    try:
        for one, _ in own_settings:
            one.generation_config = GenerationConfig()
        yield
    finally:
        for one, settings in own_settings:
            one.generation_config = settings
