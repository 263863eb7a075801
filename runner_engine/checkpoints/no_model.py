"""Errors for a name that is no model or adapter, with what may be meant: a choice, a server's
model, parts of a split.

Such a name is never tried as a server's model: after a typo in a folder's name, the server would
get the prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path

from runner_base import ConfigError, names_gguf_file
from runner_base.environment import variable
from runner_base.texts import read_cache
from runner_engine.checkpoints.model_files import SPLIT_FORMAT, SPLIT_MANIFEST

_offered: list[Callable[[], Iterable[str]]] = []


def no_place(key: str, name: str, what: str = "model") -> ConfigError:
    """Return the error for a name that is neither a folder nor a hub id, with how to choose other
    kinds of models."""
    begin = _nothing(name)
    if key != "model.name":
        return ConfigError(
            f"{begin}. Give a folder, a hub id, or {'lora=embedded' if what == 'adapter' else 'embedded'}",
            key=key,
            value=name,
            code="not_found",
        )
    if (choice := _nearest_choice(name)) is not None:
        return ConfigError(f"{begin}. Did you mean model={choice}?", key=key, value=name, code="not_found")
    whose, address = _server(" model.base_url=http://HOST:PORT/v1")
    return ConfigError(
        f"{begin}. Is it a model of {whose}? model=api model.name={name}{address} asks it. "
        "Else give a folder, a hub id, or model=embedded",
        key=key,
        value=name,
        code="not_found",
    )


def nothing_to_load(name: str) -> ConfigError:
    """Return the same error for a name that was given to Python's `load`."""
    key, begin = f'load("{name}")', f"no choice of model, {_nothing(name)}"
    if (choice := _nearest_choice(name)) is not None:
        return ConfigError(f'{begin}. Did you mean load("{choice}")?', key=key, code="not_found")
    whose, address = _server(', base_url="http://HOST:PORT/v1"')
    return ConfigError(
        f'{begin}. Is it a model of {whose}? load("api", name="{name}"{address}) asks it, as '
        f"model=api model.name={name} does on the command line",
        key=key,
        code="not_found",
    )


def is_bare(name: str) -> bool:
    """Whether a name can only be a choice or a server's model: no path, no hub id, and no existing
    file."""
    is_path = "/" in name or "\\" in name or name.startswith((".", "~")) or names_gguf_file(name)
    return not is_path and not Path(name).exists()


def without_settings(key: str, name: str, folder: Path, required: str) -> ConfigError:
    """Return the error for a folder without a model; for the parts of a split, it names the tasks
    that take them."""
    if not _is_split(folder):
        return ConfigError(
            f"{folder} contains no {required}, so it is not what {key} needs",
            key=key,
            value=name,
            code="not_found",
        )
    return ConfigError(
        f"{folder} contains the parts of a split, and no whole model. "
        f"model=parts model.name={name} runs them; task=merge task.parts={name} task.output_dir=FOLDER puts them "
        "together again, and FOLDER is a model",
        key=key,
        value=name,
        code="unsupported",
    )


def _nothing(name: str) -> str:
    return f"no folder {Path(name).expanduser().absolute()}, and no hub id (those read OWNER/NAME)"


def offer_names(names: Callable[[], Iterable[str]]) -> None:
    """Let errors suggest the names by which a caller knows models; they are asked for when an error
    is written."""
    _offered.append(names)


def _nearest_choice(name: str) -> str | None:
    offered = [known for names in _offered for known in names()]
    return next(iter(get_close_matches(name, offered, n=1)), None)


def _server(address: str) -> tuple[str, str]:
    """Return which server may have the model, and what must be given besides its name."""
    return ("the server of BASE_URL", "") if variable("BASE_URL") else ("a server", address)


def _is_split(folder: Path) -> bool:
    return read_cache(folder / SPLIT_MANIFEST).get("format") == SPLIT_FORMAT
