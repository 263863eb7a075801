"""Reader of vLLM benchmark results: `vllm bench latency`, `throughput`, `serve` and `sweep serve`.

`latency` and `throughput` are written with `--output-json`, `serve` with `--save-result`.
The files of `latency` and `throughput` contain the model and no other setting. A sweep
writes `run=N.json` into a folder for each combination, whose settings follow `run_number`,
and all of them again into `summary.json`.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Annotated, Any

import msgspec
from msgspec import Raw

from runner_base import DataError
from runner_compare.readers import (
    ANYTHING,
    LIST,
    OBJECT,
    JsonOutline,
    Measured,
    Parser,
    ToolFile,
    ToolRun,
    flatten_params,
    modification_time,
)

TOOL = "vllm"
LATENCY, THROUGHPUT, SERVE = "vllm latency", "vllm throughput", "vllm serve"
KEYS = {
    LATENCY: {"avg_latency", "latencies"},
    THROUGHPUT: {"elapsed_time", "num_requests", "tokens_per_second"},
    SERVE: {"duration", "completed", "request_throughput", "output_throughput"},
}
# Settings that `serve` writes; any other text is one that the user has added with --metadata
# KEY=VALUE
OF_SERVE = ("num_prompts", "request_rate", "burstiness", "max_concurrency", "label")
# of a sweep
RUN, WARM_UP, FAILURE = "run_number", b"-1", ("error_type", "error", "serve_overrides")
NOT_SETTINGS = ("date", "endpoint_type", "model_id", "tokenizer_id")


Times = Annotated[list[Measured], msgspec.Meta(min_length=1)]


class Latency(msgspec.Struct):
    model_id: str
    latencies: Times


class Throughput(msgspec.Struct):
    model_id: str
    tokens_per_second: Measured
    num_requests: Any


class Requests(msgspec.Struct):
    """Numbers of requests that `vllm bench serve` sent and completed.

    Failed requests may leave metrics missing.
    """

    completed: int
    num_prompts: int


class Serve(msgspec.Struct):
    model_id: str
    date: str
    backend: str
    output_throughput: Measured
    median_ttft_ms: Measured | None = None
    ttfts: Times | None = None  # of all requests, if they were saved
    max_concurrency: Any = None


class Failure(msgspec.Struct):
    """A run of a parameter sweep that failed."""

    error_type: str
    error: str


LATENCY_FILE: Parser[Latency] = Parser(Latency)
THROUGHPUT_FILE: Parser[Throughput] = Parser(Throughput)
SERVE_FILE: Parser[Serve] = Parser(Serve)
REQUESTS: Parser[Requests] = Parser(Requests)
FAILED: Parser[Failure] = Parser(Failure)


def can_read_file(_path: Path, outline: JsonOutline) -> bool:
    return (
        _detect_benchmark(outline.parts) is not None or outline.has_fields(*FAILURE) or _is_summary(outline)
    )


def _is_summary(outline: JsonOutline) -> bool:
    return bool(outline.elements) and all(
        _detect_benchmark(element) == SERVE and RUN in element for element in outline.elements
    )


def read_tool_file(path: Path, file_content: bytes, _cluster_field: str | None = None) -> ToolFile:
    """Return the run in a vLLM result file, or the runs in a sweep's summary.

    A summary yields no runs if the sweep's result files exist.
    """
    outline = JsonOutline.from_bytes(file_content, str(path))
    if outline.elements:
        if any(path.parent.glob("run=*.json")):  # the same runs
            return ToolFile([])
        runs = LIST.parse(file_content, str(path))
        return ToolFile(
            [
                _create_run(path, f"{path}, run {number}", benchmark)
                for number, benchmark in enumerate(runs, 1)
            ]
        )
    if _detect_benchmark(outline.parts) is None:
        failure = FAILED.parse(file_content, str(path))
        return ToolFile([], [f"{path}, which failed ({failure.error_type}: {failure.error[:120]})"])
    if bytes(outline.parts.get(RUN, Raw(b""))) == WARM_UP:
        return ToolFile([])
    return ToolFile([_create_run(path, str(path), file_content)])


def _create_run(path: Path, source: str, file_content: bytes | Raw) -> ToolRun:
    fields = OBJECT.parse(file_content, source)
    kind = _detect_benchmark(fields) or LATENCY
    run = ToolRun(TOOL, path, kind, modification_time(path), {})  # latency and throughput write no time
    run.params = {"backend.name": TOOL}
    match kind:
        case "vllm latency":
            latency = LATENCY_FILE.parse(file_content, source)
            run.params["model.name"] = latency.model_id
            run.repeats = {"batch_latency_s": latency.latencies}
        case "vllm throughput":
            throughput = THROUGHPUT_FILE.parse(file_content, source)
            run.params["model.name"] = throughput.model_id
            run.params |= flatten_params("task", {"num_requests": throughput.num_requests})
            run.repeats = {"total_tok_per_s": [throughput.tokens_per_second]}
        case _:
            _add_serving_benchmark_results(run, file_content, fields, source)
    return run


def _detect_benchmark(fields: dict[str, Raw]) -> str | None:
    return next((kind for kind, needed in KEYS.items() if needed <= fields.keys()), None)


def _add_serving_benchmark_results(
    run: ToolRun, file_content: bytes | Raw, fields: dict[str, Raw], source: str
) -> None:
    requests = REQUESTS.parse(file_content, source)
    if requests.completed != requests.num_prompts:
        failed = f"{requests.num_prompts - requests.completed} of {requests.num_prompts}"
        raise DataError(
            f"{failed} requests failed, so the speed does not cover all requests", key=source, code="damaged"
        )
    serve = SERVE_FILE.parse(file_content, source)
    run.time = serve.date
    run.params |= {"model.name": serve.model_id, "backend.name": serve.backend}
    settings = {
        key: ANYTHING.parse(value, source, key)
        for key, value in fields.items()
        if (key in OF_SERVE or bytes(value).startswith(b'"')) and key not in (*NOT_SETTINGS, "backend")
    }
    settings["max_concurrency"] = "unlimited" if serve.max_concurrency is None else serve.max_concurrency
    run.params |= flatten_params("task", settings)
    keys = list(fields)
    of_sweep = keys[keys.index(RUN) + 1 :] if RUN in keys else []
    run.params |= flatten_params("sweep", {key: ANYTHING.parse(fields[key], source, key) for key in of_sweep})
    run.repeats = {
        "output_tok_per_s": [serve.output_throughput],
        "ttft_s": [_compute_median_ttft_s(serve, source)],
    }


def _compute_median_ttft_s(serve_result: Serve, source: str) -> float:
    if serve_result.median_ttft_ms is not None:
        return serve_result.median_ttft_ms / 1000
    if serve_result.ttfts is None:
        raise DataError("median_ttft_ms and ttfts are missing", key=source, code="damaged")
    return median(serve_result.ttfts)
