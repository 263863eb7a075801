"""The pictures of a comparison with long names: they hold what differs, and the panes keep their
room."""

from __future__ import annotations

import warnings

import pytest
from compared import example

from runner_compare.model.data import Table
from runner_compare.render.labels import shorten_row_names
from runner_compare.render.pictures import draw_accuracies_and_differences, draw_pareto_front, wrap_row_names

pytestmark = pytest.mark.slow  # they import matplotlib
FOLDER = "/srv/checkpoints/of/a/study/with/a/long/name"
NAMES = (
    "llama-7b-instruct-step-1000/none",
    "llama-7b-instruct-step-2000/int8-weights-only",
    "llama-13b-base/nf4",
)


@pytest.fixture
def table() -> Table:
    made = example()
    for row, name in zip(made.rows, NAMES, strict=True):
        config = {
            "model.name": f"{FOLDER}/{name}",
            "task.split": "hard5",
            "generation.max_new_tokens": f"{len(name)}",
        }
        row.config = dict(config)
    made.keys = list(made.rows[0].config)
    return made


@pytest.mark.sampled(1)
@pytest.mark.parametrize("draw", [draw_accuracies_and_differences, draw_pareto_front])
def test_panes_keep_their_room(table: Table, draw: object) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns where labels leave no room
        figure = draw(table)  # type: ignore[operator]
        figure.draw_without_rendering()
    widths = [pane.get_window_extent().width / figure.dpi for pane in figure.axes]
    assert min(widths) > 2, "inches"


def test_names_hold_what_differs(table: Table) -> None:
    first, second, third = shorten_row_names(table.rows, table.keys, 36)
    assert first == "…/llama-7b-instruct-step-1000/none generation.max_new_tokens=32"
    assert second == "…instruct-step-2000/int8-weights-only generation.max_new_tokens=45"
    assert third == "…/llama-13b-base/nf4 generation.max_new_tokens=18"
    for name in wrap_row_names(table.rows, table.keys).values():
        assert max(map(len, name.split("\n"))) <= 44
