"""How fast are .gguf files beside llama.cpp, and what memory do they take? `python bench/gguf_speed.py [--rows 1 32]`.

`llama-quantize` makes files of a Llama shape with random weights, all of whose widths are multiples of 256. Each run is
a fresh process, runner and llama.cpp by turns: so many random prompts at once, exactly so many new tokens each.
llama.cpp decodes all rows in one batch. Then each file is loaded once more after a small one, which leaves the
libraries in memory: what the process takes beyond that, without keys and values, is the file's.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from engines import Job, Outcome, complete_random, greedy_engine, head_line, markdown, run_fresh, spread
from gguf_files import make_files, run
from gguf_of import gguf_of
from gsm8k_vs_lmeval import ROOT
from peers import llamacpp_programs, llamacpp_python

from runner.checkpoints import random_weights
from runner.config.model import LocalModelConfig
from runner.core import machine
from runner.core.dtypes import Dtype
from runner.core.machine import MIB
from runner.embedded import MODEL_DIR
from runner.quantization import CHOICES

SHAPES: dict[str, dict[str, Any]] = {
    "135m": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 15, "num_attention_heads": 12,
             "num_key_value_heads": 4, "vocab_size": 49152},
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
           "num_key_value_heads": 8, "vocab_size": 32768},
}  # fmt: skip
SIDES = ("runner", "runner, int8 rows", "llama.cpp")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")


def files_of(programs: Path, shape: str, types: Sequence[str]) -> dict[str, Path]:
    """Return the files of a shape by type, made at first use."""
    folder = ROOT / "outputs" / ".gguf-speed" / shape
    folder.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER:
        shutil.copyfile(MODEL_DIR / name, folder / name)
    files = {name: folder / f"{name}.gguf" for name in types}
    if all(file.is_file() for file in files.values()):
        return files
    model = folder / "model"
    if not model.is_dir():
        write_random(model, SHAPES[shape])
    base = gguf_of(model, "bfloat16", folder)
    for name, file in files.items():
        if not file.is_file():
            partial = file.with_suffix(".partial")
            run(programs / "llama-quantize", base, partial, name)
            partial.rename(file)
    shutil.rmtree(model)
    base.unlink()
    return files


def write_random(folder: Path, shape: dict[str, Any]) -> None:
    """Write a Llama with random weights in bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    settings = LlamaConfig(
        **shape, max_position_embeddings=2048, tie_word_embeddings=True, **random_weights.special_tokens()
    )
    model = AutoModelForCausalLM.from_config(settings, dtype=torch.bfloat16)
    model.save_pretrained(folder)


def memory_of(file: Path, dtype: str, small: Path) -> dict[str, float]:
    """Return, in a fresh process, the MiB that a file takes beyond those of the libraries, and keys and values."""
    asked = [sys.executable, __file__, "--memory-of", str(file), "--small", str(small), "--dtype", dtype]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{file.name}: its memory was not measured:\n{done.stderr[-2000:]}")
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def measure_memory(file: Path, dtype: str, small: Path) -> dict[str, float]:
    """Load a small file and use it, then this one; return what is resident beyond the small one's libraries."""
    chance, found = random.Random(0), dict[str, float]()
    for each in (small, file):
        before = machine.rss_mib()
        machine.reset_peak()
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
        machine.trim()
    return found


def jobs_of(file: Path, dtype: str, prompts: list[list[int]], new_tokens: int) -> dict[str, Job]:
    """Return the job of each side: runner with rows in bytes as llama.cpp has them, and with exact ones."""
    limits = [new_tokens] * len(prompts)
    ours = Job("stream", str(file), dtype, prompts, limits, None, settings={"quantization": "gguf"})
    return {
        "runner": ours,
        "runner, int8 rows": replace(ours, settings={"quantization": "gguf", "int8_rows": True}),
        "llama.cpp": Job("llamacpp", "", dtype, prompts, limits, None, settings={"gguf": str(file)}),
    }


def tokens_per_s(outcome: Outcome) -> float:
    """Return the new tokens a second of all rows, without the prompts where the side says how long they took."""
    return sum(map(len, outcome.tokens)) / (outcome.decode_s or outcome.total_s)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=tuple(SHAPES), default="135m")
    parser.add_argument("--types", default="Q4_K_M,Q6_K,Q8_0", help="of llama-quantize")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 32], help="prompts at once")
    parser.add_argument("--prompt", type=int, default=32, help="tokens of each prompt")
    parser.add_argument("--new", type=int, default=64, help="new tokens of each row")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of runner's rows")
    parser.add_argument("--memory-of", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--small", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        print(json.dumps(measure_memory(options.memory_of, options.dtype, options.small)))
        return
    build = ROOT / "outputs" / ".llamacpp"
    python, programs = llamacpp_python(build), llamacpp_programs(build.with_name(f"{build.name}-build"))
    _, smalls = make_files(programs, ROOT / "outputs" / ".gguf-files", ["Q8_0"])
    files = files_of(programs, options.shape, options.types.split(","))
    chance, most = random.Random(0), max(options.rows)
    vocabulary = SHAPES[options.shape]["vocab_size"]
    prompts = [[chance.randrange(4, vocabulary) for _ in range(options.prompt)] for _ in range(most)]
    lines, threads = [], 0
    for name, file in files.items():
        for count in options.rows:
            found: dict[str, list[float]] = {side: [] for side in SIDES}
            for _ in range(options.rounds):
                for side, job in jobs_of(file, options.dtype, prompts[:count], options.new).items():
                    outcome = run_fresh(job, python if side == "llama.cpp" else sys.executable)
                    found[side].append(tokens_per_s(outcome))
                    threads = outcome.threads
            times = (
                [mine / its for mine, its in zip(found[ours], found["llama.cpp"], strict=True)] for ours in SIDES[:2]
            )
            rates, ratios = (spread(each) for each in found.values()), (spread(each, 2) for each in times)
            lines.append([name, str(count), *rates, *ratios])
    print(f"### {options.shape} with random weights: .gguf files by runner and by llama.cpp\n")
    print(head_line(["bench/gguf_speed.py", *sys.argv[1:]], threads))
    print(f"\n{options.rounds} rounds by turns, {options.prompt} + {options.new} tokens a row: median (least..most)\n")
    head = ["file", "rows", *(f"{side}: tokens/s" for side in SIDES), *(f"{side}: x llama.cpp" for side in SIDES[:2])]
    print(markdown(head, lines), flush=True)
    rows = []
    for name, file in files.items():
        memory = [memory_of(file, options.dtype, smalls["Q8_0"]) for _ in range(3)]
        resident, peak, kv = (statistics.median(one[key] for one in memory) for key in ("resident", "peak", "kv"))
        size = file.stat().st_size / MIB
        rows.append(
            [name, f"{size:,.1f}", f"{resident - kv:,.1f}", f"{(resident - kv) / size:.2f}", f"{peak - kv:,.1f}"]
        )
    print("\nWhat the process takes beyond its libraries, without keys and values, after 4 prompts, of 3 runs:\n")
    print(markdown(["file", "MiB", "resident, MiB", "x the file", "peak, MiB"], rows))


if __name__ == "__main__":
    main()
