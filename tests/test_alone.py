"""The engine and the comparison stand alone: they are imported where the libraries of the others
cannot be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.thorough
@pytest.mark.slow
def test_engine_needs_neither_hydra_nor_mlflow_nor_bitsandbytes() -> None:
    program = """
import sys
for name in ("runner", "runner_compare", "hydra", "omegaconf", "mlflow", "bitsandbytes", "peft", "datasets"):
    sys.modules[name] = None  # an import of it fails
import runner_engine.local.engine
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_comparison_and_its_tests_need_nothing_of_the_runner() -> None:
    """They are imported where none of these can be; tests/compare/test_wheel.py installs the
    comparison alone."""
    program = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {("torch", "transformers", "mlflow", "hydra", "omegaconf", "bitsandbytes", "peft")!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
import importlib, pkgutil, pytest, runner_compare
for module in pkgutil.walk_packages(runner_compare.__path__, "runner_compare."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
sys.exit(pytest.main(["--collect-only", "-q", "tests/compare"]))
"""
    # one of these plug-ins is Hydra's
    variables = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
