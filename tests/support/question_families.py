"""Jobs in a store whose questions belong to families, or have several answers each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stores import Store

from runner.records.jobs import read_samples
from runner_base.result import Answer, FinishReason, Sample, Verdict
from runner_compare.statistics.accuracy_intervals import compute_accuracy_metrics

FAMILIES = {"task.cluster": "template"}
NUMBER_OF_ANSWERS = 8
NUMBERS = {Verdict.correct: "42", Verdict.wrong: "1"}


def rewrite(folder: Path, change: Any) -> None:
    """Change each sample of a job that a store has logged."""
    file = folder / "samples.jsonl"
    samples: list[Sample] = [change(sample) for _, sample in sorted(read_samples(file).items())]
    file.write_text("".join(sample.to_json() + "\n" for sample in samples))


def in_families(
    store: Store,
    experiment: str,
    name: str,
    config: dict[str, str],
    solved: list[bool],
    size: int,
    **more: Any,
) -> None:
    """Log a job whose questions belong to families of so many."""
    folder = store.job(experiment, name, {**config, **FAMILIES}, solved, **more)

    def change(sample: Sample) -> Sample:
        sample.cluster = f"template {sample.index // size}"
        return sample

    rewrite(folder, change)


def with_samples(
    store: Store,
    experiment: str,
    name: str,
    config: dict[str, str],
    right: list[int],
    metrics: dict[str, float] | None = None,
) -> None:
    """Log a job with eight answers to each question, so many of them right."""
    counts = {"task.samples": str(NUMBER_OF_ANSWERS)}
    elected = [it > NUMBER_OF_ANSWERS // 2 for it in right]
    figures = compute_accuracy_metrics(
        [it / NUMBER_OF_ANSWERS for it in right], [None] * len(right), [8] * len(right)
    )
    passed, voted = sum(map(bool, right)) / len(right), sum(elected) / len(right)
    figures |= {
        "answers_each": 8.0,
        "pass_at_k/1": figures["accuracy"],
        "pass_at_k/8": passed,
        "maj_at_k/8": voted,
    }
    folder = store.job(experiment, name, {**config, **counts}, elected, metrics=figures | (metrics or {}))

    def change(sample: Sample) -> Sample:
        # every wrong answer is the same number, so that a vote is a strict majority
        verdicts = [Verdict.correct] * right[sample.index]
        verdicts += [Verdict.wrong] * (NUMBER_OF_ANSWERS - len(verdicts))
        sample.choices = [
            Answer("", [1], FinishReason.stop, extracted={"strict": NUMBERS[it]}, verdict=it)
            for it in verdicts
        ]
        return sample

    rewrite(folder, change)
