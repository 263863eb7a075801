"""What rows keep, predicted and measured, for tiny models of many families: `python bench/kept_kv.py [FAMILY …]`.

Each is built from its config class with random weights, in layers of each of its kinds, and reads a prompt of --prompt
tokens and decodes --new ones, --rows at once. `predicted` is what a plan says of keys, values and states, from
config.json alone; `counted` the engine's own peak; `in memory` what the kernel says of the pages of the rows' keys and
values, where these are in arenas. `as if full` is what each layer would take that keeps everything, as plans counted
before. Exit code 1 where one is off by more than 5 %.
"""

from __future__ import annotations

import argparse
import ctypes
import mmap
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from heading import parse_arguments

from tools import families

LIMIT = 0.05
FOUR = ["sliding_attention"] * 3 + ["full_attention"]
WINDOW: dict[str, Any] = {"num_hidden_layers": 4, "sliding_window": 512, "max_position_embeddings": 8192}
LAYERS = WINDOW | {"layer_types": FOUR}
DEEP: dict[str, Any] = {"num_hidden_layers": 4, "max_position_embeddings": 8192}
HYBRID = DEEP | {"layer_types": ["linear_attention"] * 3 + ["full_attention"]}
SIZES: dict[str, dict[str, Any]] = {
    "llama": DEEP,
    "qwen3_moe": DEEP,
    "deepseek_v3": DEEP,
    "mistral": WINDOW,
    "gemma2": LAYERS,
    "gemma3_text": LAYERS,
    "gemma3n_text": LAYERS | {"layer_types": FOUR[2:] * 2},
    "gemma4_text": LAYERS | {"layer_types": FOUR[2:] * 2, "num_kv_shared_layers": 2},
    "gpt_oss": LAYERS | {"layer_types": FOUR[2:] * 2},
    "cohere2": LAYERS,
    "olmo3": LAYERS,
    "llama4_text": DEEP
    | {"layer_types": ["chunked_attention"] * 3 + ["full_attention"], "attention_chunk_size": 512}
    | {"no_rope_layers": [1, 1, 1, 0]},
    "mimo_v2_flash": LAYERS,
    "qwen3_5_text": HYBRID,
    "qwen3_5_moe_text": HYBRID,
    "qwen3_next": HYBRID,
    "olmo_hybrid": HYBRID,
    "kimi_linear": HYBRID | {"linear_num_heads": 4, "linear_head_dim": 16},
    "granitemoehybrid": HYBRID,
    "lfm2": DEEP | {"layer_types": ["conv"] * 3 + ["full_attention"]},
    "lfm2_moe": DEEP | {"layer_types": ["conv"] * 3 + ["full_attention"]},
    "nemotron_h": {"max_position_embeddings": 8192},
    "bamba": DEEP | {"attn_layer_indices": [3]},
    "jamba": DEEP | {"attn_layer_period": 4, "attn_layer_offset": 3},
    "falcon_h1": DEEP,
    "zamba2": {"max_position_embeddings": 8192},
    "mamba2": {},
    "falcon_mamba": {},
    "recurrent_gemma": {"attention_window_size": 512},
}


def main() -> None:
    """Print the table; exit code 1 where a prediction is off."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("families", nargs="*", default=list(SIZES), help="all, if none is named")
    parser.add_argument("--prompt", type=int, default=3968)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--kv-cache", default="as_model", help="as generation.kv_cache")
    options = parse_arguments(parser)
    print("python bench/kept_kv.py", *sys.argv[1:])
    print(f"KiB a row; {options.rows} rows of {options.prompt} tokens and {options.new} new ones, in float32")
    heads = ("as if full", "predicted", "counted", "error", "in memory", "error")
    print(f"{'family':20}" + "".join(f"{head:>12}" for head in heads) + "  decoding")
    off = 0
    for family in options.families:
        with tempfile.TemporaryDirectory() as scratch:
            off += not measure(family, Path(scratch), options)
    sys.exit(bool(off))


def measure(family: str, folder: Path, options: argparse.Namespace) -> bool:
    """Print one line; return whether the prediction is near."""
    from runner.config.resolved import resolve_job
    from runner.config.root import NoTrackingConfig, RunnerConfig
    from runner.tasks.gsm8k.keys import Gsm8kConfig
    from runner_base import Dtype
    from runner_engine.checkpoints.kv_size import compute_kv_size
    from runner_engine.local.engine import LocalEngine
    from runner_engine.plan.footprint import predict_footprint
    from runner_engine.quantization.base import QuantizationConfig
    from runner_engine.sessions import Request, complete_requests
    from runner_engine.settings.generation import GenerationConfig
    from runner_engine.settings.kv_cache import KvCache
    from runner_engine.settings.lora import LoraConfig
    from runner_engine.settings.model import LocalModelConfig
    from runner_engine.settings.rope import RopeConfig

    families.OVERRIDES[family] = families.OVERRIDES.get(family, {}) | SIZES.get(family, DEEP)
    families.build(family, folder)
    kv_cache = KvCache.parse(options.kv_cache)
    config = RunnerConfig(
        model=LocalModelConfig(name=str(folder), device="cpu", dtype=Dtype.float32),
        quantization=QuantizationConfig(), lora=LoraConfig(), rope=RopeConfig(), task=Gsm8kConfig(),
        generation=GenerationConfig(max_new_tokens=options.new, kv_cache=kv_cache), tracking=NoTrackingConfig(),
    )  # fmt: skip
    resolved = resolve_job(config)
    places = options.prompt + options.new
    predicted = predict_footprint(resolved.model, (options.rows, options.prompt, options.new))
    assert predicted is not None
    engine = LocalEngine(resolved.model)
    decoding = engine.load().facts["decoding"]
    resident = watched_arenas()
    prompts = [
        tuple((3 + 7 * place + 11 * row) % 250 for place in range(options.prompt))
        for row in range(options.rows)
    ]
    complete_requests(
        engine,
        [Request(number, prompt, ignore_eos=True) for number, prompt in enumerate(prompts)],
        options.rows,
    )
    stats, in_memory = engine.stats, max(resident, default=0)
    engine.close()
    said = max(predicted.prefill_kv_bytes, predicted.decode_kv_bytes)
    full = compute_kv_size(resolved.model.files.text_settings, 4, kv_cache)
    layers = resolved.model.files.text_settings.get("num_hidden_layers", full.num_kv_layers)
    numbers = [
        places * full.token_bytes * layers // full.num_kv_layers,
        said / options.rows,
        stats.peak_kv_bytes / options.rows,
    ]
    line = "".join(f"{number / 1024:12,.1f}" for number in numbers)
    error = said / stats.peak_kv_bytes - 1 if stats.peak_kv_bytes else float("nan")
    line += f"{error:+12.1%}"
    if in_memory and predicted.decode_kv_bytes:
        error = said / in_memory - 1
        line += f"{in_memory / options.rows / 1024:12,.1f}{error:+12.1%}"
    else:
        line += f"{'-':>12}{'-':>12}"
    print(f"{family:20}{line}  {decoding}", flush=True)
    return not abs(error) > LIMIT


def watched_arenas() -> list[int]:
    """Note the bytes of the rows' arenas that are in memory, before each time that places are
    freed."""
    from runner_engine.kv_cache.kv_arenas import KvArena, KvArenaStore

    found: list[int] = []
    arenas: list[KvArena] = []
    real = KvArena.set_num_filled

    def enter(store: KvArenaStore, *needs: Any) -> None:
        enter_of_store(store, *needs)
        arenas[:] = store.arenas

    def fill(arena: KvArena, filled: int) -> None:
        if arena in arenas and (filled % 64 == 0 or filled > arena.filled + 1):
            found.append(sum(in_memory(some) for one in arenas for some in (one.keys, one.values)))
        real(arena, filled)

    enter_of_store = KvArenaStore.insert_slots
    store_class: Any = KvArenaStore
    arena_class: Any = KvArena
    store_class.enter, arena_class.fill = enter, fill
    return found


def in_memory(layers: list[torch.Tensor]) -> int:
    """Return how many bytes are in memory of the pages of layers, which lie one behind the
    other."""
    first = layers[0].data_ptr() // mmap.PAGESIZE * mmap.PAGESIZE
    pages = -(-(layers[-1].data_ptr() + layers[-1].nbytes - first) // mmap.PAGESIZE)
    seen = (ctypes.c_ubyte * pages)()
    if ctypes.CDLL(None).mincore(ctypes.c_void_p(first), ctypes.c_size_t(pages * mmap.PAGESIZE), seen):
        raise OSError("mincore")
    return sum(page & 1 for page in seen) * mmap.PAGESIZE


if __name__ == "__main__":
    main()
