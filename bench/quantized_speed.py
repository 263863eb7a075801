"""Are quantized layers as quick as bfloat16? `python bench/quantized_speed.py [--rounds 3]`.

A 135M Llama shape of noise prefills and decodes in our engine, unquantized and quantized, with our kernels and with
A 135M Llama shape of noise prefills and decodes in our engine, unquantized and quantized, with our kernels and with
A 135M Llama shape of noise prefills and decodes in our engine, unquantized and quantized, by our kernels and by
A 135M Llama shape of noise prefills and decodes in our engine, unquantized and quantized, by our kernels and by
far the logits of our kernels lie from those of bitsandbytes' own functions, in the same process on the same weights.
far the logits of our kernels lie from those of bitsandbytes' own functions, in the same process on the same weights.
"""
"""


from __future__ import annotations
from __future__ import annotations


import argparse
import argparse
import json
import json
import random
import random
import subprocess
import sys
from dataclasses import replace
from typing import Any

from engines import head_line, markdown, model_folder, spread

CHOICES = ("none", "int8", "nf4", "fp4")
OWN = " own"  # behind the name of a choice: by bitsandbytes' own functions


def main() -> None:
    """Measure and print; as a child, measure one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="random", help="random (a 135M Llama shape), embedded or a FOLDER")
    parser.add_argument("--lines", default=",".join([*CHOICES, *(name + OWN for name in CHOICES[1:])]))
    parser.add_argument("--rows", default="1,8,32,128", help="at once")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of each prompt; they share nothing")
    parser.add_argument("--new", type=int, default=32, help="new tokens of each row")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options)))
        return
    lines, rows = options.lines.split(","), [int(count) for count in options.rows.split(",")]
    rounds = [{line: run_fresh(options, line) for line in lines} for _ in range(options.rounds)]
    print(head_line(["bench/quantized_speed.py", *sys.argv[1:]], int(rounds[0][lines[0]]["threads"])))
    for what in ("decode", "prefill"):
        table = [
            [line, *(spread([one[line][f"{what} {count}"] for one in rounds], 0) for count in rows)] for line in lines
        ]
        print(f"\n{options.rounds} rounds: median (least..most)\n")
        print(markdown([f"{what}, tokens/s", *(f"{count} rows" for count in rows)], table), flush=True)
    print()
    for line in lines:
        if line != "none" and not line.endswith(OWN):
            one = rounds[0][line]
            print(
                f"- {line}: logits at most {one['off']:.2g} of their spread away from those of bitsandbytes' own "
                f"functions, {one['same']:.1%} of the likeliest tokens the same"
            )


def run_fresh(options: argparse.Namespace, line: str) -> dict[str, float]:
    """Measure a line in a process of its own."""
    command = [sys.executable, __file__, "--child", line, "--model", options.model, "--rows", options.rows]
    command += ["--prompt", str(options.prompt), "--new", str(options.new)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{line} failed:\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Return the tokens a second of each number of rows, and how the logits compare."""
    import torch

    from runner.config.generation import GenerationConfig
    from runner.config.lora import LoraConfig
    from runner.config.model import LocalModelConfig
    from runner.config.root import RunnerConfig, TrackingConfig
    from runner.config.rope import RopeConfig
    from runner.config.task import Gsm8kConfig
    from runner.core.dtypes import Dtype
    from runner.core.heap import Heap
    from runner.engines.base import Request, complete
    from runner.engines.local.engine import LocalEngine
    from runner.engines.local.quantized_layers import QuantizedLayers
    from runner.quantization import CHOICES as QUANTIZATIONS

    name = options.child.removesuffix(OWN)
    config = RunnerConfig(
        model=LocalModelConfig(name=str(model_folder(options.model)), device="cpu", dtype=Dtype.bfloat16),
        quantization=QUANTIZATIONS[name](),
        lora=LoraConfig(),
        rope=RopeConfig(),
        generation=GenerationConfig(name="greedy", max_new_tokens=options.new),
        task=Gsm8kConfig(),
        tracking=TrackingConfig(name="none"),
    )
    engine = LocalEngine(config)
    engine.load()
    model = engine._model().model
    chance = random.Random(0)
    vocabulary = model.config.vocab_size
    found: dict[str, float] = {"threads": torch.get_num_threads()}
    if name != "none" and name == options.child:
        ids = torch.tensor([[chance.randrange(vocabulary) for _ in range(options.prompt)] for _ in range(8)])
        with torch.inference_mode():
            own: Any = model(ids).logits.float()
            quantized = QuantizedLayers(model, Heap())
            ours = model(ids).logits.float()
        if quantized.left or not quantized.exchanged:
            raise SystemExit("\n".join(quantized.notes))
        for layer in quantized.exchanged:
            del layer.forward
        found["off"] = float((ours - own).abs().max() / own.std())
        found["same"] = float((ours.argmax(-1) == own.argmax(-1)).float().mean())
    elif name != "none":
        QuantizedLayers._maker = lambda self, layer: None  # type: ignore[method-assign]  # noqa: ARG005

    def run(count: int) -> None:
        prompts = [tuple(chance.randrange(vocabulary) for _ in range(options.prompt)) for _ in range(count)]
        asked = [Request(number, prompt, ignore_eos=True) for number, prompt in enumerate(prompts)]
        failed = [done.error for done in complete(engine, asked, count) if done.error]
        if failed:
            raise SystemExit(f"{len(failed)} prompts failed, e.g. {failed[0]}")

    run(2)  # layers are exchanged, kernels made
    for count in map(int, options.rows.split(",")):
        before = replace(engine.stats)
        run(count)
        passed = engine.stats - before
        found |= {f"decode {count}": passed.decode_tok_per_s, f"prefill {count}": passed.prefill_tok_per_s}
    engine.close()
    return found


if __name__ == "__main__":
    main()
