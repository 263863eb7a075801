"""Are quantized layers as fast as bfloat16? `python bench/quantized_speed.py [--rounds 5]`.

A 135M Llama shape with random weights prefills and decodes in our engine, unquantized and quantized, by our kernels and
by the library's own functions (`own`). `W8A8`, `gptq`, `fp8` and others are checkpoints (stored_of.py). All are loaded
into one process and alternate, round by round and batch by batch, so that other work on the machine affects all of
them; the last table counts processor time, which other work changes least. At the end: the distance of our kernels'
logits from the library's, or from torch's way where the runner reads a checkpoint itself.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

import torch
from engines import complete_random, greedy_engine, head_line, markdown, model_folder, speeds_by_turns, spread
from heading import parse_arguments
from latest import Figure, add_option, save
from stored_of import FORMATS, checkpoint_of

from runner_base import Dtype
from runner_engine.devices.heap import HeapTrimmer
from runner_engine.local.engine import LocalEngine
from runner_engine.matmul import quantized_layers
from runner_engine.matmul.quantized_layers import QuantizedLayers
from runner_engine.quantization import CHOICES
from runner_engine.render.notes import render_engine_note
from runner_engine.settings.model import LocalModelConfig

QUANTIZED = ("int8", "int8_dynamic", "nf4", "fp4", "torchao_int8")
OWN = " own"  # after the name of a choice: by its library's own functions
WARM_TOKENS = 4


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="random", help="random (a 135M Llama shape), embedded or a FOLDER")
    parser.add_argument(
        "--lines", default=",".join(["none", *QUANTIZED, *(name + OWN for name in QUANTIZED)])
    )
    parser.add_argument("--rows", default="1,8,32,128", help="at once")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of each prompt; they share nothing")
    parser.add_argument("--new", type=int, default=16, help="new tokens of each row")
    parser.add_argument("--rounds", type=int, default=5)
    add_option(parser)
    options = parse_arguments(parser)
    lines, rows = options.lines.split(","), [int(count) for count in options.rows.split(",")]
    folder = str(model_folder(options.model))
    engines, distances = {}, []
    for line in lines:
        engines[line] = engine_of(folder, line, options.new)
        if line != "none" and not line.endswith(OWN):
            distances.append(compare(line, engines[line], options.prompt))
        warm_up(engines[line], line)
    speeds = speeds_by_turns(engines, rows, options.prompt, options.new, options.rounds)
    print(head_line(["bench/quantized_speed.py", *sys.argv[1:]], torch.get_num_threads()))
    units = {
        "decode, tokens a second": "decode_tok_per_s",
        "prefill, tokens a second": "prefill_tok_per_s",
        "both, tokens a second of a processor": "tok_per_processor_s",
    }
    for unit, name in units.items():
        print(f"\n{options.rounds} rounds by turns: median (least..most)\n")
        table = [
            [line, *(spread([getattr(one, name) for one in speeds[line, count]], 0) for count in rows)]
            for line in lines
        ]
        print(markdown([unit, *(f"{count} rows" for count in rows)], table), flush=True)
    print("\n" + "\n".join(distances))
    if options.save:
        save([
            Figure.of(f"{what}, {count} rows", "tokens/s", [getattr(one, name) for one in speeds[line, count]], line, 0)
            for what, name in (("decode", "decode_tok_per_s"), ("prefill", "prefill_tok_per_s"))
            for count in rows
            for line in lines
        ])  # fmt: skip


def engine_of(folder: str, line: str, new_tokens: int) -> LocalEngine:
    """Return the engine of a line, loaded."""
    choice = line.removesuffix(OWN)
    name = str(checkpoint_of(Path(folder), choice)) if choice in FORMATS else folder
    model = LocalModelConfig(name=name, device="cpu", dtype=Dtype.bfloat16)
    engine = greedy_engine(
        model, CHOICES[FORMATS[choice].choice if choice in FORMATS else choice](), new_tokens
    )
    engine.load()
    return engine


def compare(line: str, engine: LocalEngine, tokens: int) -> str:
    """Return in words how far the kernels' logits are from those of the library's own functions."""
    model = engine.loaded.model
    ids = torch.randint(0, model.config.vocab_size, (8, tokens), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        own = model(ids).logits.float()
        quantized = QuantizedLayers(model, HeapTrimmer())
        ours = model(ids).logits.float()
    if quantized.left or not quantized.replaced_layers:
        raise SystemExit(
            "\n".join(map(render_engine_note, quantized.notes)) or f"{line}: there is nothing to exchange"
        )
    for layer in quantized.replaced_layers:
        del layer.forward
    off, same = ((ours - own).abs().max() / own.std(), (ours.argmax(-1) == own.argmax(-1)).float().mean())
    return f"- {line}: logits at most {float(off):.2g} of their spread off, {float(same):.1%} of the best tokens equal"


def warm_up(engine: LocalEngine, line: str) -> None:
    """Let the engine replace layers, except in lines that use their library's own functions."""
    kinds = quantized_layers.LAYER_KINDS
    if line.endswith(OWN):
        quantized_layers.LAYER_KINDS = {}
    complete_random(engine, 2, WARM_TOKENS, WARM_TOKENS, random.Random(0))
    quantized_layers.LAYER_KINDS = kinds


if __name__ == "__main__":
    main()
