"""task=words: count the words of an answer."""

from __future__ import annotations

from dataclasses import dataclass

from runner.tasks import RunnerConfig, TaskContext, TaskInputs, Uses, collect_answers, typed_task_config
from runner_base.result import Result
from runner_engine.sessions.base import Request
from runner_example.words_config import WordsConfig

VERSION = 1
USES = frozenset({Uses.weights, Uses.engine})
FROM_LEDGER = True


@dataclass
class WordsInputs(TaskInputs):
    """What is asked."""

    prompt: str


def prepare(config: RunnerConfig) -> WordsInputs:
    """Read no file: the prompt is a key, which counts in the job's id by itself."""
    return WordsInputs({}, typed_task_config(config, WordsConfig).prompt, count=1)


def run(inputs: WordsInputs, context: TaskContext) -> Result:
    """Ask once, and count."""
    done = collect_answers([Request(0, inputs.prompt)], context)
    words = sum(len(sample.answer.text.split()) for sample in done.samples)
    return Result(
        {"words": words, **done.metrics}, facts=done.facts, notes=done.notes, problems=done.problems
    )
