"""What does drawing tokens cost beside taking the likeliest? `python bench/sampling_cost.py [--rows 128]`.

Steps of our engine over random-weight models with vocabularies of 49k and 152k, every row greedy or sampled as one of
the presets says, by turns in one process. Prompts are short, so a step is as light as it gets; and the logits of noise
are flat, which is the dearest case: nearly every token is alive under top-p.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from engines import head_line, markdown, spread

from runner.checkpoints import random_weights
from runner.config.choices import choices_for, choose
from runner.config.generation import GenerationConfig
from runner.config.lora import LoraConfig
from runner.config.model import LocalModelConfig
from runner.config.root import RunnerConfig, TrackingConfig
from runner.config.rope import RopeConfig
from runner.config.task import Gsm8kConfig
from runner.core.dtypes import Dtype
from runner.engines.base import Request, Sampling, complete
from runner.engines.local.engine import LocalEngine
from runner.engines.sampling import Sampler
from runner.quantization.base import QuantizationConfig

PROMPT_TOKENS = 16


class Picking:
    """How long tokens take to be picked, over all calls."""

    def __init__(self) -> None:
        self.took_s = 0.0

    def timed(self, pick: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        """Return the function with its time taken."""

        @wraps(pick)
        def timed(*given: Any) -> torch.Tensor:
            started = time.perf_counter()
            tokens = pick(*given)
            self.took_s += time.perf_counter() - started
            return tokens

        return timed


def engine_of(folder: Path, dtype: str) -> LocalEngine:
    """Return an engine for a model folder."""
    return LocalEngine(
        RunnerConfig(
            model=LocalModelConfig(name=str(folder), device="cpu", dtype=Dtype(dtype)),
            quantization=QuantizationConfig(),
            lora=LoraConfig(),
            rope=RopeConfig(),
            generation=GenerationConfig(name="greedy"),
            task=Gsm8kConfig(),
            tracking=TrackingConfig(name="none"),
        )
    )


def sampling_of(preset: str) -> Sampling:
    """Return how a preset draws; what it leaves open is plain."""
    chosen = choose("generation", preset, {}).followed({})
    return Sampling(chosen.temperature, chosen.top_p, chosen.top_k, chosen.repetition_penalty, seed=0)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["smollm2_135m", "qwen2_05b_instruct"])
    parser.add_argument("--presets", nargs="+", default=choices_for("generation"), help="beside greedy")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    presets = ["greedy", *(name for name in options.presets if name != "greedy")]
    picking = Picking()
    Sampler.pick = picking.timed(Sampler.pick)  # type: ignore[method-assign]
    print(head_line(sys.argv, torch.get_num_threads()))
    for shape in options.shapes:
        folder = random_weights.make(LocalModelConfig(name=shape, shape=shape, random_weights=True))
        vocab_size: int = json.loads((folder / "config.json").read_text())["vocab_size"]
        engine = engine_of(folder, options.dtype)
        engine.load()
        chance = random.Random(0)
        prompts = [tuple(chance.randrange(vocab_size) for _ in range(PROMPT_TOKENS)) for _ in range(options.rows)]
        steps_ms: dict[str, list[float]] = {preset: [] for preset in presets}
        picks_ms: dict[str, list[float]] = {preset: [] for preset in presets}
        for repeat in range(options.repeats + 1):
            for preset in presets:
                how, before, picking.took_s = sampling_of(preset), engine.stats.decode_s, 0.0
                requests = [
                    Request(at, prompt, max_new_tokens=options.steps + 1, ignore_eos=True, sampling=how)
                    for at, prompt in enumerate(prompts)
                ]
                done = list(complete(engine, requests, options.rows))
                assert all(len(completion.token_ids) == options.steps + 1 for completion in done)
                if repeat:  # the first lot builds kernels and packs weights
                    steps_ms[preset].append((engine.stats.decode_s - before) / options.steps * 1000)
                    picks_ms[preset].append(picking.took_s / (options.steps + 1) * 1000)
        lines = []
        for preset in presets:
            beside = [one / other for one, other in zip(steps_ms[preset], steps_ms["greedy"], strict=True)]
            lines.append([preset, spread(steps_ms[preset], 1), spread(picks_ms[preset], 1), spread(beside, 2)])
        print(f"\n**{shape}, {options.dtype}: {options.rows} rows, vocabulary of {vocab_size:,}**\n")
        print(markdown(["preset", "ms a step", "of it picking", "× greedy"], lines), flush=True)
        engine.close()


if __name__ == "__main__":
    main()
