"""How near to the memory's rate is decoding of one sequence? `python bench/one_row.py [--rounds 5]`.

A token reads all active weights once, so the rate at which the same threads read memory limits decoding. Three shapes
with random weights (a dense Llama of 0.5 billion parameters, a mixture of experts of Qwen3-30B-A3B's proportions, the
hybrid Qwen3.5-0.8B) decode one sequence in each format, by turns with readings of memory. The last column is the share
of the limit that decoding reaches: bytes of the active weights times tokens/s, divided by the rate. Bytes of KV caches
and states are not counted.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "bench" / "engine"), str(ROOT / "tests" / "support")]

from engines import complete_random, greedy_engine, head_line, markdown, spread  # noqa: E402
from heading import parse_arguments  # noqa: E402
from hybrid_shapes import qwen3_5  # noqa: E402
from read_rate import read_mib_per_s  # noqa: E402
from stored_of import FORMATS, checkpoint_of  # noqa: E402

from runner_base import MIB, Dtype  # noqa: E402
from runner_engine import CHOICES, LocalModelConfig, ModelSpec, resolve_model  # noqa: E402
from runner_engine.embedded import MODEL_DIR  # noqa: E402
from runner_engine.local.engine import LocalEngine  # noqa: E402
from runner_engine.plan.load_plan import LoadPlan, plan_model_load  # noqa: E402

TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
VOCABULARY = 16_384
LAYERS = ("linear", "scales", "expert")  # parts of a plan that layers consist of


def dense(layers: int) -> Any:
    """Return the shape of Llama 3.2 1B with fewer layers and tokens."""
    from transformers import LlamaConfig

    return LlamaConfig(
        hidden_size=2048, intermediate_size=8192, num_hidden_layers=layers, num_attention_heads=32,
        num_key_value_heads=8, vocab_size=VOCABULARY, max_position_embeddings=4096, eos_token_id=2, pad_token_id=0,
        bos_token_id=None, tie_word_embeddings=True,
    )  # fmt: skip


def mixture(layers: int) -> Any:
    """Return a shape of Qwen3-30B-A3B's proportions: a token goes through 8 of 64 experts."""
    from transformers import Qwen3MoeConfig

    return Qwen3MoeConfig(  # type: ignore[call-arg]  # its class has head_dim, which its stub lacks
        hidden_size=1024, num_hidden_layers=layers, num_attention_heads=16, num_key_value_heads=2, head_dim=64,
        moe_intermediate_size=384, num_experts=64, num_experts_per_tok=8, norm_topk_prob=True,
        intermediate_size=1024, vocab_size=VOCABULARY, max_position_embeddings=4096, eos_token_id=2, pad_token_id=0,
        bos_token_id=None, tie_word_embeddings=True,
    )  # fmt: skip


SHAPES: dict[str, tuple[Callable[[int], Any], int]] = {
    "dense": (dense, 8),
    "mixture": (mixture, 12),
    "hybrid": (qwen3_5, 24),
}


def make_folder(name: str, folder: Path) -> Path:
    """Write a model with random weights in bfloat16, unless it is there already."""
    from transformers import AutoModelForCausalLM

    build, layers = SHAPES[name]
    made = folder / f"{name}-{layers}"
    if not made.is_dir():
        torch.manual_seed(0)
        partial = folder / f".{name}"
        model = AutoModelForCausalLM.from_config(build(layers), dtype=torch.bfloat16)
        model.save_pretrained(partial)
        for file in TOKENIZER:
            shutil.copyfile(MODEL_DIR / file, partial / file)
        partial.rename(made)
    return made


def open_engine(folder: Path, line: str, threads: int) -> LocalEngine:
    """Return a loaded engine of a line. GPTQ and other stored formats are written at first use."""
    is_stored = line in FORMATS
    where = checkpoint_of(folder, line, folder.parent) if is_stored else folder
    model = LocalModelConfig(name=str(where), device="cpu", dtype=Dtype.bfloat16, threads=threads)
    engine = greedy_engine(model, CHOICES[FORMATS[line].choice if is_stored else line]())
    engine.load()
    return engine


def compute_active_share(plan: LoadPlan) -> float:
    """Return the share of the weights of an unquantized model's layers that a token reads."""
    settings, layers = plan.settings, [one for one in plan.tensors if "layers." in one.name]
    experts = settings.get("num_experts", settings.get("num_local_experts"))
    share = settings["num_experts_per_tok"] / experts if experts else 1.0
    read = sum(one.num_elements * (share if ".experts." in one.name else 1) for one in layers)
    return read / sum(one.num_elements for one in layers)


def count_active_mib(engine: LocalEngine, share: float) -> float:
    """Return the MiB of weights that a token reads. All layers have one format."""
    parts = plan_model_load(resolve_model(engine.spec)).weight_bytes_by_part
    return sum(size * (share if part in LAYERS else 1) for part, size in parts.items()) / MIB


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=[*SHAPES])
    parser.add_argument("--formats", nargs="+", default=["none", "int8", "nf4", "gptq"])
    parser.add_argument("--prompt", type=int, default=16)
    parser.add_argument("--new", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs" / ".one_row")
    options = parse_arguments(parser)
    print(head_line(["bench/one_row.py", *sys.argv[1:]], options.threads))
    print(f"\n{options.rounds} rounds by turns: median (least..most)\n", flush=True)
    table = []
    for name in options.shapes:
        folder = make_folder(name, options.folder)
        sides = {line: open_engine(folder, line, options.threads) for line in options.formats}
        plain = LocalModelConfig(name=str(folder), device="cpu", dtype=Dtype.bfloat16)
        share = compute_active_share(plan_model_load(resolve_model(ModelSpec(plain, CHOICES["none"]()))))
        torch.set_num_threads(options.threads)
        chance, rates, speeds = random.Random(0), list[float](), defaultdict[str, list[float]](list)
        for engine in sides.values():
            complete_random(engine, 1, options.prompt, options.new, chance)
        for _ in range(options.rounds):
            rates.append(read_mib_per_s(False))
            for line, engine in sides.items():
                before = engine.stats.decode_tokens, engine.stats.decode_s
                complete_random(engine, 1, options.prompt, options.new, chance)
                after = engine.stats.decode_tokens, engine.stats.decode_s
                speeds[line].append((after[0] - before[0]) / (after[1] - before[1]))
        for line, engine in sides.items():
            active_mib = count_active_mib(engine, share)
            reached = median(speeds[line]) * active_mib / median(rates)
            table.append([
                name, line, f"{active_mib:,.0f}", spread(speeds[line], 1), spread([rate / 1024 for rate in rates], 1),
                f"{reached:.2f}",
            ])  # fmt: skip
            engine.close()
    head = ["shape", "format", "active MiB", "decode, tokens/s", "memory, GiB/s", "of the limit"]
    print(markdown(head, table), flush=True)


if __name__ == "__main__":
    main()
