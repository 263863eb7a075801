"""A team's graph as a JSON file: a job saves it, and task.graph=FILE reads it.

    {"version": 2, "mode": "star", "agents": 2, "roles": ["Math Solver", "Inspector"],
     "learned": {"iterations": 10, "questions": 40, "seed": 0, "settings": {"lr": 0.1}},  (null: never trained)
     "spatial":  {"optimized": true, "allowed": [[0, 1], [0, 0]], "live": [[0, 1], [0, 0]], "logits": [[0, 0.4], …]},
     "temporal": …, "rounds": null, "silent": []}

"rounds" and "silent" are left of a method that is gone, in which each round had its own edges.
Version 1 had neither key.

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
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from runner.core.json_fields import Fields
from runner.options.agents.graph import Edges, Graph, Kind
from runner.options.agents.keys import Mode
from runner_base import DataError, load_json, reading, unknown

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
        *(f'"{key}": {json.dumps(value)}' for key, value in OF_ROUNDS.items()),
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
    return hashlib.sha256(json.dumps([graph.mode.value, drawn_from]).encode()).hexdigest()


def _edges_text(edges: Edges) -> str:
    rows = {"allowed": edges.allowed.astype(int), "live": edges.live.astype(int), "logits": edges.logits}
    inner = [f'"optimized": {json.dumps(edges.optimized)}']
    inner += [f'"{name}": {_array_text(array)}' for name, array in rows.items()]
    return "{\n  " + ",\n  ".join(inner) + "}"


def _array_text(array: NDArray[Any]) -> str:
    """Return a matrix with a line for each row."""
    margin = "\n    "
    rows = [json.dumps(row.tolist(), allow_nan=False) for row in array]
    return f"[{margin}" + f",{margin}".join(rows) + "]"


class _GraphFields(Fields):
    """Reads a graph file's values; an error names the file, the key and what was found."""

    def saved(self, values: dict[str, Any]) -> Saved:
        """Everything."""
        version = values.get("version")
        if type(version) is not int or version not in (1, VERSION):
            self.fail("version", f"1 or {VERSION}", version)
        self.only("", OF_ROUNDS | values if version == 1 else values, KEYS)
        for key, value in OF_ROUNDS.items():
            if values.get(key, value) != value:
                need = f"{json.dumps(value)}, since all rounds share the edges,"
                self.fail(key, need, values[key])
        self.one_of("mode", values["mode"], tuple(mode.value for mode in Mode))
        mode, agents = Mode(values["mode"]), self.count("agents", values["agents"])
        if agents < 1 or (mode is Mode.direct_answer and agents != 1):
            self.fail("agents", "1 for direct_answer" if mode is Mode.direct_answer else "at least 1", agents)
        roles = self.many("roles", values["roles"])
        if len(roles) != agents:
            self.fail("roles", f"a name for each of {agents} agents", roles)
        names = tuple(self.name(f"roles[{number}]", role) for number, role in enumerate(roles))
        spatial, temporal = (self.edges(kind, values[kind], agents) for kind in get_args(Kind))
        if spatial.allowed.diagonal().any():
            self.fail("spatial.allowed", "0 from an agent to itself", 1)
        return Saved(Graph(mode, spatial, temporal), names, self.learned(values["learned"]))

    def edges(self, kind: Kind, value: object, agents: int) -> Edges:
        values = self.table(kind, value)
        self.only(kind, values, ("optimized", "allowed", "live", "logits"))
        if type(values["optimized"]) is not bool:
            self.fail(f"{kind}.optimized", "true or false", values["optimized"])
        allowed, live = (
            self.square(f"{kind}.{name}", values[name], agents, np.bool_) for name in ("allowed", "live")
        )
        for source, target in np.argwhere(live & ~allowed).tolist():
            self.fail(f"{kind}.live[{source}][{target}]", f"0, as in {kind}.allowed,", 1)
        logits = self.square(f"{kind}.logits", values["logits"], agents, np.float64)
        return Edges(allowed, live, logits, values["optimized"])

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
                need = "a text, a finite number, true, false or null"
                self.fail(key, need, setting)
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
