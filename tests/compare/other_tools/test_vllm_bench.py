"""Real results of vLLM's benchmarks as runs (those of `serve` with a server of ours); damaged ones
are rejected."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from changed_logs import wrong_type
from other_logs import VLLM

from runner_compare.readers import load

AT_ONCE, ONE_AT_A_TIME = VLLM / "at_once", VLLM / "one_at_a_time"
LATENCY, THROUGHPUT = (json.loads((VLLM / name).read_text()) for name in ("latency.json", "throughput.json"))


def written(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def real() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((AT_ONCE / "serve_1.json").read_text())
    return content


def test_files_of_equal_settings_are_runs_of_one_row(tables: Any, tmp_path: Path) -> None:
    files = sorted([*AT_ONCE.iterdir(), *ONE_AT_A_TIME.iterdir()])
    (table,) = tables(*files)
    assert table["task"] == "vllm serve"
    assert table["baseline"] == {"task.max_concurrency": "unlimited"}
    assert [row["config"]["task.max_concurrency"] for row in table["rows"]] == ["unlimited", "1"]
    first, row = table["rows"]
    second = json.loads((AT_ONCE / "serve_2.json").read_text())  # the newest
    assert first["metrics"]["output_tok_per_s"] == second["output_throughput"]
    assert first["metrics"]["ttft_s"] == second["median_ttft_ms"] / 1000
    assert {one["measure"] for one in row["ratios"]} == {"output_tok_per_s", "ttft_s"}

    runs, _ = load.load_results([str(AT_ONCE)])
    assert [len(run.earlier) for run in runs] == [1]
    (earlier,) = runs[0].earlier
    assert earlier.metrics["output_tok_per_s"] == real()["output_throughput"]
    assert earlier.job_id == runs[0].job_id


def test_two_folders_are_never_put_together(tables: Any, tmp_path: Path) -> None:
    for name, seconds in (("before", 2.0), ("after", 1.0)):
        for number in range(2):
            written(tmp_path / name / f"{number}.json", LATENCY | {"latencies": [seconds, seconds + number]})
    (table,) = tables(tmp_path / "before", tmp_path / "after")
    before, after = table["rows"]
    assert before["is_baseline"]
    assert [one["measure"] for one in after["ratios"]] == ["batch_latency_s"]


def test_a_latency_and_a_throughput(tables: Any) -> None:
    table_by_task = {
        table["task"]: table for table in tables(VLLM / "latency.json", VLLM / "throughput.json")
    }
    latency, throughput = (
        table_by_task[f"vllm {name}"]["rows"][0]["metrics"] for name in ("latency", "throughput")
    )
    assert latency["batch_latency_s"] == pytest.approx(LATENCY["percentiles"]["50"])
    assert throughput["total_tok_per_s"] == THROUGHPUT["total_num_tokens"] / THROUGHPUT["elapsed_time"]


def test_settings_that_the_user_has_added_count(tables: Any, tmp_path: Path) -> None:
    files = [written(tmp_path / f"{name}.json", real() | {"build": name}) for name in ("a", "b")]
    (table,) = tables(*files)
    assert [row["config"]["task.build"] for row in table["rows"]] == ["a", "b"]


def test_the_time_to_the_first_token_of_all_requests(tables: Any, tmp_path: Path) -> None:
    content = {key: value for key, value in real().items() if key != "median_ttft_ms"}
    (table,) = tables(written(tmp_path / "a.json", content))
    assert table["rows"][0]["metrics"]["ttft_s"] == median(content["ttfts"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LATENCY | {"latencies": []}, "latencies is empty"),
        (LATENCY | {"latencies": None}, "latencies is missing"),
        (LATENCY | {"latencies": [1.0, float("nan")]}, "latencies[1] is no number (null or NaN)"),
        (LATENCY | {"latencies": [1.0, -1]}, "latencies[1] is not a number above 0"),
        (LATENCY | {"model_id": 5}, wrong_type("model_id", "whole number", "text")),
        (THROUGHPUT | {"tokens_per_second": "50"}, wrong_type("tokens_per_second", "text", "number")),
        (real() | {"completed": 4}, "2 of 6 requests failed"),
        (real() | {"output_throughput": 0}, "output_throughput is not a number above 0"),
        (real() | {"median_ttft_ms": None, "ttfts": None}, "median_ttft_ms and ttfts are missing"),
        (real() | {"date": None}, "date is missing"),
        (real() | {"num_prompts": True}, wrong_type("num_prompts", "true or false", "whole number")),
    ],
)
def test_damaged_results_are_rejected_by_name(
    rejected: Any, tmp_path: Path, content: dict[str, Any], message: str
) -> None:
    path = written(tmp_path / "bad.json", content)
    assert f"{path}: {message}" in rejected(path)
