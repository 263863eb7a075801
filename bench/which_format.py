"""Which format for what? `python bench/which_format.py [--models random,random1b] [--choices int8,nf4]`.

Every choice of `quantization` that this installation has, one line each: those that quantize a plain checkpoint, and
those for files and checkpoints that are quantized already, which this script writes once (stored_of.py). Memory and
seconds to load are those of a process of its own for each line; a line that cannot load says why. Speeds are by turns
with `none`: all lines of a group are in one process, round by round and batch by batch, on random weights in the shapes
of models with 135 million (`random`) and a billion parameters (`random1b`). Random weights say nothing about quality,
so KL and Δ log-likelihood are the embedded model's, by the product's own commands (bench/quantization_table.py). The
lines `none` and `none again` are the control.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from engines import Speeds, complete_random, head_line, markdown, model_folder, speeds_by_turns, spread
from heading import parse_arguments
from quantization_table import BASELINE, CONTROL, Line, control, engine_of, likelihoods, with_interval
from stored_of import FORMATS, checkpoint_of

from runner_base import ConfigError, machine
from runner_engine.checkpoints import random_weights
from runner_engine.embedded import MODEL_DIR
from runner_engine.quantization import CHOICES
from runner_engine.quantization.base import CheckpointSource
from runner_engine.settings.model import LocalModelConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tools/ is beside bench/
from tools import embedded_gguf

BILLION = LocalModelConfig(name="meta-llama/Llama-3.2-1B", shape="llama32_1b", random_weights=True)
BLOCKS = ("Q8_0", "Q4_0")  # types of the files, of those that the gguf package can write
NO_TERNARY = "bitnet: a model that was trained otherwise is none after its weights are rounded to -1, 0 and 1"
WARM_TOKENS = 4


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models", default="random,random1b", help="that are timed: random, random1b, embedded, FOLDER"
    )
    parser.add_argument("--choices", default="", help="only these, e.g. int8,nf4,gguf (default: all)")
    parser.add_argument("--rows", default="1,32", help="at once")
    parser.add_argument("--prompt", type=int, default=32, help="tokens of each prompt; they share nothing")
    parser.add_argument("--new", type=int, default=8, help="new tokens of each row")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--together", type=int, default=8, help="lines that are in memory at once, besides none"
    )
    parser.add_argument(
        "--texts", type=int, default=200, help="worked answers to score, at least 50; 0: none"
    )
    # for its own processes
    parser.add_argument("--load", nargs=2, metavar=("FOLDER", "LINE"), help=argparse.SUPPRESS)
    options = parse_arguments(parser)
    if options.load:
        print(json.dumps(load_one(Path(options.load[0]), Line(**json.loads(options.load[1])))))
        return
    wanted = options.choices.split(",") if options.choices else [*CHOICES]
    if unknown := [name for name in wanted if name not in CHOICES]:
        raise SystemExit(f"--choices: {', '.join(unknown)}; there are {', '.join(CHOICES)}")
    left_out = {name: why for name in wanted if (why := why_not(name))}
    print(head_line(["bench/which_format.py", *sys.argv[1:]], torch.get_num_threads()))
    rows = [int(count) for count in options.rows.split(",")]
    for model in options.models.split(",") if options.models else []:
        folder = (
            random_weights.ensure_random_checkpoint(BILLION) if model == "random1b" else model_folder(model)
        )
        lines = dict(lines_of([name for name in wanted if name not in left_out], folder))
        timed(model, folder, lines, rows, options)
    if options.texts:
        lines = dict(lines_of([name for name in wanted if name not in {*left_out, "bitnet"}], MODEL_DIR))
        scored = likelihoods(lines, "embedded", options.texts)
        print(f"\n### KL and log-likelihood of the embedded model, {options.texts} worked answers\n")
        print(markdown(["", "Δ log-likelihood, nats a token", "KL, nats a token", "the same first choice"],
                       [[name, *quality(name, scored[name])] for name in lines]))  # fmt: skip
        print(f"\n{control(scored)}")
        print(f"Without {NO_TERNARY}" if "bitnet" in wanted else "")
    for name, why in left_out.items():
        print(f"- left out: {name}: {why}")


def why_not(name: str) -> str:
    """Say why a choice is left out; empty if it is measured."""
    try:
        CHOICES[name]().require_packages()
    except ConfigError as error:
        return str(error)
    return ""


def lines_of(names: Sequence[str], folder: Path) -> Iterator[tuple[str, Line]]:
    """Yield the lines of a model's table; files and stored checkpoints are written at first use."""
    yield BASELINE, Line("none")
    yield CONTROL, Line("none", dtype="bfloat16")
    for name in names:
        if CHOICES[name].source is CheckpointSource.gguf:
            into = Path("~/.cache/runner/which_format").expanduser() / folder.name
            for kind in BLOCKS:
                into.mkdir(parents=True, exist_ok=True)
                file = into / f"{kind}.gguf"
                if not file.is_file():
                    embedded_gguf.write(file.with_suffix(".partial"), kind, folder).rename(file)
                yield from with_byte_rows(f"{name} {kind}", Line(name, file=str(file), dtype="bfloat16"))
        elif CHOICES[name].source is CheckpointSource.quantized:
            for kind in [kind for kind, one in FORMATS.items() if one.choice == name]:
                yield from with_byte_rows(
                    kind, Line(name, file=str(checkpoint_of(folder, kind)), dtype="bfloat16")
                )
        elif name != BASELINE:
            yield name, Line(name)


def with_byte_rows(name: str, line: Line) -> Iterator[tuple[str, Line]]:
    """Yield a line, and the same with rows in 8 bits where the choice has them."""
    yield name, line
    if line.has_byte_rows:
        yield f"{name}, int8 rows", replace(line, int8_activations=True)


def load_one(folder: Path, line: Line) -> dict[str, float]:
    """Load a line, complete two rows, and return what that took."""
    engine = engine_of(Path(line.file or folder), line, WARM_TOKENS)
    metrics = engine.load().metrics
    complete_random(engine, 2, WARM_TOKENS, WARM_TOKENS, random.Random(0))
    kept = {name: metrics[name] for name in ("file_mib", "weight_mib", "load_s")}
    return kept | {"peak_rss_mib": machine.peak_rss_mib()}


def loaded(folder: Path, line: Line) -> dict[str, float] | str:
    """Load a line in a process of its own; return what that took, or why it failed."""
    own = [sys.executable, __file__, "--load", str(folder), json.dumps(vars(line))]
    done = subprocess.run(own, capture_output=True, text=True, check=False)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["it ended without a message"])[-1][:200]
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def timed(
    model: str, folder: Path, lines: dict[str, Line], rows: list[int], options: argparse.Namespace
) -> None:
    """Measure memory, load and speeds of one model, and print its table."""
    costs = {name: loaded(folder, line) for name, line in lines.items()}
    others = [name for name, cost in costs.items() if name != BASELINE and not isinstance(cost, str)]
    speeds: dict[tuple[str, int], list[Speeds]] = {}
    for at in range(0, len(others), options.together):
        members = [BASELINE, *others[at : at + options.together]]
        engines = {
            name: engine_of(Path(lines[name].file or folder), lines[name], options.new) for name in members
        }
        for engine in engines.values():
            engine.load()
            complete_random(engine, 2, WARM_TOKENS, WARM_TOKENS, random.Random(0))
        by_turns = speeds_by_turns(engines, rows, options.prompt, options.new, options.rounds)
        speeds = by_turns | speeds  # none of the first group
        for engine in engines.values():
            engine.close()
    print(f"\n### Memory and speed of {model} ({folder.name}), in bfloat16\n")
    print(
        f"{options.rounds} rounds by turns, {options.prompt} + {options.new} tokens a row: median (least..most)\n"
    )
    heads = ["file, MiB", "weights, MiB", "peak RSS, MiB", "load, s"]
    heads += [
        f"{what}, tokens/s, {count} row{'s' * (count > 1)}"
        for what in ("decode", "prefill")
        for count in rows
    ]
    table = []
    for name, cost in costs.items():
        if isinstance(cost, str):
            table.append([name, f"cannot load: {cost}", *[""] * (len(heads) - 1)])
            continue
        sizes = [f"{cost['file_mib']:,.1f}", f"{cost['weight_mib']:,.1f}", f"{cost['peak_rss_mib']:,.0f}"]
        each = [
            spread([getattr(one, f"{what}_tok_per_s") for one in speeds[name, count]], 0)
            for what in ("decode", "prefill")
            for count in rows
        ]
        table.append([name, *sizes, f"{cost['load_s']:.2f}", *each])
    print(markdown(["", *heads], table), flush=True)


def quality(name: str, scored: dict[str, Any]) -> list[str]:
    """Return the cells of a line about likelihoods; a file is no row of the baseline's table, and
    has no Δ."""
    metrics, shift = scored["metrics"], scored.get("shift")
    if name == BASELINE:
        return [f"baseline: {metrics['log_likelihood_nats_per_token']:.5f}", "–", "–"]
    ends = ("difference", "difference_low", "difference_high")
    delta = with_interval(*(shift[end] for end in ends), form="+.5f") if shift else "–"
    kl = with_interval(*(metrics[f"kl_nats_per_token{end}"] for end in ("", "_low", "_high")), form=".2g")
    return [delta, kl, f"{metrics['top_1_agreement']:.2%}"]


if __name__ == "__main__":
    main()
