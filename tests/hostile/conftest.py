"""The fixture `arena`, and `run_job`, which runs a job in this process."""

from __future__ import annotations

import warnings
from contextlib import chdir
from pathlib import Path

import pytest
from arena import GSM8K, Arena, Run, Start

from runner.config.choices import CONF
from runner.config.compose import composer_of
from runner.config.hydra import to_config, without_hydra
from runner.run import run


@pytest.fixture(scope="module")
def run_job(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a function that composes and runs one job; it runs one here, so that all libraries are imported."""

    def call(arguments: list[str]) -> None:
        with chdir(CONF):  # the combinations of choices are kept for each working folder
            composed = composer_of().compose([*arguments, "tracking=none"])
        record = run(to_config(*without_hydra(composed)))
        if record.error:
            raise SystemExit(record.error)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warm = f"output_dir={tmp_path_factory.mktemp('warm')}"
        call(["model=embedded", "lora=pth", "lora.path=embedded", *GSM8K, warm])
        call(["model=embedded", "lora=peft", "lora.path=embedded", *GSM8K, warm])
    return call


@pytest.fixture
def arena(tmp_path: Path, run_job: Run, runner: Start, monkeypatch: pytest.MonkeyPatch) -> Arena:
    made = Arena(tmp_path, run_job, runner)
    monkeypatch.chdir(made.folder)
    return made
