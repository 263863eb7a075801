"""A team whose model is in parts, and a grid of a team and a split: these tests need both
options."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from in_parts import Make, in_parts, whole
from stages import split_into

from runner.config.model import StubConfig
from runner.config.root import PrintMode, RunnerConfig
from runner.options.agents.keys import AgentsConfig, PromptStyle, Topology
from runner.options.parts.keys import SplitConfig
from runner.report import GridLine, print_grid_results
from runner.run import run
from runner_base.result import CALLS, Record
from runner_engine.embedded import MODEL_DIR
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig

PARTS = "the parts of the model"


@pytest.mark.thorough
@pytest.mark.slow
def test_a_team_has_the_same_answers(make_config: Make, tmp_path: Path) -> None:
    embedded = split_into(MODEL_DIR, tmp_path / "parts", 2)
    task = AgentsConfig(limit=2, agents=2, domain=PromptStyle.brief)

    def calls(record: Record) -> list[Any]:
        lines = (Path(record.output_dir) / CALLS).read_text().splitlines()
        return sorted((it["id"], it.get("token_ids")) for it in map(json.loads, lines) if "id" in it)

    generation = GenerationConfig(max_new_tokens=20)
    expected, record = (
        run(make_config(model=it, task=task, generation=generation))
        for it in (whole("embedded"), in_parts(embedded))
    )
    assert calls(record)
    assert calls(record) == calls(expected)
    assert len(record.result.tables[PARTS]) == 2


def test_the_columns_of_a_grid_are_what_its_jobs_have_measured(
    make_config: Callable[..., RunnerConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Real jobs: a team of agents has calls and tokens per question; a split has its own
    metrics."""
    team = AgentsConfig(limit=1, mode=Topology.chain, domain=PromptStyle.brief)
    split = SplitConfig(num_parts=2, output_dir=str(tmp_path / "parts"))
    one, other = (
        GridLine({"task": task.name}, "finished", "x", run(make_config(task=task, model=model)))
        for task, model in ((team, StubConfig()), (split, LocalModelConfig(name="embedded")))
    )
    heads = {}
    for name, jobs in (("team", [one]), ("split", [other]), ("both", [one, other])):
        print_grid_results(jobs, PrintMode.full if name == "both" else PrintMode.table)
        # words: some heads are folded
        heads[name] = capsys.readouterr().out.split("───")[0].split()
    assert {"calls", "prompt", "new", "decode", "tok/s"} < set(heads["team"])
    assert heads["team"].count("question") == 2
    assert {"parts", "largest", "balance"} < set(heads["split"])
    assert not {"parts", "largest"} & set(heads["team"])
    assert {"calls", "question", "parts"} < set(heads["both"])
