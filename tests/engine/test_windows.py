"""Windows, chunks, caps and sinks: layers see what their model's masks show, and answers are those
of generate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from opening import make_spec, open_engine
from streams import complete, generated
from transformers import AutoModelForCausalLM, MistralConfig
from transformers import masking_utils as typed

from runner_base.dtypes import Dtype
from runner_engine.decode.passes import forward
from runner_engine.kv_cache.sliding_windows import Window, build_recorded_mask, record_attention_masks
from runner_engine.local.engine import LocalEngine
from runner_engine.sessions.base import Request
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig
from tools import families

pytestmark = pytest.mark.slow  # as a group: `make test-fast` leaves them out

masking_utils: Any = typed
NEW_TOKENS = 24
# longer than any window, so that parts of it leave the view
SHARED = [30 + place * 7 % 90 for place in range(45)]
PROMPTS = [
    [*SHARED, 60, 61, 62], [*SHARED, *range(100, 121)], [*SHARED, *range(100, 119)], [*SHARED, 9],
    list(range(130, 190)), [5], list(range(40, 53)),
]  # fmt: skip
WINDOWED = {  # family: how far its layers see
    "mistral": {Window(16)},
    "gemma2": {Window(16), None},
    "gemma3_text": {Window(16)},
    "gpt_oss": {Window(16), None},
    "mimo_v2_flash": {Window(16), None},
    "llama4_text": {Window(16, is_chunk=True), None},
    "deepseek_v3": {None},
}
# else a tiny Gemma repeats its last token for ever
LIVELY = {"query_pre_attn_scalar": 8, "tie_word_embeddings": False}
OVERRIDES: dict[str, dict[str, Any]] = {
    "gemma2": LIVELY | {"attn_logit_softcapping": 1.0},
    "gemma3_text": LIVELY,
    "gpt_oss": {"layer_types": ["sliding_attention", "full_attention"]},
    "mimo_v2_flash": {"layer_types": ["full_attention", "sliding_attention"]},
    "llama4_text": {"layer_types": ["chunked_attention", "full_attention"], "no_rope_layers": [1, 0]},
}


def as_ids(prompt: list[int]) -> dict[str, list[int]]:
    """As a tokenizer, for prompts that are token ids already."""
    return {"input_ids": prompt}


@pytest.fixture
def engine_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], LocalEngine]:
    def make(family: str) -> LocalEngine:
        monkeypatch.setitem(
            families.OVERRIDES, family, families.OVERRIDES.get(family, {}) | OVERRIDES.get(family, {})
        )
        families.build(family, tmp_path / family)
        model = LocalModelConfig(name=str(tmp_path / family), device="cpu", dtype=Dtype.float32)
        greedy = GenerationConfig(max_new_tokens=NEW_TOKENS)
        return open_engine(make_spec(model=model, generation=greedy))

    return make


@pytest.mark.thorough
@pytest.mark.parametrize("family", WINDOWED)
def test_rows_longer_than_a_window_answer_as_generate(
    engine_of: Callable[[str], LocalEngine], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prefix that leaves the view, prompts as spans and token by token, decoding beyond; many
    rows and few at once."""
    engine = engine_of(family)
    engine.load()
    loaded = engine.loaded
    heads = engine.find_kv_spec(loaded)
    assert heads is not None, engine.stats.notes
    assert set(heads.windows) == WINDOWED[family]
    model = AutoModelForCausalLM.from_pretrained(engine.spec.model.name, dtype="float32").eval()
    expected = generated(model, as_ids, PROMPTS, NEW_TOKENS)  # type: ignore[arg-type]
    asked = [Request(number, tuple(ids)) for number, ids in enumerate(PROMPTS)]
    assert complete(engine, asked) == expected
    assert complete(engine, asked, 2) == expected
    monkeypatch.setattr(forward, "SHORT_SPAN", 8)
    assert complete(engine, asked, 5) == expected
    assert engine.stats.shared_tokens > 0
    assert engine.stats.notes == []
    engine.close()


@pytest.mark.thorough
def test_what_is_set_in_the_models_of_these_tests_matters(engine_of: Callable[[str], LocalEngine]) -> None:
    """Without windows, caps or the temperature of far positions, generate itself gives other
    answers."""
    changes: dict[str, dict[str, Any]] = {
        "mistral": {"sliding_window": None},
        "gemma2": {"attn_logit_softcapping": None},
        "gemma3_text": {"sliding_window": 128},
        "llama4_text": {"attn_temperature_tuning": False},
    }
    for family, change in changes.items():
        folder = engine_of(family).spec.model.name
        one, other = (
            generated(
                AutoModelForCausalLM.from_pretrained(folder, dtype="float32", **keys).eval(),
                as_ids,
                PROMPTS[1:2],  # type: ignore[arg-type]
                NEW_TOKENS,
            )
            for keys in ({}, change)
        )
        assert one != other, family


def test_a_window_is_read_off_the_rule_of_a_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real sizes, at which a mask of a few tokens would say nothing."""
    settings: Any = MistralConfig(sliding_window=4096)
    settings.attention_chunk_size = 8192
    settings._attn_implementation = "eager"
    monkeypatch.setitem(masking_utils.AttentionMaskInterface._global_mapping, "eager", build_recorded_mask)
    given: dict[str, Any] = {
        "config": settings,
        "inputs_embeds": torch.zeros(1, 2, 8),
        "attention_mask": None,
        "past_key_values": None,
    }
    with record_attention_masks() as masks:
        for make, window in (
            (masking_utils.create_causal_mask, None),
            (masking_utils.create_sliding_window_causal_mask, Window(4096)),
            (masking_utils.create_chunked_causal_mask, Window(8192, is_chunk=True)),
        ):
            mask = make(**given)
            assert mask.tolist() == [[[[True, False], [True, True]]]]
            assert masks.find_sliding_window_of_mask(mask) == window
            assert masks.find_sliding_window_of_mask(mask[:, :, :, :1]) == window, "a piece of it is it"
        with pytest.raises(NotImplementedError, match="^the attention mask "):
            masking_utils.create_bidirectional_mask(**given)
        with pytest.raises(NotImplementedError, match=" biases to the attention scores$"):
            masks.find_sliding_window_of_mask(torch.ones(1, 1, 2, 2))


@pytest.mark.parametrize(
    ("window", "first"), [(Window(4), [0, 0, 0, 0, 1, 2]), (Window(4, True), [0, 0, 0, 0, 4, 4])]
)
def test_where_a_window_begins(window: Window, first: list[int]) -> None:
    assert [window.first_position(position) for position in range(6)] == first
