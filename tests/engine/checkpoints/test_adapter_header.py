"""An adapter for another model is refused by headers alone, before torch is imported; processes
start cold."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from opening import make_spec
from raising import raises
from safetensors.numpy import load_file, save_file

from runner_base.errors import Code, ConfigError
from runner_engine.checkpoints import adapter_shapes
from runner_engine.checkpoints.resolved_model import resolve_model
from runner_engine.embedded import MODEL_DIR
from runner_engine.settings.lora import PeftConfig
from runner_engine.settings.model import LocalModelConfig

ADAPTER = MODEL_DIR.parent / "lora_team"


def changed(to: Path, rename: str = "", cut: int = 0) -> Path:
    """Copy the adapter that ships, with its modules renamed or A made for fewer inputs."""
    shutil.copytree(ADAPTER, to)
    weights = load_file(to / "adapter_model.safetensors")
    save_file(
        {
            key.replace("_proj", rename or "_proj"): w[:, : w.shape[1] - cut].copy() if "lora_A" in key else w
            for key, w in weights.items()
        },
        to / "adapter_model.safetensors",
    )
    return to


@pytest.mark.thorough
@pytest.mark.parametrize(("changes", "code"), [({"rename": "_other"}, "not_found"), ({"cut": 1}, "mismatch")])
def test_a_wrong_adapter_is_refused_before_torch_is_imported(
    tmp_path: Path, changes: dict[str, Any], code: Code
) -> None:
    folder = changed(tmp_path / "lora", **changes)
    command = [
        sys.executable,
        "-X",
        "importtime",
        "-m",
        "runner",
        "lora=peft",
        f"lora.path={folder}",
        "task.limit=2",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    err = done.stderr
    assert done.returncode == 2
    assert f"error: lora.path={folder} does not fit model.name=embedded: " in err
    lora = PeftConfig(path=str(folder))
    spec = make_spec(model=LocalModelConfig(name="embedded"), lora=lora)
    with raises(ConfigError, code, f"lora.path={folder} does not fit model.name=embedded"):
        adapter_shapes.check_adapter_shapes(resolve_model(spec).files)
    assert not [line for line in err.splitlines() if line.endswith("| torch")]
    assert not list(tmp_path.glob("outputs/jobs/*/samples.jsonl"))


def test_the_adapter_of_the_model_fits(tmp_path: Path) -> None:
    lora = PeftConfig(path=str(changed(tmp_path / "lora")))
    assert json.loads((tmp_path / "lora" / "adapter_config.json").read_text())["peft_type"] == "LORA"
    adapter_shapes.check_adapter_shapes(
        resolve_model(make_spec(model=LocalModelConfig(name="embedded"), lora=lora)).files
    )
