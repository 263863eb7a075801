"""Why a name leads to no model or adapter, and what may have been meant: a choice, a server's model, parts of a split.

A name without a folder is never sent to a server by itself: a mistyped folder would give the prompts away.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from runner.checkpoints.model_files import SPLIT_FORMAT, SPLIT_MANIFEST
from runner.core.environment import variable
from runner.core.errors import ConfigError
from runner.core.texts import read_cache


def no_place(key: str, name: str, what: str = "model") -> ConfigError:
    """Say that a name is neither a folder nor a hub id, and how the other kinds of models are asked for."""
    begin = f"{key}={name}: {_nothing(name)}"
    if key != "model.name":
        return ConfigError(
            f"{begin}. Give a folder, a hub id, or {'lora=embedded' if what == 'adapter' else 'embedded'}"
        )
    if (choice := _nearest_choice(name)) is not None:
        return ConfigError(f"{begin}. Did you mean model={choice}?")
    whose, address = _server(" model.base_url=http://HOST:PORT/v1")
    return ConfigError(
        f"{begin}. Is it a model of {whose}? model=api model.name={name}{address} asks it. "
        "Else give a folder, a hub id, or model=embedded"
    )


def nothing_to_load(name: str) -> ConfigError:
    """Say the same of a name that Python's `load` was given."""
    begin = f'load("{name}"): no choice of model, {_nothing(name)}'
    if (choice := _nearest_choice(name)) is not None:
        return ConfigError(f'{begin}. Did you mean load("{choice}")?')
    whose, address = _server(', base_url="http://HOST:PORT/v1"')
    return ConfigError(
        f'{begin}. Is it a model of {whose}? load("api", name="{name}"{address}) asks it, as '
        f"model=api model.name={name} does on the command line"
    )


def is_bare(name: str) -> bool:
    """Whether a name can only be a choice or a server's model: no path, no hub id, and nothing that lies here."""
    is_path = "/" in name or "\\" in name or name.startswith((".", "~")) or name.endswith(".gguf")
    return not is_path and not Path(name).exists()


def without_settings(key: str, name: str, folder: Path, required: str) -> ConfigError:
    """Say that a folder holds no model; of the parts of a split, which tasks take them."""
    if not _is_split(folder):
        return ConfigError(f"{key}={name}: {folder} holds no {required}, so it is not what {key} needs")
    return ConfigError(
        f"{key}={name}: {folder} holds the parts of a split, and no whole model. "
        f"model=parts model.name={name} runs them; task=merge task.parts={name} task.output_dir=FOLDER puts them "
        "together again, and FOLDER is a model"
    )


def _nothing(name: str) -> str:
    return f"no folder {Path(name).expanduser().absolute()}, and no hub id (those read OWNER/NAME)"


def _nearest_choice(name: str) -> str | None:
    from runner.config.choices import choices_for  # which reads YAML: an engine by itself needs none

    return next(iter(get_close_matches(name, choices_for("model"), n=1)), None)


def _server(address: str) -> tuple[str, str]:
    """Return which server may have the model, and what has to be given besides its name."""
    return ("the server of BASE_URL", "") if variable("BASE_URL") else ("a server", address)


def _is_split(folder: Path) -> bool:
    return read_cache(folder / SPLIT_MANIFEST).get("format") == SPLIT_FORMAT
