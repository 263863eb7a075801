"""How fast are .gguf files beside llama.cpp, and what memory do they take? `python bench/gguf_speed.py [--rows 32]`.

Files of a Llama shape with random weights, in the types that llama-quantize would give them, or other files. runner
(without speculation) and llama.cpp (from a wheel) load each file and then complete by turns: so many random prompts at
once, exactly so many new tokens each. llama.cpp decodes all rows in one batch. With `--memory` each file is loaded once
more after a small one, which leaves the libraries in memory: what the process takes beyond that, without keys and
values, is the file's.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf_random
from engines import ROOT, complete_random, greedy, greedy_engine, head_line, markdown, spread
from heading import parse_arguments
from latest import Figure, add_option, save
from other_engines import xllamacpp_python

from runner.config.resolved import resolve_job
from runner_base import MIB, Dtype, machine, processor
from runner_engine.local.engine import LocalEngine
from runner_engine.quantization import CHOICES
from runner_engine.sessions.base import Request
from runner_engine.sessions.contract import complete_requests
from runner_engine.settings.model import LocalModelConfig
from runner_engine.settings.speculation import SpeculationConfig
from tools import real_model

SHAPES: dict[str, dict[str, Any]] = {
    "135m": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 15, "num_attention_heads": 12,
             "num_key_value_heads": 4, "vocab_size": 49152},
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
           "num_key_value_heads": 8, "vocab_size": 32768},
}  # fmt: skip
SMALL: dict[str, Any] = {**SHAPES["135m"], "hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 2,
                         "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
SIDES = ("exact rows", "int8 rows", "llama.cpp")
XLLAMACPP = "xllamacpp_side.py"
# times as fast as llama.cpp with one row, of the first two
GOALS = {"prefill": (2.0, 3.0), "decode": (1.0, 1.3)}

Seconds = dict[str, float]  # of prefill and decode, and of the processor for both
Completer = Callable[[list[list[int]], int], Seconds]


def files_of(shape: str, types: Sequence[str]) -> dict[str, Path]:
    """Return the files of a shape by type, made at first use."""
    folder = ROOT / "outputs" / ".gguf-speed" / shape
    folder.mkdir(parents=True, exist_ok=True)
    return {
        name: gguf_random.write(folder / f"{name}.gguf", SHAPES[shape], name, tokenizer_file())
        for name in types
    }


def tokenizer_file() -> Path:
    """Return a file whose tokenizer has as many tokens as the 135M shape."""
    file = real_model.gguf_file()
    if not file.is_file():
        raise SystemExit(f"the files' tokenizer is that of the real model: {real_model.HOW} fetches it")
    return file


def ours(file: Path, dtype: str, has_byte_rows: bool, new: int, threads: int) -> Completer:
    """Load a file with our engine; return what completes prompts with it."""
    model = LocalModelConfig(name=str(file), device="cpu", dtype=Dtype(dtype), threads=threads)
    config = greedy(model, CHOICES["gguf"](int8_activations=has_byte_rows), new)  # type: ignore[call-arg]
    config = replace(config, generation=replace(config.generation, speculate=SpeculationConfig.off))
    engine = LocalEngine(resolve_job(config).model)
    engine.load()
    return completer_of(engine)


def completer_of(engine: LocalEngine) -> Completer:
    """Return what completes prompts with one of our engines."""

    def completer(prompts: list[list[int]], new: int) -> Seconds:
        before, spent = replace(engine.stats), time.process_time()
        requests = [
            Request(at, tuple(one), max_new_tokens=new, ignore_eos=True) for at, one in enumerate(prompts)
        ]
        if failed := [done.error for done in complete_requests(engine, requests, len(prompts)) if done.error]:
            raise SystemExit(f"{len(failed)} prompts failed, e.g. {failed[0]}")
        passed = engine.stats - before
        return {
            "prefill": passed.prefill_s,
            "decode": passed.decode_s,
            "processor": time.process_time() - spent,
        }

    return completer


def theirs(
    python: str, file: Path, threads: int, rows: int, open_sides: ExitStack, script: str = XLLAMACPP,
    positions: int = 2048,
) -> Callable[..., Seconds]:  # fmt: skip
    """Load a file with llama.cpp, or by another script, in a process of its own; return what
    completes prompts."""
    # set for our engine
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    asked = [python, str(Path(__file__).with_name(script)), *map(str, (file, threads, rows, positions))]
    side = open_sides.enter_context(
        subprocess.Popen(
            asked,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
    )
    assert side.stdin is not None
    assert side.stdout is not None
    questions, answers = side.stdin, side.stdout
    open_sides.callback(questions.close)

    def line() -> Seconds:
        written = answers.readline()
        if not written:
            raise SystemExit(f"{script} failed with {file}")
        seconds: Seconds = json.loads(written)
        return seconds

    line()

    def completer(prompts: list[list[int]], new: int | list[int], **more: object) -> Seconds:
        print(json.dumps({"prompts": prompts, "new": new} | more), file=questions, flush=True)
        return line()

    return completer


def measured(
    sides: dict[str, Completer], prompts: list[list[int]], new: int, rounds: int, by_processor: bool
) -> dict[tuple[str, str], list[float]]:
    """Return tokens a second of prefill and decode by side, after a round that does not count.

    by_processor: of the processor's time, which other work changes least; prefill's is that of one
    new token.
    """
    found: dict[tuple[str, str], list[float]] = {(part, side): [] for part in GOALS for side in sides}
    # prefill gives each row's first
    tokens = {"prefill": sum(map(len, prompts)), "decode": len(prompts) * (new - 1)}
    for at in range(rounds + 1):
        for side, completer in sides.items():
            if by_processor:
                first, all_of_it = (completer(prompts, 1)["processor"], completer(prompts, new)["processor"])
                seconds = {"prefill": first, "decode": all_of_it - first}
            else:
                seconds = completer(prompts, new)
            for part in GOALS if at else ():
                found[part, side].append(tokens[part] / seconds[part])
    return found


def memory_of(file: Path, dtype: str, small: Path) -> dict[str, float]:
    """Return, in a fresh process, the MiB that a file takes beyond those of the libraries, and keys
    and values."""
    asked = [sys.executable, __file__, "--memory-of", str(file), "--small", str(small), "--dtype", dtype]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{file.name}: its memory was not measured:\n{done.stderr[-2000:]}")
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def measure_memory(file: Path, dtype: str, small: Path) -> dict[str, float]:
    """Load a small file and use it, then this one; return what is resident beyond the small one's
    libraries."""
    chance, found = random.Random(0), dict[str, float]()
    for each in (small, file):
        before = machine.rss_mib()
        machine.reset_peak_rss()
        model = LocalModelConfig(name=str(each), device="cpu", dtype=Dtype(dtype))
        engine = greedy_engine(model, CHOICES["gguf"](), 4)
        engine.load()
        complete_random(engine, 4, 16, 4, chance)
        found = {
            "resident": machine.rss_mib() - before, "peak": machine.peak_rss_mib() - before,
            "kv": engine.stats.peak_kv_bytes / MIB,
        }  # fmt: skip
        engine.close()
        del engine
        gc.collect()
        machine.release_free_memory()
    return found


def lines_of(name: str, rows: int, found: dict[tuple[str, str], list[float]]) -> list[list[str]]:
    """Return the lines of a file in the table, with what the goals for a row say."""
    lines = []
    for part, goals in GOALS.items():
        line = [name, str(rows), part, *(spread(found[part, side]) for side in SIDES)]
        for side, goal in zip(SIDES, goals, strict=False):
            times = [
                mine / its for mine, its in zip(found[part, side], found[part, "llama.cpp"], strict=True)
            ]
            verdict = "" if rows > 1 else " ✓" if statistics.median(times) >= goal else f" < {goal:g}"
            line.append(spread(times, 2) + verdict)
        lines.append(line)
    return lines


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=tuple(SHAPES), default="135m")
    parser.add_argument(
        "--types", default="Q4_0,Q4_1,Q4_K_M,Q5_K_M,Q6_K,Q8_0", help="as llama-quantize calls them; or none"
    )
    parser.add_argument(
        "--files", type=Path, nargs="*", default=[], help="more .gguf files with as many tokens"
    )
    parser.add_argument("--rows", type=int, default=1, help="prompts at once")
    parser.add_argument("--prompt", type=int, default=45, help="tokens of each prompt")
    parser.add_argument("--new", type=int, default=60, help="new tokens of each row")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--dtype", choices=("auto", "bfloat16", "float32"), default="auto", help="of runner's rows"
    )
    parser.add_argument("--threads", type=int, default=machine.count_available_cpu_cores())
    parser.add_argument(
        "--processor-time", action="store_true", help="of all threads; with one nothing waits in it"
    )
    parser.add_argument("--memory", action="store_true", help="also measure what each file takes")
    add_option(parser)
    parser.add_argument("--memory-of", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--small", type=Path, help=argparse.SUPPRESS)
    options = parse_arguments(parser)
    if options.memory_of:
        print(json.dumps(measure_memory(options.memory_of, options.dtype, options.small)))
        return
    python, threads = xllamacpp_python(ROOT / "outputs" / ".xllamacpp"), options.threads
    files = files_of(options.shape, [] if options.types == "none" else options.types.split(","))
    files |= {file.stem: file for file in options.files}
    chance, vocabulary = random.Random(0), SHAPES[options.shape]["vocab_size"]
    prompts = [[chance.randrange(4, vocabulary) for _ in range(options.prompt)] for _ in range(options.rows)]
    lines, figures = [], []
    for name, file in files.items():
        with ExitStack() as open_sides:
            sides = {
                side: ours(file, options.dtype, at == 1, options.new, threads)
                for at, side in enumerate(SIDES[:2])
            }
            sides[SIDES[2]] = theirs(python, file, threads, options.rows, open_sides)
            found = measured(sides, prompts, options.new, options.rounds, options.processor_time)
        lines += lines_of(name, options.rows, found)
        for part, side in found:
            what = f"{name}, {part}, {options.rows} row{'s' * (options.rows > 1)}"
            figures.append(Figure.of(what, "tokens/s", found[part, side], side, 1))
        del sides
        gc.collect()
    print("### .gguf files by runner and by llama.cpp\n")
    print(head_line(["bench/gguf_speed.py", *sys.argv[1:]], threads))
    if left_out := processor.parse_disabled_cpu_features():
        print(f"without {', '.join(left_out)} (by {processor.LEFT_OUT})")
    of_time = "of the processor's time" if options.processor_time else "by the clock"
    tokens = f"{options.prompt} + {options.new} tokens a row"
    print(f"\n{options.rounds} rounds by turns, {of_time}, {tokens}: median (least..most)\n")
    head = [
        "file",
        "rows",
        "",
        *(f"{side}: tokens/s" for side in SIDES),
        *(f"{side}: x llama.cpp" for side in SIDES[:2]),
    ]
    print(markdown(head, lines), flush=True)
    if options.save:
        save(figures)
    if not options.memory:
        return
    small = gguf_random.write(
        ROOT / "outputs" / ".gguf-speed" / "small.gguf", SMALL, "Q8_0", tokenizer_file()
    )
    rows = []
    for name, file in files.items():
        memory = [memory_of(file, options.dtype, small) for _ in range(3)]
        resident, peak, kv = (
            statistics.median(one[key] for one in memory) for key in ("resident", "peak", "kv")
        )
        size = file.stat().st_size / MIB
        rows.append(
            [
                name,
                f"{size:,.1f}",
                f"{resident - kv:,.1f}",
                f"{(resident - kv) / size:.2f}",
                f"{peak - kv:,.1f}",
            ]
        )
    print(
        "\nWhat the process takes beyond its libraries, without keys and values, after 4 prompts, of 3 runs:\n"
    )
    print(markdown(["file", "MiB", "resident, MiB", "x the file", "peak, MiB"], rows))


if __name__ == "__main__":
    main()
