"""evalscope, EvalPlus, GuideLLM, AIPerf, NeMo Evaluator, Evalution (real files), llama-eval, olmo-eval and
sweeps of vLLM (files of their shape)."""

from __future__ import annotations

import json
import math
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
NEMO, EVALUTION = DATA / "nemo_evaluator", DATA / "evalution"
NEMO_BUNDLE = "none/problems/eval-20261130T134651Z-problems.json"
NEMO_RESULTS = "none/problems/results.jsonl"
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
        ((NEMO / "none", NEMO / "nf4"), "problems", None, (22 / 24, 21 / 24), (1, 2, 21)),
        ((EVALUTION / "none.json", EVALUTION / "nf4.json"), "gsm8k_cot_zeroshot", None, (22 / 24, 18 / 24), (0, 4, 20)),
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
        (NEMO, NEMO_BUNDLE, lambda it: it["benchmark"]["scores"]["summary"].update(mean=0.5),
         "problems.json: reward is 0.916667 over the answers, but this file reports 0.5"),
        (NEMO, NEMO_BUNDLE, lambda it: it.update(n_results=25), "results.jsonl: .* 24 answers, but .*problems.json records 25"),
        (NEMO, NEMO_BUNDLE, lambda it: it.pop("config") and it.update(config=[]), "problems.json: config has the type list"),
        (NEMO, NEMO_RESULTS, None, "problems.json: its answers, .*results.jsonl, are not there"),
        (NEMO, NEMO_RESULTS, lambda it: it.update(reward=math.nan), r"results.jsonl, line 24: reward is no number \(null or NaN\)"),
        (NEMO, NEMO_RESULTS, lambda it: it.update(problem_idx=15), "results.jsonl: problem 15, repeat 0, is duplicated"),
        (EVALUTION, "none.json", lambda it: it["tests"][0]["metrics"].update({"acc,num": 0.5}),
         "none.json: gsm8k_cot_zeroshot acc,num is 0.916667 over the samples, but this file reports 0.5"),
        (EVALUTION, "none.json", lambda it: it["tests"][0]["samples"][3]["scores"].update({"acc,num": math.nan}),
         r"none.json, gsm8k_cot_zeroshot, sample 4: scores.* is no number \(null or NaN\)"),
        (EVALUTION, "none.json", lambda it: it["tests"][0]["samples"][3].update(index=4), "none.json: sample 4 is duplicated"),
        (EVALUTION, "none.json", lambda it: it["tests"][0]["samples"].pop(), "none.json: .* over the samples, but this file reports"),
        (EVALUTION, "none.json", lambda it: it.update(tests=[]), "none.json: there is no test in it"),
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


@pytest.mark.parametrize(
    ("source", "file"), [(NEMO, NEMO_BUNDLE), (NEMO, NEMO_RESULTS), (EVALUTION, "none.json")]
)
def test_truncated_files_are_refused_by_name(rejected: Any, tmp_path: Path, source: Path, file: str) -> None:
    folder = tmp_path / source.name
    shutil.copytree(source, folder)
    raw = (folder / file).read_bytes()
    (folder / file).write_bytes(raw[: len(raw) * 2 // 3])
    error = rejected(folder)
    assert Path(file).name in "".join(error.split())
    assert error.count("runner-compare: ") == 1


def test_problems_that_nel_could_not_ask_are_errors_and_not_wrong_answers(tables: Any, run: Any) -> None:
    """The server of this real run started late: nel scored six problems 0 without an answer."""
    (table,) = tables(NEMO / "none", NEMO / "unreachable", "--count-errors")
    assert [row["metrics"]["correct"] for row in table["rows"]] == [22, 16]
    (table,) = tables(NEMO / "none", NEMO / "unreachable")
    assert len(table["rows"]) == 1
    _, _, err = run(NEMO / "none", NEMO / "unreachable")
    assert "6 of 24 questions ended in an error" in " ".join(err.split())


def test_the_repeats_of_nel_are_averaged_per_problem(tables: Any) -> None:
    (table,) = tables(NEMO / "repeats")
    (row,) = table["rows"]
    (bundle,) = (NEMO / "repeats" / "digits").glob("eval-*.json")
    reported = json.loads(bundle.read_text())["benchmark"]["scores"]["summary"]
    assert (table["task"], row["metrics"]["n"], reported["n"]) == ("digits:reward", 6, 18)
    assert row["metrics"]["reward"] == pytest.approx(reported["mean"])


def test_an_unmerged_shard_of_nel_is_omitted_with_a_note(tables: Any, run: Any, tmp_path: Path) -> None:
    shard = tmp_path / "run" / "shard_0" / "problems"
    shutil.copytree(NEMO / "nf4" / "problems", shard)
    (bundle,) = shard.glob("eval-*.json")
    changed(bundle, lambda it: it["config"].update(shard={"idx": 0, "total": 2, "range": [0, 24]}))
    _, out, err = run(NEMO / "none", tmp_path / "run")
    assert "1 run" in out
    assert "nel eval merge" in " ".join(err.split())
    merged = shutil.copytree(shard, tmp_path / "run" / "problems")
    changed(merged / bundle.name, lambda it: it["config"].update(n_shards=2))
    (table,) = tables(NEMO / "none", tmp_path / "run")
    assert pairs(table["rows"][1]) == (1, 2, 21)
    _, _, err = run(NEMO / "none", tmp_path / "run")
    assert "nel eval merge" not in " ".join(err.split())


def test_scores_that_a_tool_gives_not_to_every_sample_are_left_out(
    tables: Any, run: Any, tmp_path: Path
) -> None:
    """Without rewards there is a note. An additional scorer of nel is a metric of its own."""
    for name in ("none", "nf4"):
        shutil.copytree(NEMO / name, tmp_path / name)
        file = tmp_path / name / "problems" / "results.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        for row in rows:
            row["scorer_rewards"] = {"scorer:exact": 1.0 if row["problem_idx"] else 0.0}
        rows[0].pop("reward")
        file.write_text("\n".join(map(json.dumps, rows)))
    (table,) = tables(tmp_path / "none", tmp_path / "nf4")
    assert [row["metrics"]["correct"] for row in table["rows"]] == [23, 23]
    _, _, err = run(tmp_path / "none", tmp_path / "nf4")
    assert "problems reward" in " ".join(err.split())


def test_evalution_scores_other_than_verdicts_are_numbers(tables: Any, tmp_path: Path) -> None:
    for number, name in enumerate(("none", "nf4")):
        content = json.loads((EVALUTION / f"{name}.json").read_text())
        (test,) = content["tests"]
        samples = [
            sample | {"index": 24 * block + sample["index"], "scores": {"f1": 0.5 + 0.1 * number}}
            for block in range(3)
            for sample in test["samples"]
        ]
        test.update(samples=samples, metrics={"f1": 0.9})  # as an aggregate that is no mean
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (table,) = tables(tmp_path / "none.json", tmp_path / "nf4.json")
    assert table["task"] == "gsm8k_cot_zeroshot:f1"
    assert [row["metrics"]["f1"] for row in table["rows"]] == pytest.approx([0.5, 0.6])
