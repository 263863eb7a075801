"""llama.cpp in a process of its own, from a wheel that needs no build: its environment has only
xllamacpp.

`python xllamacpp_side.py FILE THREADS ROWS [POSITIONS]` loads a file and then answers lines of
JSON, {"prompts": …, "new": N}, with the seconds of the prompts, of the new tokens, and of all. So
many rows of a line run at once, each without a stop; `new` may be a list with a number for each.
With `cached`, rows need not read again what the line before has left. With `late`, one more prompt
comes when all rows decode: the answer is how long these waited for a token.
"""

from __future__ import annotations

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from threading import Event
from typing import Any, TextIO


def opened(positions: int) -> tuple[Any, TextIO]:
    """Load FILE for ROWS sequences of so many positions; return the server, and where to write
    answers."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the library writes there, too
    import xllamacpp  # type: ignore[import-not-found]

    file, threads, rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    settings = xllamacpp.CommonParams()
    settings.model.path = file
    settings.n_parallel, settings.n_ctx = rows, positions * rows
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
    return xllamacpp.Server(settings), answers


def waited(server: Any, job: dict[str, Any], pool: ThreadPoolExecutor) -> dict[str, float]:
    """Let rows decode, then ask one more prompt; return its seconds and the longest time of a row
    without a token."""
    came: list[list[float]] = [[] for _ in job["prompts"]]
    asked = {"temperature": 0, "ignore_eos": True, "cache_prompt": False}

    is_over = Event()

    def decode(row: int) -> None:
        def came_one(_: Any) -> bool:  # whether it is to end
            came[row].append(time.perf_counter())
            return is_over.is_set()

        row_asked = asked | {"prompt": job["prompts"][row], "n_predict": job["new"], "stream": True}
        server.handle_completions(row_asked, came_one)

    decoding = [pool.submit(decode, row) for row in range(len(came))]
    while min(map(len, came)) < 4:
        time.sleep(0.01)
    began = time.perf_counter()
    server.handle_completions(asked | {"prompt": job["late"], "n_predict": 1})
    ended = time.perf_counter()
    is_over.set()
    for row in decoding:
        row.result()
    return {
        "late": ended - began,
        "gap": max(b - a for row in came for a, b in pairwise(row) if a < ended and b > began),
    }


def main() -> None:
    """Load the file, and answer until there are no more lines."""
    server, answers = opened(int(sys.argv[4]) if len(sys.argv) > 4 else 2048)

    def ask(prompt: list[int], new: int, is_cached: bool) -> dict[str, Any]:
        asked = {
            "prompt": prompt,
            "n_predict": new,
            "temperature": 0,
            "ignore_eos": True,
            "cache_prompt": is_cached,
        }
        answer = server.handle_completions(asked)
        answer = json.loads(answer) if isinstance(answer, str | bytes) else answer
        timings: dict[str, Any] = answer["timings"]
        if (timings["cache_n"] + timings["prompt_n"], timings["predicted_n"]) != (len(prompt), new):
            raise SystemExit(f"llama.cpp computed other tokens than {len(prompt)} and {new}: {timings}")
        if (timings["cache_n"] > len(prompt) // 2) != is_cached:
            raise SystemExit(f"llama.cpp had {timings['cache_n']} of {len(prompt)} tokens already")
        return timings

    print("{}", file=answers, flush=True)
    with ThreadPoolExecutor(int(sys.argv[3])) as pool:
        for line in sys.stdin:
            job, spent, started = json.loads(line), time.process_time(), time.perf_counter()
            if "late" in job:
                print(json.dumps(waited(server, job, pool)), file=answers, flush=True)
                continue
            new = job["new"] if isinstance(job["new"], list) else [job["new"]] * len(job["prompts"])
            found = list(pool.map(ask, job["prompts"], new, [job.get("cached", False)] * len(new)))
            seconds = {
                of: max(one[f"{key}_ms"] for one in found) / 1000
                for of, key in (("prefill", "prompt"), ("decode", "predicted"))
            }
            seconds |= {"processor": time.process_time() - spent, "all": time.perf_counter() - started}
            print(json.dumps(seconds), file=answers, flush=True)


if __name__ == "__main__":
    main()
