"""Reads and writes the JSON file of a team's graph. A job saves the file, and task.graph=FILE
loads it.

{"version": 2, "mode": "star", "agents": 2, "roles": ["Math Solver", "Inspector"],
 "learned": {"iterations": 10, "questions": 40, "seed": 0, "settings": {"lr": 0.1}},
 "spatial":  {"optimized": true, "allowed": [[0, 1], [0, 0]], "live": [[0, 1], [0, 0]],
              "logits": [[0, 0.4], …]},
 "temporal": …, "rounds": null, "silent": []}

"learned" is null for a graph that was never trained. "rounds" and "silent" remain from a
removed method, in which each round had its own edges. Version 1 had neither key.

Matrix row = speaking agent, column = listening agent. The file may come from anywhere, so
everything in it is checked.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from runner.core.json_fields import JsonFieldReader
from runner.options.agents.graph import Edges, Graph, Kind
from runner.options.agents.keys import Topology
from runner_base import DataError, format_unknown_choice_message, load_json_object, os_errors_as_data_error

VERSION = 2
MAX_BYTES = 4 * 2**20  # 64 agents need less than 1 MiB
LONGEST_NAME = 80  # characters of a role's name or of a setting's
OF_ROUNDS: dict[str, Any] = {"rounds": None, "silent": []}
KEYS = ("version", "mode", "agents", "roles", "learned", *OF_ROUNDS, "spatial", "temporal")

CELLS: dict[
    type[Any], tuple[Callable[[Any], bool], str]
] = {  # what a cell of a matrix may be, and its description
    np.bool_: (lambda cell: type(cell) is int and cell in (0, 1), "0 or 1"),
    # NaN is none
    np.float64: (lambda cell: type(cell) in (int, float) and abs(cell) < 1e300, "a number"),
}

Setting = str | int | float | bool | None


@dataclass(frozen=True)
class TrainingRecord:
    """Method, settings and results of a graph's training, as stored in its file."""

    iterations: int
    questions: int
    seed: int
    settings: dict[str, Setting] = field(default_factory=dict)  # of the training, by name


@dataclass(frozen=True)
class SavedGraph:
    """Contents of a graph file. `learned` is None for an untrained graph."""

    graph: Graph
    roles: tuple[str, ...]
    learned: TrainingRecord | None


def format_graph_json(
    graph: Graph, roles: Sequence[str], training_record: TrainingRecord | None = None
) -> str:
    """Return a graph as JSON text with one line per matrix row."""
    assert len(roles) == graph.num_agents
    lines = [
        f'"version": {VERSION}',
        f'"mode": {json.dumps(graph.mode.value)}',
        f'"agents": {graph.num_agents}',
        f'"roles": {json.dumps(list(roles), ensure_ascii=False)}',
        f'"learned": {json.dumps(None if training_record is None else asdict(training_record), allow_nan=False)}',
        *(f'"{key}": {json.dumps(value)}' for key, value in OF_ROUNDS.items()),
        *(f'"{kind}": {_format_edges(edges)}' for kind, edges in graph.edges_by_kind.items()),
    ]
    return "{\n " + ",\n ".join(lines) + "\n}\n"


def load_graph(path: str | Path) -> SavedGraph:
    """Read a graph file. Raises DataError with the file and the key if the file is invalid."""
    path = Path(path).expanduser()
    if path.is_dir():
        raise DataError(
            "this is a folder. Give the graph.json that a job has saved", key=path, code="bad_value"
        )
    with os_errors_as_data_error(path):
        if path.exists() and not path.is_file():
            raise DataError(
                "this is not a regular file. Give the graph.json that a job has saved",
                key=path,
                code="bad_value",
            )
        if path.stat().st_size > MAX_BYTES:
            raise DataError(
                f"the file has {path.stat().st_size:,} bytes; a graph has at most {MAX_BYTES:,}",
                key=path,
                code="too_large",
            )
    return _GraphReader(path).parse_saved_graph(load_json_object(path))


def hash_graph(graph: Graph) -> str:
    """Hash a graph. Graphs with the same topology and the same edge probabilities have equal hashes."""
    drawn_from = {
        kind: [edges.optimized, edges.live.tolist(), np.where(edges.live, edges.logits, 0).tolist()]
        if edges.optimized
        else [edges.optimized, edges.live.tolist()]
        for kind, edges in graph.edges_by_kind.items()
    }
    return hashlib.sha256(json.dumps([graph.mode.value, drawn_from]).encode()).hexdigest()


def _format_edges(edges: Edges) -> str:
    rows = {"allowed": edges.allowed.astype(int), "live": edges.live.astype(int), "logits": edges.logits}
    inner = [f'"optimized": {json.dumps(edges.optimized)}']
    inner += [f'"{name}": {_format_matrix(array)}' for name, array in rows.items()]
    return "{\n  " + ",\n  ".join(inner) + "}"


def _format_matrix(array: NDArray[Any]) -> str:
    margin = "\n    "
    rows = [json.dumps(row.tolist(), allow_nan=False) for row in array]
    return f"[{margin}" + f",{margin}".join(rows) + "]"


class _GraphReader(JsonFieldReader):
    """Validates the values in a graph file. Errors name the file, the key and the invalid value."""

    def parse_saved_graph(self, values: dict[str, Any]) -> SavedGraph:
        version = values.get("version")
        if type(version) is not int or version not in (1, VERSION):
            self.raise_error("version", f"1 or {VERSION}", version)
        self.require_keys("", OF_ROUNDS | values if version == 1 else values, KEYS)
        for key, value in OF_ROUNDS.items():
            if values.get(key, value) != value:
                need = f"{json.dumps(value)} (all rounds share the edges)"
                self.raise_error(key, need, values[key])
        self.read_choice("mode", values["mode"], tuple(mode.value for mode in Topology))
        mode, agents = Topology(values["mode"]), self.read_non_negative_integer("agents", values["agents"])
        if agents < 1 or (mode is Topology.direct_answer and agents != 1):
            self.raise_error(
                "agents", "1 for direct_answer" if mode is Topology.direct_answer else "at least 1", agents
            )
        roles = self.read_list("roles", values["roles"])
        if len(roles) != agents:
            self.raise_error("roles", f"a list with one role for each of the {agents} agents", roles)
        names = tuple(self.parse_name(f"roles[{number}]", role) for number, role in enumerate(roles))
        spatial, temporal = (self.parse_edges(kind, values[kind], agents) for kind in get_args(Kind))
        if spatial.allowed.diagonal().any():
            self.raise_error("spatial.allowed", "0 from an agent to itself", 1)
        return SavedGraph(
            Graph(mode, spatial, temporal), names, self.parse_training_record(values["learned"])
        )

    def parse_edges(self, kind: Kind, value: object, num_agents: int) -> Edges:
        values = self.read_object(kind, value)
        self.require_keys(kind, values, ("optimized", "allowed", "live", "logits"))
        if type(values["optimized"]) is not bool:
            self.raise_error(f"{kind}.optimized", "true or false", values["optimized"])
        allowed, live = (
            self.parse_square_matrix(f"{kind}.{name}", values[name], num_agents, np.bool_)
            for name in ("allowed", "live")
        )
        for source, target in np.argwhere(live & ~allowed).tolist():
            self.raise_error(f"{kind}.live[{source}][{target}]", f"0, as in {kind}.allowed,", 1)
        logits = self.parse_square_matrix(f"{kind}.logits", values["logits"], num_agents, np.float64)
        return Edges(allowed, live, logits, values["optimized"])

    def parse_training_record(self, value: object) -> TrainingRecord | None:
        if value is None:
            return None
        values = self.read_object("learned", value)
        self.require_keys("learned", values, ("iterations", "questions", "seed", "settings"))
        if type(values["seed"]) is not int:
            self.raise_error("learned.seed", "a whole number", values["seed"])
        settings = self.read_object("learned.settings", values["settings"])
        for name, setting in settings.items():
            key = f"learned.settings.{self.parse_name('learned.settings', name)}"
            is_finite = isinstance(setting, float) and math.isfinite(setting)
            if not (is_finite or setting is None or isinstance(setting, (str, int))):
                need = "a string, a finite number, true, false or null"
                self.raise_error(key, need, setting)
        iterations, questions = (
            self.read_non_negative_integer(f"learned.{name}", values[name])
            for name in ("iterations", "questions")
        )
        return TrainingRecord(iterations, questions, values["seed"], settings)

    def parse_square_matrix(self, key: str, value: object, num_agents: int, dtype: type[Any]) -> NDArray[Any]:
        rows, (fits, need) = self.read_list(key, value), CELLS[dtype]
        if len(rows) != num_agents:
            raise DataError(
                f"{key}: expected {num_agents} lists, one per agent, found {len(rows)}",
                key=self.path,
                code="damaged",
            )
        for number, row in enumerate(rows):
            cells = len(self.read_list(f"{key}[{number}]", row))
            if cells != num_agents:
                raise DataError(
                    f"{key}[{number}]: expected {num_agents} entries, found {cells}",
                    key=self.path,
                    code="damaged",
                )
        for source, target in itertools.product(range(num_agents), repeat=2):
            if not fits(cell := rows[source][target]):
                self.raise_error(f"{key}[{source}][{target}]", need, cell)
        return np.array(rows, dtype=dtype)

    def parse_name(self, key: str, value: object) -> str:
        if (
            not isinstance(value, str)
            or not value.strip()
            or not value.isprintable()
            or len(value) > LONGEST_NAME
        ):
            self.raise_error(key, f"a name of 1 to {LONGEST_NAME} printable characters", value)
        return str(value)

    def require_keys(self, section: str, values: dict[str, Any], keys: tuple[str, ...]) -> None:
        """Raise DataError for a missing or unknown key."""
        inside = f"{section}." if section else ""
        for key in keys:
            if key not in values:
                raise DataError(f"{inside}{key} is missing", key=self.path, code="damaged")
        where = f" (in {section})" if section else ""
        for key in values:
            if key not in keys:
                message = format_unknown_choice_message("key", key[:LONGEST_NAME], keys)
                raise DataError(message + where, key=self.path, code="unknown_choice")
