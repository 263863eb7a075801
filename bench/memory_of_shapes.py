"""How much memory do six shapes take, beside the prediction and two peers? `python bench/memory_of_shapes.py`.

Random weights in bfloat16: three dense models as Qwen3 builds them, a mixture of experts and two hybrids. Each side
answers the same random prompts in a process of its own: `task=memory` (its prediction, and what it measures over the
imports), llama.cpp with a .gguf file of the same weights, and vLLM where `make vllm` has installed it. The peak is that
of the whole process, from /proc; vLLM reserves its keys and values beforehand (`--vllm-kv-gib`).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

import gguf_families  # noqa: E402
from engines import head_line, markdown  # noqa: E402
from gguf_memory import watch  # noqa: E402
from heading import parse_arguments  # noqa: E402
from hybrid_shapes import SHAPES as HYBRIDS  # noqa: E402
from hybrid_shapes import VOCABULARY  # noqa: E402
from other_engines import xllamacpp_python  # noqa: E402

from tools.commands import jobs  # noqa: E402

# tests/support has modules of the same names, so these are imported by their folder
hybrids, mixtures = (import_module(f"bench.engine.{name}") for name in ("hybrids", "mixtures"))

# layers, width, heads, heads of keys and values, width of the feed-forward part, vocabulary
DENSE: dict[str, tuple[int, ...]] = {
    "SmolLM2-135M": (30, 576, 9, 3, 1536, 49_152),
    "Qwen2-0.5B": (24, 896, 14, 2, 4864, 151_936),
    "Llama-3.2-1B": (16, 2048, 32, 8, 8192, 128_256),
}
SIZES = (
    *("num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads"),
    *("intermediate_size", "vocab_size"),
)
MIXTURE, LAYERS = "Qwen3-MoE of 64 experts", 8
NAMES = (*DENSE, MIXTURE, "Qwen3.5-0.8B", "LFM2-350M")
HEADS = ["shape", "weights", "predicted", "measured", "off", "process", "llama.cpp", "x", "vLLM", "x"]


def save_tokenizer(size: int, folder: Path) -> None:
    """Save a byte-pair tokenizer of so many tokens, since a real one's tables take memory."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    chance, tokens = random.Random(0), sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary, merges = {token: at for at, token in enumerate(tokens)}, []
    while len(tokens) < size:
        pair = chance.choice(tokens), chance.choice(tokens)
        if len(token := "".join(pair)) < 20 and token not in vocabulary:
            vocabulary[token] = len(tokens)
            tokens.append(token)
            merges.append(pair)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="!").save_pretrained(folder)


def save(name: str, folder: Path) -> tuple[Path, Path]:
    """Make a model; return its folder and its .gguf file."""
    made, file = folder / name.replace(".", "_").replace(" ", "_"), folder / f"{name}.gguf"
    if name in HYBRIDS:
        written, _ = hybrids.save(HYBRIDS[name](LAYERS), made, name, "BF16")
        assert written is not None
        save_tokenizer(VOCABULARY, made)
        return made, written
    family, sizes = ("qwen3_moe", mixtures.SHAPE) if name == MIXTURE else ("qwen3", _sizes_of(name))
    model = gguf_families.tiny(family, **sizes).to(torch.bfloat16)
    model.save_pretrained(made)
    save_tokenizer(model.config.vocab_size, made)
    gguf_families.write_gguf(file, family, model, "BF16", context_length=2048)
    return made, file


def _sizes_of(name: str) -> dict[str, Any]:
    sizes = dict(zip(SIZES, DENSE[name], strict=True))
    width = {"head_dim": sizes["hidden_size"] // sizes["num_attention_heads"]}
    return {**sizes, **width, "tie_word_embeddings": True, "max_position_embeddings": 2048}


def peak_of_side(command: list[str], file: Path, prompts: list[list[int]], new: int, kv_gib: int) -> float:
    """Return the peak in MiB of another library's process, which answers the prompts once."""
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": str(kv_gib)}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True}
    child: Any = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment, **pipes)
    child.stdin.write(json.dumps({"prompts": prompts, "new": new}) + "\n")
    child.stdin.close()
    return watch(child, file)[0]["VmHWM"] / 1024


def line_of(name: str, options: argparse.Namespace, folder: Path) -> list[str]:
    """Measure a shape; return its line of the table."""
    made, file = save(name, folder)
    keys = [
        *("model=local", f"model.name={made}", "model.device=cpu", "model.dtype=bfloat16", "task=memory"),
        *(f"task.batch_size={options.rows}", f"task.prompt_tokens={options.prompt}"),
        *(f"task.new_tokens={options.new}", f"task.repeats={options.repeats}"),
        *(f"model.threads={options.threads}", "task.pictures=false", "tracking=none"),
    ]
    metrics = jobs(*keys, cwd=folder)[0]["metrics"]
    peak, chance = metrics["peak_rss_mib"], random.Random(0)
    cells = [f"{metrics['weight_mib']:,.0f}", f"{metrics['predicted_total_mib']:,.0f}"]
    cells += [f"{metrics['peak_over_baseline_mib']:,.0f}", f"{metrics['total_prediction_error']:+.1%}"]
    cells.append(f"{peak:,.0f}")
    prompts = [[chance.randrange(4, 255) for _ in range(options.prompt)] for _ in range(options.rows)]
    numbers = [str(options.threads), str(options.rows), str(options.prompt + options.new)]
    llama_cpp = [xllamacpp_python(ROOT / "outputs" / ".xllamacpp"), str(ROOT / "bench" / "xllamacpp_side.py")]
    vllm = [options.vllm, str(ROOT / "bench" / "vllm_lines_side.py")]
    for command, read in ((llama_cpp, file), (vllm, made)):
        if not Path(command[0]).is_file():
            cells += ["", ""]
            continue
        command = [*command, str(read), *numbers]
        try:
            other = peak_of_side(command, read, prompts, options.new, options.vllm_kv_gib)
        except SystemExit:  # it does not know the family, or lacks a package for it
            cells += ["failed", ""]
        else:
            cells += [f"{other:,.0f}", f"{peak / other:.2f}"]
    return [name, *cells]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shapes", nargs="*", help=f"of {', '.join(NAMES)}; default: all")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--prompt", type=int, default=240, help="tokens of each prompt")
    parser.add_argument("--new", type=int, default=16, help="new tokens of each row")
    parser.add_argument("--repeats", type=int, default=3, help="fresh processes of the runner")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--vllm", default=str(ROOT / ".vllm/bin/python"), help="the interpreter of its environment"
    )
    parser.add_argument("--vllm-kv-gib", type=int, default=1, help="what vLLM reserves for keys and values")
    options = parse_arguments(parser)
    lines = []
    for name in options.shapes or NAMES:
        with tempfile.TemporaryDirectory() as folder:
            lines.append(line_of(name, options, Path(folder)))
        print(markdown(HEADS, lines[-1:]), file=sys.stderr, flush=True)
    print(head_line(["bench/memory_of_shapes.py", *sys.argv[1:]], options.threads))
    print(f"\n{options.rows} prompts of {options.prompt} tokens with {options.new} new ones, MiB;")
    print("predicted and measured: over the imports; process and the other columns: peak of the process\n")
    print(markdown(HEADS, lines))


if __name__ == "__main__":
    main()
