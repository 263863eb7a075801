"""Locates the files of a model or adapter in a local folder or the hub cache, or downloads them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from runner_base import MIB, ConfigError, check_value, is_gguf_file_name
from runner_engine.checkpoints import gguf_file, hub_gguf, model_files, random_weights, unknown_model
from runner_engine.embedded import LORA_PEFT_DIRS, LORA_PTH_PATH, MODEL_DIR
from runner_engine.settings.lora import AdapterConfig
from runner_engine.settings.model import LocalModelConfig

_no_downloads = ContextVar("no_downloads", default=False)


class DownloadRequired(Exception):
    """Raised inside `forbid_downloads` if files would have to be downloaded."""


@contextmanager
def forbid_downloads(enabled: bool) -> Iterator[None]:
    """Context manager in which a download raises DownloadRequired instead, because plans must not
    download.
    """
    before = _no_downloads.set(enabled)
    try:
        yield
    finally:
        _no_downloads.reset(before)


def locate_model(model: LocalModelConfig) -> Path:
    """Return a model's local folder or .gguf file. Downloads a hub model that is not cached."""
    if model.random_weights:
        return random_weights.ensure_random_checkpoint(model)
    path = Path(model.name).expanduser().absolute()
    if not model.asks_hub and not path.exists():
        raise ConfigError(
            f"{path} does not exist, and model=local does not download from the hub. "
            "Give an existing folder or .gguf file, or use model=auto for a hub id",
            key="model.name",
            value=model.name,
            code="not_found",
        )
    if model.name == "embedded" and model.asks_hub:
        return MODEL_DIR
    if gguf_file.is_gguf_file(path):
        return path
    if (
        (of_hub := hub_gguf.parse_hub_gguf_name(model.name)) is not None
        and model.asks_hub
        and not path.exists()
    ):
        key = f"{model.key}.name"
        fetched = of_hub.repository, model.revision, model.cache_dir, of_hub.download_patterns
        return of_hub.find_quantized_gguf_file(download_hub_model(key, *fetched), key)
    if not (path / "config.json").exists() and (files := sorted(file.name for file in path.glob("*.gguf"))):
        raise ConfigError(
            "the folder contains .gguf files. Choose one and set quantization=gguf: "
            + ", ".join(f"model.name={Path(model.name) / name}" for name in files[:5]),
            key="model.name",
            value=model.name,
            code="ambiguous",
        )
    return _resolve_model_folder(
        f"{model.key}.name", model.name, "config.json", model.revision, model.cache_dir
    )


def locate_config_folder(name: str) -> Path:
    """Return a folder with the model's config.json. For a hub id, download only this file."""
    if name == "embedded":
        return MODEL_DIR
    return _resolve_model_folder("--base", name, "config.json", patterns=("config.json",))


def locate_adapter(lora: AdapterConfig, model: LocalModelConfig) -> Path:
    is_file = lora.is_single_file
    shipped = {"embedded": LORA_PTH_PATH} if is_file else LORA_PEFT_DIRS
    if lora.path in shipped:
        if model.name != "embedded":
            raise ConfigError(
                f"{lora.label} is an adapter for model=embedded, not for model.name={model.name}. "
                f"Use {'lora=pth lora.path=FILE' if is_file else 'lora=peft lora.path=FOLDER'}, or lora=none",
                code="conflict",
            )
        return shipped[lora.path]
    if not is_file:
        revision = getattr(lora, "revision", None)
        return _resolve_model_folder(
            lora.path_key, lora.path, "adapter_config.json", revision, model.cache_dir
        )
    path = Path(lora.path).expanduser().absolute()
    need = "the path is a folder, but lora=pth reads a file. Use lora=peft for a PEFT folder"
    check_value(not path.is_dir(), "lora.path", lora.path, need)
    check_value(path.is_file(), "lora.path", lora.path, f"there is no file {path}", "not_found")
    return path


def _resolve_model_folder(
    config_key: str,
    name: str,
    required_file: str,
    revision: str | None = None,
    cache_dir: str | None = None,
    patterns: tuple[str, ...] = model_files.HUB,
) -> Path:
    """Return the local folder of a model or adapter. Downloads a hub id if needed.

    The folder must contain `required_file`.
    """
    path = Path(name).expanduser()
    what = "adapter" if required_file.startswith("adapter") else "model"
    looks_local = name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1 or name[1:2] == ":"
    looks_local |= is_gguf_file_name(name)  # not a hub id, although OWNER/FILE.gguf looks like one
    if path.is_dir():
        folder = path.absolute()
    elif path.exists():
        also = " or a .gguf file" if what == "model" else ""
        raise ConfigError(
            f"{path} is a file. Give the {what}'s folder{also}", key=config_key, value=name, code="bad_value"
        )
    elif looks_local:
        is_of_hub = (
            is_gguf_file_name(name) and "/" in name and not path.is_absolute() and not name.startswith(".")
        )
        fix = (
            ". Is it on a hub? `hf download OWNER/MODEL FILE.gguf --local-dir .` fetches it"
            if is_of_hub
            else ""
        )
        raise ConfigError(
            f"{what} path does not exist: {path.absolute()}{fix}",
            key=config_key,
            value=name,
            code="not_found",
        )
    elif "/" not in name:
        raise unknown_model.build_unknown_name_error(config_key, name, what)
    else:
        folder = download_hub_model(config_key, name, revision, cache_dir, patterns)
    if not (folder / required_file).exists():
        raise unknown_model.build_missing_config_error(config_key, name, folder, required_file)
    return folder


def download_hub_model(
    config_key: str, repo_id: str, revision: str | None, cache_dir: str | None, patterns: tuple[str, ...]
) -> Path:
    """Download the missing files of a hub model. Returns the model's folder in the hub cache."""
    from runner_engine.checkpoints import hub  # its import takes longer than identifying most jobs

    snapshot = hub.find_hub_snapshot(config_key, repo_id, revision, cache_dir, patterns)
    if missing := snapshot.missing_files:
        if _no_downloads.get():
            snapshot.check_disk_space()
            raise DownloadRequired(
                f"{snapshot.missing_bytes / MIB:,.1f} MiB in {len(missing)} files of {repo_id} "
                f"(commit {snapshot.commit[:12]}) must be downloaded into {snapshot.repo}"
            )
        hub.download_snapshot(snapshot)
    return snapshot.folder
