"""The engine by itself: the program of its page decodes a folder and a .gguf file where nothing
else can be imported."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_gguf import save_original, write
from transformers import LlamaForCausalLM

import runner_engine
from runner_engine.embedded import MODEL_DIR

PAGE = Path(runner_engine.__file__).with_name("README.md")
ABSENT = (
    "runner",
    "runner_compare",
    "hydra",
    "omegaconf",
    "mlflow",
    "bitsandbytes",
    "peft",
    "datasets",
    "pandas",
)
LINES = 10


def program() -> str:
    """Return the program of the page."""
    (text,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len([line for line in text.splitlines() if line]) <= LINES
    return str(text)


def decoded(name: Path, tmp_path: Path) -> tuple[str, str]:
    """Run the program in a process of its own; return its first line and what follows."""
    file = tmp_path / "program.py"
    file.write_text(
        f"import sys\nsys.modules |= dict.fromkeys({ABSENT!r})  # an import of them fails\n{program()}"
    )
    done = subprocess.run(
        [sys.executable, str(file), str(name)],
        cwd=PAGE.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    predicted, _, answer = done.stdout.partition("\n")
    return predicted, answer


@pytest.mark.thorough
@pytest.mark.slow
def test_a_folder_decodes_without_the_rest(tmp_path: Path) -> None:
    predicted, answer = decoded(MODEL_DIR, tmp_path)
    assert predicted.startswith("Footprint(weights={'linear': 5898240")
    assert answer.strip()


@pytest.mark.thorough
@pytest.mark.slow
def test_a_gguf_file_decodes_without_the_rest(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    model = LlamaForCausalLM.from_pretrained(save_original(tmp_path / "model"))
    predicted, _ = decoded(write(tmp_path / "tiny.gguf", model, "Q8_0"), tmp_path)
    assert predicted.startswith("Footprint(weights={'linear': ")


def test_the_door_says_what_each_name_is() -> None:
    tree = ast.parse(Path(runner_engine.__file__).read_text())
    of_types = {
        alias.name: (node.module or "").removeprefix("runner_engine.")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("runner_engine.")
        for alias in node.names
    }
    assert of_types == runner_engine.PLACES, "type checkers and programs see the same names"
    lines = Path(runner_engine.__file__).read_text().splitlines()
    for name in runner_engine.PLACES:
        assert getattr(runner_engine, name) is not None
        (line,) = [line for line in lines if line.startswith(f'    "{name}": ')]
        assert "  # " in line, f"what is {name}?"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'runner_engine' has no attribute 'Sesion'"):
        _ = runner_engine.Sesion
