"""The page of a comparison of teams: their graphs, and accuracy over tokens."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import pytest
from html_page import Page
from stores import NF4, NONE, Store, marks

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]


@pytest.mark.thorough
def test_the_page_of_teams_shows_each_graph_once_and_accuracy_over_tokens(
    store: Store, show: Any, tmp_path: Path
) -> None:
    """Nothing in a graph runs; the columns of its cost come before those that every task has."""
    drawing = '<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script><title>{}</title></svg>'
    for number, (mode, quantization) in enumerate((m, q) for m in ("chain", "star") for q in (NONE, NF4)):
        metrics = {
            "spatial_edges_after": 3.0,
            "prompt_tokens_per_question": 400.0 + 100 * number,
            "new_tokens_per_question": 90.0,
            "weight_mib": 6.0,
        }
        folder = store.job(
            "graphs",
            f"{mode}-{number}",
            {"task.name": "agents", "task.mode": mode, **quantization},
            marks(2 + number, 9),
            metrics=metrics,
            tags={"task": "agents"},
        )
        (folder / "graph.svg").write_text(drawing.format(mode))
    code, out, err = show("graphs", "--save", str(tmp_path))
    assert code == 0, err
    text = (tmp_path / "comparison.html").read_text()
    page = Page(text)
    assert (page.tags.count("img"), "script" in page.tags) == (2, False), "two graphs of four jobs"
    images = [
        one.removeprefix("data:image/svg+xml;base64,") for one in page.references if one.startswith("data:")
    ]
    assert {base64.b64decode(one).decode() for one in images} == {
        drawing.format("chain"),
        drawing.format("star"),
    }
    listed = re.findall(r"<summary><img [^>]*><ul>(.*?)</ul></summary>", text)
    assert [one.count("<li>") for one in listed] == [2, 2], "each with its jobs"
    assert "accuracy over the tokens of a question" in page.text
    picture = (tmp_path / "tokens.svg").read_text()
    assert "prompt and new tokens a question" in picture
    assert all(f"task.mode={mode}" in picture for mode in ("chain", "star"))
    heads = re.findall(r"<th class=n>([^<]*)</th>", text)
    assert heads.index("prompt\ntokens\n/question") < heads.index("weights\nMiB")
    assert out.count("/question") == 2
