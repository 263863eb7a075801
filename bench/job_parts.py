"""Where does a job's time go? `python bench/job_parts.py [--questions 128] [--new-tokens 256]`.

The questions are answered by our engine in this process. Seconds are of this part alone: what it calls counts for the
parts below it. Those within a forward pass are read by a clock in C (kernels/pass_clock.h), which only this script
compiles. A pass that reads prompts and gives other rows their next token counts as one of prompts.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# before kernels are loaded
os.environ["RUNNER_CFLAGS"] = f"{os.environ.get('RUNNER_CFLAGS', '')} -DPASS_CLOCK".strip()

import torch
from engines import greedy_engine, head_line, markdown, model_folder, random_prompts
from heading import parse_arguments
from latest import Figure, add_option, save
from questions import add_questions, load_prompts

from runner_base import Dtype
from runner_engine.decode.fused_forward import FusedForward
from runner_engine.decode.passes.forward import Forward
from runner_engine.decode.scheduler import Scheduler
from runner_engine.decode.tokens.sampling import Sampler
from runner_engine.decode.tokens.stopping import Stopping
from runner_engine.kernels import native
from runner_engine.quantization.gguf import GgufConfig
from runner_engine.sessions.base import Request
from runner_engine.sessions.contract import complete_requests
from runner_engine.settings.model import LocalModelConfig

# as in pass_clock.h
IN_C = ("products of the layers", "attention", "norms and RoPE", "product of the head", "routing", "experts")
CALL = "call of C: checks, sizes, the start of its threads"
PARTS: list[tuple[str, type, Callable[..., Any]]] = [
    (CALL, FusedForward, FusedForward.__call__),
    (
        "passes in Python: places, prefixes, layers one by one where a pass is no single call",
        Forward,
        Forward._run_model,
    ),
    ("sampling", Sampler, Sampler.sample),
    ("answers: text of tokens, stops", Stopping, Stopping.accept_token),
    ("rows enter: shared prefixes, memory, order", Scheduler, Scheduler._admit_and_prefill_sequences),
    ("the rest of the scheduler", Scheduler, Scheduler.step),
]
REST = "the rest: tokenizing, requests, completions"


class Stopwatch:
    """Counts the seconds of functions that call each other: each has those that it spends
    itself."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._running: list[str] = []
        self._since = 0.0

    def _switch(self) -> None:
        now = time.perf_counter()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, and count its seconds under this name."""

        def call(*arguments: Any, **keys: Any) -> Any:
            self._switch()
            self._running.append(name)
            try:
                return function(*arguments, **keys)
            finally:
                self._switch()
                self._running.pop()

        return call


class PassParts:
    """The seconds within passes, of those with prompts and of steps."""

    def __init__(self, library: Any) -> None:
        self.clock = (ctypes.c_double * len(IN_C)).in_dll(library, "pass_seconds")
        self.seconds = {is_step: [0.0] * len(IN_C) for is_step in (False, True)}

    def counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function of a pass, and read the clock after each."""

        def call(fused: Any, layout: Any, *arguments: Any) -> Any:
            self.clock[:] = [0.0] * len(IN_C)
            result = function(fused, layout, *arguments)
            self.seconds[layout.is_step] = [
                before + now for before, now in zip(self.seconds[layout.is_step], self.clock, strict=True)
            ]
            return result

        return call


def measure(options: argparse.Namespace) -> tuple[dict[str, float], PassParts, float, str]:
    """Return the seconds of each part, those within passes, the whole job's, and the number of
    tokens in words."""
    is_gguf = options.model.endswith(".gguf")
    if options.int8_activations and not is_gguf:
        raise SystemExit(f"--int8-activations: give a --model FILE.gguf, and not {options.model}")
    place = Path(options.model) if is_gguf else model_folder(options.model)
    model = LocalModelConfig(
        name=str(place), device="cpu", dtype=Dtype(options.dtype), threads=options.threads
    )
    quantization = GgufConfig(int8_activations=options.int8_activations) if is_gguf else None
    engine = greedy_engine(model, quantization, options.new_tokens)
    engine.load()
    prompts: Sequence[Any] = (
        random_prompts(engine, options.questions, options.random_prompt, random.Random(0))
        if options.random_prompt
        else load_prompts(options.gsm8k or "embedded", options.questions, options.shots)
    )
    kernels = native.load_kernels()
    if kernels is None:
        raise SystemExit("there are no compiled kernels here, so no clock in C")
    requests = [
        Request(
            at, prompt if isinstance(prompt, str) else tuple(prompt), (), options.new_tokens, ignore_eos=True
        )
        for at, prompt in enumerate(prompts)
    ]
    watch, passes = Stopwatch(), PassParts(ctypes.CDLL(str(kernels.file)))
    FusedForward.__call__ = passes.counted(FusedForward.__call__)  # type: ignore[method-assign]
    for name, owner, method in PARTS:
        setattr(owner, method.__name__, watch.timed(name, getattr(owner, method.__name__)))
    run = watch.timed(REST, lambda: sum(1 for _ in complete_requests(engine, requests, options.rows)))
    started = time.perf_counter()
    run()
    total = time.perf_counter() - started
    stats = engine.stats
    return (
        watch.seconds,
        passes,
        total,
        f"{stats.prefill_tokens:,} tokens of prompts and {stats.decode_tokens:,} new ones",
    )


def main() -> None:
    """Print a table of parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", default="random", help="random (a 135M Llama shape), embedded, a FOLDER or a FILE.gguf"
    )
    parser.add_argument(
        "--int8-activations", action="store_true", help="of a FILE.gguf: rows are rounded to 8 bits"
    )
    parser.add_argument(
        "--random-prompt", type=int, help="prompts of so many random tokens instead of questions"
    )
    parser.add_argument(
        "--rows", type=int, default=None, help="concurrent ones (default: the engine decides)"
    )
    add_questions(parser)
    add_option(parser)
    options = parse_arguments(parser)
    seconds, passes, total, tokens = measure(options)
    print(head_line(["bench/job_parts.py", *sys.argv[1:]], torch.get_num_threads()))
    print(f"{options.questions} questions, {tokens}: {total:.1f} s\n")
    inside = {is_step: sum(of) for is_step, of in passes.seconds.items()}
    seconds[CALL] -= sum(inside.values())
    print(markdown(["part", "passes with prompts, s", "steps, s", "share of the job"], [
        *([name, f"{prompts:.2f}", f"{steps:.2f}", f"{(prompts + steps) / total:.1%}"]
          for name, prompts, steps in zip(IN_C, passes.seconds[False], passes.seconds[True], strict=True)),
        *([name, f"{seconds[name]:.2f}", "", f"{seconds[name] / total:.1%}"]
          for name in (*(name for name, *_ in PARTS), REST)),
    ]))  # fmt: skip
    if options.save:
        what = f"{options.questions} questions, {options.new_tokens} new tokens"
        save([Figure.of(what, "s", [total])])


if __name__ == "__main__":
    main()
