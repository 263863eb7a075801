"""Without a choice of runs, a table has the newest ones that are comparable with each other."""

from __future__ import annotations

import json
from typing import Any

import pytest
from stores import INT8, NF4, NONE, Store, marks

LIMIT_20 = {"task.limit": "20"}
LIMIT_200 = {"task.limit": "200"}
SERVED = {"model.base_url": "http://127.0.0.1:8000/v1", "model.name": "stand-in"}

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


@pytest.fixture
def mixed(store: Store) -> Store:
    """A grid of 200 questions, older jobs of 20, a newer single job behind a server, and one that
    fits the grid."""
    for name, quantization in (("old-none", NONE), ("old-nf4", NF4)):
        store.job("of-all", name, quantization | LIMIT_20, marks(10, 20))
    grid = store.grid("of-all", "of-all-g1", ["none", "int8"])
    store.job("of-all", "none", NONE | LIMIT_200, marks(180, 200), grid=grid)
    store.job("of-all", "int8", INT8 | LIMIT_200, marks(178, 200), grid=grid)
    store.job("of-all", "nf4", NF4 | LIMIT_200, marks(150, 200))
    store.job("of-all", "served", NONE | SERVED | LIMIT_20, marks(20, 20), prompts="as sent")
    return store


def jobs_of(out: str) -> list[set[str]]:
    return [{row["job_id"] for row in table["rows"]} for table in json.loads(out)["tables"]]


def test_the_newest_comparable_runs_are_one_table_and_the_rest_is_named(mixed: Store, show: Any) -> None:
    code, out, err = show("of-all", "--format", "json", "--baseline", "quantization=none")
    assert (code, jobs_of(out)) == (0, [{"none", "int8", "nf4"}])
    assert len([row for row in json.loads(out)["tables"][0]["rows"] if row["is_baseline"]]) == 1
    assert err == (
        "gsm8k: 3 runs are not comparable with the newest runs, and omitted (2 with task.limit=20, 1 with "
        "task.limit=20 model.base_url=http://127.0.0.1:8000/v1). Use --all to include every run, or select runs with "
        "--grid, --where or --runs\n"
    )


def test_what_the_user_chooses_is_shown(mixed: Store, show: Any) -> None:
    every = {"old-none", "old-nf4", "none", "int8", "nf4", "served"}
    for options, jobs in (
        (["--all"], every),
        (["--grid", "last"], {"none", "int8"}),
        (["--where", "task.limit=20"], {"old-none", "old-nf4", "served"}),
        (["--by", "quantization,task.limit,model"], every),
    ):
        code, out, err = show("of-all", "--format", "json", *options)
        assert (code, jobs_of(out), err) == (0, [jobs], ""), options


def test_the_jobs_of_a_grid_stay_together_and_a_lone_job_hides_no_others(store: Store, show: Any) -> None:
    grid = store.grid("of-one-grid", "of-one-grid-g2", ["a", "b"])
    store.job("of-one-grid", "a", NONE | LIMIT_20, marks(10, 20), grid=grid)
    store.job("of-one-grid", "b", NONE | LIMIT_200, marks(180, 200), grid=grid)
    store.job("of-one-grid", "lone", NONE | {"task.limit": "5"}, marks(3, 5))
    code, out, err = show("of-one-grid", "--format", "json")
    assert (code, jobs_of(out)) == (0, [{"a", "b"}])
    assert "1 run is not comparable with the newest runs, and omitted" in err
