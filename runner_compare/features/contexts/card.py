"""What a job records of its texts: figures; tables, curves and a sentence by context and by
position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runner_base import Likelihood
from runner_compare.features.contexts.render import context_sentence
from runner_compare.statistics.contexts import CONTEXTS_TITLE, context_figures, context_series, context_table
from runner_compare.statistics.likelihoods import figures
from runner_compare.statistics.positions import (
    POSITIONS_TITLE,
    position_figures,
    position_series,
    position_table,
)

FACT = "context"  # the line of a job's table that says up to how much context helps


@dataclass
class OfTexts:
    """What a job records, as a result has it."""

    metrics: dict[str, float] = field(default_factory=dict)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    series: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)


def of_texts(parts: Sequence[Likelihood], family_by_unit: Mapping[int, str | None]) -> OfTexts:
    """Return what is recorded of texts, or choices, that belong to these families; nothing of
    none."""
    if not parts:
        return OfTexts()
    by_context, by_position = (
        context_figures(parts, family_by_unit),
        position_figures(parts, family_by_unit),
    )
    tables = {CONTEXTS_TITLE: context_table(by_context), POSITIONS_TITLE: position_table(by_position)}
    sentence = context_sentence(by_context)
    return OfTexts(
        figures(parts, family_by_unit) | by_context | by_position,
        {title: rows for title, rows in tables.items() if rows},
        context_series(by_context) | position_series(by_position),
        {FACT: sentence} if sentence else {},
    )
