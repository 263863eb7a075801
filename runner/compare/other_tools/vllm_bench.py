"""Reads what vLLM's benchmarks write: `vllm bench latency` and `throughput` with `--output-json`, `vllm bench serve`
with `--save-result`, alone or by `vllm bench sweep serve`.

The files of `latency` and `throughput` name the model and no other setting. A sweep writes `run=N.json` into a folder
for each combination, whose settings stand behind `run_number`, and all of them again into `summary.json`.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from runner.compare.other_tools.files import changed, field_of, parse, positive
from runner.compare.other_tools.shapes import Outline
from runner.compare.other_tools.tool_run import ToolFile, ToolRun, params_of
from runner.core.errors import DataError

TOOL = "vllm"
LATENCY, THROUGHPUT, SERVE = "vllm latency", "vllm throughput", "vllm serve"
KEYS = {
    LATENCY: {"avg_latency", "latencies"},
    THROUGHPUT: {"elapsed_time", "num_requests", "tokens_per_second"},
    SERVE: {"duration", "completed", "request_throughput", "output_throughput"},
}
# Settings that `serve` writes; any other text is one that the user has added with --metadata KEY=VALUE
OF_SERVE = ("num_prompts", "request_rate", "burstiness", "max_concurrency", "label")
RUN, WARM_UP, FAILURE = "run_number", -1, {"error_type", "error", "serve_overrides"}  # of a sweep
NOT_SETTINGS = ("date", "endpoint_type", "model_id", "tokenizer_id")


def recognises(_path: Path, outline: Outline) -> bool:
    """Whether a file is the result of one of vLLM's benchmarks, or of a sweep of them."""
    return _kind(outline.parts) is not None or outline.has(*FAILURE) or _is_summary(outline.elements)


def _is_summary(content: Any) -> bool:
    is_list = isinstance(content, list) and bool(content)
    return is_list and all(_kind(one) == SERVE and RUN in one for one in content)


def read(path: Path, raw: bytes, _cluster: str | None = None) -> ToolFile:
    """Return the run in a file, or all runs of a sweep's summary that stands alone."""
    content = parse(raw, str(path))
    if _is_summary(content):
        if any(path.parent.glob("run=*.json")):  # the same runs
            return ToolFile([])
        return ToolFile([_run(path, f"{path}, run {number}", one) for number, one in enumerate(content, 1)])
    if _kind(content) is None:
        return ToolFile([], [f"{path}, which failed ({content['error_type']}: {str(content['error'])[:120]})"])
    if content.get(RUN) == WARM_UP:
        return ToolFile([])
    return ToolFile([_run(path, str(path), content)])


def _run(path: Path, where: str, content: dict[str, Any]) -> ToolRun:
    kind = _kind(content) or LATENCY
    run = ToolRun(TOOL, path, kind, changed(path), {})  # latency and throughput write no time
    run.params = {"model.name": field_of(content, "model_id", str, where), "backend.name": TOOL}
    match kind:
        case "vllm latency":
            times = field_of(content, "latencies", list, where)
            if not times:
                raise DataError(f"{where}: latencies is empty")
            run.repeats = {"batch_latency_s": [positive(one, "latencies", where) for one in times]}
        case "vllm throughput":
            run.params |= params_of("task", {"num_requests": content["num_requests"]})
            run.repeats = {"total_tok_per_s": [positive(content["tokens_per_second"], "tokens_per_second", where)]}
        case _:
            _read_serve(run, content, where)
    return run


def _kind(content: Any) -> str | None:
    keys = content.keys() if isinstance(content, dict) else set[str]()
    return next((kind for kind, needed in KEYS.items() if needed <= keys), None)


def _read_serve(run: ToolRun, content: dict[str, Any], where: str) -> None:
    completed, asked = (field_of(content, key, int, where) for key in ("completed", "num_prompts"))
    if completed != asked:
        raise DataError(f"{where}: {asked - completed} of {asked} requests failed: its speed is not that of all")
    run.time = field_of(content, "date", str, where)
    run.params["backend.name"] = field_of(content, "backend", str, where)
    settings = {key: value for key, value in content.items() if key in OF_SERVE or isinstance(value, str)}
    settings["max_concurrency"] = "unlimited" if content.get("max_concurrency") is None else content["max_concurrency"]
    run.params |= params_of("task", {key: settings[key] for key in settings if key not in (*NOT_SETTINGS, "backend")})
    keys = list(content)
    of_sweep = keys[keys.index(RUN) + 1 :] if RUN in keys else []
    run.params |= params_of("sweep", {key: content[key] for key in of_sweep})
    run.repeats = {
        "output_tok_per_s": [positive(content["output_throughput"], "output_throughput", where)],
        "ttft_s": [_first_token_s(content, where)],
    }


def _first_token_s(content: dict[str, Any], where: str) -> float:
    """Return the median time to the first token: of all requests if they were saved, else as vLLM computed it."""
    if "median_ttft_ms" in content:
        return positive(content["median_ttft_ms"], "median_ttft_ms", where) / 1000
    return median(positive(one, "ttfts", where) for one in field_of(content, "ttfts", list, where) or [None])
