"""task=words: count the words of an answer."""

from __future__ import annotations

from dataclasses import dataclass

from runner.tasks import Context, Inputs, RunnerConfig, Uses, collect, own_config
from runner_base.result import Result
from runner_engine.sessions.base import Request
from runner_example.words_config import WordsConfig

VERSION = 1
USES = frozenset({Uses.weights, Uses.engine})
FROM_LEDGER = True


@dataclass
class WordsInputs(Inputs):
    """What is asked."""

    prompt: str


def prepare(config: RunnerConfig) -> WordsInputs:
    """Read no file: the prompt is a key, which counts in the job's id by itself."""
    return WordsInputs({}, own_config(config, WordsConfig).prompt, count=1)


def run(inputs: WordsInputs, context: Context) -> Result:
    """Ask once, and count."""
    done = collect([Request(0, inputs.prompt)], context)
    words = sum(len(sample.answer.text.split()) for sample in done.samples)
    return Result(
        {"words": words, **done.metrics}, facts=done.facts, notes=done.notes, problems=done.problems
    )
