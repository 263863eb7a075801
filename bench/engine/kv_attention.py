"""How long does attention take over each format of the KV cache? `python bench/engine/kv_attention.py`.

One layer of a model's shape, SmolLM2-135M's unless --heads says otherwise: a decoding step of one sequence over its own
keys, and 24 tokens of a prompt over keys that they share. Processor time of one thread, so that a busy machine matters
less; formats by turns, the fastest of all rounds for each, as a share of int8's. --against names another checkout with
an environment of its own: its int8 is one more line, by turns as well.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from engines import head_line, markdown
from heading import parse_arguments

from runner_engine.attention.own_keys_attention import OwnKeyRanges, run_unshared_key_attention_kernel
from runner_engine.attention.partial_attention import Scaling
from runner_engine.attention.shared_attention import SharedKeyRange, run_shared_key_attention_kernel
from runner_engine.kernels import native
from runner_engine.kv_cache import KvCacheSpec, create_kv_store
from runner_engine.settings.kv_cache import KvCache

FORMATS = ("as_model", "int8", "k8v4", "int4")
PROMPT = 24  # tokens
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Times = dict[str, float]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keys", default="2048,8192")
    parser.add_argument(
        "--heads", default="3,3,64", help="key-value heads, queries on each, numbers of a head"
    )
    parser.add_argument("--dtypes", nargs="*", default=list(DTYPES), choices=list(DTYPES))
    parser.add_argument("--formats", nargs="*", default=FORMATS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--round", action="store_true", help="one round alone, as JSON")
    options = parse_arguments(parser)
    if options.round:
        print(json.dumps(one_round(options)))
        return
    print(head_line(["bench/engine/kv_attention.py", *sys.argv[1:]], 1))
    fastest: Times = defaultdict(lambda: float("inf"))
    for _ in range(options.rounds):
        of_round = one_round(options)
        if options.against is not None:
            of_round |= {f"there, {name}": took for name, took in of_checkout(options.against).items()}
        for name, took in of_round.items():
            fastest[name] = min(fastest[name], took)
    print(markdown(["", "ms", "of int8's time"], lines_of(fastest)))


def lines_of(fastest: Times) -> list[list[str]]:
    """Return a line for each thing that was measured."""
    lines = []
    for name, took in fastest.items():
        setting = name.removeprefix("there, ").rsplit(", ", 1)[0]
        lines.append([name, f"{took * 1000:.3f}", f"{took / fastest[f'{setting}, int8']:.2f}"])
    return lines


def of_checkout(folder: Path) -> Times:
    """Return int8's times in another checkout."""
    argv = [str(folder / ".venv/bin/python"), __file__, *sys.argv[1:], "--round", "--formats", "int8"]
    found = subprocess.run(argv, check=True, capture_output=True, text=True)
    times: Times = json.loads(found.stdout.splitlines()[-1])
    return times


def one_round(options: argparse.Namespace) -> Times:
    """Return the seconds of a call, the fastest of several, by what it does."""
    kernels = native.load_kernels()
    if kernels is None:
        raise SystemExit("there is no C compiler here")
    torch.set_num_threads(1)
    kv_heads, group, dim = map(int, options.heads.split(","))
    took: Times = {}
    for dtype in options.dtypes:
        for keys in map(int, options.keys.split(",")):
            for name in options.formats:
                heads = KvCacheSpec(
                    1, kv_heads, group, dim, DTYPES[dtype], torch.device("cpu"), kv_cache=KvCache.parse(name)
                )
                step, prompt = calls_of(heads, kernels, keys)
                took[f"{dtype}, {keys:,} keys, a step, {name}"] = seconds(step)
                took[f"{dtype}, {keys:,} keys, a prompt, {name}"] = seconds(prompt)
    return took


def calls_of(
    heads: KvCacheSpec, kernels: native.Kernels, keys: int
) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return a step over so many keys, and a prompt over them."""
    random = torch.Generator().manual_seed(0)
    own, scaling = create_kv_store(heads, kernels, [keys]), Scaling(heads.dim**-0.5, 0.0)
    stored = [
        torch.randn(keys, heads.kv_heads, heads.dim, generator=random).to(heads.dtype) for _ in range(2)
    ]
    own.write(
        0, stored[0], stored[1], torch.zeros(keys, dtype=torch.int32), torch.arange(keys, dtype=torch.int32)
    )
    seen = torch.tensor([keys], dtype=torch.int32)
    queries = torch.randn(heads.kv_heads * heads.group, PROMPT, heads.dim, generator=random).to(heads.dtype)
    query = queries[:, :1].transpose(0, 1).contiguous()
    places, shared = OwnKeyRanges(own, torch.zeros_like(seen), seen), SharedKeyRange(own, 0, keys)
    return (
        lambda: run_unshared_key_attention_kernel(kernels, heads, scaling, 0, query, places),
        lambda: run_shared_key_attention_kernel(
            kernels, heads, scaling, 0, queries, None, PROMPT, shared, None
        ),
    )


def seconds(call: Callable[[], object], least: float = 0.03) -> float:
    """Return the processor time of the fastest of several calls."""
    fastest, began = float("inf"), time.process_time()
    while time.process_time() - began < least:
        before = time.process_time()
        call()
        fastest = min(fastest, time.process_time() - before)
    return fastest


if __name__ == "__main__":
    main()
