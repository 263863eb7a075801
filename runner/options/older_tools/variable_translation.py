"""Translates environment variables of older tools to overrides.

They rank above YAML files and below the command line.

STUDENT_LOAD_IN_4BIT=1 → quantization=nf4
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from runner.config import profiles
from runner.config.compose import Composer, create_composer
from runner.config.override_quoting import format_sweep_override, quote_override_values
from runner.options.older_tools.variable_names import FLAGS, NAMES
from runner_base import ConfigError, print_message, redact_secrets


@dataclass(frozen=True)
class ModelChoice:
    """A choice of config group `model`, with all config keys that it has. Nested keys are dotted:
    student.device.
    """

    choice: str
    keys: frozenset[str]
    is_named: bool = True  # False: the user has to give model.name

    @property
    def device_key(self) -> str | None:
        """Config key for the local model's device, or None if the model runs on a server."""
        return next((f"model.{key}" for key in ("device", "student.device") if key in self.keys), None)


# describes a choice of model; None: those that the config chooses
ModelChoiceLookup = Callable[[str | None], list[ModelChoice]]


@dataclass
class Translation:
    """Overrides that replace environment variables, with one message for each variable that is set."""

    asked: Mapping[str, str]  # key -> the override or argument that sets it, which wins
    overrides: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def add_overrides_unless_user_set(self, variable_name: str, value: str, *overrides: str) -> None:
        keys = {override: override.partition("=")[0] for override in overrides}
        if keys[overrides[0]] in self.asked:
            self.add_ignored(variable_name, value, f"{self.asked[keys[overrides[0]]]} is set")
            return
        added = [override for override in overrides if keys[override] not in self.asked]
        self.overrides += added
        self.lines.append(f"{variable_name}={redact_secrets(value)} → {redact_secrets(' '.join(added))}")

    def add_ignored(self, variable_name: str, value: str, reason: str) -> None:
        """Add a message that explains why a variable is ignored."""
        self.lines.append(f"{variable_name}={redact_secrets(value)}: ignored, {reason}")


def translate_variables_to_overrides(
    environ: Mapping[str, str], user_overrides: Mapping[str, str], look_up_model_choice: ModelChoiceLookup
) -> Translation:
    """Translate the set environment variables of older tools to overrides. Keys that the user has set are
    left unchanged.
    """
    values = {name: environ[name].strip() for name in NAMES if environ.get(name, "").strip()}
    translation = Translation(user_overrides)
    if not values:
        return translation
    _check_environment_variable_values(values)
    _translate_model_variables(values, translation, look_up_model_choice)
    choice = next(
        (override.partition("=")[2] for override in translation.overrides if override.startswith("model=")),
        None,
    )
    models = look_up_model_choice(choice)
    # one job of a grid is enough
    without = next((model for model in models if model.device_key is None), None)
    for name in ("STUDENT_LOAD_IN_4BIT", "STUDENT_FORCE_CPU", "STUDENT_LORA_DIR"):
        value = values.get(name)
        if value is None:
            continue
        if without is not None:
            lacks = "has no device" if name == "STUDENT_FORCE_CPU" else "loads no weights"
            translation.add_ignored(name, value, f"model={without.choice} {lacks}")
        elif name == "STUDENT_LOAD_IN_4BIT":
            translation.add_overrides_unless_user_set(
                name, value, f"quantization={'nf4' if value == '1' else 'none'}"
            )
        elif name == "STUDENT_FORCE_CPU":
            translation.add_overrides_unless_user_set(
                name, value, f"{models[0].device_key}={'cpu' if value == '1' else 'auto'}"
            )
        else:
            translation.add_overrides_unless_user_set(
                name, value, f"lora={'pth' if value.endswith('.pth') else 'peft'}", f"lora.path={value}"
            )
    if (value := values.get("STUDENT_MAX_NEW_TOKENS")) is not None:
        translation.add_overrides_unless_user_set(
            "STUDENT_MAX_NEW_TOKENS", value, f"generation.max_new_tokens={value}"
        )
    if (value := values.get("BASE_URL")) is not None:
        keys = [key for key in ("base_url", "teacher.base_url") if all(key in model.keys for model in models)]
        if not keys:
            translation.add_ignored(
                "BASE_URL", value, f"model={models[0].choice} sends no requests to a server. Use model=api"
            )
        else:
            translation.add_overrides_unless_user_set("BASE_URL", value, f"model.{keys[0]}={value}")
    return translation


def _check_environment_variable_values(values: Mapping[str, str]) -> None:
    for name in FLAGS:
        if values.get(name, "0") not in ("0", "1"):
            raise ConfigError(
                "give 1 or 0, or unset the variable", key=name, value=values[name], code="bad_value"
            )
    number = values.get("STUDENT_MAX_NEW_TOKENS", "1")
    if not number.isdecimal() or int(number) < 1:
        raise ConfigError(
            "must be a whole number of 1 or more",
            key="STUDENT_MAX_NEW_TOKENS",
            value=number,
            code="bad_value",
        )


def _translate_model_variables(
    variable_values: Mapping[str, str], translation: Translation, look_up_model_choice: ModelChoiceLookup
) -> None:
    """Choose the model from the variables ENABLE_HYBRID, FORCE_STUDENT_STUB and STUDENT_BASE_MODEL."""
    hybrid, stub, base = (
        variable_values.get(name) for name in ("ENABLE_HYBRID", "FORCE_STUDENT_STUB", "STUDENT_BASE_MODEL")
    )
    if hybrid is not None:
        translation.add_overrides_unless_user_set(
            "ENABLE_HYBRID", hybrid, f"model={'hybrid' if hybrid == '1' else 'api'}"
        )
    own = next(
        (override.partition("=")[2] for override in translation.overrides if override.startswith("model=")),
        None,
    )
    models = look_up_model_choice(own) if own or "model" in translation.asked else []
    if stub == "0":
        translation.lines.append("FORCE_STUDENT_STUB=0 → the chosen model")
    elif stub is not None and models and all("student.stub" in model.keys for model in models):
        translation.add_overrides_unless_user_set("FORCE_STUDENT_STUB", stub, "model.student.stub=true")
    elif stub is not None and own is not None:
        translation.add_ignored("FORCE_STUDENT_STUB", stub, f"model={own} has no key model.student.stub")
    elif stub is not None:
        translation.add_overrides_unless_user_set("FORCE_STUDENT_STUB", stub, "model=stub")
    if base is None:
        return
    if stub == "1" and "model=stub" in translation.overrides:
        translation.add_ignored(
            "STUDENT_BASE_MODEL", base, "FORCE_STUDENT_STUB=1 replaces the student with the stub"
        )
    elif models and all("student.name" in model.keys for model in models):
        translation.add_overrides_unless_user_set("STUDENT_BASE_MODEL", base, f"model.student.name={base}")
    elif models and all(model.device_key and not model.is_named for model in models):
        translation.add_overrides_unless_user_set("STUDENT_BASE_MODEL", base, f"model.name={base}")
    elif own is not None:
        translation.add_ignored("STUDENT_BASE_MODEL", base, f"model={own} has no student")
    elif "model.name" in translation.asked and "model" not in translation.asked:
        translation.add_ignored("STUDENT_BASE_MODEL", base, f"{translation.asked['model.name']} is set")
    else:
        translation.add_overrides_unless_user_set(
            "STUDENT_BASE_MODEL", base, "model=auto", f"model.name={base}"
        )


def load_overrides_from_environment(
    overrides: list[str], config: str, config_folder: str | None
) -> list[str]:
    """Translate environment variables to overrides, and print each override on stderr.

    Keys that `overrides` sets take precedence.
    """
    asked = {line.partition("=")[0].lstrip("+~"): line for line in overrides}
    composer = create_composer(config, config_folder)
    if swept_profiles := _read_sweep_override(composer, "profile"):
        asked.setdefault("profile", swept_profiles)
    chosen = _parse_override_values(asked["profile"]) if "profile" in asked else []
    for profile in chosen:  # a profile's keys win, too
        asked = dict.fromkeys(profiles.list_keys_set_by_profile(str(profile)), asked["profile"]) | asked

    def describe_model_choices(choice: str | None) -> list[ModelChoice]:
        own: list[str | None] = ["api"] if {*chosen} == {"teacher_only"} else [None]
        own = _parse_override_values(asked["model"]) if asked.get("model", "").startswith("model=") else own
        if choice is None and own == [None]:
            swept = _read_sweep_override(composer, "model")
            own = _parse_override_values(swept) if swept else own
        return [describe_model_choice(composer, name) for name in ([choice] if choice else own)]

    translation = translate_variables_to_overrides(os.environ, asked, describe_model_choices)
    for line in translation.lines:
        print_message(line)
    return quote_override_values(translation.overrides)


def _read_sweep_override(composer: Composer, key: str) -> str:
    """Return the sweep over a key from hydra.sweeper.params as an override, or an empty text without such
    a sweep.
    """
    with suppress(HydraException):  # the job itself reports errors in its config
        swept = composer.compose([]).hydra.sweeper.get("params", {}).get(key)
        return format_sweep_override(key, swept) if swept is not None else ""
    return ""


def _parse_override_values(override: str) -> list[str | None]:
    with suppress(HydraException):
        read = OverridesParser.create().parse_override(override)
        return (
            [*read.sweep_string_iterator()] if read.is_sweep_override() else [read.get_value_element_as_str()]
        )
    return [None]


def describe_model_choice(composer: Composer, choice: str | None) -> ModelChoice:
    try:
        composed = composer.compose([] if choice is None else [f"model={choice}"])
    except HydraException:
        return ModelChoice(str(choice), frozenset())
    node = composed.model
    inner = {
        f"{key}.{below}" for key in node if isinstance(node._get_node(key), DictConfig) for below in node[key]
    }
    own = {*map(str, node)}  # `in` is False for a key without a value
    is_named = "name" not in own or (not OmegaConf.is_missing(node, "name") and bool(node.name))
    return ModelChoice(str(composed.hydra.runtime.choices.model), frozenset(own | inner), is_named)
