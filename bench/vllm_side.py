"""One run of vLLM on a CPU in a process of its own: see engines.py. It runs in vLLM's environment.

As side `zentorch` it runs in one that has AMD's plugin, too, and ends with an error if vLLM does not use the plugin.
"""

from __future__ import annotations

import os
import random
import time

os.environ |= {"VLLM_NO_USAGE_STATS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"}
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "4")  # GiB

from standing_alone import answer, peak_mib, read_job, reset_peak, resident_mib


def main() -> None:
    """Run the job and write the outcome."""
    import torch
    from vllm import LLM, SamplingParams, TokensPrompt  # type: ignore[import-not-found]
    from vllm.platforms import current_platform  # type: ignore[import-not-found]

    job = read_job()
    if job["kind"] == "zentorch" and not current_platform.is_zen_cpu():
        raise SystemExit(f"vLLM does not use zentorch here: its platform is {type(current_platform).__name__}")
    settings = job["settings"]
    longest = max(map(len, job["prompts"])) + max(job["new_tokens"])
    started = time.perf_counter()
    llm = LLM(
        model=job["folder"], dtype=job["dtype"], max_model_len=longest + 16, enable_prefix_caching=True,
        max_num_seqs=settings["max_num_seqs"], max_num_batched_tokens=settings["max_num_batched_tokens"],
        enforce_eager=settings["eager"], seed=0,
    )  # fmt: skip
    vocabulary = llm.llm_engine.model_config.get_vocab_size()
    draw = random.Random(0)
    warm = [TokensPrompt(prompt_token_ids=draw.choices(range(3, vocabulary), k=64)) for _ in range(4)]
    llm.generate(warm, SamplingParams(temperature=0, max_tokens=4, ignore_eos=True), use_tqdm=False)
    load_s, loaded_mib = time.perf_counter() - started, resident_mib()
    prompts = [TokensPrompt(prompt_token_ids=ids) for ids in job["prompts"]]
    each = [SamplingParams(temperature=0, max_tokens=most, ignore_eos=job["fixed"]) for most in job["new_tokens"]]
    reset_peak()
    started = time.perf_counter()
    outputs = llm.generate(prompts, each, use_tqdm=False)
    total_s = time.perf_counter() - started
    tokens = [list(output.outputs[0].token_ids) for output in outputs]
    measured = {"load_s": load_s, "total_s": total_s, "loaded_mib": loaded_mib, "peak_mib": peak_mib()}
    answer(job, tokens, threads=torch.get_num_threads(), **measured)


if __name__ == "__main__":
    main()
