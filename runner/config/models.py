"""Every kind of model: the name of its schema, and the class of its keys."""

from __future__ import annotations

from runner.config.model import (
    ApiConfig,
    HybridConfig,
    LocalConfig,
    LocalModelConfig,
    ModelConfig,
    PartsModelConfig,
    StubConfig,
)

MODELS: dict[str, type[ModelConfig]] = {
    "model": LocalModelConfig,
    "local": LocalConfig,
    "stub": StubConfig,
    "api": ApiConfig,
    "hybrid": HybridConfig,
    "parts": PartsModelConfig,
}
