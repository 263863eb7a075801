"""A program that uses Hydra, OmegaConf and MLflow for itself finds them unchanged after it has used
the runner."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from runner.config.hydra_versions import IS_HYDRA_1_4

ROOT = Path(__file__).resolve().parents[2]
RESOLVERS = "omegaconf.basecontainer.BaseContainer._resolvers"
OF_EACH_HYDRA = {"hydra", "now", "python_version"}  # every Hydra object registers these again
OF_EACH_HYDRA |= {"hydra_deprecated_override_dirname", "hydra_override_dirname"} if IS_HYDRA_1_4 else set()
# ${data_set:KEY} and ${variable:NAME} of conf/: OmegaConf has one table for all
OURS = {"battery_questions", "early_stop_from_gate", "data_set", "variable"}
# Hydra registers it at its first use
OF_FIRST_USE = {"hydra.instantiate_override"} if IS_HYDRA_1_4 else set()
PATCHES = (
    "from omegaconf import OmegaConf; OmegaConf.load = staticmethod(lambda file, load=OmegaConf.load: load(file))",
    "from hydra.core.config_store import ConfigStore; ConfigStore.__deepcopy__ = lambda self, memo: self",
    "from hydra.experimental.callback import Callback; Callback.on_run_start = print",
    "ConfigStore.instance().store(group='hydra/launcher', name='workers', node={})",
)


def child(*arguments: str, given: str = "") -> Any:
    command = [sys.executable, "-m", "tests.support.attributes", *arguments]
    done = subprocess.run(command, cwd=ROOT, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@cache
def without_runner(modules: tuple[str, ...]) -> Any:
    """Return what modules hold in a process that has not imported the runner."""
    return child("--describe", given=json.dumps(modules))


@pytest.mark.thorough
@pytest.mark.slow
def test_no_attribute_of_them_is_changed(tmp_path: Path) -> None:
    found = child(str(tmp_path))
    assert found["changed"] == [f"{RESOLVERS}[{name!r}]" for name in sorted(OF_EACH_HYDRA)]
    assert found["added"] == [f"{RESOLVERS}[{name!r}]" for name in sorted(OURS | OF_FIRST_USE)]
    assert "hydra.experimental.callback" in found["modules"], "imported for the runner alone"
    assert found["imported"] == without_runner((*found["modules"],))
    is_same, before, after = found["same"]
    assert is_same, (before, after)


@pytest.mark.thorough
@pytest.mark.slow
def test_a_patch_would_be_found(tmp_path: Path) -> None:
    found = child(str(tmp_path), *PATCHES)
    assert "omegaconf.omegaconf.OmegaConf.load" in found["changed"]
    assert "hydra.core.config_store.ConfigStore.__deepcopy__" in found["added"]
    alone = without_runner((*found["modules"],))
    differing = {key for key, what in found["imported"].items() if alone.get(key) != what}
    assert differing == {"hydra.experimental.callback.Callback.on_run_start"}
    assert not found["same"][0], "what is stored for everybody"


@pytest.mark.thorough
@pytest.mark.parametrize("module", ["runner", "hydra_plugins.runner", "runner.__main__"])
def test_nor_by_an_import(module: str, tmp_path: Path) -> None:
    program = (
        "import sys, hydra, omegaconf, hydra._internal.hydra, hydra.core.plugins; from pathlib import Path; "
        f"from tests.support.attributes import *; use_hydra(Path({str(tmp_path)!r})); before = attributes(modules()); "
        f"import {module}; after = attributes(modules()); "
        "print(sorted(key for key, value in before.items() if after[key] is not value))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


@pytest.mark.thorough
def test_other_programs_import_nothing_of_the_runner() -> None:
    """Hydra reads the file of our plugins in every program that uses it."""
    program = (
        "import sys, hydra_plugins.runner; print([name for name in sys.modules if name.startswith('runner')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr
