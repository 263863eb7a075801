"""Reader of reports of `guidellm run --output kind=json`, with one benchmark per strategy and rate."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec

from runner_base import DataError
from runner_compare.readers import (
    Count,
    JsonOutline,
    Measured,
    Parser,
    ToolFile,
    ToolRun,
    flatten_params,
    format_run_time,
)

TOOL = "GuideLLM"
VERSION = 2  # of the report; since GuideLLM 0.7
OF_STRATEGY = ("type_", "streams", "rate")
OF_DATA = ("kind", "prompt_tokens", "output_tokens", "source")
Seconds = Annotated[float, msgspec.Meta(gt=0, lt=2**37)]  # since 1970, to the year 6300


class About(msgspec.Struct):
    version: int
    guidellm_version: Any = None


class Origin(msgspec.Struct):
    """Fields of a GuideLLM report that every version has."""

    metadata: About


class Spec(msgspec.Struct):
    data: list[Any]


class Config(msgspec.Struct):
    spec: Spec


class Report(msgspec.Struct):
    metadata: About
    benchmarks: list[msgspec.Raw]
    config: Config


class Backend(msgspec.Struct):
    model: str
    request_format: Any = None


class BenchmarkConfig(msgspec.Struct):
    strategy: dict[str, Any]
    backend: Backend


class Totals(msgspec.Struct):
    errored: Count
    incomplete: Count
    successful: Any = None
    total: Any = None


class Mean(msgspec.Struct):
    mean: Measured


class Median(msgspec.Struct):
    median: Measured


class Speed(msgspec.Struct):
    successful: Mean


class FirstToken(msgspec.Struct):
    successful: Median


class RequestCounts(msgspec.Struct):
    """Request counts of a GuideLLM benchmark. A failed benchmark may lack metrics."""

    request_totals: Totals


class BenchmarkCounts(msgspec.Struct):
    metrics: RequestCounts


class Figures(msgspec.Struct):
    output_tokens_per_second: Speed
    time_to_first_token_ms: FirstToken


class Benchmark(msgspec.Struct):
    config: BenchmarkConfig
    start_time: Seconds
    metrics: Figures


REPORT: Parser[Report] = Parser(Report)
COUNTS: Parser[BenchmarkCounts] = Parser(BenchmarkCounts)
BENCHMARK: Parser[Benchmark] = Parser(Benchmark)
ABOUT: Parser[Origin] = Parser(Origin)


def can_read_file(_path: Path, outline: JsonOutline) -> bool:
    return outline.has_fields("metadata", "benchmarks") and outline.field_outline("metadata").has_fields(
        "guidellm_version"
    )


def read_tool_file(path: Path, file_content: bytes, _cluster_field: str | None = None) -> ToolFile:
    """Return a run for each benchmark of a GuideLLM report."""
    version = ABOUT.parse(file_content, str(path)).metadata.version
    if version != VERSION:
        raise DataError(
            f"report version {version} is not supported, only {VERSION}. Upgrade GuideLLM",
            key=path,
            code="unsupported",
        )
    report = REPORT.parse(file_content, str(path))
    if not report.benchmarks:
        raise DataError("there is no benchmark in it", key=path, code="empty")
    first = report.config.spec.data[0] if report.config.spec.data else None
    data = first if isinstance(first, dict) else {}
    release = str(report.metadata.guidellm_version)
    return ToolFile(
        [
            _create_run(path, f"{path}, benchmark {at}", benchmark, data, release)
            for at, benchmark in enumerate(report.benchmarks, 1)
        ]
    )


def _create_run(
    path: Path, source: str, file_content: msgspec.Raw, data: dict[str, Any], release: str
) -> ToolRun:
    totals = COUNTS.parse(file_content, source).metrics.request_totals
    lost = totals.errored + totals.incomplete
    if lost:
        raise DataError(f"{lost} of {str(totals.total)[:20]} requests failed or did not finish. The speed "
                        "does not cover all requests", key=source, code="damaged")  # fmt: skip
    benchmark = BENCHMARK.parse(file_content, source)
    backend, strategy = benchmark.config.backend, benchmark.config.strategy
    params = {
        "model.name": backend.model,
        "backend.name": TOOL,
        **flatten_params("backend", {"request_format": backend.request_format}),
        **flatten_params("task", {key.strip("_"): strategy.get(key) for key in OF_STRATEGY}),
        **flatten_params("data", {key: data.get(key) for key in OF_DATA}),
        **flatten_params("task", {"requests": totals.successful}),
    }
    repeats = {
        "output_tok_per_s": [benchmark.metrics.output_tokens_per_second.successful.mean],
        "ttft_s": [benchmark.metrics.time_to_first_token_ms.successful.median / 1000],
    }
    time = format_run_time(datetime.fromtimestamp(benchmark.start_time, UTC))
    return ToolRun(TOOL, path, TOOL, time, params, repeats=repeats, facts={"guidellm_version": release})
