"""Maps the code of each note about jobs and grids to its text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from runner.render.answer_notes import ANSWERS, LIKELIHOODS, QUESTIONS
from runner.render.grid_notes import ESTIMATES, GRIDS
from runner.render.measurement_notes import SPEED
from runner_base.notes import Note
from runner_base.render.notes import Template, render_note, render_value_if_note

NOTES: dict[str, Template] = ANSWERS | QUESTIONS | LIKELIHOODS | SPEED | ESTIMATES | GRIDS


def format_note(note: Note | str) -> str:
    """Return a note as text. A note that was read from a file is a string already and stays unchanged."""
    return note if isinstance(note, str) else render_note(note, NOTES)


def render_notes(notes: Iterable[Note | str]) -> list[str]:
    return [format_note(note) for note in notes]


def render_note_cells(table_rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{key: render_value_if_note(value, NOTES) for key, value in row.items()} for row in table_rows]
