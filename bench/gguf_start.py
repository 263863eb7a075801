"""How long does a .gguf file take to load, beside a folder of the same model? `python bench/gguf_start.py`.

A small Llama with a large vocabulary of random words, made here: byte pairs with merges as Qwen's and SmolLM's, or
pieces with scores and without merges as Llama 2's and Gemma's. Each load is a process of its own, interleaved round by
round so that a busy machine affects all equally, and begins when torch and transformers' Llama are imported.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from gguf_of import close, llama_writer, name_in_file
from heading import parse_arguments

SIZES = {"49k bytes": 49_152, "152k bytes": 151_936, "256k bytes": 256_000, "256k pieces": 256_000}
LOAD = """
import sys, time
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM
from runner_engine.plan import format_check
from runner.config.resolved import resolve_job
from runner.library.load import build_load_config
from runner_engine.models import base_loading
started, computed = time.perf_counter(), time.process_time()
path = sys.argv[1]
groups = dict.fromkeys(("lora", "rope", "generation")) | {"quantization": "gguf" if path.endswith(".gguf") else None}
config = build_load_config(path, groups, {"device": "cpu"}, 0)
resolved = resolve_job(config)
format_check.check_checkpoint_format(resolved)
loaded = base_loading.load_base_model(resolved)
print("took", time.perf_counter() - started, time.process_time() - computed, len(loaded.tokenizer))
"""


def words(count: int, letters: str) -> tuple[list[str], list[tuple[str, str]]]:
    """Return tokens, each but the letters made of two before it, and these pairs."""
    chance = random.Random(0)
    tokens, pairs = list(letters), []
    known = set(tokens)
    while len(tokens) < count:
        common = min(len(tokens), 300 + len(tokens) // 8)
        left, right = tokens[chance.randrange(common)], tokens[chance.randrange(common)]
        if len(left + right) <= 14 and left + right not in known:
            tokens.append(left + right)
            known.add(left + right)
            pairs.append((left, right))
    return tokens, pairs


def make(into: Path, vocabulary: str, width: int = 64, layers: int = 30) -> tuple[Path, Path]:
    """Write a model of this width as a folder and as a .gguf file."""
    import gguf
    import torch
    from tokenizers import pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM

    from runner_engine.models.load_tokenizer import load_tokenizer

    size, is_pieces = SIZES[vocabulary], vocabulary.endswith("pieces")
    torch.manual_seed(0)
    config: Any = LlamaConfig(
        vocab_size=size, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
        bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    folder, file = into / "folder", into / "alone" / "model.gguf"
    if file.is_file() and (folder / "tokenizer.json").is_file():
        return folder, file
    file.parent.mkdir(parents=True, exist_ok=True)
    plain: Any = LlamaForCausalLM(config)
    model = plain.to(torch.bfloat16)
    model.save_pretrained(folder)
    special = ["<|start|>", "<|end|>", "<unk>"]
    letters = (
        "▁abcdefghijklmnopqrstuvwxyz" if is_pieces else "".join(sorted(pre_tokenizers.ByteLevel.alphabet()))
    )
    tokens, pairs = words(size - len(special), letters)
    writer = llama_writer(file, config.to_dict())
    writer.add_tokenizer_model("llama" if is_pieces else "gpt2")
    writer.add_token_list(special + tokens)
    writer.add_token_types([3] * len(special) + [1] * len(tokens))
    if is_pieces:
        writer.add_token_scores([-float(number) for number in range(size)])
    else:
        writer.add_tokenizer_pre("qwen2")
        writer.add_token_merges([" ".join(pair) for pair in pairs])
    for key, number in {"bos": 0, "eos": 1, "unknown": 2, "padding": 1}.items():
        writer.add_uint32(f"tokenizer.ggml.{key}_token_id", number)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        values = tensor.float().numpy()
        kind = gguf.GGMLQuantizationType.F32 if values.ndim == 1 else gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(name_in_file(name), gguf.quants.quantize(values, kind), raw_dtype=kind)
    close(writer)
    load_tokenizer("model", file).save_pretrained(folder)
    return folder, file


def took(path: Path) -> tuple[float, float]:
    """Return the seconds, and the processor's seconds, of a load in a process of its own."""
    done = subprocess.run([sys.executable, "-c", LOAD, str(path)], check=True, capture_output=True, text=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("took"))
    _, wall_s, cpu_s, _ = line.split()
    return float(wall_s), float(cpu_s)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=list(SIZES), choices=list(SIZES))
    parser.add_argument(
        "--into", help="where models are made, and kept for the next time; else in a temporary folder"
    )
    arguments = parse_arguments(parser)
    with tempfile.TemporaryDirectory() as temporary:
        models = {
            name: make(Path(arguments.into or temporary) / name.replace(" ", "-"), name)
            for name in arguments.only
        }
        times: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for counted in [False] + [True] * arguments.rounds:
            for name, paths in models.items():
                for kind, path in zip(("folder", "gguf"), paths, strict=True):
                    measured = took(path)
                    if counted:
                        times.setdefault((name, kind), []).append(measured)
    print(
        f"python bench/gguf_start.py --rounds {arguments.rounds}   (a load per process, interleaved, 1 warm-up round)"
    )
    heads = ("vocabulary", "kind", "median_s", "min_s", "max_s", "cpu_s", "more_s", "more_cpu_s")
    print("{:12} {:7} {:>9} {:>7} {:>7} {:>7} {:>7} {:>11}".format(*heads))
    for (name, kind), of_kind in times.items():
        walls, cpus = zip(*of_kind, strict=True)
        more, more_cpu = (
            statistics.median(
                own[at] - other[at] for own, other in zip(of_kind, times[name, "folder"], strict=True)
            )
            for at in (0, 1)
        )
        print(
            f"{name:12} {kind:7} {statistics.median(walls):9.2f} {min(walls):7.2f} {max(walls):7.2f} "
            f"{statistics.median(cpus):7.2f} {more:7.2f} {more_cpu:11.2f}"
        )


if __name__ == "__main__":
    main()
