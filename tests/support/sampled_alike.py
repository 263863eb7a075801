"""A question with sampling parameters whose answers are the same everywhere, and differ where a
parameter is dropped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runner import load

QUESTION = "Ann has 3 apples and buys 4 more. How many apples does she have?"
TOKENS = 24
# At a temperature of 5 every token is random, unless min_p=1 leaves only the most probable one. A
# penalty changes the greedy answer.
SAMPLINGS: dict[str, dict[str, Any]] = {
    "min_p": {"temperature": 5, "min_p": 1},
    "frequency_penalty": {"temperature": 0, "frequency_penalty": -2},
    "presence_penalty": {"temperature": 0, "presence_penalty": 2},
}
EXACT = ("model.device=cpu", "model.dtype=float32")


def answers_in_python() -> dict[str, str]:
    """Return the answers in Python by parameter; a greedy answer and a sampled one are the
    controls."""
    with load("embedded", dtype="float32", device="cpu", threads=1) as model:
        texts = {
            name: str(model.generate(QUESTION, max_new_tokens=TOKENS, **sampling))
            for name, sampling in SAMPLINGS.items()
        }
        plain = str(model.generate(QUESTION, max_new_tokens=TOKENS, temperature=0))
        sampled = str(model.generate(QUESTION, max_new_tokens=TOKENS, temperature=5))
    assert texts["min_p"] == plain != sampled
    assert len({plain, texts["frequency_penalty"], texts["presence_penalty"]}) == 3, texts
    return texts


def generated(runner: Callable[..., Any], sampling: dict[str, Any], *arguments: str) -> str:
    """Return the completion of one job."""
    keys = [f"generation.{name}={value}" for name, value in sampling.items()]
    done = runner(
        "task=generate", f"task.prompt='{QUESTION}'", f"generation.max_new_tokens={TOKENS}", "tracking=none",
        "print=json", *keys, *arguments,
    )  # fmt: skip
    assert done.code == 0, done.err
    (line,) = (Path(json.loads(done.out)["output_dir"]) / "samples.jsonl").read_text().splitlines()
    return str(json.loads(line)["text"])
