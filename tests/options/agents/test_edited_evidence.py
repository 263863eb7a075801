"""Edited files of a team's job: each edit is rejected with the file's name, or the results are
unchanged."""

from __future__ import annotations

from pathlib import Path

import pytest
from edited_evidence import check_edits, config_of

from runner.options.agents.keys import AgentsConfig, PromptStyle, Role
from runner.run import run

TEAM = AgentsConfig(limit=2, agents=2, domain=PromptStyle.brief, roles=[Role.math_solver, Role.inspector],
                    optimized_spatial=True, num_iterations=1, batch_size=2)  # fmt: skip
FILES = ("samples.jsonl", "calls.jsonl", "graph.json", "measured.json", "result.json")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of the job, done once."""
    folder = tmp_path_factory.mktemp("done")
    run(config_of(TEAM, folder))
    return folder


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", FILES)
def test_an_edit_is_rejected_or_changes_nothing(done: Path, tmp_path: Path, name: str) -> None:
    check_edits(TEAM, done, tmp_path, name)
