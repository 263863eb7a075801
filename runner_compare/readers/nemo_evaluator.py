"""Reader of NVIDIA NeMo Evaluator's bundles: `eval-TIME-BENCHMARK.json` and the `results.jsonl` next to it.

A bundle has the settings, and `results.jsonl` has a line for each problem and repeat. Rewards that are all
0 or 1 are verdicts, as in `nel compare`. A shard alone is omitted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from runner_base import DataError
from runner_compare.readers import (
    LONGEST_TEXT,
    METRIC,
    BetterDirection,
    Count,
    JsonOutline,
    Parser,
    ToolFile,
    ToolRun,
    ToolSample,
    check_reported_mean,
    flatten_params,
    get_sample_cluster,
    iter_lines_checking_count,
    merge_repeated_answers,
    require_unique_sample_ids,
    to_finite_number,
)

TOOL = "NeMo Evaluator"
RESULTS, REWARD = "results.jsonl", "reward"
ENDPOINT_ERRORS = ("infra_error", "system")  # the other error categories are the model's own failures
UNMERGED = "unmerged shard (see nel eval merge)"
OF_GENERATION = ("temperature", "max_tokens", "top_p", "seed")
OF_TASK = ("repeats", "max_problems", "system_prompt", "harness", "adapter", "image")


class Benchmark(msgspec.Struct):
    name: str
    scores: dict[str, Any]
    samples: Any = None


class Bundle(msgspec.Struct):
    timestamp: str
    sdk_version: str
    config: dict[str, Any]
    benchmark: Benchmark
    n_results: Count = 0


class Row(msgspec.Struct):
    problem_idx: int | str
    repeat: int = 0
    reward: float | msgspec.UnsetType = msgspec.UNSET  # a container's harness may write none
    scorer_rewards: dict[str, float] = {}
    prompt: Any = ""
    expected_answer: Any = None
    extracted_answer: Any = None
    model_response: Any = None
    scoring_details: dict[str, Any] = {}
    metadata: Any = None


BUNDLE: Parser[Bundle] = Parser(Bundle)
ROW: Parser[Row] = Parser(Row)


def can_read_file(_path: Path, outline: JsonOutline) -> bool:
    return outline.has_fields("run_id", "sdk_version", "config", "benchmark")


def read_tool_file(path: Path, file_content: bytes, cluster_field: str | None = None) -> ToolFile:
    """Return the evaluations in a bundle: one by the reward, and one by each additional scorer."""
    where = str(path)
    bundle = BUNDLE.parse(file_content, where)
    name = bundle.benchmark.name
    if bundle.config.get("shard") and not bundle.config.get("n_shards"):
        merged = path.parents[2] / path.parent.name / RESULTS
        note = f"{path} is omitted: {UNMERGED}"
        return ToolFile([], notes=[] if merged.is_file() else [note])
    if not bundle.n_results:  # the harness of a container has reported means only
        return ToolFile([], [f"{name} {metric}" for metric in bundle.benchmark.scores])
    rows = list(_iter_rows(path, bundle.n_results))
    _check_unique_rows(path, rows)
    params = {
        **flatten_params("model", {"name": bundle.config.get("model")}),
        **flatten_params("generation", {key: bundle.config.get(key) for key in OF_GENERATION}),
        **flatten_params("task", {key: bundle.config.get(key) for key in OF_TASK}),
        "task.name": name,
    }
    runs, left_out = [], []
    scores = [_get_scores(row) for row in rows]
    for metric in dict.fromkeys(metric for row_scores in scores for metric in row_scores) or [REWARD]:
        numbers = [row_scores[metric] for row_scores in scores if metric in row_scores]
        if len(numbers) < len(rows):
            left_out.append(f"{name} {metric}")
            continue
        if metric == REWARD:
            _check_reported_reward(where, bundle.benchmark, numbers)
        samples = merge_repeated_answers(
            replace(_create_sample(row, cluster_field), number=number, solved=number == 1)
            for row, number in zip(rows, numbers, strict=True)
        )
        require_unique_sample_ids(path, samples)
        runs.append(
            ToolRun(
                TOOL,
                path,
                name,
                bundle.timestamp,
                params | {METRIC: metric},
                samples=samples,
                facts={"nemo_evaluator_version": bundle.sdk_version},
                better=None if set(numbers) <= {0, 1} else BetterDirection.higher,
            )
        )
    return ToolFile(runs, left_out)


def _iter_rows(path: Path, expected_count: int) -> Iterator[Row]:
    file = path.with_name(RESULTS)
    if not file.is_file():
        raise DataError(f"its answers, {file}, are not there", key=path, code="not_found")
    for where_line, line in iter_lines_checking_count(file, "answers", expected_count, str(path)):
        yield ROW.parse(line, where_line)


def _check_unique_rows(path: Path, rows: list[Row]) -> None:
    seen = set[tuple[int | str, int]]()
    for row in rows:
        if (row.problem_idx, row.repeat) in seen:
            raise DataError(
                f"problem {row.problem_idx}, repeat {row.repeat}, is duplicated",
                key=path.with_name(RESULTS),
                code="damaged",
            )
        seen.add((row.problem_idx, row.repeat))


def _get_scores(row: Row) -> dict[str, float]:
    reward = {} if row.reward is msgspec.UNSET else {REWARD: row.reward}
    return reward | row.scorer_rewards


def _check_reported_reward(source: str, benchmark: Benchmark, rewards: list[float]) -> None:
    summary = benchmark.scores.get("summary")
    if isinstance(summary, dict) and to_finite_number(summary.get("mean")) is not None:
        mean = sum(rewards) / len(rewards)
        check_reported_mean(f"{source}: {REWARD}", mean, "answers", "this file", summary["mean"])


def _create_sample(row: Row, cluster_field: str | None) -> ToolSample:
    family, fields = get_sample_cluster(row.metadata, cluster_field)
    return ToolSample(
        str(row.problem_idx),
        str(row.prompt),
        str(row.expected_answer),
        False,
        row.extracted_answer if isinstance(row.extracted_answer, str) else None,
        row.model_response[-LONGEST_TEXT:] if isinstance(row.model_response, str) else "",
        row.scoring_details.get("error_category") in ENDPOINT_ERRORS,
        cluster=family,
        fields=fields,
    )
