"""What a local model needs is imported before it is loaded: no signal comes amid an import, nor
counts one as memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tools import embedded_gguf

PROGRAM = """
import sys
from runner.config.resolved import resolve
from runner.engines.kinds.local import KIND
from runner.library.load import configure
groups = dict.fromkeys(("lora", "rope", "generation"))
config = configure(sys.argv[1], groups | {"quantization": sys.argv[2]}, {"device": "cpu"}, 0)
KIND.import_libraries(resolve(config))
print("transformers.models.llama.modeling_llama" in sys.modules)
before = len(sys.modules)
KIND.open_engine(resolve(config)).load()
print(len(sys.modules) - before)
"""


@pytest.mark.sampled(1)
@pytest.mark.slow
@pytest.mark.parametrize("is_gguf", [True, False])
def test_the_models_own_class_is_imported_before_the_load(is_gguf: bool, tmp_path: Path) -> None:
    name = str(embedded_gguf.write(tmp_path / "model.gguf", "Q8_0")) if is_gguf else "embedded"
    command = [sys.executable, "-c", PROGRAM, name, "gguf" if is_gguf else "none"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    is_imported, imported_later = done.stdout.split()
    assert is_imported == "True"
    assert int(imported_later) < 60, "small modules of our own and of the standard library"
