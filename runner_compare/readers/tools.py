"""The only list of readers, and what each one is: a module of this folder that knows the files of
one tool."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from runner_compare.readers import Outline, ToolFile

# in the order in which a file is shown to them: the module's name, and the tool's
TOOLS = {
    "runner_job": "runner",
    "inspect_log": "inspect_ai",
    "lighteval_results": "lighteval",
    "evalscope_report": "evalscope",
    "olmo_eval": "olmo-eval",
    "evalplus_results": "EvalPlus",
    "llama_eval": "llama-eval",
    "llama_bench": "llama-bench",
    "vllm_bench": "vLLM",
    "guidellm_report": "GuideLLM",
    "aiperf_profile": "AIPerf",
}
SUFFIXES = (".json", ".eval")  # of the files that are looked at


class ToolReader(Protocol):
    """A module that reads a tool's files."""

    def recognises(self, path: Path, outline: Outline) -> bool:
        """Whether a file is the tool's, by its name and the names of its fields."""
        ...

    def read(self, path: Path, raw: bytes, cluster: str | None = None) -> ToolFile:
        """Return the runs in a file; `cluster` is the field of a sample that names its family."""
        ...


def writers() -> str:
    """Return the names of all tools whose files are read."""
    first, second, third, *others = TOOLS.values()
    return ", ".join([first, second, third, "lm-evaluation-harness", *others])


@cache
def readers() -> tuple[ToolReader, ...]:
    """Return the readers in their order."""
    return tuple(cast(ToolReader, import_module(f"runner_compare.readers.{name}")) for name in TOOLS)
