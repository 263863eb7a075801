"""What does a KV cache in 8 bits save and cost? `python bench/kv_cache.py [--rounds 5]`.

Two engines of one model, with `generation.kv_cache=as_model` and `int8`, are loaded into one process. They decode by
turns, round by round and batch by batch, so that other work on the machine affects both; the second table counts
processor time, which other work changes least. Then both score the same worked answers of the embedded questions: each
after its own question, and after other worked questions that fill a long context. What 8 bits cost is the mean
difference of the log-likelihoods over the texts, with its 95 % interval, and the divergence KL(as_model ‖ int8), both
for each token.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from engines import complete_random, greedy_engine, head_line, markdown, model_folder, speeds_by_turns, spread
from heading import parse_arguments
from scipy import stats

from runner.datasets.questions import load_questions
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner_base import Dtype
from runner_engine.local.engine import LocalEngine
from runner_engine.sessions.base import Message, Request
from runner_engine.sessions.contract import complete_requests
from runner_engine.settings.kv_cache import KvCache
from runner_engine.settings.model import LocalModelConfig

Engines = dict[str, LocalEngine]  # by the format of the cache
WARM_TOKENS = 4


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", default="random", help="that decodes: random (a 135M Llama shape), embedded or a FOLDER"
    )
    parser.add_argument("--scored-model", default="embedded", help="that scores the embedded questions")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--rows", default="1,8,32,128", help="at once")
    parser.add_argument("--context", default="64,1024", help="tokens of each prompt; they share nothing")
    parser.add_argument("--new", type=int, default=16, help="new tokens of each row")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--texts", type=int, default=200, help="worked answers to score")
    parser.add_argument(
        "--long", type=int, default=700, help="tokens of other questions before a text in a long context"
    )
    options = parse_arguments(parser)
    rows, contexts = ([int(part) for part in given.split(",")] for given in (options.rows, options.context))
    print(head_line(["bench/kv_cache.py", *sys.argv[1:]], torch.get_num_threads()))
    speeds(engines_of(options.model, options.dtype, options.new), rows, contexts, options.new, options.rounds)
    cost(engines_of(options.scored_model, options.dtype, 1), options.texts, options.long)


def engines_of(model: str, dtype: str, new_tokens: int) -> Engines:
    """Return an engine for each format of the cache, loaded."""
    engines = {}
    for kv_cache in (KvCache.as_model, KvCache.int8):
        named = LocalModelConfig(name=str(model_folder(model)), device="cpu", dtype=Dtype(dtype))
        engines[str(kv_cache)] = greedy_engine(named, None, new_tokens, kv_cache)
        engines[str(kv_cache)].load()
    return engines


def speeds(engines: Engines, rows: list[int], contexts: list[int], new_tokens: int, rounds: int) -> None:
    """Decode by turns, and print tokens a second and the memory of keys and values."""
    for engine in engines.values():
        complete_random(engine, 2, WARM_TOKENS, WARM_TOKENS, random.Random(0))
    measured = {context: speeds_by_turns(engines, rows, context, new_tokens, rounds) for context in contexts}
    units = {
        "decode, tokens a second": "decode_tok_per_s",
        "all tokens a second of a processor": "tok_per_processor_s",
        "MiB of keys and values": "kv_mib",
    }
    for unit, name in units.items():
        print(f"\n{rounds} rounds by turns: median (least..most)\n")
        table = [
            [
                kv_cache,
                str(context),
                *(
                    spread([getattr(one, name) for one in measured[context][kv_cache, count]])
                    for count in rows
                ),
            ]
            for context in contexts
            for kv_cache in engines
        ]
        print(markdown([unit, "context", *(f"{count} rows" for count in rows)], table), flush=True)


def cost(engines: Engines, texts: int, long: int) -> None:
    """Score worked answers by both engines, and print what 8 bits cost."""
    table = []
    for name, before in (("after its question", 0), (f"after {long} tokens of others", long)):
        asked = worked_answers(engines[str(KvCache.as_model)], texts, before)
        plain, eight = (score(engine, asked) for engine in engines.values())
        differences, divergences, tokens = [], [], 0
        for one in asked:
            ours, theirs = plain[one.id], eight[one.id]
            places = torch.arange(len(ours))
            ids = torch.tensor(one.continuation)
            differences.append(float((theirs[places, ids] - ours[places, ids]).mean()))
            divergences.append(float((ours.exp() * (ours - theirs)).sum(dim=-1).mean()))
            tokens += len(ours)
        table.append([name, f"{len(asked)} · {tokens:,}", interval(differences), interval(divergences)])
    print("\nWhat 8 bits cost: means over the texts, and their 95 % intervals (Student's t)\n")
    print(
        markdown(["answers", "texts · tokens", "log-likelihood, nats a token", "KL, nats a token"], table),
        flush=True,
    )


def worked_answers(engine: LocalEngine, texts: int, before: int) -> list[Request]:
    """Return requests for the worked answers of the embedded questions, behind at least `before`
    tokens of others."""
    items = load_questions(Gsm8kConfig(limit=texts))
    whole = [engine.encode(Request(0, f"{item.question}\n{item.answer}\n\n"))[1] for item in items]
    asked = []
    for number, item in enumerate(items):
        context: list[int] = []
        other = number
        while len(context) < before:
            other = (other + 1) % len(items)
            context += whole[other]
        prompt = engine.encode(Request(0, (Message("user", item.question),)))[1]
        answer = engine.encode(Request(0, item.answer))[1]
        asked.append(Request(number, (*context, *prompt), continuation=tuple(answer)))
    return asked


def score(engine: LocalEngine, asked: list[Request]) -> dict[Any, torch.Tensor]:
    """Return the log-probabilities [tokens, vocabulary] of each continuation."""
    pieces: dict[Any, list[torch.Tensor]] = defaultdict(list)

    def listening(one: Request) -> Request:
        return replace(one, on_logprobs=lambda _, scores: pieces[one.id].append(scores.clone()))

    failed = [
        done.error for done in complete_requests(engine, [listening(one) for one in asked]) if done.error
    ]
    if failed:
        raise SystemExit(f"{len(failed)} texts failed, e.g. {failed[0]}")
    return {name: torch.cat(some) for name, some in pieces.items()}


def interval(values: list[float]) -> str:
    """Return the mean and its 95 % interval."""
    mean, error = float(np.mean(values)), float(stats.sem(values))
    reach = error * float(stats.t.ppf(0.975, len(values) - 1))
    return f"{mean:+.3g} [{mean - reach:+.3g}, {mean + reach:+.3g}]"


if __name__ == "__main__":
    main()
