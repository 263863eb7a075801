"""MLflow's table of runs, opened by the printed address, begins with the scores of all jobs."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chromium import CHROMIUM, browser

from runner.tracking import run_table

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own
GRID = ("-m", "model=stub", "task.limit=4", "seed=1,2")
HEADS = """[...document.querySelectorAll(".ag-header-cell")]
  .sort((left, right) => left.getBoundingClientRect().left - right.getBoundingClientRect().left)
  .map(cell => cell.innerText.trim()).filter(text => text)"""


def test_the_view_begins_with_the_score() -> None:
    view = json.loads(run_table.build_run_table_view_json())
    assert view["selectedColumns"][:3] == [
        "metrics.`accuracy`", "tags.`verdict`", "metrics.`delta_points`",
    ]  # fmt: skip
    assert view["columnOrder"][:2] == [run_table.RUN_NAME, "metrics.`accuracy`"]
    assert len(run_table.build_run_table_view_json()) < 5000, "MLflow's limit for a tag of an experiment"
    assert run_table.build_run_table_view_url("http://ann:T0KEN@host:5000/", "7") == (
        "http://***@host:5000/#/experiments/7/runs?viewStateShareKey=runner"
    )


@pytest.mark.thorough
@pytest.mark.slow
def test_an_experiment_gets_the_view_once_and_the_grid_prints_its_address(
    tmp_path: Path, runner: Callable[..., Any]
) -> None:
    from mlflow import MlflowClient

    first = runner(*GRID)
    address = "http://127.0.0.1:5000/#/experiments/1/runs?viewStateShareKey=runner"
    assert f"{address}\n" in first.out
    client = MlflowClient(f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}")
    assert client.get_experiment("1").tags[run_table.TAG] == run_table.build_run_table_view_json()

    again = runner(*GRID)
    assert "done before" in again.out
    assert address in again.out, "known without asking MLflow"
    # an experiment of an earlier version, or one that another program has made
    client.set_experiment_tag("1", run_table.TAG, "{}")
    assert runner(*GRID, "rerun=all", process=True).code == 0
    assert client.get_experiment("1").tags[run_table.TAG] == run_table.build_run_table_view_json()


@pytest.mark.thorough
@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
def test_the_address_shows_the_jobs_of_all_grids_with_accuracy_first(
    tmp_path: Path, runner: Callable[..., Any]
) -> None:
    path = re.findall(r"(/#/experiments/\S+)", runner(*GRID).out)[0]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}"
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "ui",
        "--backend-store-uri",
        uri,
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    with (tmp_path / "ui.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        url, end = f"http://127.0.0.1:{port}", time.monotonic() + 120
        while not _answers(url):
            assert time.monotonic() < end, "MLflow's server does not answer"
            time.sleep(0.2)
        with browser(tmp_path, "--window-size=1900,700") as page:
            page.go(url + path)
            page.until("document.body.innerText.includes('2 matching runs')", 120)
            page.until(f"({HEADS}).includes('accuracy')")
            time.sleep(1)  # the columns take their places
            assert page.do(HEADS)[:3] == ["Run Name", "Created", "accuracy"]
            assert page.do("document.body.innerText.match(/gsm8k stub test/g).length") == 2
            page.go(f"{url}/?plain{path.partition('?')[0]}")  # the control: without the view
            page.until("document.body.innerText.includes('matching runs')", 120)
            assert "accuracy" not in page.do(HEADS)
    finally:
        process.terminate()
        process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5):
            return True
    except OSError:
        return False
