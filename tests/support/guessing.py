"""Requests, engines and answers for the tests of guessed tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from streams import PROMPTS

from runner_base.dtypes import Dtype
from runner_engine.checkpoints.resolved_model import resolve_model
from runner_engine.local.engine import LocalEngine
from runner_engine.local.preload_checks import check_model_and_adapter_files
from runner_engine.sessions import contract
from runner_engine.sessions.base import Request
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig
from runner_engine.settings.sampling import Sampling
from runner_engine.spec import ModelSpec

NEW_TOKENS = 24


def guessing_engine(
    opened: Callable[..., LocalEngine], folder: Path, speculate: Any = "off", dtype: Dtype = Dtype.float32
) -> LocalEngine:
    """Return an engine that guesses; opened: the fixture that closes it."""
    generation = GenerationConfig(max_new_tokens=NEW_TOKENS, speculate=speculate)
    model = LocalModelConfig(name=str(folder), device="cpu", dtype=dtype)
    return opened(model=model, generation=generation)


def ended(engine: LocalEngine, asked: Sequence[Request], rows: int | None) -> dict[Any, Any]:
    """Return of each answer its tokens, its text and its end."""
    return {
        (done.id, done.choice): (
            done.answer.token_ids,
            done.answer.text,
            done.answer.finish_reason,
            done.error,
        )
        for done in contract.complete_requests(engine, asked, rows)
    }


def asked_of(texts: dict[Any, Any] | None = None) -> list[Request]:
    """Return greedy, sampled and limited requests with shared beginnings; texts: answers within
    which some end."""
    asked = [Request(at, prompt) for at, prompt in enumerate(PROMPTS)]
    asked += [
        Request(f"sampled {at}", prompt, sampling=Sampling(temperature=0.9, top_p=0.95), n=2)
        for at, prompt in enumerate(PROMPTS[:3])
    ]
    asked.append(Request("penalty", PROMPTS[2], sampling=Sampling(repetition_penalty=1.3)))
    counted = Sampling(temperature=1.0, frequency_penalty=0.5)
    asked.append(Request("counted", PROMPTS[3], sampling=counted))
    asked += [Request(f"limit {limit}", PROMPTS[1], max_new_tokens=limit) for limit in (1, 2, 5)]
    asked.append(Request("measured", PROMPTS[0], ignore_eos=True))
    for at in range(0 if texts is None else 3):
        stop = (texts or {})[at, 0][1][5:7]
        asked.append(Request(f"stop {at}", PROMPTS[at], stop=(stop,)))
    return asked


def check(folder: Path, speculate: Any) -> None:
    """Check a model and its draft, as before a load."""
    generation = GenerationConfig(speculate=speculate)
    model = LocalModelConfig(name=str(folder), device="cpu")
    check_model_and_adapter_files(resolve_model(ModelSpec(model, generation=generation)))
