"""What a local model needs is imported before it is loaded: no signal comes amid an import, nor
counts one as memory. What cannot work is refused before."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from raising import raises

from runner.config.resolved import resolve_job
from runner.config.root import RunnerConfig
from runner.engines.kinds.local import KIND
from runner_base.errors import ConfigError
from runner_engine.settings.model import LocalModelConfig
from runner_engine.settings.rope import RopeLinearConfig, RopeYarnConfig
from tools import embedded_gguf

PROGRAM = """
import sys
from runner.config.resolved import resolve_job
from runner.engines.kinds.local import KIND
from runner.library.load import build_load_config
groups = dict.fromkeys(("lora", "rope", "generation"))
config = build_load_config(sys.argv[1], groups | {"quantization": sys.argv[2]}, {"device": "cpu"}, 0)
KIND.import_libraries(resolve_job(config))
print("transformers.models.llama.modeling_llama" in sys.modules)
before = len(sys.modules)
KIND.open_engine(resolve_job(config)).load()
print(len(sys.modules) - before)
print("torch._dynamo" in sys.modules)
"""


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("is_gguf", [True, False])
def test_the_models_own_class_is_imported_before_the_load(is_gguf: bool, tmp_path: Path) -> None:
    name = str(embedded_gguf.write(tmp_path / "model.gguf", "Q8_0")) if is_gguf else "embedded"
    command = [sys.executable, "-c", PROGRAM, name, "gguf" if is_gguf else "none"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    is_imported, imported_later, has_compiler = done.stdout.split()
    assert is_imported == "True"
    assert int(imported_later) < 60, "small modules of our own and of the standard library"
    assert has_compiler == str(not is_gguf), "only transformers' own loader needs torch's compiler"


BEFORE_IMPORTS = """
import sys
import runner.run
from runner.config.resolved import resolve_job
from runner.engines.kinds.local import KIND
from runner.library.load import build_load_config
groups = dict.fromkeys(("lora", "rope", "generation"))
resolved = resolve_job(build_load_config(sys.argv[1], groups | {"quantization": "gguf"}, {"device": "cpu"}, 0))
KIND.check_job(resolved)
KIND.predict_resources(resolved)
print(len(resolved.model.files.settings) > 3, "numpy" in sys.modules, len(list(__import__("os").scandir("/proc/self/task"))))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_file_is_read_without_threads_so_that_the_process_of_mlflow_can_be_forked(tmp_path: Path) -> None:
    name = str(embedded_gguf.write(tmp_path / "model.gguf", "Q8_0"))
    done = subprocess.run(
        [sys.executable, "-c", BEFORE_IMPORTS, name], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True", "False", "1"], "numpy's library starts a thread for each core"


def test_only_a_small_model_on_a_cpu_loads_quickly(
    make_config: Callable[..., RunnerConfig], saved_family: Callable[..., Path]
) -> None:
    folder = saved_family("llama", num_hidden_layers=2)

    def loads_quickly(**keys: object) -> bool:
        model = LocalModelConfig(str(folder), **{"device": "cpu", **keys})  # type: ignore[arg-type]
        return KIND.loads_quickly(resolve_job(make_config(model=model)))

    assert loads_quickly()
    drawn = LocalModelConfig("smollm2_135m", shape="smollm2_135m", random_weights=True, device="cpu")
    assert not KIND.loads_quickly(resolve_job(make_config(model=drawn)))
    weights = next(folder.glob("*.safetensors"))
    os.truncate(weights, 2 << 30)  # no blocks on the disk
    assert not loads_quickly()


def test_the_kind_says_what_a_setting_is_made_for(
    make_config: Callable[..., RunnerConfig], saved_family: Callable[..., Path]
) -> None:
    folder = saved_family("llama", num_hidden_layers=2, max_position_embeddings=64)
    model, rope = LocalModelConfig(str(folder), device="cpu"), RopeLinearConfig(factor=3, beyond_trained=True)
    resolved = resolve_job(make_config(model=model, rope=rope))
    assert KIND.positions(resolved).made_for == 3 * 64
    assert KIND.positions(resolved).room == float("inf")


def test_a_plan_refuses_and_notes_it(
    make_config: Callable[..., RunnerConfig], saved_family: Callable[..., Path]
) -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 10000.0}
    folder = saved_family("llama", max_position_embeddings=64, rope_parameters=yarn)
    model = LocalModelConfig(name=str(folder), device="cpu")
    resolved = resolve_job(make_config(model=model, rope=RopeYarnConfig(factor=8)))
    with raises(ConfigError, "too_large", "rope.factor"):
        KIND.check_job(resolved)
    notes = KIND.check_job(resolve_job(make_config(model=model, rope=RopeYarnConfig(factor=2))))
    assert "rope=yarn with factor 2 replaces the model's own yarn, factor 4 of 16 positions" in notes
