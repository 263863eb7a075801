"""Reads the report of `guidellm run --output kind=json`: a benchmark for each strategy and rate."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec

from runner_base import DataError
from runner_compare.readers import Count, Measured, Outline, Parser, ToolFile, ToolRun, in_words, params_of

TOOL = "GuideLLM"
VERSION = 2  # of the report; since GuideLLM 0.7
OF_STRATEGY = ("type_", "streams", "rate")
OF_DATA = ("kind", "prompt_tokens", "output_tokens", "source")
Seconds = Annotated[float, msgspec.Meta(gt=0, lt=2**37)]  # since 1970, to the year 6300


class About(msgspec.Struct):
    """What wrote a report."""

    version: int
    guidellm_version: Any = None


class Origin(msgspec.Struct):
    """A report of any version."""

    metadata: About


class Spec(msgspec.Struct):
    """What was asked."""

    data: list[Any]


class Config(msgspec.Struct):
    """The settings of all benchmarks."""

    spec: Spec


class Report(msgspec.Struct):
    """What is read of a report."""

    metadata: About
    benchmarks: list[msgspec.Raw]
    config: Config


class Backend(msgspec.Struct):
    """Whom a benchmark asked."""

    model: str
    request_format: Any = None


class BenchmarkConfig(msgspec.Struct):
    """The settings of a benchmark."""

    strategy: dict[str, Any]
    backend: Backend


class Totals(msgspec.Struct):
    """How many requests there were."""

    errored: Count
    incomplete: Count
    successful: Any = None
    total: Any = None


class Mean(msgspec.Struct):
    """A figure over all requests."""

    mean: Measured


class Median(msgspec.Struct):
    """A figure of each request."""

    median: Measured


class Speed(msgspec.Struct):
    """A figure of the requests that were answered."""

    successful: Mean


class FirstToken(msgspec.Struct):
    """A time of the requests that were answered."""

    successful: Median


class RequestCounts(msgspec.Struct):
    """The counts of a benchmark; one with failures may lack its figures."""

    request_totals: Totals


class BenchmarkCounts(msgspec.Struct):
    """A benchmark as it ended."""

    metrics: RequestCounts


class Figures(msgspec.Struct):
    """The figures of a benchmark."""

    output_tokens_per_second: Speed
    time_to_first_token_ms: FirstToken


class Benchmark(msgspec.Struct):
    """What is read of a benchmark."""

    config: BenchmarkConfig
    start_time: Seconds
    metrics: Figures


REPORT: Parser[Report] = Parser(Report)
COUNTS: Parser[BenchmarkCounts] = Parser(BenchmarkCounts)
BENCHMARK: Parser[Benchmark] = Parser(Benchmark)
ABOUT: Parser[Origin] = Parser(Origin)


def recognises(_path: Path, outline: Outline) -> bool:
    """Whether a file is a report of GuideLLM."""
    return outline.has("metadata", "benchmarks") and outline.part("metadata").has("guidellm_version")


def read(path: Path, raw: bytes, _cluster: str | None = None) -> ToolFile:
    """Return a run for each benchmark of a report."""
    version = ABOUT.read(raw, str(path)).metadata.version
    if version != VERSION:
        raise DataError(
            f"version {version} of GuideLLM's report, and {VERSION} is read: renew GuideLLM",
            key=path,
            code="unsupported",
        )
    report = REPORT.read(raw, str(path))
    if not report.benchmarks:
        raise DataError("there is no benchmark in it", key=path, code="empty")
    first = report.config.spec.data[0] if report.config.spec.data else None
    data = first if isinstance(first, dict) else {}
    release = str(report.metadata.guidellm_version)
    return ToolFile(
        [
            _run(path, f"{path}, benchmark {at}", benchmark, data, release)
            for at, benchmark in enumerate(report.benchmarks, 1)
        ]
    )


def _run(path: Path, where: str, raw: msgspec.Raw, data: dict[str, Any], release: str) -> ToolRun:
    totals = COUNTS.read(raw, where).metrics.request_totals
    lost = totals.errored + totals.incomplete
    if lost:
        raise DataError(f"{lost} of {str(totals.total)[:20]} requests failed or did not end: its speed is not "
                        "that of all", key=where, code="damaged")  # fmt: skip
    benchmark = BENCHMARK.read(raw, where)
    backend, strategy = benchmark.config.backend, benchmark.config.strategy
    params = {
        "model.name": backend.model,
        "backend.name": TOOL,
        **params_of("backend", {"request_format": backend.request_format}),
        **params_of("task", {key.strip("_"): strategy.get(key) for key in OF_STRATEGY}),
        **params_of("data", {key: data.get(key) for key in OF_DATA}),
        **params_of("task", {"requests": totals.successful}),
    }
    repeats = {
        "output_tok_per_s": [benchmark.metrics.output_tokens_per_second.successful.mean],
        "ttft_s": [benchmark.metrics.time_to_first_token_ms.successful.median / 1000],
    }
    time = in_words(datetime.fromtimestamp(benchmark.start_time, UTC))
    return ToolRun(TOOL, path, TOOL, time, params, repeats=repeats, facts={"guidellm_version": release})
