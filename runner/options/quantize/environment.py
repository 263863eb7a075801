"""Finds the Python environment of a recipe's quantizer package, or the programs of llama.cpp."""

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
from runner.options.quantize.recipes import QuantizerPackage
from runner.options.quantize.render.install import format_quantizer_install_instructions
from runner_base import ConfigError, to_one_line
from runner_engine.checkpoints import file_io

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
class QuantizerEnvironment:
    """Python environment of a quantizer process.

    Contains the quantizer package, or starts llama.cpp's programs.
    """

    python: str
    version: str
    programs: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """Path of the quantizer, which is a Python interpreter or a llama.cpp program."""
        return self.programs[0] if self.programs else self.python


def find_quantizer_environment(task: QuantizeConfig) -> QuantizerEnvironment:
    """Return the configured environment, or the first one found. Raises ConfigError with an install
    command if none exists.
    """
    maker = task.recipe_properties.maker
    if maker.programs:
        return _find_llama_cpp(task, maker)
    if task.python is not None:
        path = Path(task.python).expanduser().absolute()
        path = path / "bin" / "python" if path.is_dir() else path
        if not path.is_file():
            raise ConfigError(
                f"there is no {path}. {format_quantizer_install_instructions(task)}",
                key="task.python",
                value=task.python,
                code="not_found",
            )
        found = _read_package_version(str(path), maker.distribution)
        if found is None:
            install = f"{path} -m pip install {maker.distribution}=={maker.version}"
            raise ConfigError(
                f"task.python={task.python} has no {maker.label}: {install}", code="needs_package"
            )
        return QuantizerEnvironment(str(path), found)
    for folder in _environment_folders(maker):
        python = folder / "bin" / "python"
        if python.is_file() and (found := _read_package_version(str(python), maker.distribution)):
            return QuantizerEnvironment(str(python), found)
    try:
        return QuantizerEnvironment(sys.executable, version(maker.distribution))
    except PackageNotFoundError:
        raise _not_installed_error(task) from None


def _not_installed_error(task: QuantizeConfig) -> ConfigError:
    label = task.recipe_properties.maker.label
    return ConfigError(
        f"{label} is not installed: {format_quantizer_install_instructions(task)}",
        key="task.recipe",
        value=task.recipe.value,
        code="needs_package",
    )


def _environment_folders(package: QuantizerPackage) -> tuple[Path, ...]:
    return tuple(folder / ".makers" / package.name for folder in (Path.cwd(), CHECKOUT))


# ------------------------------------------------------------------------------ llama.cpp's programs


def _find_llama_cpp(task: QuantizeConfig, package: QuantizerPackage) -> QuantizerEnvironment:
    quantize = _find_llama_quantize(task, package)
    names = package.programs[1]
    beside = [path for name in names if (path := quantize.with_name(name)).is_file()]
    if task.recipe_properties.has_imatrix and not beside:
        raise ConfigError(
            f"{names[0]} is missing in the folder of {quantize}: {format_quantizer_install_instructions(task)}",
            key="task.recipe",
            value=task.recipe.value,
            code="needs_package",
        )
    if task.overrides and TYPES_WORD not in _read_program_output(str(quantize)):
        raise ConfigError(
            (
                f"task.overrides needs the option {TYPES_WORD}, which {quantize} does not support. "
                "Give llama.cpp of 2025 or later with task.executable=PATH, or omit task.overrides"
            ),
            key="task.overrides",
            code="unsupported",
        )
    programs = tuple(map(str, (quantize, *beside[:1])))
    return QuantizerEnvironment(sys.executable, _read_llama_cpp_version(programs), programs)


def _find_llama_quantize(task: QuantizeConfig, package: QuantizerPackage) -> Path:
    if task.executable is not None:
        found = shutil.which(str(Path(task.executable).expanduser()))
        if found is None:
            why = "llama-quantize does not exist at this path, or is not executable"
            raise ConfigError(
                f"{why}. {format_quantizer_install_instructions(task)}",
                key="task.executable",
                value=task.executable,
                code="not_found",
            )
        return Path(found).absolute()
    if found := shutil.which(package.programs[0][0]):
        return Path(found).absolute()
    for folder in _environment_folders(package):
        for name in package.programs[0]:
            for path in folder.glob(f"lib/python*/site-packages/bin/{name}"):
                return path
    raise _not_installed_error(task)


@cache
def _read_llama_cpp_version(programs: tuple[str, ...]) -> str:
    """Identify a llama.cpp build by its number and a hash of the program. Builds can share a number."""
    digest = file_io.hash_file_sha256(Path(programs[0]))[:12]
    said = _read_program_output(programs[-1], "--version")
    named = re.search(r"^version: (\S+)(?: \((\w+)\))?", said, re.M)
    build = f"b{named[1]} ({named[2]}), " if named is not None and named[2] else ""
    return f"{build}SHA-256 {digest}"


@cache
def _read_program_output(program: str, *arguments: str) -> str:
    """Run a program and return its output."""
    try:
        done = subprocess.run(
            [program, *arguments],
            capture_output=True,
            text=True,
            timeout=PROBE_S,
            stdin=subprocess.DEVNULL,
            check=False,
            errors="replace",
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{program} does not run: {to_one_line(error)}", code="failed") from None
    return done.stdout + done.stderr


# --------------------------------------------------------------------------------- Python's packages


@cache
def _read_package_version(python: str, package_name: str) -> str | None:
    why = f"task.python={python} is not a working Python interpreter"
    try:
        done = subprocess.run(
            [python, "-P", "-c", PROBE, package_name],
            capture_output=True,
            text=True,
            timeout=PROBE_S,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode:
            raise ConfigError(f"{why}: {to_one_line(done.stderr or done.returncode)}", code="failed")
        found: str | None = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{why}: {to_one_line(error)}", code="failed") from None
    return found
