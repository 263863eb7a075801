"""What makes a recipe: the Python that has a maker's package, or llama.cpp's programs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import runner
from runner.options.quantize.keys import QuantizeConfig
from runner.options.quantize.recipes import Maker
from runner.options.quantize.render.install import describe_install
from runner_base import ConfigError, one_line
from runner_engine.checkpoints import byteio

PROBE_S = 60.0
CHECKOUT = Path(runner.__file__).resolve().parents[1]
# prints the version of a distribution, and imports nothing of it
PROBE = """
import importlib.metadata as metadata, json, sys
try:
    print(json.dumps(metadata.version(sys.argv[1])))
except metadata.PackageNotFoundError:
    print("null")
"""
TYPES_WORD = "--tensor-type"  # of llama-quantize since 2025


@dataclass(frozen=True)
class Environment:
    """A Python with a maker's package, or one that starts its programs."""

    python: str
    version: str
    programs: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """Return where the maker is."""
        return self.programs[0] if self.programs else self.python


def environment_of(task: QuantizeConfig) -> Environment:
    """Return the environment that the keys name, or the first that is found; ConfigError with the
    line that installs it."""
    maker = task.kind.maker
    if maker.programs:
        return _with_programs(task, maker)
    if task.python is not None:
        path = Path(task.python).expanduser().absolute()
        path = path / "bin" / "python" if path.is_dir() else path
        if not path.is_file():
            raise ConfigError(
                f"there is no {path}. {describe_install(task)}",
                key="task.python",
                value=task.python,
                code="not_found",
            )
        found = _version_in(str(path), maker.distribution)
        if found is None:
            install = f"{path} -m pip install {maker.distribution}=={maker.version}"
            raise ConfigError(
                f"task.python={task.python} has no {maker.label}: {install}", code="needs_package"
            )
        return Environment(str(path), found)
    for folder in _places(maker):
        python = folder / "bin" / "python"
        if python.is_file() and (found := _version_in(str(python), maker.distribution)):
            return Environment(str(python), found)
    try:
        return Environment(sys.executable, version(maker.distribution))
    except PackageNotFoundError:
        raise _absent(task) from None


def _absent(task: QuantizeConfig) -> ConfigError:
    label = task.kind.maker.label
    return ConfigError(
        f"there is no {label} here: {describe_install(task)}",
        key="task.recipe",
        value=task.recipe.value,
        code="needs_package",
    )


def _places(maker: Maker) -> tuple[Path, ...]:
    return tuple(folder / ".makers" / maker.name for folder in (Path.cwd(), CHECKOUT))


# ------------------------------------------------------------------------------ llama.cpp's programs


def _with_programs(task: QuantizeConfig, maker: Maker) -> Environment:
    quantize = _quantizer(task, maker)
    names = maker.programs[1]
    beside = [path for name in names if (path := quantize.with_name(name)).is_file()]
    if task.kind.has_imatrix and not beside:
        raise ConfigError(
            f"there is no {names[0]} beside {quantize}: {describe_install(task)}",
            key="task.recipe",
            value=task.recipe.value,
            code="needs_package",
        )
    if task.overrides and TYPES_WORD not in _said(str(quantize)):
        raise ConfigError(
            f"{quantize} is too old for types of single tensors ({TYPES_WORD}): use a llama.cpp from "
            "2025 on, by task.executable=PATH, or leave it out",
            key="task.overrides",
            code="unsupported",
        )
    programs = tuple(map(str, (quantize, *beside[:1])))
    return Environment(sys.executable, _version_of(programs), programs)


def _quantizer(task: QuantizeConfig, maker: Maker) -> Path:
    """Return the path of llama-quantize: the key's, that of PATH, or that of the environment."""
    if task.executable is not None:
        found = shutil.which(str(Path(task.executable).expanduser()))
        if found is None:
            why = "there is no such program, or it may not be run"
            raise ConfigError(
                f"{why}. {describe_install(task)}",
                key="task.executable",
                value=task.executable,
                code="not_found",
            )
        return Path(found).absolute()
    if found := shutil.which(maker.programs[0][0]):
        return Path(found).absolute()
    for folder in _places(maker):
        for name in maker.programs[0]:
            for path in folder.glob(f"lib/python*/site-packages/bin/{name}"):
                return path
    raise _absent(task)


@cache
def _version_of(programs: tuple[str, ...]) -> str:
    """Return llama.cpp's build as a program says it, and what tells its builds apart."""
    digest = byteio.file_sha256(Path(programs[0]))[:12]
    said = _said(programs[-1], "--version")
    named = re.search(r"^version: (\S+)(?: \((\w+)\))?", said, re.M)
    build = f"b{named[1]} ({named[2]}), " if named is not None and named[2] else ""
    return f"{build}SHA-256 {digest}"


@cache
def _said(program: str, *words: str) -> str:
    """Return what a program prints."""
    try:
        done = subprocess.run(
            [program, *words],
            capture_output=True,
            text=True,
            timeout=PROBE_S,
            stdin=subprocess.DEVNULL,
            check=False,
            errors="replace",
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{program} does not run: {one_line(error)}", code="failed") from None
    return done.stdout + done.stderr


# --------------------------------------------------------------------------------- Python's packages


@cache
def _version_in(python: str, distribution: str) -> str | None:
    """Ask a Python which version of a package it has; None if it has none."""
    why = f"task.python={python} does not run as a Python"
    try:
        done = subprocess.run(
            [python, "-P", "-c", PROBE, distribution],
            capture_output=True,
            text=True,
            timeout=PROBE_S,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode:
            raise ConfigError(f"{why}: {one_line(done.stderr or done.returncode)}", code="failed")
        found: str | None = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{why}: {one_line(error)}", code="failed") from None
    return found
