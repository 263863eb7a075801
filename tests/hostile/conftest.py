"""The fixture `arena`, and `run_job`, which runs a job in this process."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from arena import GSM8K, Arena, Run, Start
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from runner.config.choices import CONF
from runner.config.hydra import register, to_config
from runner.run import run


@pytest.fixture(scope="module")
def run_job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Return a function that composes and runs one job; run once here, so that all libraries are in memory."""
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):

        @cache  # most commands come again with another file
        def composed(*arguments: str) -> DictConfig:
            return compose("config", [*arguments])

        def call(arguments: list[str]) -> None:
            record = run(to_config(composed(*arguments, "tracking=none")))
            if record.error:
                raise SystemExit(record.error)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            there = f"output_dir={tmp_path_factory.mktemp('warm')}"
            call(["model=embedded", "lora=pth", "lora.path=embedded", *GSM8K, there])
            call(["model=embedded", "lora=peft", "lora.path=embedded", *GSM8K, there])
        yield call


@pytest.fixture
def arena(tmp_path: Path, run_job: Run, runner: Start, monkeypatch: pytest.MonkeyPatch) -> Arena:
    made = Arena(tmp_path, run_job, runner)
    monkeypatch.chdir(made.folder)
    return made
