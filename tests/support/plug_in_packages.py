"""Packages with plug-ins: the example, installed by pip, and small ones that are written by a
test."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

EXAMPLE = Path(__file__).parent / "plugin"


def install_example(folder: Path) -> Path:
    """Install the example into a folder, as pip does; with that on the path it is an installed
    package."""
    quiet = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *quiet, "--target", str(folder), str(EXAMPLE)], check=True
    )
    return folder


def write_package(folder: Path, name: str, entry_points: str, version: str = "2.0", **modules: str) -> Path:
    """Write an installed package with entry points and modules; return the folder for the path."""
    about = folder / f"{name}-{version}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (about / "entry_points.txt").write_text(entry_points)
    for module, text in modules.items():
        (folder / module).mkdir(exist_ok=True)
        (folder / module / "__init__.py").write_text(text)
    return folder


def write_conf(folder: Path, package: str, files: Mapping[str, str]) -> None:
    """Write files below conf/ of a package."""
    for name, text in files.items():
        path = folder / package / "conf" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
