"""How much slower is sampling than greedy decoding? `python bench/sampling_cost.py [--rows 128]`.

Steps of our engine over random-weight models with vocabularies of 49k and 152k, with every row greedy or sampled by one
of the presets, by turns in one process. Prompts are short, so a step has the least other work; and the logits of random
weights are flat, which is the most expensive case: nearly every token passes top-p.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from engines import greedy_engine, head_line, markdown, spread
from heading import parse_arguments

from runner.config.choices import list_choices
from runner.config.compose import build_group_configs
from runner_base import Dtype
from runner_engine.checkpoints import random_weights
from runner_engine.decode.passes.forward import Forward
from runner_engine.decode.tokens.sampling import Sampler
from runner_engine.local.engine import LocalEngine
from runner_engine.sessions.base import Request
from runner_engine.sessions.contract import complete_requests
from runner_engine.settings.model import LocalModelConfig
from runner_engine.settings.sampling import OPEN, Sampling

PROMPT_TOKENS = 4


class Timed:
    """Times each call of a method by a clock until the process ends."""

    def __init__(self, owner: type, method: Callable[..., Any], clock: Callable[[], float]) -> None:
        self.took_ms: list[float] = []

        @wraps(method)
        def timed(*given: Any) -> Any:
            started = clock()
            outcome = method(*given)
            self.took_ms.append((clock() - started) * 1000)
            return outcome

        setattr(owner, method.__name__, timed)

    def median_ms(self) -> float:
        """Return the median over the calls so far, and forget them."""
        middle = statistics.median(self.took_ms)
        self.took_ms.clear()
        return middle


def engine_of(folder: Path, dtype: str, threads: int | None) -> LocalEngine:
    model = LocalModelConfig(name=str(folder), device="cpu", dtype=Dtype(dtype), threads=threads)
    return greedy_engine(model)


def sampling_of(preset: str) -> Sampling:
    """Return a preset's sampling; open parameters have no effect."""
    chosen = build_group_configs(["generation"], {"generation": preset}, {})[
        "generation"
    ].apply_model_defaults({})
    return OPEN.fill_unset_sampling_parameters(chosen, default_seed=0)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", default=["smollm2_135m", "qwen2_05b_instruct"])
    parser.add_argument("--presets", nargs="+", default=list_choices("generation"), help="beside greedy")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--busy", action="store_true", help="one thread, and its processor time instead of the clock's"
    )
    options = parse_arguments(parser)
    presets = ["greedy", *(name for name in options.presets if name != "greedy")]
    clock = time.thread_time if options.busy else time.perf_counter
    passes, picks = Timed(Forward, Forward.step, clock), Timed(Sampler, Sampler.sample, clock)
    print(head_line(sys.argv, 1 if options.busy else torch.get_num_threads()))
    for shape in options.shapes:
        folder = random_weights.ensure_random_checkpoint(
            LocalModelConfig(name=shape, shape=shape, random_weights=True)
        )
        vocab_size: int = json.loads((folder / "config.json").read_text())["vocab_size"]
        engine = engine_of(folder, options.dtype, 1 if options.busy else None)
        engine.load()
        chance = random.Random(0)
        prompts = [
            tuple(chance.randrange(vocab_size) for _ in range(PROMPT_TOKENS)) for _ in range(options.rows)
        ]
        pass_ms: dict[str, list[float]] = {preset: [] for preset in presets}
        pick_ms: dict[str, list[float]] = {preset: [] for preset in presets}
        for repeat in range(options.repeats + 1):
            for preset in presets:
                requests = [
                    Request(
                        at,
                        prompt,
                        max_new_tokens=options.steps + 1,
                        ignore_eos=True,
                        sampling=sampling_of(preset),
                    )
                    for at, prompt in enumerate(prompts)
                ]
                done = complete_requests(engine, requests, options.rows)
                assert all(len(completion.answer.token_ids) == options.steps + 1 for completion in done)
                took = passes.median_ms(), picks.median_ms()
                if repeat:  # the first round builds kernels and packs weights
                    pass_ms[preset].append(took[0])
                    pick_ms[preset].append(took[1])
        whole = {
            preset: [sum(both) for both in zip(pass_ms[preset], pick_ms[preset], strict=True)]
            for preset in presets
        }
        lines = []
        for preset in presets:
            share = [100 * one / other for one, other in zip(pick_ms[preset], pass_ms[preset], strict=True)]
            beside = [one / other for one, other in zip(whole[preset], whole["greedy"], strict=True)]
            lines.append(
                [
                    preset,
                    *(spread(some, 1) for some in (pass_ms[preset], pick_ms[preset], share)),
                    spread(beside, 2),
                ]
            )
        what = "processor time of one thread" if options.busy else "by the clock"
        print(f"\n**{shape}, {options.dtype}: {options.rows} rows, vocabulary of {vocab_size:,}; {what}**\n")
        print(markdown(["preset", "ms a pass", "ms picking", "% of the pass", "× greedy"], lines), flush=True)
        engine.close()


if __name__ == "__main__":
    main()
