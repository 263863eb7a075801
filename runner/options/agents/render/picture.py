"""A picture of a team's graph: who hears whom in a round, and from the previous round.

The width of an edge is the probability that training gave it; a pruned edge is dashed and pale,
with its last width. If nothing was learned, all edges have the same width; one that no round takes,
to avoid a circle, is only pale. A team with one round has no temporal panel. Numbers start from 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runner.options.agents.graph import Edge, Edges, Graph, Kind
from runner_base.svg import document, plain, text

Point = tuple[float, float]

# radius of an agent, room for a role's name, from one agent to the next
NODE, LABEL, STEP = (19, 165, 52)
TOP, FOOT, LEGEND_FOOT = 146, 62, 104  # above the agents, below them, below them with a legend
ACROSS = 270  # from one column of agents to the other
WIDEST, THINNEST, FIXED = 7.0, 0.7, 2.0  # of edges: at probability 1, at least, without learning
LONGEST = 22  # characters of a role that are shown
GREY = "#666666"


@dataclass(frozen=True)
class Look:
    """Colours of one kind of edges, and a part of their tooltip."""

    live: str
    pale: str
    when: str = ""


SPATIAL, TEMPORAL = Look("#4e79a7", "#b5c8dd"), Look("#d9772b", "#f3cdaa", " (round before)")
LEGEND_LOOK = Look("#777777", "#c4c4c4")


def svg(graph: Graph, title: str, roles: Sequence[str], rounds: int, *, is_drawn: bool = True) -> str:
    """Draw a graph as `rounds` rounds use it; `is_drawn`: by chance, where edges have
    probabilities."""
    assert len(roles) == graph.agents
    ring = max(115.0, graph.agents * STEP / 4.2)
    step = max(STEP, min(84, 2 * ring / max(1, graph.agents - 1)))  # between the agents of a column
    tall = max(2 * ring, step * (graph.agents - 1))
    shown = (graph.spatial, graph.temporal) if rounds > 1 else (graph.spatial,)
    legend = _legend() if any(edges.optimized for edges in shown) else []
    height = TOP + tall + (LEGEND_FOOT if legend else FOOT)
    half, wide = ring + NODE + LABEL, 2 * (ring + NODE + LABEL)
    pieces = [text(24, 32, title, bold=True)]
    pieces += _spatial(_Panel(graph, "spatial", roles, is_drawn), (half, TOP + tall / 2), ring)
    if rounds > 1:
        middle = (wide + NODE + LABEL + ACROSS / 2, TOP + tall / 2)
        pieces += _temporal(_Panel(graph, "temporal", roles, is_drawn), middle, step)
        wide += ACROSS + 2 * (NODE + LABEL)
    if legend:
        pieces.append(f'<g transform="translate(24 {height - 30:.1f})">')
        pieces += [*legend, "</g>"]
    return document(wide, height, pieces)


@dataclass
class _Panel:
    """One matrix of a graph."""

    graph: Graph
    kind: Kind
    roles: Sequence[str]
    is_drawn: bool

    @property
    def edges(self) -> Edges:
        """The edges of the matrix."""
        return self.graph.kinds[self.kind]

    @property
    def has_chance(self) -> bool:
        """Whether each edge is taken by chance."""
        return self.edges.optimized and self.is_drawn

    @property
    def never(self) -> set[Edge]:
        """The live edges that no round takes."""
        if self.has_chance:
            return set()
        taken = self.graph.settled(1)
        return set(self.edges.scan()) - set(taken.spatial if self.kind == "spatial" else taken.temporal)

    @property
    def head(self) -> str:
        """The title."""
        where = "in a round" if self.kind == "spatial" else "of the round before"
        return f"{self.kind.capitalize()}: who hears whom {where}"


def _spatial(panel: _Panel, middle: Point, ring: float) -> list[str]:
    """A ring of agents, clockwise, the first one above, left of the middle where their number is
    even."""
    roles, agents, never = panel.roles, len(panel.roles), panel.never
    turns = [
        math.tau * (number + 0.5 * (agents % 2) - 0.5) / agents - math.pi / 2 for number in range(agents)
    ]
    places = [(middle[0] + ring * math.cos(turn), middle[1] + ring * math.sin(turn)) for turn in turns]
    if agents == 1:
        places = [middle]
    all_of_it = f"{panel.edges.count - len(never)} are taken"
    all_of_it = f"{all_of_it}{(', the others would close a circle' if not panel.edges.optimized else '')}"
    pieces = _head(middle[0], panel, all_of_it if never else "all taken")
    pieces += _arrows(panel, places, places, SPATIAL, bend=0.13)
    for number, (turn, (x, y)) in enumerate(zip(turns, places, strict=True)):
        aside, below = math.cos(turn), math.sin(turn)
        anchor = "middle" if abs(aside) < 0.05 else "start" if aside > 0 else "end"
        label = (x + (NODE + 8) * aside, y + 4 + (NODE + 12) * below)
        if abs(aside) > 0.5:
            label = (x + math.copysign(NODE + 7, aside), y + 4)
        pieces += _agent((x, y), number, roles[number], label, anchor)
    return pieces


def _temporal(panel: _Panel, middle: Point, step: float) -> list[str]:
    """Two columns of agents: edges lead from the previous round to this one."""
    roles, never = panel.roles, panel.never
    first = middle[1] - step * (len(roles) - 1) / 2
    left, right = (
        [(x, first + step * number) for number in range(len(roles))]
        for x in (middle[0] - ACROSS / 2, middle[0] + ACROSS / 2)
    )
    all_of_it = (
        f"{panel.edges.count - len(never)} are taken" if never else "all taken from the second round on"
    )
    pieces = _head(middle[0], panel, all_of_it)
    pieces += _arrows(panel, left, right, TEMPORAL, bend=0.0)
    for column, side, heading in ((left, -1, "round before"), (right, 1, "this round")):
        pieces.append(text(column[0][0], first - NODE - 10, heading, colour=GREY, anchor="middle"))
        for number, (x, y) in enumerate(column):
            label, anchor = (x + side * (NODE + 7), y + 4), "end" if side < 0 else "start"
            pieces += _agent((x, y), number, roles[number], label, anchor)
    return pieces


def _head(x: float, panel: _Panel, all_of_it: str) -> list[str]:
    """The title of a panel, and how many edges it has."""
    edges = panel.edges
    allowed = int(edges.allowed.sum())
    count = f"{edges.count} edge{'s' * (edges.count != 1)}" if allowed else "no edges"
    if allowed > edges.count:
        count = f"{edges.count} of {allowed} edges left"
    how = f": {'each taken by chance' if panel.has_chance else all_of_it}" if edges.count else ""
    return [
        text(x, 62, panel.head, bold=True, anchor="middle"),
        text(x, 80, f"{count}{how}", colour=GREY, anchor="middle"),
    ]


def _agent(centre: Point, number: int, role: str, label: Point, anchor: str) -> list[str]:
    """Return a circle with an agent's number, and its role beside it."""
    x, y = centre
    shown = role if len(role) <= LONGEST else role[: LONGEST - 1] + "…"
    return [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{NODE}" fill="#f6f3ec" stroke="#4a4a4a" stroke-width="1.5">'
        f"<title>{plain(f'agent {number + 1}: {role}')}</title></circle>",
        text(x, y + 4.5, str(number + 1), bold=True, anchor="middle"),
        text(*label, shown, anchor=anchor),
    ]


def _arrows(
    panel: _Panel, sources: Sequence[Point], targets: Sequence[Point], look: Look, bend: float
) -> list[str]:
    """Return all edges of a panel, pale ones first, the widest last."""
    edges, roles, never = panel.edges, panel.roles, panel.never
    weights, drawn = edges.weights, list[tuple[bool, float, int, int, str]]()
    for source, target in np.argwhere(edges.allowed).tolist():
        is_live, weight = bool(edges.live[source, target]), float(weights[source, target])
        is_pale = not is_live or (source, target) in never
        tooltip = f"{source + 1} {roles[source]}{look.when} → {target + 1} {roles[target]}"
        if not is_live:
            tooltip += f": pruned, its probability was {weight:.2f}"
        elif edges.optimized:
            tooltip += f": probability {weight:.2f}{(', never taken' if is_pale else '')}"
        elif is_pale:
            tooltip += ": never taken, it would close a circle"
        width = max(THINNEST, WIDEST * weight) if edges.optimized else FIXED
        colour = look.pale if is_pale else look.live
        piece = _arrow(sources[source], targets[target], width, colour, tooltip, bend, is_dashed=not is_live)
        drawn.append((not is_pale, width, source, target, piece))
    return [piece for *_, piece in sorted(drawn)]


def _arrow(
    source: Point, target: Point, width: float, colour: str, title: str, bend: float, is_dashed: bool
) -> str:
    """An arrow from circle to circle; two of opposite directions bend away from each other."""
    across, down = target[0] - source[0], target[1] - source[1]
    pull = ((source[0] + target[0]) / 2 + bend * down, (source[1] + target[1]) / 2 - bend * across)
    tip = 6 + 1.1 * width
    begin, point = _towards(source, pull, NODE + 1), _towards(target, pull, NODE + 2)
    end = _towards(point, pull, tip - 1)
    back = _towards(point, pull, tip)
    aside = (
        (point[1] - back[1]) / tip * (2.5 + 0.75 * width),
        (back[0] - point[0]) / tip * (2.5 + 0.75 * width),
    )
    head = [point, (back[0] + aside[0], back[1] + aside[1]), (back[0] - aside[0], back[1] - aside[1])]
    dashed = ' stroke-dasharray="6 5"' if is_dashed else ""
    path = f"M {begin[0]:.1f} {begin[1]:.1f} Q {pull[0]:.1f} {pull[1]:.1f} {end[0]:.1f} {end[1]:.1f}"
    corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in head)
    return (
        f'<g><title>{plain(title)}</title><path d="{path}" fill="none" stroke="{colour}" stroke-width="{width:.2f}"'
        f'{dashed}/><polygon points="{corners}" fill="{colour}"/></g>'
    )


def _towards(start: Point, aim: Point, far: float) -> Point:
    """Return the point at distance `far` from a place, in the direction of another."""
    distance = math.dist(start, aim)
    return start[0] + (aim[0] - start[0]) / distance * far, start[1] + (aim[1] - start[1]) / distance * far


def _legend() -> list[str]:
    """The legend of widths and dashes."""
    heading, x = "probability of an edge:", 0.0
    pieces = [text(x, 4, heading, colour=GREY)]
    x += 7 * len(heading)
    samples = [(f"{weight:.2f}", WIDEST * weight) for weight in (0.25, 0.5, 0.75, 1.0)]
    for label, width in [*samples, ("pruned", WIDEST / 2)]:
        is_dashed = label == "pruned"
        colour = LEGEND_LOOK.pale if is_dashed else LEGEND_LOOK.live
        pieces.append(_arrow((x - NODE, 0), (x + 44 + NODE, 0), width, colour, label, 0.0, is_dashed))
        pieces.append(text(x + 52, 4, label, colour=GREY))
        x += 104
    return pieces
