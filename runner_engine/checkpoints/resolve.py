"""A model that is asked for, with its files: what is in them, and their SHA-256 for identity.

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

from runner_base import BYTES, DataError, Dtype, load_json, machine, short
from runner_base.dtypes import dtype_for
from runner_engine.checkpoints import gguf_file, random_weights, torch_archive, weight_files
from runner_engine.checkpoints.byteio import file_sha256
from runner_engine.checkpoints.experts import expert_matrices
from runner_engine.checkpoints.gguf_names import cuts_single_digits, settings_of
from runner_engine.checkpoints.locating import download, locate, locate_adapter
from runner_engine.checkpoints.model_files import files_sha256, other_repositories
from runner_engine.checkpoints.pass_memory import place_bytes, shape_of
from runner_engine.checkpoints.positions import Positions, made_for, positions_of
from runner_engine.checkpoints.published_settings import PublishedSettings, read_published
from runner_engine.checkpoints.weight_files import Tensor
from runner_engine.quantization import modelopt, read_format, stored_settings
from runner_engine.quantization.base import Format, QuantizationConfig, WithByteRows
from runner_engine.quantization.capabilities import HoldsBlocks
from runner_engine.quantization.mixed import Mix
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
    """The location and headers of a model and its adapter; each property is read at its first use,
    and kept."""

    def __init__(self, spec: ModelSpec) -> None:
        self.model = spec.model
        self.lora, self.adapts = spec.lora.adapter, spec.lora.adapts
        self.hashes: dict[str, str] = {}  # the last `fingerprint`

    @property
    def shape(self) -> dict[str, int]:
        """The sizes of the text model that memory depends on."""
        return shape_of(self.text_settings)

    def place_bytes(self, kv_cache: KvCache) -> int:
        """Return the bytes of keys and values of one token in all layers."""
        return place_bytes(self.settings, self.dtype_bytes, kv_cache)

    @cached_property
    def path(self) -> Path:
        """The folder of the model's files, or its .gguf file."""
        return locate(self.model)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The model's config.json; for random weights it is known before they are made."""
        return (
            random_weights.read_shape(self.model) if self.model.random_weights else read_settings(self.path)
        )

    @property
    def text_settings(self) -> dict[str, Any]:
        """The settings of the text model, also from a multimodal model's config.json."""
        return self.settings | (self.settings.get("text_config") or {})

    @cached_property
    def published(self) -> PublishedSettings | None:
        """How the model's own files say that its answers are drawn; None if they do not say it."""
        return None if self.model.random_weights else read_published(self.path)

    @cached_property
    def stored(self) -> Format | None:
        """The quantization of the stored checkpoint, if any."""
        return read_format(self.settings)

    @property
    def is_gguf_file(self) -> bool:
        """Whether the weights are one file. Random weights are a folder, and are not made for this
        question."""
        return not self.model.random_weights and self.path.is_file()

    @property
    def device(self) -> str:
        """What model.device means on this machine, as far as that is known without torch: cpu or
        cuda."""
        return machine.device_class(self.model.device)

    @cached_property
    def dtype(self) -> str:
        """The number format that model.dtype means for this checkpoint on this machine."""
        return dtype_for(self.model.dtype, self.settings, self.device)

    @property
    def dtype_bytes(self) -> int:
        """The bytes of one number of that format."""
        return BYTES.get(self.dtype, 2)

    @property
    def has_blocks(self) -> bool:
        """Whether a .gguf file can keep its blocks: on a CPU, without a device map or an
        adapter."""
        is_on_cpu = self.device == "cpu" and self.model.device_map is None
        is_file = is_on_cpu and not self.adapts and self.is_gguf_file
        return is_file and gguf_file.can_keep_blocks(gguf_file.read_header(self.path))

    @cached_property
    def tensors(self) -> list[Tensor]:
        """The checkpoint's tensors; none if it has no file whose header can be read."""
        return (
            random_weights.list_tensors(self.settings)
            if self.model.random_weights
            else read_tensors(self.path)
        )

    @cached_property
    def matrices(self) -> list[Tensor]:
        """The tensors, with each matrix of each expert of a mixture apart, if a load may take
        experts apart."""
        is_as_it_is = self.stored is not None or self.model.device_map is not None or not self.fuses_experts
        return self.tensors if is_as_it_is else expert_matrices(self.tensors, self.text_settings)

    @property
    def fuses_experts(self) -> bool:
        """Whether the model keeps all experts of a mixture in one parameter: transformers' own
        classes do."""
        return not (self.model.trust_remote_code and self.settings.get("auto_map"))

    @cached_property
    def weights(self) -> tuple[str, list[Path]]:
        """The kind and the files of the weights that a load reads; a .gguf file has no kind."""
        return weight_files.loaded_files(self.path) if self.path.is_dir() else ("", [self.path])

    @cached_property
    def adapter(self) -> Path | None:
        """The adapter's folder or file."""
        return None if self.lora is None else locate_adapter(self.lora, self.model)

    @cached_property
    def adapter_numbers(self) -> int:
        """The number of the adapter's parameters."""
        if self.adapter is None:
            return 0
        if self.adapter.is_file():
            return _count_pth_numbers(self.adapter)
        return sum(tensor.params for tensor in read_tensors(self.adapter))

    def fingerprint(self, cache: Path) -> dict[str, str]:
        """Return name and SHA-256 of the model's and the adapter's files, on which the job's
        identity depends."""
        random = self.model.random_weights
        hashes = {"model": random_weights.sha256(self.model) if random else files_sha256(self.path, cache)}
        if self.model.dtype is Dtype.auto:  # it depends on the machine, and the answers depend on it
            hashes["dtype"] = self.dtype
        is_gguf = self.is_gguf_file and gguf_file.is_gguf(self.path)
        if is_gguf and cuts_single_digits(gguf_file.read_header(self.path).metadata):
            hashes["tokenizer"] = "single digits"  # in jobs of before, these files' tokens were others
        if self.adapter is not None:
            is_folder = self.adapter.is_dir()
            hashes["lora"] = files_sha256(self.adapter, cache) if is_folder else file_sha256(self.adapter)
        self.hashes = hashes | self._other_code(cache)
        return self.hashes

    def _other_code(self, cache: Path) -> dict[str, str]:
        """Return the commit of each other repository that the model loads code from; they are
        downloaded, too."""
        if not self.model.trust_remote_code or self.model.random_weights or self.path.is_file():
            return {}
        versions = {}
        for name in other_repositories(self.path):
            if Path(name).is_dir():  # transformers prefers a folder, too
                versions[f"code of {name}"] = files_sha256(Path(name), cache)
            else:  # into the default cache, where transformers looks for code, and not into model.cache_dir
                versions[f"code of {name}"] = download("model.name", name, None, None, ("*.py",)).name
        return versions


@dataclass(frozen=True)
class ResolvedModel:
    """A model that is asked for, from which everything reads: its spec, its files, and what follows
    from both."""

    spec: ModelSpec
    files: ModelFiles
    second: ResolvedModel | None = None  # whose model is loaded beside this one

    @cached_property
    def mix(self) -> Mix:
        """The quantization of the loaded weights: that of a quantized checkpoint, else the wanted
        one."""
        wanted, stored = self.spec.quantization, self.files.stored
        if stored is not None:
            held = stored.config
            held = (
                replace(held, int8_rows=True)
                if wanted.has_byte_rows and isinstance(held, WithByteRows)
                else held
            )
            return Mix(held, {})
        if isinstance(wanted, HoldsBlocks):
            if self.files.has_blocks and (in_blocks := wanted.in_blocks()) is not None:
                return Mix(in_blocks, {})
            wanted.check_unpacked()
        return self.spec.mix

    @property
    def positions(self) -> Positions:
        """How many positions it has, with its rope."""
        settings, rope = self.files.text_settings, self.spec.rope
        own = settings.get("max_position_embeddings")
        return Positions(
            own if isinstance(own, int) and own > 0 else None,
            positions_of(settings, rope),
            made_for(settings, rope),
        )

    @cached_property
    def apart(self) -> list[ResolvedModel]:
        """The model with each of the adapters alone among which requests choose; empty without
        such."""
        return [resolve(replace(self.spec, lora=lora)) for lora in self.spec.lora.each]

    def fingerprint(self, cache: Path) -> dict[str, str]:
        """Return name and SHA-256 of the files on which the job's identity depends: also those of
        adapters by name, and of a draft model that has its own."""
        hashes = self.files.fingerprint(cache)
        for one in self.apart:
            lora, place = one.files.lora, one.files.adapter
            assert lora is not None
            assert place is not None
            hashes[lora.key] = files_sha256(place, cache)
        named = self.spec.generation.speculation.model
        if named is None:
            return hashes
        path = locate(draft_model(self.spec.model, named))
        return hashes | {"draft": files_sha256(path, cache)}

    def quantized_by(self, quantization: QuantizationConfig) -> ResolvedModel:
        """Return the same model and files with another quantization."""
        return ResolvedModel(
            replace(self.spec, quantization=quantization, layers=None), self.files, self.second
        )


def resolve(spec: ModelSpec) -> ResolvedModel:
    """Return what is known of a model; within `sharing`, specs with the same model and adapter have
    the same files."""
    shared = _shared.get()
    files = ModelFiles(spec)
    return ResolvedModel(
        spec, files if shared is None else shared.setdefault(repr((spec.model, spec.lora)), files)
    )


@contextmanager
def sharing() -> Iterator[None]:
    """Let all that have the same model and adapter read its files once, while a grid is planned."""
    before = _shared.set({})
    try:
        yield
    finally:
        _shared.reset(before)


def draft_model(beside: LocalModelConfig, name: str) -> LocalModelConfig:
    """Return the keys of a draft that has files of its own, on the model's device and in its number
    format."""
    own: dict[str, Any] = {"name": name, "revision": None, "shape": None, "random_weights": False}
    return replace(beside, **own)


def read_settings(path: Path) -> dict[str, Any]:
    """Return the config.json of a model's folder, or the same settings from the header of a .gguf
    file."""
    if path.is_dir():
        settings = load_json(path / "config.json")
        _check_settings(settings, path / "config.json")
        return settings if stored_settings(settings) else modelopt.with_own_file(path, settings)
    header = gguf_file.read_header(path)
    settings = gguf_file.read_settings(header)
    if gguf_file.is_known(header):  # what its layers are, and how many experts there are
        known = settings_of(header)
        settings |= {key: gguf_file.largest(known[key]) if key in settings else known[key] for key in known}
    _check_settings(settings, path)
    return settings


def _check_settings(settings: dict[str, Any], path: Path) -> None:
    """Reject values that code which reads config.json could not handle, or would build endless
    layers from."""
    for key in OBJECTS:
        if settings.get(key) is not None and not isinstance(settings[key], dict):
            raise DataError(
                f"{key}: a JSON object expected, found {short(settings[key])}", key=path, code="damaged"
            )
    if not isinstance(settings.get("model_type", ""), str):
        raise DataError(
            f"model_type: a text expected, found {short(settings['model_type'])}", key=path, code="damaged"
        )
    text = settings.get("text_config") or {}
    for key, most in SIZES.items():
        for value in (settings.get(key), text.get(key)):
            # some families have a list, with one number for each layer
            is_valid = (
                value is None
                or isinstance(value, (list, dict))
                or (type(value) is int and 0 <= value <= most)
            )
            if not is_valid:
                raise DataError(
                    f"{key}: a whole number from 0 to {most} expected, found {short(value)}",
                    key=path,
                    code="damaged",
                )


def for_transformers(path: Path, trust_remote_code: bool) -> tuple[Path, dict[str, Any]]:
    """Return the folder and the further arguments for `from_pretrained`, which takes the name of a
    .gguf separately."""
    arguments = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    return (path, arguments) if path.is_dir() else (path.parent, arguments | {"gguf_file": path.name})


def read_tensors(path: Path) -> list[Tensor]:
    """List the tensors of a checkpoint or an adapter from its safetensors headers, or of a .gguf
    file, unpacked."""
    if path.is_file():
        return gguf_file.unpacked_tensors(gguf_file.read_header(path))
    whole = [path / weight_files.SINGLE, path / "adapter_model.safetensors"]
    files = [file for file in whole if file.exists()][:1]
    if (index := path / weight_files.INDEX).exists():  # from_pretrained prefers it, too
        files = weight_files.shard_files(index, weight_files.read_index(index))
    return [tensor for file in files for tensor in weight_files.read_weight_file(file).tensors]


def file_bytes(path: Path) -> int:
    """Return the bytes of a model's weight files: a .gguf file's, or of those that a load of the
    folder reads."""
    files = weight_files.loaded_files(path)[1] if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def _count_pth_numbers(file: Path) -> int:
    """Count the numbers in a `.pth` file: the bytes of its storages divided by the size of their
    type."""
    try:
        stored = sum(entry.file_size for entry in torch_archive.entries(file) if "/data/" in entry.filename)
        with zipfile.ZipFile(file) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            named = {
                str(argument) for name in pickles for _, argument, _ in pickletools.genops(archive.read(name))
            }
    except Exception:  # noqa: BLE001  # torch's format before 2019, or a damaged file, which the load will report
        return file.stat().st_size // 2
    return stored // next((size for name, size in PTH_STORAGES.items() if f"torch {name}" in named), 2)
