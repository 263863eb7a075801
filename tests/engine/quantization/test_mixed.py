"""Which layer gets which choice, without torch: patterns, keys of overrides, and what is refused by
name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from opening import check_format, make_spec, predict
from raising import raises

from runner_base.dtypes import Dtype
from runner_base.errors import ConfigError
from runner_engine.quantization import CHOICES
from runner_engine.quantization.base import QuantizationConfig
from runner_engine.quantization.bitsandbytes import Fp4Config, Int8Config, Nf4Config
from runner_engine.quantization.quantization_mix import QuantizationMix
from runner_engine.quantization.torchao import TorchaoInt8Config
from runner_engine.settings.lora import PeftConfig
from runner_engine.settings.model import LocalConfig
from runner_engine.spec import ModelSpec

Saved = Callable[..., Path]
DOWN = "model.layers.1.mlp.down_proj"
NONE = QuantizationConfig()


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("down_proj", DOWN, True),  # the end of the path
        ("mlp.down_proj", DOWN, True),
        ("mlp", DOWN, True),  # a module on the path
        ("layers.1", DOWN, True),
        ("model", DOWN, True),
        (DOWN, DOWN, True),
        ("layers.1", "model.layers.10.mlp.down_proj", False),  # whole parts of a path only
        ("proj", DOWN, False),
        ("gate", "model.layers.1.mlp.gate_proj", False),
        ("*_proj", DOWN, True),
        ("*.down_proj", DOWN, True),
        ("layers.?.mlp", DOWN, True),
        ("layers.?.mlp", "model.layers.10.mlp.down_proj", False),
        ("*", DOWN, True),
        ("m.del", DOWN, False),  # a dot is a dot
        ("lm_head", DOWN, False),
    ],
)
def test_a_pattern_is_the_end_of_a_path_or_a_module_on_it(pattern: str, path: str, matches: bool) -> None:
    assert QuantizationMix.from_config(Nf4Config(skip=[pattern])).matches(pattern, path) == matches


def test_of_several_overrides_the_longest_counts_in_any_order() -> None:
    pairs = {"mlp": "int8", "down_proj": "fp4", "layers.1.mlp.down_proj": "none", "*": "torchao_int8"}
    for overrides in (pairs, dict(reversed(pairs.items()))):
        mix = QuantizationMix.from_config(Nf4Config(overrides=overrides))
        assert mix.select_layer_config("model.layers.0.mlp.up_proj") == Int8Config()
        assert mix.select_layer_config("model.layers.0.mlp.down_proj") == Fp4Config()
        assert mix.select_layer_config(DOWN) == NONE
        assert mix.select_layer_config("model.layers.0.self_attn.q_proj") == TorchaoInt8Config()


def test_skip_has_precedence_and_the_head_stays_unless_it_is_named() -> None:
    mix = QuantizationMix.from_config(Nf4Config(skip=["layers.1"], overrides={DOWN: "int8"}))
    assert mix.select_layer_config(DOWN) == NONE
    assert mix.select_layer_config("lm_head", is_head=True) == NONE
    assert mix.select_layer_config("model.layers.0.mlp.down_proj").name == "nf4"
    assert (
        QuantizationMix.from_config(Nf4Config(overrides={"lm_head": "int8"})).select_layer_config(
            "lm_head", is_head=True
        )
        == Int8Config()
    )


def test_equally_long_patterns_that_disagree_are_refused_and_those_that_agree_are_not() -> None:
    paths = ["model.layers.0.mlp.up_proj"]
    QuantizationMix.from_config(
        Nf4Config(overrides={"mlp.up_proj": "int8", "mlp.*up_proj": {"name": "int8"}})
    ).check_quantization_patterns_match_layers(paths, [], False)
    with raises(ConfigError, "ambiguous", "quantization.overrides"):
        QuantizationMix.from_config(
            Nf4Config(overrides={"mlp.up_proj": "int8", "mlp.*up_proj": "fp4"})
        ).check_quantization_patterns_match_layers(paths, [], False)


def test_an_override_has_the_keys_of_its_choice() -> None:
    overrides = {
        "mlp": {"name": "nf4", "double_quant": False, "compute_dtype": "float32"},
        "q_proj": {"name": "int8", "threshold": 0},
    }
    mix = QuantizationMix.from_config(QuantizationConfig(overrides=overrides))
    assert mix.select_layer_config(DOWN) == Nf4Config(double_quant=False, compute_dtype=Dtype.float32)
    assert mix.select_layer_config("model.layers.0.self_attn.q_proj") == Int8Config(threshold=0.0)


def test_a_choice_that_quantizes_whole_models_only_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass
    class WholeModelsConfig(Int8Config):
        quantize_layer = None  # type: ignore[assignment]

    monkeypatch.setitem(CHOICES, "int8", WholeModelsConfig)
    for quantization in (WholeModelsConfig(skip=["mlp"]), Nf4Config(overrides={"mlp": "int8"})):
        with raises(
            ConfigError, "unsupported", "quantization.skip" if quantization.skip else "quantization.overrides"
        ):
            make_spec(model=LocalConfig(name="nowhere"), quantization=quantization)


def configure(folder: Path, quantization: QuantizationConfig, **keys: Any) -> ModelSpec:
    return make_spec(
        model=LocalConfig(name=str(folder), **({"device": "cpu"} | keys)), quantization=quantization
    )


@pytest.mark.parametrize(
    ("quantization", "key"),
    [
        (Nf4Config(skip=["mlp", "layers.2"]), "skip: layers.2"),
        (QuantizationConfig(overrides={"layers.2": "nf4"}), "overrides: layers.2"),
    ],
)
def test_a_pattern_without_a_layer_is_refused_with_examples_before_torch(
    saved_family: Saved, quantization: QuantizationConfig, key: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        check_format(configure(saved_family(), quantization))
    assert f"quantization.{key} matches no linear layer of this model" in str(caught.value)
    assert "model.layers.0.mlp.down_proj" in str(caught.value)


def test_a_device_map_is_refused(saved_family: Saved) -> None:
    with raises(ConfigError, "conflict", "quantization"):
        check_format(configure(saved_family(), Nf4Config(skip=["mlp"]), device="auto", device_map="auto"))


def test_a_stored_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"model_type": "llama", "quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": true}}'
    )
    for quantization in (Int8Config(skip=["mlp"]), QuantizationConfig(overrides={"mlp": "nf4"})):
        with raises(ConfigError, "conflict", "quantization"):
            check_format(configure(tmp_path, quantization))


def test_labels_tell_mixes_apart() -> None:
    mix = Nf4Config(skip=["layers.0", "lm_head"], overrides={"down_proj": {"name": "int8", "threshold": 0}})
    assert mix.label == "nf4 (layers.0, lm_head: none; down_proj: int8)"


def test_quantization_none_with_overrides_is_not_plain() -> None:
    some = QuantizationConfig(overrides={"mlp": "nf4"})
    merging = PeftConfig(path="adapter", merge=True)
    with raises(ConfigError, "missing"):
        make_spec(model=LocalConfig(name="nowhere"), quantization=some, lora=merging)


def test_a_smaller_model_keeps_the_patterns_that_match() -> None:
    mix = QuantizationMix.from_config(
        Nf4Config(skip=["layers.0", "layers.7"], overrides={"layers.6.mlp": "int8", "down_proj": "int8"})
    )
    assert mix.remove_unmatched_patterns([DOWN.replace("1", "0")]) == Nf4Config(
        skip=["layers.0"], overrides={"down_proj": "int8"}
    )
    assert QuantizationMix.from_config(Nf4Config()).remove_unmatched_patterns([]) == Nf4Config()


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_each_weight_is_priced_by_its_choice(saved_family: Saved, tied: bool) -> None:
    folder = saved_family(tied=tied)

    def parts(quantization: QuantizationConfig) -> dict[str, int]:
        predicted = predict(configure(folder, quantization, dtype=Dtype.bfloat16), 2, 8, 8)
        assert predicted is not None
        return predicted.weights

    plain, nf4 = parts(NONE), parts(Nf4Config())
    down = 2 * 128 * 192  # numbers in both down_proj
    assert parts(QuantizationConfig(overrides={"layers": "nf4"})) == parts(Nf4Config(skip=["lm_head"])) == nf4
    assert parts(Nf4Config(skip=["*"])) == plain
    skipped = parts(Nf4Config(skip=["down_proj"]))
    assert skipped["linear"] == nf4["linear"] + down * 2 - down // 2
    dynamic = parts(Nf4Config(overrides={"down_proj": "int8_dynamic"}))
    assert dynamic["linear"] == nf4["linear"] + down - down // 2
    assert dynamic["scales"] - skipped["scales"] == 2 * 128 * 5


def test_the_copies_of_a_mix_are_those_of_its_plain_layers(saved_family: Saved) -> None:
    folder = saved_family()

    def prediction(quantization: QuantizationConfig) -> Any:
        return predict(configure(folder, quantization, dtype=Dtype.bfloat16), 2, 8, 8)

    all_in_nf4, one_by_one = (
        prediction(Nf4Config()),
        prediction(QuantizationConfig(overrides={"layers": "nf4"})),
    )
    assert one_by_one == all_in_nf4
    mapped = {"head", "embedding", "other", "linear"}
    # converted while loading: nothing of it is in the file
    saved_float32 = prediction(Nf4Config(skip=["*"]))
    assert saved_float32.copied_bytes == sum(saved_float32.weights[part] for part in ("linear", "head"))
    assert mapped >= {part for part, size in saved_float32.weights.items() if size}
