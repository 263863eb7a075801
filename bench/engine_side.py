"""One run of our engine or of transformers' `generate` in a process of its own: see engines.py."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from engines import Job, Outcome, greedy_engine
from measuring import Run, answer, cut, read_job, sha256_ids, sha256_prompts

from runner.render.engine_notes import render_engine_notes
from runner_base import Dtype
from runner_engine.decode.passes.forward import Forward
from runner_engine.kv_cache import prefix_tree
from runner_engine.local import engine as local_engine
from runner_engine.quantization import CHOICES
from runner_engine.sessions.base import Request
from runner_engine.sessions.contract import complete_requests
from runner_engine.settings.model import Attention, LocalModelConfig


def switch_off(parts: Sequence[str]) -> None:
    """Switch parts of our engine off in this process; `kernels` and `packed` are variables of the
    environment."""
    left_out: dict[str, list[tuple[Any, str, Any]]] = {
        "share": [
            (prefix_tree, "find_shared_prefixes", lambda prompts, parent=None, *_: [parent] * len(prompts))
        ],
        "fused": [(local_engine, "build_and_verify_fused_forward", lambda *_: None)],
    }
    for part in set(parts) - {"kernels", "packed"}:
        for module, name, instead in left_out[part]:
            if not hasattr(module, name):
                raise SystemExit(
                    f"{module.__name__} has no {name} any more: {part} cannot be switched off here"
                )
            setattr(module, name, instead)


def count_passes(run: Run) -> None:
    """Count the stream's passes; a hook in the model would prevent fused passes."""
    forward = Forward._run_model

    def counted(
        self: Forward, layout: Any, ids: list[int], positions: list[int], keep: list[int] | None
    ) -> torch.Tensor:
        logits = forward(self, layout, ids, positions, keep)
        run.note_pass(len(ids), logits.shape[0])
        return logits

    Forward._run_model = counted  # type: ignore[method-assign, assignment]


def with_engine(job: Job) -> Outcome:
    """Complete the prompts with our engine."""
    switch_off(job.off)
    attention = Attention.sdpa if job.kind == "plain" else Attention.auto
    dtype = Dtype(job.dtype)
    model = LocalModelConfig(
        name=job.folder, device=job.device, dtype=dtype, threads=job.threads, attention=attention
    )
    keys: dict[str, Any] = {"int8_activations": True} if job.settings.get("int8_activations") else {}
    quantization = CHOICES[job.settings.get("quantization", "none")](**keys)
    engine = greedy_engine(model, quantization, max_new_tokens=max(job.new_tokens))
    started = time.perf_counter()
    engine.load()
    run = Run(engine.loaded.model, job.dtype, time.perf_counter() - started, hooks=job.kind == "plain")
    count_passes(run)
    prompts: list[Any] = [prompt if isinstance(prompt, str) else tuple(prompt) for prompt in job.prompts]
    requests = [
        Request(at, prompt, tuple(job.stop), limit, ignore_eos=job.fixed)
        for at, (prompt, limit) in enumerate(zip(prompts, job.new_tokens, strict=True))
    ]
    run.start()
    completions = {completion.id: completion for completion in complete_requests(engine, requests, job.rows)}
    run.stop()
    failed = [completion.error for completion in completions.values() if completion.error]
    if failed:
        raise SystemExit(f"{len(failed)} prompts failed, e.g. {failed[0]}")
    fed = [engine.encode(request) for request in requests]
    return run.outcome(
        done=len(completions),
        prefill_s=engine.stats.prefill_s,
        decode_s=engine.stats.decode_s,
        tokens=[completions[at].answer.token_ids for at in range(len(requests))],
        texts=[completions[at].answer.text for at in range(len(requests))],
        prompts_sha256=sha256_prompts([text for text, _ in fed]),
        ids_sha256=[sha256_ids(ids) for _, ids in fed],
        notes=render_engine_notes(engine.stats),
        prompt_tokens=[len(ids) for _, ids in fed],
        peak_rows=engine.stats.peak_rows,
        end=engine.loaded.tokenizer.eos_token_id,
    )


def plain_model(job: Job) -> tuple[Any, Any, float]:
    """Load model and tokenizer as transformers does it, with sdpa; return them and the seconds that
    it took."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if job.threads:
        torch.set_num_threads(job.threads)
    dtype = getattr(torch, job.dtype)
    started = time.perf_counter()
    model: Any = AutoModelForCausalLM.from_pretrained(
        job.folder, dtype=dtype, attn_implementation="sdpa"
    ).eval()
    model.to(job.device)
    tokenizer: Any = AutoTokenizer.from_pretrained(job.folder)
    return model, tokenizer, time.perf_counter() - started


def with_generate(job: Job) -> Outcome:
    """Left-padded batches through transformers' `generate`, as it comes, each to the longest of its
    rows."""
    model, tokenizer, load_s = plain_model(job)
    end = model.generation_config.eos_token_id
    ends = set(end if isinstance(end, list) else [end]) if not job.fixed else set()
    if job.fixed:
        model.generation_config.eos_token_id = None
    run = Run(model, job.dtype, load_s)
    run.start()
    fed = [tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt for prompt in job.prompts]
    order = list(range(len(fed)))
    if job.order != "given":
        order.sort(key=lambda at: -len(fed[at]) if job.order == "prompt" else -job.new_tokens[at])
    tokens: list[list[int]] = [[] for _ in fed]
    size, pad = job.rows or 16, tokenizer.pad_token_id or 0
    for first in range(0, len(order), size):
        batch = order[first : first + size]
        width = max(len(fed[at]) for at in batch)
        sequences = run.generate(
            input_ids=torch.tensor(
                [[pad] * (width - len(fed[at])) + fed[at] for at in batch], device=job.device
            ),
            attention_mask=torch.tensor(
                [[0] * (width - len(fed[at])) + [1] * len(fed[at]) for at in batch], device=job.device
            ),
            max_new_tokens=max(job.new_tokens[at] for at in batch),
            do_sample=False,
            pad_token_id=pad,
        )
        for at, sequence in zip(batch, sequences[:, width:].tolist(), strict=True):
            tokens[at] = cut(sequence, ends)[: job.new_tokens[at]]
    texts = [tokenizer.decode(row, skip_special_tokens=True) for row in tokens]
    run.stop()
    return run.outcome(
        done=len(fed),
        tokens=tokens,
        texts=texts,
        prompts_sha256=sha256_prompts(job.prompts),
        ids_sha256=[sha256_ids(ids) for ids in fed],
    )


def with_generate_batch(job: Job) -> Outcome:
    """transformers' own continuous batching, as it comes; it shares whole pages of a common
    beginning."""
    from transformers import GenerationConfig as Theirs

    model, tokenizer, load_s = plain_model(job)
    limit = max(job.new_tokens)  # it takes one for all; what is too much is cut off
    end = None if job.fixed else model.generation_config.eos_token_id
    pad = tokenizer.pad_token_id or 0
    settings = Theirs(max_new_tokens=limit, do_sample=False, eos_token_id=end, pad_token_id=pad)
    run = Run(model, job.dtype, load_s)
    run.start()
    fed = [tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt for prompt in job.prompts]
    answers = list(model.generate_batch(inputs=fed, generation_config=settings).values())
    failed = [answer.error for answer in answers if answer.error]
    if failed or len(answers) < len(fed):
        raise SystemExit(
            f"{len(answers)} of {len(fed)} prompts were answered, {len(failed)} failed: {failed[:1]}"
        )
    tokens = [answer.generated_tokens[:most] for answer, most in zip(answers, job.new_tokens, strict=True)]
    run.stop()
    return run.outcome(
        done=len(fed),
        decode_s=run.total_s,  # prompts and answers share its passes
        tokens=tokens,
        texts=[tokenizer.decode(row, skip_special_tokens=True) for row in tokens],
        prompts_sha256=sha256_prompts(job.prompts),
        ids_sha256=[sha256_ids(ids) for ids in fed],
    )


SIDES = {
    "stream": with_engine,
    "plain": with_engine,
    "generate": with_generate,
    "generate_batch": with_generate_batch,
}

if __name__ == "__main__":
    job = read_job()
    answer(SIDES[job.kind](job))
