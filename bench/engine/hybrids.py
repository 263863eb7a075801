"""How fast are hybrids beside static batches, `generate` and llama.cpp? `python bench/engine/hybrids.py [SHAPE …]`.

Models of random weights in bfloat16 in the shapes of Qwen3.5-0.8B, LFM2-350M and families of state spaces, with fewer
layers and a smaller vocabulary unless told otherwise. `stream` is the runner; `static` is transformers' own code with
its own cache in our static batches (model.attention=sdpa), as these families were decoded before their states had a
place in the stream; `generate` is transformers' own loop; llama.cpp reads a .gguf file of the same weights. vLLM is
measured where `--sides` names it (`make vllm` installs it; its Qwen3.5 needs torchvision). They complete the same
random prompts by turns, so that other work on the machine affects all of them.

Prefill is the time of one new token, and decode the rest. `unequal`: twice as many requests as rows, with prompts and
answers of half to one and a half times those lengths, and answers of up to four times as long for one request in four;
new tokens by all of the time. `of the bound`: of the tokens/s at which memory delivers the weights that a token reads.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from statistics import median
from typing import Any

import torch

from runner_base import MIB, Dtype, processor
from runner_engine import CHOICES, LocalModelConfig, ModelSpec, Request, complete_requests, resolve_model
from runner_engine.local.engine import LocalEngine
from runner_engine.settings.model import Attention

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "bench"), str(ROOT / "tests" / "support")]

import gguf_families  # noqa: E402
from engines import head_line, markdown, spread  # noqa: E402
from gguf_speed import XLLAMACPP, theirs  # noqa: E402
from heading import parse_arguments  # noqa: E402
from hybrid_shapes import SHAPES, WITHOUT_ATTENTION, with_sizes  # noqa: E402
from other_engines import xllamacpp_python  # noqa: E402
from read_rate import read_mib_per_s  # noqa: E402

from tools import families  # noqa: E402

STREAM, STATIC, GENERATE, LLAMACPP, VLLM = "stream", "static", "generate", "llama.cpp", "vllm"
OF_GGUF: dict[
    str, tuple[str, dict[str, Any]]
] = {  # names of tests/support/gguf_families.py, and keys for these shapes
    "Qwen3.5-0.8B": (
        "qwen3_5_text",
        {"full_attention_interval": 4, "rope.dimension_sections": [11, 11, 10, 0]},
    ),
    "LFM2-350M": ("lfm2", {}),
}
PARTS = ("prefill", "decode", "unequal")
VLLM_LINES = "vllm_lines_side.py"

Prompts = list[list[int]]
# so many rows at once; seconds, and the processor's
Side = Callable[[Prompts, list[int], int], tuple[float, float]]


def of_runner(folder: Path, attention: Attention, threads: int, open_sides: ExitStack) -> Side:
    """Open an engine of ours, which says how it decodes; return what completes prompts with it."""
    model = LocalModelConfig(
        name=str(folder), device="cpu", dtype=Dtype.bfloat16, attention=attention, threads=threads
    )
    engine = LocalEngine(resolve_model(ModelSpec(model, CHOICES["none"]())))
    open_sides.callback(engine.close)
    how = engine.load().facts["decoding"]

    def side(prompts: Prompts, new: list[int], rows: int) -> tuple[float, float]:
        asked = [
            Request(at, tuple(ids), ignore_eos=True, max_new_tokens=most)
            for at, (ids, most) in enumerate(zip(prompts, new, strict=True))
        ]
        started, spent = time.perf_counter(), time.process_time()
        if failed := [done.error for done in complete_requests(engine, asked, rows) if done.error]:
            raise SystemExit(f"{len(failed)} requests failed, e.g. {failed[0]}")
        return time.perf_counter() - started, time.process_time() - spent

    side([[5, 6, 7]], [2], 1)
    passes = (
        "" if attention is not Attention.auto else f"; a pass in a single call: {engine.fused is not None}"
    )
    print(f"{folder.name}: {how}{passes}", file=sys.stderr)
    return side


def of_generate(folder: Path) -> Side:
    """Load a model by transformers; return what completes batches, padded on the left, to their
    longest answers."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    model.generation_config.eos_token_id = None

    def batches(prompts: Prompts, new: list[int], rows: int) -> Iterator[tuple[Prompts, int]]:
        for first in range(0, len(prompts), rows):
            yield prompts[first : first + rows], max(new[first : first + rows])

    def side(prompts: Prompts, new: list[int], rows: int) -> tuple[float, float]:
        started, spent = time.perf_counter(), time.process_time()
        for batch, most in batches(prompts, new, rows):
            longest = max(map(len, batch))
            ids = torch.tensor([[0] * (longest - len(one)) + one for one in batch])
            mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in batch])
            model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=most)
        return time.perf_counter() - started, time.process_time() - spent

    return side


def of_process(python: str, script: str, file: Path, threads: int, rows: int, open_sides: ExitStack) -> Side:
    """Load a file, or a folder, for so many rows by another library; return what completes prompts
    with it."""
    completer = theirs(python, file, threads, rows, open_sides, script)

    def side(prompts: Prompts, new: list[int], _: int) -> tuple[float, float]:
        seconds = completer(prompts, new)
        return seconds["all"], seconds["processor"]

    return side


def rates(side: Side, rows: int, lengths: tuple[int, int], by_processor: bool) -> dict[str, float]:
    """Return the tokens a second of each part."""
    (prompt, new), chance, vocabulary = lengths, random.Random(rows), families.VOCABULARY

    def asked(lengths: list[int], answers: list[int]) -> float:
        prompts = [[chance.randrange(3, vocabulary) for _ in range(length)] for length in lengths]
        return side(prompts, answers, rows)[by_processor]

    first, whole = asked([prompt] * rows, [1] * rows), asked([prompt] * rows, [new] * rows)
    of_prompts = [chance.randint(prompt // 2, prompt * 3 // 2) for _ in range(2 * rows)]
    answers = [chance.randint(new // 2, new * 3 // 2) * (1, 1, 1, 4)[at % 4] for at in range(2 * rows)]
    return {
        "prefill": rows * prompt / first,
        "decode": rows * (new - 1) / max(whole - first, 1e-9),
        "unequal": sum(answers) / asked(of_prompts, answers),
    }


def save(config: Any, folder: Path, name: str, kind: str) -> tuple[Path | None, float]:
    """Save a model of random weights with a tokenizer of bytes, and a .gguf file of it where
    llama.cpp knows it.

    Returns the file, and the MiB that a token reads: the weights without an embedding that is no
    head, and no states.
    """
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).bfloat16()
    model.save_pretrained(folder)
    families._tokenizer().save_pretrained(folder)
    if config.model_type == "lfm2":
        add_names_of_lfm2(folder / "config.json", config)
    is_tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    unread = 0 if is_tied else model.get_input_embeddings().weight.nbytes
    mib = (sum(weight.nbytes for weight in model.parameters()) - unread) / MIB
    if name not in OF_GGUF:
        return None, mib
    family, keys = OF_GGUF[name]
    file = gguf_families.write_gguf(
        folder.with_suffix(".gguf"), family, model, kind, context_length=4096, **keys
    )
    return file, mib


def add_names_of_lfm2(file: Path, config: Any) -> None:
    """Add the names that published configs have beside those of transformers: vLLM reads them."""
    wide, inner = config.hidden_size, config.intermediate_size
    own = {
        "conv_dim": wide,
        "conv_dim_out": wide,
        "block_dim": wide,
        "block_ff_dim": inner,
        "block_norm_eps": 1e-5,
    }
    file.write_text(
        json.dumps(json.loads(file.read_text()) | own | {"num_heads": config.num_attention_heads})
    )


def lines_of(name: str, options: argparse.Namespace, folder: Path) -> list[list[str]]:
    """Measure a shape; return its lines of the table."""
    made = folder / name.replace(".", "_")
    file, mib = save(with_sizes(SHAPES[name](options.layers), options.vocabulary), made, name, options.gguf)
    lines = []
    with ExitStack() as open_sides:
        before = Attention.eager if name in WITHOUT_ATTENTION else Attention.sdpa
        sides = {STREAM: of_runner(made, Attention.auto, options.threads, open_sides)}
        if STATIC in options.sides:
            sides[STATIC] = of_runner(made, before, options.threads, open_sides)
        if GENERATE in options.sides:
            sides[GENERATE] = of_generate(made)
        torch.set_num_threads(options.threads)
        bound = read_mib_per_s(options.processor_time) / mib
        for rows in options.rows:
            with ExitStack() as of_rows:
                if LLAMACPP in options.sides and file is not None:
                    python = xllamacpp_python(ROOT / "outputs" / ".xllamacpp")
                    sides[LLAMACPP] = of_process(python, XLLAMACPP, file, options.threads, rows, of_rows)
                if VLLM in options.sides:
                    sides[VLLM] = of_process(options.vllm, VLLM_LINES, made, options.threads, rows, of_rows)
                found = by_turns(sides, rows, options)
            for part in PARTS:
                speeds = {side: found[part, side] for side in options.sides if side in sides}
                cells = [spread(speeds[side]) if side in speeds else "" for side in options.sides]
                times = [
                    spread(_times(speeds[STREAM], speeds[side]), 2) if side in speeds else ""
                    for side in options.sides[1:]
                ]
                is_bound = (part, rows) == ("decode", 1)
                of_bound = f"{median(speeds[STREAM]) / bound:.2f} of {bound:,.0f}" if is_bound else ""
                lines.append([name, part, str(rows), *cells, *times, of_bound])
            print(markdown(_head(options.sides), lines[-len(PARTS) :]), file=sys.stderr, flush=True)
    return lines


def by_turns(
    sides: dict[str, Side], rows: int, options: argparse.Namespace
) -> dict[tuple[str, str], list[float]]:
    """Return the rates by part and side, after a round that does not count."""
    found: dict[tuple[str, str], list[float]] = {(part, side): [] for part in PARTS for side in sides}
    for at in range(options.rounds + 1):
        for name, side in sides.items():
            lengths = (options.prompt, options.new) if at else (8, 3)
            for part, rate in rates(side, rows, lengths, options.processor_time).items():
                if at:
                    found[part, name].append(rate)
    return found


def _times(mine: list[float], others: list[float]) -> list[float]:
    return [one / other for one, other in zip(mine, others, strict=True)]


def _head(sides: list[str]) -> list[str]:
    return ["shape", "", "rows", *sides, *(f"x {side}" for side in sides[1:]), "of the bound"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shapes", nargs="*", help=f"of {', '.join(SHAPES)}; default: all")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=16_384)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt", type=int, default=128, help="tokens of each prompt")
    parser.add_argument("--new", type=int, default=32, help="new tokens of each row")
    parser.add_argument(
        "--sides", nargs="+", default=[STREAM, STATIC, GENERATE, LLAMACPP], help="stream is the first"
    )
    parser.add_argument(
        "--vllm", default=str(ROOT / ".vllm/bin/python"), help="the interpreter of its environment"
    )
    parser.add_argument("--gguf", default="BF16", help="type of llama.cpp's matrices: F32, BF16, Q8_0")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--processor-time", action="store_true", help="of all threads; with one nothing waits in it"
    )
    options = parse_arguments(parser)
    torch.set_grad_enabled(False)
    lines = []
    with tempfile.TemporaryDirectory() as folder, suppress(KeyboardInterrupt):
        for name in options.shapes or SHAPES:
            lines += lines_of(name, options, Path(folder))
    print("### Hybrids\n")
    print(head_line(["bench/engine/hybrids.py", *sys.argv[1:]], options.threads))
    if left_out := processor.parse_disabled_cpu_features():
        print(f"without {', '.join(left_out)} (by {processor.LEFT_OUT})")
    how = "of the processor's time" if options.processor_time else "by the clock"
    print(
        f"\n{options.rounds} rounds by turns, {how}, {options.layers} layers, a vocabulary of {options.vocabulary:,},"
    )
    print(f"{options.prompt} + {options.new} tokens a row, llama.cpp with {options.gguf}; tokens/s:\n")
    print(markdown(_head(options.sides), lines), flush=True)


if __name__ == "__main__":
    main()
