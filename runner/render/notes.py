"""The sentences of the notes and reasons of jobs and grids, by code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from runner.render.answer_notes import ANSWERS, LIKELIHOODS, QUESTIONS
from runner.render.grid_notes import ESTIMATES, GRIDS
from runner.render.measurement_notes import SPEED
from runner_base.notes import Note
from runner_base.render.notes import Template, render_note, render_value

NOTES: dict[str, Template] = ANSWERS | QUESTIONS | LIKELIHOODS | SPEED | ESTIMATES | GRIDS


def note_text(note: Note | str) -> str:
    """Return a note as text. One that a file has kept, or that another package has written, is text already."""
    return note if isinstance(note, str) else render_note(note, NOTES)


def render_notes(notes: Iterable[Note | str]) -> list[str]:
    return [note_text(note) for note in notes]


def render_cells(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of a table, those of its cells that are notes as text."""
    return [{key: render_value(value, NOTES) for key, value in row.items()} for row in rows]
