"""What the runner's Hydra does in another way than Hydra's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode

from runner.config.hydra_versions import IS_HYDRA_1_4
from runner.config.runner_hydra import create_hydra


@pytest.mark.thorough
def test_nothing_is_composed_to_see_a_mode_that_nobody_has_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    GlobalHydra.instance().clear()
    composed: list[str | None] = []
    compose = Hydra.compose_config

    def noted(self: Hydra, config_name: str | None, overrides: list[str], *rest: Any, **keys: Any) -> Any:
        composed.append(config_name)
        return compose(self, config_name, overrides, *rest, **keys)

    monkeypatch.setattr(Hydra, "compose_config", noted)
    ours = create_hydra()
    assert ours.get_mode("config", ["model=stub", "seed=1"]) is None
    assert composed == []
    assert compose(ours, "config", ["model=stub"], RunMode.RUN, False).hydra.mode is None, "so it was right"
    assert mode(ours, "config", "hydra.mode=MULTIRUN") is RunMode.MULTIRUN
    (tmp_path / "own.yaml").write_text("hydra: {mode: MULTIRUN}\n")
    assert mode(create_hydra(str(tmp_path)), "own") is RunMode.MULTIRUN
    assert IS_HYDRA_1_4 or composed == ["config", "own"], "Hydra 1.4 finds it without composing"


def mode(hydra: Hydra, config_name: str, *overrides: str) -> Any:
    """Return hydra.mode, as Hydra's command line asks for it."""
    parsed = (
        {"parsed_overrides": OverridesParser.create().parse_overrides([*overrides])} if IS_HYDRA_1_4 else {}
    )
    return hydra.get_mode(config_name, [*overrides], **parsed)
