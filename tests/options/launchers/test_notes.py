"""The sentences about a grid on other machines and about a search that no other test has."""

from __future__ import annotations

import pytest

from runner.options.launchers.render.notes import NOTES
from runner_base.notes import Note, note
from runner_base.render.notes import render_note


@pytest.mark.parametrize(
    ("fact", "sentence"),
    [
        (
            note("no_node", resource="GPU", asked=2.0, most=1.0),
            "jobs wait for a Ray node with GPU=2; the largest node has 1",
        ),
        (
            note("squeue_fails", error="no route"),
            "the command squeue failed, so the grid waits for its jobs: no route",
        ),
        (
            note("trials_without_result", trials=2, folder="out"),
            "2 finished trials have no result in out, so the table omits them",
        ),
        (
            note("best_trial", trials=3, score=0.5, params={"a": 1, "b": 2}),
            "best of 3 trials: 0.5\n  a=1 b=2",
        ),
        (
            note("pictures_drawn", names=["a.png", "b.png"], folder="out"),
            "plots of the search: a.png, b.png in out",
        ),
    ],
)
def test_a_note_has_a_sentence(fact: Note, sentence: str) -> None:
    assert render_note(fact, NOTES) == sentence
