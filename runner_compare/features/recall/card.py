"""Summary of a task=recall job: metrics, facts, tables and plots.

The pictures are drawn from the job's folder: `python -m runner_compare.features.recall.card
FOLDER`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner_base import Result, Sample, write_text_atomically
from runner_base.drawing import draw_missing_plots, draw_plots_in_child_process, save_plots
from runner_compare.features.recall.compute import RecallFindings
from runner_compare.features.recall.render.pictures import build_recall_plot_data, create_job_recall_pictures
from runner_compare.features.recall.render.recall_text import (
    build_effective_length_rows,
    build_recall_by_depth_table,
    describe_effective_context_length,
    format_depth_recall_loss_sentences,
    format_effective_context_length_sentence,
)
from runner_compare.features.recall.render.tables import BY_DEPTH, format_effective_length_title
from runner_compare.model.outcomes import QuestionOutcome
from runner_compare.render.margins import format_margin_points

MODULE = "runner_compare.features.recall.card"
POINTS = "recall.json"  # in the job's folder: what the pictures are drawn from
CURVE = "recall_by_length"


@dataclass(frozen=True)
class RecallCard:
    """Recall results for a job's report. All fields are empty if the job has no answers."""

    metrics: dict[str, float] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    series: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    drawn: dict[str, Any] = field(default_factory=dict)  # what pictures are drawn from

    @classmethod
    def from_samples(cls, samples: Sequence[Sample], margin_points: float, title: str) -> RecallCard:
        """Compute recall results from a job's samples. The margin is in percentage points.

        Samples that ended in an error do not count as answers.
        """
        outcomes = tuple(QuestionOutcome.from_sample(sample) for sample in samples if not sample.failed)
        if not outcomes:
            return cls()
        findings = RecallFindings(outcomes, margin_points / 100)
        within = f"within {format_margin_points(findings.margin)}"
        metrics, facts = {}, {}
        if (found := findings.effective_length) is not None:
            ends = {"": found.tokens, "_low": found.at_least, "_high": found.at_most}
            metrics = {f"effective_length_tokens{end}": float(tokens) for end, tokens in ends.items()}
            facts = {"effective_length": f"{describe_effective_context_length(found)}, {within}"}
        tables = {BY_DEPTH: build_recall_by_depth_table(findings)}
        if by_kind := build_effective_length_rows(findings):
            tables[format_effective_length_title(findings.margin, by_kind=True)] = by_kind
        return cls(
            metrics,
            facts,
            {name: [*rows] for name, rows in tables.items()},
            [
                format_effective_context_length_sentence(findings),
                *format_depth_recall_loss_sentences(findings),
            ],
            {CURVE: [(length.length, length.share) for length in findings.length_recalls]},
            vars(build_recall_plot_data(findings, title)),
        )

    def add_to_result(self, result: Result) -> None:
        result.metrics |= self.metrics
        result.facts |= self.facts
        result.tables |= self.tables
        result.series |= self.series
        result.notes += self.notes

    def save(self, folder: Path, draw_pictures: bool) -> None:
        if self.drawn:
            write_text_atomically(folder / POINTS, json.dumps(self.drawn, indent=1) + "\n")
            if draw_pictures:
                draw_plots_in_child_process(MODULE, folder)

    @staticmethod
    def draw_missing(folder: Path) -> None:
        """Draw the plots of a finished job if its folder does not contain them."""
        draw_missing_plots(MODULE, folder, POINTS)


if __name__ == "__main__":
    save_plots(Path(sys.argv[1]) / POINTS, create_job_recall_pictures)
