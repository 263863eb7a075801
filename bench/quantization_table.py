"""What does each quantization gain and cost? `python bench/quantization_table.py [--rounds 3]`.

One table: speed, memory, and what the answers lose. Speed and memory are those of a 135M Llama shape with random
weights: all quantizations are loaded into one process and take turns, round by round and batch by batch. Random weights
say nothing about quality, so that is the embedded model's, by the product's own commands: `runner task=likelihood`
scores worked answers, compared with the unquantized model by whole distributions, and `runner-compare` gives the
difference of the log-likelihoods and its interval. `none again` is the control: the same model in another engine and
another job, whose speed differs by the noise alone, and whose likelihoods must not differ at all.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from engines import (
    Speeds,
    complete_random,
    greedy_engine,
    head_line,
    markdown,
    model_folder,
    speeds_by_turns,
    spread,
)
from heading import parse_arguments

from runner_base import Dtype
from runner_engine.local.engine import LocalEngine
from runner_engine.quantization import CHOICES
from runner_engine.quantization.base import Int8ActivationsConfig, QuantizationConfig
from runner_engine.settings.kv_cache import KvCache
from runner_engine.settings.model import LocalModelConfig
from tools.commands import printed

BASELINE, CONTROL = "none", "none again"
REFERENCE = "quantization=none generation.kv_cache=as_model model.dtype=auto"
WARM_TOKENS = 4


@dataclass(frozen=True)
class Line:
    """What a job or an engine gets."""

    quantization: str
    kv_cache: KvCache = KvCache.as_model
    file: str = ""  # a .gguf file of the model, instead of the model itself
    int8_activations: bool = False  # of a file or a stored checkpoint
    dtype: str = "auto"  # the embedded model is in bfloat16: to say so makes another job of the same model

    @property
    def recorded(self) -> dict[str, str]:
        """The keys that a job records of it."""
        rows = (
            {"quantization.int8_activations": str(self.int8_activations).lower()}
            if self.file and self.has_byte_rows
            else {}
        )
        return rows | {
            "quantization.name": self.quantization,
            "generation.kv_cache": str(self.kv_cache),
            "model.dtype": self.dtype,
        }

    @property
    def has_byte_rows(self) -> bool:
        """Whether its rows may be rounded to 8 bits."""
        return issubclass(CHOICES.get(self.quantization, QuantizationConfig), Int8ActivationsConfig)


LINES = {
    BASELINE: Line("none"),
    CONTROL: Line("none", dtype="bfloat16"),
    "KV cache int8": Line("none", KvCache.int8),
    **{name: Line(name) for name in ("int8", "int8_dynamic", "torchao_int8", "nf4", "fp4")},
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", default="random", help="that is timed: random (a 135M Llama shape), embedded or a FOLDER"
    )
    parser.add_argument(
        "--scored-model", default="embedded", help="whose likelihoods are compared: embedded or a FOLDER"
    )
    parser.add_argument("--lines", default=",".join(LINES))
    parser.add_argument("--rows", default="1,8,32,128", help="at once")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of each prompt; they share nothing")
    parser.add_argument("--new", type=int, default=16, help="new tokens of each row")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--texts", type=int, default=200, help="worked answers to score, at least 50")
    options = parse_arguments(parser)
    names, rows = options.lines.split(","), [int(count) for count in options.rows.split(",")]
    if unknown := [name for name in names if name not in LINES]:
        raise SystemExit(f"--lines: {', '.join(unknown)}; there are {', '.join(LINES)}")
    lines = {name: LINES[name] for name in dict.fromkeys([BASELINE, CONTROL, *names])}
    folder = model_folder(options.model)
    engines = {name: engine_of(folder, line, options.new) for name, line in lines.items()}
    weights = {name: engine.load().metrics["weight_mib"] for name, engine in engines.items()}
    for engine in engines.values():
        complete_random(engine, 2, WARM_TOKENS, WARM_TOKENS, random.Random(0))
    speeds = speeds_by_turns(engines, rows, options.prompt, options.new, options.rounds)
    threads = torch.get_num_threads()
    for engine in engines.values():
        engine.close()
    scored = likelihoods(lines, options.scored_model, options.texts)
    print(
        f"### Speed and memory of {options.model}, log-likelihood and KL of {options.scored_model}, in bfloat16\n"
    )
    print(head_line(["bench/quantization_table.py", *sys.argv[1:]], threads))
    print(
        f"\n{options.rounds} rounds by turns, {options.prompt} + {options.new} tokens a row: median (least..most)"
    )
    print(f"{options.texts} worked answers; Δ and KL a token, against {BASELINE}, with 95 % intervals\n")
    table = [
        ["weights, MiB", *(f"{weights[name]:,.1f}" for name in lines)],
        *speed_rows(list(lines), rows, speeds),
    ]
    print(markdown(["", *lines], [*table, *quality_rows(lines, scored)]), flush=True)
    print(f"\n{control(scored)}")


def engine_of(folder: Path, line: Line, new_tokens: int) -> LocalEngine:
    """Return the engine of a line, not yet loaded."""
    model = LocalModelConfig(name=str(folder), device="cpu", dtype=Dtype.bfloat16)
    quantization = CHOICES[line.quantization]()
    if isinstance(quantization, Int8ActivationsConfig):
        quantization = replace(quantization, int8_activations=line.int8_activations)
    return greedy_engine(model, quantization, new_tokens, line.kv_cache)


def speed_rows(
    names: list[str], rows: list[int], speeds: dict[tuple[str, int], list[Speeds]]
) -> list[list[str]]:
    """Return the rows of the table about speed, and about the memory of keys and values."""
    kv = [f"{max(one.kv_mib for one in speeds[name, rows[-1]]):,.2f}" for name in names]
    table = [[f"keys and values, MiB, {rows[-1]} rows", *kv]]
    for what, attribute in (("decode", "decode_tok_per_s"), ("prefill", "prefill_tok_per_s")):
        for count in rows:
            each = [spread([getattr(one, attribute) for one in speeds[name, count]], 0) for name in names]
            table.append([f"{what}, tokens/s, {count} row{'s' * (count > 1)}", *each])
    return table


def likelihoods(lines: dict[str, Line], model: str, texts: int) -> dict[str, dict[str, Any]]:
    """Score worked answers with each line, and return the rows of runner-compare."""
    whole = (
        ["model=embedded"]
        if model == "embedded"
        else ["model=local", f"model.name={model}", "model.device=cpu"]
    )
    with tempfile.TemporaryDirectory() as scratch:
        task = ["task=likelihood", f"task.limit={texts}", "task.exact=true"]
        # of quantizations, which one process runs one by one
        grids: dict[Line, list[str]] = defaultdict(list)
        for line in lines.values():
            grids[replace(line, quantization="")].append(line.quantization)
        for others, quantizations in grids.items():
            chosen = replace(others, quantization=",".join(quantizations))
            which = ["model=local", f"model.name={others.file}", "model.device=cpu"] if others.file else whole
            reference = " ".join([*(whole if others.file else []), REFERENCE])
            task_of = [*task, f"task.reference='{reference}'"]
            printed("runner", "-m", *which, *task_of, *keys_of(chosen), f"output_dir={scratch}", "workers=1")
        baseline = ",".join(keys_of(lines[BASELINE]))
        compared = printed(
            "runner_compare", "--output-dir", scratch, "--baseline", baseline, "--format", "json"
        )
    rows = json.loads(compared)["tables"][0]["rows"]
    return {name: next(row for row in rows if is_of(row["config"], line)) for name, line in lines.items()}


def keys_of(line: Line) -> list[str]:
    """Return a line's overrides as a command has them."""
    return [f"{key.removesuffix('.name')}={value}" for key, value in line.recorded.items()]


def is_of(config: dict[str, Any], line: Line) -> bool:
    """Whether a row of runner-compare is a line's; it has the keys in which rows differ."""
    if line.file and config.get("model.name") != line.file:
        return False
    return all(str(config[key]) == value for key, value in line.recorded.items() if key in config)


def quality_rows(lines: dict[str, Line], scored: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Return the rows of the table about likelihoods."""
    delta, kl, agreed = ["Δ log-likelihood, nats"], ["KL, nats"], ["the same first choice"]
    for name in lines:
        metrics, shift = scored[name]["metrics"], scored[name].get("shift", {})
        if name == BASELINE:
            delta.append(f"baseline: {metrics['log_likelihood_nats_per_token']:.5f}")
            kl.append("–")
            agreed.append("–")
            continue
        delta.append(
            with_interval(shift["difference"], shift["difference_low"], shift["difference_high"], form="+.5f")
        )
        kl.append(
            with_interval(*[metrics[f"kl_nats_per_token{end}"] for end in ("", "_low", "_high")], form=".2g")
        )
        agreed.append(f"{metrics['top_1_agreement']:.2%}")
    return [delta, kl, agreed]


def with_interval(value: float, low: float | None, high: float | None, *, form: str) -> str:
    return f"{value:{form}}" + ("" if low is None or high is None else f" [{low:{form}}, {high:{form}}]")


def control(scored: dict[str, dict[str, Any]]) -> str:
    """Say what the control shows; SystemExit if the same model differs, or if no other one does."""
    same = scored[CONTROL]
    differs = (same["shift"]["difference"], same["metrics"]["kl_nats_per_token"])
    if any(differs):
        raise SystemExit(
            f"{CONTROL} differs from {BASELINE}: Δ {differs[0]}, KL {differs[1]}; so the others say nothing"
        )
    others = [name for name in scored if name not in (BASELINE, CONTROL)]
    shown = [name for name in others if (scored[name]["metrics"]["kl_nats_per_token_low"] or 0) > 0]
    if others and not shown:
        raise SystemExit("no interval of a KL leaves out 0: the texts are too few to show anything")
    return (
        f"{CONTROL}: Δ and KL are exactly 0. The interval of the KL leaves out 0 for "
        f"{', '.join(shown) or 'no line'}."
    )


if __name__ == "__main__":
    main()
