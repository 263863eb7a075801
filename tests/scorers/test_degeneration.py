"""Metrics of degenerate answers: counts, the share with its interval, and the table by length."""

from __future__ import annotations

from dataclasses import replace

import pytest

from runner.render.job_lines import LINES
from runner.scorers.degeneration import (
    MeasuredAnswer,
    build_degeneration_rows,
    compute_degeneration_metrics,
    measure_answers,
)
from runner_base.degeneration import measure_degeneration
from runner_base.result import Answer, FinishReason, Likelihood, Sample
from runner_compare.statistics import accuracy_interval

LOOP = "and so on, as before, " * 20
TEXTS = [LOOP, "The answer is 12.", "", "The answer is двенадцать яблок.", "A \ufffd.", "It is 7."]


def answer(text: str, num_tokens: int = 5) -> Answer:
    return Answer(text, [1] * num_tokens, FinishReason.stop)


def samples(texts: list[str], num_tokens: int = 5) -> list[Sample]:
    return [Sample(answer(text, num_tokens), "sha", 3, 0.1, index) for index, text in enumerate(texts)]


def test_each_sign_is_counted() -> None:
    metrics = compute_degeneration_metrics(measure_answers(samples(TEXTS)))
    names = ("degenerate", "loops", "script_changes", "broken_characters", "empty_answers")
    assert [metrics[name] for name in names] == [4, 1, 1, 1, 1]
    low, high = accuracy_interval([1, 0, 1, 1, 1, 0], [None] * 6)
    ends = ("degenerate_share", "degenerate_share_low", "degenerate_share_high")
    assert [metrics[name] for name in ends] == pytest.approx([4 / 6, low, high])
    assert 0 < metrics["repeated_ngram_share"] < 1 / 6
    labels = {line.label for line in LINES if line.has_values(metrics)}
    assert "degenerate" in labels
    healthy = compute_degeneration_metrics(measure_answers(samples(["It is 7."] * 3)))
    assert healthy["degenerate_share"] == 0 < healthy["degenerate_share_high"] < 1
    assert "degenerate" not in {line.label for line in LINES if line.has_values(healthy)}


def test_several_answers_to_a_question_are_one_question_of_the_interval() -> None:
    several = [
        replace(sample, choices=[answer(LOOP), answer("It is 7.")]) for sample in samples(["It is 7."] * 8)
    ]
    metrics = compute_degeneration_metrics(measure_answers(several))
    assert (metrics["degenerate"], metrics["degenerate_share"]) == (8, 0.5)
    ends = accuracy_interval([0.5] * 8, [None] * 8, [2] * 8)
    assert (metrics["degenerate_share_low"], metrics["degenerate_share_high"]) == ends


def test_errors_and_scored_texts_are_no_answers() -> None:
    error = Sample(Answer("", [], FinishReason.error), "sha", 3, 0.1, 0)
    scored = replace(samples([LOOP])[0], likelihood=Likelihood(0, -1.0, 3, 60, 60, 1))
    assert measure_answers([error, scored]) == []
    assert compute_degeneration_metrics([]) == {}


def test_the_table_by_length_has_a_row_for_each_range_with_answers() -> None:
    lengths = {5: "It is 7.", 64: LOOP, 65: "It is 7.", 300: LOOP, 9000: LOOP}
    measured = [
        MeasuredAnswer(index, None, num_tokens, measure_degeneration(text), is_stuck=False)
        for index, (num_tokens, text) in enumerate(lengths.items())
    ]
    rows = build_degeneration_rows(measured)
    assert [(row["answers"], row["loops"], row["degenerate_percent"]) for row in rows] == [
        (2, 1, 50.0),
        (1, 0, 0.0),
        (1, 1, 100.0),
        (1, 1, 100.0),
    ]
    assert build_degeneration_rows(measured[:1]) == []
