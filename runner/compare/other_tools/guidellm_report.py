"""Reads the report of `guidellm run --output kind=json`: a benchmark for each strategy and rate."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runner.compare.other_tools.files import field_of, in_words, parse, positive
from runner.compare.other_tools.shapes import Outline
from runner.compare.other_tools.tool_run import ToolFile, ToolRun, params_of
from runner.core.errors import DataError

TOOL = "GuideLLM"
VERSION = 2  # of the report; since GuideLLM 0.7
OF_STRATEGY = ("type_", "streams", "rate")
OF_DATA = ("kind", "prompt_tokens", "output_tokens", "source")


def recognises(_path: Path, outline: Outline) -> bool:
    """Whether a file is a report of GuideLLM."""
    return outline.has("metadata", "benchmarks") and outline.part("metadata").has("guidellm_version")


def read(path: Path, raw: bytes, _cluster: str | None = None) -> ToolFile:
    """Return a run for each benchmark of a report."""
    content = parse(raw, str(path))
    version = field_of(content, "metadata.version", int, str(path))
    if version != VERSION:
        raise DataError(f"{path}: version {version} of GuideLLM's report, and {VERSION} is read: renew GuideLLM")
    benchmarks = field_of(content, "benchmarks", list, str(path))
    if not benchmarks:
        raise DataError(f"{path}: there is no benchmark in it")
    release = str(content["metadata"]["guidellm_version"])
    of_data = field_of(content, "config.spec.data", list, str(path))
    data = of_data[0] if of_data and isinstance(of_data[0], dict) else {}
    return ToolFile([_run(path, f"{path}, benchmark {at}", one, data, release) for at, one in enumerate(benchmarks, 1)])


def _run(path: Path, where: str, benchmark: Any, data: dict[str, Any], release: str) -> ToolRun:
    totals = field_of(benchmark, "metrics.request_totals", dict, where)
    lost = sum(field_of(totals, key, int, where) for key in ("errored", "incomplete"))
    if lost:
        raise DataError(f"{where}: {lost} of {totals.get('total')} requests failed or did not end: its speed is not "
                        "that of all")  # fmt: skip
    strategy = field_of(benchmark, "config.strategy", dict, where)
    start = datetime.fromtimestamp(positive(benchmark.get("start_time"), "start_time", where), UTC)
    speed = field_of(benchmark, "metrics.output_tokens_per_second.successful.mean", (int, float), where)
    first = field_of(benchmark, "metrics.time_to_first_token_ms.successful.median", (int, float), where)
    params = {
        "model.name": field_of(benchmark, "config.backend.model", str, where),
        "backend.name": TOOL,
        **params_of("backend", {"request_format": benchmark["config"]["backend"].get("request_format")}),
        **params_of("task", {key.strip("_"): strategy.get(key) for key in OF_STRATEGY}),
        **params_of("data", {key: data.get(key) for key in OF_DATA}),
        **params_of("task", {"requests": totals.get("successful")}),
    }
    repeats = {
        "output_tok_per_s": [positive(speed, "output_tokens_per_second", where)],
        "ttft_s": [positive(first, "time_to_first_token_ms", where) / 1000],
    }
    return ToolRun(TOOL, path, TOOL, in_words(start), params, repeats=repeats, facts={"guidellm_version": release})
