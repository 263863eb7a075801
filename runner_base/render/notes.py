"""Renders notes as text. Each package has a table that maps note codes to message templates."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from runner_base.notes import GIVEN, Note

Template = str | Callable[..., str]  # text with {names} of a note's values, or a function of them


def render_note(note: Note, templates: Mapping[str, Template]) -> str:
    template = "{text}" if note.code == GIVEN else templates[note.code]
    values = {name: render_value_if_note(value, templates) for name, value in note.values.items()}
    return template.format(**values) if isinstance(template, str) else template(**values)


def render_value_if_note(value: object, templates: Mapping[str, Template]) -> object:
    """Render a note or a tuple of notes as text. Other values are returned unchanged."""
    if isinstance(value, Note):
        return render_note(value, templates)
    if isinstance(value, tuple) and value and all(isinstance(part, Note) for part in value):
        return "; ".join(render_note(part, templates) for part in value)
    return value
