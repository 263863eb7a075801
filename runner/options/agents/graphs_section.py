"""The graphs of teams: as jobs have drawn them, and of several seeds how often each edge that they
learned survived."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from runner.options.agents.survival import EdgeOfSeed, EdgesOfSeed, SurvivalTable, survival_of
from runner_base import Column, DataError, Use, say
from runner_base.result import GRAPH, GRAPH_PICTURE
from runner_compare import (
    JobPicture,
    Reader,
    Run,
    Section,
    Table,
    graph_words,
    name_of,
    p_value,
    rows_with_seeds,
)

if TYPE_CHECKING:
    from runner.options.agents.graph import Graph

SURVIVAL = "survival"  # in JSON, and of the files of its pictures
OF_TEAMS = "spatial_edges_after"  # a metric that only teams of agents have
MOST_GRAPHS = 24  # that the page shows
LEARNED = "train_questions"  # a metric that only jobs have whose graph was trained


@dataclass
class SurvivalOfTable:
    """How often edges survived, for each row that stands for several seeds."""

    found: list[SurvivalTable] = field(default_factory=list)


class GraphsSection(Section):
    """The graphs of teams."""

    stem = SURVIVAL

    def add(self, table: Table, reader: Reader) -> None:
        """Read the graphs of the rows that stand for several seeds of a team that learns."""
        for row in rows_with_seeds(table):
            if all(LEARNED in part.metrics for part in row.run.parts):
                found = survival_in(row.run, reader)
                if found is not None:
                    _survival(table).append(found)

    def tables(self, table: Table) -> dict[str, list[Column]]:
        titled = {}
        for found in _survival(table):
            few = "" if found.can_show else f" ({found.seeds} seeds are too few to show more than chance)"
            titled[f"how often each edge survived: {_name(table, found)}{few}"] = survival_columns(found)
        return titled

    def record(self, table: Table) -> dict[str, Any]:
        """Return the tables of edges as plain data."""
        records = [survival_record(found) for found in _survival(table)]
        return {SURVIVAL: records} if records else {}

    def pictures(self, table: Table) -> list[JobPicture]:
        from runner.options.agents import survival_picture

        pictures = []
        for found in _survival(table):
            name = _name(table, found)
            title = f"how often each edge survived: {name}"
            pictures.append(JobPicture([title], survival_picture.svg(found, name).encode()))
        return pictures

    def pictures_of_jobs(self, table: Table, reader: Reader) -> list[JobPicture]:
        """Return the graphs that the jobs of a table have drawn; of pooled runs, the first one's.

        Equal graphs share one picture: neither quantization nor adapter changes an untrained graph.
        """
        names_by_graph: dict[bytes, list[str]] = {}
        for row in table.rows:
            run = row.run.parts[0] if row.run.parts else row.run
            file = next(reader.files(run, GRAPH_PICTURE), None) if OF_TEAMS in row.run.metrics else None
            if file is not None:
                names_by_graph.setdefault(file.read_bytes(), []).append(name_of(row, table.keys))
        return [JobPicture(names, file) for file, names in [*names_by_graph.items()][:MOST_GRAPHS]]


def _survival(table: Table) -> list[SurvivalTable]:
    return table.of(SurvivalOfTable).found


def survival_in(run: Run, reader: Reader) -> SurvivalTable | None:
    """Return how often each edge survived in the seeds of a run; None, and a note, if a graph
    cannot be read."""
    # imports numpy, which most comparisons do not need
    from runner.options.agents import graph_file

    roles: tuple[str, ...] = ()
    kinds: dict[str, list[EdgesOfSeed]] = {}
    for part in run.parts:
        path = next(reader.files(part, GRAPH), None)
        if path is None:
            say(
                f"note: no survival of edges: {part.job_id} has no {GRAPH}, neither in its folder nor in MLflow"
            )
            return None
        try:
            saved = graph_file.load(path)
        except DataError as error:
            say(f"note: no survival of edges: {error}")
            return None
        roles = saved.roles
        rounds = int(float(part.value("task.num_rounds") or 1))
        for kind, edges in edges_of(saved.graph, rounds).items():
            kinds.setdefault(kind, []).append(edges)
    return SurvivalTable(run.job_id, roles, len(run.parts), survival_of(kinds))


def edges_of(graph: Graph, rounds: int) -> Mapping[str, EdgesOfSeed]:
    """Return the edges that a graph allows, of each kind that so many rounds use and that was
    learned.

    Where each round has its own edges, they are a kind for each round.
    """
    found: dict[str, EdgesOfSeed] = {}
    for kind, edges in graph.kinds.items():
        if not edges.optimized or (kind == "temporal" and rounds < 2):
            continue
        first, agents = (2 if kind == "temporal" else 1), range(graph.agents)
        for number, square in enumerate(edges.squares):
            weights = square.weights
            found[kind if graph.rounds is None else f"{kind}, round {number + first}"] = {
                (source, target): EdgeOfSeed(
                    bool(square.live[source, target]), float(weights[source, target])
                )
                for source in agents
                for target in agents
                if square.allowed[source, target]
            }
    return found


def survival_columns(found: SurvivalTable) -> list[Column]:
    """Return the columns of the table of edges, those that survive most often first."""
    edges = sorted(
        found.edges, key=lambda edge: (edge.kind, -edge.share, -edge.probability, edge.source, edge.target)
    )
    names = [f"{number + 1} {role}" for number, role in enumerate(found.roles)]
    return [
        Column(
            "edge", [f"{names[edge.source]} → {names[edge.target]}" for edge in edges], False, use=Use.setting
        ),
        Column("kind", [edge.kind for edge in edges], False, use=Use.result),
        Column("survived", [f"{edge.survived} of {edge.seeds} seeds" for edge in edges], use=Use.result),
        Column("by chance", [f"{edge.by_chance * edge.seeds:.1f}" for edge in edges]),
        Column("mean probability\npruned: 0", [f"{edge.probability:.2f}" for edge in edges]),
        Column("Holm", [p_value(edge.p_holm) for edge in edges], use=Use.verdict),
        Column("finding", [edge.finding or "no difference shown" for edge in edges], False, use=Use.verdict),
    ]


def _name(table: Table, found: SurvivalTable) -> str:
    row = table.row(found.job_id)
    return name_of(row, table.keys) if table.keys else graph_words(row.run)


def survival_record(found: SurvivalTable) -> dict[str, Any]:
    """Return a table of edges as plain data; agents are numbered from 1."""
    edges = [
        {
            **asdict(edge),
            "source": edge.source + 1,
            "target": edge.target + 1,
            "finding": edge.finding or "no difference shown",
        }
        for edge in found.edges
    ]
    return {"job_id": found.job_id, "roles": list(found.roles), "seeds": found.seeds, "edges": edges}


SECTION = GraphsSection()
