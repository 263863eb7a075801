"""vLLM with several adapters in a process of its own, for several_adapters.py. It runs in vLLM's
environment.

`python several_adapters_side.py FOLDER THREADS ROWS DTYPE RANK [ADAPTER …]` loads a model and answers
lines of JSON, {"prompts": …, "new": …, "adapters": N}, with the seconds of all: the prompts have the
first N adapters by turns, or the base where N is 0.
"""

from __future__ import annotations

import json
import os
import sys
import time

os.environ |= {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB


def main() -> None:
    """Load the model, and answer until there are no more lines."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the library writes there, too
    folder, threads, rows, dtype, rank, *places = sys.argv[1:]
    os.environ["OMP_NUM_THREADS"] = threads
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    from vllm import LLM, SamplingParams, TokensPrompt  # type: ignore[import-not-found]
    from vllm.lora.request import LoRARequest  # type: ignore[import-not-found]

    lora = {"enable_lora": True, "max_loras": len(places), "max_lora_rank": int(rank)} if places else {}
    llm = LLM(
        model=folder, dtype=dtype, max_model_len=2048, max_num_seqs=int(rows), enforce_eager=True,
        enable_prefix_caching=False, seed=0, **lora,
    )  # fmt: skip
    adapters = [LoRARequest(f"a{at}", at + 1, place) for at, place in enumerate(places)]
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        prompts = [TokensPrompt(prompt_token_ids=ids) for ids in job["prompts"]]
        chosen = None
        if count := job["adapters"]:
            chosen = [adapters[at % count] for at in range(len(prompts))]
        sampling = SamplingParams(temperature=0, max_tokens=job["new"], ignore_eos=True)
        started, spent = time.perf_counter(), time.process_time()
        llm.generate(prompts, sampling, use_tqdm=False, lora_request=chosen)
        seconds = {"wall": time.perf_counter() - started, "processor": time.process_time() - spent}
        print(json.dumps(seconds), file=answers, flush=True)


if __name__ == "__main__":
    main()
