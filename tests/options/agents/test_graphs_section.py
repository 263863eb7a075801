"""The survival of edges over the seeds of a team that learns: counted, drawn, and what is said of
damaged graphs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from json_schema import SCHEMA, faults
from stores import Store, marks
from team_jobs import team

from runner.options.agents import graph_file
from runner.options.agents.graph import Graph
from runner.options.agents.keys import Mode

pytestmark = [pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")]

N = 60
ROLES = ("Math Solver", "Mathematical Analyst", "Programming Expert", "Inspector")
KEPT = [[(0, 1), (1, 2)], [(0, 1), (2, 3)], [(0, 1), (3, 1)], [(0, 1), (2, 0)], [(0, 1), (1, 3)]]


def table_of(show: Any, experiment: str, *arguments: str) -> dict[str, Any]:
    code, out, err = show(experiment, "--format", "json", *arguments)
    assert (code, err) == (0, "")
    assert list(faults(json.loads(out), SCHEMA)) == []
    (table,) = json.loads(out)["tables"]
    return dict(table)


def learned(store: Store, experiment: str, kept: Sequence[Sequence[tuple[int, int]]]) -> None:
    for seed, edges in enumerate(kept):
        tokens = [800 + at for at in range(N)]
        name = f"learned-{seed}"
        solved, new = marks(45, N), [90] * N
        folder = team(
            store, experiment, name, solved, tokens, new, seed=seed, training_tokens=5000, kept=edges
        )
        graph = Graph.of(Mode.full_connected, 4, seed=0, optimized_spatial=True)
        graph.spatial.live[:] = False
        for source, target in edges:
            graph.spatial.live[source, target] = True
        (folder / "graph.json").write_text(graph_file.to_json(graph, ROLES))


def test_survival_of_edges_is_counted_and_drawn(store: Store, show: Any, tmp_path: Path) -> None:
    learned(store, "team-survive", KEPT)
    table = table_of(show, "team-survive", "--seeds")
    (found,) = table["survival"]
    edges = {(it["source"], it["target"]): it for it in found["edges"]}
    assert len(edges) == 12
    assert (edges[1, 2]["survived"], edges[1, 2]["seeds"], edges[1, 2]["finding"]) == (
        5,
        5,
        "more often than chance",
    )
    assert edges[2, 3]["survived"] == 1
    assert edges[4, 3]["survived"] == 0
    assert edges[1, 2]["by_chance"] == pytest.approx(2 / 12)
    _, out, _ = show("team-survive", "--seeds", "--save", str(tmp_path))
    assert "1 Math Solver → 2 Mathematical Analyst spatial 5 of 5 seeds" in " ".join(out.split())
    picture = (tmp_path / "survival_1.svg").read_text()
    assert "survived in 5 of 5 seeds, by chance 0.8" in picture
    assert picture.count('stroke-dasharray="6 5"') == sum(not it["survived"] for it in edges.values())
    page = (tmp_path / "comparison.html").read_text()
    assert "how often each edge survived: the learned full_connected graph with 2 of 12 spatial edges" in page
    assert "data:image/svg+xml;base64," in page


def test_too_few_seeds_say_so_and_a_damaged_graph_is_named(store: Store, show: Any) -> None:
    learned(store, "team-fewer", KEPT[:2])
    _, out, _ = show("team-fewer", "--seeds")
    assert "(2 seeds are too few to show more than chance)" in out
    (store.output_dir / "team-fewer" / "jobs" / "learned-1" / "graph.json").write_text("{}")
    code, out, err = show("team-fewer", "--seeds")
    assert code == 0
    assert "how often each edge" not in out
    assert "note: no survival of edges: " in err
    assert "graph.json" in err
