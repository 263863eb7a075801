"""Starts a llama.cpp server, explains its errors, and checks that it runs the requested model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from runner.config.resolved import ResolvedJob
from runner.options.remote.extra_sampling import SAMPLERS
from runner.options.remote.llama_cpp.command import (
    build_server_environment,
    build_server_options,
    get_max_sequence_tokens,
    served_model_name,
)
from runner.options.remote.llama_cpp.keys import as_llama_cpp_config
from runner.options.remote.llama_cpp.program import find_llama_cpp_program
from runner.options.remote.started.server import LOOPBACK, TAKEN, StartedServer
from runner_base import ConfigError, JobFailed, to_one_line

# unusual values, of which a server that takes them says that it has them
TRIED = {
    "n_predict": 1,
    "temperature": 0.625,
    "top_k": 7,
    "top_p": 0.875,
    "min_p": 0.125,
    "repeat_penalty": 1.25,
    "repeat_last_n": 48,
    "seed": 77,
    "samplers": SAMPLERS,
}
TRIED_WORDS = "1 + 1"


class LlamaCppServer(StartedServer):
    LOG: ClassVar[str] = "llama_cpp.log"
    BEFORE: ClassVar[re.Pattern[str]] = re.compile(r"^(?:\d+\.\d\d\.\d{3}\.\d{3} )?(?:[DIWE] )?")
    ERROR: ClassVar[re.Pattern[str]] = re.compile(
        r"^(?:.*\b(?:error|failed|unable|couldn't|not supported|requires)\b.*|[\w.]*(?:Error|Exception)\b.*)",
        re.I,
    )
    SECONDHAND: ClassVar[tuple[str, ...]] = (
        "exiting due to model loading error",
        "failed to load model, ",
        "Failed to init server",
    )
    TAKEN: ClassVar[tuple[str, ...]] = (*TAKEN, "couldn't bind", "failed to bind")
    BAD_WORDS: ClassVar[tuple[str, ...]] = (
        "error: invalid argument",
        "error while handling argument",
        "expected value for argument",
        "argument has been removed",
    )
    NO_MEMORY: ClassVar[tuple[str, ...]] = (
        "out of memory",
        "failed to allocate",
        "unable to allocate",
        "annot allocate memory",
        "bad_alloc",
        "does not fit",
    )

    def __init__(self, resolved: ResolvedJob, folder: Path) -> None:
        """Start the server, wait until it answers, and check that it runs the requested model."""
        self._resolved, self.model = resolved, as_llama_cpp_config(resolved.config.model)
        self.program = find_llama_cpp_program(self.model)
        label, name = self.program.label, self.model.name
        super().__init__(label, name, folder, self.model.start_timeout_s, self.model.port)
        try:
            self._require_matching_server_properties(self._fetch_json("props"))
            self._require_request_parameters_applied(
                self._fetch_json("completion", {"prompt": TRIED_WORDS, "cache_prompt": False} | TRIED)
            )
        except BaseException:
            self.close()
            raise

    @property
    def served_name(self) -> str:
        return served_model_name(self.model)

    def build_command(self) -> list[str]:
        """Return llama-server's command line."""
        file = ["--model", str(self._resolved.model.files.path), "--alias", self.served_name]
        address = ["--host", LOOPBACK, "--port", str(self.port)]
        return [*self.program.command, *file, *build_server_options(self._resolved), *address]

    def variables(self) -> dict[str, str]:
        return build_server_environment(self.key)

    def user_flags(self) -> tuple[str, list[str]]:
        return "model.flags", self.model.flags

    def make_memory_advice(self) -> str:
        return "Use a smaller model.context or model.parallel, fewer model.gpu_layers, or model.kv_keys=q8_0"

    def _fetch_json(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Fetch a JSON response from the server. If the server has ended, raises its last error."""
        try:
            answer = self.fetch_json(path, body, self.model.request_timeout_s)
        except (OSError, ValueError) as error:
            raise self.get_exit_error() or JobFailed(
                f"{self.label} does not answer /{path}: {to_one_line(error)}{self._quote_last_server_error()}",
                code="unreachable",
            ) from None
        return answer if isinstance(answer, dict) else {}

    def _require_matching_server_properties(self, server_properties: Mapping[str, Any]) -> None:
        """Raise ConfigError if the server runs another file, or has a smaller context or fewer slots than
        requested.
        """
        file = self._resolved.model.files.path
        told = server_properties.get("model_path")
        if not isinstance(told, str) or Path(told).name != file.name:
            raise ConfigError(
                (
                    f"{self.label} has loaded {to_one_line(told)} instead of {file}. Check whether "
                    "model.executable is a script that sets --model"
                ),
                key="model.name",
                value=self.model.name,
                code="mismatch",
            )
        slots, wanted = server_properties.get("total_slots"), self.model.parallel
        if slots != wanted:
            raise ConfigError(
                (
                    f"{self.label} has created {slots} slots. Check model.flags for an option that sets "
                    "the number of slots"
                ),
                key="model.parallel",
                value=wanted,
                code="mismatch",
            )
        room = (server_properties.get("default_generation_settings") or {}).get("n_ctx", 0)
        if room < get_max_sequence_tokens(self._resolved):
            raise ConfigError(
                f"{self.label} has a KV cache for only {room} tokens. Lower model.context, or free memory",
                key="model.context",
                value=get_max_sequence_tokens(self._resolved),
                code="too_large",
            )

    def _require_request_parameters_applied(self, response: Mapping[str, Any]) -> None:
        """Raise ConfigError if the server ignored a parameter of the request."""
        told = response.get("generation_settings") or {}
        ignored = [
            f"{name} (sent {sent}, taken {to_one_line(told.get(name))})"
            for name, sent in TRIED.items()
            if told.get(name) != sent
        ]
        if ignored:
            raise ConfigError(
                (
                    f"{self.label} ignores the request parameters {', '.join(ignored)}, so answers would "
                    "not match the recorded settings. Use another version of llama.cpp"
                ),
                key="model.name",
                value=self.model.name,
                code="unsupported",
            )
