"""Log-probabilities from a server: from ours the same as from our engine; refused if a server has
none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from api_standin import Api
from raising import raises

from runner.config.root import RunnerConfig
from runner.options.remote.keys import ApiConfig
from runner.run import run
from runner.tasks.likelihood.keys import LikelihoodConfig
from runner_base.errors import ConfigError

Make = Callable[..., RunnerConfig]
TEXT = "Tom has 8 pens. Tom buys 5 more. Überall sind 3 Äpfel, „drei“ 😀. " * 8


@pytest.mark.parametrize("data", ["embedded", "text.txt"])
def test_a_server_without_log_probabilities_is_refused_with_one_message(
    make_config: Make, tmp_path: Path, data: str
) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    data = data if data == "embedded" else str(tmp_path / data)
    with Api() as api:
        config = make_config(
            model=ApiConfig(name="tiny", base_url=api.url), task=LikelihoodConfig(data=data, limit=9)
        )
        with raises(ConfigError, "unsupported") as error:
            run(config)
    assert str(error.value).startswith(f"model.base_url={api.url} ")
    assert api.seen == []
