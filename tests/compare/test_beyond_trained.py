"""Rows that may read beyond their positions are called so in a comparison; others are not."""

from __future__ import annotations

from runner_compare.features.beyond_trained.section import SECTION
from runner_compare.model.data import Run, Table, TableRow


def row(rope: str, made_for: float | None, **more_metrics: float) -> TableRow:
    metrics = {} if made_for is None else {"made_for_positions": made_for} | more_metrics
    run = Run("r", f"job_{rope}", "recall", "1", "", {"rope.name": rope}, metrics)
    return TableRow(run, {"rope.name": rope})


def test_a_row_is_named_as_what_it_is() -> None:
    rows = [row("native", 8192), row("rope_2d", 8192), row("yarn", 16384), row("linear", None)]
    assert SECTION.sentences(Table("recall", ["rope.name"], rows)) == [
        "native: texts may exceed the context length of 8,192 tokens (trained, rope=native)",
        "rope_2d: texts may exceed the context length of 8,192 tokens (trained, rope=rope_2d)",
        "yarn: texts may exceed the context length of 16,384 tokens (scaled, rope=yarn)",
    ]
    assert SECTION.sentences(Table("recall", ["rope.name"], [row("linear", None)])) == []


def test_only_runs_with_longer_texts_are_named() -> None:
    short = row("native", 8192, longest_text_tokens=8192)
    long = row("yarn", 8192, longest_text_tokens=8193)
    assert SECTION.sentences(Table("recall", ["rope.name"], [short, long])) == [
        "yarn: texts exceed the context length of 8,192 tokens (scaled, rope=yarn)"
    ]
