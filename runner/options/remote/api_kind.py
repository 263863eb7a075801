"""Implements model=api: a model on a server with OpenAI's API."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from runner.config.resolved import ResolvedJob
from runner.config.root import RunnerConfig
from runner.engines.kinds import Encoded, ModelKind
from runner.options.remote.engine import ApiEngine
from runner.options.remote.keys import ApiConfig, ApiExtensions
from runner.options.remote.server_pool import ServerPool
from runner.options.remote.unchanged_server import require_unchanged_server_if_reachable
from runner.tasks.base import import_task_module
from runner_base import JobFailed, replace_text_file_atomically
from runner_base.texts import read_json_cache
from runner_engine import BaseModelCache, Capability, Engine, GenerationConfig, Prompt, Request

log = logging.getLogger(__name__)
SERVERS_FILE = ".servers.json"  # next to the cache of hashes: what servers have reported of their models
FRESH_S = 10.0  # the jobs of a grid are identified at once, with a single request

CAPABILITIES = frozenset(
    {
        Capability.chat,
        Capability.token_ids,
        Capability.deltas,
        Capability.several,
        Capability.sampling,
        Capability.logprobs,  # if the server has them, which the first request finds out
        Capability.token_scores,  # likewise
    }
)
T = TypeVar("T", bound=ApiConfig)


@dataclass(frozen=True)
class ServedModel:
    """Server report: the name of its model and its extensions of OpenAI's API."""

    reported: str
    extensions: ApiExtensions  # the parameters that it accepts


_reports: dict[
    str, tuple[float, ServedModel]
] = {}  # when a server was last asked by this process, and its last report


def fetch_served_model(model: ApiConfig, cache_folder: Path) -> ServedModel:
    """Query the server for its model name and its extensions of OpenAI's API.

    If the server is unreachable, returns the report in the cache folder.
    """
    key, file = _server_label(model), cache_folder / SERVERS_FILE
    known = read_json_cache(file)
    extensions_key = f"{key} takes"
    try:
        served = _fetch_or_reuse_served_model(model)
    except JobFailed as error:
        if not isinstance(known.get(key), str):
            raise
        log.warning("%s", error)
        is_extended = known.get(extensions_key) == ApiExtensions.vllm.value
        served = ServedModel(known[key], ApiExtensions.vllm if is_extended else ApiExtensions.openai)
        _reports[key] = time.monotonic(), served
    report = {key: served.reported, extensions_key: served.extensions.value}
    with suppress(OSError):
        if known | report != known:
            replace_text_file_atomically(file, json.dumps(known | report, indent=0))
    return served


def _server_label(model: ApiConfig) -> str:
    return f"{model.name} at {model.joined_addresses}"


def _fetch_or_reuse_served_model(model: ApiConfig) -> ServedModel:
    """Query the server for its model name and API extensions. The result is cached for 10 s.

    The cache expires because another server may take over the address.
    """
    key = _server_label(model)
    if key in _reports and time.monotonic() - _reports[key][0] < FRESH_S:
        return _reports[key][1]
    with ServerPool(model) as servers:
        models = servers.list_models()
    _reports[key] = time.monotonic(), ServedModel(models.reported, models.extensions)
    return _reports[key][1]


def resolve_api_extensions_if_auto(model: T) -> T:
    """Resolve extensions=auto to the API extensions that the server reports.

    If the server is unreachable, uses its last report.
    """
    if model.extensions is not ApiExtensions.auto:
        return model
    try:
        served = _fetch_or_reuse_served_model(model)
    except JobFailed:
        if _server_label(model) not in _reports:
            raise
        served = _reports[_server_label(model)][1]
    return replace(model, extensions=served.extensions)


def fingerprint_model(model: ApiConfig, cache_folder: Path) -> dict[str, str]:
    """Return the model name that the server reports. The job id depends on the name."""
    served = fetch_served_model(model, cache_folder)
    is_extended = model.extensions is ApiExtensions.auto and served.extensions is ApiExtensions.vllm
    return {"model": f"remote: {served.reported}"} | (
        {"extensions": served.extensions.value} if is_extended else {}
    )


def check_generation_settings(model: ApiConfig, generation: GenerationConfig) -> None:
    """Raise ConfigError for generation settings that the server's API does not accept."""
    resolve_api_extensions_if_auto(model).check_sampling_fields("generation", generation)


def get_server_capabilities(model: ApiConfig) -> frozenset[Capability]:
    """Return the server's known capabilities without sending a request."""
    report = _reports.get(_server_label(model))
    extensions = (
        report[1].extensions
        if report is not None and model.extensions is ApiExtensions.auto
        else model.extensions
    )
    further = {
        Capability.fixed_length: extensions is not ApiExtensions.openai,
        Capability.thinking_budget: model.thinking_budget_dialect is not None,
    }
    return CAPABILITIES | {capability for capability, is_had in further.items() if is_had}


class Api(ModelKind):
    """Model kind of model=api, which needs no local files and no local memory."""

    def fingerprint(self, resolved: ResolvedJob, cache: Path) -> dict[str, str]:
        """Return the model name that the server reports."""
        assert isinstance(resolved.config.model, ApiConfig)
        return fingerprint_model(resolved.config.model, cache.parent)

    def check_job(self, resolved: ResolvedJob) -> list[str]:
        """Raise ConfigError for generation settings that the server's API does not accept."""
        assert isinstance(resolved.config.model, ApiConfig)
        check_generation_settings(resolved.config.model, resolved.config.generation)
        if getattr(resolved.config.task, "reference", None) is not None:
            with ServerPool(resolve_api_extensions_if_auto(resolved.config.model)) as servers:
                servers.check_token_scoring()
        return []

    def capabilities(self, config: RunnerConfig) -> frozenset[Capability]:
        assert isinstance(config.model, ApiConfig)
        return get_server_capabilities(config.model)

    def encode_prompts(self, resolved: ResolvedJob, prompts: Sequence[Prompt]) -> list[Encoded]:
        assert isinstance(resolved.config.model, ApiConfig)
        texts = [prompt for prompt in prompts if isinstance(prompt, str)]
        assert len(texts) == len(prompts)
        with ServerPool(resolved.config.model) as servers:
            return list(zip(texts, servers.tokenize(texts), strict=True))

    def create_decoder(self, resolved: ResolvedJob) -> Callable[[Sequence[int]], str]:
        """Return a function by which the server converts token ids to text. Each call opens a new
        connection.
        """
        assert isinstance(resolved.config.model, ApiConfig)
        model = resolve_api_extensions_if_auto(resolved.config.model)

        def decode(ids: Sequence[int]) -> str:
            with ServerPool(model) as servers:
                return servers.detokenize(ids)

        return decode

    def render_prompt(self, resolved: ResolvedJob, prompt: Prompt) -> str:
        """Return the prompt without a chat template. The server's template is unknown."""
        assert isinstance(resolved.config.model, ApiConfig)
        return str(
            ApiEngine(resolved.config, resolved.config.model, CAPABILITIES).encode(Request(0, prompt))[0]
        )

    def open_engine(
        self, resolved: ResolvedJob, bases: BaseModelCache | None = None, folder: Path | None = None
    ) -> Engine:
        assert isinstance(resolved.config.model, ApiConfig)
        model = resolve_api_extensions_if_auto(resolved.config.model)
        is_recorded = folder is not None and import_task_module(resolved.config).FROM_LEDGER
        return ApiEngine(
            resolved.config, model, get_server_capabilities(model), folder if is_recorded else None
        )

    def check_recorded_job(self, resolved: ResolvedJob, job_id: str, facts: Mapping[str, str]) -> None:
        """Raise ConfigError if the server has another model than when the job ran."""
        config = resolved.config
        assert isinstance(config.model, ApiConfig)
        require_unchanged_server_if_reachable(config.model, config.task.uses_chat_template, job_id, facts)


KIND = Api()
