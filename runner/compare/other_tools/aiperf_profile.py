"""Reads what `aiperf profile` writes: `profile_export_aiperf.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runner.compare.other_tools.files import field_of, parse, positive
from runner.compare.other_tools.shapes import Outline
from runner.compare.other_tools.tool_run import ToolFile, ToolRun, params_of
from runner.core.errors import DataError

TOOL = "AIPerf"
OF_PHASE = ("type", "concurrency", "rate", "requests", "duration")


def recognises(_path: Path, outline: Outline) -> bool:
    """Whether a file is a profile of AIPerf."""
    return outline.has("aiperf_version", "input_config", "request_throughput")


def read(path: Path, raw: bytes, _cluster: str | None = None) -> ToolFile:
    """Return the run in a file."""
    content = parse(raw, str(path))
    where = str(path)
    failed = content.get("error_summary") or []
    if content.get("was_cancelled") is True or content.get("is_complete") is not True or failed:
        count = f": {len(failed)} kinds of errors" if failed else ""
        raise DataError(f"{where}: requests failed, or it did not run to its end{count}: its speed is not that of all")
    config = field_of(content, "input_config", dict, where)
    models = field_of(config, "models.items", list, where)
    endpoint = field_of(config, "endpoint", dict, where)
    datasets, phases = (
        [one for one in config.get(key) or () if isinstance(one, dict)] for key in ("datasets", "phases")
    )
    phase = next((one for one in phases if not one.get("exclude_from_results")), {})
    prompts = datasets[0].get("prompts") if datasets else None
    lengths = {key: _mean(prompts, key) for key in ("isl", "osl")}
    params = {
        "model.name": " ".join(field_of(one, "name", str, where) for one in models),
        "backend.name": TOOL,
        **params_of("backend", {key: endpoint.get(key) for key in ("type", "streaming")}),
        **params_of("task", {key: phase.get(key) for key in OF_PHASE}),
        **params_of("data", {"type": datasets[0].get("type")} | lengths if datasets else {}),
    }
    speed = field_of(content, "output_token_throughput.avg", (int, float), where)
    repeats = {"output_tok_per_s": [positive(speed, "output_token_throughput", where)]}
    if "time_to_first_token" in content:  # only of answers that stream
        first = field_of(content, "time_to_first_token.p50", (int, float), where)
        repeats["ttft_s"] = [positive(first, "time_to_first_token", where) / 1000]
    facts = {"aiperf_version": str(content["aiperf_version"])}
    time = field_of(content, "start_time", str, where)
    return ToolFile([ToolRun(TOOL, path, TOOL, time, params, repeats=repeats, facts=facts)])


def _mean(prompts: Any, key: str) -> Any:
    length = prompts.get(key) if isinstance(prompts, dict) else None
    return length.get("mean") if isinstance(length, dict) else length
