"""A copy of the project's files, in which tests change what they must not change in the project
itself."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def copy_tree(folder: Path, left_out: str = r"$^") -> None:
    """Copy what git tracks, and new files that it would, but those whose path begins as this
    pattern says."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if not re.match(left_out, name) and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


@dataclass
class CopiedTree:
    """A copy, and an environment whose Python imports the copy's modules in place of the project's.

    A variable could not do so: tests start processes with a PYTHONPATH of their own.
    """

    folder: Path
    home: Path  # of the environment

    def __post_init__(self) -> None:
        venv.create(self.home, with_pip=False)
        # .pth files are read in the order of their names
        (self.site / "a_copy.pth").write_text(f"{self.folder}\n")
        # this environment's packages are visible, but not its editable project, because .pth files
        # do not nest
        packages = dict.fromkeys(
            [sysconfig.get_paths()["purelib"], *(path for path in sys.path if "-packages" in path)]
        )
        (self.site / "borrowed.pth").write_text("".join(f"{path}\n" for path in packages))

    @property
    def site(self) -> Path:
        """The folder of the environment's packages, which are found before those of the present
        one."""
        return next((self.home / "lib").glob("python*/site-packages"))

    def run(self, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a module with Python."""
        variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        return subprocess.run(
            [str(self.home / "bin" / "python"), "-m", *arguments],
            cwd=cwd or self.folder, env=variables, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def output_of(self, *arguments: str, cwd: Path | None = None) -> str:
        """Return what a module prints when it succeeds."""
        done = self.run(*arguments, cwd=cwd)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
        return done.stdout

    def run_tests(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run pytest."""
        return self.run("pytest", "-q", "-p", "no:cacheprovider", *arguments)
