"""Makes the environment of a recipe's package: `python -m tools.makers RECIPE …`.

What the package needs beside its pins comes from the environment that runs this file, such as torch
for a CPU: an environment of its own would bring gigabytes for GPUs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import sysconfig
from pathlib import Path

from runner.options.quantize.environment import CHECKOUT
from runner.options.quantize.recipes import KINDS, Recipe


def main() -> None:
    """Make the environments of these recipes, or of all."""
    parser = argparse.ArgumentParser(prog="python -m tools.makers", description=__doc__)
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help="task.recipe; default: all")
    recipes = parser.parse_args().recipes
    if unknown := {*recipes} - {*Recipe}:
        parser.error(f"RECIPE={min(unknown)}: choose among {', '.join(Recipe)}")
    for maker in dict.fromkeys(KINDS[Recipe(name)].maker for name in recipes or Recipe):
        folder = CHECKOUT / ".makers" / maker.name
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = folder / "bin" / "python"
        pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([str(python), *pip, *maker.pinned_requirements], check=True)
        purelib = subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
        for program in Path(purelib, "bin").glob("*"):
            program.chmod(0o755)  # pip leaves them without
        Path(purelib, "rest.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
        print(f"{folder}: {', '.join(maker.pinned_requirements)}")


if __name__ == "__main__":
    main()
