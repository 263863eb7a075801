"""Mistakes in a command line that are seen in its words alone: blanks around `=` and after commas,
dashes before keys, a choice without its group."""

from __future__ import annotations

import re
from collections.abc import Sequence

from runner.config.choices import choices_for
from runner.config.groups import GROUPS, key_type, schema_keys
from runner.config.root import RunnerConfig
from runner_base import ConfigError
from runner_base.errors import nearest

KEY = re.compile(r"[+~]{0,2}[A-Za-z_][\w./@-]*", re.ASCII)
FORM = "write KEY=VALUE or GROUP=CHOICE (all keys: --help)"
PREFERRED = ("task", "model", "quantization")  # of several groups that have a choice of one name


def check_words(arguments: Sequence[str], unknown_options: Sequence[str], options: Sequence[str]) -> None:
    """Raise ConfigError with the likely fix for the first mistyped word. `unknown_options` are the
    words with dashes that are none of the `options`."""
    for index, word in enumerate(arguments):
        rest = arguments[index + 1 :]
        if word in unknown_options and word.startswith("-"):
            raise _unknown_option(word, rest, options)
        if rest and not word.startswith("-") and (fixed := _without_blanks(word, rest)):
            joined, problem = fixed
            raise ConfigError(f"{problem}. Write {_as_shell_word(word, rest)}", key=joined, code="bad_value")


def explain_stray_word(word: str) -> ConfigError:
    """Return the error about a word that is no override."""
    groups = [group for group in (*PREFERRED, *GROUPS) if word in choices_for(group)]
    meant = " or ".join(f"{group}={word}" for group in dict.fromkeys(groups))
    reason = f"not a valid override: {f'did you mean {meant}?' if meant else FORM}"
    return ConfigError(reason, key=word, code="bad_value")


def _without_blanks(word: str, rest: Sequence[str]) -> tuple[str, str] | None:
    """Return words that belong together, and what is wrong with them; None if nothing is."""
    following = rest[0]
    if following == "=" or (following.startswith("=") and KEY.fullmatch(word)):
        end = 2 if following == "=" and len(rest) > 1 else 1
        return " ".join([word, *rest[:end]]), "blanks around ="
    if word.endswith("=") and KEY.fullmatch(word[:-1]) and "=" not in following:
        if following.startswith("-"):
            return None
        return f"{word} {following}", "a blank after ="
    if "=" in word and (word.endswith(",") or following.startswith(",")) and "=" not in following:
        return f"{word} {following}", "a blank beside a comma"
    return None


def _as_shell_word(word: str, rest: Sequence[str]) -> str:
    """Join the words that belong to one override."""
    key, _, value = word.partition("=")
    if value and (kind := key_type(key)) is not None and kind.is_string:
        return f"\"{key}='{' '.join([value, *rest[:1]])}'\" if it is one text"
    joined = word
    for following in rest:
        belongs = joined.endswith(("=", ",")) or following.startswith(("=", ","))
        if not belongs or (following.startswith("-") and not following[1:2].isdigit()):
            break
        joined += following
    return joined


def _unknown_option(word: str, rest: Sequence[str], options: Sequence[str]) -> ConfigError:
    """Say what to type for an option that the program does not have."""
    name, equals, value = word.partition("=")
    key = name.lstrip("-").replace("-", "_")
    if not equals and rest and not rest[0].startswith("-") and "=" not in rest[0]:
        value = rest[0]
    if key in (*GROUPS, *schema_keys(RunnerConfig)) or key.partition(".")[0] in GROUPS:
        shown = word if equals or not value else f"{word} {value}"
        reason = f"settings have no dashes. Write {key}={value or 'VALUE'}"
        return ConfigError(reason, key=shown, code="unknown_choice")
    close = nearest(name, [*options])
    fix = f"Did you mean {close[0]}?" if close else "All options: runner --hydra-help"
    return ConfigError(f"unknown option. {fix}", key=name, code="unknown_choice")
