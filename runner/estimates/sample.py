"""Builds the small random model whose speed a calibration measures.

Its weights exceed the CPU cache.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from runner.config.resolved import ResolvedJob
from runner.config.root import RunnerConfig
from runner_base import MIB, machine
from runner_engine import KvCache, RopeConfig, to_local_model_config
from runner_engine.checkpoints import random_weights
from runner_engine.plan.load_plan import can_pack_weights
from runner_engine.quantization.base import CheckpointSource

LAYER_MIB = (
    192.0  # at least for layers: more than a cache holds, also in 4 bits, so that weights come from memory
)
HEAD_MIB = 64.0  # at most for the token embeddings
COPIES = 2.5  # of the sample: the file, the loaded weights, packed ones
SHARE_OF_MEMORY = 0.5  # of the free memory: a calibration must not displace others
# What is timed of a sample:
ROWS = (1, 2, 8, 32)  # batch sizes; some kernels treat a single row differently
SHORT_PROMPT, LONG_PROMPT = 8, 256  # tokens
STEPS = 4
REPEATS = 3
VERSION = 2  # raise it when a calibration measures something else


@dataclass(frozen=True)
class Depths:
    """Numbers of layers and vocabulary sizes of a model and of its smaller random copies."""

    layers: int  # of the whole model
    few: int
    many: int
    vocabulary: int
    kept_vocabulary: int


@dataclass(frozen=True)
class CalibrationModel:
    """A model whose speed a child process measures. The object can be pickled."""

    key: str
    name: str  # of the shape: equal shapes share their random weights
    config: RunnerConfig
    shape: dict[str, Any]
    depths: Depths
    threads: int
    is_packed: bool  # whether the whole model's weights will be packed
    place_bytes: int  # keys and values of one token


def build_model_for_speed_calibration(resolved: ResolvedJob, weight_mib: float) -> CalibrationModel | None:
    """Return the model that a calibration must time for this job, or None if a calibration is impossible."""
    config, files = remove_rope_scaling(resolved.config), resolved.model.files
    settings = files.settings
    if settings.get("model_type") not in random_weights.FAMILIES or files.stored_format is not None:
        return None
    if config.quantization.source is not CheckpointSource.plain:  # a sample is a folder of plain weights
        return None
    if not all(key in settings for key in ("hidden_size", "intermediate_size", "num_key_value_heads")):
        return None
    tensors = random_weights.list_random_checkpoint_tensors(settings)
    block_mib = sum(tensor.nbytes for tensor in tensors if ".layers.0." in tensor.name) / MIB
    layers, vocabulary = int(settings["num_hidden_layers"]), int(settings["vocab_size"])
    row_bytes = 2 * int(settings["hidden_size"])
    kept = min(vocabulary, max(int(HEAD_MIB * MIB / row_bytes), 4096))
    many = min(layers, 1 + max(1, ceil(LAYER_MIB / block_mib)))
    depths = Depths(layers, 1, many, vocabulary, kept)
    tables = 1 if settings.get("tie_word_embeddings") else 2
    sample_mib = depths.many * block_mib + tables * kept * row_bytes / MIB
    if COPIES * sample_mib > SHARE_OF_MEMORY * machine.available_memory_mib():
        return None
    parameters = sum(tensor.num_elements for tensor in tensors)
    threads = files.model.threads or machine.num_threads_for_model(parameters)
    is_quantized = config.mix.quantizes  # such layers stay as they are
    plain_mib = kept * row_bytes / MIB if is_quantized else weight_mib
    is_packed = can_pack_weights(plain_mib * MIB, machine.available_memory_mib())
    shape = {key: value for key, value in settings.items() if key != "torch_dtype"}
    name = compute_short_hash([shape])
    kv_cache = config.generation.kv_cache_config
    timed: list[Any] = [
        VERSION,
        shape,
        files.dtype,
        repr(config.quantization),
        repr(config.rope),
        files.model.device,
    ]
    timed += [
        files.model.attention,
        threads,
        is_packed,
        machine.describe_hardware(),
        machine.library_versions(),
    ]
    timed += config.quantization.mix_keys
    timed += [str(kv_cache)] * (kv_cache != KvCache.as_model)  # earlier timings stay valid
    return CalibrationModel(
        compute_short_hash(timed),
        name,
        select_local_model(config),
        shape,
        depths,
        threads,
        is_packed,
        files.compute_kv_bytes_per_token(kv_cache),
    )


def remove_rope_scaling(config: RunnerConfig) -> RunnerConfig:
    """Return the config without RoPE scaling, which does not affect speed."""
    return replace(config, rope=RopeConfig()) if config.rope.is_scaling else config


def select_local_model(config: RunnerConfig) -> RunnerConfig:
    """Return a config that runs only the local model of a job, such as the draft model of model=hybrid."""
    return replace(config, model=to_local_model_config(config.model), profile="none")


def compute_short_hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]
