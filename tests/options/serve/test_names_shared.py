"""What the server shares with other parts: the parameters of a sampling, and the label of a mix in
its name."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from runner.config.root import RunnerConfig
from runner.options.serve.bodies import ChatBody, GenerateBody, TextBody
from runner.options.serve.keys import ServeConfig
from runner.options.serve.model_names import make_served_model_name
from runner.options.serve.render.start_message import format_start_message
from runner_engine.quantization.bitsandbytes import Nf4Config
from runner_engine.settings.model import LocalConfig
from runner_engine.settings.sampling import PARAMETERS


@pytest.mark.parametrize("body", [ChatBody, TextBody, GenerateBody])
def test_a_body_has_all_parameters(body: type[ChatBody | TextBody | GenerateBody]) -> None:
    assert {*PARAMETERS} < {*body.model_fields}


def test_the_greeting_says_where_the_server_listens() -> None:
    assert (
        format_start_message("m", (), "127.0.0.1", 80, None)
        == "serving m at http://127.0.0.1:80 (Ctrl-C stops the server)"
    )
    with_all = "serving m with a, b at http://[::1]:81; clients need the key in KEY (Ctrl-C stops the server)"
    assert format_start_message("m", ("a", "b"), "::1", 81, "KEY") == with_all


def test_the_name_tells_a_mix(make_config: Callable[..., RunnerConfig]) -> None:
    mix = Nf4Config(skip=["layers.0", "lm_head"], overrides={"down_proj": {"name": "int8", "threshold": 0}})
    config = make_config(model=LocalConfig(name="models/tiny"), quantization=mix)
    assert make_served_model_name(config, ServeConfig()) == "models/tiny+nf4-mixed"
