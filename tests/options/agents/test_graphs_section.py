from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from stores import Store, marks
from team_jobs import team

pytestmark = [pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")]

N = 60


def test_a_page_shows_each_graph_once(store: Store, show: Any, tmp_path: Path) -> None:
    for mode, picture in (("chain", "chain"), ("star", "star"), ("layered", "star")):
        folder = team(store, "graphs", mode, marks(45, N), [800] * N, [90] * N, mode=mode)
        (folder / "graph.svg").write_text(f"<svg>{picture}</svg>")
    code, _, err = show("graphs", "--save", str(tmp_path))
    assert code == 0, err
    assert (tmp_path / "comparison.html").read_text().count("data:image/svg+xml;base64,") == 2
