"""Builds errors for unknown model and adapter names. The messages suggest similar names and fixes.

Such a name is never tried as a server's model: after a typo in a folder's name, the server would
get the prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path

from runner_base import ConfigError, is_gguf_file_name
from runner_base.environment import get_variable
from runner_base.texts import read_json_cache
from runner_engine.checkpoints.model_files import SPLIT_FORMAT, SPLIT_MANIFEST

_offered: list[Callable[[], Iterable[str]]] = []


def build_unknown_name_error(config_key: str, name: str, model_or_adapter: str = "model") -> ConfigError:
    """Return the error for a name that is neither a folder nor a hub id. The message suggests fixes."""
    begin = _format_not_found(name)
    if config_key != "model.name":
        return ConfigError(
            (
                f"{begin}. Choose a folder, a hub id, or "
                f"{'lora=embedded' if model_or_adapter == 'adapter' else 'embedded'}"
            ),
            key=config_key,
            value=name,
            code="not_found",
        )
    if (choice := _find_closest_model_name(name)) is not None:
        return ConfigError(
            f"{begin}. Did you mean model={choice}?", key=config_key, value=name, code="not_found"
        )
    whose, address = _describe_server(" model.base_url=http://HOST:PORT/v1")
    return ConfigError(
        f"{begin}. For a model of {whose}, use model=api model.name={name}{address}. "
        "Otherwise choose a folder, a hub id, or model=embedded",
        key=config_key,
        value=name,
        code="not_found",
    )


def build_unknown_load_error(name: str) -> ConfigError:
    key, begin = f'load("{name}")', f"no choice of model, {_format_not_found(name)}"
    if (choice := _find_closest_model_name(name)) is not None:
        return ConfigError(f'{begin}. Did you mean load("{choice}")?', key=key, code="not_found")
    whose, address = _describe_server(', base_url="http://HOST:PORT/v1"')
    return ConfigError(
        f'{begin}. For a model of {whose}, use load("api", name="{name}"{address}) in Python or '
        f"model=api model.name={name} on the command line",
        key=key,
        code="not_found",
    )


def is_bare_model_name(name: str) -> bool:
    """Whether a name looks like neither a path nor a hub id nor a file name.

    Such a name may be a config choice or the name of a model on a server.
    """
    is_path = "/" in name or "\\" in name or name.startswith((".", "~")) or is_gguf_file_name(name)
    return not is_path and not Path(name).exists()


def build_missing_config_error(config_key: str, name: str, folder: Path, required_file: str) -> ConfigError:
    """Return the error for a folder without the required file.

    For a split checkpoint, the error suggests tasks that read the parts.
    """
    if not _is_split_checkpoint(folder):
        return ConfigError(
            f"{folder} does not contain {required_file}, which {config_key} requires",
            key=config_key,
            value=name,
            code="not_found",
        )
    return ConfigError(
        f"{folder} contains the parts of a split model. Run the parts with model=parts model.name={name}, "
        f"or merge them into a model in FOLDER with task=merge task.parts={name} task.output_dir=FOLDER",
        key=config_key,
        value=name,
        code="unsupported",
    )


def _format_not_found(name: str) -> str:
    return (
        f"the folder {Path(name).expanduser().absolute()} does not exist, "
        "and the name is no hub id of the form OWNER/NAME"
    )


def register_model_names(list_names: Callable[[], Iterable[str]]) -> None:
    """Register a function that lists known model names. Errors suggest the closest of these names."""
    _offered.append(list_names)


def _find_closest_model_name(name: str) -> str | None:
    offered = [known for names in _offered for known in names()]
    return next(iter(get_close_matches(name, offered, n=1)), None)


def _describe_server(address: str) -> tuple[str, str]:
    return ("the server of BASE_URL", "") if get_variable("BASE_URL") else ("a server", address)


def _is_split_checkpoint(folder: Path) -> bool:
    return read_json_cache(folder / SPLIT_MANIFEST).get("format") == SPLIT_FORMAT
