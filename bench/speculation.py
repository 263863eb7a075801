"""Does speculation make decode faster? `python bench/speculation.py [--repeats 5] [--busy]`.

One engine answers the same prompts with `generation.speculate` off and on, by turns: questions to the embedded model, a
135M shape with random weights on a prompt that repeats itself, the same with only wrong guesses, and 128 concurrent
rows. Tokens must be the same. The engine learns whether guesses pay, and starts anew with each turn.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from engines import greedy_engine, head_line, markdown, model_folder, spread

from runner.config.model import LocalModelConfig
from runner.core.dtypes import Dtype
from runner.embedded.problems import Split, problems
from runner.engines.base import Message, Request
from runner.engines.contract import complete
from runner.engines.local.decode.speculation import Lookup, Speculation

GUESS = Lookup.draft


def guess_wrongly(_: Lookup, tokens: Sequence[int], most: int) -> list[int]:
    """Always guess a token that is never right."""
    return [3 + len(tokens) % 7] * most


@dataclass
class Case:
    """The requests, the model and the number of concurrent rows."""

    about: str
    model: str
    dtype: str
    rows: int
    requests: list[Request]
    guess: Callable[[Lookup, Sequence[int], int], list[int]] = GUESS


def cases(questions: int, new_tokens: int, chosen: Sequence[str]) -> dict[str, Case]:
    """Return the cases by their letters."""
    questions_alone = [
        Request(at, (Message("user", one.question),), max_new_tokens=256)
        for at, one in enumerate(problems(Split.TEST, questions))
    ]
    chance = random.Random(0)
    sentence = [chance.randrange(100, 2000) for _ in range(24)]
    repeating = [Request(at, (*sentence, *sentence, *sentence, 100 + at), max_new_tokens=new_tokens) for at in range(4)]
    mixed = [
        Request(at, tuple(chance.randrange(100, 2000) for _ in range(64)), max_new_tokens=new_tokens // 4)
        for at in range(128)
    ]
    all_cases = {
        "a": Case("embedded model, questions one at a time", "embedded", "bfloat16", 1, questions_alone),
        "A": Case("embedded model, questions one at a time", "embedded", "float32", 1, questions_alone),
        "4": Case("embedded model, questions four at a time", "embedded", "bfloat16", 4, questions_alone),
        "b": Case("135M, prompts that repeat themselves, one row", "random", "bfloat16", 1, repeating),
        "c": Case("135M, every guess is wrong, one row", "random", "bfloat16", 1, repeating, guess_wrongly),
        "C": Case(
            "embedded model, every guess is wrong, one row", "embedded", "bfloat16", 1, questions_alone, guess_wrongly
        ),
        "d": Case("135M, 128 rows", "random", "bfloat16", 128, mixed),
    }
    return {letter: all_cases[letter] for letter in chosen}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="aA4bcCd", help="letters; see the source")
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--busy", action="store_true", help="one thread, so that processor time says what work there was"
    )
    options = parser.parse_args()
    print(head_line(sys.argv, 1 if options.busy else torch.get_num_threads()))
    lines = []
    for case in cases(options.questions, options.new_tokens, options.cases).values():
        model = LocalModelConfig(
            name=str(model_folder(case.model)),
            device="cpu",
            dtype=Dtype(case.dtype),
            threads=1 if options.busy else None,
        )
        engine = greedy_engine(model)
        engine.load()
        Lookup.draft = case.guess  # type: ignore[method-assign,assignment]
        took: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
        tokens_by_mode: dict[bool, list[Any]] = {}
        for repeat in range(options.repeats + 1):
            for is_on in (False, True) if repeat % 2 else (True, False):
                engine.speculation = Speculation(engine.stats, is_on)
                before, clock, processor = replace(engine.stats), time.perf_counter(), time.process_time()
                done = sorted(complete(engine, case.requests, case.rows), key=lambda one: int(one.id))
                passed = time.perf_counter() - clock, time.process_time() - processor
                if repeat:  # the first turns build kernels and pack weights
                    took[is_on].append(passed)
                tokens_by_mode[is_on] = [one.token_ids for one in done]
                spent = engine.stats - before
                if is_on:
                    guessed, right, tokens = spent.draft_tokens, spent.accepted_tokens, spent.decode_tokens
            if tokens_by_mode[False] != tokens_by_mode[True]:
                raise SystemExit(f"{case.about}: the answers differ")
        for clock_index, name in enumerate(("by the clock", "processor time")):
            pairs = [(off[clock_index], on[clock_index]) for off, on in zip(took[False], took[True], strict=True)]
            lines.append(
                [
                    f"{case.about}, {case.dtype}" if not clock_index else "",
                    name,
                    *(spread([pair[side] for pair in pairs], 2) for side in (0, 1)),
                    spread([off / on for off, on in pairs], 2),
                    f"{right:,} of {guessed:,}; {tokens:,} decoded" if not clock_index else "",
                ]
            )
        engine.close()
    print(f"\n{options.repeats} turns of each: median (least..most); all answers are the same\n")
    print(markdown(["case", "", "off, s", "on, s", "× as fast", "guessed tokens right"], lines), flush=True)


if __name__ == "__main__":
    main()
