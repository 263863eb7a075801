"""What a team saves of a named graph's tokens: made jobs in which the truth is known, in both
directions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from json_schema import SCHEMA, faults
from stores import Store, marks
from team_jobs import team

from runner_compare.features.savings.render import describe_agent_graph
from runner_compare.model.data import Run

pytestmark = [pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")]

BASELINE = "task.mode=full_connected"
N = 60


def around(mean: float, seed: int = 0) -> list[int]:
    """Tokens of N questions with this mean, whose differences vary little."""
    draw = np.random.default_rng(seed)
    base = np.random.default_rng(99).integers(-200, 200, size=N)
    noise = draw.integers(-3, 4, size=N)
    values = mean + base - base.mean() + noise
    return [int(it) for it in values]


@pytest.mark.thorough
def test_the_words_name_the_graph_and_say_saved_only_where_it_is(store: Store, rows: Any, show: Any) -> None:
    team(store, "team-saved", "full", marks(45, N), around(1000), [100] * N)
    team(store, "team-saved", "chain", marks(44, N), around(880, 1), [100] * N, mode="chain")
    team(store, "team-saved", "star", marks(45, N), around(1050, 2), [110] * N, mode="star")
    found = {name: row.get("saved") for name, row in rows("team-saved", "--baseline", BASELINE).items()}
    assert found["full"] is None
    chain, star = found["chain"], found["star"]
    assert (chain["finding"], star["finding"]) == ("saves", "costs more")
    assert chain["tokens_a_question_low"] <= 120 <= chain["tokens_a_question_high"]
    assert star["tokens_a_question_low"] <= -60 <= star["tokens_a_question_high"]
    assert star["new_a_question"] == -10
    assert chain["baseline_graph"] == "the fixed full_connected graph with 12 spatial edges"
    assert chain["share"] == pytest.approx(120 / 1100, rel=0.02)
    _, out, _ = show("team-saved", "--baseline", BASELINE)
    lines = [line for line in out.splitlines() if line.startswith("• tokens of")]
    assert lines[0].startswith(
        "• tokens of the fixed chain graph with 3 spatial edges against the fixed full_connected graph with 12 spatial "
        f"edges, on {N} questions that both runs answered: saves 1"
    )
    assert "; accuracy: no difference shown (Δ −1.7 points, " in lines[0]
    assert ": saves no tokens and costs " in lines[1]
    assert " tokens per question more, " in lines[1]
    assert "correct per" in out
    assert "training" not in out


def test_training_is_paid_back_only_where_something_is_saved(store: Store, rows: Any, show: Any) -> None:
    kept = [(0, 1), (1, 2), (2, 3)]
    team(store, "team-paid", "full", marks(45, N), around(1000), [100] * N)
    team(
        store, "team-paid", "less", marks(45, N), around(900, 1), [100] * N, training_tokens=20_000, kept=kept
    )
    team(
        store,
        "team-paid",
        "more",
        marks(45, N),
        around(1100, 2),
        [100] * N,
        training_tokens=20_000,
        kept=kept,
        seed=1,
    )
    baseline = ["--baseline", "job_id=full"]
    saved = {name: row.get("saved") for name, row in rows("team-paid", *baseline).items()}
    less, more = saved["less"], saved["more"]
    assert less["training_tokens"] == 20_000
    assert less["paid_back_after_low"] <= 200 <= less["paid_back_after_high"]
    assert (more["paid_back_after"], more["finding"]) == (None, "costs more")
    _, out, _ = show("team-paid", *baseline)
    assert "the learned full_connected graph with 3 of 12 spatial edges" in out
    assert "training used 20,000 tokens. These pay off after " in out
    assert "training used 20,000 tokens. These do not pay off, because nothing is saved" in out


@pytest.mark.thorough
def test_equal_tokens_save_nothing(store: Store, rows: Any, show: Any) -> None:
    team(store, "team-same", "full", marks(45, N), around(1000), [100] * N)
    other = around(1000)
    other = [it + (5 if at % 2 else -5) for at, it in enumerate(other)]
    team(store, "team-same", "star", marks(45, N), other, [100] * N, mode="star")
    assert rows("team-same", "--baseline", BASELINE)["star"]["saved"]["finding"] == "no difference shown"
    assert ": no saving is shown: " in show("team-same", "--baseline", BASELINE)[1]


def test_only_questions_that_both_answered_count(store: Store, rows: Any) -> None:
    """The questions that ended in an error have few tokens: with them, the team would seem to
    save."""
    fewer = [1 if at < 10 else it for at, it in enumerate(around(1000))]
    team(store, "team-errors", "full", marks(N, N), around(1000), [100] * N)
    team(store, "team-errors", "star", marks(N, N, 10), fewer, [100] * N, mode="star", failed=range(10))
    saved = rows("team-errors", "--baseline", BASELINE)["star"]["saved"]
    assert (saved["questions"], saved["tokens_a_question"]) == (N - 10, 0)


def test_json_agrees_with_its_schema_and_csv_has_the_figures(store: Store, show: Any, tmp_path: Path) -> None:
    import csv
    import json

    team(store, "team-plain", "full", marks(45, N), around(1000), [100] * N)
    team(store, "team-plain", "chain", marks(44, N), around(880, 1), [100] * N, mode="chain")
    _, out, _ = show("team-plain", "--baseline", BASELINE, "--format", "json")
    assert list(faults(json.loads(out), SCHEMA)) == []
    assert show("team-plain", "--baseline", BASELINE, "--save", str(tmp_path))[0] == 0
    with (tmp_path / "comparison.csv").open() as file:
        lines = {line["job_id"]: line for line in csv.DictReader(file)}
    assert lines["chain"]["saved_finding"] == "saves"
    assert float(lines["full"]["tokens_correct_per_1000"]) == pytest.approx(1000 * 45 / N / 1100, rel=0.01)
    page = (tmp_path / "comparison.html").read_text()
    assert (
        "tokens of the fixed chain graph with 3 spatial edges against the fixed full_connected graph" in page
    )
    picture = (tmp_path / "tokens.svg").read_text()
    assert picture.count("stroke-opacity: 0.45") == 4, "each of two dots has a bar in both directions"


@pytest.mark.parametrize(
    ("params", "metrics", "words"),
    [
        ({"task.mode": "direct_answer"}, {}, "one agent, without a graph"),
        ({"task.mode": "star"}, {"spatial_edges_after": 6.0, "spatial_edges_before": 6.0, "temporal_edges_after": 16.0,
                                 "temporal_edges_before": 16.0},
         "the fixed star graph with 6 spatial, 16 temporal edges"),
        ({"task.mode": "star", "task.optimized_temporal": "True"}, {}, "the drawn star graph"),
        ({"task.mode": "star", "task.graph": "a/graph.json"}, {}, "the given star graph"),
    ],
)  # fmt: skip
def test_graphs_are_named(params: dict[str, str], metrics: dict[str, float], words: str) -> None:
    assert describe_agent_graph(Run("r", "j", "agents", "1", "", params, metrics)) == words
