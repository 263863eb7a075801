"""task=tools with a server that offers no functions."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from runner.config.root import RunnerConfig
from runner.options.remote.keys import ApiConfig
from runner.tasks.tools import task as tools
from runner.tasks.tools.keys import OfferMethod, ToolsConfig
from runner_base.errors import ConfigError

Make = Callable[..., RunnerConfig]


def test_a_model_that_cannot_see_functions_is_refused(make_config: Make) -> None:
    model = ApiConfig(name="m", base_url="http://127.0.0.1:9/v1")
    with pytest.raises(
        ConfigError, match="functions in the chat template, which this engine does not support"
    ):
        tools.prepare(make_config(model=model, task=ToolsConfig()))
    assert tools.prepare(make_config(model=model, task=ToolsConfig(tool_placement=OfferMethod.system))).cases
