"""A plan names the families that decode slowly on a CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
from opening import make_spec

from runner_base.notes import note
from runner_engine import resolve_model
from runner_engine.plan.slow_families import build_slow_family_notes
from runner_engine.settings.model import LocalModelConfig
from tools import families


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("longcat_flash", "two_attentions_per_layer"),
        ("jetmoe", ""),
        ("gemma3n_text", ""),
        ("gemma4_text", ""),
        ("opt", ""),
    ],
)
def test_a_slow_family_is_named_with_its_reason(family: str, reason: str, tmp_path: Path) -> None:
    families.build(family, tmp_path)
    resolved = resolve_model(make_spec(model=LocalModelConfig(name=str(tmp_path), device="cpu")))
    expected = [note("slow_family", family=family, reason=note(reason))] if reason else []
    assert build_slow_family_notes(resolved) == expected
