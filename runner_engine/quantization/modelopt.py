"""Checkpoints of NVIDIA's Model-Optimizer: float8 and NVFP4, which its unified export writes.

What each layer is, its tensors say (runner_engine/models/layouts/modelopt.py): one checkpoint may
have several. No choice names them: `none` loads them as they are. Older exports keep the settings
in hf_quant_config.json alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from runner_base import load_json
from runner_base.notes import Note, note
from runner_engine.quantization.base import Format, StoredTensors
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
    """A checkpoint of Model-Optimizer, whose layers are float8 or NVFP4."""

    name: ClassVar[str] = "modelopt"
    method: ClassVar[str] = METHOD
    tensors: ClassVar[StoredTensors] = StoredTensors(
        (".weight",),
        ("_proj_weight_scale", "_proj_weight_scale_2", "_proj_input_scale"),
        (".k_scale", ".v_scale"),  # of keys and values in fewer bits
        {"U8": 4, "F8_E4M3": 8},
    )

    @classmethod
    def read_stored(cls, stored: dict[str, Any]) -> Format | None:
        """Read the algorithm; no choice makes such a checkpoint."""
        if not cls.is_own(stored):
            return None
        refusal, algorithm = cls.refusal_of(stored), algorithm_of(stored)
        name = f"{cls.name} {algorithm}" if algorithm else cls.name
        unused = None if refusal else _note_on_keys(stored)
        return Format(METHOD, cls(), _bits(stored), name, matched=False, refusal=refusal, note=unused)

    @classmethod
    def is_own(cls, stored: dict[str, Any]) -> bool:
        """Some programs write the method with the algorithm behind it."""
        return str(stored.get("quant_method", "")).startswith(METHOD)

    @classmethod
    def settings_of(cls, stored: dict[str, Any]) -> GroupSettings:
        """Each layer's tensors say what it is."""
        return GroupSettings(METHOD, (_bits(stored),), -1, unused=cls.tensors.notes)

    @classmethod
    def refusal_of(cls, stored: dict[str, Any]) -> Note | None:
        """Return which algorithm is not read, of the whole checkpoint or of a layer."""
        algorithm = algorithm_of(stored)
        if not algorithm:
            return note("no_algorithm")
        layers = of_layers(stored) if algorithm == MIXED else {}
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


def algorithm_of(stored: dict[str, Any]) -> str:
    """Return the name of the algorithm of a checkpoint."""
    return str(stored.get("quant_algo") or "").upper()


def of_layers(stored: dict[str, Any]) -> dict[str, str]:
    """Return the algorithm of each layer, of a checkpoint that has several."""
    listed = stored.get("quantized_layers")
    layers = listed.items() if isinstance(listed, dict) else ()
    return {path: algorithm_of(one) if isinstance(one, dict) else str(one) for path, one in layers}


def with_own_file(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Return a config.json's settings with what hf_quant_config.json beside it says of the layers,
    if there is one."""
    file = folder / OWN_FILE
    if not file.exists():
        return settings
    own = load_json(file)
    said, producer = own.get("quantization"), own.get("producer")
    if not isinstance(said, dict) or not isinstance(producer, dict) or producer.get("name") != METHOD:
        return settings
    if not said.get("quant_algo"):
        return settings  # keys and values alone are in fewer bits
    of_config = {
        "quant_method": METHOD,
        "quant_algo": said["quant_algo"],
        "quantized_layers": said.get("quantized_layers"),
        "kv_cache_scheme": said.get("kv_cache_quant_algo"),
    }
    return settings | {"quantization_config": of_config}


def _bits(stored: dict[str, Any]) -> int:
    """Return the bits of most layers' codes; those of experts, where layers differ."""
    layers = of_layers(stored)
    of_experts = [name for path, name in layers.items() if ".experts" in path]
    names = of_experts or [*layers.values()] or [algorithm_of(stored)]
    return BITS.get(max(names, key=names.count), 8)


def _note_on_keys(stored: dict[str, Any]) -> Note | None:
    """Return a note if keys and values were to be stored in fewer bits."""
    return note("kv_scales_unused") if stored.get("kv_cache_scheme") else None
