"""Every kind of model: the name of its schema, and the class of its keys; those of options come by entry points."""

from __future__ import annotations

from runner.config.model import StubConfig
from runner_base.plugins import Choices
from runner_engine import LocalModelConfig
from runner_engine.settings.model import LocalConfig, ModelConfig

_OWN: dict[str, type[ModelConfig]] = {
    "model": LocalModelConfig,
    "local": LocalConfig,
    "stub": StubConfig,
}
MODELS = Choices("model", ModelConfig, _OWN)
