"""NVIDIA Model-Optimizer checkpoints with float8 or NVFP4 weights, in its unified export format.

A layer's tensors tell its format (runner_engine/models/layouts/modelopt.py): one checkpoint may have
several. No choice names them: `none` loads them as they are. Older exports have the settings only in
hf_quant_config.json.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from runner_base import load_json_object
from runner_base.notes import Note, note
from runner_engine.quantization.base import StoredFormat, StoredTensorNames
from runner_engine.quantization.grouped import GroupedConfig, GroupSettings

METHOD = "modelopt"
OWN_FILE = "hf_quant_config.json"
BITS = {"FP8": 8, "FP8_PER_CHANNEL_PER_TOKEN": 8, "FP8_PB_WO": 8, "MXFP8": 8, "NVFP4": 4, "W4A16_NVFP4": 4}
MIXED = "MIXED_PRECISION"
BEYOND = {  # what else a layer of these would need
    "W4A16_AWQ": note("inputs_scaled_before_4_bits"),
    "W4A8_AWQ": note("inputs_scaled_before_4_bits"),
    "NVFP4_AWQ": note("inputs_scaled"),
    "NVFP4_SVD": note("narrow_matrices_beside"),
    "W8A8_SQ_PER_CHANNEL": note("inputs_scaled"),
}


@dataclass
class ModelOptConfig(GroupedConfig):
    """A Model-Optimizer checkpoint with float8 or NVFP4 layers."""

    name: ClassVar[str] = "modelopt"
    method: ClassVar[str] = METHOD
    tensors: ClassVar[StoredTensorNames] = StoredTensorNames(
        (".weight",),
        ("_proj_weight_scale", "_proj_weight_scale_2", "_proj_input_scale"),
        (".k_scale", ".v_scale"),  # of keys and values in fewer bits
        {"U8": 4, "F8_E4M3": 8},
    )

    @classmethod
    def parse_stored_format(cls, stored_config: dict[str, Any]) -> StoredFormat | None:
        """Parse the quantization algorithm of a checkpoint. No quantization choice creates such a
        checkpoint.
        """
        if not cls.matches_config(stored_config):
            return None
        refusal, algorithm = (
            cls.find_unsupported_variant(stored_config),
            read_quantization_algorithm(stored_config),
        )
        name = f"{cls.name} {algorithm}" if algorithm else cls.name
        unused = None if refusal else _note_unsupported_kv_quantization(stored_config)
        return StoredFormat(
            METHOD, cls(), _find_most_common_weight_bits(stored_config), name, refusal=refusal, note=unused
        )

    @classmethod
    def matches_config(cls, stored_config: dict[str, Any]) -> bool:
        """Whether quant_method starts with modelopt. Some programs append the name of the algorithm."""
        return str(stored_config.get("quant_method", "")).startswith(METHOD)

    @classmethod
    def parse_group_settings(cls, stored_config: dict[str, Any]) -> GroupSettings:
        """Return the layer settings. The tensors of each layer determine the layer's format."""
        return GroupSettings(
            METHOD, (_find_most_common_weight_bits(stored_config),), -1, unused=cls.tensors.notes
        )

    @classmethod
    def find_unsupported_variant(cls, stored_config: dict[str, Any]) -> Note | None:
        """Return a note if the quantization algorithm of the checkpoint or of a layer is
        unsupported. None otherwise.
        """
        algorithm = read_quantization_algorithm(stored_config)
        if not algorithm:
            return note("no_algorithm")
        layers = read_quantization_algorithm_per_layer(stored_config) if algorithm == MIXED else {}
        if algorithm == MIXED and not layers:
            return note("no_quantized_layers", algorithm=MIXED)
        for layer, name in [("", algorithm)] if algorithm != MIXED else layers.items():
            if name not in BITS:
                known = ", ".join(BITS)
                return note(
                    "algorithm_not_read",
                    name=name,
                    layer=layer,
                    why=BEYOND.get(name),
                    known=known,
                    mixed=MIXED,
                )
        return None


def read_quantization_algorithm(stored_config: dict[str, Any]) -> str:
    """Return the name of a checkpoint's quantization algorithm in upper case."""
    return str(stored_config.get("quant_algo") or "").upper()


def read_quantization_algorithm_per_layer(stored_config: dict[str, Any]) -> dict[str, str]:
    """Return the quantization algorithm of each layer in a mixed-precision checkpoint."""
    listed = stored_config.get("quantized_layers")
    layers = listed.items() if isinstance(listed, dict) else ()
    return {
        path: read_quantization_algorithm(one) if isinstance(one, dict) else str(one) for path, one in layers
    }


def add_hf_quant_config(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    file = folder / OWN_FILE
    if not file.exists():
        return config
    own = load_json_object(file)
    said, producer = own.get("quantization"), own.get("producer")
    if not isinstance(said, dict) or not isinstance(producer, dict) or producer.get("name") != METHOD:
        return config
    if not said.get("quant_algo"):
        return config  # keys and values alone are in fewer bits
    of_config = {
        "quant_method": METHOD,
        "quant_algo": said["quant_algo"],
        "quantized_layers": said.get("quantized_layers"),
        "kv_cache_scheme": said.get("kv_cache_quant_algo"),
    }
    return config | {"quantization_config": of_config}


def _find_most_common_weight_bits(stored_config: dict[str, Any]) -> int:
    layers = read_quantization_algorithm_per_layer(stored_config)
    of_experts = [name for path, name in layers.items() if ".experts" in path]
    names = of_experts or [*layers.values()] or [read_quantization_algorithm(stored_config)]
    return BITS.get(max(names, key=names.count), 8)


def _note_unsupported_kv_quantization(stored_config: dict[str, Any]) -> Note | None:
    """Return a note if the checkpoint requests a quantized KV cache, which is ignored. None otherwise."""
    return note("kv_scales_unused") if stored_config.get("kv_cache_scheme") else None
