"""A team's graph as a JSON file: a job saves it, and task.graph=FILE reads it.

    {"version": 2, "mode": "star", "agents": 2, "roles": ["Math Solver", "Inspector"],
     "learned": {"iterations": 10, "questions": 40, "seed": 0, "settings": {"lr": 0.1}},  (null: never trained)
     "spatial":  {"optimized": true, "allowed": [[0, 1], [0, 0]], "live": [[0, 1], [0, 0]], "logits": [[0, 0.4], …]},
     "temporal": …}

Where each round has its own matrices, "rounds" is their number and not null, allowed, live and
logits are lists of matrices (temporal ones: from the second round on), and "silent" lists for each
round the agents that are not called. Version 1 had neither key.

Row = who speaks, column = who listens. The file may come from anywhere, so everything in it is
checked.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runner.core.json_fields import Fields
from runner.options.agents.graph import Edges, Graph, Kind
from runner.options.agents.keys import MAX_ROUNDS, Mode
from runner_base import DataError, load_json, reading, unknown

VERSION = 2
# 64 agents need less than 1 MiB, or 24 if each of 100 rounds has its own matrices
MAX_BYTES = 32 * 2**20
LONGEST_NAME = 80  # characters of a role's name or of a setting's
KEYS = ("version", "mode", "agents", "roles", "learned", "rounds", "silent", "spatial", "temporal")
NEW_KEYS = ("rounds", "silent")  # of version 2

CELLS: dict[
    type[Any], tuple[Callable[[Any], bool], str]
] = {  # what a cell of a matrix may be, and its description
    np.bool_: (lambda cell: type(cell) is int and cell in (0, 1), "0 or 1"),
    # NaN is none
    np.float64: (lambda cell: type(cell) in (int, float) and abs(cell) < 1e300, "a number"),
}

Setting = str | int | float | bool | None


@dataclass(frozen=True)
class Learned:
    """How a graph was learned."""

    iterations: int
    questions: int
    seed: int
    settings: dict[str, Setting] = field(default_factory=dict)  # of the training, by name


@dataclass(frozen=True)
class Saved:
    """The content of a graph file; `learned` is None for a graph that was never trained."""

    graph: Graph
    roles: tuple[str, ...]
    learned: Learned | None


def to_json(graph: Graph, roles: Sequence[str], learned: Learned | None = None) -> str:
    """Return the text of a graph file; each row of a matrix is a line."""
    assert len(roles) == graph.agents
    lines = [
        f'"version": {VERSION}',
        f'"mode": {json.dumps(graph.mode.value)}',
        f'"agents": {graph.agents}',
        f'"roles": {json.dumps(list(roles), ensure_ascii=False)}',
        f'"learned": {json.dumps(None if learned is None else asdict(learned), allow_nan=False)}',
        f'"rounds": {json.dumps(graph.rounds)}',
        f'"silent": {json.dumps([graph.silent_in(number) for number in range(graph.rounds or 0)])}',
        *(f'"{kind}": {_edges_text(edges)}' for kind, edges in graph.kinds.items()),
    ]
    return "{\n " + ",\n ".join(lines) + "\n}\n"


def load(path: str | Path) -> Saved:
    """Read a graph file; DataError names the file and the key if anything in it is invalid."""
    path = Path(path).expanduser()
    if path.is_dir():
        raise DataError(
            "this is a folder; give the graph.json that a job has saved", key=path, code="bad_value"
        )
    with reading(path):
        if path.exists() and not path.is_file():
            raise DataError("this is not an ordinary file", key=path, code="bad_value")
        if path.stat().st_size > MAX_BYTES:
            raise DataError(
                f"{path.stat().st_size:,} bytes, and no graph needs more than {MAX_BYTES:,}",
                key=path,
                code="too_large",
            )
    return _GraphFields(path).saved(load_json(path))


def sha256(graph: Graph) -> str:
    """Return the digest of the edges that rounds are drawn from: equal for all files of equivalent
    graphs."""
    drawn_from = {
        kind: [edges.optimized, edges.live.tolist(), np.where(edges.live, edges.logits, 0).tolist()]
        if edges.optimized
        else [edges.optimized, edges.live.tolist()]
        for kind, edges in graph.kinds.items()
    }
    parts = [graph.mode.value, drawn_from, *([sorted(graph.silent)] if graph.silent else [])]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _edges_text(edges: Edges) -> str:
    rows = {"allowed": edges.allowed.astype(int), "live": edges.live.astype(int), "logits": edges.logits}
    inner = [f'"optimized": {json.dumps(edges.optimized)}']
    inner += [f'"{name}": {_array_text(array)}' for name, array in rows.items()]
    return "{\n  " + ",\n  ".join(inner) + "}"


def _array_text(array: NDArray[Any], margin: str = "\n    ") -> str:
    """Return a matrix with a line for each row, or a stack of such matrices."""
    deeper = array.ndim > 2
    rows = [
        _array_text(row, margin + " ") if deeper else json.dumps(row.tolist(), allow_nan=False)
        for row in array
    ]
    return f"[{margin}" + f",{margin}".join(rows) + "]"


def _cell(key: str, index: Sequence[int]) -> str:
    return key + "".join(f"[{number}]" for number in index)


class _GraphFields(Fields):
    """Reads a graph file's values; an error names the file, the key and what was found."""

    def saved(self, values: dict[str, Any]) -> Saved:
        """Everything."""
        version = values.get("version")
        if type(version) is not int or version not in (1, VERSION):
            self.fail("version", f"1 or {VERSION}", version)
        self.only(
            "", values, KEYS if version == VERSION else tuple(key for key in KEYS if key not in NEW_KEYS)
        )
        self.one_of("mode", values["mode"], tuple(mode.value for mode in Mode))
        mode, agents = Mode(values["mode"]), self.count("agents", values["agents"])
        if agents < 1 or (mode is Mode.direct_answer and agents != 1):
            self.fail("agents", "1 for direct_answer" if mode is Mode.direct_answer else "at least 1", agents)
        roles = self.many("roles", values["roles"])
        if len(roles) != agents:
            self.fail("roles", f"a name for each of {agents} agents", roles)
        names = tuple(self.name(f"roles[{number}]", role) for number, role in enumerate(roles))
        rounds = self.rounds(values.get("rounds"))
        spatial = self.edges("spatial", values["spatial"], agents, rounds)
        temporal = self.edges("temporal", values["temporal"], agents, None if rounds is None else rounds - 1)
        if spatial.allowed.diagonal(axis1=-2, axis2=-1).any():
            self.fail("spatial.allowed", "0 from an agent to itself", 1)
        silent = self.silent(values.get("silent", []), agents, rounds or 0)
        graph = Graph(mode, spatial, temporal, silent)
        for kind, edges in graph.kinds.items():
            for index in np.argwhere(edges.live & ~graph.possible(kind)).tolist():
                self.fail(_cell(f"{kind}.live", index), "0 for an agent that is silent", 1)
        return Saved(graph, names, self.learned(values["learned"]))

    def rounds(self, value: object) -> int | None:
        """How many rounds have matrices of their own."""
        if value is None:
            return None
        rounds = self.count("rounds", value)
        if not 1 <= rounds <= MAX_ROUNDS:
            self.fail("rounds", f"null, or a whole number in 1..{MAX_ROUNDS}", rounds)
        return rounds

    def silent(self, value: object, agents: int, rounds: int) -> frozenset[tuple[int, int]]:
        """The agents that are not called in each round; in each round one speaks."""
        rows = self.many("silent", value)
        if len(rows) != rounds:
            self.fail("silent", f"a list for each of {rounds} rounds with matrices of their own", rows)
        for number, row in enumerate(rows):
            for agent in self.many(f"silent[{number}]", row):
                if type(agent) is not int or not 0 <= agent < agents:
                    self.fail(f"silent[{number}]", f"agents in 0..{agents - 1}", agent)
            if len(set(row)) == agents:
                self.fail(f"silent[{number}]", "an agent that speaks", row)
        return frozenset((number, agent) for number, row in enumerate(rows) for agent in row)

    def edges(self, kind: Kind, value: object, agents: int, squares: int | None) -> Edges:
        values = self.table(kind, value)
        self.only(kind, values, ("optimized", "allowed", "live", "logits"))
        if type(values["optimized"]) is not bool:
            self.fail(f"{kind}.optimized", "true or false", values["optimized"])
        size = (agents, squares)
        allowed, live = (
            self.stack(f"{kind}.{name}", values[name], size, np.bool_) for name in ("allowed", "live")
        )
        for index in np.argwhere(live & ~allowed).tolist():
            self.fail(_cell(f"{kind}.live", index), f"0, as in {kind}.allowed,", 1)
        logits = self.stack(f"{kind}.logits", values["logits"], size, np.float64)
        return Edges(allowed, live, logits, values["optimized"])

    def stack(self, key: str, value: object, size: tuple[int, int | None], dtype: type[Any]) -> NDArray[Any]:
        """A matrix, or as many of them as rounds have such edges."""
        agents, squares = size
        if squares is None:
            return self.square(key, value, agents, dtype)
        matrices = self.many(key, value)
        if len(matrices) != squares:
            raise DataError(
                f"{key}: {squares} matrices expected, found {len(matrices)}", key=self.path, code="damaged"
            )
        found = [
            self.square(f"{key}[{number}]", matrix, agents, dtype) for number, matrix in enumerate(matrices)
        ]
        return np.stack(found) if found else np.empty((0, agents, agents), dtype)

    def learned(self, value: object) -> Learned | None:
        """How the graph was learned."""
        if value is None:
            return None
        values = self.table("learned", value)
        self.only("learned", values, ("iterations", "questions", "seed", "settings"))
        if type(values["seed"]) is not int:
            self.fail("learned.seed", "a whole number", values["seed"])
        settings = self.table("learned.settings", values["settings"])
        for name, setting in settings.items():
            key = f"learned.settings.{self.name('learned.settings', name)}"
            is_finite = isinstance(setting, float) and math.isfinite(setting)
            if not (is_finite or setting is None or isinstance(setting, (str, int))):
                self.fail(key, "a text, a finite number, true, false or null", setting)
        iterations, questions = (
            self.count(f"learned.{name}", values[name]) for name in ("iterations", "questions")
        )
        return Learned(iterations, questions, values["seed"], settings)

    def square(self, key: str, value: object, agents: int, dtype: type[Any]) -> NDArray[Any]:
        """A matrix with a row and a column for each agent."""
        rows, (fits, need) = self.many(key, value), CELLS[dtype]
        if len(rows) != agents:
            raise DataError(
                f"{key}: {agents} rows expected, one for each agent, found {len(rows)}",
                key=self.path,
                code="damaged",
            )
        for number, row in enumerate(rows):
            cells = len(self.many(f"{key}[{number}]", row))
            if cells != agents:
                raise DataError(
                    f"{key}[{number}]: {agents} cells expected, found {cells}", key=self.path, code="damaged"
                )
        for source, target in itertools.product(range(agents), repeat=2):
            if not fits(cell := rows[source][target]):
                self.fail(f"{key}[{source}][{target}]", need, cell)
        return np.array(rows, dtype=dtype)

    def name(self, key: str, value: object) -> str:
        """A text that fits on a line."""
        if (
            not isinstance(value, str)
            or not value.strip()
            or not value.isprintable()
            or len(value) > LONGEST_NAME
        ):
            self.fail(key, f"a name of 1 to {LONGEST_NAME} printable characters", value)
        return str(value)

    def only(self, where: str, values: dict[str, Any], keys: tuple[str, ...]) -> None:
        """Reject a missing key, and one that would not be read."""
        inside = f"{where}." if where else ""
        for key in keys:
            if key not in values:
                raise DataError(f"{inside}{key} is missing", key=self.path, code="damaged")
        for key in values:
            if key not in keys:
                raise DataError(
                    f"{unknown('key', key[:LONGEST_NAME], keys)}{f' (in {where})' if where else ''}",
                    key=self.path,
                    code="unknown_choice",
                )
