"""Draws a team's communication graph as SVG, with edges within a round and edges from the previous round.

Edge width is the trained probability. A pruned edge is dashed and pale, with its last
width. Without training all edges have the same width, and an edge that no round takes, to
avoid a cycle, is pale. A team with one round has no temporal panel. Numbers start from 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runner.options.agents.graph import Edge, Edges, Graph, Kind
from runner_base.svg import build_svg_document, escape_text, format_svg_text

Point = tuple[float, float]

# radius of an agent, room for a role's name, from one agent to the next
NODE, LABEL, STEP = (19, 165, 52)
TOP, FOOT, LEGEND_FOOT = 146, 62, 104  # above the agents, below them, below them with a legend
ACROSS = 270  # from one column of agents to the other
WIDEST, THINNEST, FIXED = 7.0, 0.7, 2.0  # of edges: at probability 1, at least, without learning
LONGEST = 22  # characters of a role that are shown
GREY = "#666666"


@dataclass(frozen=True)
class EdgeStyle:
    """Colours and tooltip text for one kind of graph edges."""

    live: str
    pale: str
    when: str = ""


SPATIAL, TEMPORAL = EdgeStyle("#4e79a7", "#b5c8dd"), EdgeStyle("#d9772b", "#f3cdaa", " (round before)")
LEGEND_LOOK = EdgeStyle("#777777", "#c4c4c4")


def draw_graph_svg(
    graph: Graph, title: str, roles: Sequence[str], num_rounds: int, *, is_random: bool = True
) -> str:
    """Draw a graph for `num_rounds` rounds as SVG. With `is_random`, each edge shows its probability."""
    assert len(roles) == graph.num_agents
    ring = max(115.0, graph.num_agents * STEP / 4.2)
    step = max(STEP, min(84, 2 * ring / max(1, graph.num_agents - 1)))  # between the agents of a column
    tall = max(2 * ring, step * (graph.num_agents - 1))
    shown = (graph.spatial, graph.temporal) if num_rounds > 1 else (graph.spatial,)
    legend = _draw_edge_probability_legend() if any(edges.optimized for edges in shown) else []
    height = TOP + tall + (LEGEND_FOOT if legend else FOOT)
    half, wide = ring + NODE + LABEL, 2 * (ring + NODE + LABEL)
    pieces = [format_svg_text(24, 32, title, bold=True)]
    pieces += _draw_spatial_panel(_Panel(graph, "spatial", roles, is_random), (half, TOP + tall / 2), ring)
    if num_rounds > 1:
        middle = (wide + NODE + LABEL + ACROSS / 2, TOP + tall / 2)
        pieces += _draw_temporal_panel(_Panel(graph, "temporal", roles, is_random), middle, step)
        wide += ACROSS + 2 * (NODE + LABEL)
    if legend:
        pieces.append(f'<g transform="translate(24 {height - 30:.1f})">')
        pieces += [*legend, "</g>"]
    return build_svg_document(wide, height, pieces)


@dataclass
class _Panel:
    """One panel of a graph's picture, for either the spatial or the temporal edges."""

    graph: Graph
    kind: Kind
    roles: Sequence[str]
    is_drawn: bool

    @property
    def edges(self) -> Edges:
        return self.graph.edges_by_kind[self.kind]

    @property
    def is_random(self) -> bool:
        """Whether the edges of this panel are drawn at random in each round."""
        return self.edges.optimized and self.is_drawn

    @property
    def unused_edges(self) -> set[Edge]:
        """Unpruned edges that no round contains."""
        if self.is_random:
            return set()
        taken = self.graph.get_most_likely_round_edges(1)
        return set(self.edges.list_live()) - set(taken.spatial if self.kind == "spatial" else taken.temporal)

    @property
    def title(self) -> str:
        where = "in a round" if self.kind == "spatial" else "of the round before"
        return f"{self.kind.capitalize()}: who hears whom {where}"


def _draw_spatial_panel(panel: _Panel, centre: Point, radius: float) -> list[str]:
    roles, agents, never = panel.roles, len(panel.roles), panel.unused_edges
    turns = [
        math.tau * (number + 0.5 * (agents % 2) - 0.5) / agents - math.pi / 2 for number in range(agents)
    ]
    places = [(centre[0] + radius * math.cos(turn), centre[1] + radius * math.sin(turn)) for turn in turns]
    if agents == 1:
        places = [centre]
    all_of_it = f"{panel.edges.num_live - len(never)} are taken"
    all_of_it += ", the others would close a cycle" * (not panel.edges.optimized)
    pieces = _draw_panel_title(centre[0], panel, all_of_it if never else "all taken")
    pieces += _draw_arrows(panel, places, places, SPATIAL, bend=0.13)
    for number, (turn, (x, y)) in enumerate(zip(turns, places, strict=True)):
        aside, below = math.cos(turn), math.sin(turn)
        anchor = "middle" if abs(aside) < 0.05 else "start" if aside > 0 else "end"
        label = (x + (NODE + 8) * aside, y + 4 + (NODE + 12) * below)
        if abs(aside) > 0.5:
            label = (x + math.copysign(NODE + 7, aside), y + 4)
        pieces += _draw_agent((x, y), number, roles[number], label, anchor)
    return pieces


def _draw_temporal_panel(panel: _Panel, centre: Point, spacing: float) -> list[str]:
    """Draw the agents in two columns, with edges from the previous round (left) to the current round
    (right).
    """
    roles, never = panel.roles, panel.unused_edges
    first = centre[1] - spacing * (len(roles) - 1) / 2
    left, right = (
        [(x, first + spacing * number) for number in range(len(roles))]
        for x in (centre[0] - ACROSS / 2, centre[0] + ACROSS / 2)
    )
    all_of_it = (
        f"{panel.edges.num_live - len(never)} are used" if never else "all edges from the second round on"
    )
    pieces = _draw_panel_title(centre[0], panel, all_of_it)
    pieces += _draw_arrows(panel, left, right, TEMPORAL, bend=0.0)
    for column, side, heading in ((left, -1, "round before"), (right, 1, "this round")):
        pieces.append(format_svg_text(column[0][0], first - NODE - 10, heading, colour=GREY, anchor="middle"))
        for number, (x, y) in enumerate(column):
            label, anchor = (x + side * (NODE + 7), y + 4), "end" if side < 0 else "start"
            pieces += _draw_agent((x, y), number, roles[number], label, anchor)
    return pieces


def _draw_panel_title(x: float, panel: _Panel, summary: str) -> list[str]:
    edges = panel.edges
    allowed = int(edges.allowed.sum())
    count = f"{edges.num_live} edge{'s' * (edges.num_live != 1)}" if allowed else "no edges"
    if allowed > edges.num_live:
        count = f"{edges.num_live} of {allowed} edges left"
    how = f": {'each taken by chance' if panel.is_random else summary}" if edges.num_live else ""
    return [
        format_svg_text(x, 62, panel.title, bold=True, anchor="middle"),
        format_svg_text(x, 80, f"{count}{how}", colour=GREY, anchor="middle"),
    ]


def _draw_agent(centre: Point, agent_index: int, role: str, label_position: Point, anchor: str) -> list[str]:
    x, y = centre
    shown = role if len(role) <= LONGEST else role[: LONGEST - 1] + "…"
    return [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{NODE}" fill="#f6f3ec" stroke="#4a4a4a" stroke-width="1.5">'
        f"<title>{escape_text(f'agent {agent_index + 1}: {role}')}</title></circle>",
        format_svg_text(x, y + 4.5, str(agent_index + 1), bold=True, anchor="middle"),
        format_svg_text(*label_position, shown, anchor=anchor),
    ]


def _draw_arrows(
    panel: _Panel, sources: Sequence[Point], targets: Sequence[Point], style: EdgeStyle, bend: float
) -> list[str]:
    """Return the SVG arrows of all edges, pale arrows first, so that wide arrows are drawn on top of them."""
    edges, roles, never = panel.edges, panel.roles, panel.unused_edges
    weights, drawn = edges.probabilities, list[tuple[bool, float, int, int, str]]()
    for source, target in np.argwhere(edges.allowed).tolist():
        is_live, weight = bool(edges.live[source, target]), float(weights[source, target])
        is_pale = not is_live or (source, target) in never
        tooltip = f"{source + 1} {roles[source]}{style.when} → {target + 1} {roles[target]}"
        if not is_live:
            tooltip += f": pruned, its probability was {weight:.2f}"
        elif edges.optimized:
            tooltip += f": probability {weight:.2f}{(', never taken' if is_pale else '')}"
        elif is_pale:
            tooltip += ": never used, because it would close a cycle"
        width = max(THINNEST, WIDEST * weight) if edges.optimized else FIXED
        colour = style.pale if is_pale else style.live
        piece = _draw_arrow(
            sources[source], targets[target], width, colour, tooltip, bend, is_dashed=not is_live
        )
        drawn.append((not is_pale, width, source, target, piece))
    return [piece for *_, piece in sorted(drawn)]


def _draw_arrow(
    source: Point, target: Point, width: float, colour: str, title: str, curvature: float, is_dashed: bool
) -> str:
    """Return the SVG of an arrow between two agents' circles. Arrows in opposite directions curve away
    from each other.
    """
    across, down = target[0] - source[0], target[1] - source[1]
    pull = ((source[0] + target[0]) / 2 + curvature * down, (source[1] + target[1]) / 2 - curvature * across)
    tip = 6 + 1.1 * width
    begin, point = _point_towards(source, pull, NODE + 1), _point_towards(target, pull, NODE + 2)
    end = _point_towards(point, pull, tip - 1)
    back = _point_towards(point, pull, tip)
    aside = (
        (point[1] - back[1]) / tip * (2.5 + 0.75 * width),
        (back[0] - point[0]) / tip * (2.5 + 0.75 * width),
    )
    head = [point, (back[0] + aside[0], back[1] + aside[1]), (back[0] - aside[0], back[1] - aside[1])]
    dashed = ' stroke-dasharray="6 5"' if is_dashed else ""
    path = f"M {begin[0]:.1f} {begin[1]:.1f} Q {pull[0]:.1f} {pull[1]:.1f} {end[0]:.1f} {end[1]:.1f}"
    corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in head)
    return (
        f'<g><title>{escape_text(title)}</title><path d="{path}" fill="none" '
        f'stroke="{colour}" stroke-width="{width:.2f}"'
        f'{dashed}/><polygon points="{corners}" fill="{colour}"/></g>'
    )


def _point_towards(start: Point, target: Point, distance_px: float) -> Point:
    distance = math.dist(start, target)
    return start[0] + (target[0] - start[0]) / distance * distance_px, start[1] + (
        target[1] - start[1]
    ) / distance * distance_px


def _draw_edge_probability_legend() -> list[str]:
    heading, x = "probability of an edge:", 0.0
    pieces = [format_svg_text(x, 4, heading, colour=GREY)]
    x += 7 * len(heading)
    samples = [(f"{weight:.2f}", WIDEST * weight) for weight in (0.25, 0.5, 0.75, 1.0)]
    for label, width in [*samples, ("pruned", WIDEST / 2)]:
        is_dashed = label == "pruned"
        colour = LEGEND_LOOK.pale if is_dashed else LEGEND_LOOK.live
        pieces.append(_draw_arrow((x - NODE, 0), (x + 44 + NODE, 0), width, colour, label, 0.0, is_dashed))
        pieces.append(format_svg_text(x + 52, 4, label, colour=GREY))
        x += 104
    return pieces
