"""The registry of quantizations as a whole: a choice that is forgotten anywhere fails here."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import pytest
from stored_formats import FORMATS

from runner_base.dtypes import BYTES
from runner_engine.quantization import CHOICES, SMALLEST, detect_stored_format, list_supported_quant_methods
from runner_engine.quantization.base import (
    CheckpointSource,
    OwnLayers,
    QuantizationConfig,
    QuantizedConfig,
    StoredFormat,
)
from runner_engine.quantization.torchao import TorchaoInt8Config

TESTS = Path(__file__).resolve().parents[2]
OTHERS = [choice for choice in CHOICES.values() if choice is not QuantizationConfig]
STORED: dict[str, dict[str, Any]] = {  # quantization_config of a checkpoint of each choice
    "int8": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "nf4": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "fp4": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "gptq": {"quant_method": "gptq", "bits": 4},
    "awq": {"quant_method": "awq", "bits": 4},
    "auto_round": {"quant_method": "auto-round", "bits": 4, "packing_format": "auto_round:auto_gptq"},
    "pack_quantized": {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int"}}},
    },
    "int_quantized": {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "int", "strategy": "channel"}}},
    },
    "float_quantized": {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}},
    },
    "fp8": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    "fbgemm_fp8": {"quant_method": "fbgemm_fp8"},
    "nvfp4_pack_quantized": {
        "quant_method": "compressed-tensors",
        "format": "nvfp4-pack-quantized",
        "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "float", "group_size": 16}}},
    },
    "mxfp4_pack_quantized": {
        "quant_method": "compressed-tensors",
        "format": "mxfp4-pack-quantized",
        "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "float", "group_size": 32}}},
    },
    "bitnet": {"quant_method": "bitnet"},
    "int8_dynamic": {
        "quant_method": "torchao",
        "quant_type": {"default": {"_type": "Int8DynamicActivationInt8WeightConfig"}},
    },
    "torchao_int8": {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8WeightOnlyConfig"}}},
    "hqq": {
        "quant_method": "hqq",
        "quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 64, "axis": 1}},
        "skip_modules": ["lm_head"],
    },
    "torchao_intx": {
        "quant_method": "torchao",
        "quant_type": {
            "default": {
                "_type": "IntxWeightOnlyConfig",
                "_data": {
                    "weight_dtype": {"_type": "torch.dtype", "_data": "int4"},
                    "granularity": {"_type": "PerGroup", "_data": {"group_size": 32}},
                    "mapping_type": {"_type": "MappingType", "_data": "SYMMETRIC"},
                },
            }
        },
    },
    "torchao_float8": {
        "quant_method": "torchao",
        "quant_type": {"default": {"_type": "Float8WeightOnlyConfig"}},
    },
}


@pytest.mark.parametrize("choice", OTHERS)
def test_every_choice_describes_itself(choice: type[QuantizationConfig]) -> None:
    assert issubclass(choice, QuantizedConfig), (
        "price, unpacked copy and load arguments must not be those of `none`"
    )
    needed = choice.library
    assert needed.install.startswith("pip install ") == bool(needed.packages)
    assert all(package in needed.install for package in needed.packages)
    assert bool(choice.holders) == (choice.packed or choice.source is CheckpointSource.gguf), (
        "loaded layers are recognised by where their classes are defined"
    )
    linear, constants = choice().compute_weight_nbytes(64, 64 * 128, BYTES["float32"])
    assert 0 < linear <= 64 * 128 * BYTES["float32"]
    quantizes = choice.packed and choice.source is CheckpointSource.plain
    assert (linear < 64 * 128 * BYTES["bfloat16"]) == (constants > 0) == quantizes
    assert (choice().describe_matmul_costs(BYTES["float32"]).unpacked_bytes > 0) == choice.packed
    if all(find_spec(package) for package in needed.packages):
        assert bool(choice().build_load_arguments()) == (
            (quantizes and choice.own_layers is not OwnLayers.made_groups)
            or choice.source is CheckpointSource.gguf
        )


@pytest.mark.parametrize("choice", [choice for choice in OTHERS if choice.method])
def test_every_choice_knows_its_own_checkpoints(choice: type[QuantizationConfig]) -> None:
    assert choice.name in STORED, f"add to STORED what the config.json of a checkpoint by {choice.name} says"
    stored = detect_stored_format({"quantization_config": STORED[choice.name]})
    assert stored is not None
    assert (stored.config.name, stored.method) == (choice().name, choice.method)
    assert (stored.matched, stored.known) == (True, True)
    assert isinstance(stored.config, QuantizedConfig)
    assert stored.config.keys.keys() == choice().keys.keys()
    assert choice.method in list_supported_quant_methods()


def test_of_two_choices_of_a_library_the_one_that_fits_reads_a_checkpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @dataclass
    class Narrow(TorchaoInt8Config):
        name: ClassVar[str] = "narrow"

        @classmethod
        def parse_stored_format(cls, stored_config: dict[str, Any]) -> StoredFormat | None:
            is_own = stored_config.get("quant_type") == {"default": {"_type": "NarrowConfig"}}
            return StoredFormat(cls.method, cls(), 4, cls.name) if is_own else None

    monkeypatch.setitem(CHOICES, "narrow", Narrow)
    stored = {"quant_method": "torchao", "quant_type": {"default": {"_type": "NarrowConfig"}}}
    found = detect_stored_format({"quantization_config": stored})
    assert found is not None
    assert (found.name, found.matched) == ("narrow", True)
    other = detect_stored_format(
        {"quantization_config": {"quant_method": "torchao", "quant_type": {"default": {"_type": "X"}}}}
    )
    assert other is not None
    assert (other.name, other.matched) == ("X", False)


@pytest.mark.parametrize(
    "keys",
    [
        {"act_mapping_type": {"_type": "MappingType", "_data": "ASYMMETRIC"}},
        {"reduce_range": True},
        {"granularity": {"_type": "PerTensor"}},
        {"granularity": [{"_type": "PerTensor"}, {"_type": "PerRow"}]},
    ],
)
def test_other_ways_of_torchao_to_quantize_rows_are_not_int8_dynamic(keys: dict[str, Any]) -> None:
    kind = "Int8DynamicActivationInt8WeightConfig"
    for extra, matched in (({}, True), (keys, False)):
        default = {"_type": kind, "_data": {"granularity": None, **extra}}
        found = detect_stored_format(
            {"quantization_config": {"quant_method": "torchao", "quant_type": {"default": default}}}
        )
        assert found is not None
        assert (found.name, found.matched) == (("int8_dynamic", True) if matched else (kind, False))


def test_a_method_of_nobody_is_known_to_nobody() -> None:
    stored = detect_stored_format({"quantization_config": {"quant_method": "fp9"}})
    assert stored is not None
    assert not stored.known
    assert detect_stored_format({}) is None


def test_every_choice_is_really_loaded_in_a_test() -> None:
    # tests/engine/models/test_stored_formats.py loads each of these
    used = {type(of.quantization).__name__ for of in FORMATS.values()}
    for file in TESTS.rglob("test_*.py"):
        nodes = list(ast.walk(ast.parse(file.read_text())))
        names = {node.id for node in nodes if isinstance(node, ast.Name)}
        loads = "load_base" in names or any(
            isinstance(it, ast.ImportFrom) and it.module == "loading" for it in nodes
        )
        used |= names if loads else set()
    unused = {choice.__name__ for choice in CHOICES.values()} - used
    assert not unused, (
        "load a model with it by load_base, such as in tests/engine/models/test_quantization.py"
    )


def test_a_choice_that_forgets_its_price_cannot_be_made() -> None:
    class Forgetful(QuantizedConfig):
        pass

    with pytest.raises(TypeError, match="abstract methods?"):
        Forgetful()  # type: ignore[abstract]
    needed = {"build_load_arguments", "compute_weight_nbytes", "describe_matmul_costs"}
    assert set(Forgetful.__abstractmethods__) == needed


def test_the_smallest_is_the_smallest() -> None:
    prices = {
        choice: sum(choice().compute_weight_nbytes(1024, 1024 * 1024, 2)) for choice in CHOICES.values()
    }
    assert prices[CHOICES[SMALLEST]] == min(prices.values())
