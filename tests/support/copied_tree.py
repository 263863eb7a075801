"""A copy of the project's files, in which tests change what they must not change in the project itself."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def copy_tree(folder: Path, left_out: str = r"$^") -> None:
    """Copy what git tracks, and new files that it would, but those whose path begins as this pattern says."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if not re.match(left_out, name) and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


@dataclass
class CopiedTree:
    """A copy, whose modules are imported in place of the project's by what is run here."""

    folder: Path
    installed: Sequence[Path] = ()  # folders of packages that are found before those of this environment

    def run(self, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a module with Python."""
        path = os.pathsep.join(map(str, (self.folder, *self.installed)))
        return subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=cwd or self.folder, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def output_of(self, *arguments: str, cwd: Path | None = None) -> str:
        """Return what a module prints when it succeeds."""
        done = self.run(*arguments, cwd=cwd)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
        return done.stdout

    def run_tests(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run pytest."""
        return self.run("pytest", "-q", "-p", "no:cacheprovider", *arguments)
