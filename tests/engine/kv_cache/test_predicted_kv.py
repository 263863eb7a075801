"""What a plan says that rows keep, by the kind of each layer, beside what the engine counts while
they run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from opening import make_spec, open_engine
from streams import complete

from runner_base.dtypes import Dtype
from runner_engine.checkpoints.kv_size import compute_kv_size
from runner_engine.checkpoints.layer_kinds import LayerKind, derive_layer_kinds
from runner_engine.checkpoints.resolved_model import resolve_model
from runner_engine.plan.footprint import predict_footprint
from runner_engine.sessions.base import Request
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig
from tools import families

ROWS, PROMPT, NEW = 2, 1000, 24
SIZES: dict[str, Any] = {"max_position_embeddings": 2048, "sliding_window": 256}
MIXED = SIZES | {"layer_types": ["sliding_attention", "full_attention"]}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {}, "mistral": SIZES, "gemma3_text": MIXED, "gpt_oss": MIXED, "deepseek_v3": {"max_position_embeddings": 2048},
    "qwen3_5_text": {}, "lfm2": {}, "granitemoehybrid": {}, "falcon_h1": {},
}  # fmt: skip
FULL, WINDOW, STATE = LayerKind.full, LayerKind.window, LayerKind.state


@pytest.mark.sampled(3)
@pytest.mark.parametrize("family", FAMILIES)
def test_predicted_keys_values_and_states_are_what_is_kept(
    tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"max_position_embeddings": 2048} | FAMILIES[family]
    monkeypatch.setitem(families.OVERRIDES, family, families.OVERRIDES.get(family, {}) | sizes)
    families.build(family, tmp_path)
    model = LocalModelConfig(name=str(tmp_path), device="cpu", dtype=Dtype.float32)
    spec = make_spec(model=model, generation=GenerationConfig(max_new_tokens=NEW))
    predicted = predict_footprint(resolve_model(spec), (ROWS, PROMPT, NEW))
    assert predicted is not None
    engine = open_engine(spec)
    prompts = [tuple((3 + 7 * place + 11 * row) % 250 for place in range(PROMPT)) for row in range(ROWS)]
    complete(engine, [Request(row, prompt, ignore_eos=True) for row, prompt in enumerate(prompts)], ROWS)
    measured = engine.stats.peak_kv_bytes
    engine.close()
    assert max(predicted.prefill_kv_bytes, predicted.decode_kv_bytes) == pytest.approx(measured, rel=0.05)
    if "sliding_window" in sizes:
        full = compute_kv_size(resolve_model(spec).files.text_settings, 4).token_bytes * ROWS * (PROMPT + NEW)
        assert full > 1.1 * measured, "as if each layer kept everything"


@pytest.mark.parametrize(
    ("settings", "kinds"),
    [
        ({"model_type": "mistral", "sliding_window": 4096, "num_hidden_layers": 2}, [WINDOW] * 2),
        ({"model_type": "mistral", "sliding_window": None, "num_hidden_layers": 2}, [FULL] * 2),
        (
            {"model_type": "qwen2", "sliding_window": 32768, "use_sliding_window": False, "num_hidden_layers": 2},
            [FULL] * 2,
        ),
        ({"model_type": "gemma2", "sliding_window": 4096, "num_hidden_layers": 3}, [WINDOW, FULL, WINDOW]),
        ({"model_type": "gemma3_text", "sliding_window": 512, "num_hidden_layers": 7}, [*[WINDOW] * 5, FULL, WINDOW]),
        ({"model_type": "qwen3_next", "num_hidden_layers": 4}, [STATE] * 3 + [FULL]),
        ({"model_type": "jamba", "num_hidden_layers": 4, "attn_layer_period": 4, "attn_layer_offset": 1}, [STATE, FULL, STATE, STATE]),
        ({"model_type": "nemotron_h", "hybrid_override_pattern": "M-*E"}, [STATE, LayerKind.nothing, FULL, LayerKind.nothing]),
        ({"model_type": "lfm2", "layer_types": ["conv", "full_attention"]}, [STATE, FULL]),
        ({"model_type": "falcon_h1", "num_hidden_layers": 1}, [LayerKind.state_and_full]),
        ({"model_type": "kimi_linear", "num_hidden_layers": 3, "linear_attn_config": {"full_attn_layers": [2]}}, [STATE, FULL, STATE]),
        ({"model_type": "recurrent_gemma", "num_hidden_layers": 4, "attention_window_size": 2048, "block_types": ["recurrent", "recurrent", "attention"]}, [STATE, STATE, WINDOW, STATE]),
        ({"n_layer": 2}, [FULL] * 2),
    ],
)  # fmt: skip
def test_the_kinds_of_layers_of_files_on_the_hub(settings: dict[str, Any], kinds: list[LayerKind]) -> None:
    assert derive_layer_kinds(settings) == kinds


def test_real_models_in_numbers() -> None:
    gemma3_1b = {
        "model_type": "gemma3_text", "num_hidden_layers": 26, "num_attention_heads": 4, "num_key_value_heads": 1,
        "head_dim": 256, "hidden_size": 1152, "sliding_window": 512,
    }  # fmt: skip
    kept = compute_kv_size(gemma3_1b, 2)
    assert (kept.full_layers, kept.window_layers, kept.token_bytes) == (4, 22, 26 * 1024)
    long = kept.compute_final_kv_nbytes(1, 32_000, 500, frees_old_positions=True)
    assert 5.8 < kept.compute_final_kv_nbytes(1, 32_000, 500, frees_old_positions=False) / long < 5.9
    shared = compute_kv_size(gemma3_1b | {"num_kv_shared_layers": 6}, 2)
    assert shared.num_kv_layers == 20
    latent = {"num_hidden_layers": 2, "num_attention_heads": 16, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
              "qk_rope_head_dim": 64, "v_head_dim": 128}  # fmt: skip
    assert compute_kv_size(latent, 2).token_bytes == 2 * 2 * 16 * 192 * 2, "expanded, as they are stored"
