"""Finds the Python environment with vLLM, and reads vLLM's version and device without importing vLLM."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import runner
from runner.options.remote.vllm.keys import VllmConfig
from runner_base import ConfigError, to_one_line

# with --default-chat-template-kwargs and the scores of a prompt's tokens; 0.32 is tested
OLDEST = (0, 14)
PROBE_S = 60.0
CHECKOUT = Path(runner.__file__).resolve().parents[1]
HOW = (
    "To install vLLM for GPUs, run `pip install vllm`. For CPUs, run `make vllm` in a clone of the "
    "runner's repository"
)
# prints what can be read from files: importing vLLM takes ten seconds
PROBE = r"""
import json, re, sys
from importlib.util import find_spec
from pathlib import Path

TOKENS_IN = "entrypoints/scale_out/token_in_token_out/serving.py"
found = {}
spec = find_spec("vllm")
if spec is not None and spec.origin:
    folder = Path(spec.origin).parent
    def read(path):
        return path.read_text() if path.is_file() else ""
    torch = find_spec("torch")
    of_torch = read(Path(torch.origin).parent / "version.py") if torch is not None and torch.origin else ""
    named = re.search(r"^__version__ = (?:version = )?['\"]([^'\"]+)", read(folder / "_version.py"), re.M)
    source = read(folder / "model_executor/layers/quantization/__init__.py")
    listed = re.search(r"QuantizationMethods = Literal\[(.*?)\n\]", source, re.S)
    found = {
        "version": named.group(1) if named else "",
        "on_cpu": not re.search(r"^(cuda|hip|xpu)\b[^=]*= *['\"]", of_torch, re.M),
        "has_module": (folder / "entrypoints/openai/api_server.py").is_file(),
        "names_tokens": "logprob_token_ids" in read(folder / "sampling_params.py"),
        "scores_in_one_pass": "prompt_logprob_token_ids" in read(folder / TOKENS_IN),
        "quantizations": re.findall(r"^\s*[\"']([^\"']+)", listed.group(1), re.M) if listed else [],
    }
print(json.dumps(found))
"""


@dataclass(frozen=True)
class VllmEnvironment:
    """A Python environment with vLLM: interpreter path, version and device."""

    python: str
    version: str
    on_cpu: bool  # its build has no GPU
    has_module: bool  # its server can be started as a module, without the metadata of the package
    names_tokens: bool  # it tells log-probabilities of tokens that are named
    scores_in_one_pass: bool  # and those of all places of a text at once, if its command line says so
    # for quantizing while loading; empty where the list was not found
    quantizations: tuple[str, ...]

    @property
    def server_base_command(self) -> list[str]:
        """Command that starts a vLLM server, without its options."""
        module = "vllm.entrypoints.openai.api_server" if self.has_module else "vllm.entrypoints.cli.main"
        return [self.python, "-m", module, *([] if self.has_module else ["serve"])]

    @property
    def label(self) -> str:
        """Version and device of vLLM as text, for facts and messages."""
        return f"vLLM {self.version}{' on the CPU' if self.on_cpu else ''}"


def find_vllm_environment(model: VllmConfig) -> VllmEnvironment:
    """Return the Python environment with vLLM. Raises ConfigError if there is none, or if its vLLM is
    too old.
    """
    python = _find_python(model)
    where = f"model.python={python}"
    found = _probe_vllm_environment(python)
    if found is None:
        raise ConfigError(
            f"vLLM is missing in {where}. Run `{python} -m pip install vllm`, or use another Python. {HOW}",
            code="needs_package",
        )
    numbers = tuple(int(number) for number in re.findall(r"\d+", found.version)[:2])
    if numbers < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise ConfigError(
            (
                f"{where} has vLLM {found.version or '(of an unknown version)'}, but model=vllm "
                f"needs {oldest} or newer. Run `{python} -m pip install --upgrade vllm`"
            ),
            code="needs_package",
        )
    return found


def _find_python(model: VllmConfig) -> str:
    if model.python is not None:
        path = Path(model.python).expanduser().absolute()
        path = path / "bin" / "python" if path.is_dir() else path
        if not path.is_file():
            raise ConfigError(
                f"{path} does not exist. {HOW}", key="model.python", value=model.python, code="not_found"
            )
        return str(path)
    usual = [
        Path(".vllm").absolute() / "bin" / "python",
        CHECKOUT / ".vllm" / "bin" / "python",
        Path(sys.executable),
    ]
    for path in usual:
        if path.is_file() and _probe_vllm_environment(str(path)) is not None:
            return str(path)
    raise ConfigError(
        (
            "vLLM is not installed, neither in .vllm nor in the runner's environment. "
            f"{HOW}. Then give model.python=ENVIRONMENT/bin/python"
        ),
        code="needs_package",
    )


@cache
def _probe_vllm_environment(python_path: str) -> VllmEnvironment | None:
    try:
        done = subprocess.run(
            [python_path, "-P", "-c", PROBE],
            capture_output=True,
            text=True,
            timeout=PROBE_S,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        found = json.loads(done.stdout) if done.returncode == 0 else None
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise ConfigError(
            f"model.python={python_path} is not a working Python interpreter: {to_one_line(error)}",
            code="failed",
        ) from None
    if found is None:
        raise ConfigError(
            f"model.python={python_path} is not a working Python interpreter: "
            f"{to_one_line(done.stderr or done.returncode)}",
            code="failed",
        )
    return (
        VllmEnvironment(python_path, **found | {"quantizations": tuple(found["quantizations"])})
        if found
        else None
    )
