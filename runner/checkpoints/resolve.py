"""Where a model's files are, and what is in them: local folder, hub cache or download; SHA-256 for identity.

Imports no torch and no transformers: a job is identified, and refused, before anything is loaded.
"""

from __future__ import annotations

import hashlib
import json
import pickletools
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any

from runner.checkpoints import gguf_file, model_files, no_model, random_weights, torch_archive, weight_files
from runner.checkpoints.byteio import file_sha256
from runner.checkpoints.weight_files import Tensor, short
from runner.config.lora import AdapterConfig, adapter_of
from runner.config.model import LocalModelConfig, local_model
from runner.config.root import RunnerConfig
from runner.core import machine
from runner.core.dtypes import BYTES, Dtype, dtype_for
from runner.core.errors import ConfigError, DataError, check
from runner.core.files import replace_with
from runner.core.machine import MIB
from runner.core.texts import parse_json
from runner.embedded import LORA_PEFT_DIR, LORA_PTH_PATH, LORA_TEAM_DIR, MODEL_DIR
from runner.quantization import read_format
from runner.quantization.base import Format, QuantizationConfig

OBJECTS = ("text_config", "quantization_config", "rope_scaling", "rope_parameters")  # in config.json
SIZES = {  # in config.json, and more than the largest models have
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 10_000),
    **dict.fromkeys(("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"), 10_000_000),
    "vocab_size": 100_000_000,
}
PTH_STORAGES = {"HalfStorage": 2, "BFloat16Storage": 2, "FloatStorage": 4, "DoubleStorage": 8}

_only_looking = ContextVar("only_looking", default=False)
_shared: ContextVar[dict[str, Resolved] | None] = ContextVar("shared", default=None)


class ToDownload(Exception):
    """Something has to be downloaded before more can be said, and this is the time for looking only."""


@contextmanager
def only_looking(wanted: bool) -> Iterator[None]:
    """While a plan is made nothing is downloaded: what would be is raised as ToDownload."""
    before = _only_looking.set(wanted)
    try:
        yield
    finally:
        _only_looking.reset(before)


class Resolved:
    """Where a job's model and adapter lie, and what their headers say: each found out once, when it is first asked."""

    def __init__(self, config: RunnerConfig) -> None:
        self.model = local_model(config.model)
        self._lora = adapter_of(config.lora)
        self.second: tuple[RunnerConfig, Resolved] | None = None  # a model that is loaded beside this one

    def beside(self, second: RunnerConfig | None) -> Resolved:
        """Return it with a model that is loaded beside this one; itself where there is none."""
        if second is None:
            return self
        found = copy(self)  # others may share it
        found.second = second, resolve(second)
        return found

    @cached_property
    def path(self) -> Path:
        """The folder of the model's files, or its .gguf file."""
        return locate(self.model)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The model's config.json; that of random weights is known before they are made."""
        return random_weights.read_shape(self.model) if self.model.random_weights else read_settings(self.path)

    @property
    def text_settings(self) -> dict[str, Any]:
        """What config.json says of the text model, where the model also sees or hears."""
        return self.settings | (self.settings.get("text_config") or {})

    @cached_property
    def stored(self) -> Format | None:
        """How the checkpoint is quantized already."""
        return read_format(self.settings)

    @cached_property
    def dtype(self) -> str:
        """The number format that model.dtype means for this checkpoint on this machine."""
        return dtype_for(self.model.dtype, self.settings, machine.device_class(self.model.device))

    @property
    def dtype_bytes(self) -> int:
        """How wide a number of that format is."""
        return BYTES.get(self.dtype, 2)

    def held(self, wanted: QuantizationConfig) -> QuantizationConfig:
        """Return what the loaded weights will be held in: a checkpoint that is quantized already decides itself."""
        return wanted if self.stored is None else self.stored.config

    @cached_property
    def tensors(self) -> list[Tensor]:
        """The checkpoint's tensors; none where it has no file whose header can be read."""
        return random_weights.list_tensors(self.settings) if self.model.random_weights else read_tensors(self.path)

    @cached_property
    def adapter(self) -> Path | None:
        """The adapter's folder or file."""
        return None if self._lora is None else locate_adapter(self._lora, self.model)

    @cached_property
    def adapter_numbers(self) -> int:
        """How many numbers the adapter holds."""
        if self.adapter is None:
            return 0
        if self.adapter.is_file():
            return _count_pth_numbers(self.adapter)
        return sum(tensor.params for tensor in read_tensors(self.adapter))

    def fingerprint(self, cache: Path) -> dict[str, str]:
        """Name and SHA-256 of the model's and the adapter's files: what the job's identity rests on."""
        random = self.model.random_weights
        hashes = {"model": random_weights.sha256(self.model) if random else files_sha256(self.path, cache)}
        if self.model.dtype is Dtype.auto:  # what it comes to depends on the machine, and so do the answers
            hashes["dtype"] = self.dtype
        if self.adapter is not None:
            is_folder = self.adapter.is_dir()
            hashes["lora"] = files_sha256(self.adapter, cache) if is_folder else file_sha256(self.adapter)
        return hashes | self._other_code(cache)

    def _other_code(self, cache: Path) -> dict[str, str]:
        """Return the commit of each repository that the model takes code from besides its own, downloaded like it."""
        if not self.model.trust_remote_code or self.model.random_weights or self.path.is_file():
            return {}
        found = {}
        for name in model_files.other_repositories(self.path):
            if Path(name).is_dir():  # as transformers has it
                found[f"code of {name}"] = files_sha256(Path(name), cache)
            else:  # in the cache where transformers looks for it, which model.cache_dir is not
                found[f"code of {name}"] = _download("model.name", name, None, None, ("*.py",)).name
        return found


def resolve(config: RunnerConfig) -> Resolved:
    """Return what is to be known of a job's model and adapter; within `sharing`, equal keys get the same object."""
    shared = _shared.get()
    if shared is None:
        return Resolved(config)
    return shared.setdefault(repr((config.model, config.lora)), Resolved(config))


@contextmanager
def sharing() -> Iterator[None]:
    """While a grid is planned, jobs with the same model and adapter read their files once."""
    before = _shared.set({})
    try:
        yield
    finally:
        _shared.reset(before)


def locate(model: LocalModelConfig) -> Path:
    """Return the local folder of a model's files, or its .gguf file; only a hub id is downloaded."""
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
    if not (path / "config.json").exists() and (files := sorted(file.name for file in path.glob("*.gguf"))):
        raise ConfigError(
            f"model.name={model.name}: a folder with .gguf files; name one, with quantization=gguf: "
            + ", ".join(f"model.name={Path(model.name) / name}" for name in files[:5])
        )
    return _folder(f"{model.key}.name", model.name, "config.json", model.revision, model.cache_dir)


def read_settings(path: Path) -> dict[str, Any]:
    """Return the config.json of a model's folder, or what the header of a .gguf file says in its words."""
    if path.is_dir():
        settings = weight_files.load_json(path / "config.json")
        _check_settings(settings, path / "config.json")
        return settings
    return gguf_file.read_settings(gguf_file.read_header(path))


def _check_settings(settings: dict[str, Any], path: Path) -> None:
    """Refuse values that everybody who reads them would stumble over, or build layers from for ever."""
    for key in OBJECTS:
        if settings.get(key) is not None and not isinstance(settings[key], dict):
            raise DataError(f"{path}: {key}: a JSON object expected, found {short(settings[key])}")
    if not isinstance(settings.get("model_type", ""), str):
        raise DataError(f"{path}: model_type: a text expected, found {short(settings['model_type'])}")
    text = settings.get("text_config") or {}
    for key, most in SIZES.items():
        for value in (settings.get(key), text.get(key)):
            sound = value is None or isinstance(value, (list, dict)) or (type(value) is int and 0 <= value <= most)
            if not sound:  # some families have a list, with one number for each layer
                raise DataError(f"{path}: {key}: a whole number from 0 to {most} expected, found {short(value)}")


def for_transformers(path: Path, trust_remote_code: bool) -> tuple[Path, dict[str, Any]]:
    """Return the folder and the further arguments with which transformers finds a model: it wants .gguf files apart."""
    found = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    return (path, found) if path.is_dir() else (path.parent, found | {"gguf_file": path.name})


def locate_config(name: str) -> Path:
    """Return a folder with a model's config.json; of a hub id, nothing else is fetched."""
    if name == "embedded":
        return MODEL_DIR
    return _folder("--base", name, "config.json", only=("config.json",))


def locate_adapter(lora: AdapterConfig, model: LocalModelConfig) -> Path:
    """Return the adapter's local folder (peft) or file (pth)."""
    is_file = lora.is_single_file
    shipped = {"embedded": LORA_PTH_PATH} if is_file else {"embedded": LORA_PEFT_DIR, "embedded_team": LORA_TEAM_DIR}
    if lora.path in shipped:
        if model.name != "embedded":
            raise ConfigError(
                f"lora.path={lora.path} fits only model=embedded, not model.name={model.name}: "
                f"use {'lora=pth lora.path=FILE' if is_file else 'lora=peft lora.path=FOLDER'}, or lora=none"
            )
        return shipped[lora.path]
    if not is_file:
        return _folder("lora.path", lora.path, "adapter_config.json", cache_dir=model.cache_dir)
    path = Path(lora.path).expanduser().absolute()
    need = "a folder, and lora=pth reads one file; a PEFT folder is for lora=peft"
    check(not path.is_dir(), "lora.path", lora.path, need)
    check(path.is_file(), "lora.path", lora.path, f"there is no file {path}")
    return path


def read_tensors(path: Path) -> list[Tensor]:
    """List the tensors of a checkpoint or an adapter from its safetensors headers, or of a .gguf file, unpacked."""
    if path.is_file():
        return gguf_file.unpacked_tensors(gguf_file.read_header(path))
    whole = [path / weight_files.SINGLE, path / "adapter_model.safetensors"]
    files = [file for file in whole if file.exists()][:1]
    if (index := path / weight_files.INDEX).exists():  # as from_pretrained has it, whatever else lies there
        files = weight_files.shard_files(index, weight_files.read_index(index))
    return [tensor for file in files for tensor in weight_files.read_weight_file(file).tensors]


def files_sha256(path: Path, cache: Path) -> str:
    """Hash what decides what a model says: a folder's files, or a .gguf file and what transformers takes beside it."""
    return _sha256(model_files.of_folder(path) if path.is_dir() else model_files.of_gguf(path), cache)


def _sha256(files: dict[str, Path], cache: Path) -> str:
    """Hash files under their names; `cache` (a JSON file) remembers them by path, size, mtime, ctime and inode.

    The ctime tells an edit in place that keeps the size and sets the mtime back.
    """
    try:
        known = parse_json(cache.read_text()) if cache.is_file() else {}
    except (OSError, ValueError):
        known = {}  # no cache yet, or a torn one: it is rebuilt
    known = known if isinstance(known, dict) else {}
    fresh: dict[str, str] = {}
    total = hashlib.sha256()
    for name, file in files.items():
        stat = file.stat()
        key = f"{file.absolute()}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ctime_ns}|{stat.st_ino}"
        digest = known.get(key) or fresh.setdefault(key, file_sha256(file))
        total.update(f"{name} {digest}\n".encode())
    if fresh:
        # a cache that cannot be kept costs time, not correctness; the output folder's own check speaks up
        with suppress(OSError):
            replace_with(cache, lambda path: path.write_text(json.dumps(known | fresh, indent=0)))
    return total.hexdigest()


def _folder(
    key: str,
    name: str,
    required: str,
    revision: str | None = None,
    cache_dir: str | None = None,
    only: tuple[str, ...] = model_files.HUB,
) -> Path:
    """Return the folder that name means, downloaded where it is a hub id; it must hold the required file."""
    path = Path(name).expanduser()
    what = "adapter" if required.startswith("adapter") else "model"
    looks_local = name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1 or name[1:2] == ":"
    looks_local |= name.endswith(".gguf")  # no hub id, although OWNER/FILE.gguf reads like one
    if path.is_dir():
        folder = path.absolute()
    elif path.exists():
        also = " or a .gguf file" if what == "model" else ""
        raise ConfigError(f"{key}={name}: {path} is a file, a {what} is a folder{also}")
    elif looks_local:
        raise ConfigError(f"{key}={name}: {what} path does not exist: {path.absolute()}")
    elif "/" not in name:
        raise no_model.no_place(key, name, what)
    else:
        folder = _download(key, name, revision, cache_dir, only)
    if not (folder / required).exists():
        raise no_model.without_settings(key, name, folder, required)
    return folder


def _download(key: str, name: str, revision: str | None, cache_dir: str | None, patterns: tuple[str, ...]) -> Path:
    """Return the folder of a hub id's files in the hub's cache, after fetching what is not there yet."""
    from runner.checkpoints import hub  # its import takes longer than most jobs need to be identified

    snapshot = hub.find(key, name, revision, cache_dir, patterns)
    if missing := snapshot.missing:
        if _only_looking.get():
            snapshot.check_room()
            raise ToDownload(
                f"to download: {snapshot.missing_bytes / MIB:,.1f} MiB in {len(missing)} files of {name} "
                f"(commit {snapshot.commit[:12]}), into {snapshot.repo}"
            )
        hub.download(snapshot)
    return snapshot.folder


def _count_pth_numbers(file: Path) -> int:
    """Count the numbers in a `.pth` file: the bytes of its storages over the size that their type names."""
    try:
        stored = sum(entry.file_size for entry in torch_archive.entries(file) if "/data/" in entry.filename)
        with zipfile.ZipFile(file) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            named = {str(argument) for name in pickles for _, argument, _ in pickletools.genops(archive.read(name))}
    except Exception:  # noqa: BLE001  # torch's format of before 2019, or a damaged file, which the load will name
        return file.stat().st_size // 2
    return stored // next((size for name, size in PTH_STORAGES.items() if f"torch {name}" in named), 2)
