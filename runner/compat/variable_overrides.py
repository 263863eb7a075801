"""The environment variables of older tools as overrides, for keys that the command line does not set."""

from __future__ import annotations

import os
from contextlib import suppress

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from runner.compat.variables import NAMES, Chosen, translate
from runner.config import profiles
from runner.config.compose import Composer, composer_of
from runner.config.plain_text import quote_texts, sweep_of
from runner.core.console import say


def variables_as_overrides(overrides: list[str], config: str = "config", folder: str | None = None) -> list[str]:
    """Return overrides from the environment for keys that the given ones do not set; each is printed on stderr."""
    if not any(os.environ.get(name) for name in NAMES):
        return []
    asked = {line.partition("=")[0].lstrip("+~"): line for line in overrides}
    composer = composer_of(config, folder)
    if swept_profiles := _swept(composer, "profile"):
        asked.setdefault("profile", swept_profiles)
    chosen = _values(asked["profile"]) if "profile" in asked else []
    for profile in chosen:  # a profile's keys win, too
        asked = dict.fromkeys(profiles.keys_set_by(str(profile)), asked["profile"]) | asked

    def models(choice: str | None) -> list[Chosen]:
        own: list[str | None] = ["api"] if {*chosen} == {"teacher_only"} else [None]
        own = _values(asked["model"]) if asked.get("model", "").startswith("model=") else own
        if choice is None and own == [None]:
            swept = _swept(composer, "model")
            own = _values(swept) if swept else own
        return [model_of(composer, one) for one in ([choice] if choice else own)]

    translation = translate(os.environ, asked, models)
    for line in translation.lines:
        say(line)
    return quote_texts(translation.overrides)


def _swept(composer: Composer, key: str) -> str:
    """Return how the config's sweeper sweeps over a key, as an override; empty if it does not."""
    with suppress(HydraException):  # the job itself reports errors in its config
        swept = composer.compose([]).hydra.sweeper.get("params", {}).get(key)
        return sweep_of(key, swept) if swept is not None else ""
    return ""


def _values(override: str) -> list[str | None]:
    """Return the values of an override, one or those of a sweep; [None] if it cannot be read."""
    with suppress(HydraException):
        read = OverridesParser.create().parse_override(override)
        return [*read.sweep_string_iterator()] if read.is_sweep_override() else [read.get_value_element_as_str()]
    return [None]


def model_of(composer: Composer, choice: str | None) -> Chosen:
    """Describe a choice of model, None: the config's own; an unknown choice has no keys."""
    try:
        composed = composer.compose([] if choice is None else [f"model={choice}"])
    except HydraException:
        return Chosen(str(choice), frozenset())
    node = composed.model
    inner = {f"{key}.{below}" for key in node if isinstance(node._get_node(key), DictConfig) for below in node[key]}
    own = {*map(str, node)}  # `in` is False for a key without a value
    is_named = "name" not in own or (not OmegaConf.is_missing(node, "name") and bool(node.name))
    return Chosen(str(composed.hydra.runtime.choices.model), frozenset(own | inner), is_named)
