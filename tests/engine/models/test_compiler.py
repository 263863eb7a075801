"""Importing torch's compiler leaves nothing among the temporary files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = "from runner_engine.models.load_tokenizer import import_torch_compiler; import_torch_compiler()"


@pytest.mark.thorough
@pytest.mark.parametrize("left", [(), ("torchinductor_other",)])
def test_no_folder_is_left(tmp_path: Path, left: tuple[str, ...]) -> None:
    for name in left:
        (tmp_path / name).mkdir()
    own = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM], check=True, env=own | {"TMPDIR": str(tmp_path)}
    )  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == [*left]
