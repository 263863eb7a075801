"""Training of a graph within task=agents: which questions, resuming, the saved graph given back."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import warm_process
from raising import raises
from tasking import work
from teams import Starts, Team, calls_in, right, team

from runner.config.root import RunnerConfig
from runner.options.agents import task as agents
from runner.options.agents.keys import Topology, TrainingMethod
from runner.report import format_headline_metrics
from runner_base.errors import ConfigError, JobFailed
from runner_base.result import CALLS, GRAPH, GRAPH_PICTURE
from runner_engine.sessions.base import Completion, Event, Request

Make = Callable[..., RunnerConfig]


@pytest.mark.thorough
def test_training_prunes_and_never_sees_the_scored_questions(make_config: Make, again: Starts) -> None:
    task = team(mode=Topology.full_connected, optimized_spatial=True)
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
    assert format_headline_metrics(metrics)["agent graph"] == (
        "edges before → after training: 12 → 7 within a round (spatial)"
    )
    assert "Temporal" not in (recorder.folder / GRAPH_PICTURE).read_text()
    assert (metrics["train_questions"], metrics["train_solved"], metrics["train_calls"]) == (40, 40, 200)
    assert (metrics["calls"], metrics["train_prompt_tokens"], metrics["prompt_tokens"]) == (15, 20000, 1500)
    assert not {"cost_usd", "train_cost_usd"} & metrics.keys(), "no call has a price"
    kept = {name: (recorder.folder / name).read_text() for name in (GRAPH, GRAPH_PICTURE)}
    lines = (recorder.folder / CALLS).read_text().splitlines(keepends=True)
    # as if it had been killed amid the training
    (recorder.folder / CALLS).write_text("".join(lines[:100]))
    for name in (GRAPH, GRAPH_PICTURE, "samples.jsonl"):
        (recorder.folder / name).unlink()
    second = Team(right(config))
    recorder = again()
    resumed = work(agents, config, recorder, second)
    assert len(second.asked) == 115, "what was recorded is not asked"
    assert {name: (recorder.folder / name).read_text() for name in kept} == kept, "the same graph comes of it"
    names = [name for name in metrics if "edges" in name or "tokens" in name]
    assert {name: resumed.metrics[name] for name in names} == {name: metrics[name] for name in names}
    assert any(note.startswith("100 agent calls were reused") for note in resumed.notes)
    assert ("play_s" in metrics, "play_s" in resumed.metrics) == (True, False), (
        "no time that is of a part only"
    )


def test_an_error_in_training_stops_before_the_graph_is_a_wrong_one(make_config: Make, again: Starts) -> None:
    config = make_config(task=team(optimized_spatial=True, mode=Topology.full_connected, num_iterations=2))
    say = right(config)
    with raises(JobFailed, "failed") as caught:
        work(
            agents,
            config,
            again(),
            Team(lambda key, prompt: "error: gone" if key == "train/5/0/0" else say(key, prompt)),
        )
    assert "train/5/0/0" in caught.value.reason
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
    task = team(mode=Topology.full_connected, optimized_spatial=True, num_iterations=5)
    config = make_config(task=task)
    recorder = again()
    trained = work(agents, config, recorder, Team(right(config)))
    asked = {line["id"]: line["asked_sha256"] for line in calls_in(recorder)}
    saved = tmp_path / "elsewhere.json"
    saved.write_text((recorder.folder / GRAPH).read_text())
    assert "learned" in saved.read_text()
    for name in (CALLS, "samples.jsonl"):
        (recorder.folder / name).unlink()
    used = make_config(task=team(mode=Topology.full_connected, graph=str(saved)))
    result = work(agents, used, again(), Team(right(config)))
    assert result.metrics["spatial_edges_before"] == trained.metrics["spatial_edges_after"] == 9
    assert "train_calls" not in result.metrics
    again_asked = {line["id"]: line["asked_sha256"] for line in calls_in(recorder)}
    assert again_asked.items() < asked.items(), "each question goes the way that it went after the training"
    copy = tmp_path / "copy.json"
    copy.write_text(saved.read_text())
    hashes = [
        agents.prepare(make_config(task=team(mode=mode, graph=str(path)))).hashes
        for mode, path in ((Topology.full_connected, saved), (Topology.full_connected, copy))
    ]
    assert hashes[0] == hashes[1]
    for keys, needed in (
        ({"mode": Topology.chain}, "task.mode=full_connected"),
        ({"agents": 5}, "task.agents=4"),
        ({"roles": None}, "task.roles"),
    ):
        with raises(ConfigError, "mismatch", "task.graph") as caught:
            agents.prepare(
                make_config(task=team(**{"mode": Topology.full_connected, "graph": str(saved)} | keys))
            )
        assert needed in caught.value.reason
    with pytest.raises(ConfigError) as missing:
        agents.prepare(
            make_config(task=team(mode=Topology.full_connected, graph=str(tmp_path / "none.json")))
        )
    assert missing.value.key == "task.graph"


def test_few_training_questions_are_put_again(make_config: Make, again: Starts, tmp_path: Path) -> None:
    for split, count in (("train", 3), ("test", 2)):
        lines = [{"question": f"{split} {at}?", "answer": f"#### {at}"} for at in range(count)]
        lines += [{"question": "test 1?", "answer": "#### 1"}] if split == "train" else []
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    task = team(
        data=str(tmp_path),
        optimized_spatial=True,
        mode=Topology.chain,
        num_iterations=2,
        imp_per_iterations=9,
    )
    config = make_config(task=task)
    result = work(agents, config, again(), Team(right(config)))
    notes = " ".join(result.notes)
    assert "training used some questions repeatedly, because it needs 8 and only 3 exist" in notes
    assert (
        "1 questions of task.train_split=train are also scored, so they were excluded from training" in notes
    )


@pytest.mark.parametrize("split", ["test", "tset"])
def test_training_questions_that_cannot_be(make_config: Make, split: str) -> None:
    """Of the scored split, and of one that is not there."""
    with pytest.raises(ConfigError) as caught:
        agents.prepare(make_config(task=team(mode=Topology.chain, optimized_spatial=True, train_split=split)))
    assert (caught.value.key, caught.value.value) == ("task.train_split", split)
    assert (caught.value.code == "conflict") == (split == "test")


def test_a_graph_needs_a_question_that_is_not_scored(make_config: Make, tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text('{"question": "1 + 1?", "answer": "#### 2"}\n')
    task = team(data=str(tmp_path), mode=Topology.chain, optimized_spatial=True, num_iterations=1)
    with raises(ConfigError, "empty"):
        agents.prepare(make_config(task=task))


def test_one_split_may_serve_both_with_an_offset(make_config: Make) -> None:
    task = team(mode=Topology.chain, optimized_spatial=True, train_split="test", train_offset=3)
    inputs = agents.prepare(make_config(task=task))
    assert not {item.question for item in inputs.train} & {item.question for item in inputs.items}
    assert (len(inputs.train), inputs.left_out) == (40, 0)
    other = agents.prepare(make_config(task=team(mode=Topology.chain, optimized_spatial=True)))
    assert inputs.hashes["train"] != other.hashes["train"]


def test_draws_belong_to_the_question_and_the_seed(make_config: Make, again: Starts) -> None:
    """On request an untrained graph is drawn for each question anew; another seed draws other
    rounds."""
    seen: list[dict[str, int]] = []
    for seed in (0, 0, 1):
        task = team(
            limit=6,
            mode=Topology.full_connected,
            method=TrainingMethod.none,
            optimized_spatial=True,
            draw=True,
        )
        config = make_config(task=task, seed=seed)
        recorder = again()
        work(agents, config, recorder, Team(right(config)))
        prompts = {
            line["id"]: line["asked_sha256"] for line in calls_in(recorder) if line["id"].startswith("test")
        }
        seen.append(prompts)
        for name in (CALLS, "samples.jsonl"):
            (recorder.folder / name).unlink()
    assert seen[0] == seen[1] != seen[2]


class Priced(Team):
    """An engine each of whose calls costs a cent."""

    def answer(self, requests: Sequence[Request]) -> Iterator[list[Event]]:
        for events in super().answer(requests):
            for event in events:
                assert isinstance(event, Completion)
                event.cost_usd = 0.01
            yield events


def test_the_price_and_the_tokens_of_training_are_counted_apart(make_config: Make, again: Starts) -> None:
    config = make_config(task=team(mode=Topology.full_connected, optimized_spatial=True, num_iterations=2))
    result = work(agents, config, again(), Priced(right(config)))
    counted = {"calls": 15, "cost_usd": 0.15, "train_calls": 40, "train_cost_usd": 0.40}
    assert {key: result.metrics[key] for key in counted} == pytest.approx(counted)
    row = next(row for row in result.rows if row["tokens of"] == "training")
    assert (row["calls"], row["prompt tokens"], row["new tokens"]) == (40, 4000, 120)


EACH_METHOD = {
    "runner": ["task.nuclear_norm=0.3"],
    "agent_prune": ["task.method=agent_prune"],
    "agent_prune_code": ["task.method=agent_prune_code"],
    "none": ["task.method=none", "task.draw=true"],
}


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("method", EACH_METHOD)
def test_a_kill_in_training_or_scoring_changes_neither_calls_nor_graph(
    method: str, tmp_path: Path, runner: Callable[..., Any]
) -> None:
    """Real processes and real SIGKILLs: what comes of it is what an uninterrupted job has."""
    command = ["model=stub", "task=agents", "task.limit=3", "task.agents=3", "task.num_rounds=2", "tracking=none",
               "task.roles=[inspector]", "task.optimized_spatial=true", "task.optimized_temporal=true",
               "task.batch_size=2", "task.num_iterations=2", *EACH_METHOD[method]]  # fmt: skip
    command += ["task.imp_per_iterations=1"] * (method in ("runner", "agent_prune_code"))
    slow = [sys.executable, "-m", "runner", *command, "model.delay_s=0.15"]
    place = tmp_path / "outputs"

    def evidence() -> dict[str, str]:
        return {
            path.name: path.read_text()
            for path in place.glob("jobs/*/*")
            if path.suffix in (".jsonl", ".json", ".svg")
        }

    killed_after = []
    for until in ("train/1/", "test/1/")[method == "none" :]:
        process = warm_process.popen(slow, cwd=tmp_path, stderr=subprocess.DEVNULL)
        give_up_at = time.monotonic() + 90
        while f'"{until}' not in evidence().get(CALLS, ""):
            assert time.monotonic() < give_up_at
            assert process.poll() is None
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(60)
        killed_after.append(len(evidence()[CALLS].splitlines()))
    done = runner(*command)
    assert done.code == 0, done.err
    resumed = evidence()
    shutil.rmtree(place)
    assert runner(*command).code == 0
    whole = evidence()

    def calls(text: str) -> dict[str, tuple[str, str]]:
        lines = [json.loads(line) for line in text.splitlines()]
        return {line["id"]: (line["asked_sha256"], line["text"]) for line in lines}

    assert killed_after[-1] < len(whole[CALLS].splitlines()), "it died before the end"
    assert calls(resumed[CALLS]) == calls(whole[CALLS])
    assert len(resumed[CALLS].splitlines()) == len(whole[CALLS].splitlines()), "no call was made twice"
    for name in (GRAPH, GRAPH_PICTURE):
        assert resumed[name] == whole[name]


def test_a_learned_graph_asks_every_question_in_the_same_way_unless_it_is_drawn(
    make_config: Make, again: Starts
) -> None:
    """Every scored question takes the same edges; the published code draws them for each question,
    and so on request."""
    ways = {}
    choices: dict[str, dict[str, Any]] = {
        "as it is": {"method": TrainingMethod.agent_prune},
        "drawn": {"method": TrainingMethod.agent_prune, "draw": True},
        "code": {"method": TrainingMethod.agent_prune_code},
    }
    for name, keys in choices.items():
        task = team(mode=Topology.full_connected, limit=12, num_iterations=2, optimized_spatial=True, **keys)
        config = make_config(task=task)
        result = work(agents, config, again(), Team(right(config)))
        ways[name] = {
            row["calls"]
            for row in result.rows
            if "→" in row["tokens of"] and "decision" not in row["tokens of"]
        }
        for file in (CALLS, "samples.jsonl"):
            (again().folder / file).unlink()
    assert ways["as it is"] == {12}
    assert all(min(ways[name]) < 12 for name in ("drawn", "code"))
