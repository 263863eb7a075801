"""The score of a job: its accuracy has an interval over families, if its questions come in
families."""

from __future__ import annotations

from runner.render.job_lines import LINES
from runner.scorers.totals import score_samples
from runner_base.result import Answer, FinishReason, Sample, Verdict
from runner_compare.statistics.accuracy_intervals import clustered_accuracy_interval
from runner_compare.statistics.stats import compute_wilson_interval


def samples(families: list[str | None]) -> list[Sample]:
    verdicts = [Verdict.correct if index % 3 else Verdict.wrong for index in range(len(families))]
    return [
        Sample(Answer("text", [1], FinishReason.stop, verdict=verdict), "sha", 3, 0.1, index, cluster=family)
        for index, (family, verdict) in enumerate(zip(families, verdicts, strict=True))
    ]


def test_questions_without_families_have_wilsons_interval() -> None:
    metrics = score_samples(samples([None] * 30))
    assert (metrics["accuracy_low"], metrics["accuracy_high"]) == compute_wilson_interval(20, 30)
    assert "families" not in metrics


def test_questions_in_families_have_the_interval_over_families() -> None:
    families = [f"template {index // 5}" for index in range(30)]
    metrics = score_samples(samples([*families]))
    expected = clustered_accuracy_interval([bool(index % 3) for index in range(30)], families)
    assert (metrics["accuracy_low"], metrics["accuracy_high"]) == expected
    assert metrics["families"] == 6
    shown = {line.label: line.format_line(metrics) for line in LINES if line.has_values(metrics)}
    assert shown["accuracy"].endswith("30 questions in 6 clusters (task.cluster)")
