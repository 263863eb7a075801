"""How often is the first advice dominated? `python bench/compare/advise_dominated.py [--draws 2000] [--seed 0]`.

The true speed, memory and accuracy of three number formats of one model are drawn. Records of them have noise: 10 % of
the time, 3 % of the memory, and the answers to 200 questions. Each figure is recorded or only predicted: a prediction
of the time is off by 40 % (one standard deviation), of the memory by 15 %, and int8 is predicted to be small. On some
lines, the time of nf4 is not known at all. Memory is plentiful.

Advice is dominated in what was recorded if another candidate has recorded figures of which none is worse and one is
better; it is dominated in truth if another one is truly at least as fast, small and accurate (by more than 2 %, 2 % and
1 point in one of these). The exit code is 1 if more than 0.5 % is dominated in what was recorded.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from advise_null import Draws
from simulation import Rate, Table, answers, begin

from runner.estimates.amounts import estimate_requested_completions
from runner.estimates.fit import PROCESS_MIB, MemoryFit
from runner.estimates.speed import Estimate, EstimateBasis
from runner.options.advise.accuracies import RecordedAccuracy, RecordedAnswer
from runner.options.advise.candidates import Candidate
from runner.options.advise.ranking import rank_candidates
from runner_base import MIB
from runner_engine.plan.footprint import Footprint

FORMATS = 3
QUESTIONS = 200
ROOM_MIB = 21_000.0
MOST = 0.005  # where figures are missing, three candidates may dominate each other in a circle
LINES = (  # how often a figure is recorded, and whether all times are known at least by a prediction
    ("all recorded", 1.0, True),
    ("two of three figures recorded", 2 / 3, True),
    ("two of three, no predicted times", 2 / 3, False),
    ("one of three, no predicted times", 1 / 3, False),
)


@dataclass
class Truth:
    """What is true of a candidate."""

    seconds: float
    mib: float
    accuracy: float

    def dominates(self, other: Truth) -> bool:
        """Whether it is as good in everything, and clearly better in something."""
        if self.seconds > other.seconds or self.mib > other.mib or self.accuracy < other.accuracy:
            return False
        is_better = self.seconds < 0.98 * other.seconds or self.mib < 0.98 * other.mib
        return is_better or self.accuracy > other.accuracy + 0.01


def draw(generator: np.random.Generator, draws: Draws, recorded: float, predicted_times: bool) -> tuple[
    list[Candidate], list[Truth]
]:  # fmt: skip
    """Return candidates with what is known of them, and what is true."""
    truths = [
        Truth(
            float(generator.uniform(1, 8)),
            float(generator.uniform(700, 3000)),
            float(generator.uniform(0.4, 0.6)),
        )
        for _ in range(FORMATS)
    ]
    solved = answers(generator, QUESTIONS, [it.accuracy for it in truths], 0.5)
    found = []
    for place, true in enumerate(truths):
        config = draws.config(place, draws.folder)
        it = Candidate([], config, "mine", True, allowed_mib=ROOM_MIB)
        count = sum(amount.completions for amount in estimate_requested_completions(config))
        if generator.random() < recorded:
            it.time = Estimate(true.seconds * count * generator.normal(1, 0.1), 0.2, EstimateBasis.recorded)
            it.measured_mib = float(true.mib * generator.normal(1, 0.03))
        elif predicted_times:
            it.time = Estimate(
                true.seconds * count * np.exp(generator.normal(0, 0.4)), 0.6, EstimateBasis.guessed
            )
        mib = true.mib * np.exp(generator.normal(0, 0.15)) * (0.8 if place == 1 else 1.0)
        it.fit = MemoryFit(
            Footprint({"linear": int((mib - PROCESS_MIB) * MIB)}, 0, 0, 0, 0), 1, 0, {"main memory": ROOM_MIB}
        )
        if generator.random() < recorded:
            given = {(n, "?", "1"): RecordedAnswer(bool(right), "") for n, right in enumerate(solved[place])}
            it.accuracy = RecordedAccuracy("job", int(sum(solved[place])), QUESTIONS, QUESTIONS, given)
        found.append(it)
    return found, truths


def dominated_in_records(first: Candidate, others: Sequence[Candidate]) -> bool:
    """Whether another candidate has recorded figures of which none is worse, and answers not known
    to be worse."""
    for other in others:
        pairs = [
            (other.recorded_s_per_question, first.recorded_s_per_question),
            (other.measured_mib, first.measured_mib),
        ]
        known = [(ours, its) for ours, its in pairs if ours is not None and its is not None]
        if other is first or not known or any(ours > its for ours, its in known):
            continue
        if first.accuracy is not None and other.accuracy is not None:
            if other.accuracy.correct >= first.accuracy.correct:
                return True
        elif other.quantization != "nf4":  # of whose loss publications speak
            return True
    return False


def main() -> int:
    """Simulate and print; 1 if the first advice is dominated in what was recorded more often than
    by a circle."""
    count, generator, _ = begin("advise_dominated", __doc__, 2000, "draws")
    table = Table(
        "how often the first advice is dominated", f"{'what is known':32}", "as recorded %", "truly %"
    )
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        draws = Draws(generator, Path(folder))
        for words, recorded, predicted_times in LINES:
            in_records = in_truth = 0
            for _ in range(count):
                candidates, truths = draw(generator, draws, recorded, predicted_times)
                true = {id(it): truth for it, truth in zip(candidates, truths, strict=True)}
                first = rank_candidates(candidates)[0]
                in_records += dominated_in_records(first, candidates)
                in_truth += any(true[id(it)].dominates(true[id(first)]) for it in candidates)
            failed += in_records > MOST * count
            table.row(words, Rate(in_records, count), Rate(in_truth, count))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
