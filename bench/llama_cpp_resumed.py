"""Does resuming change llama.cpp's answers, with and without its prompt cache? `python bench/llama_cpp_resumed.py`

A job of model=llama_cpp with model.parallel=1 runs whole, and again with interrupts at given numbers of answers,
each resumed. The answers are compared one by one, first with model.prompt_cache=false, then with true. Another
job of few questions with the same five worked examples measures what the cache saves: its seconds per question.
The exit code is 1 if an answer without the cache differs. `make llama_cpp` installs llama.cpp.

    python bench/llama_cpp_resumed.py --model FILE.gguf
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import tempfile
import time
from pathlib import Path

from heading import parse_arguments
from kills import LONGEST_S, ROOT, answers_of, lines_of, start

CACHES = ("false", "true")


def main() -> int:
    """Run all jobs and print the table; 1 if an answer without the cache differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a .gguf file")
    parser.add_argument("--questions", type=int, default=24, help="0: only measure")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument(
        "--interrupts", type=int, nargs="*", default=[5, 11, 16], help="after so many answers"
    )
    parser.add_argument("--timed", type=int, default=6, help="questions of the measured jobs")
    options = parse_arguments(parser)
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    differing: dict[str, list[int]] = {}
    with tempfile.TemporaryDirectory(prefix="llama-cpp-resumed-") as place:
        for cache in CACHES if options.questions else ():
            keys = [
                *job_keys(options.model, cache),
                f"task.limit={options.questions}",
                f"generation.max_new_tokens={options.max_tokens}",
            ]
            whole, resumed = Path(place, f"whole-{cache}"), Path(place, f"resumed-{cache}")
            run_until(keys, whole, None)
            for count in [*options.interrupts, None]:
                run_until(keys, resumed, count)
            answers = [answers_of(lines_of(folder, "samples.jsonl")) for folder in (whole, resumed)]
            assert len(answers[0]) == options.questions
            differing[cache] = [
                one["index"]
                for one, other in zip(*answers, strict=True)
                if one["token_ids"] != other["token_ids"] or one["text"] != other["text"]
            ]
            print(
                f"model.prompt_cache={cache}: {options.questions - len(differing[cache])} of "
                f"{options.questions} answers equal after {len(options.interrupts)} interrupts; "
                f"different: {differing[cache] or 'none'}",
                flush=True,
            )
        for cache in CACHES if options.timed else ():
            folder = Path(place, f"timed-{cache}")
            keys = [
                *job_keys(options.model, cache),
                "task.shots=5",
                f"task.limit={options.timed}",
                "generation.max_new_tokens=32",
            ]
            run_until(keys, folder, None)
            seconds = [json.loads(line)["seconds"] for line in lines_of(folder, "samples.jsonl")]
            print(
                f"model.prompt_cache={cache}, five worked examples: median "
                f"{statistics.median(seconds):.2f} s a question, "
                f"{', '.join(f'{one:.2f}' for one in seconds)}",
                flush=True,
            )
    print(f"load {os.getloadavg()[0]:.1f}")
    return 1 if differing.get("false") else 0


def job_keys(model: str, cache: str) -> list[str]:
    """Return the keys of a job, one request at a time."""
    return [
        "task=gsm8k",
        "model=llama_cpp",
        f"model.name={Path(model).resolve()}",
        "model.parallel=1",
        "model.threads=1",
        "model.compare=false",
        f"model.prompt_cache={cache}",
        f"model.python={ROOT / '.llama_cpp'}",
    ]


def run_until(keys: list[str], folder: Path, count: int | None) -> None:
    """Run or resume a job; interrupt it when it has so many answers (None: it ends by itself)."""
    folder.mkdir(exist_ok=True)
    process, seen, thread = start(keys, folder)
    end = time.monotonic() + 3 * LONGEST_S
    while process.poll() is None and time.monotonic() < end:
        if count is not None and len(lines_of(folder, "samples.jsonl")) >= count:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=LONGEST_S)
        time.sleep(0.1)
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    code = process.wait(timeout=LONGEST_S)
    thread.join()
    assert code == (0 if count is None else 130), seen.text[-3000:]


if __name__ == "__main__":
    raise SystemExit(main())
