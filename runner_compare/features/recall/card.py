"""What a job that asks for something in long texts says of itself: as metrics, words, tables, a
curve and pictures.

The pictures are drawn from the job's folder: `python -m runner_compare.features.recall.card FOLDER`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner_base import Result, Sample, write_atomically
from runner_base.drawing import draw_in_process, draw_missing, save_pictures
from runner_compare.features.recall.compute import RecallFindings
from runner_compare.features.recall.render.pictures import draw_recall, drawn_of
from runner_compare.features.recall.render.tables import BY_DEPTH, lengths_title
from runner_compare.features.recall.render.words import (
    depth_sentences,
    effective_sentence,
    kind_rows,
    length_depth_rows,
    length_words,
)
from runner_compare.model.outcomes import QuestionOutcome
from runner_compare.render.margins import points_of_margin

MODULE = "runner_compare.features.recall.card"
POINTS = "recall.json"  # in the job's folder: what the pictures are drawn from
CURVE = "recall_by_length"


@dataclass(frozen=True)
class RecallCard:
    """What the answers of a job say; all empty if there is none."""

    metrics: dict[str, float] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    series: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    drawn: dict[str, Any] = field(default_factory=dict)  # what pictures are drawn from

    @classmethod
    def of(cls, samples: Sequence[Sample], margin: float, title: str) -> RecallCard:
        """Return what samples say within a margin of so many points; those that ended in an error
        are no answers."""
        outcomes = tuple(QuestionOutcome.of(sample) for sample in samples if not sample.failed)
        if not outcomes:
            return cls()
        findings = RecallFindings(outcomes, margin / 100)
        within = f"within {points_of_margin(findings.margin)}"
        metrics, facts = {}, {}
        if (found := findings.effective) is not None:
            ends = {"": found.tokens, "_low": found.at_least, "_high": found.at_most}
            metrics = {f"effective_length_tokens{end}": float(tokens) for end, tokens in ends.items()}
            facts = {"effective_length": f"{length_words(found)}, {within}"}
        tables = {BY_DEPTH: length_depth_rows(findings)}
        if by_kind := kind_rows(findings):
            tables[lengths_title(findings.margin, "by kind")] = by_kind
        return cls(
            metrics,
            facts,
            {name: [*rows] for name, rows in tables.items()},
            [effective_sentence(findings), *depth_sentences(findings)],
            {CURVE: [(length.length, length.share) for length in findings.lengths]},
            vars(drawn_of(findings, title)),
        )

    def add_to(self, result: Result) -> None:
        """Add it to what a job returns."""
        result.metrics |= self.metrics
        result.facts |= self.facts
        result.tables |= self.tables
        result.series |= self.series
        result.notes += self.notes

    def keep(self, folder: Path, draws: bool) -> None:
        """Write what pictures are drawn from into a job's folder, and draw them."""
        if self.drawn:
            write_atomically(folder / POINTS, json.dumps(self.drawn, indent=1) + "\n")
            if draws:
                draw_in_process(MODULE, folder)

    @staticmethod
    def draw_missing(folder: Path) -> None:
        """Draw the pictures of a recorded job that has none."""
        draw_missing(MODULE, folder, POINTS)


if __name__ == "__main__":
    save_pictures(Path(sys.argv[1]) / POINTS, draw_recall)
