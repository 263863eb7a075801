"""A server of vLLM: the words that it is started with, and what its errors mean."""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

from runner.config.resolved import ResolvedJob
from runner.options.remote.started.server import LOOPBACK, StartedServer
from runner.options.remote.vllm.command import name_of, options_of, variables_of
from runner.options.remote.vllm.environment import environment_of
from runner.options.remote.vllm.keys import vllm_model

# what it answers, beside what it computes: scores of many tokens in each place (token_scores.py)
SCORING = ["--enable-scale-out", "--max-logprobs", "1024"]


class VllmServer(StartedServer):
    """A running server of vLLM."""

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
        """Start it, and wait until it answers."""
        self._resolved, self.model = resolved, vllm_model(resolved.config.model)
        self.environment = environment_of(self.model)
        label, name = self.environment.label, self.model.name
        super().__init__(label, name, folder, self.model.start_s, self.model.port)

    @property
    def served_name(self) -> str:
        """Its own name, or the last part of its folder's path."""
        return name_of(self.model)

    def command(self) -> list[str]:
        """Return vLLM's command line."""
        model = ["--model", str(self._resolved.model.files.path), "--served-model-name", self.served_name]
        address = ["--disable-uvicorn-access-log", "--host", LOOPBACK, "--port", str(self.port)]
        scores = SCORING if self.environment.scores_in_one_pass else []
        return [*self.environment.server, *model, *scores, *options_of(self._resolved), *address]

    def variables(self) -> dict[str, str]:
        """Return the user's variables, and a few of the runner's."""
        return variables_of(self._resolved, self.key)

    def words(self) -> tuple[str, list[str]]:
        return "model.args", self.model.args

    def more_room(self) -> str:
        """Return what needs less memory."""
        cpu = "model.memory_share (of main memory)" if self.environment.on_cpu else "model.tensor_parallel"
        return f"Use a smaller model.max_positions, another {cpu}, or free some"
