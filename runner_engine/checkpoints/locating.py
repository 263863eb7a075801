"""Where the files of a model or an adapter are: a folder, a single file, the hub's cache, or a
download into it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from runner_base import MIB, ConfigError, check, names_gguf_file
from runner_engine.checkpoints import gguf_file, hub_gguf, model_files, no_model, random_weights
from runner_engine.embedded import LORA_PEFT_DIRS, LORA_PTH_PATH, MODEL_DIR
from runner_engine.settings.lora import AdapterConfig
from runner_engine.settings.model import LocalModelConfig

_no_downloads = ContextVar("no_downloads", default=False)


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


def locate(model: LocalModelConfig) -> Path:
    """Return the local folder of a model's files, or its .gguf file; only a hub id is
    downloaded."""
    if model.random_weights:
        return random_weights.make(model)
    path = Path(model.name).expanduser().absolute()
    if not model.asks_hub and not path.exists():
        raise ConfigError(
            f"there is no folder and no .gguf file {path}, and model=local never asks the "
            "hub: give a path that exists, or use model=auto for a hub id",
            key="model.name",
            value=model.name,
            code="not_found",
        )
    if model.name == "embedded" and model.asks_hub:
        return MODEL_DIR
    if gguf_file.is_gguf(path):
        return path
    if (of_hub := hub_gguf.named(model.name)) is not None and model.asks_hub and not path.exists():
        key = f"{model.key}.name"
        fetched = of_hub.repository, model.revision, model.cache_dir, of_hub.patterns
        return of_hub.pick(download(key, *fetched), key)
    if not (path / "config.json").exists() and (files := sorted(file.name for file in path.glob("*.gguf"))):
        raise ConfigError(
            "a folder with .gguf files; name one, with quantization=gguf: "
            + ", ".join(f"model.name={Path(model.name) / name}" for name in files[:5]),
            key="model.name",
            value=model.name,
            code="ambiguous",
        )
    return _folder(f"{model.key}.name", model.name, "config.json", model.revision, model.cache_dir)


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
                f"use {'lora=pth lora.path=FILE' if is_file else 'lora=peft lora.path=FOLDER'}, or lora=none",
                code="conflict",
            )
        return shipped[lora.path]
    if not is_file:
        revision = getattr(lora, "revision", None)
        return _folder(lora.key, lora.path, "adapter_config.json", revision, model.cache_dir)
    path = Path(lora.path).expanduser().absolute()
    need = "a folder, and lora=pth reads one file; a PEFT folder is for lora=peft"
    check(not path.is_dir(), "lora.path", lora.path, need)
    check(path.is_file(), "lora.path", lora.path, f"there is no file {path}", "not_found")
    return path


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
    looks_local = name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1 or name[1:2] == ":"
    looks_local |= names_gguf_file(name)  # not a hub id, although OWNER/FILE.gguf looks like one
    if path.is_dir():
        folder = path.absolute()
    elif path.exists():
        also = " or a .gguf file" if what == "model" else ""
        raise ConfigError(
            f"{path} is a file, a {what} is a folder{also}", key=key, value=name, code="bad_value"
        )
    elif looks_local:
        is_of_hub = (
            names_gguf_file(name) and "/" in name and not path.is_absolute() and not name.startswith(".")
        )
        fix = (
            ". Is it on a hub? `hf download OWNER/MODEL FILE.gguf --local-dir .` fetches it"
            if is_of_hub
            else ""
        )
        raise ConfigError(
            f"{what} path does not exist: {path.absolute()}{fix}", key=key, value=name, code="not_found"
        )
    elif "/" not in name:
        raise no_model.no_place(key, name, what)
    else:
        folder = download(key, name, revision, cache_dir, only)
    if not (folder / required).exists():
        raise no_model.without_settings(key, name, folder, required)
    return folder


def download(
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
