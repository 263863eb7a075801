"""Are models in one Python process independent of each other? `python bench/two_models.py --rounds 100`.

Not a measurement: two models answer at the same time, two threads use each of them, and every answer must equal the one
that its model gave before, alone. Each route is paired with a second model of the same route and with a model of the
next one; meanwhile a third model is loaded, used and closed. A round is one call of each thread: a batch of prompts
with a common prefix, sampled answers, a conversation, a stream, the scores of continuations. The torch routes run in a
process of their own with RUNNER_NATIVE=0. The exit code is 1 if an answer differs.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heading import parse_arguments

from runner import Model, load
from runner.library.arguments import Format
from runner_engine.embedded import MODEL_DIR

NATIVE = "RUNNER_NATIVE"
NEW_TOKENS = 8
PAUSE_S = 0.5  # before the third model comes again
NAMES = ("Tom", "Ann", "Rosa", "Sam")  # of each thread
FARM = "has a farm with hens, goats, cows, ducks, pigs, bees, cats, dogs, geese and a horse, and sells eggs in a shop."
ONE_ROW = {"name": "greedy", "batch_size": 1}

# Under int8 a row's outliers decide how all rows of its pass are multiplied, so this model runs one
# row at a time.
ROUTES: dict[str, dict[str, Any]] = {
    "bfloat16": {},
    "float32": {"dtype": "float32"},
    "float32 + lora": {"dtype": "float32", "lora": "embedded"},
    "lora .pth": {"lora": "embedded_pth"},
    "rope_2d": {"rope": "rope_2d"},
    "yarn": {"rope": {"name": "yarn", "factor": 4}},
    "linear": {"dtype": "float32", "rope": {"name": "linear", "factor": 2}},
    "int8": {"quantization": "int8", "generation": ONE_ROW},
    "nf4": {"quantization": "nf4"},
    "nf4 + lora": {"quantization": "nf4", "lora": "embedded"},
    "fp4": {"quantization": "fp4"},
    "int8_dynamic": {"quantization": "int8_dynamic"},
    "torchao_int8": {"quantization": "torchao_int8"},
    "gguf": {"quantization": "gguf"},
    "two threads": {"dtype": "float32", "threads": 2},
    "batch by batch": {"attention": "sdpa"},
}

Ask = Callable[[Model, str], Any]


def question(name: str, number: int) -> str:
    """Return a problem about a person, so that prompts of two threads share no prefix."""
    return f"{name} has {number} pens. {name} buys {number + 2} more. How many pens does {name} have now?"


def form(model: Model) -> Format:
    """Return the format of prompts: plain text for a file without a chat template."""
    return "chat" if model.report.has_chat_template else "raw"


def batch(model: Model, name: str) -> Any:
    """Return greedy answers to prompts with a common prefix, which is shared; tokens are
    guessed."""
    prompts = [f"{name} {FARM} {question(name, number)}" for number in range(4, 8)]
    return [
        answer.token_ids for answer in model.generate(prompts, format=form(model), max_new_tokens=NEW_TOKENS)
    ]


def sampled(model: Model, name: str) -> Any:
    how: dict[str, Any] = {"temperature": 0.9, "seed": 3, "n": 2, "max_new_tokens": NEW_TOKENS}
    answer = model.generate(question(name, 3), format=form(model), **how)
    return [one.token_ids for one in answer.choices]


def chat(model: Model, name: str) -> Any:
    """Return the second answer of a conversation, whose first turn is cached."""
    talk = [{"role": "user", "content": question(name, 8)}]
    talk.append({"role": "assistant", "content": model.chat(talk, max_new_tokens=NEW_TOKENS)})
    return model.chat(
        [*talk, {"role": "user", "content": question(name, 9)}], max_new_tokens=NEW_TOKENS
    ).token_ids


def stream(model: Model, name: str) -> Any:
    """Return an answer, joined from its stream."""
    return "".join(model.stream(question(name, 2), max_new_tokens=NEW_TOKENS))


def scores(model: Model, name: str) -> Any:
    """Return log-probabilities, to be compared exactly."""
    scored = model.logprobs(
        question(name, 5), ["After buying, 5+7=12.", "After buying, 5+7=13.", "No."], format=form(model)
    )
    return [score.logprobs for score in scored]


def calls_of(model: Model) -> list[Ask]:
    """Return the calls that a model supports."""
    return [batch, sampled, *([chat, stream] if model.report.has_chat_template else []), scores]


@dataclass
class Tally:
    """The outcomes of a pair's answers."""

    equal: int = 0
    differing: int = 0
    errors: int = 0
    seconds: float = 0.0
    first: str = ""  # the first that was wrong

    def note(self, what: str, outcome: str) -> None:
        """Count an outcome; keep the first bad one."""
        setattr(self, outcome, getattr(self, outcome) + 1)
        if outcome != "equal" and not self.first:
            self.first = what


def run_pair(models: list[Model], rounds: int, beside: Callable[[], Any] | None = None) -> Tally:
    """Let the models answer at the same time, and compare every answer with the one given alone."""
    asked = [models[at % len(models)] for at in range(len(NAMES))]
    for _ in range(2):  # the second time, a conversation's turns are kept as they will be later
        alone = [
            [call(model, name) for call in calls_of(model)] for model, name in zip(asked, NAMES, strict=True)
        ]
    tally, lock, over = Tally(), threading.Lock(), threading.Event()
    start = threading.Barrier(len(NAMES))

    def ask(number: int) -> None:
        model, name = asked[number], NAMES[number]
        calls = list(zip(calls_of(model), alone[number], strict=True))
        start.wait()
        for turn in range(number, number + rounds):
            call, expected = calls[turn % len(calls)]
            try:
                same = call(model, name) == expected
                outcome, what = ("equal" if same else "differing"), call.__name__
            except Exception as error:  # noqa: BLE001 - whatever it is, it is no answer
                outcome, what = "errors", f"{call.__name__}: {type(error).__name__}: {error}"
            with lock:
                tally.note(what, outcome)

    def come_and_go() -> None:
        while beside is not None and not over.wait(PAUSE_S):
            beside()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(NAMES))]
    third = threading.Thread(target=come_and_go)
    began = time.monotonic()
    for thread in (*threads, third):
        thread.start()
    for thread in threads:
        thread.join()
    tally.seconds = time.monotonic() - began
    over.set()
    third.join()
    return tally


def come_and_go() -> None:
    """Load a third model in another number format than float32, use it, and close it."""
    with load("embedded", device="cpu") as model:
        model.generate(question("Eve", 1), max_new_tokens=2)


def opened(route: str, folder: Path) -> Model:
    return load(gguf_in(folder) if route == "gguf" else "embedded", device="cpu", **ROUTES[route])


def gguf_in(folder: Path) -> Path:
    """Return the embedded model as a .gguf file, with the tokenizer beside it."""
    from gguf_of import gguf_of
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(MODEL_DIR).save_pretrained(folder)
    return gguf_of(MODEL_DIR, "bfloat16", folder)


def pairs(routes: list[str]) -> Iterator[tuple[str, str]]:
    """Yield each route with itself and with the next one."""
    for at, route in enumerate(routes):
        yield route, route
        yield route, routes[(at + 1) % len(routes)]


def run_here(rounds: int, routes: list[str]) -> int:
    """Run all pairs of this process; return how many answers were wrong."""
    ways, wrong, total = "torch" if os.environ.get(NATIVE) == "0" else "C", 0, Counter[str]()
    with tempfile.TemporaryDirectory() as place:
        for pair in pairs(routes):
            with ExitStack() as stack:
                models = [stack.enter_context(opened(route, Path(place))) for route in pair]
                tally = run_pair(models, rounds, come_and_go)
            line = (
                f"{ways:<6} {' | '.join(pair):<34} {rounds:>6} {tally.equal:>6} "
                f"{tally.differing:>9} {tally.errors:>6}"
            )
            print(f"{line} {tally.seconds:>8.1f}", tally.first, flush=True)
            wrong += tally.differing + tally.errors
            total.update(pairs=1, answers=tally.equal + tally.differing + tally.errors)
    print(f"{ways}: {total['answers']} answers of {total['pairs']} pairs, {wrong} not as alone", flush=True)
    return wrong


def main() -> int:
    """Run the routes with kernels, and those of plain torch in a process of their own."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--rounds", type=int, default=100, help="calls of each of the four threads, for each pair"
    )
    parser.add_argument("--routes", nargs="+", choices=ROUTES, default=list(ROUTES), help="some of them")
    parser.add_argument(
        "--ways", nargs="+", choices=("C", "torch"), default=["C", "torch"], help="one of them"
    )
    options = parse_arguments(parser)
    if NATIVE in os.environ:
        return int(bool(run_here(options.rounds, options.routes)))
    print(f"two models, {len(NAMES)} threads, and a third model that comes and goes")
    print(
        f"{'way':<6} {'pair':<34} {'rounds':>6} {'equal':>6} {'differing':>9} {'errors':>6} {'seconds':>8}",
        flush=True,
    )
    codes = []
    for way in options.ways:
        command = [sys.executable, __file__, "--rounds", str(options.rounds), "--routes", *options.routes]
        codes.append(
            subprocess.run(command, env=os.environ | {NATIVE: "0" if way == "torch" else "1"}).returncode
        )
        if codes[-1] < 0:
            print(f"{way}: the process was ended by signal {-codes[-1]}", flush=True)
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main())
