"""Reads what vLLM's benchmarks write: `vllm bench latency` and `throughput` with `--output-json`,
`vllm bench serve` with `--save-result`, alone or by `vllm bench sweep serve`.

The files of `latency` and `throughput` name the model and no other setting. A sweep writes
`run=N.json` into a folder for each combination, whose settings stand behind `run_number`, and all
of them again into `summary.json`.
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
    Measured,
    Outline,
    Parser,
    ToolFile,
    ToolRun,
    changed,
    params_of,
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
    """What is read of `latency`."""

    model_id: str
    latencies: Times


class Throughput(msgspec.Struct):
    """What is read of `throughput`."""

    model_id: str
    tokens_per_second: Measured
    num_requests: Any


class Requests(msgspec.Struct):
    """How many requests `serve` sent, and how many were answered; where one was not, figures may be
    missing."""

    completed: int
    num_prompts: int


class Serve(msgspec.Struct):
    """What is read of `serve`."""

    model_id: str
    date: str
    backend: str
    output_throughput: Measured
    median_ttft_ms: Measured | None = None
    ttfts: Times | None = None  # of all requests, if they were saved
    max_concurrency: Any = None


class Failure(msgspec.Struct):
    """A run of a sweep that failed."""

    error_type: str
    error: str


LATENCY_FILE: Parser[Latency] = Parser(Latency)
THROUGHPUT_FILE: Parser[Throughput] = Parser(Throughput)
SERVE_FILE: Parser[Serve] = Parser(Serve)
REQUESTS: Parser[Requests] = Parser(Requests)
FAILED: Parser[Failure] = Parser(Failure)


def recognises(_path: Path, outline: Outline) -> bool:
    """Whether a file is the result of one of vLLM's benchmarks, or of a sweep of them."""
    return _kind(outline.parts) is not None or outline.has(*FAILURE) or _is_summary(outline)


def _is_summary(outline: Outline) -> bool:
    return bool(outline.elements) and all(
        _kind(element) == SERVE and RUN in element for element in outline.elements
    )


def read(path: Path, raw: bytes, _cluster: str | None = None) -> ToolFile:
    """Return the run in a file, or all runs of a sweep's summary that stands alone."""
    outline = Outline.of(raw, str(path))
    if outline.elements:
        if any(path.parent.glob("run=*.json")):  # the same runs
            return ToolFile([])
        runs = LIST.read(raw, str(path))
        return ToolFile(
            [_run(path, f"{path}, run {number}", benchmark) for number, benchmark in enumerate(runs, 1)]
        )
    if _kind(outline.parts) is None:
        failure = FAILED.read(raw, str(path))
        return ToolFile([], [f"{path}, which failed ({failure.error_type}: {failure.error[:120]})"])
    if bytes(outline.parts.get(RUN, Raw(b""))) == WARM_UP:
        return ToolFile([])
    return ToolFile([_run(path, str(path), raw)])


def _run(path: Path, where: str, raw: bytes | Raw) -> ToolRun:
    fields = OBJECT.read(raw, where)
    kind = _kind(fields) or LATENCY
    run = ToolRun(TOOL, path, kind, changed(path), {})  # latency and throughput write no time
    run.params = {"backend.name": TOOL}
    match kind:
        case "vllm latency":
            latency = LATENCY_FILE.read(raw, where)
            run.params["model.name"] = latency.model_id
            run.repeats = {"batch_latency_s": latency.latencies}
        case "vllm throughput":
            throughput = THROUGHPUT_FILE.read(raw, where)
            run.params["model.name"] = throughput.model_id
            run.params |= params_of("task", {"num_requests": throughput.num_requests})
            run.repeats = {"total_tok_per_s": [throughput.tokens_per_second]}
        case _:
            _read_serve(run, raw, fields, where)
    return run


def _kind(fields: dict[str, Raw]) -> str | None:
    return next((kind for kind, needed in KEYS.items() if needed <= fields.keys()), None)


def _read_serve(run: ToolRun, raw: bytes | Raw, fields: dict[str, Raw], where: str) -> None:
    requests = REQUESTS.read(raw, where)
    if requests.completed != requests.num_prompts:
        failed = f"{requests.num_prompts - requests.completed} of {requests.num_prompts}"
        raise DataError(f"{failed} requests failed: its speed is not that of all", key=where, code="damaged")
    serve = SERVE_FILE.read(raw, where)
    run.time = serve.date
    run.params |= {"model.name": serve.model_id, "backend.name": serve.backend}
    settings = {
        key: ANYTHING.read(value, where, key)
        for key, value in fields.items()
        if (key in OF_SERVE or bytes(value).startswith(b'"')) and key not in (*NOT_SETTINGS, "backend")
    }
    settings["max_concurrency"] = "unlimited" if serve.max_concurrency is None else serve.max_concurrency
    run.params |= params_of("task", settings)
    keys = list(fields)
    of_sweep = keys[keys.index(RUN) + 1 :] if RUN in keys else []
    run.params |= params_of("sweep", {key: ANYTHING.read(fields[key], where, key) for key in of_sweep})
    run.repeats = {"output_tok_per_s": [serve.output_throughput], "ttft_s": [_first_token_s(serve, where)]}


def _first_token_s(serve: Serve, where: str) -> float:
    """Return the median time to the first token: of all requests if they were saved, else as vLLM
    computed it."""
    if serve.median_ttft_ms is not None:
        return serve.median_ttft_ms / 1000
    if serve.ttfts is None:
        raise DataError("median_ttft_ms and ttfts are missing", key=where, code="damaged")
    return median(serve.ttfts)
