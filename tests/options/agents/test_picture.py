"""The picture of a graph: width is probability, pruned edges are dashed, texts are escaped."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from runner.options.agents.graph import Graph
from runner.options.agents.keys import Topology
from runner.options.agents.render.graph_picture import LEGEND_LOOK, SPATIAL, TEMPORAL, draw_graph_svg

SVG = "{http://www.w3.org/2000/svg}"
ROLES = ("Math Solver", "Mathematical Analyst", "Programming Expert", "Inspector")


class Arrow:
    """One arrow of a picture."""

    def __init__(self, group: ElementTree.Element) -> None:
        path = group.find(f"{SVG}path")
        assert path is not None
        self.title = group.findtext(f"{SVG}title") or ""
        self.width, self.colour = float(path.attrib["stroke-width"]), path.attrib["stroke"]
        self.is_dashed = "stroke-dasharray" in path.attrib


def arrows(drawn: str) -> list[Arrow]:
    """All arrows, those of the legend left out."""
    every = [
        Arrow(group)
        for group in ElementTree.fromstring(drawn).iter(f"{SVG}g")
        if group.find(f"{SVG}path") is not None
    ]
    return [arrow for arrow in every if arrow.colour not in (LEGEND_LOOK.live, LEGEND_LOOK.pale)]


def labels(drawn: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(drawn).iter(f"{SVG}text")]


def test_width_is_probability_and_pruned_edges_are_dashed_and_pale() -> None:
    graph = Graph.create_from_topology(Topology.star, 3, seed=0, train_spatial=True, train_temporal=True)
    graph.spatial.logits[0, 1] = 1.0986123  # 0.75
    graph.spatial.logits[1, 2] = -1.0986123  # 0.25
    graph.spatial.live[1, 2] = False
    drawn = draw_graph_svg(graph, "star", ROLES[:3], num_rounds=2)
    found = {arrow.title: arrow for arrow in arrows(drawn)}
    assert len(found) == 3 + 9
    assert "2 Mathematical Analyst (round before) → 2 Mathematical Analyst: probability 0.50" in found
    strong = found["1 Math Solver → 2 Mathematical Analyst: probability 0.75"]
    even = found["1 Math Solver → 3 Programming Expert: probability 0.50"]
    gone = found["2 Mathematical Analyst → 3 Programming Expert: pruned, its probability was 0.25"]
    assert strong.width == pytest.approx(1.5 * even.width, abs=0.01)
    assert gone.width == pytest.approx(0.5 * even.width, abs=0.01)
    assert [one.is_dashed for one in (strong, even, gone)] == [False, False, True]
    assert [one.colour for one in (strong, even, gone)] == [SPATIAL.live, SPATIAL.live, SPATIAL.pale]
    assert {one.colour for one in found.values()} == {SPATIAL.live, SPATIAL.pale, TEMPORAL.live}
    assert [arrow.title for arrow in arrows(drawn)][:3] == [gone.title, even.title, strong.title], (
        "the widest on top"
    )
    assert {
        "2 of 3 edges left: each taken by chance",
        "9 edges: each taken by chance",
        "pruned",
        "0.75",
    } <= set(labels(drawn))


def test_a_fixed_graph_has_even_widths_and_no_legend_and_shows_what_is_never_taken() -> None:
    drawn = draw_graph_svg(
        Graph.create_from_topology(Topology.full_connected, 4, seed=0), "full", ROLES, num_rounds=2
    )
    found = arrows(drawn)
    assert len({arrow.width for arrow in found}) == 1
    assert not any(arrow.is_dashed for arrow in found)
    never = [arrow for arrow in found if arrow.colour == SPATIAL.pale]
    assert len(never) == 6
    assert all(arrow.title.endswith(": never used, because it would close a cycle") for arrow in never)
    assert "12 edges: 6 are taken, the others would close a cycle" in labels(drawn)
    assert "16 edges: all edges from the second round on" in labels(drawn)
    assert "pruned" not in labels(drawn)


def test_a_team_of_one_round_has_no_edge_of_the_round_before() -> None:
    one, two = (
        draw_graph_svg(
            Graph.create_from_topology(Topology.full_connected, 4, seed=0), "full", ROLES, num_rounds=rounds
        )
        for rounds in (1, 2)
    )
    assert len(arrows(one)) == 12
    assert len(arrows(two)) == 12 + 16
    assert not any("round before" in words or "16 edges" in words for words in labels(one))
    wide, wider = (float(ElementTree.fromstring(drawn).attrib["width"]) for drawn in (one, two))
    assert wide < 0.6 * wider, "the empty half is not drawn"


@pytest.mark.sampled(78)
@pytest.mark.parametrize("agents", [1, 2, 3, 4, 9, 64])
@pytest.mark.parametrize("mode", list(Topology))
@pytest.mark.parametrize("rounds", [1, 2])
def test_every_graph_can_be_drawn_and_lies_inside_its_picture(
    mode: Topology, agents: int, rounds: int
) -> None:
    graph = Graph.create_from_topology(mode, agents, seed=0, train_spatial=agents % 2 == 0)
    drawn = draw_graph_svg(graph, mode, [ROLES[number % 4] for number in range(graph.num_agents)], rounds)
    root = ElementTree.fromstring(drawn)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    circles = list(root.iter(f"{SVG}circle"))
    assert len(circles) == (3 if rounds > 1 else 1) * graph.num_agents, (
        "once in the ring, twice in the columns"
    )
    assert len(arrows(drawn)) == graph.spatial.num_live + graph.temporal.num_live * (rounds > 1)
    assert all(20 <= float(one.attrib["cx"]) <= width - 20 for one in circles)
    assert all(90 <= float(one.attrib["cy"]) <= height - 20 for one in circles)
    centres = {(one.attrib["cx"], one.attrib["cy"]) for one in circles}
    assert len(centres) == len(circles)
    assert "nan" not in drawn
    assert drawn.count("<svg") == 1


def test_a_graph_without_any_edge_left_is_drawn() -> None:
    graph = Graph.create_from_topology(Topology.chain, 2, seed=0, train_spatial=True)
    graph.spatial.live[0, 1] = False
    drawn = draw_graph_svg(graph, "chain", ROLES[:2], num_rounds=3)
    assert [arrow.is_dashed for arrow in arrows(drawn)] == [True, False]
    assert "0 of 1 edges left" in labels(drawn)
    assert "1 edge: all edges from the second round on" in labels(drawn)
    assert "no edges" in labels(
        draw_graph_svg(
            Graph.create_from_topology(Topology.direct_answer, 1, seed=0), "one", ROLES[:1], num_rounds=2
        )
    )


def test_names_are_escaped_and_shortened() -> None:
    roles = ["<script>alert(1)</script>", "a & b\x1b[31m"]
    drawn = draw_graph_svg(
        Graph.create_from_topology(Topology.chain, 2, seed=0), "<b>title</b>", roles, num_rounds=2
    )
    assert not re.search("<script|<b>|\x1b", drawn)
    assert {"<b>title</b>", "<script>alert(1)</scr…", "a & b\ufffd[31m"} <= set(labels(drawn))
    assert any(arrow.title.startswith("1 <script>alert(1)</script> → 2 a & b") for arrow in arrows(drawn))


def plain_team() -> Graph:
    return Graph.create_from_topology(Topology.full_connected, 3, seed=0, train_spatial=True)


def test_a_learned_graph_as_it_is_shows_what_is_never_taken() -> None:
    graph = plain_team()
    graph.spatial.logits[:] = [[0, -1.0, 1.0], [2.0, 0, 1.0], [-1.0, -1.0, 0]]
    drawn = draw_graph_svg(graph, "learned", ROLES[:3], num_rounds=1, is_random=False)
    never = {arrow.title for arrow in arrows(drawn) if arrow.colour == SPATIAL.pale}
    assert len(arrows(drawn)) == 6
    assert never == {
        f"{names}: probability 0.27, never taken"
        for names in (
            "1 Math Solver → 2 Mathematical Analyst",
            "3 Programming Expert → 1 Math Solver",
            "3 Programming Expert → 2 Mathematical Analyst",
        )
    }
    assert "6 edges: 3 are taken" in labels(drawn)
    assert "6 edges: each taken by chance" in labels(
        draw_graph_svg(graph, "learned", ROLES[:3], num_rounds=1)
    )
