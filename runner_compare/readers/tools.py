"""List of readers. Each reader is a module of this folder that reads one tool's files."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from runner_compare.readers import JsonOutline, ToolFile

# in the order in which a file is shown to them: the module's name, and the tool's
TOOLS = {
    "packed_job": "runner (packed)",
    "runner_job": "runner",
    "inspect_log": "inspect_ai",
    "lighteval_results": "lighteval",
    "evalscope_report": "evalscope",
    "olmo_eval": "olmo-eval",
    "evalplus_results": "EvalPlus",
    "llama_eval": "llama-eval",
    "nemo_evaluator": "NeMo Evaluator",
    "evalution": "Evalution",
    "llama_bench": "llama-bench",
    "perf_eval": "perf-eval",
    "vllm_bench": "vLLM",
    "guidellm_report": "GuideLLM",
    "aiperf_profile": "AIPerf",
}
# endings of the names of the files that are looked at. Not ".jsonl": a job's samples.jsonl lies beside its results
ENDINGS = (".json", ".eval")


class ToolReader(Protocol):
    """Interface of a module that reads one tool's files."""

    def can_read_file(self, path: Path, outline: JsonOutline) -> bool:
        """Return whether a file belongs to the tool, judged by its name and its JSON fields."""
        ...

    def read_tool_file(self, path: Path, file_content: bytes, cluster_field: str | None = None) -> ToolFile:
        """Return the runs in a file. `cluster_field` names the sample field that defines clusters."""
        ...


def format_supported_tools() -> str:
    _, first, second, third, *others = TOOLS.values()
    return ", ".join([first, second, third, "lm-evaluation-harness", *others])


@cache
def load_readers() -> tuple[ToolReader, ...]:
    """Import all readers, in the order of detection."""
    return tuple(cast(ToolReader, import_module(f"runner_compare.readers.{name}")) for name in TOOLS)
