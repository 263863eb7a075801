"""What a search says of its best trial: the check that it offers runs, and asks questions of its
own."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from grids import results

SEARCH = (
    "-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.sampler.seed=1", "generation=sampling",
    "task.limit=10",
)  # fmt: skip


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("params", [
    '{generation.temperature: "interval(0.2,1.0)"}',
    '{generation.temperature: "interval(0.2,1.0)", generation.top_p: "choice(0.9,1.0)"}',
])  # fmt: skip
def test_a_search_offers_a_check_that_runs(runner: Callable[..., Any], tmp_path: Path, params: str) -> None:
    done = runner(*SEARCH, f"hydra.sweeper.params={params}", cwd=tmp_path)
    assert done.code == 0, done.err
    assert re.search(
        r"^best of 3 trials: accuracy \d+\.0% \[\d+\.\d, \d+\.\d\] of 10 questions, gsm8k-", done.out, re.M
    )
    assert (
        "  not decided: its interval overlaps with those of 2 other trials, so these scores do not show which one is best"
        in done.out
    )
    searched = results(tmp_path)
    command, compare = re.findall(r"^  (runner(?: -m|-compare) .*)$", done.out, re.MULTILINE)
    checked = runner(*shlex.split(command)[1:], cwd=tmp_path)
    assert checked.code == 0, checked.err
    fresh = {job: record for job, record in results(tmp_path).items() if job not in searched}
    assert len(fresh) == 2
    asked = questions_of(tmp_path, searched), questions_of(tmp_path, fresh)
    assert [len(some) for some in asked] == [10, 10]
    assert not asked[0] & asked[1]
    compared = runner(*shlex.split(compare)[1:], "--format", "json", module="runner_compare", cwd=tmp_path)
    assert compared.code == 0, compared.err
    assert {*re.findall(r'"job_id": "([^"]+)"', compared.out)} == {*fresh}, (
        "the search's have asked other questions"
    )
    assert '"finding": "no difference shown"' in compared.out


@pytest.mark.slow
def test_a_search_with_a_clear_best_says_no_more_than_that(
    runner: Callable[..., Any], tmp_path: Path
) -> None:
    lengths = "generation.max_new_tokens=choice(1,300)"
    done = runner(
        *SEARCH[:-1],
        "hydra.sweeper.sampler.name=grid",
        "task.limit=20",
        "tracking=none",
        lengths,
        cwd=tmp_path,
    )
    assert done.code == 0, done.err
    assert "best of 2 trials: accuracy" in done.out
    assert "generation.max_new_tokens=300" in done.out
    assert "overlaps" not in done.out
    assert "runner -m" not in done.out


def questions_of(folder: Path, jobs: dict[str, Any]) -> set[str]:
    """Return the questions that jobs have asked."""
    asked = set()
    for job in jobs:
        for line in (folder / "outputs" / "jobs" / job / "samples.jsonl").read_text().splitlines():
            sample = json.loads(line)
            asked.add(json.dumps(sample["question"]))
    return asked
