"""What a quick command imports of the option."""

from __future__ import annotations

import subprocess
import sys


def test_the_kind_of_model_imports_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "mlflow", "scipy", "pandas")
    program = (
        f"import sys, runner.options.parts.kind; print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
