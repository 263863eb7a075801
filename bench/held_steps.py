"""How much longer is a decoding step whose rows a grammar holds? `python bench/held_steps.py [--rows 32]`.

Steps of our engine over a real model, with all rows free, half of them held, or all, by turns in one process. What is
held is a list of objects with texts, numbers and choices, longer than the steps that are timed. A step is everything
between two tokens: the pass, the masks, the draw, and following the tokens.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from engines import greedy_engine, head_line, markdown, spread
from heading import parse_arguments
from sampling_cost import Timed

from runner_base import Dtype
from runner_engine.decode.scheduler import Scheduler
from runner_engine.decode.tokens import Stopping
from runner_engine.sessions.base import Request
from runner_engine.sessions.contract import complete_requests
from runner_engine.settings.model import LocalModelConfig
from runner_engine.settings.sampling import Sampling
from runner_engine.tool_calls import build_json_rule

SMOLLM2 = Path("~/.cache/runner/real-model/bfloat16").expanduser()
SCHEMA: dict[str, Any] = {
    "type": "array",
    "minItems": 200,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 5, "maxLength": 60},
            "age": {"type": "integer", "minimum": 0, "maximum": 130},
            "kind": {"enum": ["explorer", "chemist", "painter"]},
            "lives": {"type": "boolean"},
        },
        "required": ["name", "age", "kind", "lives"],
        "additionalProperties": False,
    },
}
PROMPT = "Here is a list of {number} people, as JSON, each with name, age, kind and whether they live:\n"
HELD = {"free": 0.0, "half held": 0.5, "all held": 1.0}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=str(SMOLLM2), help="a folder, e.g. of make real-model")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument(
        "--busy", action="store_true", help="one thread, and its processor time instead of the clock's"
    )
    options = parse_arguments(parser)
    clock = time.thread_time if options.busy else time.perf_counter
    steps, masks = (
        Timed(Scheduler, Scheduler._decode_active_sequences, clock),
        Timed(Stopping, Stopping.constrain_logits, clock),
    )
    threads = 1 if options.busy else None
    print(head_line(sys.argv, threads or torch.get_num_threads()))
    model = LocalModelConfig(name=options.model, device="cpu", dtype=Dtype(options.dtype), threads=threads)
    engine = greedy_engine(model)
    engine.load()
    grammar, drawn = f"start: {build_json_rule(SCHEMA)}", Sampling(temperature=options.temperature)
    step_ms: dict[str, list[float]] = {name: [] for name in HELD}
    mask_ms: dict[str, list[float]] = {name: [] for name in HELD}
    for repeat in range(options.repeats + 1):
        for name, share in HELD.items():
            requests = [
                Request(
                    at,
                    PROMPT.format(number=at + 200),
                    max_new_tokens=options.steps + 1,
                    ignore_eos=at >= share * options.rows,
                    grammar=grammar if at < share * options.rows else None,
                    sampling=drawn,
                )
                for at in range(options.rows)
            ]
            done = complete_requests(engine, requests, options.rows)
            assert all(len(one.answer.token_ids) == options.steps + 1 for one in done)
            took = statistics.median(steps.took_ms), statistics.median(masks.took_ms)
            steps.took_ms.clear()
            masks.took_ms.clear()
            if repeat:  # the first round builds kernels, packs weights and reads the vocabulary
                step_ms[name].append(took[0])
                mask_ms[name].append(took[1])
    lines = []
    for name in HELD:
        ratios = [one / free for one, free in zip(step_ms[name], step_ms["free"], strict=True)]
        lines.append([name, spread(step_ms[name], 2), spread(mask_ms[name], 2), spread(ratios, 3)])
    print(f"\n**{Path(options.model).name}, {options.dtype}: {options.rows} rows**\n")
    print(markdown(["rows", "ms a step", "ms of masks", "× free"], lines), flush=True)
    engine.close()


if __name__ == "__main__":
    main()
