"""What do formats of the KV cache cost, and save? `python bench/engine/kv_formats.py [--lengths 512,2048,8192]`.

A real model's .gguf file (`make real-model`) reads texts of so many tokens, prose of this project, and distributions of
the last tokens are compared: each format of `generation.kv_cache` with the own one, and llama.cpp's `q8_0` and `q4_0`
caches with its own of 16 bits, on the same file and tokens. llama.cpp reads one token more for each position, from its
server's cache, and lists the logarithms of all tokens. Each figure is printed when it is there, too. The second table
is decoding behind the longest text, by turns.
`--python` names an environment that has xllamacpp; without it, one is made; `--no-llama` leaves llama.cpp out.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from engines import ROOT, complete_random, greedy_engine, head_line, markdown, speeds_by_turns, spread
from heading import parse_arguments
from other_engines import xllamacpp_python

from runner_base import MIB, Dtype
from runner_engine.local.engine import LocalEngine
from runner_engine.models import gguf_tokenizer
from runner_engine.quantization import CHOICES
from runner_engine.sessions.base import Request
from runner_engine.sessions.contract import complete_requests
from runner_engine.settings.kv_cache import KvCache
from runner_engine.settings.model import LocalModelConfig
from tools.real_model import gguf_file

FORMATS = (
    "int8", "int8_rotated", "k8v4", "{keys: int8, values: int4, rotate: false}", "int4",
    "{keys: int4, values: int4, rotate: false}", "{keys: int4, values: int4, rotate: true, layers: {0: as_model}}",
    "{keys: int4, values: int4, rotate: true, first_tokens: as_model}",
)  # fmt: skip
OF_LLAMA = ("q8_0", "q4_0")
POSITIONS = 16  # of each text: its last ones


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lengths", default="512,2048,8192", help="tokens of a text")
    parser.add_argument("--texts", type=int, default=4, help="of each length")
    parser.add_argument("--formats", nargs="*", default=FORMATS, help="none: llama.cpp's alone")
    parser.add_argument("--python", help="that has xllamacpp")
    parser.add_argument("--no-llama", action="store_true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--dtype", default="float32", choices=["float32", "bfloat16"], help="of our activations"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of decoding; 0 leaves it out")
    parser.add_argument("--new", type=int, default=32, help="tokens that are decoded")
    options = parse_arguments(parser)
    lengths = [int(length) for length in options.lengths.split(",")]
    print(head_line(["bench/engine/kv_formats.py", *sys.argv[1:]], options.threads))
    texts = texts_of(lengths, options.texts)
    lines = our_lines(options, lengths, texts) if options.formats else []
    if not options.no_llama:
        lines += llama_lines(options, lengths, texts)
    columns = [f"{length:,} tokens: KL · same first · MiB" for length in lengths]
    print(f"\n{markdown(['cache', *columns], lines)}", flush=True)
    if options.rounds:
        decode(options, lengths[-1])


def opened(options: argparse.Namespace, name: str, new: int = 1) -> LocalEngine:
    """Return an engine with a format, loaded."""
    model = LocalModelConfig(
        name=str(gguf_file()), device="cpu", dtype=Dtype(options.dtype), threads=options.threads
    )
    engine = greedy_engine(model, CHOICES["gguf"](), new, KvCache.parse(name))
    engine.load()
    return engine


def texts_of(lengths: list[int], count: int) -> dict[int, list[list[int]]]:
    """Return texts of so many tokens, by their length."""
    source = "\n".join(path.read_text() for path in sorted(ROOT.glob("docs/*.md")))
    ids = gguf_tokenizer.build_tokenizer(gguf_file(), "left")(source)["input_ids"]
    return {
        length: [ids[first : first + length] for first in range(0, length * count, length)]
        for length in lengths
    }


def scores(engine: LocalEngine, text: list[int]) -> torch.Tensor:
    """Return the log-probabilities [POSITIONS, vocabulary] of a text's last tokens."""
    pieces: list[torch.Tensor] = []
    request = Request(0, tuple(text[:-POSITIONS]), continuation=tuple(text[-POSITIONS:]))
    asked = replace(request, on_logprobs=lambda _, found: pieces.append(found.clone()))
    failed = [done.error for done in complete_requests(engine, [asked]) if done.error]
    if failed:
        raise SystemExit(failed[0])
    return torch.cat(pieces).double()


def our_lines(
    options: argparse.Namespace, lengths: list[int], texts: dict[int, list[list[int]]]
) -> list[list[str]]:
    """Return a line of the table for each of our formats."""
    found: dict[str, dict[int, list[torch.Tensor]]] = {}
    mib: dict[tuple[str, int], float] = {}
    for name in ("as_model", *options.formats):
        engine, found[name] = opened(options, name), {}
        for length in lengths:
            engine.stats.peak_kv_bytes = 0
            found[name][length] = [scores(engine, text) for text in texts[length]]
            mib[name, length] = engine.stats.peak_kv_bytes / MIB
            of_length = compared(found["as_model"][length], found[name][length])
            print(
                f"{name}, {length:,} tokens: {of_length} · {mib[name, length]:,.1f}",
                file=sys.stderr,
                flush=True,
            )
        engine.close()
    plain = found.pop("as_model")
    sizes = [f"0 · 1 · {mib['as_model', length]:,.1f}" for length in lengths]
    lines = [["runner, the model's own", *sizes]]
    for name, of in found.items():
        cells = [f"{compared(plain[length], of[length])} · {mib[name, length]:,.1f}" for length in lengths]
        lines.append([f"runner `{name}`", *cells])
    return lines


def compared(plain: list[torch.Tensor], others: list[torch.Tensor]) -> str:
    """Return the mean KL(plain ‖ other) in nats a token, and how often both have the same likeliest
    token."""
    pairs = list(zip(plain, others, strict=True))
    divergence = torch.cat([(one.exp() * (one - other)).sum(dim=-1) for one, other in pairs])
    same = torch.cat([one.argmax(dim=-1) == other.argmax(dim=-1) for one, other in pairs])
    return f"{float(divergence.mean()):.3g} · {float(same.double().mean()):.3f}"


def llama_lines(
    options: argparse.Namespace, lengths: list[int], texts: dict[int, list[list[int]]]
) -> list[list[str]]:
    """Return a line of the table for each cache of llama.cpp."""
    python = options.python or xllamacpp_python(ROOT / "outputs" / ".xllamacpp")
    side = Path(__file__).with_name("kv_formats_side.py")
    asked: dict[str, Any] = {
        "file": str(gguf_file()),
        "threads": options.threads,
        "texts": [texts[length] for length in lengths],
    }
    asked["vocabulary"] = len(gguf_tokenizer.build_tokenizer(gguf_file(), "left"))
    found: dict[str, list[list[torch.Tensor]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("f16", *OF_LLAMA):
            job = Path(folder, "job.json")
            answer = Path(folder, name)
            job.write_text(
                json.dumps({**asked, "cache": name, "positions": POSITIONS, "answer": str(answer)})
            )
            subprocess.run([python, str(side), str(job)], check=True, stdout=sys.stderr)
            shape = len(lengths), options.texts, POSITIONS, asked["vocabulary"]
            logs = torch.frombuffer(bytearray(answer.read_bytes()), dtype=torch.float32).view(shape).double()
            found[name] = [list(of_length) for of_length in logs.log_softmax(dim=-1)]
            of_lengths = [compared(*pair) for pair in zip(found["f16"], found[name], strict=True)]
            print(f"llama.cpp {name}: {', '.join(of_lengths)}", file=sys.stderr, flush=True)
    plain = found.pop("f16")
    lines = [["llama.cpp `f16`", *["0 · 1"] * len(lengths)]]
    for name, of in found.items():
        lines.append([f"llama.cpp `{name}`", *(compared(*pair) for pair in zip(plain, of, strict=True))])
    return lines


def decode(options: argparse.Namespace, context: int) -> None:
    """Decode behind prompts of so many random tokens, by turns, and print the seconds of a
    token."""
    engines = {name: opened(options, name, options.new) for name in ("as_model", *options.formats)}
    for engine in engines.values():
        complete_random(engine, 1, 4, 4, random.Random(0))
    measured = speeds_by_turns(engines, [1], context, options.new, options.rounds)
    table: list[list[Any]] = []
    for name in engines:
        of = measured[name, 1]
        times = spread([1000 / one.decode_tok_per_s for one in of])
        table.append([name, times, spread([one.prefill_tok_per_s for one in of]), f"{of[0].kv_mib:,.1f}"])
    head = [
        "cache",
        f"ms for a token behind {context:,} tokens: median (least..most)",
        "prefill, tokens/s",
        "MiB",
    ]
    print(f"\n{markdown(head, table)}", flush=True)


if __name__ == "__main__":
    main()
