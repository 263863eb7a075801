"""Section of the comparison report that shows the team graphs of the jobs."""

from __future__ import annotations

from runner_base.result import GRAPH_PICTURE
from runner_compare import JobPicture, Reader, Section, Table, format_row_name

OF_TEAMS = "spatial_edges_after"  # a metric that only teams of agents have
MOST_GRAPHS = 24  # that the page shows


class GraphsSection(Section):
    def job_pictures(self, table: Table, reader: Reader) -> list[JobPicture]:
        """Return a table with a picture of each run's graph. A run that pools several jobs shows the first
        job's graph.

        Equal graphs share one picture: neither quantization nor adapter changes an untrained graph.
        """
        names_by_graph: dict[bytes, list[str]] = {}
        for row in table.rows:
            run = row.run.parts[0] if row.run.parts else row.run
            file = next(reader.find_files(run, GRAPH_PICTURE), None) if OF_TEAMS in row.run.metrics else None
            if file is not None:
                names_by_graph.setdefault(file.read_bytes(), []).append(format_row_name(row, table.keys))
        return [JobPicture(names, file) for file, names in [*names_by_graph.items()][:MOST_GRAPHS]]


SECTION = GraphsSection()
