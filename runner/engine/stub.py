"""The stub engine: no weights, the same answer every time, for wiring up whole grids in seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from runner.config import RunnerConfig, StubConfig
from runner.engine.base import Completion, EngineReport, EngineStats, Message, Prompt, Request, prompt_sha256
from runner.result import FinishReason

HEAD_CHARACTERS = 120


class StubEngine:
    """Answers `[STUB_GENERATION]`, a newline and the first 120 characters of the prompt with `...`."""

    def __init__(self, config: RunnerConfig) -> None:
        assert isinstance(config.model, StubConfig)
        self.delay_s = config.model.delay_s
        self.max_new_tokens = config.generation.max_new_tokens
        self.stats = EngineStats()

    def load(self) -> EngineReport:
        """Report that there is nothing to load."""
        return EngineReport(
            metrics={"load_s": 0.0, "weight_mib": 0.0, "vocab_size": 1000.0, "max_positions": 1e9},
            facts={"architecture": "stub", "device": "none", "dtype": "none"},
            notes=["model=stub: the answers are made up, the times mean nothing"],
        )

    def encode(self, request: Request) -> tuple[str | Sequence[int], list[int]]:
        """Return the plain prompt; a word counts as a token."""
        prompt = _plain(request.prompt)
        return prompt, list(range(len(prompt.split())))

    def complete(self, requests: Sequence[Request], batch_size: int | None = None) -> Iterator[Completion]:
        """Echo the head of each prompt; a word counts as a token."""
        for request in requests:
            started = time.perf_counter()
            prompt = _plain(request.prompt)
            words = f"[STUB_GENERATION]\n{prompt[:HEAD_CHARACTERS]}...".split(" ")
            limit = request.max_new_tokens or self.max_new_tokens
            kept = words[:limit]
            kept += ["..."] * (limit - len(kept)) if request.ignore_eos else []
            time.sleep(self.delay_s)
            seconds = time.perf_counter() - started
            prompt_tokens = len(prompt.split())
            self.stats.prefill_tokens += prompt_tokens
            self.stats.decode_tokens += len(kept) - 1
            self.stats.prefill_s += seconds / 2
            self.stats.decode_s += seconds / 2
            yield Completion(
                index=request.index,
                text=" ".join(kept),
                token_ids=list(range(len(kept))),
                finish_reason=FinishReason.length if len(kept) < len(words) else FinishReason.stop,
                prompt_sha256=prompt_sha256(prompt),
                prompt_tokens=prompt_tokens,
                first_token_s=seconds / 2,
                seconds=seconds,
            )

    def close(self) -> None:
        """Nothing to let go of."""


def _plain(prompt: Prompt) -> str:
    """Return any prompt as text."""
    if isinstance(prompt, str):
        return prompt
    return " ".join(part.content if isinstance(part, Message) else str(part) for part in prompt)
