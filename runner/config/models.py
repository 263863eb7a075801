"""Registry that maps each model schema's name to its config class. Entry points add classes."""

from __future__ import annotations

from runner_base.choices import Choices
from runner_engine import ModelConfig

PLACES = {
    "model": "runner_engine.settings.model:LocalModelConfig",
    "local": "runner_engine.settings.model:LocalConfig",
    "stub": "runner.config.model:StubConfig",
}
MODELS = Choices("model", ModelConfig, PLACES)
