"""What a quick command imports of the libraries that take a second or more."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

HEAVY = (
    "torch",
    "transformers",
    "mlflow",
    "scipy",
    "pandas",
    "datasets",
    "bitsandbytes",
    "torchao",
    "gguf",
    "peft",
    "accelerate",
    "matplotlib",
    "fastapi",
    "uvicorn",
    "openai",
)


def heavy_imports(code: str, folder: Path) -> list[str]:
    """Run a command, given as code, in a folder; return the heavy libraries that it has
    imported."""
    program = f"""
import atexit, os, sys
heavy = {HEAVY!r}
atexit.register(lambda: print("HEAVY", [name for name in heavy if name in sys.modules]))
{code}
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: list[str] = ast.literal_eval(done.stdout.rpartition("HEAVY ")[2])
    return found
