"""The stub engine: no weights, the same answer every time, for wiring up whole grids in seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from runner.config.model import StubConfig
from runner.config.root import RunnerConfig
from runner.core.result import BranchText, FinishReason
from runner.engines.base import Completion, EngineReport, EngineStats, Message, Prompt, Request, Watch, prompt_sha256

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

    def complete(
        self, requests: Sequence[Request], batch_size: int | None = None, watch: Watch | None = None
    ) -> Iterator[Completion]:
        """Echo the head of each prompt; a word counts as a token."""
        for request in requests:
            started = time.perf_counter()
            prompt = _plain(request.prompt)
            whole = " ".join([prompt, *request.branches])
            answers = [self._answer(request, prompt + branch) for branch in request.branches or ("",)]
            cut_off = any(answer.finish_reason is FinishReason.length for answer in answers)
            time.sleep(self.delay_s)
            seconds = time.perf_counter() - started
            prompt_tokens = len(whole.split())
            self.stats.prefill_tokens += prompt_tokens
            self.stats.decode_tokens += sum(len(answer.token_ids) - 1 for answer in answers)
            self.stats.prefill_s += seconds / 2
            self.stats.decode_s += seconds / 2
            if watch is not None and watch.text is not None and not request.branches:
                watch.text(request.index, answers[0].text)
            if watch is not None and watch.step is not None:
                watch.step()
            yield Completion(
                index=request.index,
                text="" if request.branches else answers[0].text,
                token_ids=[] if request.branches else answers[0].token_ids,
                finish_reason=FinishReason.length if cut_off else FinishReason.stop,
                prompt_sha256=prompt_sha256(whole),
                prompt_tokens=prompt_tokens,
                first_token_s=seconds / 2,
                seconds=seconds,
                branches=answers if request.branches else None,
            )

    def _answer(self, request: Request, prompt: str) -> BranchText:
        words = f"[STUB_GENERATION]\n{prompt[:HEAD_CHARACTERS]}...".split(" ")
        limit = request.max_new_tokens or self.max_new_tokens
        kept = words[:limit]
        kept += ["..."] * (limit - len(kept)) if request.ignore_eos else []
        reason = FinishReason.length if len(kept) < len(words) else FinishReason.stop
        return BranchText(" ".join(kept), list(range(len(kept))), reason)

    def close(self) -> None:
        """Nothing to let go of."""


def _plain(prompt: Prompt) -> str:
    """Return any prompt as text."""
    if isinstance(prompt, str):
        return prompt
    return " ".join(part.content if isinstance(part, Message) else str(part) for part in prompt)
