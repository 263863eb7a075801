"""Data sets by name: precedence of keys, where their files are searched, and errors about bad
ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra.types import RunMode
from omegaconf import OmegaConf
from raising import raises

from runner.config import data_sets
from runner.config.choices import CONF, find_choice_file
from runner.config.compose import Composer, compose_job, create_composer
from runner.config.extractors import GoldKind
from runner.config.hydra import split_job_config_and_choices, to_runner_config
from runner.config.runner_hydra import create_hydra
from runner.config.tasks import TASKS
from runner.config.wording import PromptStyle
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner_base.errors import Code, ConfigError

SHIPPED = sorted(file.stem for file in (CONF / "dataset").glob("*.yaml"))
QUIZ = """
data: org/quiz
subset: hard
split: validation
question_key: stem
answer_key: key
choices_key: options
prompt: text
shots: 2
shots_data: ./shots.jsonl
extractor: flexible
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "mine" / "dataset").mkdir(parents=True)
    (tmp_path / "mine" / "dataset" / "quiz.yaml").write_text(QUIZ)
    return tmp_path / "mine"


def task(*overrides: str, folder: Path | None = None) -> Any:
    return to_runner_config(
        *compose_job(overrides, config_folder=None if folder is None else str(folder))
    ).task


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_file_says_what_it_is_and_composes(name: str) -> None:
    file = CONF / "dataset" / f"{name}.yaml"
    assert file.read_text().startswith("# ")
    content: Any = OmegaConf.to_container(OmegaConf.load(file))
    composed = task(f"task.data={name}")
    if content["data"].startswith("."):  # a file beside it
        content["data"] = str(file.parent / content["data"])
    assert {key: getattr(composed, key) for key in content} == content


def test_the_shipped_ones_are_listed() -> None:
    assert data_sets.list_data_set_names() == SHIPPED
    assert {"embedded", "gsm8k"} <= {*SHIPPED}


def test_a_name_is_what_its_file_says() -> None:
    assert task() == Gsm8kConfig(cluster="template")
    assert task("task.data=embedded_hard5") == task("task.split=hard5")
    assert task("task=likelihood", "task.data=gsm8k").data == "openai/gsm8k"
    assert task("task=likelihood", "task.data=embedded_hard").split == "hard"


@pytest.mark.parametrize("data", ["embedded", "embedded_hard", "embedded_hard5"])
def test_verdicts_on_embedded_problems_count_templates(data: str) -> None:
    data = f"task.data={data}"
    assert task(data).cluster == "template"
    assert task(data, "task.cluster=null").cluster is None
    assert task(data, "task=likelihood").cluster is None
    assert task(data, "task=likelihood", "task.cluster=template").cluster == "template"
    assert task(data, "task.early_stop_vs='seed=1'").cluster is None
    with raises(ConfigError, "conflict", "task.cluster"):
        task(data, "task.early_stop_vs='seed=1'", "task.cluster=template")
    assert task("task.split=hard").cluster == "template"
    assert task("task.data=gsm8k").cluster is None


@pytest.mark.thorough
def test_a_file_of_the_users_own_names_clusters_for_every_task(mine: Path) -> None:
    (mine / "dataset" / "stories.yaml").write_text("data: org/stories\ncluster: story\n")
    for name in ("gsm8k", "likelihood"):
        assert task(f"task={name}", "task.data=stories", folder=mine).cluster == "story"
    with raises(ConfigError, "conflict", "task.cluster"):
        task("task.data=stories", "task.early_stop_vs='seed=1'", folder=mine)


def test_keys_that_a_file_may_hold_are_keys_of_tasks() -> None:
    looked_up = set()
    for name in TASKS:
        content: Any = OmegaConf.to_container(OmegaConf.load(find_choice_file("task", name)), resolve=False)
        looked_up |= {key for key, value in content.items() if value == f"${{data_set:{key}}}"}
    assert {*data_sets.KEYS} == {"data"} | looked_up


@pytest.mark.thorough
def test_a_file_of_the_users_own_and_who_wins(mine: Path) -> None:
    quiz = task("task.data=quiz", folder=mine)
    assert (quiz.data, quiz.subset, quiz.split, quiz.choices_key) == (
        "org/quiz",
        "hard",
        "validation",
        "options",
    )
    assert (quiz.prompt, quiz.shots, quiz.extractor.value) == (PromptStyle.text, 2, "flexible")
    assert quiz.shots_data == str(mine / "dataset" / "shots.jsonl")  # relative to the file
    assert quiz.instruction.endswith("and the letter.")
    assert quiz.limit == 200
    own = task(
        "task.data=quiz",
        "task.split=test",
        "task.prompt=chat",
        "task.shots=0",
        "task.subset=null",
        folder=mine,
    )
    assert (own.split, own.prompt, own.shots, own.subset) == ("test", PromptStyle.chat, 0, None)
    assert own.answer_key == "key"
    (mine / "study.yaml").write_text("defaults: [config, _self_]\ntask: {data: quiz, split: test}\n")
    composed = create_composer("study", str(mine)).compose([])
    # a study's keys win as well
    assert (composed.task.split, composed.task.subset) == ("test", "hard")
    by_search_path = task("task.data=quiz", f"hydra.searchpath=[file://{mine}]")
    assert by_search_path == quiz


@pytest.mark.thorough
def test_each_job_of_a_grid_has_its_own(mine: Path) -> None:
    hydra = create_hydra(str(mine))
    master = hydra.compose_config("config", [], RunMode.MULTIRUN, with_log_configuration=False)
    composer = Composer(hydra.config_loader, "config", master)
    tasks: list[Any] = [
        to_runner_config(*split_job_config_and_choices(composer.compose([f"task.data={name}"]))).task
        for name in ("quiz", "embedded_hard")
    ]
    assert [(one.data, one.split, one.answer_type) for one in tasks] == [
        ("org/quiz", "validation", GoldKind.number),
        ("embedded", "hard", GoldKind.number),
    ]
    assert [one.has_letters for one in tasks] == [True, False]


def test_a_file_or_folder_wins_over_a_name(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mine)
    (mine / "gsm8k").mkdir()
    (mine / "embedded").mkdir()
    assert task("task.data=gsm8k").data == "gsm8k"
    assert task("task.data=./gsm8k").subset is None
    assert task("task.data=embedded") == Gsm8kConfig(cluster="template")


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("text", "code", "key"),
    [
        ("data: x\nsplt: test\n", "unknown_choice", ""),
        ("split: test\n", "missing", ""),
        ("[1]", "missing", ""),
        ("data: x\nprompt: chatt\n", "unknown_choice", ""),
        ("data: x\nshots: many\n", "bad_value", ""),
        ("data: [", "damaged", ", line 1, column 8"),
    ],
)
def test_bad_files_are_named(mine: Path, text: str, code: Code, key: str) -> None:
    (mine / "dataset" / "quiz.yaml").write_text(text)
    with raises(ConfigError, code, f"{mine}/dataset/quiz.yaml{key}"):
        task("task.data=quiz", folder=mine)


def test_a_name_that_there_is_not(mine: Path) -> None:
    with raises(ConfigError, "unknown_choice", "task.data") as caught:
        task("task.data=quizz", folder=mine)
    assert caught.value.value == "quizz"
    with raises(ConfigError, "unknown_choice", "task.data"):
        task("task.data=quiz")
