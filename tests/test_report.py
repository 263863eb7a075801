from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.config.root import PrintMode
from runner.report import (
    MAX_KEY_COLUMNS,
    GridLine,
    build_job_name_columns,
    format_headline_metrics,
    format_main_metrics,
    print_grid_results,
    print_record,
)
from runner_base.result import Record, Result, Status
from runner_engine.models.load_summary import summarize_load

METRICS = {
    "accuracy": 0.925,
    "accuracy_low": 0.898,
    "accuracy_high": 0.945,
    "n": 500,
    "correct": 462,
    "wrong": 30,
    "no_answer": 5,
    "cut_off": 3,
    "prompt_tokens": 30000,
    "new_tokens": 12000,
    "load_s": 0.5,
    "prefill_tok_per_s": 9000.4,
    "decode_tok_per_s": 1234.5,
    "peak_rss_mib": 801.2,
    "weight_mib": 6.07,
    "seconds": 12.3,
}


def record(**changes: object) -> Record:
    result = Result(METRICS, rows=[{"part": 0, "layers": "0-3", "mib": 12.5}], notes=["look here"])
    values = {
        "job_id": "gsm8k-abc",
        "status": Status.FINISHED,
        "output_dir": "/x/jobs/gsm8k-abc",
        "result": result,
    }
    return Record(**(values | changes))  # type: ignore[arg-type]


def test_table_shows_every_headline(capsys: pytest.CaptureFixture[str]) -> None:
    print_record(
        record(mlflow_run_id="r1", mlflow_uri="sqlite:////x/mlflow.db"),
        {"model": "embedded"},
        PrintMode.table,
    )
    out = capsys.readouterr().out
    for part in (
        "model=embedded",
        "92.5 %   95 % interval [89.8 %, 94.5 %]   500 questions",
        "462 correct · 30 wrong · 5 without an answer · 3 cut off",
        "decode 1,234 tok/s · prefill 9,000 tok/s",
        "gsm8k-abc",
        "/x/jobs/gsm8k-abc",
        "0-3",
        "note: look here",
        "mlflow ui --backend-store-uri sqlite:////x/mlflow.db",
    ):
        assert part in out
    for detail in ("30,000 prompt tokens · 12,000 new tokens", "801 MiB"):
        assert detail not in out
    print_record(record(), {"model": "embedded"}, PrintMode.full)
    out = capsys.readouterr().out
    for detail in ("30,000 prompt tokens · 12,000 new tokens", "801 MiB"):
        assert detail in out


def test_the_table_of_a_job_that_failed_begins_with_why(capsys: pytest.CaptureFixture[str]) -> None:
    print_record(
        record(status=Status.FAILED, error="1 problem found:\n  3 of 6 prompts ended in an error"),
        {},
        PrintMode.table,
    )
    first = capsys.readouterr().out.split()
    assert first[:4] == ["status", "FAILED:", "1", "problem"]
    print_record(record(), {}, PrintMode.table)
    assert "status" not in capsys.readouterr().out


def test_json_is_one_line_and_none_is_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    print_record(record(), {}, PrintMode.json)
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    assert json.loads(line) == {
        "job_id": "gsm8k-abc",
        "status": "FINISHED",
        "output_dir": "/x/jobs/gsm8k-abc",
        "metrics": METRICS,
        "mlflow_run_id": None,
    }
    print_record(record(), {}, PrintMode.none)
    assert capsys.readouterr().out == ""


def test_brief_is_one_line() -> None:
    line = format_main_metrics(record())
    assert line == "accuracy 92.5 % [89.8, 94.5] · 1,234 tok/s · 12 s"
    assert "\n" not in line


def test_grid_as_table_and_as_lines_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [
        GridLine({"quantization": "nf4"}, "finished", "gsm8k-abc", record()),
        GridLine({"quantization": "[x]"}, "impossible"),
    ]
    print_grid_results(lines, PrintMode.table)
    table = capsys.readouterr().out
    for part in ("quantization", "nf4", "[x]", "impossible", "92.5 [89.8, 94.5]", "1,234"):
        assert part in table
    assert max(map(len, table.splitlines())) <= 100
    assert not {"6.07", "801"} & {*table.split()}
    print_grid_results(lines, PrintMode.full)
    assert {"6.07", "801", "gsm8k-abc"} <= {*capsys.readouterr().out.split()}
    print_grid_results(lines, PrintMode.table, has_table=False)
    assert capsys.readouterr().out == "", "the reader has seen a line for each job"
    print_grid_results(lines, PrintMode.json)
    (only,) = capsys.readouterr().out.splitlines()
    assert json.loads(only)["job_id"] == "gsm8k-abc"
    print_grid_results(lines, PrintMode.none)
    assert capsys.readouterr().out == ""


def test_a_task_with_other_metrics_shows_them_all() -> None:
    assert format_headline_metrics({"num_parts": 2.0, "stored_mib": 12.345, "x/y": 1.0}) == {
        "num_parts": "2",
        "stored_mib": "12.35",
    }


LOADED_METRICS = {
    "parameters": 3_180_800,
    "weight_mib": 2.49,
    "quantized_modules": 28,
    "unquantized_linears": 1,
    "lora_modules": 28,
    "rope_pairs": 32,
    "rope_pairs_patched": 0,
    "load_s": 0.5,
    "load_peak_rss_mib": 470,
    "load_rss_mib": 465,
}
LOADED_FACTS = {
    "architecture": "LlamaForCausalLM",
    "dtype": "bfloat16 0.44 MiB, uint8 2.05 MiB",
    "quantized": "nf4: 28 of 29 linear layers (28 Linear4bit)",
    "left_alone": "lm_head",
    "lora": "peft ./a: 28 modules · rank 8 · norm of the delta 9.11 · 149,504 parameters",
    "rope": "default, theta 10000.0",
    "attention": "sdpa",
    "device": "cpu",
    "threads": "2",
}


def test_what_was_loaded_is_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = METRICS | LOADED_METRICS | {"lora_rank": 8, "lora_delta_norm": 9.11}
    print_record(record(result=Result(metrics, facts=LOADED_FACTS)), {}, PrintMode.full)
    rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for row in (
        "loaded LlamaForCausalLM · 3,180,800 parameters · 2.49 MiB: bfloat16 0.44 MiB, uint8 2.05 MiB",
        "quantized nf4: 28 of 29 linear layers (28 Linear4bit) · not quantized: lm_head",
        "lora peft ./a: 28 modules · rank 8 · norm of the delta 9.11 · 149,504 parameters",
        "rope default, theta 10000.0 · 32 pairs, none patched",
        "runs on cpu · 2 threads · attention sdpa",
        "load 0.50 s · peak 470 MiB, then 465 MiB resident",
    ):
        assert rows.count(row) == 1
    for text in ("28 modules", "LlamaForCausalLM", "sdpa", "10000", "2.49", "0.50"):
        assert sum(text in row for row in rows) == 1
    labels = [row.split()[0] for row in rows if row]
    assert not {
        "load_s",
        "weight_mib",
        "weights",
        "architecture",
        "device",
        "threads",
        "dtype",
        "attention",
    } & set(labels)


def test_facts_for_experts_come_with_print_full(capsys: pytest.CaptureFixture[str]) -> None:
    """The table leaves out what the title says, and what few need; a warning stays."""
    facts = LOADED_FACTS | {"quantized": "none", "lora": "none", "sampling": "greedy"}
    facts["prompt"] = "chat · 0 worked examples · form 8991fc61c5f5 · without BOS"
    choices = {"quantization": "none", "lora": "none", "rope": "native", "generation": "greedy"}
    metrics = METRICS | LOADED_METRICS | {"quantized_modules": 0}

    def rows(how: PrintMode, **changes: str) -> dict[str, str]:
        print_record(record(result=Result(metrics, facts=facts | changes)), choices, how)
        lines = capsys.readouterr().out.splitlines()
        return dict(line.strip().partition("  ")[::2] for line in lines if line.startswith("  "))

    brief, full = rows(PrintMode.table), rows(PrintMode.full)
    assert "prompt" not in brief
    assert full["prompt"].strip() == facts["prompt"]
    assert {"quantized", "lora", "rope", "sampling", "prompt", "loaded"} <= full.keys() - brief.keys()
    assert "32 pairs, none patched" in full["rope"]
    assert (
        rows(PrintMode.table, prompt="chat · begins with two BOS")["prompt"].strip()
        == "chat · begins with two BOS"
    )
    beyond = "default, theta 10000.0, beyond its trained 1,024"
    assert rows(PrintMode.table, rope=beyond)["rope"].strip() == beyond
    choices["rope"] = "rope_2d"
    assert rows(PrintMode.table)["rope"].strip() == "default, theta 10000.0"


def test_a_gpu_has_its_own_memory() -> None:
    on_gpu = summarize_load(LOADED_METRICS | {"gpu_mib": 1000, "load_peak_gpu_mib": 1234}, LOADED_FACTS)
    assert on_gpu["load"].endswith("then 465 MiB resident · GPU peak 1,234 MiB, then 1,000 MiB")


def test_many_keys_share_a_column_in_the_table_of_a_grid() -> None:
    few = [{"a": "1", "b": "2"}, {"a": "3"}]
    assert build_job_name_columns(few) == (["a", "b"], [["1", "2"], ["3", ""]])
    many = [{f"key{number}": "v" for number in range(MAX_KEY_COLUMNS + 1)}, {"key0": "w"}]
    heads, cells = build_job_name_columns(many)
    assert (heads, cells[1]) == (["overrides"], ["key0=w"])
    assert cells[0] == [" ".join(f"key{number}=v" for number in range(MAX_KEY_COLUMNS + 1))]


@pytest.mark.thorough
def test_answers_of_one_token_have_no_speed_of_decoding(runner: Callable[..., Any]) -> None:
    done = runner("task.limit=4", "generation.max_new_tokens=1")
    assert done.code == 0, done.err
    assert re.search("speed +prefill", done.out)
    assert not re.search("speed +decode", done.out)


@pytest.mark.thorough
def test_a_grid_says_of_its_jobs_when_they_were_recorded(runner: Callable[..., Any], tmp_path: Path) -> None:
    grid = ("-m", "model=stub", "task=generate", "task.prompt=Hi", "seed=1,2", f"task.output={tmp_path}/${{seed}}.txt",
            "task.overwrite=true")  # fmt: skip
    first = runner(*grid)
    assert first.code == 0, first.err
    assert "recorded" not in first.err
    again = runner(*grid)
    assert again.err.count("(recorded before)") == 2, again.err
