"""evalscope, EvalPlus, GuideLLM, AIPerf (real files), llama-eval, olmo-eval and sweeps of vLLM
(files of their shape)."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from other_logs import DATA, VLLM

EVALSCOPE, EVALPLUS = DATA / "evalscope", DATA / "evalplus"
OLMO, LLAMA_EVAL = DATA / "olmo_eval", DATA / "llama_eval"
GUIDELLM, AIPERF = DATA / "guidellm", DATA / "aiperf"
REPORT = "none/reports/embedded/gsm8k.json"
REVIEWS = "none/reviews/embedded/gsm8k_default.jsonl"

Change = Callable[[Any], object]


def changed(path: Path, change: Change) -> None:
    """Change a JSON file, or the last line of a .jsonl."""
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    content = json.loads(lines[-1])
    change(content)
    path.write_text("\n".join([*lines[:-1], json.dumps(content)]))


def pairs(row: dict[str, Any]) -> tuple[int, int, int]:
    return row["comparison"]["wins"], row["comparison"]["losses"], row["comparison"]["ties"]


@pytest.mark.parametrize(
    ("places", "task", "metric", "accuracies", "expected"),
    [
        ((EVALSCOPE / "none", EVALSCOPE / "nf4"), "gsm8k", None, (22 / 24, 22 / 24), (0, 0, 24)),
        ((EVALPLUS / "none_eval_results.json", EVALPLUS / "nf4_eval_results.json"), "HumanEval", "base",
         (11 / 12, 11 / 12), (1, 1, 10)),
        ((EVALPLUS / "none_eval_results.json", EVALPLUS / "nf4_eval_results.json"), "HumanEval", "plus",
         (9 / 12, 8 / 12), (2, 3, 7)),
        ((LLAMA_EVAL / "none.json", LLAMA_EVAL / "nf4.json"), "gsm8k", None, (11 / 12, 10 / 12), (0, 1, 11)),
        ((OLMO / "none", OLMO / "nf4"), "sums:qa", None, (10 / 12, 9 / 12), (1, 2, 9)),
    ],
)  # fmt: skip
def test_evaluations_are_paired_by_sample(
    tables: Any, places: tuple[Path, ...], task: str, metric: str | None, accuracies: Any, expected: Any
) -> None:
    (table,) = tables(*places, *(["--metric", metric] if metric else []))
    assert table["task"] == task
    base, row = table["rows"]
    assert (base["metrics"]["accuracy"], row["metrics"]["accuracy"]) == pytest.approx(accuracies)
    assert pairs(row) == expected


@pytest.mark.parametrize(
    ("places", "key", "values"),
    [
        ((GUIDELLM / "guidellm_1.json", GUIDELLM / "guidellm_2.json"), "task.streams", ["1", "2"]),
        ((AIPERF / "1", AIPERF / "2"), "task.concurrency", ["1", "2"]),
    ],
)
def test_speeds_of_real_files(tables: Any, places: tuple[Path, ...], key: str, values: list[str]) -> None:
    (table,) = tables(*places)
    assert [row["config"][key] for row in table["rows"]] == values
    first, second = table["rows"]
    assert {one["measure"] for one in second["ratios"]} == {"output_tok_per_s", "ttft_s"}
    if GUIDELLM in places[0].parents:
        metrics = json.loads(places[0].read_text())["benchmarks"][0]["metrics"]
        speed, ttft_ms = (
            metrics["output_tokens_per_second"]["successful"]["mean"],
            metrics["time_to_first_token_ms"],
        )
        assert first["metrics"]["ttft_s"] == pytest.approx(ttft_ms["successful"]["median"] / 1000)
    else:
        profile = json.loads(next(places[0].iterdir()).read_text())
        speed = profile["output_token_throughput"]["avg"]
        assert first["metrics"]["ttft_s"] == pytest.approx(profile["time_to_first_token"]["p50"] / 1000)
    assert first["metrics"]["output_tok_per_s"] == pytest.approx(speed)


def sweep(folder: Path) -> Path:
    """Write what `vllm bench sweep serve` writes, from real files of `vllm bench serve`."""
    for seqs, source in ((4, "at_once"), (1, "one_at_a_time")):
        comb = folder / f"SERVE--max_num_seqs={seqs}"
        comb.mkdir(parents=True)
        runs = []
        for number, file in enumerate(sorted((VLLM / source).iterdir())):
            runs.append(json.loads(file.read_text()) | {"run_number": number, "max_num_seqs": seqs})
            (comb / f"run={number}.json").write_text(json.dumps(runs[-1]))
        (comb / "warmup.json").write_text(json.dumps(runs[0] | {"run_number": -1, "output_throughput": 1.0}))
        (comb / "summary.json").write_text(json.dumps(runs))
    return folder


def test_a_sweep_of_vllm_counts_each_run_once_and_knows_its_settings(
    tables: Any, run: Any, tmp_path: Path
) -> None:
    folder = sweep(tmp_path / "sweep")
    (table,) = tables(folder, "--by", "sweep.max_num_seqs", "--baseline", "sweep.max_num_seqs=4")
    assert [row["config"]["sweep.max_num_seqs"] for row in table["rows"]] == ["4", "1"]
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(folder / "SERVE--max_num_seqs=4" / "summary.json", alone)
    shutil.copy(folder / "SERVE--max_num_seqs=4" / "run=0.json", alone / "other.json")
    (table,) = tables(alone / "summary.json")
    assert len(table["rows"]) == 1
    failure = {
        "run_number": 1,
        "error_type": "OSError",
        "error": "gone",
        "serve_overrides": {},
        "bench_overrides": {},
    }
    (folder / "SERVE--max_num_seqs=4" / "run=1.failure.json").write_text(json.dumps(failure))
    _, _, err = run(folder)
    assert "run=1.failure.json, which failed (OSError: gone)" in err


@pytest.mark.parametrize(
    ("source", "file", "change", "message"),
    [
        (EVALSCOPE, REPORT, lambda it: it["metrics"][0].update(score=0.5),
         "gsm8k.json: accuracy is 0.9167 .*, but 0.5 in the report"),
        (EVALSCOPE, REVIEWS, None, "its answers, .*gsm8k_default.jsonl, are not there"),
        (EVALSCOPE, REVIEWS, lambda it: it.pop("sample_score"), r"gsm8k_default.jsonl, line 24: sample_score is missing"),
        (EVALSCOPE, REPORT, lambda it: it["metrics"][0]["categories"][0]["subsets"][0].update(num=23),
         "gsm8k_default.jsonl: .* 24 answers, but .*gsm8k.json records 23"),
        (EVALPLUS, "none_eval_results.json", lambda it: it["eval"].update({"HumanEval/3": []}),
         "none_eval_results.json, task HumanEval/3: it has no solution"),
        (EVALPLUS, "none_eval_results.json", lambda it: it["eval"]["HumanEval/3"][0].update(base_status="maybe"),
         "none_eval_results.json, task HumanEval/3: the test outcome maybe is unknown"),
        (LLAMA_EVAL, "none.json", lambda it: it["task_states"].update(correct=3),
         "none.json: 11 cases are correct, but the file records 3"),
        (LLAMA_EVAL, "none.json", lambda it: it["task_states"]["cases"]["gsm8k_000_003"].update(status="pending"),
         "none.json: 1 .*no answer yet.* llama-eval.py --resume"),
        (OLMO, "none/metrics.json", lambda it: it["tasks"][0].update(num_instances=11),
         "predictions.jsonl: .* 12 predictions, but .*metrics.json records 11"),
        (OLMO, "none/metrics.json", lambda it: it["tasks"][0]["metrics"]["accuracy"].update(exact_match=0.75),
         "metrics.json: sums:qa accuracy:exact_match is 0.833333 over .*, but this file reports 0.75"),
        (OLMO, "none/metrics.json", lambda it: it["tasks"][0].update(task="other"),
         "metrics.json: the predictions of other, .* are not there"),
        (OLMO, "none/metrics.json", lambda it: it.update(errors=[{"task": "sums:qa"}]), "metrics.json: 1 task failed with an error"),
        (GUIDELLM, "guidellm_1.json", lambda it: it["metadata"].update(version=1), "guidellm_1.json: report version 1 is not supported, only 2"),
        (GUIDELLM, "guidellm_1.json", lambda it: it["benchmarks"][0]["metrics"]["request_totals"].update(errored=2),
         "guidellm_1.json, benchmark 1: 2 of 6 requests failed or did not finish"),
        (AIPERF, "1/profile_export_aiperf.json", lambda it: it.update(was_cancelled=True),
         "profile_export_aiperf.json: the benchmark failed or is incomplete"),
        (AIPERF, "1/profile_export_aiperf.json", lambda it: it["output_token_throughput"].update(avg=-1),
         "output_token_throughput.avg is not a number above 0"),
    ],
)  # fmt: skip
def test_damaged_files_are_refused_by_name(
    rejected: Any, tmp_path: Path, source: Path, file: str, change: Change | None, message: str
) -> None:
    folder = tmp_path / source.name
    shutil.copytree(source, folder)
    if change is None:
        (folder / file).unlink()
    else:
        changed(folder / file, change)
    error = " ".join(rejected(folder).split())
    assert re.search(message, error), error


def test_several_answers_to_a_sample_count_as_one(tables: Any, tmp_path: Path) -> None:
    for name, solved in (("a", 1), ("b", 2)):
        content = json.loads((EVALPLUS / "none_eval_results.json").read_text())
        for task, (solution,) in content["eval"].items():
            fails = solution | {"base_status": "fail", "plus_status": "fail"}
            is_first = task == "HumanEval/0"
            content["eval"][task] = (
                [*[solution] * solved, *[fails] * (3 - solved)] if is_first else [solution] * 3
            )
        (tmp_path / f"{name}_eval_results.json").write_text(json.dumps(content))
    (table,) = tables(*(tmp_path / f"{name}_eval_results.json" for name in "ab"), "--metric", "base")
    # its pass@1: the mean over tasks of c / n
    of_evalplus = [(10 + solved / 3) / 12 for solved in (1, 2)]
    assert [row["metrics"]["accuracy"] for row in table["rows"]] == pytest.approx(of_evalplus)
    difference = table["rows"][1]["comparison"] or {"difference": 1 / 36}
    assert difference["difference"] == pytest.approx(of_evalplus[1] - of_evalplus[0])
    assert table["rows"][0]["metrics"]["pass_at_k/3"] == pytest.approx(11 / 12)
    assert not [key for key in table["rows"][0]["metrics"] if key.startswith("maj_at_k")], (
        "programs do not vote"
    )
