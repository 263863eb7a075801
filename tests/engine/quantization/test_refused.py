"""Checkpoints of methods that cannot be loaded are refused with the reason, before any weight is
read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from families import settings as family_settings
from opening import load_base, make_spec

from runner_base.errors import ConfigError
from runner_engine.quantization import list_supported_quant_methods
from runner_engine.quantization.unsupported_methods import REASONS
from runner_engine.render.notes import render_engine_note
from runner_engine.settings.model import LocalConfig


@pytest.mark.parametrize("method", REASONS)
def test_a_refused_method_is_named_with_its_reason(tmp_path: Path, method: str) -> None:
    settings = family_settings("llama").to_dict() | {"quantization_config": {"quant_method": method}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    (tmp_path / "model.safetensors").write_bytes(b"not a weight: reading it would be another error")
    spec = make_spec(model=LocalConfig(name=str(tmp_path), device="cpu"))
    with pytest.raises(ConfigError) as caught:
        load_base(spec)
    assert f"quant_method={method}, which cannot be loaded: {render_engine_note(REASONS[method])}." in str(
        caught.value
    )


def test_no_method_is_both_refused_and_loaded_and_transformers_knows_each() -> None:
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    assert not REASONS.keys() & set(list_supported_quant_methods())
    assert REASONS.keys() <= AUTO_QUANTIZATION_CONFIG_MAPPING.keys()
