"""Resolves a model spec to its files, their headers, and their SHA-256 hashes, which identify a job.

Imports no torch and no transformers: a job is identified, and rejected, before anything is loaded.
"""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from runner_base import BYTES, DataError, Dtype, format_truncated_repr, load_json_object, machine
from runner_base.dtypes import resolve_dtype
from runner_engine.checkpoints import gguf_file, random_weights, torch_archive, weight_files
from runner_engine.checkpoints.experts import list_tensors_with_split_experts
from runner_engine.checkpoints.file_io import hash_file_sha256
from runner_engine.checkpoints.gguf_names import build_transformers_config_dict, splits_single_digits
from runner_engine.checkpoints.locating import download_hub_model, locate_adapter, locate_model
from runner_engine.checkpoints.model_files import hash_model_files, list_code_repositories, list_gguf_parts
from runner_engine.checkpoints.pass_memory import compute_kv_bytes_per_token, read_layer_dimensions
from runner_engine.checkpoints.positions import (
    PositionLimits,
    compute_max_positions,
    compute_trained_positions,
)
from runner_engine.checkpoints.published_settings import PublishedSettings, read_published_settings
from runner_engine.checkpoints.weight_files import TensorLocation
from runner_engine.quantization import detect_stored_format, modelopt, read_stored_quantization_config
from runner_engine.quantization.base import Int8ActivationsConfig, QuantizationConfig, StoredFormat
from runner_engine.quantization.capabilities import BlockFormat
from runner_engine.quantization.quantization_mix import QuantizationMix
from runner_engine.settings.kv_cache import KvCache
from runner_engine.settings.model import LocalModelConfig
from runner_engine.spec import ModelSpec

# in config.json
OBJECTS = ("text_config", "quantization_config", "rope_scaling", "rope_parameters")
SIZES = {  # limits for config.json, higher than in the largest models
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 10_000),
    **dict.fromkeys(
        ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"), 10_000_000
    ),
    "vocab_size": 100_000_000,
}
PTH_STORAGES = {"HalfStorage": 2, "BFloat16Storage": 2, "FloatStorage": 4, "DoubleStorage": 8}

_shared: ContextVar[dict[str, ModelFiles] | None] = ContextVar("shared", default=None)


class ModelFiles:
    """The files and headers of a model and its adapter. Each property is read once, at its first use."""

    def __init__(self, spec: ModelSpec) -> None:
        self.model = spec.model
        self.lora, self.adapts = spec.lora.single_adapter, spec.lora.adapts
        self.hashes: dict[str, str] = {}  # the last result of `hash_files`

    @property
    def shape(self) -> dict[str, int]:
        """Dimensions of the text model that determine its memory use, such as the number of layers."""
        return read_layer_dimensions(self.text_settings)

    def compute_kv_bytes_per_token(self, kv_cache: KvCache) -> int:
        return compute_kv_bytes_per_token(self.settings, self.dtype_bytes, kv_cache)

    @cached_property
    def path(self) -> Path:
        """The model's folder or .gguf file."""
        return locate_model(self.model)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Content of the model's config.json.

        For random weights, the content is known before the files are created.
        """
        return (
            random_weights.read_preset_config(self.model)
            if self.model.random_weights
            else read_model_config(self.path)
        )

    @property
    def text_settings(self) -> dict[str, Any]:
        """The config of the text model, also for multimodal models."""
        return self.settings | (self.settings.get("text_config") or {})

    @cached_property
    def published_settings(self) -> PublishedSettings | None:
        """The sampling settings that the publisher recommends. None if the model's files contain none."""
        return None if self.model.random_weights else read_published_settings(self.path)

    @cached_property
    def stored_format(self) -> StoredFormat | None:
        """The quantization of the checkpoint on disk. None if it is unquantized."""
        return detect_stored_format(self.settings)

    @property
    def is_gguf_file(self) -> bool:
        """Whether the weights are in a .gguf file. Does not create a random checkpoint to find out."""
        return not self.model.random_weights and self.path.is_file()

    @property
    def has_supported_gguf(self) -> bool:
        """Whether the weights are in a .gguf file that the project's own reader loads."""
        return self.is_gguf_file and gguf_file.is_supported_architecture(
            gguf_file.read_gguf_header(self.path)
        )

    @property
    def device(self) -> str:
        """The device type that model.device selects on this machine, cpu or cuda. Determined
        without torch.
        """
        return machine.resolve_device_class(self.model.device)

    @cached_property
    def dtype(self) -> str:
        """The dtype that model.dtype selects for this checkpoint on this machine."""
        return resolve_dtype(self.model.dtype, self.settings, self.device)

    @property
    def dtype_bytes(self) -> int:
        return BYTES.get(self.dtype, 2)

    @property
    def can_keep_gguf_blocks(self) -> bool:
        """Whether the weights of a .gguf file can stay quantized in memory.

        This requires a CPU, no device map and no adapter.
        """
        is_on_cpu = self.device == "cpu" and self.model.device_map is None
        is_file = is_on_cpu and not self.adapts and self.is_gguf_file
        return is_file and gguf_file.can_keep_gguf_blocks(gguf_file.read_gguf_header(self.path))

    @cached_property
    def tensors(self) -> list[TensorLocation]:
        """The checkpoint's tensors. Empty if no weight file has a readable header."""
        return (
            random_weights.list_random_checkpoint_tensors(self.settings)
            if self.model.random_weights
            else read_tensor_headers(self.path)
        )

    @cached_property
    def tensors_with_split_experts(self) -> list[TensorLocation]:
        """The checkpoint's tensors. Each matrix of fused experts is listed separately if loading
        may separate experts.
        """
        is_as_it_is = (
            self.stored_format is not None or self.model.device_map is not None or not self.fuses_experts
        )
        return (
            self.tensors if is_as_it_is else list_tensors_with_split_experts(self.tensors, self.text_settings)
        )

    @property
    def fuses_experts(self) -> bool:
        """Whether transformers' class for the model stores all experts of a layer in one parameter."""
        return not (self.model.trust_remote_code and self.settings.get("auto_map"))

    @cached_property
    def weight_files(self) -> tuple[str, list[Path]]:
        """Format and paths of the weight files to load. The format is empty for .gguf files."""
        return weight_files.find_weight_files_to_load(self.path) if self.path.is_dir() else ("", [self.path])

    @cached_property
    def adapter(self) -> Path | None:
        """The adapter's folder or file."""
        return None if self.lora is None else locate_adapter(self.lora, self.model)

    @cached_property
    def num_adapter_parameters(self) -> int:
        if self.adapter is None:
            return 0
        if self.adapter.is_file():
            return _count_pth_parameters(self.adapter)
        return sum(tensor.num_elements for tensor in read_tensor_headers(self.adapter))

    def hash_files(self, cache_file: Path) -> dict[str, str]:
        """Return the hashes of model files and adapter files, which identify a job, by name."""
        random = self.model.random_weights
        hashes = {
            "model": random_weights.hash_preset(self.model)
            if random
            else hash_model_files(self.path, cache_file)
        }
        if self.model.dtype is Dtype.auto:  # it depends on the machine, and the answers depend on it
            hashes["dtype"] = self.dtype
        is_gguf = self.is_gguf_file and gguf_file.is_gguf_file(self.path)
        if is_gguf and splits_single_digits(gguf_file.read_gguf_header(self.path).metadata):
            hashes["tokenizer"] = "single digits"  # in jobs of before, these files' tokens were others
        if self.adapter is not None:
            is_folder = self.adapter.is_dir()
            hashes["lora"] = (
                hash_model_files(self.adapter, cache_file) if is_folder else hash_file_sha256(self.adapter)
            )
        self.hashes = hashes | self._download_code_repositories(cache_file)
        return self.hashes

    def _download_code_repositories(self, cache_file: Path) -> dict[str, str]:
        """Download the other hub repositories from which the model loads custom code.

        Returns the commit of each repository.
        """
        if not self.model.trust_remote_code or self.model.random_weights or self.path.is_file():
            return {}
        versions = {}
        for name in list_code_repositories(self.path):
            if Path(name).is_dir():  # transformers prefers a folder, too
                versions[f"code of {name}"] = hash_model_files(Path(name), cache_file)
            else:  # into the default cache, where transformers looks for code, and not into model.cache_dir
                versions[f"code of {name}"] = download_hub_model(
                    "model.name", name, None, None, ("*.py",)
                ).name
        return versions


@dataclass(frozen=True)
class ResolvedModel:
    """A model spec, its files, and the properties derived from both."""

    spec: ModelSpec
    files: ModelFiles
    second: ResolvedModel | None = None  # whose model is loaded beside this one

    @cached_property
    def quantization_mix(self) -> QuantizationMix:
        """The quantization of the loaded weights: the checkpoint's own if it is quantized,
        otherwise the configured one.
        """
        wanted, stored = self.spec.quantization, self.files.stored_format
        if stored is not None:
            held = stored.config
            held = (
                replace(held, int8_activations=True)
                if wanted.has_int8_activations and isinstance(held, Int8ActivationsConfig)
                else held
            )
            return QuantizationMix(held, {})
        if isinstance(wanted, BlockFormat):
            if self.files.can_keep_gguf_blocks and (in_blocks := wanted.get_block_config()) is not None:
                return QuantizationMix(in_blocks, {})
            wanted.reject_int8_activations_if_dequantized()
        return self.spec.layer_mix

    @property
    def position_limits(self) -> PositionLimits:
        settings, rope = self.files.text_settings, self.spec.rope
        own = settings.get("max_position_embeddings")
        return PositionLimits(
            own if isinstance(own, int) and own > 0 else None,
            compute_max_positions(settings, rope),
            compute_trained_positions(settings, rope),
        )

    @cached_property
    def single_adapter_models(self) -> list[ResolvedModel]:
        return [resolve_model(replace(self.spec, lora=lora)) for lora in self.spec.lora.selectable_adapters]

    def hash_files(self, cache_file: Path) -> dict[str, str]:
        """Return the hashes of all files that identify a job, including several adapters and a
        draft model.
        """
        hashes = self.files.hash_files(cache_file)
        for one in self.single_adapter_models:
            lora, place = one.files.lora, one.files.adapter
            assert lora is not None
            assert place is not None
            hashes[lora.path_key] = hash_model_files(place, cache_file)
        named = self.spec.generation.speculation.model
        if named is None:
            return hashes
        path = locate_model(build_draft_model_config(self.spec.model, named))
        return hashes | {"draft": hash_model_files(path, cache_file)}

    def with_quantization(self, quantization: QuantizationConfig) -> ResolvedModel:
        return ResolvedModel(
            replace(self.spec, quantization=quantization, layers=None), self.files, self.second
        )


def resolve_model(spec: ModelSpec) -> ResolvedModel:
    """Find the files of a model spec.

    Inside `share_model_files_between_jobs`, equal models and adapters share one ModelFiles object.
    """
    shared = _shared.get()
    files = ModelFiles(spec)
    return ResolvedModel(
        spec, files if shared is None else shared.setdefault(repr((spec.model, spec.lora)), files)
    )


@contextmanager
def share_model_files_between_jobs() -> Iterator[None]:
    """Context manager in which jobs with the same model and adapter read their files only once.

    Used to plan a grid.
    """
    before = _shared.set({})
    try:
        yield
    finally:
        _shared.reset(before)


def build_draft_model_config(model: LocalModelConfig, draft_name: str) -> LocalModelConfig:
    """Build the config of a separate draft model, with the main model's device and dtype."""
    own: dict[str, Any] = {"name": draft_name, "revision": None, "shape": None, "random_weights": False}
    return replace(model, **own)


def read_model_config(path: Path) -> dict[str, Any]:
    """Read config.json from a model folder, or equivalent settings from the header of a .gguf file."""
    if path.is_dir():
        settings = load_json_object(path / "config.json")
        _check_model_config(settings, path / "config.json")
        return (
            settings
            if read_stored_quantization_config(settings)
            else modelopt.add_hf_quant_config(path, settings)
        )
    header = gguf_file.read_gguf_header(path)
    settings = gguf_file.read_gguf_settings(header)
    if gguf_file.is_supported_architecture(header):  # what its layers are, and how many experts there are
        known = build_transformers_config_dict(header)
        settings |= {
            key: gguf_file.max_over_layers(known[key]) if key in settings else known[key] for key in known
        }
    _check_model_config(settings, path)
    return settings


def _check_model_config(config: dict[str, Any], path: Path) -> None:
    for key in OBJECTS:
        if config.get(key) is not None and not isinstance(config[key], dict):
            raise DataError(
                f"{key} is {format_truncated_repr(config[key])} instead of a JSON object",
                key=path,
                code="damaged",
            )
    if not isinstance(config.get("model_type", ""), str):
        raise DataError(
            f"model_type: a text expected, found {format_truncated_repr(config['model_type'])}",
            key=path,
            code="damaged",
        )
    text = config.get("text_config") or {}
    for key, most in SIZES.items():
        for value in (config.get(key), text.get(key)):
            # some families have a list, with one number for each layer
            is_valid = (
                value is None
                or isinstance(value, (list, dict))
                or (type(value) is int and 0 <= value <= most)
            )
            if not is_valid:
                raise DataError(
                    f"{key} is {format_truncated_repr(value)}. Expected a whole number from 0 to {most}",
                    key=path,
                    code="damaged",
                )


def build_from_pretrained_arguments(path: Path, trust_remote_code: bool) -> tuple[Path, dict[str, Any]]:
    """Return the folder and the keyword arguments for transformers' `from_pretrained`.

    For a .gguf file, the keyword arguments contain the file name.
    """
    arguments = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    return (path, arguments) if path.is_dir() else (path.parent, arguments | {"gguf_file": path.name})


def read_tensor_headers(path: Path) -> list[TensorLocation]:
    """List the tensors in the file headers of a checkpoint or adapter. Tensors of a .gguf file are
    listed dequantized.
    """
    if path.is_file():
        return gguf_file.list_tensors_as_float32(gguf_file.read_gguf_header(path))
    index, adapter = path / weight_files.INDEX, path / "adapter_model.safetensors"
    files: list[Path] = []
    if (whole := path / weight_files.SINGLE).exists():  # from_pretrained prefers it, too
        files = [whole]
    elif index.exists():
        files = weight_files.list_shard_files(index, weight_files.read_shard_index(index))
    elif adapter.exists():
        files = [adapter]
    return [tensor for file in files for tensor in weight_files.read_weight_file_header(file).tensors]


def count_weight_file_nbytes(path: Path) -> int:
    files = weight_files.find_weight_files_to_load(path)[1] if path.is_dir() else list_gguf_parts(path)
    return sum(file.stat().st_size for file in files)


def _count_pth_parameters(file: Path) -> int:
    try:
        stored = sum(
            entry.file_size
            for entry in torch_archive.list_archive_entries(file)
            if "/data/" in entry.filename
        )
        with zipfile.ZipFile(file) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            named = {
                str(argument) for name in pickles for _, argument, _ in pickletools.genops(archive.read(name))
            }
    except Exception:  # noqa: BLE001  # torch's format before 2019, or a damaged file, which the load will report
        return file.stat().st_size // 2
    return stored // next((size for name, size in PTH_STORAGES.items() if f"torch {name}" in named), 2)
