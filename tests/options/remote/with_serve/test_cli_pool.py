"""A pool of our own servers, one of which is killed; needs both options."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from serving import FLOAT32, serving

from runner.records.jobs import read_samples

Run = Callable[..., Any]
LIMIT = 80
WAIT_S = 120


def texts(folder: Path) -> dict[int, str]:
    """Return the answers in a job's evidence, in which each question has one line."""
    [file] = folder.glob("jobs/*/samples.jsonl")
    stored = read_samples(file)
    assert len(file.read_text().splitlines()) == len(stored)
    return {index: one.answer.text for index, one in stored.items()}


@pytest.mark.thorough
@pytest.mark.slow
def test_a_server_that_is_killed_costs_no_answer(runner: Run, tmp_path: Path) -> None:
    common = ("model=api", "model.name=embedded", f"task.limit={LIMIT}", "tracking=none", "print=json")
    with serving(tmp_path / "a", *FLOAT32) as one, serving(tmp_path / "b", *FLOAT32) as other:
        urls = [f"{one.url}/v1", f"{other.url}/v1"]

        def kill_amid_the_job() -> None:
            end = time.monotonic() + WAIT_S
            while not any(
                file.read_bytes().count(b"\n") >= 20 for file in tmp_path.glob("pool/jobs/*/samples.jsonl")
            ):
                assert time.monotonic() < end
                time.sleep(0.01)
            os.kill(other.process.pid, signal.SIGKILL)

        killing = threading.Thread(target=kill_amid_the_job)
        killing.start()
        done = runner(*common, f"model.base_url=[{','.join(urls)}]", "output_dir=pool")
        killing.join()
        assert done.code == 0, done.err
        control = runner(*common, f"model.base_url={urls[0]}", "output_dir=control")
        assert control.code == 0, control.err
        again = runner(*common, f"model.base_url=[{','.join(reversed(urls))}]", "output_dir=pool")
    assert texts(tmp_path / "pool") == texts(tmp_path / "control")
    assert sorted(texts(tmp_path / "pool")) == list(range(LIMIT))
    [record] = tmp_path.glob("pool/jobs/*/result.json")
    recorded = json.loads(record.read_text())
    rows = {row["server"]: row for row in recorded["result"]["tables"]["the servers of the model"]}
    assert sum(row["requests"] - row["failures"] for row in rows.values()) == LIMIT, (
        "each question answered once"
    )
    assert rows[urls[1]]["failures"] > 0
    assert rows[urls[1]]["state"] == "left out"
    assert rows[urls[0]] == {
        "server": urls[0],
        "requests": rows[urls[0]]["requests"],
        "failures": 0,
        "state": "in use",
    }
    said = [line for line in done.err.splitlines() if line.startswith(f"{urls[1]} c")]
    assert sum("gets no requests until it answers again" in line for line in said) == 1
    assert len(said) == len(set(said)), "a cause for which it tries again is said once"
    assert again.json()["job_id"] == done.json()["job_id"] != control.json()["job_id"]
    assert "is already complete" in again.err
