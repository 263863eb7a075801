"""What do rows of several adapters cost? `python bench/engine/several_adapters.py [--adapters 1 2 8 --rows 8]`.

The first layers of SmolLM2-135M-Instruct (`make real-model`) with made adapters of all linear layers: the base alone,
one adapter as `lora=peft` has it, and `lora=several` with so many adapters that the rows have by turns; beside vLLM's
base, and its `enable_lora` with the same adapters, where `make vllm` has installed it. All answer the same random
prompts by turns, and what counts is the processor's time of one thread, which other programs hardly change
(`--wall`: the clock's). Decode is what more new tokens take than one.

`--by-operations`: passes of `lora=several` go operation by operation, as before they were a single call.
`--compare`: no times, but the answers to questions that each adapter gives among the others and alone, counted.
`--memory`: no times, but what a plan says that the adapters take, and what they took.
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
from heading import parse_arguments  # noqa: E402

from runner_base import Dtype, machine  # noqa: E402
from runner_engine import (  # noqa: E402
    GenerationConfig,
    LocalModelConfig,
    ModelSpec,
    Request,
    complete_requests,
    predict_footprint,
    resolve_model,
)
from runner_engine.decode import compat_probe  # noqa: E402
from runner_engine.decode.layouts import NotFusable  # noqa: E402
from runner_engine.local.engine import LocalEngine  # noqa: E402
from runner_engine.settings.lora import LoraConfig, PeftConfig  # noqa: E402
from runner_engine.settings.named_adapters import MultiAdapterConfig  # noqa: E402

MODEL = Path("~/.cache/runner/real-model/bfloat16").expanduser()
VLLM_PYTHON = ROOT / ".vllm" / "bin" / "python"
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
QUESTIONS = ["What is the capital of France?", "Name three colours.", "Tom has 3 pens and buys 4. How many?"]
Side = Callable[[list[list[int]], int], float]


def first_layers(model: Path, folder: Path, layers: int) -> Path:
    """Return a folder with so many of a model's layers; 0: all of them."""
    cut = folder / f"layers_{layers}"
    if not layers or (cut / "model.safetensors").is_file():
        return cut if layers else model
    shutil.copytree(model, cut, dirs_exist_ok=True)
    config = json.loads((model / "config.json").read_text())
    (cut / "config.json").write_text(json.dumps(config | {"num_hidden_layers": layers}))
    kept = {
        name: numbers
        for name, numbers in load_file(model / "model.safetensors").items()
        if not name.startswith("model.layers.") or int(name.split(".")[2]) < layers
    }
    save_file(kept, cut / "model.safetensors", {"format": "pt"})
    return cut


def made(folder: Path, base: Path, count: int, rank: int) -> list[Path]:
    """Return so many adapters, each with random numbers of its own."""
    places = [folder / base.name / f"rank_{rank}" / str(number) for number in range(count)]
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


def spec_of(options: argparse.Namespace, lora: LoraConfig) -> ModelSpec:
    """Return the model with adapters."""
    dtype = Dtype(options.dtype)
    model = LocalModelConfig(name=str(options.model), device="cpu", dtype=dtype, threads=options.threads)
    return ModelSpec(model, lora=lora, generation=GenerationConfig(max_new_tokens=options.new))


def engine_of(options: argparse.Namespace, lora: LoraConfig) -> LocalEngine:
    """Return an engine of the model with adapters, loaded."""
    engine = LocalEngine(resolve_model(spec_of(options, lora)))
    engine.load()
    return engine


def several(places: list[Path]) -> MultiAdapterConfig:
    """Return the keys of adapters that are called by their numbers."""
    return MultiAdapterConfig({f"a{number}": str(place) for number, place in enumerate(places)})


def ours(options: argparse.Namespace, lora: LoraConfig, open_sides: ExitStack) -> Side:
    """Load the model with our engine; return what completes prompts with it, in seconds."""
    engine = engine_of(options, lora)
    names: list[Any] = lora.adapter_names or [None]
    open_sides.callback(engine.close)

    def side(prompts: list[list[int]], new: int) -> float:
        asked = [
            Request(at, tuple(ids), max_new_tokens=new, ignore_eos=True, adapter=names[at % len(names)])
            for at, ids in enumerate(prompts)
        ]
        clock = time.perf_counter if options.wall else time.process_time
        started = clock()
        if failed := [done.error for done in complete_requests(engine, asked, len(asked)) if done.error]:
            raise SystemExit(f"{len(failed)} prompts failed, e.g. {failed[0]}")
        return clock() - started

    return side


def vllms(options: argparse.Namespace, places: list[Path], open_sides: ExitStack) -> list[Side]:
    """Load the model with vLLM in a process of its own; return what completes prompts with each
    number of adapters, or with the base."""
    script = Path(__file__).with_name("several_adapters_side.py")
    log = options.folder / f"vllm_{len(places)}.txt"
    asked = [options.vllm, script, options.model, options.threads, max(options.rows)]
    side = open_sides.enter_context(
        subprocess.Popen(
            [*map(str, [*asked, options.dtype, options.rank, *places])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=open_sides.enter_context(log.open("w")),
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
            raise SystemExit(f"vLLM failed: {log.read_text()[-1500:]}")
        seconds: dict[str, float] = json.loads(written)
        return seconds

    line()

    def of(count: int) -> Side:
        def complete_with_vllm(prompts: list[list[int]], new: int) -> float:
            job = {"prompts": prompts, "new": new, "adapters": count}
            print(json.dumps(job), file=questions, flush=True)
            return line()["wall" if options.wall else "processor"]

        return complete_with_vllm

    return [of(count) for count in (options.adapters if places else [0])]


def refuse_single_calls() -> None:
    """Let passes go operation by operation."""

    def refused(*_: Any) -> Any:
        raise NotFusable("--by-operations")

    vars(compat_probe)["FusedForward"] = refused


def opened(options: argparse.Namespace, places: list[Path], open_sides: ExitStack) -> dict[str, Side]:
    """Load what is measured, each by its name in the table."""
    sides: dict[str, Side] = {}
    if not options.by_operations:
        sides["base"] = ours(options, LoraConfig(), open_sides)
    else:
        refuse_single_calls()
    sides["peft"] = ours(options, PeftConfig(path=str(places[0])), open_sides)
    for count in options.adapters:
        sides[f"several, {count}"] = ours(options, several(places[:count]), open_sides)
    if options.vllm.is_file() and not options.without_vllm:
        sides["vLLM, base"] = vllms(options, [], open_sides)[0]
        of_vllm = vllms(options, places, open_sides)
        sides |= {f"vLLM, {count}": side for count, side in zip(options.adapters, of_vllm, strict=True)}
    return sides


def speed_table(options: argparse.Namespace, places: list[Path]) -> str:
    """Measure prefill and decode of all sides by turns."""
    found = defaultdict[tuple[str, int, str], list[float]](list)
    chance = random.Random(0)
    with ExitStack() as open_sides:
        sides = opened(options, places, open_sides)
        torch.set_num_threads(options.threads)
        for at in range(options.rounds + 1):
            for rows in options.rows:
                prompts = [
                    [chance.randrange(100, 40_000) for _ in range(options.prompt)] for _ in range(rows)
                ]
                for name, side in sides.items():
                    first, whole = side(prompts, 1), side(prompts, options.new)
                    if at:  # the first round is not counted
                        found["prefill", rows, name].append(1e6 * first / rows / options.prompt)
                        decoded = rows * (options.new - 1)
                        found["decode", rows, name].append(1e6 * (whole - first) / decoded)
            print(f"round {at}", file=sys.stderr, flush=True)
    lines = [
        [name]
        + [
            spread(found[part, rows, name], digits=0)
            for rows in options.rows
            for part in ("prefill", "decode")
        ]
        for name in sides
    ]
    heads = [f"{part}, {rows} rows" for rows in options.rows for part in ("prefill", "decode")]
    return markdown(["µs a token", *heads], lines)


def comparison(options: argparse.Namespace, places: list[Path]) -> str:
    """Count the answers that are those of each adapter alone."""
    wanted = [(name, text) for name in several(places).adapter_names for text in QUESTIONS]

    def answers(lora: LoraConfig, requests: list[Request]) -> dict[Any, list[int]]:
        engine = engine_of(options, lora)
        found = {done.id: done.answer.token_ids for done in complete_requests(engine, requests)}
        engine.close()
        return found

    together = answers(
        several(places), [Request(f"{name} {text}", text, adapter=name) for name, text in wanted]
    )
    alone: dict[Any, list[int]] = {}
    for name, place in zip(several(places).adapter_names, places, strict=True):
        of_adapter = [Request(f"{name} {text}", text) for text in QUESTIONS]
        alone |= answers(PeftConfig(path=str(place)), of_adapter)
    same = sum(together[key] == alone[key] for key in alone)
    distinct = len({tuple(tokens) for tokens in alone.values()})
    return (
        f"{options.dtype}: {same} of {len(alone)} answers of {options.new} tokens are those of the adapter alone; "
        f"{distinct} are distinct"
    )


def memory_table(options: argparse.Namespace, places: list[Path]) -> str:
    """Compare the memory that a plan says with what is there, beside the base's."""
    lines = []
    cases: dict[str, LoraConfig] = {"base": LoraConfig(), "peft": PeftConfig(path=str(places[0]))}
    cases |= {f"several, {count}": several(places[:count]) for count in options.adapters}
    cases["merged"] = PeftConfig(path=str(places[0]), merge=True)
    for name, lora in cases.items():
        if options.case is None:  # each in a process of its own, so that a peak is its own
            command = [sys.executable, __file__, *sys.argv[1:], "--case", name]
            lines.append(json.loads(subprocess.check_output(command, text=True)))
        elif options.case == name:
            prediction = predict_footprint(resolve_model(spec_of(options, lora)), (1, 64, options.new))
            assert prediction is not None
            before = machine.rss_mib()
            engine = engine_of(options, lora)
            measured = engine.loaded.metrics["weight_mib"]
            peak = machine.peak_rss_mib() - before
            numbers = prediction.weight_mib, measured, prediction.load_mib, peak
            print(json.dumps([name, *(f"{number:,.1f}" for number in numbers)]))
            engine.close()
    heads = ["MiB", "weights, predicted", "measured", "peak of the load, predicted", "measured"]
    return markdown(heads, lines) if lines else ""


def main() -> None:
    """Print the table, or the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--layers", type=int, default=8, help="so many of its layers; 0: all")
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs" / ".adapters")
    parser.add_argument("--adapters", type=int, nargs="+", default=[1, 2, 8])
    parser.add_argument("--rows", type=int, nargs="+", default=[8])
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--new", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--wall", action="store_true", help="by the clock, not the processor")
    parser.add_argument("--vllm", type=Path, default=VLLM_PYTHON, help="the Python of its environment")
    parser.add_argument("--without-vllm", action="store_true")
    parser.add_argument("--by-operations", action="store_true")
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parse_arguments(parser)
    options.folder.mkdir(parents=True, exist_ok=True)
    options.model = first_layers(options.model, options.folder, options.layers)
    places = made(options.folder, options.model, max(options.adapters), options.rank)
    show = comparison if options.compare else memory_table if options.memory else speed_table
    if not options.case:
        print(head_line(["bench/engine/several_adapters.py", *sys.argv[1:]], options.threads))
    print(show(options, places))


if __name__ == "__main__":
    main()
