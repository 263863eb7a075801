"""What is saved is what comes back, and a damaged or hostile file is refused by file and key."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.options.agents.graph import Graph
from runner.options.agents.graph_file import TrainingRecord, format_graph_json, hash_graph, load_graph
from runner.options.agents.graph_training import GraphTrainer
from runner.options.agents.keys import Topology
from runner.options.agents.training_methods import RunnerMethod
from runner_base.errors import DataError

ROLES = ("Math Solver", "Mathematical Analyst", "Programming Expert", "Inspector")
ONES = [[1] * 4] * 4
LEARNED = TrainingRecord(10, 40, 7, {"lr": 0.1, "baseline": "mean", "nuclear_norm": None, "shuffled": True})


Change = Callable[[dict[str, Any]], object]


def put(*place: str | int, value: object) -> Change:
    """A change that puts a value at a place."""

    def change(values: Any) -> None:
        for key in place[:-1]:
            values = values[key]
        values[place[-1]] = value

    return change


def trained(seed: int = 0) -> Graph:
    graph = Graph.create_from_topology(Topology.full_connected, 4, seed=seed, train_spatial=True)
    learner, rng = GraphTrainer(graph, RunnerMethod()), random.Random(seed)
    for _ in range(10):
        learner.update_edges_from_answers(
            [([graph.draw_round_edges(rng, 0)], rng.random() < 0.5) for _ in range(4)]
        )
    return graph


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "graph.json"
    path.write_text(format_graph_json(trained(), ROLES, LEARNED))
    return path


def test_a_learned_graph_comes_back_to_the_last_bit_and_draws_the_same_rounds(saved: Path) -> None:
    graph, back = trained(), load_graph(saved)
    assert (back.roles, back.learned, back.graph.mode) == (ROLES, LEARNED, Topology.full_connected)
    for kind, edges in graph.edges_by_kind.items():
        read = back.graph.edges_by_kind[kind]
        assert read.optimized is edges.optimized
        for name in ("allowed", "live", "logits"):
            np.testing.assert_array_equal(getattr(read, name), getattr(edges, name))
            assert getattr(read, name).dtype == getattr(edges, name).dtype
    assert (back.graph.spatial.num_live, back.graph.temporal.num_live) == (7, 16)
    one, other = random.Random(3), random.Random(3)
    assert [graph.draw_round_edges(one, number) for number in range(9)] == [
        back.graph.draw_round_edges(other, number) for number in range(9)
    ]
    assert format_graph_json(back.graph, back.roles, back.learned) == saved.read_text()
    assert load_graph(str(saved)).learned == LEARNED


def test_a_file_of_version_1_is_read(saved: Path) -> None:
    now = load_graph(saved).graph
    values = json.loads(saved.read_text()) | {"version": 1}
    saved.write_text(
        json.dumps({name: value for name, value in values.items() if name not in ("rounds", "silent")})
    )
    assert hash_graph(load_graph(saved).graph) == hash_graph(now)


@pytest.mark.parametrize("mode", list(Topology))
def test_every_topology_is_saved_untrained(mode: Topology, tmp_path: Path) -> None:
    graph = Graph.create_from_topology(mode, 3, seed=1, initial_probability=0.7)
    path = tmp_path / "graph.json"
    path.write_text(format_graph_json(graph, ROLES[: graph.num_agents]))
    back = load_graph(path)
    assert back.learned is None
    assert hash_graph(back.graph) == hash_graph(graph)
    assert back.graph.spatial.list_live() == graph.spatial.list_live()


def test_the_digest_is_of_what_rounds_are_drawn_from() -> None:
    base = hash_graph(trained())
    other = trained()
    other.spatial.logits[~other.spatial.live] = 5.0  # pruned edges and the diagonal
    other.temporal.logits += 1.0  # not optimized: each live edge is taken, whatever its logit
    assert hash_graph(other) == base
    for change in ("logit", "live", "optimized", "fixed"):
        other = trained()
        if change == "logit":
            other.spatial.logits[other.spatial.live] += 1e-12
        elif change == "live":
            other.temporal.live[0, 0] = False
        elif change == "optimized":
            other.temporal.optimized = True
        else:
            other.spatial.optimized = False
        assert hash_graph(other) != base, change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("version", value=3), "version: 1 or 2 expected, found 3"),
        (put("version", value=True), "version: 1 or 2 expected, found True"),
        (lambda values: values.pop("version"), "version: 1 or 2 expected, found None"),
        (put("rounds", value=3), "rounds: null (all rounds share the edges) expected, found 3"),
        (put("silent", value=[[1]]), "silent: [] (all rounds share the edges) expected, found [[1]]"),
        (lambda values: values.pop("learned"), "learned is missing"),
        (lambda values: values["spatial"].pop("live"), "spatial.live is missing"),
        (put("note", value="x"), "no key 'note'. Choices: agents, "),
        (put("spatial", "masks", value=[]), "no key 'masks'. Choices: allowed, live, logits, optimized (in spatial)"),
        (put("mode", value="ring"), "mode: direct_answer or full_connected or random or chain or debate or layered or star expected, found 'ring'"),
        (put("mode", value=["star"]), "mode: direct_answer"),
        (put("mode", value="direct_answer"), "agents: 1 for direct_answer expected, found 4"),
        (put("agents", value=0), "agents: at least 1 expected, found 0"),
        (put("agents", value=4.0), "agents: a whole number from 0 expected, found 4.0"),
        (put("agents", value=True), "agents: a whole number from 0 expected, found True"),
        (put("agents", value=-1), "agents: a whole number from 0 expected, found -1"),
        (put("agents", value=10**15), "roles: a list with one role for each of the 1000000000000000 agents expected, found ["),
        (put("roles", value=ROLES[:3]), "roles: a list with one role for each of the 4 agents expected, found ["),
        (put("roles", value="solver"), "roles: a list expected, found 'solver'"),
        (put("roles", 1, value="\x1b[31mred"), "roles[1]: a name of 1 to 80 printable characters expected, found '\\x1b[31mred'"),
        (put("roles", 1, value="x" * 81), "roles[1]: a name of 1 to 80"),
        (put("roles", 1, value=" "), "roles[1]: a name of 1 to 80"),
        (put("roles", 3, value=None), "roles[3]: a name of 1 to 80"),
        (put("spatial", value=[1]), "spatial: a JSON object expected, found [1]"),
        (put("spatial", "optimized", value=1), "spatial.optimized: true or false expected, found 1"),
        (put("spatial", "live", value=[[0]]), "spatial.live: expected 4 lists, one per agent, found 1"),
        (put("spatial", "live", 2, value=[0, 0, 0]), "spatial.live[2]: expected 4 entries, found 3"),
        (put("spatial", "live", 2, value={"0": 1}), "spatial.live[2]: a list expected, found {'0': 1}"),
        (put("temporal", "allowed", 0, 3, value=2), "temporal.allowed[0][3]: 0 or 1 expected, found 2"),
        (put("temporal", "allowed", 0, 3, value=1.0), "temporal.allowed[0][3]: 0 or 1 expected, found 1.0"),
        (put("temporal", "allowed", 0, 3, value=True), "temporal.allowed[0][3]: 0 or 1 expected, found True"),
        (put("temporal", "allowed", 0, 3, value=0), "temporal.live[0][3]: 0, as in temporal.allowed, expected, found 1"),
        (put("spatial", "allowed", 1, 1, value=1), "spatial.allowed: 0 from an agent to itself expected"),
        (put("spatial", "logits", 1, 2, value=float("nan")), "spatial.logits[1][2]: a number expected, found nan"),
        (put("spatial", "logits", 1, 2, value=float("-inf")), "spatial.logits[1][2]: a number expected, found -inf"),
        (put("spatial", "logits", 1, 2, value=10**400), "spatial.logits[1][2]: a number expected, found 1000"),
        (put("spatial", "logits", 1, 2, value="0"), "spatial.logits[1][2]: a number expected, found '0'"),
        (put("spatial", "logits", 1, 2, value=False), "spatial.logits[1][2]: a number expected, found False"),
        (put("spatial", "logits", 1, value=None), "spatial.logits[1]: a list expected, found None"),
        (put("learned", value=3), "learned: a JSON object expected, found 3"),
        (put("learned", "iterations", value=-1), "learned.iterations: a whole number from 0 expected, found -1"),
        (put("learned", "questions", value="40"), "learned.questions: a whole number from 0 expected, found '40'"),
        (put("learned", "seed", value=0.5), "learned.seed: a whole number expected, found 0.5"),
        (put("learned", "settings", value=[]), "learned.settings: a JSON object expected, found []"),
        (put("learned", "settings", "lr", value=float("nan")), "learned.settings.lr: a string, a finite number, true, false or null expected, found nan"),
        (put("learned", "settings", "lr", value=[1]), "learned.settings.lr: a string, a finite number, true, false or null expected, found [1]"),
        (put("learned", "settings", "a\nb", value=1), "learned.settings: a name of 1 to 80"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_by_file_and_key(change: Change, message: str, saved: Path) -> None:
    values = json.loads(saved.read_text())
    change(values)
    saved.write_text(json.dumps(values))
    with pytest.raises(DataError) as error:
        load_graph(saved)
    assert str(error.value).startswith(f"{saved}: {message}")
    assert len(str(error.value)) < 600 + len(str(saved))


def test_a_mask_may_have_cycles_and_extreme_weights(saved: Path) -> None:
    values = json.loads(saved.read_text())
    values["spatial"]["live"] = values["spatial"]["allowed"]
    values["spatial"]["logits"] = [[1e299, -1e299, 0, 5]] * 4
    saved.write_text(json.dumps(values))
    graph = load_graph(saved).graph
    drawn = graph.draw_round_edges(random.Random(0), 1)
    assert drawn.log_prob <= 0
    assert not {(target, source) for source, target in drawn.spatial} & set(drawn.spatial)


def test_what_is_no_graph_file_is_refused(saved: Path, tmp_path: Path) -> None:
    def refused(path: Path, text: str) -> None:
        with pytest.raises(DataError, match=text):
            load_graph(path)

    refused(tmp_path / "none.json", "cannot read .*none.json .No such file")
    refused(tmp_path, "this is a folder. Give the graph.json that a job has saved")
    refused(Path("/dev/zero"), "not a regular file")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "not a regular file")
    for text, message in {
        "": "not readable as JSON",
        "[1]": "a JSON object expected",
        "[" * 100_000: "not readable as JSON",
        '{"version": 1, "version": 1}': "the key 'version' is duplicated",
        saved.read_text()[:-20]: "not readable as JSON",
        f'{{"version": {"9" * 5000}}}': "not readable as JSON",
    }.items():
        saved.write_text(text)
        refused(saved, message)
    saved.write_bytes(b'{"version": "\xff"}')
    refused(saved, "not readable as JSON")
    with saved.open("wb") as stream:
        stream.truncate(2**40)
    refused(saved, "1,099,511,627,776 bytes; a graph has at most")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.thorough
@pytest.mark.slow
@settings(max_examples=200)
@given(data=st.data())
def test_whatever_stands_in_a_place_is_read_or_refused(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    values = json.loads(format_graph_json(trained(), ROLES, LEARNED))
    inside: Any = values
    while True:
        key = data.draw(st.sampled_from(sorted(inside) if isinstance(inside, dict) else range(len(inside))))
        if not isinstance(inside[key], (dict, list)) or not inside[key] or data.draw(st.booleans()):
            break
        inside = inside[key]
    inside[key] = data.draw(JSON)
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(values))
    try:
        back = load_graph(path)
    except DataError as error:
        assert str(error).startswith(f"{path}: ")  # noqa: PT017 # being read is fine, too
    else:
        for number in range(2):
            assert back.graph.draw_round_edges(random.Random(0), number).log_prob <= 0
