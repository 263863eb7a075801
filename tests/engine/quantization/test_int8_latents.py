"""int8 beside latent attention (MLA), whose latents transformers hands on in four dimensions."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from loading import load, logits, off

from runner_base.dtypes import Dtype
from runner_engine.quantization import CHOICES
from tools import families

MOST_LOST = 0.15  # of all logits, by 8 bits, with which some tokens go to other experts


@pytest.mark.parametrize("family", ["deepseek_v3", "glm4_moe_lite"])
def test_latents_are_multiplied_in_8_bits(
    family: str, make_config: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The controls: codes of one layer that are lost are seen, and the library's own function fails."""
    library: Any = import_module("bitsandbytes")
    families.build(family, tmp_path)
    plain = logits(load(make_config, tmp_path, dtype=Dtype.float32))
    loaded = load(make_config, tmp_path, CHOICES["int8"](), dtype=Dtype.float32)
    assert 0 < off(logits(loaded), plain) < MOST_LOST
    loaded.model.get_decoder().layers[0].self_attn.kv_b_proj.state.CB.zero_()
    assert off(logits(loaded), plain) > MOST_LOST
    monkeypatch.setattr(library, "matmul", library.matmul.__wrapped__)
    with pytest.raises(RuntimeError, match="size of tensor"):
        logits(loaded)
