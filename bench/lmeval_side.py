"""One run of lm-evaluation-harness' HF backend in a process of its own: see engines.py.

Its code is unchanged. From outside, its calls of `generate` are timed, its inputs are recorded, and
no further batch starts when time is up.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from measuring import Run, answer, cut, read_job, sha256_ids, sha256_prompts


class TimeIsUp(Exception):
    """The limit has passed."""


def main() -> None:
    """Run the job and write the outcome."""
    job = read_job()
    if job.threads:
        torch.set_num_threads(job.threads)
    started = time.perf_counter()
    lm = HFLM(pretrained=job.folder, device="cpu", dtype=job.dtype, batch_size=job.rows)
    run = Run(lm.model, job.dtype, time.perf_counter() - started)
    encode, fed_texts = lm.tok_batch_encode, []

    def noted_encode(strings: Any, *rest: Any, **named: Any) -> Any:
        fed_texts.extend(strings)
        return encode(strings, *rest, **named)

    def timed_generate(**settings: Any) -> Any:
        if job.limit_s is not None and time.perf_counter() - run.started > job.limit_s:
            raise TimeIsUp
        return run.generate(**settings)

    lm.tok_batch_encode, lm.model.generate = noted_encode, timed_generate
    settings: dict[str, Any] = {"until": job.stop, "max_gen_toks": max(job.new_tokens), "do_sample": False}
    if job.fixed:
        settings["min_new_tokens"] = max(job.new_tokens)
    instances = [
        Instance(request_type="generate_until", doc={}, arguments=(prompt, settings), idx=at)
        for at, prompt in enumerate(job.prompts)
    ]
    texts, notes = [""] * len(instances), []
    run.start()
    try:
        texts = lm.generate_until(instances, disable_tqdm=True)
    except TimeIsUp:
        notes.append("the time was up")
    run.stop()
    ends = set() if job.fixed else {lm.tokenizer.eos_token_id}
    new_of: dict[str, list[int]] = {}  # by the token ids of the prompt, because lm-eval reorders rows
    for ids, mask, sequences in run.calls:
        for row in range(len(ids)):
            new_of[sha256_ids(ids[row][mask[row].bool()].tolist())] = cut(
                sequences[row, ids.shape[1] :].tolist(), ends
            )
    wanted = [sha256_ids(lm.tok_encode(prompt)) for prompt in job.prompts]
    if not notes and set(wanted) != set(new_of):
        raise SystemExit("lm-eval fed the model other token ids than its tokenizer makes of the prompts")
    fed = set(fed_texts)
    answer(
        run.outcome(
            done=sum(len(ids) for ids, _, _ in run.calls),
            tokens=[new_of.get(key, []) for key in wanted],
            texts=texts,
            prompts_sha256=sha256_prompts([prompt for prompt in job.prompts if prompt in fed]),
            ids_sha256=[key for key in wanted if key in new_of],
            notes=notes,
        )
    )


if __name__ == "__main__":
    main()
