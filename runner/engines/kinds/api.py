"""model=api: a model behind OpenAI's API, here or elsewhere."""

from __future__ import annotations

import json
import logging
import time
from contextlib import suppress
from pathlib import Path

from runner.checkpoints.byteio import replace_with
from runner.checkpoints.resolve import Resolved
from runner.config.model import ApiConfig, Extensions
from runner.config.root import RunnerConfig
from runner.core.errors import JobFailed
from runner.core.texts import parse_json
from runner.engines.base import Capability, Engine
from runner.engines.kinds import BaseCache, ModelKind
from runner.engines.remote.engine import ApiEngine
from runner.engines.remote.server import Server

log = logging.getLogger(__name__)
REMEMBERED = ".servers.json"  # beside the cache of hashes: what servers have said of their models
FRESH_S = 10.0  # the jobs of a grid are identified at once, and ask once

CAPABILITIES = frozenset(
    {Capability.chat, Capability.token_ids, Capability.deltas, Capability.several, Capability.sampling}
)
_asked: dict[str, tuple[float, str]] = {}  # of this process: when a server was asked, and what it said


def reported(model: ApiConfig, folder: Path) -> str:
    """Return what the server says that the model is; while it cannot be asked, what it said last time."""
    key, file = f"{model.name} at {model.base_url}", folder / REMEMBERED
    when, said = _asked.get(key, (0.0, ""))
    if time.monotonic() - when < FRESH_S:
        return said
    try:
        known = parse_json(file.read_text())
        known = known if isinstance(known, dict) else {}
    except (OSError, ValueError):
        known = {}
    try:
        with Server(model) as server:
            said = server.listed().reported
    except JobFailed as error:
        if not isinstance(known.get(key), str):
            raise
        log.warning("%s", error)
        return str(known[key])
    _asked[key] = time.monotonic(), said
    with suppress(OSError):
        if known.get(key) != said:
            replace_with(file, lambda path: path.write_text(json.dumps(known | {key: said}, indent=0)))
    return said


def capabilities(model: ApiConfig) -> frozenset[Capability]:
    """Return what a server can be asked for."""
    return CAPABILITIES | ({Capability.fixed_length} if model.extensions is Extensions.vllm else set())


class Api(ModelKind):
    """Nothing of it is here: it cannot be hashed, and takes no memory."""

    def evidence(self, config: RunnerConfig, resolved: Resolved, cache: Path) -> dict[str, str]:
        """Return what the server says that the model is; the config holds its address, its name and what is sent."""
        assert isinstance(config.model, ApiConfig)
        return {"model": f"remote: {reported(config.model, cache.parent)}"}

    def capabilities(self, config: RunnerConfig) -> frozenset[Capability]:
        """Return what OpenAI's API has words for."""
        assert isinstance(config.model, ApiConfig)
        return capabilities(config.model)

    def open_engine(self, config: RunnerConfig, resolved: Resolved, bases: BaseCache | None) -> Engine:
        """Return the engine that asks the server."""
        assert isinstance(config.model, ApiConfig)
        return ApiEngine(config, config.model, capabilities(config.model))


KIND = Api()
