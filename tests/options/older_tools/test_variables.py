"""The variables of older tools: what each becomes, and who wins: command line, environment, `.env`,
YAML."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from raising import raises

from runner.config.compose import create_composer
from runner.config.root import RunnerConfig
from runner.config.variables import read_variable_overrides
from runner.library.load import build_load_config
from runner.options.older_tools.variable_names import NAMES
from runner.options.older_tools.variable_translation import (
    ModelChoice,
    describe_model_choice,
    translate_variables_to_overrides,
)
from runner_base import environment
from runner_base.errors import ConfigError

pytestmark = pytest.mark.slow  # as a group: `make test-fast` leaves them out

OF_HYBRID = frozenset({"name", "student.name", "student.device", "student.stub", "teacher.base_url"})
KINDS = {
    "hybrid": ModelChoice("hybrid", OF_HYBRID),
    "api": ModelChoice("api", frozenset({"name", "base_url"}), False),
}


def look(choice: str | None) -> list[ModelChoice]:
    return [KINDS.get(choice or "") or describe_model_choice(create_composer(), choice)]


def becomes(asked: Any = None, own: Any = None, **environ: str) -> tuple[list[str], list[str]]:
    found = translate_variables_to_overrides(environ, asked or {}, lambda choice: look(choice or own))
    return found.overrides, found.lines


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    ("environ", "overrides"),
    [
        ({}, []),
        ({"STUDENT_LOAD_IN_4BIT": "", "UNRELATED": "1"}, []),
        ({"STUDENT_LOAD_IN_4BIT": "1"}, ["quantization=nf4"]),
        ({"STUDENT_LOAD_IN_4BIT": "0"}, ["quantization=none"]),
        ({"STUDENT_FORCE_CPU": "1"}, ["model.device=cpu"]),
        ({"STUDENT_FORCE_CPU": "0"}, ["model.device=auto"]),
        ({"FORCE_STUDENT_STUB": "1"}, ["model=stub"]),
        ({"FORCE_STUDENT_STUB": "0"}, []),
        (
            {"STUDENT_BASE_MODEL": "Qwen/Qwen1.5-1.8B-Chat"},
            ["model=auto", "model.name=Qwen/Qwen1.5-1.8B-Chat"],
        ),
        ({"STUDENT_LORA_DIR": "out/lora"}, ["lora=peft", "lora.path=out/lora"]),
        ({"STUDENT_LORA_DIR": "out/a.pth"}, ["lora=pth", "lora.path=out/a.pth"]),
        ({"STUDENT_MAX_NEW_TOKENS": "512"}, ["generation.max_new_tokens=512"]),
        (
            {"ENABLE_HYBRID": "1", "BASE_URL": "http://a/v1"},
            ["model=hybrid", "model.teacher.base_url=http://a/v1"],
        ),
        ({"ENABLE_HYBRID": "0", "BASE_URL": "http://a/v1"}, ["model=api", "model.base_url=http://a/v1"]),
        (
            {
                "ENABLE_HYBRID": "1",
                "STUDENT_BASE_MODEL": "x",
                "STUDENT_FORCE_CPU": "1",
                "STUDENT_LOAD_IN_4BIT": "1",
            },
            ["model=hybrid", "model.student.name=x", "quantization=nf4", "model.student.device=cpu"],
        ),
        ({"ENABLE_HYBRID": "1", "FORCE_STUDENT_STUB": "1"}, ["model=hybrid", "model.student.stub=true"]),
    ],
)
def test_what_each_becomes(environ: dict[str, str], overrides: list[str]) -> None:
    found, lines = becomes(**environ)
    assert found == overrides
    assert sorted(line.partition("=")[0] for line in lines) == sorted(
        k for k, v in environ.items() if v and k != "UNRELATED"
    )
    assert all("→" in line for line in lines)


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("asked", "own", "environ", "line"),
    [
        ({}, "stub", {"STUDENT_FORCE_CPU": "1"}, "STUDENT_FORCE_CPU=1: ignored, model=stub has no device"),
        ({}, "stub", {"STUDENT_LOAD_IN_4BIT": "1"}, "STUDENT_LOAD_IN_4BIT=1: ignored, model=stub loads no weights"),
        ({}, "api", {"STUDENT_LORA_DIR": "x"}, "STUDENT_LORA_DIR=x: ignored, model=api loads no weights"),
        ({}, None, {"BASE_URL": "http://me:key@host/v1"}, "BASE_URL=http://***@host/v1: ignored, model=embedded sends no requests to a server. Use model=api"),
        ({"quantization": "quantization=int8"}, None, {"STUDENT_LOAD_IN_4BIT": "1"}, "STUDENT_LOAD_IN_4BIT=1: ignored, quantization=int8 is set"),
        ({"model": "model=embedded"}, None, {"STUDENT_BASE_MODEL": "x"}, "STUDENT_BASE_MODEL=x: ignored, model=embedded is set"),
        ({"model.name": "model.name=y"}, None, {"STUDENT_BASE_MODEL": "x"}, "STUDENT_BASE_MODEL=x: ignored, model.name=y is set"),
        ({"model": "model=embedded"}, None, {"ENABLE_HYBRID": "1"}, "ENABLE_HYBRID=1: ignored, model=embedded is set"),
        ({"model.device": "model.device=cuda"}, None, {"STUDENT_FORCE_CPU": "1"}, "STUDENT_FORCE_CPU=1: ignored, model.device=cuda is set"),
        ({"lora": "lora=none"}, None, {"STUDENT_LORA_DIR": "x"}, "STUDENT_LORA_DIR=x: ignored, lora=none is set"),
    ],
)  # fmt: skip
def test_what_does_not_apply_is_said(
    asked: dict[str, str], own: str, environ: dict[str, str], line: str
) -> None:
    assert becomes(asked, own, **environ) == ([], [line])


def test_a_model_without_a_name_takes_the_variables_name() -> None:
    assert becomes({"model": "model=local"}, "local", STUDENT_BASE_MODEL="x")[0] == ["model.name=x"]
    found, lines = becomes(FORCE_STUDENT_STUB="1", STUDENT_BASE_MODEL="x", STUDENT_FORCE_CPU="1")
    assert found == ["model=stub"]
    assert [line.partition(": ")[2] for line in lines[1:]] == [
        "ignored, FORCE_STUDENT_STUB=1 replaces the student with the stub",
        "ignored, model=stub has no device",
    ]
    assert becomes(ENABLE_HYBRID="0", FORCE_STUDENT_STUB="1", STUDENT_BASE_MODEL="x")[0] == ["model=api"]
    assert becomes({"lora.path": "lora.path=y"}, STUDENT_LORA_DIR="x")[0] == ["lora=peft"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("STUDENT_LOAD_IN_4BIT", "true"),
        ("STUDENT_FORCE_CPU", "2"),
        ("ENABLE_HYBRID", "yes"),
        ("FORCE_STUDENT_STUB", "on"),
        ("STUDENT_MAX_NEW_TOKENS", "many"),
        ("STUDENT_MAX_NEW_TOKENS", "0"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_the_variable(name: str, value: str) -> None:
    with raises(ConfigError, "bad_value", name) as refused:
        becomes(**{name: value})
    assert refused.value.value == value


# ------------------------------------------------------------------------------------------- the
# command line


@pytest.mark.thorough
def test_command_line_beats_environment_beats_file_beats_yaml(
    tmp_path: Path, runner: Callable[..., Any]
) -> None:
    def tokens(*arguments: str, **environment: str) -> Any:
        done = runner("--cfg", "job", *arguments, **environment)
        assert done.code == 0, done.err
        return yaml.safe_load(done.out)["generation"]["max_new_tokens"], done.err

    assert tokens() == (256, "")  # the YAML
    (tmp_path / ".env").write_text("STUDENT_MAX_NEW_TOKENS=64\nAPI_KEY=sk-secret\nRUNNER_API_KEY=sk-other\n")
    assert tokens() == (64, "STUDENT_MAX_NEW_TOKENS=64 → generation.max_new_tokens=64\n")
    of_both = {"STUDENT_MAX_NEW_TOKENS": "32", "API_KEY": "sk-third"}
    assert tokens(**of_both) == (32, "STUDENT_MAX_NEW_TOKENS=32 → generation.max_new_tokens=32\n")
    said = "STUDENT_MAX_NEW_TOKENS=32: ignored, generation.max_new_tokens=16 is set\n"
    assert tokens("generation.max_new_tokens=16", **of_both) == (16, said)


@pytest.mark.thorough
def test_grids_and_studies_follow_the_variables(tmp_path: Path, runner: Callable[..., Any]) -> None:
    (tmp_path / "own.yaml").write_text(
        "defaults: [config, override model: stub, override tracking: none, _self_]\n"
        "generation: {max_new_tokens: 99}\ntask: {limit: 2}\n"
        "hydra: {mode: MULTIRUN, sweeper: {params: {seed: '1,2', quantization: 'none,int8'}}}\n"
    )
    (tmp_path / ".env").write_text("STUDENT_MAX_NEW_TOKENS=8\nSTUDENT_FORCE_CPU=1\nAPI_KEY=sk-secret\n")
    done = runner("-cd", ".", "-cn", "own", "quantization=none")
    assert done.code == 0, done.err
    assert "STUDENT_FORCE_CPU=1: ignored, model=stub has no device\n" in done.err
    configs = [*tmp_path.glob("outputs/jobs/*/config.yaml")]
    assert [yaml.safe_load(file.read_text())["generation"]["max_new_tokens"] for file in configs] == [8, 8]
    done = runner(
        "-m", "model=stub", "tracking=none", "task.limit=2", "seed=3,4", "generation.max_new_tokens=5"
    )
    assert "STUDENT_MAX_NEW_TOKENS=8: ignored, generation.max_new_tokens=5 is set\n" in done.err
    configs = [file for file in tmp_path.glob("outputs/jobs/*/config.yaml") if file not in configs]
    assert [yaml.safe_load(file.read_text())["generation"]["max_new_tokens"] for file in configs] == [5, 5]
    written = [
        file.read_text(errors="replace") for file in (tmp_path / "outputs").rglob("*") if file.is_file()
    ]
    assert not any("sk-secret" in text for text in [*written, done.out, done.err])


@pytest.mark.thorough
def test_the_environment_beats_a_studys_own_sweep(tmp_path: Path, runner: Callable[..., Any]) -> None:
    study = "defaults: [config, override tracking: none, _self_]\nhydra: {mode: MULTIRUN, sweeper: {params: {%s}}}\n"
    (tmp_path / "own.yaml").write_text(study % "quantization: 'none,int8', seed: '1,2'")
    (tmp_path / ".env").write_text("STUDENT_LOAD_IN_4BIT=1\n")
    done = runner("-cd", ".", "-cn", "own", "plan=quick")
    assert "2 jobs: 2 to do" in done.out
    (tmp_path / "own.yaml").write_text(study % "model: 'stub,embedded'")
    done = runner("-cd", ".", "-cn", "own", "plan=quick")
    assert "STUDENT_LOAD_IN_4BIT=1: ignored, model=stub loads no weights" in done.err
    assert "2 jobs: 2 to do" in done.out


def test_the_store_is_taken_from_the_file(tmp_path: Path, runner: Callable[..., Any]) -> None:
    (tmp_path / ".env").write_text(
        "MLFLOW_TRACKING_URI=sqlite:///elsewhere.db\nMLFLOW_EXPERIMENT_NAME=of_the_file\n"
    )
    shown = yaml.safe_load(runner("--cfg", "job").out)["tracking"]
    assert (shown["uri"], shown["experiment"]) == (
        "${variable:MLFLOW_TRACKING_URI,null}",
        "${variable:MLFLOW_EXPERIMENT_NAME,runner}",
    )
    shown = yaml.safe_load(runner("--cfg", "job", "--resolve").out)["tracking"]
    assert (shown["uri"], shown["experiment"]) == ("sqlite:///elsewhere.db", "of_the_file")


def test_mistakes_and_silence(tmp_path: Path, runner: Callable[..., Any]) -> None:
    (tmp_path / ".env").write_text("STUDENT_FORCE_CPU=yes\n")
    done = runner("model=stub")
    assert (done.code, done.err) == (2, "error: STUDENT_FORCE_CPU=yes: give 1 or 0, or unset the variable\n")
    for arguments in (
        ["--help"],
        ["--version"],
        ["-sc", "install=bash"],
    ):  # they run nothing, so nothing is said
        done = runner(*arguments)
        assert (done.code, done.err) == (0, "")


def test_a_file_of_variables_may_hold_each_of_them() -> None:
    assert set(NAMES) <= set(environment.NAMES)


def test_variables_do_not_win_over_a_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "STUDENT_LOAD_IN_4BIT": "0",
        "STUDENT_FORCE_CPU": "0",
        "STUDENT_MAX_NEW_TOKENS": "9",
    }.items():
        monkeypatch.setenv(name, value)
    limit = ["generation.max_new_tokens=9"]
    assert read_variable_overrides(["profile=low_memory"]) == limit
    assert read_variable_overrides([], "memory_profiles", "experiments") == limit
    assert read_variable_overrides(["profile=none"]) == ["quantization=none", "model.device=auto", *limit]


def configured(model: Any = None, **arguments: Any) -> RunnerConfig:
    groups = {group: arguments.pop(group, None) for group in ("quantization", "lora", "rope", "generation")}
    return build_load_config(model, groups, arguments)


def test_arguments_have_precedence_over_variables(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STUDENT_LOAD_IN_4BIT", "1")
    monkeypatch.setenv("STUDENT_BASE_MODEL", "some/model")
    monkeypatch.setenv("STUDENT_MAX_NEW_TOKENS", "9")
    config = configured(generation="sampling", quantization="none")
    assert (config.model.name, config.quantization.name) == ("some/model", "none")
    assert (config.generation.name, config.generation.max_new_tokens) == ("sampling", 9)
    assert capsys.readouterr().err.splitlines() == [
        "STUDENT_BASE_MODEL=some/model → model=auto model.name=some/model",
        "STUDENT_LOAD_IN_4BIT=1: ignored, quantization=none is set",
        "STUDENT_MAX_NEW_TOKENS=9 → generation.max_new_tokens=9",
    ]
    assert configured("other/model", generation={"max_new_tokens": 3}).model.name == "other/model"
