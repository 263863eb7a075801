"""RULER score: the fraction of requested values in an answer, as in lm-evaluation-harness 0.4.13.

A value counts anywhere, also within a longer word or next to wrong values, and some of the
values give a part of the score. Values are found only as they were written: 4,713,920 is not
4713920, which the exact verdict does accept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from runner.render.titles import RULER_SCORES
from runner.tasks.recall.judging import PlacedCase
from runner.tasks.recall.kinds import is_ruler_kind
from runner_base import Result, Sample

SCORE = "ruler_score"
Cell = tuple[str, int]  # kind and length


def compute_found_gold_fraction(text: str, gold_values: Sequence[str]) -> float:
    """Return the fraction of gold values that occur anywhere in a text, ignoring case."""
    lower = text.lower()
    return fmean(value.lower() in lower for value in gold_values)


def add_ruler_scores(
    result: Result, samples: Sequence[Sample], placed_cases: Mapping[int, PlacedCase]
) -> None:
    cells: dict[Cell, list[tuple[float, float]]] = {}
    for cell, score, right in _scores_by_case(samples, placed_cases):
        cells.setdefault(cell, []).append((score, right))
    if not cells:
        return
    result.metrics[SCORE] = fmean(score for answers in cells.values() for score, _ in answers)
    rows = []
    for (kind, length), answers in cells.items():
        score, right = (fmean(column) for column in zip(*answers, strict=True))
        result.metrics[f"{SCORE}/{kind}_{length}"] = score
        shown = {
            "RULER's score": f"{100 * score:.1f}",
            "exact": f"{100 * right:.1f}",
            "answers": len(answers),
        }
        rows.append({"kind": kind, "tokens": length, **shown})
    result.tables[RULER_SCORES] = rows


def _scores_by_case(
    samples: Sequence[Sample], placed_cases: Mapping[int, PlacedCase]
) -> Iterator[tuple[Cell, float, float]]:
    """Yield each RULER question's kind and length, RULER score and accuracy."""
    for sample in samples:
        case = placed_cases[sample.index]
        if is_ruler_kind(case.kind) and not sample.failed:
            score = fmean(
                compute_found_gold_fraction(answer.parts.answer, case.asked.gold) for answer in sample.answers
            )
            yield (case.kind, case.length), score, sample.accuracy()
