"""Registry of model kinds, from schema name to config class. Options are added by entry points."""

from __future__ import annotations

from runner_base.choices import Choices
from runner_engine import ModelConfig

PLACES = {
    "model": "runner_engine.settings.model:LocalModelConfig",
    "local": "runner_engine.settings.model:LocalConfig",
    "stub": "runner.config.model:StubConfig",
}
MODELS = Choices("model", ModelConfig, PLACES)
