"""What jobs of all tasks do, done by a team: lists of questions, the template, estimates, traces,
interrupts."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from interrupts import check_the_same_tokens
from traced import traces_of
from written_records import ANSWERS, write

from runner.config.resolved import resolve_job
from runner.config.root import RunnerConfig
from runner.estimates.recorded import FinishedJobs
from runner.options.agents.keys import AgentsConfig, Topology
from runner.run import run
from runner_base.errors import ConfigError
from runner_engine import check_model_and_adapter_files
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig

Make = Callable[..., RunnerConfig]
Run = Callable[..., Any]


def listed(folder: Path, *numbers: int, name: str = "list.txt") -> str:
    (folder / name).write_text("".join(f"{number}\n" for number in numbers))
    return str(folder / name)


@pytest.mark.thorough
def test_a_team_is_scored_in_the_same_way(make_config: Make, tmp_path: Path) -> None:
    record = run(make_config(task=AgentsConfig(limit=3, agents=1, unscored=listed(tmp_path, 1))))
    assert (record.result.metrics["n"], record.result.metrics["n_all"]) == (2, 3)
    assert any("excludes 1 of 3 questions" in note for note in record.result.notes)


@pytest.mark.slow
def test_a_plan_says_how_many_are_left(runner: Run, tmp_path: Path) -> None:
    words = (f"task.only={listed(tmp_path, 1, 2, 3)}", f"task.unscored={listed(tmp_path, 3, name='bad.txt')}")
    out = runner("task=agents", "model=stub", "plan=true", *words, "tracking=none").out
    assert "3 questions" in out
    assert "excludes 1 of 3 questions" in out


def test_a_chat_template_is_needed(make_config: Make, tiny_llama: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_llama, tmp_path / "plain")
    (tmp_path / "plain" / "chat_template.jinja").unlink()
    model = LocalModelConfig(name=str(tmp_path / "plain"), device="cpu")
    with pytest.raises(ConfigError, match=r"plain has no chat template, so .*: use task\.prompt=text"):
        check_model_and_adapter_files(
            resolve_job(make_config(model=model, task=AgentsConfig())).model, uses_chat=True
        )


def test_a_teams_question_takes_several_calls(make_config: Make) -> None:
    model, generation = (LocalModelConfig("embedded"), GenerationConfig(max_new_tokens=24, batch_size=4))
    chain = make_config(model=model, generation=generation, task=AgentsConfig(limit=4, mode=Topology.chain))
    write(chain, ANSWERS | {"calls": 20})  # of 4 agents and the decision, for each of 4 questions
    found = FinishedJobs(Path(chain.output_dir))
    same, alone = (
        found.estimate_time_from_records(chain),
        found.estimate_time_from_records(
            replace(chain, task=AgentsConfig(limit=4, mode=Topology.direct_answer))
        ),
    )
    assert same is not None
    assert alone is not None
    assert same.seconds == pytest.approx(15), "as long as it took"
    decode_s = (84 - 20) / 10  # the first token of each answer comes from its prompt
    beside_s = 15 - 4 - decode_s
    assert alone.seconds == pytest.approx(beside_s + (4 + decode_s) * 8 / 20), "two calls a question"


@pytest.mark.slow
def test_the_calls_of_agents_are_spans(runner: Run, tmp_path: Path) -> None:
    team = ("task=agents", "model=stub", "task.limit=2", "print=json", "tracking.traces=true")
    done = runner(*team)
    assert done.code == 0, done.err
    lines = Path(done.json()["output_dir"], "calls.jsonl").read_text().splitlines()
    # the others are outcomes of programs
    calls = [call for line in lines if "text" in (call := json.loads(line))]
    assert len(calls) == 10
    for index, trace in enumerate(traces_of(tmp_path, done)):
        root, *spans = trace.data.spans
        own = [call for call in calls if call["id"].startswith(f"test/{index}/")]
        assert [(span.name, span.outputs["answer"]) for span in spans] == [
            (it["who"], it["text"]) for it in own
        ]
        assert {span.parent_id for span in spans} == {root.span_id}
        assert all(one.end_time_ns <= other.start_time_ns for one, other in pairwise(spans))


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGUSR1], ids=["Ctrl-C", "Slurm's warning"])
def test_what_was_begun_goes_on_with_the_same_tokens(
    runner: Run, tmp_path: Path, sent: signal.Signals
) -> None:
    job = (
        "task=agents",
        "task.limit=3",
        "lora=embedded_team",
        "task.domain=brief",
        "generation.batch_size=3",
    )
    check_the_same_tokens(runner, tmp_path, job, "calls.jsonl", sent)
