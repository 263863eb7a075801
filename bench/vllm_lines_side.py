"""vLLM in a process of its own, which answers lines as xllamacpp_side.py does. It runs in vLLM's environment.

`python vllm_lines_side.py FOLDER THREADS ROWS` loads a model and then answers lines of JSON, {"prompts": …, "new": …},
with the seconds of all. So many rows of a line run at once, each without a stop; nothing is kept of earlier prompts.
"""

from __future__ import annotations

import json
import os
import sys
import time

os.environ |= {"VLLM_NO_USAGE_STATS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"}
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GiB
POSITIONS = 2048


def main() -> None:
    """Load the model, and answer until there are no more lines."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the library writes there, too
    folder, threads, rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    os.environ["OMP_NUM_THREADS"] = str(threads)
    from vllm import LLM, SamplingParams, TokensPrompt  # type: ignore[import-not-found]

    llm = LLM(
        model=folder, dtype="bfloat16", max_model_len=POSITIONS, max_num_seqs=rows, enable_prefix_caching=False,
        enforce_eager=True, seed=0,
    )  # fmt: skip
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        new = job["new"] if isinstance(job["new"], list) else [job["new"]] * len(job["prompts"])
        prompts = [TokensPrompt(prompt_token_ids=ids) for ids in job["prompts"]]
        each = [SamplingParams(temperature=0, max_tokens=most, ignore_eos=True) for most in new]
        started, spent = time.perf_counter(), time.process_time()
        outputs = llm.generate(prompts, each, use_tqdm=False)
        seconds = {"all": time.perf_counter() - started, "processor": time.process_time() - spent}
        if [len(one.outputs[0].token_ids) for one in outputs] != new:
            raise SystemExit("vLLM gave other numbers of tokens than were asked for")
        print(json.dumps(seconds), file=answers, flush=True)


if __name__ == "__main__":
    main()
