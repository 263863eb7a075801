"""The sentences of the comparison's notes, where no test of a whole comparison reads them."""

from __future__ import annotations

import pytest

from runner_base.notes import Note, note
from runner_compare.render.notes import render_notes


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (note("all_solved"), "both solve every question: ask harder ones"),
        (note("mostly_cut_off"), "most answers are cut off"),
        (
            note("no_evidence", why=note("none_solved"), fix=note("ask_easier")),
            "neither solves any question; ask easier ones",
        ),
        (
            note("few_read", unread=[(300, 300), (300, 300)], is_none=True),
            "no answer could be read on either side (300 of 300 and 300 of 300 are missing)",
        ),
        (
            note("few_read", unread=[(200, 300), (160, 300)], is_none=False),
            "few answers could be read on either side (200 of 300 and 160 of 300 are missing)",
        ),
        (note("plan_watched"), "it was compared while it ran"),
        (note("plan_unpaired"), "the comparison is unpaired"),
    ],
)
def test_a_note_of_a_comparison_says(given: Note, text: str) -> None:
    assert render_notes(given) == text


def test_several_notes_are_one_text() -> None:
    assert (
        render_notes(note("mostly_cut_off"), None, note("read_some"))
        == "most answers are cut off; read some of the answers"
    )
    assert render_notes(None) == ""
