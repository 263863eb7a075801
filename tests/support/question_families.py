"""Jobs in a store whose questions belong to families, or have several answers each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stores import Store

from runner.core.result import Answer, FinishReason, Sample, Verdict
from runner.store.jobs import read_samples

FAMILIES = {"task.cluster": "template"}
NUMBER_OF_ANSWERS = 8


def rewrite(folder: Path, change: Any) -> None:
    """Change each sample of a job that a store has logged."""
    file = folder / "samples.jsonl"
    samples: list[Sample] = [change(sample) for _, sample in sorted(read_samples(file).items())]
    file.write_text("".join(sample.to_json() + "\n" for sample in samples))


def in_families(
    store: Store, experiment: str, name: str, config: dict[str, str], solved: list[bool], size: int, **more: Any
) -> None:
    """Log a job whose questions belong to families of so many."""
    folder = store.job(experiment, name, {**config, **FAMILIES}, solved, **more)

    def change(sample: Sample) -> Sample:
        sample.cluster = f"template {sample.index // size}"
        return sample

    rewrite(folder, change)


def with_samples(store: Store, experiment: str, name: str, config: dict[str, str], right: list[int]) -> None:
    """Log a job with eight answers to each question, so many of them right."""
    counts = {"task.samples": str(NUMBER_OF_ANSWERS)}
    folder = store.job(experiment, name, {**config, **counts}, [it > NUMBER_OF_ANSWERS // 2 for it in right])

    def change(sample: Sample) -> Sample:
        verdicts = [Verdict.correct] * right[sample.index]
        verdicts += [Verdict.wrong] * (NUMBER_OF_ANSWERS - len(verdicts))
        sample.choices = [Answer("", [1], FinishReason.stop, extracted={"strict": "1"}, verdict=it) for it in verdicts]
        return sample

    rewrite(folder, change)
