"""Converts errors of Hydra and OmegaConf to one message with full key, value, nearest valid key and all
choices.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from runner.config.command_line_typos import make_stray_argument_error
from runner.config.groups import KeyType, find_key_type
from runner.config.messages import (
    make_invalid_override_value_error,
    make_unknown_choice_error,
    make_unknown_key_error,
)
from runner_base import ConfigError, RunnerError, find_plug_ins

# choices of hydra/launcher and hydra/sweeper from other packages; the part before _ names the extra
# that installs it
EXTRAS = ("joblib", "submitit_local", "submitit_slurm", "ray", "optuna")


@contextmanager
def convert_config_errors() -> Iterator[None]:
    """Convert errors in this block that the user can fix to a ConfigError. Other errors pass unchanged."""
    try:
        yield
    except Exception as error:
        if isinstance(error, RunnerError) or (explained := _convert_hydra_to_config_error(error)) is None:
            raise
        raise explained from error


def explain_error(error: BaseException) -> str | None:
    """Return the message for an error that the user can fix, or None for a bug."""
    explained = error if isinstance(error, RunnerError) else _convert_hydra_to_config_error(error)
    return None if explained is None else str(explained)


def _convert_hydra_to_config_error(error: BaseException) -> ConfigError | None:
    if isinstance(error, MissingConfigException):
        return _make_missing_config_error(error)
    if isinstance(error, OverrideParseException):
        return _make_unparsable_override_error(error.override)
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _find_override_error(error) or _first_lines_error(error)
    return None


def _make_unparsable_override_error(override: str) -> ConfigError:
    """Build the error for an override that Hydra's grammar rejects. It contains the corrected override."""
    key, equals, value = override.partition("=")
    if not equals or not re.fullmatch(r"[+~]{0,2}[A-Za-z_][\w.@/-]*", key, re.ASCII):
        return make_stray_argument_error(override)
    fix = _quote_override(key, value)
    return ConfigError(
        f"the value cannot be parsed, because its special characters are not quoted. Write {fix}",
        key=override,
        code="bad_value",
    )


def _quote_override(key: str, value: str) -> str:
    return f"\"{key}='{value}'\"" if "'" not in value else f"'{key}=\"{value}\"'"


def _make_multiple_values_error(key: str, value: str) -> ConfigError:
    kind = find_key_type(key) or KeyType()
    fix = (
        f". If the value is one text, add inner quotes: {_quote_override(key, value)}"
        if kind.is_string
        else ""
    )
    fix = f". If the value is a list: {key}=[{value}]" if kind.accepts_list else fix
    return ConfigError(
        f"there are several values. To sweep over them, add --multirun (-m){fix}",
        key=key,
        value=value,
        code="ambiguous",
    )


def _make_missing_config_error(error: MissingConfigException) -> ConfigError:
    group, _, choice = (error.missing_cfg_file or "").rpartition("/")
    if group in ("hydra/launcher", "hydra/sweeper") and choice in EXTRAS:
        install = f"pip install 'runner-llm[{choice.partition('_')[0]}]'"
        return ConfigError(
            f"{group}={choice} needs a package that is not installed: {install}", code="needs_package"
        )
    if (plug_in := find_plug_ins(group).get(choice)) is not None:
        return ConfigError(
            f"its package lacks the file conf/{group}/{choice}.yaml", key=plug_in, code="not_found"
        )
    if group and error.options:
        return make_unknown_choice_error(group, choice, error.options)
    return _first_lines_error(error)


def _find_override_error(error: BaseException) -> ConfigError | None:
    """Search an error and its causes for the wrong override and the reason. Returns None if neither is
    found.
    """
    text, cause = str(error), error
    if (
        match := re.match(r"In '([^']+)': \w+ raised while composing config", text)
    ) and error.__context__ is not None:
        reason = _find_override_error(error.__context__)
        return reason and ConfigError(str(reason), key=f"{match[1]}.yaml", code=reason.code)
    while cause.__cause__ is not None:
        cause = cause.__cause__
    # of a function that an interpolation calls, whose error OmegaConf keeps as text only
    if match := re.match(r"ConfigError raised while resolving interpolation: (\S+?)=(\S+): ([^\n]+)", text):
        return ConfigError(match[3], key=match[1], value=match[2], code="bad_value")
    if match := re.match(r"Could not override '([^']+)'\.[ \n]+No match in the defaults list", text):
        return make_unknown_key_error(match[1])
    if match := re.match(r"Could not delete from config. '([^']+)' does not exist", text):
        return make_unknown_key_error(match[1])
    if match := re.match(r"Ambiguous value for argument '([^=]*)=(.*)'\n1\. ", text, re.DOTALL):
        return _make_multiple_values_error(match[1], match[2])
    match = re.search(r"(?:Error merging override |To append to your config use \+)([^\n]+)(?:\n|$)", text)
    written = match[1] if match else ""
    key, _, value = written.partition("=")
    if key.lstrip("+").startswith("profile."):  # the only group that is a text in the config
        return make_unknown_key_error(key.lstrip("+"), value=value)
    if isinstance(cause, ValidationError):
        return make_invalid_override_value_error(cause, written)
    if isinstance(cause, ConfigAttributeError | ConfigKeyError):
        return make_unknown_key_error(
            cause.full_key or key, cause.object_type, value if key == cause.full_key else None
        )
    if isinstance(cause, MissingMandatoryValue):
        return ConfigError(f"{cause.full_key} has no value. Give {cause.full_key}=VALUE", code="missing")
    return None


def _first_lines_error(error: BaseException) -> ConfigError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ConfigError(" ".join(lines[:4]) or type(error).__name__, code="bad_value")
