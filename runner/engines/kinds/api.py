"""model=api: a model behind OpenAI's API, here or elsewhere."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from runner.checkpoints.resolve import Resolved
from runner.config.generation import GenerationConfig
from runner.config.model import ApiConfig, Extensions
from runner.config.root import RunnerConfig
from runner.core.errors import ConfigError, JobFailed
from runner.core.files import replace_with
from runner.core.texts import read_cache
from runner.engines.base import Capability, Engine, Prompt, Request
from runner.engines.kinds import BaseCache, Encoded, ModelKind
from runner.engines.remote.engine import ApiEngine
from runner.engines.remote.server import ServerConnection

log = logging.getLogger(__name__)
REMEMBERED = ".servers.json"  # beside the cache of hashes: what servers have said of their models
FRESH_S = 10.0  # the jobs of a grid are identified at once, and ask once

CAPABILITIES = frozenset(
    {
        Capability.chat,
        Capability.token_ids,
        Capability.deltas,
        Capability.several,
        Capability.sampling,
        Capability.logprobs,  # where the server gives them, which is found out when they are asked for
    }
)
T = TypeVar("T", bound=ApiConfig)


@dataclass(frozen=True)
class ServedModel:
    """What a server says of a model."""

    reported: str
    extensions: Extensions  # what it takes besides OpenAI's own keys


_asked: dict[str, tuple[float, ServedModel]] = {}  # of this process: when a server was asked, and what it said


def said_of(model: ApiConfig, folder: Path) -> ServedModel:
    """Return what the server says of the model; while it cannot be asked, what it said last time."""
    key, file = _name(model), folder / REMEMBERED
    if key in _asked and time.monotonic() - _asked[key][0] < FRESH_S:
        return _asked[key][1]
    known = read_cache(file)
    takes = f"{key} takes"
    try:
        said = _ask(model)
    except JobFailed as error:
        if not isinstance(known.get(key), str):
            raise
        log.warning("%s", error)
        extended = known.get(takes) == Extensions.vllm.value
        _asked[key] = -math.inf, ServedModel(known[key], Extensions.vllm if extended else Extensions.openai)
        return _asked[key][1]
    now = {key: said.reported, takes: said.extensions.value}
    with suppress(OSError):
        if known | now != known:
            replace_with(file, lambda path: path.write_text(json.dumps(known | now, indent=0)))
    return said


def _name(model: ApiConfig) -> str:
    return f"{model.name} at {model.base_url}"


def _ask(model: ApiConfig) -> ServedModel:
    with ServerConnection(model) as server:
        listed = server.listed()
    said = ServedModel(listed.reported, listed.extensions)
    _asked[_name(model)] = time.monotonic(), said
    return said


def settled(model: T) -> T:
    """Return the keys with the extensions that the server says it takes, where they are left to it."""
    if model.extensions is not Extensions.auto:
        return model
    key = _name(model)
    return replace(model, extensions=(_asked[key][1] if key in _asked else _ask(model)).extensions)


def fingerprint(model: ApiConfig, folder: Path) -> dict[str, str]:
    """Return what is known of a model elsewhere; the config holds its address, its name and what is sent."""
    said = said_of(model, folder)
    extended = model.extensions is Extensions.auto and said.extensions is Extensions.vllm
    return {"model": f"remote: {said.reported}"} | ({"extensions": said.extensions.value} if extended else {})


def check(model: ApiConfig, generation: GenerationConfig) -> None:
    """Refuse what the server has no word for, once it is known what it takes."""
    if (problem := settled(model).cannot_say("generation", generation)) is not None:
        raise ConfigError(problem)


def capabilities(model: ApiConfig) -> frozenset[Capability]:
    """Return what a server can be asked for, as far as that is known: nobody is asked here."""
    said = _asked.get(_name(model))
    extensions = said[1].extensions if said is not None and model.extensions is Extensions.auto else model.extensions
    return CAPABILITIES | ({Capability.fixed_length} if extensions is not Extensions.openai else set())


class Api(ModelKind):
    """Nothing of it is here: it cannot be hashed, and takes no memory."""

    def fingerprint(self, config: RunnerConfig, resolved: Resolved, cache: Path) -> dict[str, str]:
        """Return what the server says that the model is."""
        assert isinstance(config.model, ApiConfig)
        return fingerprint(config.model, cache.parent)

    def check(self, config: RunnerConfig, resolved: Resolved) -> list[str]:
        """Refuse what the server has no word for."""
        assert isinstance(config.model, ApiConfig)
        check(config.model, config.generation)
        return []

    def capabilities(self, config: RunnerConfig) -> frozenset[Capability]:
        """Return what OpenAI's API has words for."""
        assert isinstance(config.model, ApiConfig)
        return capabilities(config.model)

    def encoded(self, config: RunnerConfig, resolved: Resolved, prompts: Sequence[Prompt]) -> list[Encoded]:
        """Return texts with the tokens that the server says they have."""
        assert isinstance(config.model, ApiConfig)
        texts = [one for one in prompts if isinstance(one, str)]
        assert len(texts) == len(prompts)
        with ServerConnection(config.model) as server:
            return list(zip(texts, server.tokens_of(texts), strict=True))

    def seen(self, config: RunnerConfig, resolved: Resolved, prompt: Prompt) -> str:
        """Return a prompt as it goes out; what the server makes of it is not asked."""
        assert isinstance(config.model, ApiConfig)
        return str(ApiEngine(config, config.model, CAPABILITIES).encode(Request(0, prompt))[0])

    def open_engine(
        self, config: RunnerConfig, resolved: Resolved, bases: BaseCache | None = None, folder: Path | None = None
    ) -> Engine:
        """Return the engine that asks the server."""
        assert isinstance(config.model, ApiConfig)
        model = settled(config.model)
        return ApiEngine(config, model, capabilities(model))


KIND = Api()
