"""The place of tensors in a model, by their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from raising import raises

from runner.options.parts.sharding import layout
from runner_base.errors import DataError
from runner_engine.checkpoints.weight_files import Checkpoint, TensorLocation


def layout_of(names: list[str], config: dict[str, Any]) -> layout.ModelLayout:
    tensors = [TensorLocation(name, "F32", (2,), Path("x"), 0, 8) for name in names]
    checkpoint = Checkpoint(Path("x"), config, [], [])
    object.__setattr__(checkpoint, "files", [type("File", (), {"tensors": tensors})])
    return layout.group_tensors_into_layout(checkpoint)


@pytest.mark.parametrize(
    ("stack", "inside", "first", "norm", "head", "tied", "config"),
    [
        ("h", "attn.bias", ["wte.weight", "wpe.weight"], ["ln_f.weight"], [], ["wte.weight"], {"n_layer": 2}),
        (
            "gpt_neox.layers",
            "mlp.dense_h_to_4h.weight",
            ["gpt_neox.embed_in.weight"],
            ["gpt_neox.final_layer_norm.bias"],
            ["embed_out.weight"],
            [],
            {"num_hidden_layers": 2},
        ),
        (
            "h",
            "mlp.dense_4h_to_h.weight",
            ["word_embeddings.weight", "word_embeddings_layernorm.weight"],
            ["ln_f.bias"],
            [],
            ["word_embeddings.weight"],
            {"n_layer": 2},
        ),
        (
            "model.decoder.layers",
            "fc1.weight",
            ["model.decoder.embed_tokens.weight", "model.decoder.embed_positions.weight"],
            ["model.decoder.final_layer_norm.weight", "model.decoder.project_out.weight"],
            [],
            ["model.decoder.embed_tokens.weight"],
            {"num_hidden_layers": 2},
        ),
        (
            "model.language_model.layers",
            "self_attn.q_proj.weight",
            [
                "model.language_model.embed_tokens.weight",
                "model.visual.blocks.0.norm1.weight",
                "visual.norm.w",
            ],
            ["model.language_model.norm.weight"],
            ["lm_head.weight"],
            [],
            {"text_config": {"num_hidden_layers": 2}},
        ),
        (
            "backbone.layers",
            "mixer.A_log",
            ["backbone.embeddings.weight"],
            ["backbone.norm_f.weight"],
            [],
            [],
            {"num_hidden_layers": 2, "tie_word_embeddings": False},
        ),
    ],
)
def test_names_of_many_families_find_their_place(
    stack: str,
    inside: str,
    first: list[str],
    norm: list[str],
    head: list[str],
    tied: list[str],
    config: dict[str, Any],
) -> None:
    layers = [[f"{stack}.{index}.{inside}"] for index in range(2)]
    found = layout_of([*head, *norm, *layers[1], *layers[0], *first], config)
    assert found.stack == stack
    assert [[tensor.name for tensor in layer] for layer in found.layers] == layers
    places = (found.first, found.norm, found.head, found.tied)
    assert [[tensor.name for tensor in place] for place in places] == [first, norm, head, tied]


def test_experts_and_extra_layers_are_not_mistaken_for_the_stack() -> None:
    names = [f"model.layers.{layer}.mlp.experts.{expert}.w1" for layer in range(3) for expert in range(2)]
    found = layout_of([*names, "model.layers.2.extra"], {"num_hidden_layers": 2})
    assert found.stack == "model.layers"
    # layer 2, for multi-token prediction, goes with the last
    assert [len(layer) for layer in found.layers] == [2, 5]


def test_a_number_of_layers_that_is_not_there_is_refused() -> None:
    with raises(DataError, "mismatch", "x"):
        layout_of(["m.0.w", "m.1.w"], {"num_hidden_layers": 3})
    with raises(DataError, "unsupported", "x/config.json"):
        layout_of(["m.0.w"], {"num_hidden_layers": "3"})


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("model.embed_tokens.weight", "embedding"),
        ("model.layers.0.self_attn.q_proj.weight", "attention"),
        ("model.layers.0.self_attn.q_norm.weight", "norm"),
        ("model.layers.0.post_attention_layernorm.weight", "norm"),
        ("model.layers.0.mlp.experts.3.w1.weight", "mlp"),
        ("h.3.ln_1.bias", "norm"),
        ("lm_head.weight", "head"),
        ("backbone.layers.0.mixer.A_log", "other"),
    ],
)
def test_layer_type_is_a_kind_not_a_dtype(name: str, kind: str) -> None:
    assert layout.classify_tensor(name) == kind
