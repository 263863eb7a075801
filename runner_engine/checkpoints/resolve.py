"""Where a model's files are (local folder, hub cache or download), what is in them, and their
SHA-256 for identity.

Imports no torch and no transformers: a job is identified, and rejected, before anything is loaded.
"""

from __future__ import annotations

import hashlib
import json
import pickletools
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from runner_base import (
    BYTES,
    MIB,
    ConfigError,
    DataError,
    Dtype,
    check,
    load_json,
    machine,
    replace_text,
    short,
)
from runner_base.dtypes import dtype_for
from runner_base.texts import read_cache
from runner_engine.checkpoints import (
    gguf_file,
    hub_gguf,
    model_files,
    no_model,
    random_weights,
    torch_archive,
    weight_files,
)
from runner_engine.checkpoints.byteio import file_sha256
from runner_engine.checkpoints.experts import expert_matrices
from runner_engine.checkpoints.gguf_names import cuts_single_digits, settings_of
from runner_engine.checkpoints.published_settings import PublishedSettings, read_published
from runner_engine.checkpoints.weight_files import Tensor
from runner_engine.embedded import LORA_PEFT_DIRS, LORA_PTH_PATH, MODEL_DIR
from runner_engine.quantization import modelopt, read_format, stored_settings
from runner_engine.quantization.base import Format, QuantizationConfig, WithByteRows
from runner_engine.quantization.mixed import Mix
from runner_engine.settings.lora import AdapterConfig, adapter_of
from runner_engine.settings.model import LocalModelConfig
from runner_engine.spec import ModelSpec

OBJECTS = (
    "text_config",
    "quantization_config",
    "rope_scaling",
    "rope_parameters",
)  # in config.json
SIZES = {  # limits for config.json, higher than in the largest models
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 10_000),
    **dict.fromkeys(
        ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"),
        10_000_000,
    ),
    "vocab_size": 100_000_000,
}
PTH_STORAGES = {"HalfStorage": 2, "BFloat16Storage": 2, "FloatStorage": 4, "DoubleStorage": 8}

_no_downloads = ContextVar("no_downloads", default=False)
_shared: ContextVar[dict[str, ModelFiles] | None] = ContextVar("shared", default=None)


class ToDownload(Exception):
    """A download is needed to continue, within `no_downloads`."""


@contextmanager
def no_downloads(enabled: bool) -> Iterator[None]:
    """Raise ToDownload instead of downloading, as for a plan."""
    before = _no_downloads.set(enabled)
    try:
        yield
    finally:
        _no_downloads.reset(before)


class ModelFiles:
    """The location and headers of a model and its adapter; each property is read at its first use,
    and kept."""

    def __init__(self, spec: ModelSpec) -> None:
        self.model = spec.model
        self.lora, self.adapts = adapter_of(spec.lora), spec.lora.adapts
        self.hashes: dict[str, str] = {}  # the last `fingerprint`

    @cached_property
    def path(self) -> Path:
        """The folder of the model's files, or its .gguf file."""
        return locate(self.model)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The model's config.json; for random weights it is known before they are made."""
        return (
            random_weights.read_shape(self.model)
            if self.model.random_weights
            else read_settings(self.path)
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

    @cached_property
    def dtype(self) -> str:
        """The number format that model.dtype means for this checkpoint on this machine."""
        return dtype_for(self.model.dtype, self.settings, machine.device_class(self.model.device))

    @property
    def dtype_bytes(self) -> int:
        """The bytes of one number of that format."""
        return BYTES.get(self.dtype, 2)

    @property
    def has_blocks(self) -> bool:
        """Whether a .gguf file can keep its blocks: on a CPU, without a device map or an
        adapter."""
        is_on_cpu = (
            machine.device_class(self.model.device) == "cpu" and self.model.device_map is None
        )
        is_file = (
            is_on_cpu and not self.adapts and not self.model.random_weights and self.path.is_file()
        )
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
        is_as_it_is = (
            self.stored is not None or self.model.device_map is not None or not self.fuses_experts
        )
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
        hashes = {
            "model": random_weights.sha256(self.model) if random else files_sha256(self.path, cache)
        }
        if (
            self.model.dtype is Dtype.auto
        ):  # it depends on the machine, and the answers depend on it
            hashes["dtype"] = self.dtype
        is_gguf = not random and self.path.is_file() and gguf_file.is_gguf(self.path)
        if is_gguf and cuts_single_digits(gguf_file.read_header(self.path).metadata):
            hashes["tokenizer"] = (
                "single digits"  # in jobs of before, these files' tokens were others
            )
        if self.adapter is not None:
            is_folder = self.adapter.is_dir()
            hashes["lora"] = (
                files_sha256(self.adapter, cache) if is_folder else file_sha256(self.adapter)
            )
        self.hashes = hashes | self._other_code(cache)
        return self.hashes

    def _other_code(self, cache: Path) -> dict[str, str]:
        """Return the commit of each other repository that the model loads code from; they are
        downloaded, too."""
        if not self.model.trust_remote_code or self.model.random_weights or self.path.is_file():
            return {}
        versions = {}
        for name in model_files.other_repositories(self.path):
            if Path(name).is_dir():  # transformers prefers a folder, too
                versions[f"code of {name}"] = files_sha256(Path(name), cache)
            else:  # into the default cache, where transformers looks for code, and not into model.cache_dir
                versions[f"code of {name}"] = _download(
                    "model.name", name, None, None, ("*.py",)
                ).name
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
        in_blocks = wanted.in_blocks()
        if in_blocks is not None and self.files.has_blocks:
            return Mix(in_blocks, {})
        wanted.check_unpacked()
        return self.spec.mix

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


def locate(model: LocalModelConfig) -> Path:
    """Return the local folder of a model's files, or its .gguf file; only a hub id is
    downloaded."""
    if model.random_weights:
        return random_weights.make(model)
    path = Path(model.name).expanduser().absolute()
    if not model.asks_hub and not path.exists():
        raise ConfigError(
            f"model.name={model.name}: there is no folder and no .gguf file {path}, and model=local never asks the "
            "hub: give a path that exists, or use model=auto for a hub id"
        )
    if model.name == "embedded" and model.asks_hub:
        return MODEL_DIR
    if gguf_file.is_gguf(path):
        return path
    if (of_hub := hub_gguf.named(model.name)) is not None and model.asks_hub and not path.exists():
        key = f"{model.key}.name"
        fetched = of_hub.repository, model.revision, model.cache_dir, of_hub.patterns
        return of_hub.pick(_download(key, *fetched), key)
    if not (path / "config.json").exists() and (
        files := sorted(file.name for file in path.glob("*.gguf"))
    ):
        raise ConfigError(
            f"model.name={model.name}: a folder with .gguf files; name one, with quantization=gguf: "
            + ", ".join(f"model.name={Path(model.name) / name}" for name in files[:5])
        )
    return _folder(f"{model.key}.name", model.name, "config.json", model.revision, model.cache_dir)


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
        settings |= {
            key: gguf_file.largest(known[key]) if key in settings else known[key] for key in known
        }
    _check_settings(settings, path)
    return settings


def _check_settings(settings: dict[str, Any], path: Path) -> None:
    """Reject values that code which reads config.json could not handle, or would build endless
    layers from."""
    for key in OBJECTS:
        if settings.get(key) is not None and not isinstance(settings[key], dict):
            raise DataError(f"{path}: {key}: a JSON object expected, found {short(settings[key])}")
    if not isinstance(settings.get("model_type", ""), str):
        raise DataError(
            f"{path}: model_type: a text expected, found {short(settings['model_type'])}"
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
                    f"{path}: {key}: a whole number from 0 to {most} expected, found {short(value)}"
                )


def for_transformers(path: Path, trust_remote_code: bool) -> tuple[Path, dict[str, Any]]:
    """Return the folder and the further arguments for `from_pretrained`, which takes the name of a
    .gguf separately."""
    arguments = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    return (
        (path, arguments) if path.is_dir() else (path.parent, arguments | {"gguf_file": path.name})
    )


def locate_config(name: str) -> Path:
    """Return a folder with a model's config.json; for a hub id, nothing else is fetched."""
    if name == "embedded":
        return MODEL_DIR
    return _folder("--base", name, "config.json", only=("config.json",))


def locate_adapter(lora: AdapterConfig, model: LocalModelConfig) -> Path:
    """Return the adapter's local folder (peft) or file (pth)."""
    is_file = lora.is_single_file
    shipped = {"embedded": LORA_PTH_PATH} if is_file else LORA_PEFT_DIRS
    if lora.path in shipped:
        if model.name != "embedded":
            raise ConfigError(
                f"{lora.label} fits only model=embedded, not model.name={model.name}: "
                f"use {'lora=pth lora.path=FILE' if is_file else 'lora=peft lora.path=FOLDER'}, or lora=none"
            )
        return shipped[lora.path]
    if not is_file:
        revision = getattr(lora, "revision", None)
        return _folder(lora.key, lora.path, "adapter_config.json", revision, model.cache_dir)
    path = Path(lora.path).expanduser().absolute()
    need = "a folder, and lora=pth reads one file; a PEFT folder is for lora=peft"
    check(not path.is_dir(), "lora.path", lora.path, need)
    check(path.is_file(), "lora.path", lora.path, f"there is no file {path}")
    return path


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


def files_sha256(path: Path, cache: Path) -> str:
    """Hash the files that a model's answers depend on: a folder's, or a .gguf file and those read
    beside it."""
    return _sha256(
        model_files.of_folder(path) if path.is_dir() else model_files.of_gguf(path), cache
    )


def _sha256(files: dict[str, Path], cache: Path) -> str:
    """Hash files under their names; `cache` (a JSON file) remembers them by path, size, mtime,
    ctime and inode.

    The ctime reveals an edit in place that keeps the size and resets the mtime.
    """
    known = read_cache(cache)
    fresh: dict[str, str] = {}
    total = hashlib.sha256()
    for name, file in files.items():
        stat = file.stat()
        key = (
            f"{file.absolute()}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ctime_ns}|{stat.st_ino}"
        )
        digest = known.get(key) or fresh.setdefault(key, file_sha256(file))
        total.update(f"{name} {digest}\n".encode())
    if fresh:
        # without the cache only time is lost; an unwritable output folder is reported elsewhere
        with suppress(OSError):
            replace_text(cache, json.dumps(known | fresh, indent=0))
    return total.hexdigest()


def _folder(
    key: str,
    name: str,
    required: str,
    revision: str | None = None,
    cache_dir: str | None = None,
    only: tuple[str, ...] = model_files.HUB,
) -> Path:
    """Return the folder that a name means, downloaded if it is a hub id; it must contain the
    required file."""
    path = Path(name).expanduser()
    what = "adapter" if required.startswith("adapter") else "model"
    looks_local = (
        name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1 or name[1:2] == ":"
    )
    looks_local |= name.endswith(".gguf")  # not a hub id, although OWNER/FILE.gguf looks like one
    if path.is_dir():
        folder = path.absolute()
    elif path.exists():
        also = " or a .gguf file" if what == "model" else ""
        raise ConfigError(f"{key}={name}: {path} is a file, a {what} is a folder{also}")
    elif looks_local:
        is_of_hub = (
            name.endswith(".gguf")
            and "/" in name
            and not path.is_absolute()
            and not name.startswith(".")
        )
        fix = (
            ". Is it on a hub? `hf download OWNER/MODEL FILE.gguf --local-dir .` fetches it"
            if is_of_hub
            else ""
        )
        raise ConfigError(f"{key}={name}: {what} path does not exist: {path.absolute()}{fix}")
    elif "/" not in name:
        raise no_model.no_place(key, name, what)
    else:
        folder = _download(key, name, revision, cache_dir, only)
    if not (folder / required).exists():
        raise no_model.without_settings(key, name, folder, required)
    return folder


def _download(
    key: str, name: str, revision: str | None, cache_dir: str | None, patterns: tuple[str, ...]
) -> Path:
    """Return the folder of a hub id's files in the hub's cache, after fetching those that are
    missing."""
    from runner_engine.checkpoints import hub  # its import takes longer than identifying most jobs

    snapshot = hub.find(key, name, revision, cache_dir, patterns)
    if missing := snapshot.missing:
        if _no_downloads.get():
            snapshot.check_room()
            raise ToDownload(
                f"to download: {snapshot.missing_bytes / MIB:,.1f} MiB in {len(missing)} files of {name} "
                f"(commit {snapshot.commit[:12]}), into {snapshot.repo}"
            )
        hub.download(snapshot)
    return snapshot.folder


def _count_pth_numbers(file: Path) -> int:
    """Count the numbers in a `.pth` file: the bytes of its storages divided by the size of their
    type."""
    try:
        stored = sum(
            entry.file_size for entry in torch_archive.entries(file) if "/data/" in entry.filename
        )
        with zipfile.ZipFile(file) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            named = {
                str(argument)
                for name in pickles
                for _, argument, _ in pickletools.genops(archive.read(name))
            }
    except Exception:  # noqa: BLE001  # torch's format before 2019, or a damaged file, which the load will report
        return file.stat().st_size // 2
    return stored // next(
        (size for name, size in PTH_STORAGES.items() if f"torch {name}" in named), 2
    )
