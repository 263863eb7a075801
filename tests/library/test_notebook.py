"""The notebook that ships runs from its first cell to its last, and shows pictures and tables."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from raising import raises

import runner as package
from runner.library.notebook_view import GridRows, NotebookRecord, draw_shared_metric_svg
from runner_base.errors import Code, ConfigError
from runner_base.result import Record, Result, Status

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own


class Elements(HTMLParser):
    """Counts the elements, and fails where one is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)
        if tag not in ("img", "br", "rect"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("img", "br", "rect"):
            assert self.open.pop() == tag


def shown_by(cell: str, names: dict[str, Any]) -> Any:
    """Run a cell as a notebook does, and return the value of its last expression."""
    *before, last = ast.parse(cell).body
    assert isinstance(last, ast.Expr), "each cell of the page shows something"
    exec(compile(ast.Module(before, []), "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*noload.*:DeprecationWarning")
def test_every_cell_of_the_notebook_runs_and_shows_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_database: Callable[[Path], None], warm_children: None
) -> None:
    monkeypatch.chdir(tmp_path)
    new_database(tmp_path / "outputs" / "mlflow.db")
    notebook = json.loads(NOTEBOOK.read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    names: dict[str, Any] = {}
    values = [shown_by(cell, names) for cell in cells]
    for value, image in zip(values, ("svg", "svg", "img", "table"), strict=True):
        found = Elements(value._repr_html_()).found
        assert image in found
        assert "table" in found
        assert "\n" not in repr(value) or hasattr(value, "iloc"), "a data frame has lines of its own"
    record, rows, comparison, frame = values
    assert f"{record.result.metrics['accuracy']:.1%}" in record._repr_html_()
    assert repr(rows) == "<grid of 3 jobs over quantization, 3 finished>"
    assert rows.to_df()["accuracy"].tolist() == [row["accuracy"] for row in rows]
    assert comparison.conclusions
    assert comparison.conclusions[0] in comparison.to_text("markdown")
    assert sorted(frame["job_id"]) == sorted(row["job_id"] for row in rows)
    assert [*frame[frame["quantization.name"] == "none"]["difference"].isna()] == [True]


def test_the_notebook_ships_without_outputs() -> None:
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert [cell["outputs"] for cell in cells] == [[]] * len(cells)


def test_what_models_and_users_wrote_is_text_on_the_page() -> None:
    record = NotebookRecord.from_record(
        Record("gsm8k-1", Status.FAILED, "/o/jobs/gsm8k-1", Result({"n": 1.0}), name="<b>x</b>")
    )
    record.error = "<script>alert(1)</script>"
    page = record._repr_html_()
    assert "<script" not in page
    assert "<b>x" not in page
    assert repr(record) == "<gsm8k-1: FAILED, <script>alert(1)</script>>"
    rows = GridRows(
        [{"job_id": "a", "task.system": "<i>hi</i>", "status": "finished", "accuracy": 0.5}], ["task.system"]
    )
    assert "<i>" not in rows._repr_html_()


def test_a_picture_is_of_what_all_rows_have() -> None:
    scored = {"accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6}
    assert "50.0% [40.0%, 60.0%]" in draw_shared_metric_svg([("none", scored), ("nf4", scored)])
    assert draw_shared_metric_svg([("none", scored), ("sweep", {"n": 3.0})]) == ""
    assert draw_shared_metric_svg([]) == ""


@pytest.mark.parametrize(
    ("options", "code", "key"),
    [
        ({"basline": "quantization=none"}, "unknown_choice", "compare(basline=...)"),
        ({"format": "json"}, "unsupported", "compare(format=...)"),
        ({"tolerance": "much"}, "bad_value", "compare"),
        ({"output_dir": "/nowhere"}, "not_found", ""),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], code: Code, key: str) -> None:
    with raises(ConfigError, code, key):
        package.compare(**options)


def test_what_cannot_be_compared_is_named() -> None:
    with raises(ConfigError, "bad_value", "compare(3)"):
        package.compare(3)
