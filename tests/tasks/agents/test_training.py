"""Training of a graph within task=agents: which questions, resuming, the saved graph given back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tasking import work
from teams import Starts, Team, calls_in, right, team

from runner.config.agents import Method, Mode
from runner.config.root import RunnerConfig
from runner.core.errors import ConfigError, JobFailed
from runner.core.result import GRAPH_PICTURE
from runner.report import headline
from runner.tasks.agents import task as agents
from runner.tasks.agents.calls import CALLS

Make = Callable[..., RunnerConfig]


def test_training_prunes_and_never_sees_the_scored_questions(make_config: Make, again: Starts) -> None:
    task = team(mode=Mode.full_connected, optimized_spatial=True)
    config = make_config(task=task)
    inputs = agents.prepare(config)
    assert len(inputs.train) == 40
    assert not {item.question for item in inputs.train} & {item.question for item in inputs.items}
    engine = Team(right(config))
    recorder = again()
    result = work(agents, config, recorder, engine)
    metrics = result.metrics
    assert (metrics["spatial_edges_before"], metrics["spatial_edges_after"]) == (12, 7)
    assert not [name for name in metrics if name.startswith("temporal")], "one round has no round before it"
    assert headline(metrics)["edges"] == "spatial 12 → 7"
    assert "Temporal" not in (recorder.folder / GRAPH_PICTURE).read_text()
    assert (metrics["train_questions"], metrics["train_solved"], metrics["train_calls"]) == (40, 40, 200)
    assert (metrics["calls"], metrics["train_prompt_tokens"], metrics["prompt_tokens"]) == (15, 20000, 1500)
    kept = {name: (recorder.folder / name).read_text() for name in (agents.GRAPH, GRAPH_PICTURE)}
    lines = (recorder.folder / CALLS).read_text().splitlines(keepends=True)
    (recorder.folder / CALLS).write_text("".join(lines[:100]))  # as if it had been killed amid the training
    for name in (agents.GRAPH, GRAPH_PICTURE, "samples.jsonl"):
        (recorder.folder / name).unlink()
    second = Team(right(config))
    recorder = again()
    resumed = work(agents, config, recorder, second)
    assert len(second.asked) == 115, "what was recorded is not asked"
    assert {name: (recorder.folder / name).read_text() for name in kept} == kept, "the same graph comes of it"
    names = [name for name in metrics if "edges" in name or "tokens" in name]
    assert {name: resumed.metrics[name] for name in names} == {name: metrics[name] for name in names}
    assert "100 calls were on disk from an earlier, interrupted run" in resumed.notes
    assert ("play_s" in metrics, "play_s" in resumed.metrics) == (True, False), "no time that is of a part only"


def test_an_error_in_training_stops_before_the_graph_is_a_wrong_one(make_config: Make, again: Starts) -> None:
    config = make_config(task=team(optimized_spatial=True, mode=Mode.full_connected, num_iterations=2))
    say = right(config)
    with pytest.raises(
        JobFailed, match="a training question ended in an error: Inspector, call train/5/0/0: error: gone"
    ):
        work(
            agents,
            config,
            again(),
            Team(lambda key, prompt: "error: gone" if key == "train/5/0/0" else say(key, prompt)),
        )
    engine = Team(say)
    assert work(agents, config, again(), engine).metrics["train_solved"] == 8
    assert not [key for key in engine.asked if key.startswith("train/0/")]
    unsolvable = Team(lambda key, prompt: "error for good" if key == "train/5/0/0" else say(key, prompt))
    (again().folder / CALLS).unlink()
    again().job.samples_path.unlink()
    assert work(agents, config, again(), unsolvable).metrics["train_solved"] == 7, (
        "it is a question that was not solved"
    )


def test_a_learned_graph_is_given_back(make_config: Make, again: Starts, tmp_path: Path) -> None:
    task = team(mode=Mode.full_connected, optimized_spatial=True, num_iterations=5)
    config = make_config(task=task)
    recorder = again()
    trained = work(agents, config, recorder, Team(right(config)))
    asked = {line["id"]: line["asked_sha256"] for line in calls_in(recorder)}
    saved = tmp_path / "elsewhere.json"
    saved.write_text((recorder.folder / agents.GRAPH).read_text())
    assert "learned" in saved.read_text()
    for name in (CALLS, "samples.jsonl"):
        (recorder.folder / name).unlink()
    used = make_config(task=team(mode=Mode.full_connected, graph=str(saved)))
    result = work(agents, used, again(), Team(right(config)))
    assert result.metrics["spatial_edges_before"] == trained.metrics["spatial_edges_after"] == 9
    assert "train_calls" not in result.metrics
    again_asked = {line["id"]: line["asked_sha256"] for line in calls_in(recorder)}
    assert again_asked.items() < asked.items(), "each question goes the way that it went after the training"
    copy = tmp_path / "copy.json"
    copy.write_text(saved.read_text())
    hashes = [
        agents.prepare(make_config(task=team(mode=mode, graph=str(path)))).hashes
        for mode, path in ((Mode.full_connected, saved), (Mode.full_connected, copy))
    ]
    assert hashes[0] == hashes[1]
    for keys, message in (
        ({"mode": Mode.chain}, "it is a full_connected graph of 4 agents, and task.mode=chain"),
        ({"agents": 5}, "task.agents=5: give task.mode=full_connected task.agents=4"),
        ({"roles": None}, "its agents are Inspector, .* and this team's Math Solver, .*: give the same task.roles"),
        ({"graph": str(tmp_path / "none.json")}, "task.graph=.*none.json"),
    ):
        with pytest.raises(ConfigError, match=message):
            agents.prepare(make_config(task=team(**{"mode": Mode.full_connected, "graph": str(saved)} | keys)))


def test_few_training_questions_are_put_again(make_config: Make, again: Starts, tmp_path: Path) -> None:
    for split, count in (("train", 3), ("test", 2)):
        lines = [{"question": f"{split} {at}?", "answer": f"#### {at}"} for at in range(count)]
        lines += [{"question": "test 1?", "answer": "#### 1"}] if split == "train" else []
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    task = team(data=str(tmp_path), optimized_spatial=True, mode=Mode.chain, num_iterations=2, imp_per_iterations=9)
    config = make_config(task=task)
    result = work(agents, config, again(), Team(right(config)))
    notes = " ".join(result.notes)
    assert "training needed 8 questions and there were 3: they were used repeatedly" in notes
    assert "1 questions of task.train_split=train are among the scored ones and did not train" in notes


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"train_split": "test"}, "task.train_split=test: the scored questions are of this split"),
        ({"train_split": "tset"}, "task.train_split=tset: no split .* Did you mean test"),
    ],
)
def test_training_questions_that_cannot_be(make_config: Make, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        agents.prepare(make_config(task=team(mode=Mode.chain, optimized_spatial=True, **keys)))


def test_one_split_may_serve_both_with_an_offset(make_config: Make) -> None:
    task = team(mode=Mode.chain, optimized_spatial=True, train_split="test", train_offset=3)
    inputs = agents.prepare(make_config(task=task))
    assert not {item.question for item in inputs.train} & {item.question for item in inputs.items}
    assert (len(inputs.train), inputs.left_out) == (40, 0)
    other = agents.prepare(make_config(task=team(mode=Mode.chain, optimized_spatial=True)))
    assert inputs.hashes["train"] != other.hashes["train"]


def test_draws_belong_to_the_question_and_the_seed(make_config: Make, again: Starts) -> None:
    """On request an untrained graph is drawn for each question anew; another seed draws other rounds."""
    seen: list[dict[str, int]] = []
    for seed in (0, 0, 1):
        task = team(limit=6, mode=Mode.full_connected, method=Method.none, optimized_spatial=True, draw=True)
        config = make_config(task=task, seed=seed)
        recorder = again()
        work(agents, config, recorder, Team(right(config)))
        prompts = {line["id"]: line["asked_sha256"] for line in calls_in(recorder) if line["id"].startswith("test")}
        seen.append(prompts)
        for name in (CALLS, "samples.jsonl"):
            (recorder.folder / name).unlink()
    assert seen[0] == seen[1] != seen[2]
