"""Engines that are closed when a test ends, kernels whose tiles are emulated, and rows that decode
in two ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from emulated import OnlyTiles, built_attention
from opening import make_spec, open_engine
from step_decoding import FAMILIES, Decoding, loaded_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from runner_engine.decode.compat_probe import infer_and_test_kv_cache_spec
from runner_engine.local.engine import LocalEngine


@pytest.fixture
def opened() -> Iterator[Callable[..., LocalEngine]]:
    """Return a function that opens an engine with some settings of a spec."""
    engines: list[LocalEngine] = []

    def make(**settings: Any) -> LocalEngine:
        engines.append(open_engine(make_spec(**settings)))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


@pytest.fixture(scope="session")
def emulated_tiles(made_once: Callable[..., Path]) -> OnlyTiles:
    """Attention to shared keys and products by tiles (AMX) that are emulated; they are built
    once."""
    return OnlyTiles(made_once("emulated_tiles", built_attention) / "products.so")


@pytest.fixture
def pair(tiny_llama: Path, tmp_path: Path) -> Callable[..., list[Decoding]]:
    """Return a function that gives the usual steps of a family, and those on the device."""

    def decodings(family: str = "llama", device: str = "cpu", **keys: Any) -> list[Decoding]:
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(FAMILIES[family]).save_pretrained(tmp_path)
        AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(tmp_path)
        loaded = loaded_of(tmp_path, device)
        heads = replace(infer_and_test_kv_cache_spec(loaded), **keys)
        usual, by_sdpa = replace(heads, by_sdpa=False, page=0), replace(heads, by_sdpa=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "runner_engine.decode.passes.forward.get_attention_kernels_if_supported", lambda _: None
            )
            return [Decoding(loaded, usual), Decoding(loaded, by_sdpa)]

    return decodings


# In 8 bits, a key that is off by float32's rounding may get the next byte: a hundredth of that key.
