"""task.match: a single agent with the tokens of a team's job: which job that is, how near it comes,
kills and errors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import warm_process
from teams import team

from runner.config.root import RunnerConfig
from runner.options.agents import task as agents
from runner.options.agents.keys import DecisionMethod, Mode
from runner.records.jobs import read_samples
from runner_base.errors import ConfigError
from runner_base.result import CALLS
from runner_engine.settings.generation import GenerationConfig

Make = Callable[..., RunnerConfig]
Runner = Callable[..., Any]
COMMON = ("model=stub", "task=agents", "task.limit=4", "tracking=none", "task.roles=[inspector]")
TEAM = "task.mode=debate task.optimized_temporal=true task.num_rounds=2 task.num_iterations=1 generation.temperature=0"
ALONE = (
    *COMMON,
    "task.mode=direct_answer",
    "task.decision_method=majority_vote",
    "generation.temperature=0.7",
)


def records(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the records of all jobs by topology."""
    found = [json.loads(path.read_text()) for path in folder.glob("outputs/jobs/*/result.json")]
    return {one["params"]["task.mode"]: one for one in found}


@pytest.mark.slow
def test_one_agent_gets_the_tokens_of_a_team_question_by_question_and_those_of_its_training(
    tmp_path: Path, runner: Runner
) -> None:
    """A real process and a real SIGKILL between two samples, too: the same calls come of it."""
    spaced = f'task.match="{TEAM}"'
    first = runner(*ALONE, spaced)
    assert first.code == 2
    assert "is not done in" in first.err
    assert runner(*COMMON, *TEAM.split()).code == 0
    slow = [sys.executable, "-m", "runner", *ALONE, spaced, "model.delay_s=0.1"]
    process = warm_process.popen(slow, cwd=tmp_path, stderr=subprocess.DEVNULL)
    give_up_at = time.monotonic() + 90
    while not (
        files := [path for path in tmp_path.glob(f"outputs/jobs/*/{CALLS}") if '/0/5"' in path.read_text()]
    ):
        assert time.monotonic() < give_up_at
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(60)
    before = files[0].read_text().splitlines()
    done = runner(*ALONE, spaced)
    assert done.code == 0, done.err
    after = files[0].read_text().splitlines()
    assert after[: len(before)] == before
    assert len({json.loads(line)["id"] for line in after}) == len(after), "no sample was asked twice"

    more = runner(*ALONE, spaced, "task.limit=5")
    assert more.code == 2, "the team has another id with five questions"
    other = runner(*ALONE, f"task.match={records(tmp_path)['debate']['job_id']}", "task.limit=5")
    assert (other.code, "has not asked question 4 of this job" in other.err) == (2, True), other.err

    both = records(tmp_path)
    ours, theirs = (both[mode]["result"]["metrics"] for mode in ("direct_answer", "debate"))
    whole = sum(
        theirs[key] for key in ("prompt_tokens", "new_tokens", "train_prompt_tokens", "train_new_tokens")
    )
    assert theirs["train_prompt_tokens"] > 0
    assert ours["match_tokens"] == pytest.approx(whole)
    assert ours["prompt_tokens"] + ours["new_tokens"] == pytest.approx(whole, rel=0.05)
    assert ours["samples_per_question"] == len(after) / 4
    one, other = (
        read_samples(tmp_path / "outputs/jobs" / both[mode]["job_id"] / "samples.jsonl")
        for mode in ("direct_answer", "debate")
    )
    training = (whole - theirs["prompt_tokens"] - theirs["new_tokens"]) / 4
    for index in range(4):
        tokens = [it[index].prompt_tokens + (it[index].answer.new_tokens or 0) for it in (one, other)]
        each = tokens[0] / json.dumps(after).count(f"test/{index}/0/")
        assert abs(tokens[0] - tokens[1] - training) <= each / 2, "no other number of samples is nearer"
    assert both["debate"]["job_id"] in both["direct_answer"]["result"]["facts"]["match"]


@pytest.mark.slow
def test_in_a_grid_the_team_goes_first_and_a_plan_says_so(tmp_path: Path, runner: Runner) -> None:
    cases = (
        "hydra.sweeper.cases=[{task.mode:direct_answer,task.decision_method:majority_vote,generation.temperature:0.7,"
        "task.match:'task.mode=chain generation.temperature=0'},{task.mode:chain}]"
    )
    plan = runner("-m", *COMMON, cases, "plan=quick")
    assert plan.code == 0, plan.err
    assert (
        "match: as many samples as the tokens of task.mode=chain generation.temperature=0"
        in plan.out + plan.err
    )
    assert "that job: must run first" in plan.out + plan.err
    done = runner("-m", *COMMON, cases, "workers=2")
    assert done.code == 0, done.err
    assert records(tmp_path).keys() == {"direct_answer", "chain"}
    assert "that job: done" in (again := runner("-m", *COMMON, cases, "plan=quick")).out + again.err


def sampled(make_config: Make, words: str) -> RunnerConfig:
    return make_config(generation=GenerationConfig(temperature=0.7), task=alone(match=words))


def test_the_id_of_the_matched_job_counts(make_config: Make) -> None:
    chain = agents.prepare(sampled(make_config, "task.mode=chain"))
    assert chain.after.startswith("agents-")
    assert chain.hashes["match"] == chain.after
    assert agents.prepare(sampled(make_config, chain.after)).hashes == chain.hashes, "by its id, too"
    for other in ("task.mode=star", "task.mode=chain generation.temperature=0", "task.mode=chain seed=5"):
        assert agents.prepare(sampled(make_config, other)).after != chain.after


def alone(**keys: Any) -> Any:
    plain = {"mode": Mode.direct_answer, "decision_method": DecisionMethod.majority_vote}
    return team(**(plain | keys))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"mode": Mode.chain, "samples": 3},
            "task.samples=3: one agent is asked several times: give task.mode=direct",
        ),
        (
            {"match": "task.mode=chain", "samples": 3},
            "task.samples=3: with task.match=task.mode=chain the tokens of",
        ),
        ({"samples": 0}, "task.samples=0: must lie in 1.."),
        ({"samples": 3, "num_rounds": 2}, "task.num_rounds=2: samples are of one round"),
        (
            {"samples": 3, "decision_method": DecisionMethod.direct},
            "task.decision_method=direct: of several samples",
        ),
        ({"match": " "}, "task.match=' '"),
    ],
)
def test_what_cannot_be_is_rejected(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        alone(**keys)
    assert str(caught.value).startswith(message)


def test_greedy_samples_would_all_be_the_same() -> None:
    for task in (alone(samples=3), alone(match="task.mode=chain")):
        with pytest.raises(
            ConfigError, match=r"needs answers that differ, and generation\.temperature=0 is greedy"
        ):
            task.check_beside(GenerationConfig(temperature=0.0))
        task.check_beside(GenerationConfig(temperature=0.7))


def test_overrides_of_the_matched_team_are_checked(make_config: Make) -> None:
    for words, message in (
        ("task.limit=3", "task.match=task.limit=3: no override 'task.limit=3'"),
        ("task.mode=chian", "task.match=task.mode=chian: "),
    ):
        with pytest.raises(ConfigError) as caught:
            agents.prepare(sampled(make_config, words))
        assert str(caught.value).startswith(message), str(caught.value)
