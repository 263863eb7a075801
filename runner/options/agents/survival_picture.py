"""A picture of how often each edge of a team's graph survived over seeds.

The width of an edge is the share of seeds in which it survived; one that no seed kept is dashed and
pale. Who speaks is on the left, who listens on the right, so that no two edges lie on one another.
An edge that survives more often than chance is dark, one that survives less often or as often is
pale.
"""

from __future__ import annotations

from runner.options.agents.picture import (
    ACROSS,
    GREY,
    LABEL,
    NODE,
    SPATIAL,
    TEMPORAL,
    THINNEST,
    WIDEST,
    Point,
    agent,
    arrow,
)
from runner.options.agents.survival import EdgeSurvival, SurvivalTable
from runner_base.svg import document, text

TOP, FOOT, STEP = 132, 86, 68  # above the agents, below them, from one agent to the next
LEGEND = (
    "width: the share of seeds in which an edge survived; dashed: it survived in none",
    "dark: more often than chance",
)
NARROWEST = 620  # has room for the title and the legend
PANEL = ACROSS + 2 * (NODE + LABEL)
LOOKS = {"spatial": SPATIAL, "temporal": TEMPORAL}
HEADS = {"spatial": ("who speaks", "who listens"), "temporal": ("round before", "this round")}


def svg(found: SurvivalTable, title: str) -> str:
    """Draw the edges of each kind as a panel."""
    kinds = list(dict.fromkeys(edge.kind for edge in found.edges))
    pieces = [text(24, 32, title, bold=True)]
    for column, kind in enumerate(kinds):
        pieces += _panel(found, kind, column * PANEL)
    height = TOP + STEP * (len(found.roles) - 1) + NODE + FOOT
    for line, explanation in enumerate(LEGEND):
        pieces.append(text(24, height - 40 + 20 * line, explanation, colour=GREY))
    return document(max(PANEL * len(kinds), NARROWEST), height, pieces)


def _panel(found: SurvivalTable, kind: str, left: float) -> list[str]:
    edges = sorted((edge for edge in found.edges if edge.kind == kind), key=lambda edge: edge.share)
    columns: list[float] = [left + NODE + LABEL, left + NODE + LABEL + ACROSS]
    places: list[list[Point]] = [
        [(x, TOP + STEP * number) for number in range(len(found.roles))] for x in columns
    ]
    kept = sum(edge.survived for edge in edges) / found.seeds
    middle = sum(columns) / 2
    pieces = [
        text(middle, 62, f"{kind} edges over {found.seeds} seeds", bold=True, anchor="middle"),
        text(middle, 80, f"{kept:.1f} of {len(edges)} survive in the mean", colour=GREY, anchor="middle"),
    ]
    for edge in edges:
        pieces.append(_edge(edge, places, found.roles))
    for column, (side, anchor, head) in enumerate(
        zip((-1, 1), ("end", "start"), HEADS[_plain(kind)], strict=True)
    ):
        pieces.append(text(columns[column], TOP - NODE - 10, head, colour=GREY, anchor="middle"))
        for number, role in enumerate(found.roles):
            x, y = places[column][number]
            pieces += agent((x, y), number, role, (x + side * (NODE + 7), y + 4), anchor)
    return pieces


def _plain(kind: str) -> str:
    """Return the kind of edges of `spatial, round 1`, where each round has its own."""
    return kind.partition(",")[0]


def _edge(edge: EdgeSurvival, places: list[list[Point]], roles: tuple[str, ...]) -> str:
    look = LOOKS[_plain(edge.kind)]
    names = f"{edge.source + 1} {roles[edge.source]} → {edge.target + 1} {roles[edge.target]}"
    explanation = (
        f"{names}: survived in {edge.survived} of {edge.seeds} seeds, "
        f"by chance {edge.by_chance * edge.seeds:.1f}"
    )
    colour = look.live if edge.finding == "more often than chance" else look.pale
    width = max(THINNEST, WIDEST * edge.share)
    return arrow(
        places[0][edge.source],
        places[1][edge.target],
        width,
        colour,
        explanation,
        0.0,
        is_dashed=not edge.survived,
    )
