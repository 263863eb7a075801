"""Starts a vLLM server and explains its errors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

from runner.config.resolved import ResolvedJob
from runner.options.remote.started.server import LOOPBACK, StartedServer
from runner.options.remote.vllm.command import (
    build_server_environment,
    build_server_options,
    served_model_name,
)
from runner.options.remote.vllm.environment import find_vllm_environment
from runner.options.remote.vllm.keys import as_vllm_config

# what it answers, beside what it computes: scores of many tokens in each place (token_scores.py)
SCORING = ["--enable-scale-out", "--max-logprobs", "1024"]


class VllmServer(StartedServer):
    LOG: ClassVar[str] = "vllm.log"
    BEFORE: ClassVar[re.Pattern[str]] = re.compile(
        r"^(?:\(\S+ pid=\d+\) )?(?:ERROR|INFO|WARNING|CRITICAL)? ?(?:\d\d-\d\d [\d:]+ )?(?:\[[^\]]*\] )?"
    )
    ERROR: ClassVar[re.Pattern[str]] = re.compile(r"^(?:[\w.]*(?:Error|Exception|Exit)\b.*|.*error: .*)")
    SECONDHAND: ClassVar[tuple[str, ...]] = (
        "See root cause above",
        "Engine core initialization failed",
        "EngineDeadError",
        "EngineCore encountered",
    )
    BAD_WORDS: ClassVar[tuple[str, ...]] = (
        "unrecognized arguments",
        "invalid choice",
        "error: argument",
        "expected one argument",
        "ambiguous option",
    )
    NO_MEMORY: ClassVar[tuple[str, ...]] = (
        "out of memory",
        "No available memory for the cache blocks",
        "on startup is less than desired",
        "larger than the available KV cache memory",
        "is less than requested memory for kv",
        "annot allocate memory",
        "MemoryError",
        "is needed, which is larger than",
        "No memory is available",
        "memory for the KV cache",
        "Free memory on device",
    )

    def __init__(self, resolved: ResolvedJob, folder: Path) -> None:
        """Start the server and wait until it is ready."""
        self._resolved, self.model = resolved, as_vllm_config(resolved.config.model)
        self.environment = find_vllm_environment(self.model)
        label, name = self.environment.label, self.model.name
        super().__init__(label, name, folder, self.model.start_timeout_s, self.model.port)

    @property
    def served_name(self) -> str:
        return served_model_name(self.model)

    def build_command(self) -> list[str]:
        model = ["--model", str(self._resolved.model.files.path), "--served-model-name", self.served_name]
        address = ["--disable-uvicorn-access-log", "--host", LOOPBACK, "--port", str(self.port)]
        scores = SCORING if self.environment.scores_in_one_pass else []
        return [
            *self.environment.server_base_command,
            *model,
            *scores,
            *build_server_options(self._resolved),
            *address,
        ]

    def variables(self) -> dict[str, str]:
        return build_server_environment(self._resolved, self.key)

    def user_flags(self) -> tuple[str, list[str]]:
        return "model.args", self.model.args

    def make_memory_advice(self) -> str:
        cpu = "model.memory_share (of main memory)" if self.environment.on_cpu else "model.tensor_parallel"
        return f"Lower model.max_positions, use another value of {cpu}, or free memory"
