"""What do rows of several adapters cost? `python bench/engine/several_adapters.py [--adapters 1 2 8 --rows 8]`.

SmolLM2-135M-Instruct (`make real-model`) with made adapters of all linear layers: the base alone, one adapter as
`lora=peft` has it, and `lora=several` with so many adapters that the rows have by turns; beside vLLM's base, and its
`enable_lora` with the same adapters, where `make vllm` has installed it. All answer the same random prompts by turns;
decode is what more new tokens take than one.

`--compare`: no times, but the answers to questions that each adapter gives among the others and alone, counted.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "tests" / "support")]

from adapters import save_adapter  # noqa: E402
from engines import head_line, markdown, spread  # noqa: E402

from runner_base import Dtype  # noqa: E402
from runner_engine import (  # noqa: E402
    GenerationConfig,
    LocalModelConfig,
    ModelSpec,
    Request,
    complete,
    resolve,
)
from runner_engine.local.engine import LocalEngine  # noqa: E402
from runner_engine.settings.lora import LoraConfig, PeftConfig  # noqa: E402
from runner_engine.settings.several import SeveralConfig  # noqa: E402

MODEL = Path("~/.cache/runner/real-model/bfloat16").expanduser()
VLLM_PYTHON = ROOT / ".vllm" / "bin" / "python"
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
QUESTIONS = [
    "What is the capital of France?",
    "Name three colours.",
    "Tom has 3 pens and buys 4. How many?",
]
Side = Callable[[list[list[int]], int], float]


def made(folder: Path, base: Path, count: int, rank: int) -> list[Path]:
    """Return so many adapters, each with random numbers of its own."""
    places = [folder / f"rank_{rank}" / str(number) for number in range(count)]
    for number, place in enumerate(places):
        if (place / "adapter_model.safetensors").is_file():
            continue
        if not number:
            save_adapter(place, base, target_modules=LINEAR, r=rank, lora_alpha=2 * rank)
            continue
        shutil.copytree(places[0], place, dirs_exist_ok=True)
        chance = torch.Generator().manual_seed(number)
        file = place / "adapter_model.safetensors"
        tensors = {
            name: torch.randn(numbers.shape, generator=chance) * numbers.std()
            for name, numbers in load_file(file).items()
        }
        save_file(tensors, file, {"format": "pt"})
    return places


def engine_of(options: argparse.Namespace, lora: LoraConfig) -> LocalEngine:
    """Return an engine of the model with adapters, loaded."""
    dtype = Dtype(options.dtype)
    model = LocalModelConfig(
        name=str(options.model), device="cpu", dtype=dtype, threads=options.threads
    )
    generation = GenerationConfig(max_new_tokens=options.new)
    engine = LocalEngine(resolve(ModelSpec(model, lora=lora, generation=generation)))
    engine.load()
    return engine


def several(places: list[Path]) -> SeveralConfig:
    """Return the keys of adapters that are called by their numbers."""
    return SeveralConfig({f"a{number}": str(place) for number, place in enumerate(places)})


def ours(options: argparse.Namespace, lora: LoraConfig, open_sides: ExitStack) -> Side:
    """Load the model with our engine; return what completes prompts with it, in seconds."""
    engine = engine_of(options, lora)
    names: list[Any] = lora.names or [None]
    open_sides.callback(engine.close)

    def side(prompts: list[list[int]], new: int) -> float:
        asked = [
            Request(
                at, tuple(ids), max_new_tokens=new, ignore_eos=True, adapter=names[at % len(names)]
            )
            for at, ids in enumerate(prompts)
        ]
        clock = time.process_time if options.processor_time else time.perf_counter
        started = clock()
        if failed := [done.error for done in complete(engine, asked, len(asked)) if done.error]:
            raise SystemExit(f"{len(failed)} prompts failed, e.g. {failed[0]}")
        return clock() - started

    return side


def vllms(options: argparse.Namespace, places: list[Path], open_sides: ExitStack) -> Side:
    """Load the model with vLLM in a process of its own; return what completes prompts with it."""
    script = Path(__file__).with_name("several_adapters_side.py")
    asked = [options.vllm, script, options.model, options.threads, max(options.rows), *places]
    log = open_sides.enter_context((options.folder / "vllm.txt").open("w"))
    side = open_sides.enter_context(
        subprocess.Popen(
            [*map(str, asked)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"},
        )
    )
    assert side.stdin is not None
    assert side.stdout is not None
    questions, answers = side.stdin, side.stdout
    open_sides.callback(questions.close)

    def line() -> dict[str, float]:
        if not (written := answers.readline()):
            raise SystemExit(f"vLLM failed: {(options.folder / 'vllm.txt').read_text()[-1500:]}")
        seconds: dict[str, float] = json.loads(written)
        return seconds

    line()

    def complete_with_vllm(prompts: list[list[int]], new: int) -> float:
        print(json.dumps({"prompts": prompts, "new": new}), file=questions, flush=True)
        return line()["processor" if options.processor_time else "all"]

    return complete_with_vllm


def speed_table(options: argparse.Namespace, places: list[Path]) -> str:
    """Measure prefill and decode of all sides by turns."""
    found = defaultdict[tuple[str, int, str], list[float]](list)
    chance = random.Random(0)
    with ExitStack() as open_sides:
        sides: dict[str, Side] = {
            "base": ours(options, LoraConfig(), open_sides),
            "peft": ours(options, PeftConfig(path=str(places[0])), open_sides),
        }
        for count in options.adapters:
            sides[f"several, {count}"] = ours(options, several(places[:count]), open_sides)
        if options.vllm.is_file() and not options.without_vllm:
            sides["vLLM, base"] = vllms(options, [], open_sides)
            for count in options.adapters:
                sides[f"vLLM, {count}"] = vllms(options, places[:count], open_sides)
        torch.set_num_threads(options.threads)
        for at in range(options.rounds + 1):
            for rows in options.rows:
                prompts = [
                    [chance.randrange(100, 40_000) for _ in range(options.prompt)]
                    for _ in range(rows)
                ]
                for name, side in sides.items():
                    first, whole = side(prompts, 1), side(prompts, options.new)
                    if at:  # the first round is not counted
                        found["prefill", rows, name].append(rows * options.prompt / first)
                        decoded = rows * (options.new - 1)
                        found["decode", rows, name].append(decoded / (whole - first))
            print(f"round {at}", file=sys.stderr, flush=True)
    lines = [
        [part, str(rows), *(spread(found[part, rows, name]) for name in sides)]
        for part in ("prefill", "decode")
        for rows in options.rows
    ]
    return markdown(["tokens/s", "rows", *sides], lines)


def comparison(options: argparse.Namespace, places: list[Path]) -> str:
    """Count the answers that are those of each adapter alone."""
    wanted = [(name, text) for name in several(places).names for text in QUESTIONS]

    def answers(lora: LoraConfig, requests: list[Request]) -> dict[Any, list[int]]:
        engine = engine_of(options, lora)
        found = {done.id: done.answer.token_ids for done in complete(engine, requests)}
        engine.close()
        return found

    together = answers(
        several(places),
        [Request(f"{name} {text}", text, adapter=name) for name, text in wanted],
    )
    alone: dict[Any, list[int]] = {}
    for name, place in zip(several(places).names, places, strict=True):
        of_adapter = [Request(f"{name} {text}", text) for text in QUESTIONS]
        alone |= answers(PeftConfig(path=str(place)), of_adapter)
    same = sum(together[key] == alone[key] for key in alone)
    distinct = len({tuple(tokens) for tokens in alone.values()})
    return (
        f"{options.dtype}: {same} of {len(alone)} answers of {options.new} tokens are those of the adapter alone; "
        f"{distinct} are distinct"
    )


def main() -> None:
    """Print the table, or the counts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs" / ".adapters")
    parser.add_argument("--adapters", type=int, nargs="+", default=[1, 2, 8])
    parser.add_argument("--rows", type=int, nargs="+", default=[8])
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--new", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--processor-time", action="store_true", help="count the processor's time")
    parser.add_argument(
        "--vllm", type=Path, default=VLLM_PYTHON, help="the Python of its environment"
    )
    parser.add_argument("--without-vllm", action="store_true")
    parser.add_argument("--compare", action="store_true")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    places = made(options.folder, options.model, max(options.adapters), options.rank)
    print(head_line(["bench/engine/several_adapters.py", *sys.argv[1:]], options.threads))
    print((comparison if options.compare else speed_table)(options, places))


if __name__ == "__main__":
    main()
