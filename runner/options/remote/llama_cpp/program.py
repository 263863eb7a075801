"""Finds llama-server, or a Python environment with xllamacpp, and reads its version, devices and flags."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import runner
from runner.options.remote.llama_cpp import xllamacpp_main
from runner.options.remote.llama_cpp.keys import LlamaCppConfig
from runner_base import ConfigError, to_one_line
from runner_base.errors import NOT_GIVEN

PROBE_S = 60.0
SERVER = "llama-server"
CHECKOUT = Path(runner.__file__).resolve().parents[1]
HOW = (
    "install llama.cpp (https://github.com/ggml-org/llama.cpp/releases) and put llama-server "
    "on PATH, or give model.executable=PATH. Without a build, use `make llama_cpp` in a "
    "checkout of the runner, or `pip install xllamacpp` in an environment and "
    "model.python=ENVIRONMENT"
)
# prints what xllamacpp knows of itself
PROBE = """
import json
from importlib.util import find_spec

found = {}
if find_spec("xllamacpp") is not None:
    import xllamacpp
    devices = [device for device in xllamacpp.get_device_info() if device["name"] != "CPU"]
    build = getattr(xllamacpp, "BUILD_INFO", None)
    found = {
        "version": xllamacpp.__version__,
        "build": f"b{build['build_number']} {build['commit']}" if build and build["build_number"] else "",
        "devices": [f"{device['name']}: {device['description']}" for device in devices],
    }
print(json.dumps(found))
"""


@dataclass(frozen=True)
class LlamaCppProgram:
    """An installed program that accepts the command line of llama-server."""

    command: tuple[str, ...]  # without its words
    version: str
    devices: tuple[str, ...]  # besides the CPU
    words: frozenset[str]  # of its command line; empty: unknown

    @property
    def label(self) -> str:
        """Version and devices of llama.cpp as text, for facts and messages."""
        return f"llama.cpp {self.version} on {self.device_names}"

    @property
    def device_names(self) -> str:
        return " and ".join(self.devices) or "the CPU"

    def find_supported_flag(self, *flags: str) -> str:
        return next((word for word in flags if word in self.words), flags[0])


def find_llama_cpp_program(model: LlamaCppConfig) -> LlamaCppProgram:
    """Find the configured llama.cpp program, or the first one that is installed.

    Raises ConfigError if there is none.
    """
    if model.python is not None:
        path = Path(model.python).expanduser().absolute()
        path = path / "bin" / "python" if path.is_dir() else path
        if not path.is_file():
            raise ConfigError(
                f"the Python interpreter {path} does not exist. Fix the path, or {HOW}",
                key="model.python",
                value=model.python,
                code="not_found",
            )
        found = _probe_xllamacpp(str(path))
        if found is None:
            install = f"{path} -m pip install xllamacpp"
            raise ConfigError(
                f"model.python={model.python} has no xllamacpp: {install}", code="needs_package"
            )
        return found
    if model.executable is not None:
        return _probe_llama_server(model.executable, "model.executable", model.executable)
    if shutil.which(SERVER) is not None:
        return _probe_llama_server(SERVER, SERVER, NOT_GIVEN)
    for folder in (Path(".llama_cpp").absolute(), CHECKOUT / ".llama_cpp"):
        python = folder / "bin" / "python"
        if python.is_file() and (found := _probe_xllamacpp(str(python))) is not None:
            return found
    own = _probe_xllamacpp(sys.executable)
    if own is not None:
        return own
    raise ConfigError(f"llama.cpp was not found: {HOW}", key="model", value="llama_cpp", code="needs_package")


def _probe_llama_server(name: str, key: str, value: object) -> LlamaCppProgram:
    """Find llama-server by path or name, and run it to read its version and flags."""
    path = shutil.which(str(Path(name).expanduser()))
    if path is None:
        raise ConfigError(
            f"llama-server does not exist at this path, or is not executable. Fix the path, or {HOW}",
            key=key,
            value=value,
            code="not_found",
        )
    label = key if value is NOT_GIVEN else f"{key}={value}"
    said = _run_program_with_flag(path, label, "--version")
    named = re.search(r"^version: (\S+)(?: \((\w+)\))?", said, re.M)
    if named is None:
        raise ConfigError(
            f"this program is not llama-server. Its --version prints {to_one_line(said)[:200] or 'nothing'}",
            key=key,
            value=value,
            code="unsupported",
        )
    version = f"b{named[1]}" + (f" ({named[2]})" if named[2] else "")
    listed = _run_program_with_flag(path, label, "--list-devices").partition("devices:")[2]
    devices = re.findall(r"^\s+(\w+: [^(\n]+?)\s*(?:\(|$)", listed, re.M)
    words = re.findall(r"(?<![\w-])--?[a-z][\w-]*", _run_program_with_flag(path, label, "--help"))
    return LlamaCppProgram((path,), version, tuple(devices), frozenset(words))


@cache
def _run_program_with_flag(path: str, label: str, flag: str) -> str:
    """Run a program with a single flag such as --version, and return its output."""
    try:
        done = subprocess.run(
            [path, flag],
            capture_output=True,
            text=True,
            timeout=PROBE_S,
            stdin=subprocess.DEVNULL,
            check=False,
            errors="replace",
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(
            f"{label} is not a working llama-server: {flag} failed: {to_one_line(error)}", code="failed"
        ) from None
    return done.stdout + done.stderr


@cache
def _probe_xllamacpp(python_path: str) -> LlamaCppProgram | None:
    why = f"model.python={python_path} is not a working Python interpreter"
    try:
        done = subprocess.run(
            [python_path, "-P", "-c", PROBE],
            capture_output=True,
            text=True,
            timeout=PROBE_S,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        found: dict[str, Any] | None = None
        if done.returncode == 0:
            found = json.loads(done.stdout.splitlines()[-1])
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{why}: {to_one_line(error)}", code="failed") from None
    if found is None:
        raise ConfigError(f"{why}: {to_one_line(done.stderr or done.returncode)}", code="failed")
    if not found:
        return None
    build = f" ({found['build']})" if found["build"] else ""
    version = f"of xllamacpp {found['version']}{build}"
    command = (python_path, "-P", str(Path(xllamacpp_main.__file__)))
    return LlamaCppProgram(command, version, tuple(found["devices"]), frozenset(xllamacpp_main.WORDS))
