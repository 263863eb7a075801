"""RULER's own score: the share of the asked values that stand in an answer, as
lm-evaluation-harness 0.4.13 counts it.

A value counts wherever it stands, also within a longer word or beside wrong values, and some values
are a part of the score. It finds them as they were written: 4,713,920 is not 4713920, which the
exact verdict does read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from runner.render.titles import RULER_SCORES
from runner.tasks.recall.judging import Placed
from runner.tasks.recall.kinds import is_of_ruler
from runner_base import Result, Sample

SCORE = "ruler_score"
Cell = tuple[str, int]  # kind and length


def share_in(text: str, gold: Sequence[str]) -> float:
    """Return the share of values that stand in a text, whatever their case and whatever is around
    them."""
    lower = text.lower()
    return fmean(value.lower() in lower for value in gold)


def add_ruler_scores(result: Result, samples: Sequence[Sample], placed: Mapping[int, Placed]) -> None:
    """Add the score of RULER's kinds to a result: of all, of each kind and length, and as a
    table."""
    cells: dict[Cell, list[tuple[float, float]]] = {}
    for cell, score, right in _scored(samples, placed):
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


def _scored(samples: Sequence[Sample], placed: Mapping[int, Placed]) -> Iterator[tuple[Cell, float, float]]:
    """Yield kind and length of each question of RULER's with the score of its answers and the share
    of right ones."""
    for sample in samples:
        case = placed[sample.index]
        if is_of_ruler(case.kind) and not sample.failed:
            score = fmean(share_in(answer.parts.answer, case.asked.gold) for answer in sample.answers)
            yield (case.kind, case.length), score, sample.right_share()
