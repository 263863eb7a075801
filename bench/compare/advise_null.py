"""Does runner-advise prefer a worse candidate? `python bench/compare/advise_null.py [--draws 400] [--seed 0]`.

Sets of records are drawn, written to disk and read by the product's own code. Four candidates (three number formats of
a named model, and a smaller model) have known true accuracies, and times that are drawn. Half of the candidates have a
record of 600 other questions (a decoy: another split, and its own accuracy). Three in four have one of the 200
questions asked; one in four of these is of 100 or of 400 questions, and one in five has lost its answers. On the lines
with "all recorded" each candidate has one with its answers. Answers to the same questions are drawn as in
simulation.answers.

A claim is "before, and more accurate": the sentence between a candidate and the next one. It is wrong if the candidate
is truly no more accurate. The control is the rule of before (kept here, as it was): an accuracy quoted above that of a
later candidate. The last column says how often the new order puts whatever is worse by 20 points after all the others,
so that a rule without claims would not pass.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from simulation import Limits, Rate, Table, answers, begin

from runner.config.root import NoTrackingConfig, RunnerConfig
from runner.datasets.questions import describe_dataset, hash_questions, load_questions
from runner.estimates.recorded import FinishedJobs
from runner.estimates.speed import Estimate, EstimateBasis
from runner.options.advise.accuracies import find_recorded_accuracies
from runner.options.advise.candidates import Candidate
from runner.options.advise.ranking import rank_candidates
from runner.records.flat_config import flatten_config
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner.tasks.gsm8k.task import VERSION
from runner_base import Answer, FinishReason, Record, Result, Sample, Status, Verdict
from runner_base.notes import Note
from runner_compare.metrics import correct_and_total
from runner_engine.quantization import CHOICES
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.lora import LoraConfig
from runner_engine.settings.model import LocalModelConfig
from runner_engine.settings.rope import RopeConfig

ASKED, MOST = 200, 400  # questions of the command, and of the largest record
FAR = 0.19  # a difference of 20 points, with the rounding of floats
MODELS = (("mine", "none"), ("mine", "int8"), ("mine", "nf4"), ("smaller", "none"))
LINES = (  # what is true of the four candidates, rho (see simulation.answers), and whether all are recorded
    ("all equal", (0.5, 0.5, 0.5, 0.5), 0.5, False),
    ("all equal, all recorded", (0.5, 0.5, 0.5, 0.5), 0.5, True),
    ("all equal, answers alike, all recorded", (0.6, 0.6, 0.6, 0.6), 0.9, True),
    ("each 2 points better than the one before", (0.5, 0.52, 0.54, 0.56), 0.5, False),
    ("each 2 points worse than the one before", (0.56, 0.54, 0.52, 0.5), 0.5, False),
    ("nf4 20 points worse, all recorded", (0.6, 0.6, 0.4, 0.6), 0.5, True),
    ("smaller model 20 points better, all rec.", (0.4, 0.4, 0.4, 0.6), 0.5, True),
)


@dataclass
class Outcome:
    """What one set of records led to."""

    is_wrong: bool  # a claim is wrong
    is_wrong_first: bool  # the first candidate is claimed to be more accurate, and is not
    is_wrong_before: bool  # a claim of the old order is wrong
    far_are_last: bool  # whatever is worse by 20 points comes after all others


class Draws:
    """Draws sets of records in a folder, and asks for an order."""

    def __init__(self, generator: np.random.Generator, folder: Path) -> None:
        self.generator, self.folder, self.count = generator, folder, 0
        self.items = load_questions(Gsm8kConfig(limit=MOST))
        self.lines = {
            (number, right): self.line(number, right) for number in range(MOST) for right in (False, True)
        }
        self.digests = {n: hash_questions(self.items[:n]) for n in (100, ASKED, MOST)}

    def line(self, number: int, right: bool) -> str:
        item, verdict = self.items[number], Verdict.correct if right else Verdict.wrong
        answer = Answer("", [], FinishReason.stop, verdict=verdict)
        sample = Sample(answer, "", 9, 0.1, number, item.question, item.gold)
        return sample.to_json()

    def config(self, place: int, output_dir: Path) -> RunnerConfig:
        """Return the config of a candidate."""
        model, quantization = MODELS[place]
        return RunnerConfig(
            LocalModelConfig(model), CHOICES[quantization](), LoraConfig(), RopeConfig(), GenerationConfig(),
            task=Gsm8kConfig(limit=ASKED), tracking=NoTrackingConfig(), output_dir=str(output_dir),
        )  # fmt: skip

    def write(
        self, config: RunnerConfig, name: str, solved: Sequence[bool], digest: str, has_answers: bool
    ) -> None:
        """Write a finished job."""
        folder = Path(config.output_dir, "jobs", name)
        folder.mkdir(parents=True)
        task = config.task
        assert isinstance(task, Gsm8kConfig)
        metrics = {"correct": float(sum(solved)), "n": float(len(solved))}
        source = describe_dataset(task.data, task.split, digest)
        record = Record(name, Status.FINISHED, str(folder), Result(metrics), task.name, VERSION,
                        params=dict(flatten_config(config)), data=source)  # fmt: skip
        (folder / "result.json").write_text(record.to_json())
        if has_answers:
            lines = [self.lines[number, bool(right)] for number, right in enumerate(solved)]
            (folder / "samples.jsonl").write_text("\n".join(lines) + "\n")

    def outcome(self, truth: Sequence[float], rho: float, all_recorded: bool) -> Outcome:
        """Draw one set of records, and return what the two orders say about it."""
        self.count += 1
        generator, output_dir = self.generator, self.folder / str(self.count)
        solved = answers(generator, MOST, truth, rho)
        candidates = []
        for place, (model, _) in enumerate(MODELS):
            config = self.config(place, output_dir)
            if generator.random() < 0.5:
                decoy = replace(config, task=Gsm8kConfig(limit=600, split="hard5"))
                right = (generator.random(600) < generator.uniform(0.1, 0.9)).tolist()
                self.write(decoy, f"decoy{place}", right, "other", False)
            if all_recorded or generator.random() < 0.75:
                n = (
                    int(generator.choice([100, MOST]))
                    if not all_recorded and generator.random() < 0.25
                    else ASKED
                )
                part = replace(config, task=Gsm8kConfig(limit=n))
                has_answers = all_recorded or generator.random() < 0.8
                self.write(part, f"job{place}", solved[place][:n].tolist(), self.digests[n], has_answers)
            it = Candidate([], config, model, model == "mine")
            it.time = Estimate(float(generator.uniform(100, 1000)), 0.2, EstimateBasis.recorded)
            candidates.append(it)
        finished = FinishedJobs(output_dir)
        for it, accuracy in zip(candidates, find_recorded_accuracies([it.config for it in candidates], finished),
                                strict=True):  # fmt: skip
            it.accuracy = accuracy
        true = {id(it): value for it, value in zip(candidates, truth, strict=True)}
        order = rank_candidates(candidates)
        claims = [
            it.before_next is not None
            and isinstance(reason := it.before_next.values["reason"], Note)
            and reason.code == "more_accurate"
            for it in order
        ]
        wrong = [
            claims[at] and true[id(one)] <= true[id(after)] for at, (one, after) in enumerate(pairwise(order))
        ]
        values = [true[id(it)] for it in order]
        far = [at for at, value in enumerate(values) if max(values) - value >= FAR]
        near = [at for at, value in enumerate(values) if max(values) - value < FAR]
        return Outcome(
            any(wrong), wrong[0], claim_before(candidates, finished, truth), not far or max(near) < min(far)
        )


def claim_before(candidates: Sequence[Candidate], finished: FinishedJobs, truth: Sequence[float]) -> bool:
    """Whether the rule before held a wrong claim: in the order of trial, the record with the most
    scored questions."""
    quoted = []
    for it in candidates:
        scored = [
            counts
            for record in finished.same_base_records(it.config)
            if (counts := correct_and_total(record.result.metrics))
        ]
        correct, n = max(scored, key=lambda counts: counts[1], default=(0, 0))
        quoted.append(correct / n if n else None)
    pairs = [(one, other) for other in range(len(quoted)) for one in range(other)]
    return any(
        first is not None and second is not None and first > second and truth[one] <= truth[other]
        for one, other in pairs
        for first, second in [(quoted[one], quoted[other])]
    )


def rates(draws: Draws, count: int, truth: Sequence[float], rho: float, all_recorded: bool) -> list[Rate]:
    """Return how often a set held a wrong claim: of the old order, of the new one, about its first;
    and the order."""
    outcomes = [draws.outcome(truth, rho, all_recorded) for _ in range(count)]
    columns = [(it.is_wrong_before, it.is_wrong, it.is_wrong_first, it.far_are_last) for it in outcomes]
    return [Rate(sum(column), count) for column in zip(*columns, strict=True)]


def main() -> int:
    """Simulate and print; 1 if a limit is exceeded."""
    (count, generator, started), limits = begin("advise_null", __doc__, 400, "draws"), Limits()
    heads = (
        f"{'what is true':40}",
        "before %",
        "now %",
        "now, about the first %",
        "the far worse are last %",
    )
    table = Table("sets of records with a wrong claim", *heads)
    with tempfile.TemporaryDirectory() as folder:
        draws = Draws(generator, Path(folder))
        for words, truth, rho, all_recorded in LINES:
            before, now, first, last = rates(draws, count, truth, rho, all_recorded)
            table.row(words, before, now, first, last if max(truth) - min(truth) >= FAR else "")
            limits.false.append(now)
    return limits.conclude(started)


if __name__ == "__main__":
    sys.exit(main())
