"""How fast is a mixture of experts beside llama.cpp? `python bench/engine/mixtures.py [--threads 1 --processor-time]`.

A Qwen3-MoE with random weights in bfloat16, of the proportions of Qwen3-30B-A3B: 8 of 64 experts of 384 in each layer.
The runner with the experts in one call of C, the runner with the family's own function for them
(`RUNNER_EXPERTS=plain`), and llama.cpp with a .gguf file of the same weights complete the same random prompts by turns.
vLLM, where `make vllm` has installed it and times are by the clock, completes them afterwards, in processes of its own.
The last column of one row is the share of the time that reading the active weights takes, at the rate at which the same
threads read memory.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import torch

from runner_base import MIB, Dtype, processor
from runner_engine import LocalModelConfig
from runner_engine.embedded import MODEL_DIR

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "tests" / "support")]

import gguf_families  # noqa: E402
from engines import Job, greedy_engine, head_line, markdown, run_counts, spread  # noqa: E402
from gguf_speed import Completer, completer_of, measured, theirs  # noqa: E402
from heading import parse_arguments  # noqa: E402
from other_engines import xllamacpp_python  # noqa: E402
from read_rate import read_mib_per_s  # noqa: E402

SHAPE: dict[str, Any] = {
    "vocab_size": 896, "hidden_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 16, "num_key_value_heads": 2,
    "head_dim": 64, "moe_intermediate_size": 384, "num_experts": 64, "num_experts_per_tok": 8, "norm_topk_prob": True,
    "intermediate_size": 1024, "max_position_embeddings": 2048,
}  # fmt: skip
GROUPED, PLAIN, LLAMACPP = "grouped", "family's own", "llama.cpp"
FORCED = {GROUPED: "grouped", PLAIN: "plain"}
VLLM, VLLM_TOKENS = ROOT / ".vllm" / "bin" / "python", 2048  # tokens of a pass at most
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


def files(folder: Path, shape: dict[str, Any]) -> tuple[Path, Path, float]:
    """Return the folder of the model, the .gguf file of the same weights, and the MiB that a token
    reads."""
    made, file = folder / "model", folder / "model.gguf"
    model = gguf_families.tiny("qwen3_moe", **shape).to(torch.bfloat16)
    if not file.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        model.save_pretrained(made)
        for name in TOKENIZER:
            shutil.copyfile(MODEL_DIR / name, made / name)
        partial = gguf_families.write_gguf(
            folder / "partial", "qwen3_moe", model, "BF16", context_length=2048
        )
        partial.rename(file)
    active, share = 0, shape["num_experts_per_tok"] / shape["num_experts"]
    for path, weight in model.named_parameters():
        is_read = "embed_tokens" not in path
        active += int(weight.nbytes * (share if ".experts." in path else 1)) if is_read else 0
    return made, file, active / MIB


def ours(folder: Path, side: str, threads: int) -> Completer:
    """Load the model with our engine; return what completes prompts with it."""
    os.environ["RUNNER_EXPERTS"] = FORCED[side]
    engine = greedy_engine(
        LocalModelConfig(name=str(folder), device="cpu", dtype=Dtype.bfloat16, threads=threads)
    )
    engine.load()

    completer = completer_of(engine)
    completer([[5, 6, 7]], 2)  # the kernels are installed here, as the variable says
    del os.environ["RUNNER_EXPERTS"]
    return completer


def rates_of_vllm(
    folder: Path, prompts: list[list[int]], new: int, rows: list[int]
) -> dict[tuple[str, int], float]:
    """Return vLLM's tokens/s of prefill and decode by rows; nothing where it is not installed."""
    if not VLLM.is_file():
        return {}
    settings = {"max_num_seqs": max(rows), "max_num_batched_tokens": VLLM_TOKENS, "eager": False}
    seconds: dict[int, dict[int, float]] = {}
    for count in (1, new):  # of one new token: what comes before decoding
        job = Job("vllm", str(folder), "bfloat16", prompts, [count] * len(prompts), None, settings=settings)
        seconds[count] = {some: one.total_s for some, one in run_counts(job, rows, str(VLLM)).items()}
    found = {}
    for some in rows:
        found["prefill", some] = sum(map(len, prompts[:some])) / seconds[1][some]
        found["decode", some] = some * (new - 1) / (seconds[new][some] - seconds[1][some])
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32], help="prompts at once")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of each prompt")
    parser.add_argument("--new", type=int, default=32, help="new tokens of each row")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=SHAPE["num_hidden_layers"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--processor-time", action="store_true", help="of all threads; with one nothing waits in it"
    )
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs" / ".mixtures")
    options = parse_arguments(parser)
    shape = SHAPE | {"num_hidden_layers": options.layers}
    folder, file, active_mib = files(options.folder / str(options.layers), shape)
    python, chance = xllamacpp_python(ROOT / "outputs" / ".xllamacpp"), random.Random(0)
    sides = {side: ours(folder, side, options.threads) for side in (GROUPED, PLAIN)}
    torch.set_num_threads(options.threads)
    bound = read_mib_per_s(options.processor_time) / active_mib
    lines, most = [], max(options.rows)
    all_prompts = [
        [chance.randrange(4, shape["vocab_size"]) for _ in range(options.prompt)] for _ in range(most)
    ]
    of_vllm = {} if options.processor_time else rates_of_vllm(folder, all_prompts, options.new, options.rows)
    for rows in options.rows:
        prompts = all_prompts[:rows]
        with ExitStack() as open_sides:
            both = sides | {LLAMACPP: theirs(python, file, options.threads, rows, open_sides)}
            found = measured(both, prompts, options.new, options.rounds, options.processor_time)
        for part in ("prefill", "decode"):
            speeds = [found[part, side] for side in both]
            times = [
                spread([mine / its for mine, its in zip(speeds[0], other, strict=True)], 2)
                for other in speeds[1:]
            ]
            of_bound = f"{median(speeds[0]) / bound:.2f}" if (part, rows) == ("decode", 1) else ""
            beside = of_vllm.get((part, rows))
            of_last = ["", ""] if beside is None else [f"{beside:,.0f}", f"{median(speeds[0]) / beside:.2f}"]
            lines.append([part, str(rows), *map(spread, speeds), *times, of_bound, *of_last])
    print("### A mixture of experts\n")
    print(head_line(["bench/engine/mixtures.py", *sys.argv[1:]], options.threads))
    if left_out := processor.parse_disabled_cpu_features():
        print(f"without {', '.join(left_out)} (by {processor.LEFT_OUT})")
    how = "of the processor's time" if options.processor_time else "by the clock"
    print(
        f"\n{options.rounds} rounds by turns, {how}, {options.prompt} + {options.new} tokens a row, tokens/s:"
    )
    print(
        f"median (least..most). A token reads {active_mib:,.0f} MiB; memory would allow {bound:,.0f} tokens/s.\n"
    )
    head = ["", "rows", *both, f"x {PLAIN}", f"x {LLAMACPP}", "of the bound", "vLLM, once", "x vLLM"]
    print(markdown(head, lines), flush=True)


if __name__ == "__main__":
    main()
