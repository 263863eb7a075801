"""The sentences of the comparison's notes, where no test of a whole comparison reads them."""

from __future__ import annotations

import pytest

from runner_base.notes import Note, note
from runner_compare.render.notes import render_notes


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (note("all_solved"), "both runs solve every question, so use harder questions"),
        (note("mostly_cut_off"), "most answers are cut off"),
        (
            note("no_evidence", why=note("none_solved"), fix=note("ask_easier")),
            "neither run solves any question; use easier questions",
        ),
        (
            note("few_read", unread=[(300, 300), (300, 300)], is_none=True),
            "in both runs, no final answer could be extracted (missing for 300 of 300 and 300 of 300 questions)",
        ),
        (
            note("few_read", unread=[(200, 300), (160, 300)], is_none=False),
            "in both runs, few final answers could be extracted (missing for 200 of 300 and 160 of 300 questions)",
        ),
        (note("plan_watched"), "the run used early stopping"),
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
