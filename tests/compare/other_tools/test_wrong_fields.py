"""A wrong field is one message with the file and its key."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from changed_logs import HUGE, written, wrong_type
from other_logs import DATA, changed_log, log_of

AS_JSON = log_of("as_json").relative_to(DATA)
LIGHTEVAL = next((DATA / "lighteval" / "whole").rglob("results_*.json")).relative_to(DATA)
LM_EVAL = next((DATA / "lm_eval" / "hf").rglob("results_*.json")).relative_to(DATA)
OLMO, PROFILE = Path("olmo_eval/none/metrics.json"), Path("aiperf/1/profile_export_aiperf.json")
REPORT = Path("evalscope/none/reports/embedded/gsm8k.json")

CASES: list[tuple[Path, tuple[Any, ...], Any, str]] = [
    (AS_JSON, ("eval", "packages"), 5, wrong_type("eval.packages", "whole number", "object")),
    (AS_JSON, ("eval", "dataset", "sample_ids"), {}, wrong_type("eval.dataset.sample_ids", "object", "list")),
    (AS_JSON, ("plan", "steps"), 3, wrong_type("plan.steps", "whole number", "list")),
    (AS_JSON, ("results", "total_samples"), float("nan"), "results.total_samples is no number (null or NaN)"),
    (AS_JSON, ("samples", 2, "epoch"), 1.5, wrong_type("sample 3: epoch", "number", "whole number")),
    (LIGHTEVAL, ("versions",), 1.0, wrong_type("versions", "number", "object")),
    (LIGHTEVAL, ("config_tasks", "sums|0", "metrics"), "em", wrong_type("config_tasks.sums|0.metrics", "text", "list")),
    (LM_EVAL, ("group_subtasks",), [1], wrong_type("group_subtasks", "list", "object")),
    (LM_EVAL, ("n-samples", "choices", "effective"), "12", wrong_type("n-samples[...].effective", "text", "whole number")),
    (OLMO, ("errors",), 0.5, wrong_type("errors", "number", "list")),
    (OLMO, ("tasks", 0, "task"), 7, wrong_type("tasks[0].task", "whole number", "text")),
    (OLMO, ("config", "models"), 7, wrong_type("config: models", "whole number", "object")),
    (REPORT, ("metrics", 0, "identity"), "mean", wrong_type("metrics[0].identity", "text", "object")),
    (REPORT, ("metrics", 0, "score"), "0.9", wrong_type("metrics[0].score", "text", "number")),
    (Path("llama_bench/bench.json"), (0, "n_prompt"), 10**400, "test 1: n_prompt is not a number at most"),
    (Path("llama_bench/bench.json"), (0, "samples_ns", 1), 10**400, "test 1: samples_ns[1]: Number out of range"),
    (Path("llama_bench/bench.json"), (0, "samples_ns", 1), HUGE, "test 1: samples_ns[1]"),
    (Path("llama_eval/none.json"), ("tasks",), [["a"]], wrong_type("tasks[0]", "list", "text")),
    (Path("llama_eval/none.json"), ("task_states", "correct"), [], wrong_type("task_states.correct", "list", "whole number")),
    (REPORT, ("dataset_name",), "é" * 3000, "no file is named 'ééé"),
    (REPORT, ("dataset_name",), "../../gsm8k", "no file is named '../../gsm8k_default.jsonl'"),
    (OLMO, ("tasks", 0, "task"), "é" * 3000, "no file is named 'ééé"),
    (PROFILE, ("error_summary",), 2, wrong_type("error_summary", "whole number", "list")),
    (PROFILE, ("output_token_throughput", "avg"), 10**400, "output_token_throughput.avg: Number out of range"),
    (Path("guidellm/guidellm_1.json"), ("benchmarks", 0, "start_time"), 1e300, "benchmark 1: start_time is not a number"),
    (Path("vllm/latency.json"), ("latencies", 0), 10**400, "latencies[0]: Number out of range"),
    (Path("evalplus/none_eval_results.json"), ("eval", "HumanEval/3", 0, "solution"), None,
     "task HumanEval/3: solutions[0].solution is missing"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "keys", "value", "message"), CASES)
def test_the_message_names_file_and_key(
    rejected: Any, tmp_path: Path, file: Path, keys: tuple[Any, ...], value: object, message: str
) -> None:
    folder = tmp_path / file.parts[0]
    shutil.copytree(DATA / file.parts[0], folder)
    path = tmp_path / file
    content = json.loads(path.read_text())
    within = content
    for key in keys[:-1]:
        within = within[key]
    within[keys[-1]] = value
    path.write_bytes(written(content))
    error = " ".join(rejected(path).split())
    assert f"{path}" in error
    assert message in error


def test_a_setting_that_is_empty_is_no_error(tables: Any, tmp_path: Path) -> None:
    def change(members: dict[str, dict[str, Any]]) -> None:
        members["header.json"]["eval"]["model"] = ""

    path = changed_log(tmp_path / "a.eval", change)
    for places in ((log_of("none"), path), (path, log_of("none"))):
        first, second = tables(*places, "--task", "problems")[0]["rows"]
        assert first["is_baseline"]
        assert second["comparison"]["ties"] == 24


def test_yaml_that_grows_or_holds_itself_is_refused(rejected: Any, tmp_path: Path) -> None:
    shutil.copytree(DATA / "evalscope" / "none", tmp_path / "run")
    file = tmp_path / "run" / "configs" / "task_config.yaml"
    levels = "".join(f"a{at}: &a{at} [{', '.join([f'*a{at - 1}'] * 10)}]\n" for at in range(1, 9))
    for text, reason in (
        (f"a0: &a0 [x]\n{levels}generation_config: {{n: *a8}}", "more than 20 aliases"),
        ("generation_config: &a {n: *a}", "Circular reference detected"),
        (f"limit: {'7' * 5000}", "no YAML"),
        ("generation_config: " + "[" * 3000 + "]" * 3000, "no YAML"),
    ):
        file.write_text(text)
        error = " ".join(rejected(tmp_path / "run").split())
        assert f"{file}: no YAML" in error
        assert reason in error
