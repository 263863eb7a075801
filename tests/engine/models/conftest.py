"""Checkpoints in each format of stored weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def saved_format(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Callable[..., Path]:
    """Return a function that saves a tiny model in a format of `stored_formats`, once; no test may
    change its files."""
    from stored_formats import FORMATS
    from transformers import AutoTokenizer

    known: dict[str, Path] = {}

    def folder(name: str, **settings: Any) -> Path:
        key = repr((name, settings))
        if key not in known:
            known[key] = tmp_path_factory.mktemp(name)
            FORMATS[name].save(known[key], FORMATS[name].name, **settings)
            AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(known[key])
        return known[key]

    return folder
