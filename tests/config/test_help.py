"""--help describes each key with its value, its choices and the comment in conf/, for every choice
of every group."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from runner.config.choices import CONF, get_choice_schema, installed_choice_files, list_choices
from runner.config.compose import compose_job
from runner.config.groups import GROUPS
from runner.config.help import allowed_values, describe_job_keys, read_yaml_key_comments
from runner.config.render import COMMON_KEYS
from runner_engine.quantization.base import GENERAL_KEYS


def keys(*overrides: str) -> dict[str, tuple[str, str]]:
    """Return the value and the description of each key."""
    composed, choices = compose_job(overrides)
    found: dict[str, tuple[str, str]] = {}
    last = ""
    for line in describe_job_keys(composed, choices).splitlines():
        if match := re.fullmatch(r"  ([a-z_.]+)=(.*?)(?:\s+# (.*))?", line):
            last = match[1]
            found[last] = match[2], match[3] or ""
        elif match := re.fullmatch(r"\s{20,}# (.*)", line):
            found[last] = found[last][0], f"{found[last][1]} {match[1]}".strip()
    assert {key.partition(".")[0] for key in found if "." in key} <= {*GROUPS, "gate"}
    flat = OmegaConf.to_container(composed)
    assert {key for key in found if "." not in key} == {*flat} - {*GROUPS, "gate", "profile"}  # type: ignore[misc]
    return found


@pytest.mark.thorough
@pytest.mark.parametrize("group", GROUPS)
def test_every_key_of_every_choice_says_what_it_is(group: str) -> None:
    silent, incomplete = [], []
    for choice in list_choices(group):
        said, schema = keys(f"{group}={choice}"), get_choice_schema(group, choice)
        silent += [f"{choice}: {key}" for key, (_, words) in said.items() if len(words) < 3]
        for name in (item.name for item in fields(schema)):
            shown, values = said.get(f"{group}.{name}", ("", ""))[1], allowed_values(schema, name)
            if values[:1] != ["true"] and not all(re.search(rf"\b{value}\b", shown) for value in values):
                incomplete.append((choice, name, values, shown))
    assert (silent, incomplete) == ([], []), "each key has a comment, and each choice of an enum is named"


def test_a_comment_beside_a_key_is_one_short_line() -> None:
    long = [
        (file.name, key, len(comment))
        for group in (*GROUPS, "profile")
        for file in installed_choice_files(group)
        for key, comment in read_yaml_key_comments(file).beside.items()
        if len(comment) > 100
    ]
    menu = read_yaml_key_comments(CONF / "config.yaml").beside
    long += [("config", key, len(menu[key])) for key in menu if key != "defaults" and len(menu[key]) > 100]
    assert not long


def test_the_data_sets_stand_beside_their_key() -> None:
    for name in ("gsm8k", "likelihood"):
        said = keys(f"task={name}", "task.data=embedded_hard5")
        assert said["task.data"][1].endswith(f". Data sets: {', '.join(list_choices('dataset'))}")
        assert said["task.split"][0] == "hard5"


def test_values_choices_and_comments_stand_beside_a_key() -> None:
    said = keys("task.limit=7", "model=stub", "task.shuffle_seed=null", "tracking.uri=sqlite:///x y.db")
    assert said["task.limit"] == ("7", "the first N questions; null: all")
    assert said["tracking.uri"][0] == '"sqlite:///x y.db"'
    assert said["task.shuffle_seed"][0] == "null"
    assert not [key for key in said if key.endswith(".name") and key.count(".") == 1], (
        "the names of choices are none"
    )
    assert keys("lora=pth")["lora.path"] == ("???", "the .pth file; embedded: the one that ships")


def test_the_help_of_the_program_has_it(runner: Callable[..., Any]) -> None:
    done = runner("task=generate", "--help")
    assert done.code == 0
    assert "  task.format=chat                      # chat (the model's chat template) | raw" in done.out
    assert {*re.findall(r"^  ([a-z]+)\.", done.out, re.MULTILINE)} == {"task"}, "of the choice alone"
    assert done.out.rstrip().endswith("runner print=full --help")
    whole = runner("print=full", "--help").out
    assert "== Groups (group=choice) ==" in whole
    assert not {"task.name", "quantization.name"} & {*re.findall(r"[a-z.]+(?==)", whole)}
    assert max(map(len, whole.partition("== Keys")[2].splitlines())) <= 100
    assert "hydra" in runner("--hydra-help").out


def test_the_overview_fits_two_screens(runner: Callable[..., Any]) -> None:
    done = runner("--help")
    lines = done.out.splitlines()
    assert done.code == 0
    assert len(lines) <= 90
    assert max(map(len, lines)) <= 100
    shown = {*re.findall(r"[\w.]+", done.out)}
    for group in (*GROUPS, "profile"):
        assert {group, *list_choices(group)} <= shown
    composed, _ = compose_job(())
    for key in COMMON_KEYS:
        assert OmegaConf.select(composed, key, default="no such key") != "no such key", key
        assert f"\n  {key}=" in done.out


@pytest.mark.thorough
def test_the_resolved_config_names_the_choices_above_it(runner: Callable[..., Any]) -> None:
    shown = runner("--cfg", "job", "quantization=nf4", "lora=embedded").out
    assert shown.startswith(
        "# model=embedded quantization=nf4 lora=embedded rope=native generation=greedy task=gsm8k "
    )
    assert set(yaml.safe_load(shown)["quantization"]) == {"double_quant", "compute_dtype", *GENERAL_KEYS}, (
        "a name is not a key"
    )
    assert runner("--cfg", "job", "-p", "quantization", "quantization=nf4").out.startswith(
        "# @package quantization\n"
    )
