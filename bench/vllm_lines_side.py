"""vLLM in a process of its own, which answers lines as xllamacpp_side.py does. It runs in vLLM's
environment.

`python vllm_lines_side.py FOLDER THREADS ROWS [POSITIONS]` loads a model and then answers lines of
JSON, {"prompts": …, "new": …}, with the seconds of all. So many rows of a line run at once, each
without a stop; nothing is kept of earlier prompts, unless a line says `cached`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

os.environ |= {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GiB


def waited(llm: Any, job: dict[str, Any], prompt: Any, sampling: Any) -> dict[str, float]:
    """Let rows decode, then ask one more prompt; return its seconds and the longest time of a row
    without a token."""
    engine, came = llm.llm_engine, {str(row): [0, 0.0] for row in range(len(job["prompts"]))}
    for row, ids in zip(came, job["prompts"], strict=True):
        engine.add_request(row, prompt(ids), sampling(job["new"]))
    gap = began = ended = 0.0
    while engine.has_unfinished_requests():
        if not began and min(count for count, _ in came.values()) > 3:
            began = time.perf_counter()
            engine.add_request("late", prompt(job["late"]), sampling(1))
        for one in engine.step():
            row, now = one.request_id.split("-")[0], time.perf_counter()
            if row == "late":
                ended = now
                continue
            if began and not ended:
                gap = max(gap, now - came[row][1])
            came[row] = [len(one.outputs[0].token_ids), now]
        if ended:
            gap = max(gap, *(ended - at for _, at in came.values()))
            engine.abort_request(list(came))
            break
    return {"late": ended - began, "gap": gap}


def main() -> None:
    """Load the model, and answer until there are no more lines."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the library writes there, too
    folder, threads, rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    os.environ["OMP_NUM_THREADS"] = str(threads)
    from vllm import LLM, SamplingParams, TokensPrompt  # type: ignore[import-not-found]

    llm = LLM(
        model=folder, dtype="bfloat16", max_model_len=int(sys.argv[4]) if len(sys.argv) > 4 else 2048,
        max_num_seqs=rows, enable_prefix_caching=True, enforce_eager=True, seed=0,
    )  # fmt: skip

    def prompt(ids: list[int]) -> Any:
        return TokensPrompt(prompt_token_ids=ids)

    def sampling(most: int) -> Any:
        return SamplingParams(temperature=0, max_tokens=most, ignore_eos=True)

    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        if not job.get("cached") and not llm.reset_prefix_cache():
            raise SystemExit("vLLM's prefix cache could not be emptied")
        if "late" in job:
            print(json.dumps(waited(llm, job, prompt, sampling)), file=answers, flush=True)
            continue
        new = job["new"] if isinstance(job["new"], list) else [job["new"]] * len(job["prompts"])
        started, spent = time.perf_counter(), time.process_time()
        outputs = llm.generate([*map(prompt, job["prompts"])], [*map(sampling, new)], use_tqdm=False)
        seconds = {"all": time.perf_counter() - started, "processor": time.process_time() - spent}
        if [len(one.outputs[0].token_ids) for one in outputs] != new:
            raise SystemExit("vLLM gave other numbers of tokens than were asked for")
        if (
            job.get("cached")
            and min(one.num_cached_tokens / len(one.prompt_token_ids) for one in outputs) < 0.5
        ):
            raise SystemExit("vLLM had forgotten what it read")
        print(json.dumps(seconds), file=answers, flush=True)


if __name__ == "__main__":
    main()
