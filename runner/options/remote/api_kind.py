"""model=api: a model on a server with OpenAI's API."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from runner.config.resolved import ResolvedJob
from runner.config.root import RunnerConfig
from runner.engines.kinds import Encoded, ModelKind
from runner.options.remote.engine import ApiEngine
from runner.options.remote.keys import ApiConfig, Extensions
from runner.options.remote.pool import ServerPool
from runner_base import JobFailed, replace_text
from runner_base.texts import read_cache
from runner_engine import BaseCache, Capability, Engine, GenerationConfig, Prompt, Request

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
    """What a server reports of a model."""

    reported: str
    extensions: Extensions  # the parameters that it accepts


_reports: dict[
    str, tuple[float, ServedModel]
] = {}  # when a server was last asked by this process, and its last report


def served_model(model: ApiConfig, folder: Path) -> ServedModel:
    """Return what the server reports of the model; if it cannot be reached, its last report."""
    key, file = _name(model), folder / SERVERS_FILE
    known = read_cache(file)
    extensions_key = f"{key} takes"
    try:
        served = _current_report(model)
    except JobFailed as error:
        if not isinstance(known.get(key), str):
            raise
        log.warning("%s", error)
        is_extended = known.get(extensions_key) == Extensions.vllm.value
        served = ServedModel(known[key], Extensions.vllm if is_extended else Extensions.openai)
        _reports[key] = time.monotonic(), served
    report = {key: served.reported, extensions_key: served.extensions.value}
    with suppress(OSError):
        if known | report != known:
            replace_text(file, json.dumps(known | report, indent=0))
    return served


def _name(model: ApiConfig) -> str:
    return f"{model.name} at {model.address}"


def _current_report(model: ApiConfig) -> ServedModel:
    """Return what the server reports, asked again after a while: another one may be at its address
    by then."""
    key = _name(model)
    if key in _reports and time.monotonic() - _reports[key][0] < FRESH_S:
        return _reports[key][1]
    with ServerPool(model) as servers:
        models = servers.list_models()
    _reports[key] = time.monotonic(), ServedModel(models.reported, models.extensions)
    return _reports[key][1]


def with_extensions(model: T) -> T:
    """Return the model's keys; extensions=auto is replaced by what the server reports, or has
    reported last."""
    if model.extensions is not Extensions.auto:
        return model
    try:
        served = _current_report(model)
    except JobFailed:
        if _name(model) not in _reports:
            raise
        served = _reports[_name(model)][1]
    return replace(model, extensions=served.extensions)


def fingerprint(model: ApiConfig, folder: Path) -> dict[str, str]:
    """Return what the server reports; the config contains its address, its name and what is
    sent."""
    served = served_model(model, folder)
    is_extended = model.extensions is Extensions.auto and served.extensions is Extensions.vllm
    return {"model": f"remote: {served.reported}"} | (
        {"extensions": served.extensions.value} if is_extended else {}
    )


def check(model: ApiConfig, generation: GenerationConfig) -> None:
    """Refuse parameters that the server does not accept."""
    with_extensions(model).check_fields("generation", generation)


def capabilities(model: ApiConfig) -> frozenset[Capability]:
    """Return what a server can do, as far as that is known without a request."""
    report = _reports.get(_name(model))
    extensions = (
        report[1].extensions
        if report is not None and model.extensions is Extensions.auto
        else model.extensions
    )
    further = {
        Capability.fixed_length: extensions is not Extensions.openai,
        Capability.thinking_budget: model.thinking_budget is not None,
    }
    return CAPABILITIES | {capability for capability, is_had in further.items() if is_had}


class Api(ModelKind):
    """Nothing of it is on this machine: it cannot be hashed, and needs no memory."""

    def fingerprint(self, resolved: ResolvedJob, cache: Path) -> dict[str, str]:
        """Return what the server reports of the model."""
        assert isinstance(resolved.config.model, ApiConfig)
        return fingerprint(resolved.config.model, cache.parent)

    def check(self, resolved: ResolvedJob) -> list[str]:
        """Refuse parameters that the server does not accept."""
        assert isinstance(resolved.config.model, ApiConfig)
        check(resolved.config.model, resolved.config.generation)
        if getattr(resolved.config.task, "reference", None) is not None:
            with ServerPool(with_extensions(resolved.config.model)) as servers:
                servers.check_named()
        return []

    def capabilities(self, config: RunnerConfig) -> frozenset[Capability]:
        """Return what OpenAI's API supports."""
        assert isinstance(config.model, ApiConfig)
        return capabilities(config.model)

    def encoded(self, resolved: ResolvedJob, prompts: Sequence[Prompt]) -> list[Encoded]:
        """Return texts with the tokens that the server reports."""
        assert isinstance(resolved.config.model, ApiConfig)
        texts = [prompt for prompt in prompts if isinstance(prompt, str)]
        assert len(texts) == len(prompts)
        with ServerPool(resolved.config.model) as servers:
            return list(zip(texts, servers.tokens_of(texts), strict=True))

    def decoder(self, resolved: ResolvedJob) -> Callable[[Sequence[int]], str]:
        """Return what asks the server for the text of tokens; no connection stays open."""
        assert isinstance(resolved.config.model, ApiConfig)
        model = with_extensions(resolved.config.model)

        def decode(ids: Sequence[int]) -> str:
            with ServerPool(model) as servers:
                return servers.text_of(ids)

        return decode

    def rendered(self, resolved: ResolvedJob, prompt: Prompt) -> str:
        """Return a prompt as it is sent; how the server renders it is unknown."""
        assert isinstance(resolved.config.model, ApiConfig)
        return str(
            ApiEngine(resolved.config, resolved.config.model, CAPABILITIES).encode(Request(0, prompt))[0]
        )

    def open_engine(
        self, resolved: ResolvedJob, bases: BaseCache | None = None, folder: Path | None = None
    ) -> Engine:
        """Return the engine that sends requests to the server."""
        assert isinstance(resolved.config.model, ApiConfig)
        model = with_extensions(resolved.config.model)
        return ApiEngine(resolved.config, model, capabilities(model))


KIND = Api()
