"""The pictures of recall in a comparison: curves over lengths, and heat maps of length and
depth."""

from __future__ import annotations

from collections.abc import Sequence

from runner_base import Picture
from runner_compare.features.recall.compute import RecallFindings
from runner_compare.features.recall.picture import drawn_of, pictures_of
from runner_compare.model.data import TableRow
from runner_compare.render.labels import short_names

MAX_LETTERS = 36  # of a value in a name


def recall_pictures(rows: Sequence[tuple[TableRow, RecallFindings]], keys: Sequence[str]) -> list[Picture]:
    """Return the pictures of some rows; none where one length was asked."""
    names = short_names([row for row, _ in rows], keys, MAX_LETTERS) if keys else [""] * len(rows)
    drawn = [
        drawn_of(findings, name, row.is_baseline) for (row, findings), name in zip(rows, names, strict=True)
    ]
    return pictures_of(drawn)
