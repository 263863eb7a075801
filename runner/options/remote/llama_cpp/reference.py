"""A process that computes what our own engine says of a .gguf file: JSON on stdin, JSON on
stdout."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from runner.options.remote.llama_cpp import texts
from runner_base import Dtype, RunnerError, child, one_line
from runner_engine import (
    CHOICES,
    LocalEngine,
    LocalModelConfig,
    Message,
    ModelSpec,
    Request,
    check_files,
    check_fits,
    complete,
    request_encoder_of,
    resolve,
)

ROUNDED = {"bfloat16": Dtype.bfloat16}  # how a file's own numbers are rounded; others: to float16


def spec_of(order: dict[str, Any], dtype: Dtype, **of_blocks: bool) -> ModelSpec:
    """Return what our engine is asked for: the file, as exactly as the keys say."""
    kwargs = order["chat_template_kwargs"]
    model = LocalModelConfig(order["file"], device="cpu", dtype=dtype, chat_template_kwargs=kwargs)
    choice: Any = CHOICES["gguf"]
    return ModelSpec(model, choice(**of_blocks))


def tokens_and_chats(spec: ModelSpec) -> dict[str, Any]:
    """Return the tokens of texts, and of chats as the file's template renders them."""
    encoder = request_encoder_of(resolve(spec))
    chats: list[dict[str, Any]] = []
    for chat in texts.CHATS:
        try:
            text, ids = encoder.encode(Request(0, tuple(Message(*turn) for turn in chat)))
        except RunnerError as error:
            text, ids = f"refused: {one_line(error)}", []
        chats.append({"text": text, "ids": ids})
    tokens = [encoder.encode(Request(0, text))[1] for text in texts.read()]
    return {"tokens": tokens, "chats": chats}


def scores(spec: ModelSpec, ids: list[list[int]]) -> list[dict[str, Any]]:
    """Return, for each token of each text after the first, its log-probability and the likeliest
    token."""
    resolved = resolve(spec)
    check_files(resolved)
    check_fits(resolved)
    engine = LocalEngine(resolved)
    try:
        requests = [
            Request(at, tuple(of[:1]), continuation=tuple(of[1:]), top_logprobs=1)
            for at, of in enumerate(ids)
        ]
        done = sorted(complete(engine, requests), key=lambda completion: int(completion.id))
    finally:
        engine.close()
    return [
        {"logprobs": each.logprobs, "firsts": [top[0][0] for top in each.top_logprobs or []]} for each in done
    ]


def answers(order: dict[str, Any]) -> dict[str, Any]:
    """Return what our engine says, or why it says less."""
    exact = spec_of(order, Dtype.float32)
    try:
        said = tokens_and_chats(exact)
    except RunnerError as error:
        return {"missing": one_line(error)}
    ids = said["tokens"][: texts.SCORED]
    try:
        files = resolve(exact).files
        rounded = spec_of(order, Dtype.float32, int8_rows=True)
        if not files.has_blocks:
            rounded = spec_of(order, ROUNDED.get(str(files.settings.get("dtype")), Dtype.float16))
        return said | {"scores": scores(exact, ids), "rounded": scores(rounded, ids)}
    except RunnerError as error:
        return said | {"missing": one_line(error)}


def main() -> None:
    """Read the order, and write the answers."""
    child.end_with_parent()
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries write there, too
    json.dump(answers(json.load(sys.stdin)), out)


if __name__ == "__main__":
    main()
