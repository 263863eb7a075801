"""Detects typos in a command line: blanks around `=` and after commas, dashes before keys, a
choice without group.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from runner.config.choices import list_choices
from runner.config.groups import GROUPS, find_key_type, schema_keys
from runner.config.root import RunnerConfig
from runner_base import ConfigError
from runner_base.errors import find_closest_names

KEY = re.compile(r"[+~]{0,2}[A-Za-z_][\w./@-]*", re.ASCII)
FORM = "write KEY=VALUE or GROUP=CHOICE (all keys: --help)"
PREFERRED = ("task", "model", "quantization")  # of several groups that have a choice of one name


def reject_mistyped_arguments(
    arguments: Sequence[str], unknown_options: Sequence[str], options: Sequence[str]
) -> None:
    """Raise ConfigError for the first mistyped argument, and suggest a fix."""
    for index, word in enumerate(arguments):
        rest = arguments[index + 1 :]
        if word in unknown_options and word.startswith("-"):
            raise _make_unknown_option_error(word, rest, options)
        if rest and not word.startswith("-") and (fixed := _rejoin_split_override(word, rest)):
            joined, problem = fixed
            raise ConfigError(
                f"{problem}. Write {_join_override_arguments(word, rest)}", key=joined, code="bad_value"
            )


def make_stray_argument_error(argument: str) -> ConfigError:
    """Build the error for a command line argument that is not an override (KEY=VALUE)."""
    groups = [group for group in (*PREFERRED, *GROUPS) if argument in list_choices(group)]
    meant = " or ".join(f"{group}={argument}" for group in dict.fromkeys(groups))
    reason = f"this is not a valid override: {f'did you mean {meant}?' if meant else FORM}"
    return ConfigError(reason, key=argument, code="bad_value")


def _rejoin_split_override(argument: str, following_arguments: Sequence[str]) -> tuple[str, str] | None:
    """Join an override that spaces have split into several arguments, and describe the typo. Returns
    None without such a typo.
    """
    following = following_arguments[0]
    if following == "=" or (following.startswith("=") and KEY.fullmatch(argument)):
        end = 2 if following == "=" and len(following_arguments) > 1 else 1
        return " ".join([argument, *following_arguments[:end]]), "blanks around ="
    if argument.endswith("=") and KEY.fullmatch(argument[:-1]) and "=" not in following:
        if following.startswith("-"):
            return None
        return f"{argument} {following}", "a blank after ="
    if "=" in argument and (argument.endswith(",") or following.startswith(",")) and "=" not in following:
        return f"{argument} {following}", "a blank beside a comma"
    return None


def _join_override_arguments(argument: str, following_arguments: Sequence[str]) -> str:
    """Join consecutive command line arguments that belong to one override."""
    key, _, value = argument.partition("=")
    if value and (kind := find_key_type(key)) is not None and kind.is_string:
        return f"\"{key}='{' '.join([value, *following_arguments[:1]])}'\" if it is one text"
    joined = argument
    for following in following_arguments:
        belongs = joined.endswith(("=", ",")) or following.startswith(("=", ","))
        if not belongs or (following.startswith("-") and not following[1:2].isdigit()):
            break
        joined += following
    return joined


def _make_unknown_option_error(
    argument: str, following_arguments: Sequence[str], options: Sequence[str]
) -> ConfigError:
    name, equals, value = argument.partition("=")
    key = name.lstrip("-").replace("-", "_")
    if (
        not equals
        and following_arguments
        and not following_arguments[0].startswith("-")
        and "=" not in following_arguments[0]
    ):
        value = following_arguments[0]
    if key in (*GROUPS, *schema_keys(RunnerConfig)) or key.partition(".")[0] in GROUPS:
        shown = argument if equals or not value else f"{argument} {value}"
        reason = f"settings have no dashes. Write {key}={value or 'VALUE'}"
        return ConfigError(reason, key=shown, code="unknown_choice")
    close = find_closest_names(name, [*options])
    fix = f"Did you mean {close[0]}?" if close else "All options: runner --hydra-help"
    return ConfigError(f"unknown option. {fix}", key=name, code="unknown_choice")
