"""Tab completion."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra._internal.core_plugins.bash_completion import BashCompletion
from hydra.plugins.completion_plugin import CompletionPlugin

import runner.config.hydra  # noqa: F401 - it registers the resolvers, as the program does
from runner.config.completion import add_value_completion
from runner.config.runner_hydra import create_hydra


@pytest.fixture(scope="module")
def plugin() -> CompletionPlugin:
    return add_value_completion(BashCompletion(create_hydra().config_loader))


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("model.trust_remote_code=", ["model.trust_remote_code=false", "model.trust_remote_code=true"]),
        ("print=", ["print=full", "print=json", "print=none", "print=table"]),
        ("-m quantization=none,nf", ["quantization=none,nf4"]),
        ("-m rope=native,linear,l", ["rope=native,linear,llama3"]),
        ("-m task.prompt=chat,", ["task.prompt=chat,lm_eval_5shot", "task.prompt=chat,text"]),
        ("-m quantization=none,nf4 lora=embedded_te", ["lora=embedded_team"]),
        (
            "-m lora=embedded,em",
            [f"lora=embedded,embedded_{it}" for it in ("pth", "recall", "team", "thinking")],
        ),
        ("task.data=g", [f"task.data={it}" for it in ("gpqa_diamond", "gsm8k", "gsm8k_platinum")]),
        (
            "-m task.data=embedded,embedded_hard,embedded_",
            ["task.data=embedded,embedded_hard,embedded_hard5"],
        ),
        ("data", []),
        ("task.limit=", ["task.limit=200"]),
        ("task.lim", ["task.limit="]),
        ("task.strategy=", []),  # another task's
        ("quantization=no_such_one task.prompt=", []),
        ("task.nam", []),
        ("quantization.", ["quantization.allow_partial=", "quantization.overrides=", "quantization.skip="]),
        ("task.prompt=[ch", []),
    ],
)
def test_what_is_offered(plugin: CompletionPlugin, line: str, offered: list[str]) -> None:
    assert plugin._query("config", line) == offered


@pytest.mark.thorough
def test_every_place_of_a_file_goes_on(
    plugin: CompletionPlugin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).touch()
    assert plugin._query("config", "-m task.data=./a") == ["task.data=./a.jsonl"]
    assert plugin._query("config", "-m task.data=./a.jsonl,./b") == ["task.data=./a.jsonl,./b.jsonl"]
