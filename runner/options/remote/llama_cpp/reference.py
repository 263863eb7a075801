"""Computes reference results for a .gguf file in a subprocess, from a JSON request on stdin."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from runner.options.remote.llama_cpp import comparison_texts
from runner_base import Dtype, RunnerError, child_process, to_one_line
from runner_engine import (
    CHOICES,
    LocalEngine,
    LocalModelConfig,
    Message,
    ModelSpec,
    Request,
    check_memory_fits,
    check_model_and_adapter_files,
    complete_requests,
    create_tokenizer_only_encoder,
    resolve_model,
)

ROUNDED = {"bfloat16": Dtype.bfloat16}  # how a file's own numbers are rounded; others: to float16


def make_reference_model_spec(request: dict[str, Any], dtype: Dtype, **of_blocks: bool) -> ModelSpec:
    kwargs = request["chat_template_kwargs"]
    model = LocalModelConfig(request["file"], device="cpu", dtype=dtype, chat_template_kwargs=kwargs)
    choice: Any = CHOICES["gguf"]
    return ModelSpec(model, choice(**of_blocks))


def tokenize_test_texts_and_chats(spec: ModelSpec) -> dict[str, Any]:
    encoder = create_tokenizer_only_encoder(resolve_model(spec))
    chats: list[dict[str, Any]] = []
    for chat in comparison_texts.CHATS:
        try:
            text, ids = encoder.encode_prompt(Request(0, tuple(Message(*turn) for turn in chat)))
        except RunnerError as error:
            text, ids = f"refused: {to_one_line(error)}", []
        chats.append({"text": text, "ids": ids})
    tokens = [
        encoder.encode_prompt(Request(0, text))[1] for text in comparison_texts.make_tokenizer_test_texts()
    ]
    return {"tokens": tokens, "chats": chats}


def score_texts(spec: ModelSpec, ids: list[list[int]]) -> list[dict[str, Any]]:
    """Return the log-probability and the likeliest token at each position of each text, except the first
    position.
    """
    resolved = resolve_model(spec)
    check_model_and_adapter_files(resolved)
    check_memory_fits(resolved)
    engine = LocalEngine(resolved)
    try:
        requests = [
            Request(at, tuple(of[:1]), continuation=tuple(of[1:]), top_logprobs=1)
            for at, of in enumerate(ids)
        ]
        done = sorted(complete_requests(engine, requests), key=lambda completion: int(completion.id))
    finally:
        engine.close()
    return [
        {"logprobs": each.logprobs, "firsts": [top[0][0] for top in each.top_logprobs or []]} for each in done
    ]


def compute_reference_tokens_and_scores(request: dict[str, Any]) -> dict[str, Any]:
    """Return the reference results as JSON values. `missing` explains why a result is absent."""
    exact = make_reference_model_spec(request, Dtype.float32)
    try:
        said = tokenize_test_texts_and_chats(exact)
    except RunnerError as error:
        return {"missing": to_one_line(error)}
    ids = said["tokens"][: comparison_texts.SCORED]
    try:
        files = resolve_model(exact).files
        rounded = make_reference_model_spec(request, Dtype.float32, int8_activations=True)
        if not files.can_keep_gguf_blocks:
            rounded = make_reference_model_spec(
                request, ROUNDED.get(str(files.settings.get("dtype")), Dtype.float16)
            )
        return said | {"scores": score_texts(exact, ids), "rounded": score_texts(rounded, ids)}
    except RunnerError as error:
        return said | {"missing": to_one_line(error)}


def main() -> None:
    """Read a JSON request from stdin and write the reference results to stdout."""
    child_process.request_kill_when_parent_dies()
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries write there, too
    json.dump(compute_reference_tokens_and_scores(json.load(sys.stdin)), out)


if __name__ == "__main__":
    main()
