"""How fast are long contexts beside llama.cpp and vLLM? `python bench/engine/long.py [--lengths 2048 8192 --rows 1]`.

A Llama of SmolLM2-135M's shape with random weights in bfloat16, of all its layers or of fewer (`--layers`), and with
room for 32k positions. The runner, llama.cpp with a .gguf file of the same weights, and vLLM (where `make vllm` has
installed it) read the same random prompts by turns and then decode behind them: prefill is the time of one new token,
and decode what more of them take when the prompts are asked again, whose keys and values all three have kept.

`--recurring`: eight prompts of the longest length are asked one by one, in two rounds: with the prompt cache as free
memory allows, and with 256 MiB.

`--gap`: four rows decode, and a prompt of the longest length comes: how long it takes, and the longest time for which a
row that decodes waits for its next token.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "tests" / "support")]

import gguf_families  # noqa: E402
from engines import greedy_engine, head_line, markdown, spread  # noqa: E402
from gguf_speed import Seconds, theirs  # noqa: E402
from heading import parse_arguments  # noqa: E402
from other_engines import xllamacpp_python  # noqa: E402

from runner_base import MIB, Dtype, processor  # noqa: E402
from runner_engine import LocalModelConfig, Request, complete_requests  # noqa: E402
from runner_engine.embedded import MODEL_DIR  # noqa: E402

SHAPE = Path(sys.modules["runner_engine"].__path__[0]) / "checkpoints" / "shapes" / "smollm2_135m.json"
RUNNER, LLAMACPP, VLLM = "runner", "llama.cpp", "vLLM"
VLLM_PYTHON, VLLM_LINES = ROOT / ".vllm" / "bin" / "python", "vllm_lines_side.py"
POSITIONS = 32768 + 512
SHORT = 512  # tokens of the first round: vLLM keeps whole blocks of 128
RECURRING, CACHE_MIB = 8, (None, 256)  # with --recurring: prompts, and limits of the prompt cache
DECODING, NEW_WHILE_LATE = 4, 4096  # with --gap: rows, and the most tokens of each
Side = Callable[..., Seconds]


def files(folder: Path, layers: int) -> tuple[Path, Path, int]:
    """Return the folder of the model, the .gguf file of the same weights, and the vocabulary's
    size."""
    made, file = folder / "model", folder / "model.gguf"
    shape: dict[str, Any] = json.loads(SHAPE.read_text())
    shape |= {"num_hidden_layers": layers, "max_position_embeddings": POSITIONS}
    if not file.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        ids = {"bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0}
        kept = {
            key: value for key, value in shape.items() if key not in ("architectures", "model_type", "dtype")
        }
        model = gguf_families.tiny("llama_linear", **kept | ids).to(torch.bfloat16)
        model.save_pretrained(made)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(MODEL_DIR / name, made / name)
        partial = gguf_families.write_gguf(
            folder / "partial", "llama_linear", model, "BF16", context_length=POSITIONS
        )
        partial.rename(file)
    return made, file, shape["vocab_size"]


def ours(folder: Path, threads: int, open_sides: ExitStack) -> Side:
    """Load the model with our engine; return what completes prompts with it."""
    engine = greedy_engine(
        LocalModelConfig(name=str(folder), device="cpu", dtype=Dtype.bfloat16, threads=threads)
    )
    open_sides.callback(engine.close)
    engine.load()

    def waited(prompts: list[list[int]], new: int, late: list[int]) -> Seconds:
        rows = [
            Request(at, tuple(ids), max_new_tokens=new, ignore_eos=True) for at, ids in enumerate(prompts)
        ]
        gap, before, is_done = 0.0, engine.stats.decode_tokens, False
        with engine.open(len(rows) + 1) as session:
            session.submit_all(rows)
            while engine.stats.decode_tokens < before + 4 * len(rows):
                session.step()
            session.submit(Request("late", tuple(late), max_new_tokens=1, ignore_eos=True))
            began = last = time.perf_counter()
            while not is_done:
                is_done = any(event.id == "late" for event in session.step())
                if engine.stats.decode_tokens > before:
                    before, now = engine.stats.decode_tokens, time.perf_counter()
                    gap, last = max(gap, now - last), now
            ended = time.perf_counter()
            session.cancel_all()
            while not session.is_idle:
                session.step()
        return {"late": ended - began, "gap": max(gap, ended - last)}

    def side(
        prompts: list[list[int]], new: int, cached: bool = False, late: list[int] | None = None
    ) -> Seconds:
        if late:
            return waited(prompts, new, late)
        asked = [
            Request(at, tuple(ids), max_new_tokens=new, ignore_eos=True, recurring=True)
            for at, ids in enumerate(prompts)
        ]
        before, started, spent = replace(engine.stats), time.perf_counter(), time.process_time()
        if failed := [done.error for done in complete_requests(engine, asked, len(asked)) if done.error]:
            raise SystemExit(f"{len(failed)} prompts failed, e.g. {failed[0]}")
        seconds = {"all": time.perf_counter() - started, "processor": time.process_time() - spent}
        if ((engine.stats - before).prefill_tokens < sum(map(len, prompts)) // 2) != cached:
            raise SystemExit(
                "the prompts were kept where they should be read, or read where they should be kept"
            )
        return seconds

    side([[5, 6, 7]], 2)
    return side


def measured(
    sides: dict[str, Side], rows: int, length: int, vocabulary: int, options: argparse.Namespace
) -> dict[tuple[str, str], list[float]]:
    """Return tokens a second of prefill and decode by side, after a round with short prompts."""
    # other prompts for each length, since those of the length before are kept
    chance, found = random.Random(length), defaultdict[tuple[str, str], list[float]](list)
    which = "processor" if options.processor_time else "all"
    for at in range(options.rounds + 1):
        tokens = length if at else SHORT
        prompts = [[chance.randrange(4, vocabulary) for _ in range(tokens)] for _ in range(rows)]
        for name, side in sides.items():
            prefill = side(prompts, 1)[which]
            side(prompts, 1, cached=True)  # the first time, what was kept is arranged for the next
            first, whole, again = (side(prompts, new, cached=True)[which] for new in (1, options.new, 1))
            if at:
                found["prefill", name].append(rows * tokens / prefill)
                decode = whole - (first + again) / 2
                found["decode", name].append(rows * (options.new - 1) / decode)
    return found


def opened(
    options: argparse.Namespace, layers: int, rows: int, positions: int, open_sides: ExitStack
) -> tuple[dict[str, Side], int]:
    """Open all sides for so many rows; return them and the vocabulary's size."""
    folder, file, vocabulary = files(options.folder / str(layers), layers)
    sides: dict[str, Side] = {RUNNER: ours(folder, options.threads, open_sides)}
    if LLAMACPP in options.sides:
        python = xllamacpp_python(ROOT / "outputs" / ".xllamacpp")
        sides[LLAMACPP] = theirs(python, file, options.threads, rows, open_sides, positions=positions)
    if VLLM in options.sides and VLLM_PYTHON.is_file():
        python = str(VLLM_PYTHON)
        sides[VLLM] = theirs(python, folder, options.threads, rows, open_sides, VLLM_LINES, positions)
    torch.set_num_threads(options.threads)
    return sides, vocabulary


def speed_table(options: argparse.Namespace) -> str:
    lines, most = [], max(options.lengths) + options.new + 16
    for rows in options.rows:
        with ExitStack() as open_sides:
            sides, vocabulary = opened(options, options.layers, rows, most, open_sides)
            for length in options.lengths:
                found = measured(sides, rows, length, vocabulary, options)
                for part in ("prefill", "decode"):
                    speeds = [found[part, side] for side in sides]
                    times = [[a / b for a, b in zip(speeds[0], other, strict=True)] for other in speeds[1:]]
                    lines.append(
                        [part, f"{length:,}", str(rows), *map(spread, speeds), *(spread(x, 2) for x in times)]
                    )
                    print(lines[-1], file=sys.stderr, flush=True)
    return markdown(["", "tokens", "rows", *sides, *(f"x {side}" for side in list(sides)[1:])], lines)


def recurring_table(options: argparse.Namespace) -> str:
    """Measure two rounds of the same prompts, for each limit of the prompt cache by turns."""
    length, chance, lines = max(options.lengths), random.Random(0), []
    folder, _, vocabulary = files(options.folder / str(options.layers), options.layers)
    prompts = [tuple(chance.randrange(4, vocabulary) for _ in range(length)) for _ in range(RECURRING)]
    with ExitStack() as open_engines:
        engines = []
        for limit in CACHE_MIB:
            model = LocalModelConfig(
                name=str(folder), device="cpu", dtype=Dtype.bfloat16, threads=options.threads
            )
            engine = greedy_engine(model, prompt_cache_mib=limit)
            open_engines.callback(engine.close)
            complete_requests(engine, [Request("first", (5, 6, 7), max_new_tokens=2)])
            engines.append((limit, engine))
        cells: dict[int | None, list[str]] = defaultdict(list)
        for _ in range(2):
            seconds, computed = dict.fromkeys(CACHE_MIB, 0.0), dict.fromkeys(CACHE_MIB, 0)
            for at, ids in enumerate(prompts):
                for limit, engine in engines:
                    before, spent, started = (
                        engine.stats.prefill_tokens,
                        time.process_time(),
                        time.perf_counter(),
                    )
                    asked = Request(at, ids, max_new_tokens=1, ignore_eos=True, recurring=True)
                    complete_requests(engine, [asked], 1)
                    passed = time.process_time() - spent, time.perf_counter() - started
                    seconds[limit] += passed[not options.processor_time]
                    computed[limit] += engine.stats.prefill_tokens - before
            for limit in CACHE_MIB:
                cells[limit] += [f"{seconds[limit]:,.2f}", f"{computed[limit]:,}"]
        for limit, engine in engines:
            kept, most = (number / MIB for number in (engine.stats.kept_bytes, engine.stats.max_kept_bytes))
            lines.append(
                ["null" if limit is None else str(limit), *cells[limit], f"{kept:,.0f}", f"{most:,.0f}"]
            )
    rounds = [f"round {number}, {what}" for number in (1, 2) for what in ("s", "tokens computed")]
    return markdown(["generation.prompt_cache_mib", *rounds, "cache MiB", "limit MiB"], lines)


def gap_table(options: argparse.Namespace) -> str:
    """Measure how long rows that decode wait while a long prompt is read."""
    length, chance, lines = max(options.lengths), random.Random(0), []
    with ExitStack() as open_sides:
        sides, vocabulary = opened(options, options.layers, DECODING + 1, length + NEW_WHILE_LATE, open_sides)
        prompts = [[chance.randrange(4, vocabulary) for _ in range(64)] for _ in range(DECODING)]
        late = [chance.randrange(4, vocabulary) for _ in range(length)]
        for name, side in sides.items():
            found = [side(prompts, NEW_WHILE_LATE, late=late) for _ in range(options.rounds)]
            lines.append([name, *(spread([one[part] for one in found], 2) for part in ("late", "gap"))])
    return markdown(["", f"a prompt of {length:,} tokens, s", "longest time without a token, s"], lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 8192], help="tokens of each prompt")
    parser.add_argument("--rows", type=int, nargs="+", default=[1], help="prompts at once")
    parser.add_argument("--new", type=int, default=64, help="new tokens of each row")
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--sides", nargs="*", default=[LLAMACPP, VLLM], help="beside the runner")
    parser.add_argument("--gap", action="store_true")
    parser.add_argument("--recurring", action="store_true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--processor-time", action="store_true", help="of all threads; with one nothing waits in it"
    )
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs" / ".long")
    options = parse_arguments(parser)
    measure = gap_table if options.gap else recurring_table if options.recurring else speed_table
    table = measure(options)
    print("### Long contexts\n")
    print(head_line(["bench/engine/long.py", *sys.argv[1:]], options.threads))
    if left_out := processor.parse_disabled_cpu_features():
        print(f"without {', '.join(left_out)} (by {processor.LEFT_OUT})")
    how = "of the processor's time" if options.processor_time else "by the clock"
    what = f"{options.rounds} rounds by turns, {how}, {options.layers} layers, {options.new} new tokens; tokens/s:"
    if options.recurring:
        what = f"{RECURRING} prompts of {max(options.lengths):,} tokens, {how}, {options.layers} layers:"
    print(f"\n{what}\n")
    print(table, flush=True)


if __name__ == "__main__":
    main()
