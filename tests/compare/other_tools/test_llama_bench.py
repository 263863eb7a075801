"""llama-bench's JSON as runs: tests that agree in their settings are one run, its figures are the
tests' names."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from changed_logs import wrong_type
from other_logs import DATA

from runner_compare.readers import load

TEST = {
    "build_commit": "abc1234",
    "build_number": 1,
    "cpu_info": "a CPU",
    "gpu_info": "",
    "backends": "CPU",
    "model_filename": "m.gguf",
    "model_type": "llama",
    "model_size": 1000,
    "model_n_params": 500,
    "n_batch": 2048,
    "n_threads": 2,
    "type_k": "f16",
    "n_prompt": 512,
    "n_gen": 0,
    "n_depth": 0,
    "test_time": "2026-01-02T03:04:05Z",
    "avg_ns": 512,
    "stddev_ns": 0,
    "avg_ts": 1e9,
    "stddev_ts": 0.0,
    "samples_ns": [512_000_000_000, 256_000_000_000, 512_000_000_000],
    "samples_ts": [1.0, 2.0, 1.0],
}
GENERATED = TEST | {"n_prompt": 0, "n_gen": 128, "samples_ns": [64_000_000_000] * 3}
BOTH = TEST | {"n_gen": 128, "n_depth": 4096, "samples_ns": [640_000_000_000] * 3}


def written(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_the_figures_of_a_real_file_are_those_that_it_gives(tables: Any) -> None:
    path = DATA / "llama_bench" / "bench.json"
    (table,) = tables(path)
    metrics = table["rows"][0]["metrics"]
    for name, test in zip(
        ("prompt_tok_per_s/pp32", "decode_tok_per_s/tg8", "total_tok_per_s/pp32_tg8"),
        json.loads(path.read_text()),
        strict=True,
    ):
        assert metrics[name] == pytest.approx(median(test["samples_ts"]), rel=1e-4)


def test_the_tests_of_a_file_are_figures_of_a_run(tables: Any, tmp_path: Path) -> None:
    (table,) = tables(written(tmp_path / "a.json", [TEST, GENERATED, BOTH]))
    assert table["task"] == "llama-bench"
    (row,) = table["rows"]
    assert row["metrics"]["prompt_tok_per_s/pp512"] == row["metrics"]["prompt_tok_per_s"] == 1.0
    assert row["metrics"]["decode_tok_per_s/tg128"] == 2.0
    assert row["metrics"]["total_tok_per_s/pp512_tg128_d4096"] == 1.0
    runs, _ = load.load_results([str(tmp_path / "a.json")])
    assert runs[0].facts["machine"] == "a CPU"


def test_settings_that_differ_are_rows(tables: Any, run: Any, tmp_path: Path) -> None:
    more = [one | {"n_threads": 4, "samples_ns": [1_000_000_000] * 3} for one in (TEST, GENERATED)]
    path = written(tmp_path / "a.json", [TEST, GENERATED, *more])
    (table,) = tables(path, "--baseline", "backend.n_threads=2")
    assert [row["config"] for row in table["rows"]] == [
        {"backend.n_threads": "2"},
        {"backend.n_threads": "4"},
    ]
    ratios = {one["measure"]: one["ratio"] for one in table["rows"][1]["ratios"]}
    assert ratios == {"prompt_tok_per_s/pp512": 512.0, "decode_tok_per_s/tg128": 64.0}

    other = written(tmp_path / "b.json", [TEST | {"build_commit": "def5678"}])
    (table,) = tables(path, other, "--where", "backend.n_threads=2")
    assert [row["config"]["backend.build_commit"] for row in table["rows"]] == ["abc1234", "def5678"]
    code, out, err = run(other, path, "--where", "backend.n_threads=2")
    assert code == 0, err
    assert "prompt_tok_per_s/pp512" in out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples_ns": []}, "test 1: samples_ns is empty"),
        ({"samples_ns": None}, "test 1: samples_ns is missing"),
        ({"samples_ns": [1, 0]}, "test 1: samples_ns[1] is not a number above 0"),
        ({"samples_ns": [float("inf")]}, "test 1: samples_ns[0] is no number (null or NaN)"),
        ({"n_prompt": 0}, "test 1: n_prompt=0 and n_gen=0: "),
        ({"n_prompt": "512"}, wrong_type("test 1: n_prompt", "text", "whole number")),
        ({"model_filename": None}, "test 1: model_filename is missing"),
        ({"test_time": None}, "test 1: test_time is missing"),
    ],
)
def test_damaged_tests_are_rejected_by_name(
    rejected: Any, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = written(tmp_path / "bad.json", [TEST | change])
    assert f"{path}, {message}" in rejected(path)


def test_duplicated_tests_and_other_lists_are_rejected(rejected: Any, tmp_path: Path) -> None:
    path = written(tmp_path / "bad.json", [TEST, TEST])
    assert f"{path}, test 2: two tests with the same settings measure prompt_tok_per_s/pp512" in rejected(
        path
    )
    others: list[Any] = [[], [1], [{}], 5]
    for content in others:
        assert "the path has no results of a supported tool" in rejected(written(path, content))


def test_more_files_are_asked_for_where_runs_are_too_few(run: Any, rejected: Any, tmp_path: Path) -> None:
    slower = TEST | {"n_threads": 1, "samples_ns": [600_000_000_000] * 3}
    paths = [written(tmp_path / f"{name}.json", [test]) for name, test in (("two", TEST), ("one", slower))]
    code, out, err = run(*paths)
    assert code == 0, err
    assert "rerun=all" not in out
    assert "one process each cannot show a difference in 1 comparison. " in out
    assert "3 more times each" in out
    assert "pass all files to --results" in out
    assert f"--cluster story: {paths[0]}: speed measurements have no clusters" in rejected(
        *paths, "--cluster", "story"
    )
