"""One run of EvalPlus's Hugging Face backend in a process of its own: see engines.py.

Its code is unchanged. It answers one prompt after another, as `evalplus.codegen` does with greedy decoding. From
outside, its calls of `generate` are timed and get the fixed number of new tokens.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from evalplus.provider.hf import HuggingFaceDecoder  # type: ignore[import-not-found]
from measuring import Run, answer, cut, read_job, sha256_ids, sha256_prompts


def main() -> None:
    """Run the job and write the outcome."""
    job = read_job()
    if job.threads:
        torch.set_num_threads(job.threads)
    started = time.perf_counter()
    decoder = HuggingFaceDecoder(
        job.folder, "humaneval", force_base_prompt=True, attn_implementation="sdpa", dtype=job.dtype,
        temperature=0.0, batch_size=1, max_new_tokens=max(job.new_tokens), trust_remote_code=False,
    )  # fmt: skip
    run = Run(decoder.model, job.dtype, time.perf_counter() - started)

    def timed_generate(input_ids: torch.Tensor, **settings: Any) -> Any:
        if job.fixed:
            settings |= {"min_new_tokens": settings["max_new_tokens"], "stopping_criteria": None}
        return run.generate(input_ids=input_ids, attention_mask=torch.ones_like(input_ids), **settings)

    decoder.model.generate = timed_generate
    texts, notes = [], []
    run.start()
    for prompt in job.prompts:
        if job.limit_s is not None and time.perf_counter() - run.started > job.limit_s:
            notes.append("the time was up")
            break
        texts += decoder.codegen(prompt, do_sample=False, num_samples=1)
        decoder.model.generate = timed_generate  # the stop sequencer has put its own around it
    run.stop()
    ends = set() if job.fixed else {decoder.tokenizer.eos_token_id}
    answer(
        run.outcome(
            done=len(run.calls),
            tokens=[cut(sequences[0, ids.shape[1] :].tolist(), ends) for ids, _, sequences in run.calls],
            texts=texts,
            prompts_sha256=sha256_prompts(job.prompts[: len(run.calls)]),
            ids_sha256=[sha256_ids(ids[0].tolist()) for ids, _, _ in run.calls],
            notes=notes,
        )
    )


if __name__ == "__main__":
    main()
