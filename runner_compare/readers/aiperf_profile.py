"""Reader of `profile_export_aiperf.json`, the output of `aiperf profile`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from runner_base import DataError
from runner_compare.readers import JsonOutline, Measured, Parser, ToolFile, ToolRun, flatten_params

TOOL = "AIPerf"
OF_PHASE = ("type", "concurrency", "rate", "requests", "duration")


class Ending(msgspec.Struct):
    """Fields of a profile that show whether the benchmark completed.

    If it failed, other fields are missing.
    """

    error_summary: list[Any] | None = None
    was_cancelled: bool | None = None
    is_complete: bool | None = None


class Model(msgspec.Struct):
    name: str


class Models(msgspec.Struct):
    items: list[Model]


class Endpoint(msgspec.Struct):
    type: Any = None
    streaming: Any = None


class Prompts(msgspec.Struct):
    """Prompt and answer lengths in tokens. Each is a number, or an object with a mean."""

    isl: Any = None
    osl: Any = None


class DataSet(msgspec.Struct):
    type: Any = None
    prompts: Prompts | None = None


class Phase(msgspec.Struct):
    exclude_from_results: Any = None
    type: Any = None
    concurrency: Any = None
    rate: Any = None
    requests: Any = None
    duration: Any = None


class Inputs(msgspec.Struct):
    models: Models
    endpoint: Endpoint
    datasets: list[DataSet] | None = None
    phases: list[Phase] | None = None


class Average(msgspec.Struct):
    avg: Measured


class Median(msgspec.Struct):
    p50: Measured


class Profile(msgspec.Struct):
    aiperf_version: Any
    input_config: Inputs
    start_time: str
    output_token_throughput: Average
    time_to_first_token: Median | None = None  # only of answers that stream


ENDING: Parser[Ending] = Parser(Ending)
PROFILE: Parser[Profile] = Parser(Profile)


def can_read_file(_path: Path, outline: JsonOutline) -> bool:
    return outline.has_fields("aiperf_version", "input_config", "request_throughput")


def read_tool_file(path: Path, file_content: bytes, _cluster_field: str | None = None) -> ToolFile:
    """Return the run in an AIPerf profile. Raises DataError if the profile failed or was cancelled."""
    where = str(path)
    ending = ENDING.parse(file_content, where)
    failed = ending.error_summary or []
    if ending.was_cancelled or not ending.is_complete or failed:
        count = f": {len(failed)} kinds of errors" if failed else ""
        raise DataError(
            f"the benchmark failed or is incomplete{count}. Its speed covers only some of the requests",
            key=where,
            code="damaged",
        )
    profile = PROFILE.parse(file_content, where)
    config = profile.input_config
    data = config.datasets[0] if config.datasets else None
    phase = next((phase for phase in config.phases or () if not phase.exclude_from_results), Phase())
    params = {
        "model.name": " ".join(model.name for model in config.models.items),
        "backend.name": TOOL,
        **flatten_params("backend", {"type": config.endpoint.type, "streaming": config.endpoint.streaming}),
        **flatten_params("task", {key: getattr(phase, key) for key in OF_PHASE}),
        **flatten_params("data", _dataset_settings(data) if data else None),
    }
    repeats = {"output_tok_per_s": [profile.output_token_throughput.avg]}
    if profile.time_to_first_token:
        repeats["ttft_s"] = [profile.time_to_first_token.p50 / 1000]
    facts = {"aiperf_version": str(profile.aiperf_version)}
    return ToolFile([ToolRun(TOOL, path, TOOL, profile.start_time, params, repeats=repeats, facts=facts)])


def _dataset_settings(data: DataSet) -> dict[str, Any]:
    prompts = data.prompts or Prompts()
    return {"type": data.type, "isl": _mean_length(prompts.isl), "osl": _mean_length(prompts.osl)}


def _mean_length(length: Any) -> Any:
    return length.get("mean") if isinstance(length, dict) else length
