"""YAML files that are bombs, too deep, tagged or truncated: each error is one message with file and
position."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf
from raising import raises

from runner.config.choices import CONF
from runner.config.yaml_files import (
    MAX_DEPTH,
    get_fast_yaml_loader,
    guard_yaml_loading,
    reject_yaml_alias_bombs,
)
from runner_base.errors import Code, ConfigError
from runner_base.plugins import find_builtin_conf_folders

BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 9)}]\n" for number in range(1, 9)
)


@pytest.mark.parametrize(
    "text", [BOMB, "a: &a [*a]\n", "a: &a {b: {c: *a}}\n"], ids=["bomb", "list", "mapping"]
)
def test_aliases_that_unpack_to_too_much(text: str) -> None:
    with raises(ConfigError, "too_large", "x.yaml"):
        reject_yaml_alias_bombs(text, "x.yaml")


def test_ordinary_aliases_and_damaged_files_pass() -> None:
    reject_yaml_alias_bombs("a: &a {b: 1}\nc: {<<: *a, d: 2}\ne: [*a, *a]\n", "x.yaml")
    reject_yaml_alias_bombs("a: &a [*b\n", "x.yaml")
    reject_yaml_alias_bombs("a: 5 * 3 & 4\n", "x.yaml")


def test_a_study_is_refused_before_it_is_unpacked(runner: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "bomb.yaml").write_text(f"defaults: [config, _self_]\n{BOMB}")
    done = runner("-cd", ".", "-cn", "bomb", "model=stub", "tracking=none")
    assert done.code == 2
    assert "bomb.yaml: YAML aliases (*name) expand to more than 100,000 values" in done.err
    assert "Traceback" not in done.err


HOSTILE: dict[str, tuple[str, Code, str]] = {
    "deep list": (f"seed: {'[' * 5000}{']' * 5000}\n", "too_large", ", line 1, column 38"),
    "deep mapping": ("seed: " + "{a: " * 5000 + "}" * 5000, "too_large", ", line 1, column 131"),
    "deep block": ("".join(" " * level + "a:\n" for level in range(900)), "too_large", ", line 33, column 33"),
    "deep dashes": ("seed:\n" + "- " * 900 + "x\n", "too_large", ", line 2, column 63"),
    "less deep than the stack": (f"seed: {'[' * 300}{']' * 300}\n", "too_large", ", line 1, column 38"),
    "code": ('a: 1\nseed: !!python/object/apply:os.mkdir ["mark"]\n', "refused", ", line 2, column 7"),
    "a tag of nobody": ("seed: !mine 3\n", "refused", ", line 1, column 7"),
    "torn": ("seed: [1, 2\n", "damaged", ", line 2, column 1"),
    "a tab": ("seed:\n\t- 1\n", "damaged", ", line 2, column 1"),
    "a control character": ("seed: \x07\n", "damaged", ""),
}  # fmt: skip


@pytest.mark.sampled(9)
@pytest.mark.parametrize("case", HOSTILE)
def test_what_cannot_be_loaded_is_one_message_with_its_place(tmp_path: Path, case: str) -> None:
    text, code, place = HOSTILE[case]
    (tmp_path / "x.yaml").write_text(text)
    with (
        raises(ConfigError, code, f"{tmp_path / 'x.yaml'}{place}") as refused,
        guard_yaml_loading(tmp_path / "x.yaml"),
    ):
        OmegaConf.load(tmp_path / "x.yaml")
    assert len(str(refused.value)) < 500 + len(str(tmp_path))


def test_bytes_that_are_no_text_are_one_message(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"seed: \xff\xfe\n")
    with raises(ConfigError, "damaged", str(tmp_path / "x.yaml")), guard_yaml_loading(tmp_path / "x.yaml"):
        OmegaConf.load(tmp_path / "x.yaml")


def test_a_file_as_deep_as_is_read_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(f"seed: {'[' * (MAX_DEPTH - 1)}1{']' * (MAX_DEPTH - 1)}\n")
    with guard_yaml_loading(tmp_path / "x.yaml"):
        assert "seed" in OmegaConf.load(tmp_path / "x.yaml")


@pytest.mark.sampled(1)
@pytest.mark.parametrize("case", ["deep list", "code"])
def test_a_study_that_cannot_be_loaded_ends_in_one_message(
    runner: Callable[..., Any], tmp_path: Path, case: str
) -> None:
    text, _, place = HOSTILE[case]
    (tmp_path / "bad.yaml").write_text(text)
    done = runner("-cd", ".", "-cn", "bad", "model=stub", "tracking=none")
    assert done.code == 2, done.err
    assert "bad.yaml, line" in done.err
    assert f"bad.yaml{place}: " in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "mark").exists()


@pytest.mark.thorough
def test_files_that_ship_are_read_quickly_as_omegaconf_reads_them() -> None:
    files = [file for folder in (CONF, *find_builtin_conf_folders()) for file in folder.rglob("*.yaml")]
    assert len(files) > 80
    for file in files:
        assert yaml.load(file.read_text(), Loader=get_fast_yaml_loader()) == OmegaConf.to_container(
            OmegaConf.load(file)
        ), file
