"""Keys of other groups that a model on a server has no use for."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from runner.config.root import RunnerConfig
from runner.options.remote.keys import ApiConfig
from runner_base.errors import ConfigError
from runner_engine.quantization.base import QuantizationConfig
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.kv_cache import KvCache

Make = Callable[..., RunnerConfig]
MODEL = ApiConfig(name="some", base_url="http://localhost:1/v1")


def test_quantization_none_with_overrides_is_not_plain(make_config: Make) -> None:
    with pytest.raises(ConfigError, match=r"quantization=none \(mlp: nf4\)"):
        make_config(model=MODEL, quantization=QuantizationConfig(overrides={"mlp": "nf4"}))


def test_a_kv_cache_in_8_bits_needs_the_scheduler(make_config: Make) -> None:
    why = "model=api decodes on a server"
    with pytest.raises(ConfigError, match=f"^generation.kv_cache=int8: .* but {why}. Use .*as_model"):
        make_config(model=MODEL, generation=GenerationConfig(kv_cache=KvCache.int8))
