"""A signal while a job is composed takes effect when its config is whole."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from hydra._internal.hydra import Hydra
from hydra.types import RunMode

from runner.config.runner_hydra import create_hydra
from runner_base import signals


def test_a_signal_waits_until_the_config_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = []

    def interrupted_amid(*arguments: Any, **keys: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        whole.append(own(*arguments, **keys))
        return whole[0]

    own = Hydra.compose_config
    monkeypatch.setattr(Hydra, "compose_config", interrupted_amid)
    with signals.install_handlers_temporarily(), pytest.raises(KeyboardInterrupt):
        create_hydra().compose_config(
            "config", ["task.limit=8"], run_mode=RunMode.RUN, with_log_configuration=False
        )
    assert whole[0].task.limit == 8
