"""The commands on the pages that install an extra find the runner where it is installed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.thorough
def test_pip_takes_the_installed_runner_and_asks_no_index() -> None:
    """Nothing is published as runner-llm, so without the installed runner these commands fail."""
    pages = "\n".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    extras = sorted(set(re.findall(r"pip install 'runner-llm\[([\w-]+)\]'", pages)))
    assert len(extras) > 5
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index"]
    done = subprocess.run(
        [*command, f"runner-llm[{','.join(extras)}]"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Would install" not in done.stdout
