"""Every kind of model by the name of its schema, with the class of its keys."""

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
