"""Two adapters of one name are told apart where people read them, and each keeps what it was
called."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from runner.config.root import RunnerConfig
from runner.records.adapter_names import make_unique_adapter_name
from runner.records.run_names import create_run_name
from runner_engine.settings.lora import LoraConfig, PeftConfig
from runner_engine.settings.model import LocalConfig


def adapter(folder: Path, rank: int, alpha: int) -> PeftConfig:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank, "lora_alpha": alpha}))
    return PeftConfig(path=str(folder))


def test_rank_and_alpha_tell_adapters_of_one_name_apart(
    make_config: Callable[..., RunnerConfig], tmp_path: Path
) -> None:
    model = LocalConfig(name="/models/smol")
    loras = [
        adapter(tmp_path / "one" / "polite", 8, 16),
        adapter(tmp_path / "two" / "polite" / "final", 16, 32),
        adapter(tmp_path / "three" / "polite", 16, 32),
    ]
    configs = [make_config(model=model, lora=lora) for lora in loras]
    called = [make_unique_adapter_name(config) for config in configs]
    assert called == ["polite", "polite (rank 16, alpha 32)", "polite (rank 16, alpha 32) #2"]
    assert [make_unique_adapter_name(config) for config in reversed(configs)] == called[::-1], (
        "they keep their names"
    )
    names = [create_run_name(config, name) for config, name in zip(configs, called, strict=True)]
    assert len({*names}) == 3
    assert "lora=polite (rank 16, alpha 32)" in names[1]


def test_what_ships_and_what_is_on_a_hub_has_a_name_of_its_own(
    make_config: Callable[..., RunnerConfig], tmp_path: Path
) -> None:
    names = {
        "": LoraConfig(), "embedded_recall": PeftConfig(path="embedded_recall"), "org/polite": PeftConfig(path="org/polite"),
        "org/polite@v2": PeftConfig(path="org/polite", revision="v2"),
    }  # fmt: skip
    for name, lora in names.items():
        assert make_unique_adapter_name(make_config(lora=lora)) == name
    assert not (tmp_path / "outputs" / ".adapters.json").exists()
