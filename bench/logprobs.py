"""Scoring in the scheduler compared with one forward pass each: `python bench/logprobs.py [--questions 24]`.

Questions with four choices each, as in a multiple-choice benchmark: all share one prefix, and the choices of a question
share the question. One side asks our engine for the log-probabilities of all choices; the other runs each whole text
through the same model by transformers, and takes them from the logits. Runs alternate in one process.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Sequence

import torch
from engines import greedy_engine, head_line, markdown, model_folder, spread

from runner.config.model import LocalModelConfig
from runner.core.dtypes import Dtype
from runner.engines.base import Request
from runner.engines.contract import complete
from runner.engines.local.engine import LocalEngine

CHOICES = 4


def draw(questions: int, shared: int, question: int, choice: int, vocabulary: int, seed: int) -> list[Request]:
    """Return requests of random tokens: one prefix for all, a question for each four, and a continuation each."""
    chance = random.Random(seed)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(chance.randrange(vocabulary // 4, vocabulary * 3 // 4) for _ in range(count))

    beginning = ids(shared)
    return [
        Request(f"{number}/{letter}", (*beginning, *context), continuation=ids(choice))
        for number, context in enumerate(ids(question) for _ in range(questions))
        for letter in range(CHOICES)
    ]


def by_engine(engine: LocalEngine, requests: Sequence[Request]) -> list[list[float]]:
    """Return the log-probabilities of all continuations by our engine."""
    done = {one.id: one.logprobs or [] for one in complete(engine, requests)}
    return [done[request.id] for request in requests]


def by_passes(engine: LocalEngine, requests: Sequence[Request]) -> list[list[float]]:
    """Return them by one forward pass each, with logits only for the continuation."""
    model, log_probabilities = engine.loaded.model, []
    for request in requests:
        assert isinstance(request.continuation, tuple)
        count = len(request.continuation)
        ids = torch.tensor([[*request.prompt, *request.continuation[:-1]]])
        with torch.inference_mode():
            logits = model(input_ids=ids, use_cache=False, logits_to_keep=count).logits[0]
        scores = logits.float().log_softmax(dim=-1)
        log_probabilities.append(scores.gather(1, torch.tensor(request.continuation)[:, None])[:, 0].tolist())
    return log_probabilities


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded", help="random (a 135M Llama shape), embedded or a FOLDER")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="float32")
    parser.add_argument("--questions", type=int, default=24)
    parser.add_argument("--shared", type=int, default=256, help="tokens that all begin with")
    parser.add_argument("--question", type=int, default=48, help="tokens of a question")
    parser.add_argument("--choice", type=int, default=12, help="tokens of a continuation")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="default: as our engine decides, for both")
    options = parser.parse_args()
    model = LocalModelConfig(
        name=str(model_folder(options.model)), device="cpu", dtype=Dtype(options.dtype), threads=options.threads
    )
    engine = greedy_engine(model)
    vocabulary = int(engine.load().metrics["vocab_size"])
    shape = options.questions, options.shared, options.question, options.choice
    by_engine(engine, draw(2, *shape[1:], vocabulary, seed=-1))  # builds kernels, exchanges layers for quicker ones
    seconds: dict[str, list[float]] = {"runner": [], "one forward pass each": []}
    apart = 0.0
    for repeat in range(options.repeats):
        requests = draw(*shape, vocabulary, seed=repeat)
        answers = []
        for name, side in (("runner", by_engine), ("one forward pass each", by_passes)):
            started = time.perf_counter()
            answers.append(side(engine, requests))
            seconds[name].append(time.perf_counter() - started)
        ours, theirs = (torch.tensor(one) for one in answers)
        apart = max(apart, float((ours - theirs).abs().max()))
    count = options.questions * CHOICES
    print(f"### {options.model}, {options.dtype}: {count} continuations of {options.choice} tokens after "
          f"{options.shared} + {options.question}\n")  # fmt: skip
    print(head_line(sys.argv, torch.get_num_threads()), end="\n\n")
    pairs = zip(seconds["one forward pass each"], seconds["runner"], strict=True)
    ratios = [slow / fast for slow, fast in pairs]
    rows = [
        [name, spread(took), spread([count / one for one in took]), "1" if name == "runner" else spread(ratios, 2)]
        for name, took in seconds.items()
    ]
    print(markdown([f"{options.repeats} runs: median (least..most)", "s", "continuations/s", "× the runner"], rows))
    print(f"\nlog-probabilities differ by {apart:.1e} at most; both sides use the layers that our engine has exchanged")
    print(f"median ratio: {statistics.median(ratios):.2f}")
    engine.close()


if __name__ == "__main__":
    main()
