"""task=likelihood where a server answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from likely import PAIRS, jsonl

from runner.config.root import RunnerConfig
from runner.options.remote.keys import HybridConfig, StudentConfig, TeacherConfig
from runner.tasks.likelihood import task as likelihood
from runner.tasks.likelihood.keys import LikelihoodConfig
from runner_base.dtypes import Dtype
from runner_base.errors import ConfigError
from runner_engine.settings.model import LocalModelConfig

Make = Callable[..., RunnerConfig]


def test_a_model_that_gives_no_probabilities_is_refused_before_anything_is_asked(make_config: Make) -> None:
    teacher = TeacherConfig(name="x", base_url="http://127.0.0.1:1/v1")
    model = HybridConfig(StudentConfig(name="x", stub=True), teacher)
    with pytest.raises(ConfigError, match="task=likelihood needs log-probabilities of a continuation"):
        likelihood.prepare(make_config(model=model, task=LikelihoodConfig()))


def test_a_reference_on_a_server_has_no_whole_distributions(
    make_config: Make, saved_family: Callable[..., Path], tmp_path: Path
) -> None:
    data, reference = (
        jsonl(tmp_path / "pairs.jsonl", PAIRS),
        "model=api model.name=x model.base_url=http://127.0.0.1:1/v1",
    )
    model = LocalModelConfig(name=str(saved_family("llama", seed=0)), device="cpu", dtype=Dtype.float32)
    config = make_config(model=model, task=LikelihoodConfig(data=data, exact=True, reference=reference))
    with pytest.raises(
        ConfigError, match="task.reference=model=api .* with task.exact=true needs whole distributions"
    ):
        likelihood.prepare(config)
