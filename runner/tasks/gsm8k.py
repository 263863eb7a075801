"""task=gsm8k: put word problems to the engine, extract the number, compare it with the gold answer."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from runner.config.root import RunnerConfig
from runner.config.task import Gsm8kConfig, PromptStyle
from runner.core.result import Result, Sample, Verdict
from runner.core.stats import wilson_interval
from runner.datasets.gsm8k import Item, describe, items_sha256, load_examples, load_questions
from runner.engines.base import Completion, Message, Prompt, Request
from runner.scorers.numbers import judge
from runner.tasks.base import Context, Inputs, Uses
from runner.tasks.completing import complete_missing, sample_of, token_counts

VERSION = 1
USES = frozenset({Uses.weights, Uses.engine})
FROM_LEDGER = True

TEXT_STOPS = ("\n\nQuestion:", "\nQuestion:")  # a completion of plain text goes on to the next question


@dataclass
class Problems(Inputs):
    """The questions of the job and the worked examples that go before each."""

    task: Gsm8kConfig
    items: list[Item]
    examples: list[Item]


def prepare(config: RunnerConfig) -> Problems:
    """Read and hash the questions and the worked examples."""
    task = config.task
    assert isinstance(task, Gsm8kConfig)
    items = load_questions(task.data, task.split, task.limit)
    examples = load_examples(task.data, task.shots_data, task.split, task.shots)
    hashes = {"data": items_sha256(items), "shots": items_sha256(examples)}
    return Problems(hashes, task, items, examples, data=describe(task.data, task.split, hashes["data"]))


def run(inputs: Problems, context: Context) -> Result:
    """Generate what is not on disk yet, judge each completion, add up."""
    task, items = inputs.task, inputs.items
    stop = TEXT_STOPS if task.prompt is PromptStyle.text else ()
    requests = [Request(index, build_prompt(task, item, inputs.examples), stop) for index, item in enumerate(items)]
    tally = Counter(sample.verdict for sample in context.recorder.done.values())

    def accuracy(sample: Sample) -> dict[str, str]:
        tally[sample.verdict] += 1
        return {"accuracy": f"{tally[Verdict.correct] / tally.total():.1%}"}

    def to_sample(completion: Completion) -> Sample:
        return judged(task, items[int(completion.id)], sample_of(completion))

    def why_not(sample: Sample) -> str | None:
        item = items[sample.index]
        if (sample.question, sample.gold) != (item.question, item.gold):
            return f"holds another question or gold answer than question {sample.index} of this job"
        return None if judged(task, item, sample) == sample else "was judged otherwise than its text is now"

    done = complete_missing("gsm8k", requests, context, to_sample, accuracy, why_not)
    metrics = score(done.samples) | done.metrics
    return Result(metrics, facts=done.facts, notes=done.notes, problems=done.problems)


def score(samples: list[Sample]) -> dict[str, float]:
    """Add up verdicts and tokens; accuracy is correct ÷ n, with its 95 % Wilson interval, errors among the n."""
    counts, n = Counter(sample.verdict for sample in samples), len(samples)
    low, high = wilson_interval(counts[Verdict.correct], n)
    return {
        "accuracy": counts[Verdict.correct] / n,
        "accuracy_low": low,
        "accuracy_high": high,
        "n": n,
        **{verdict.value: counts[verdict] for verdict in Verdict},
        "errors": sum(sample.failed for sample in samples),
        **token_counts(samples),
    }


def build_prompt(task: Gsm8kConfig, item: Item, examples: list[Item]) -> Prompt:
    """Put the question as a chat or as plain text, after the worked examples."""
    if task.prompt is PromptStyle.text:
        blocks = [f"Question: {example.question}\nAnswer: {example.answer}" for example in examples]
        return "\n\n".join([*blocks, f"Question: {item.question}\nAnswer:"])
    turns = [Message("system", task.system)] if task.system else []
    for example in examples:
        turns += [Message("user", _ask(task, example)), Message("assistant", example.answer)]
    return (*turns, Message("user", _ask(task, item)))


def _ask(task: Gsm8kConfig, item: Item) -> str:
    return f"{item.question}\n\n{task.instruction}" if task.instruction else item.question


def judged(task: Gsm8kConfig, item: Item, sample: Sample) -> Sample:
    """Return a sample with its question and its verdict."""
    found, verdict = judge(sample.text, sample.finish_reason, item.gold, task.extractor)
    return replace(sample, question=item.question, gold=item.gold, extracted=found, verdict=verdict)
