"""Every kind of model: the name of its schema, and the class of its keys."""

from __future__ import annotations

from runner.config.model import ApiConfig, HybridConfig, PartsModelConfig, StubConfig
from runner.config.vllm import VllmConfig
from runner_base.plugins import Choices
from runner_engine.settings.model import LocalConfig, LocalModelConfig, ModelConfig

_OWN: dict[str, type[ModelConfig]] = {
    "model": LocalModelConfig,
    "local": LocalConfig,
    "stub": StubConfig,
    "api": ApiConfig,
    "hybrid": HybridConfig,
    "parts": PartsModelConfig,
    "vllm": VllmConfig,
}
MODELS = Choices("model", ModelConfig, _OWN)
