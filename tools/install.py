"""Installs the runner and its tools into the environment of the Python that runs this file (`python
-m tools.install`), or into a new one (`python -m tools.install FOLDER`).

uv installs, because it resolves and unpacks in parallel. pip installs where uv is not available or
fails. uv does not read pip's settings (another index, a folder with wheels, a certificate), so this
passes them on. The kernels are built meanwhile. Every 10 s a line says how far it is.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from runner_base import format_duration, heartbeat, report_step

SAFE_PYTHON = (3, 11, 14)  # the lowest with the fixes of zipfile and tarfile
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
CONSTRAINTS = ["-c", "constraints.txt"]
PACKAGES = ["-e", ".[dev]"]
# uv compares files with it; pip would demand a digest of the project, too
HASHES = ["-c", "constraints-hashes.txt"]
DIFFERENT = """a file of a package has another digest than in constraints-hashes.txt, so nothing was installed.
Where your index builds its packages itself: pip install -c constraints.txt -e '.[dev]' compares no digests"""
SECTIONS = (":env:", "install", "global")  # of pip's settings, the first one that has a key counts
# A setting of pip, the variable by which uv reads it, and what separates several values there.
SETTINGS = (
    ("index-url", "UV_DEFAULT_INDEX", " "),
    ("extra-index-url", "UV_INDEX", " "),
    ("find-links", "UV_FIND_LINKS", ","),
    ("constraint", "UV_CONSTRAINT", " "),
    ("cert", "SSL_CERT_FILE", " "),
    ("timeout", "UV_HTTP_TIMEOUT", " "),
    ("default-timeout", "UV_HTTP_TIMEOUT", " "),
)


INSTALLED_GB = 2.6  # size of the packages on the disk with torch's CPU build; its CUDA build brings more
# The kernels need no package, and the C compiler translates them on one core.
KERNELS = [sys.executable, "-m", "runner_engine.kernels.building"]
# Then Python's files on all cores: of the packages that most jobs import, and of transformers' families those two that
# the demo does. What else is imported compiles itself then, once: all files together take twice as long.
COMPILED = (
    *("accelerate", "alembic", "antlr4", "bitsandbytes", "chardet", "huggingface_hub", "hydra", "jinja2"),
    *("mlflow", "mpmath", "networkx", "numpy", "omegaconf", "pydantic", "rich", "sqlalchemy", "sympy"),
    *("tokenizers", "torch", "transformers", "yaml"),
    # the compiler warns of these: users would see it, and tests would fail
    *("torchao/quantization/quant_api.py", "lm_eval/tasks/aime", "lm_eval/tasks/hendrycks_math"),
    "lm_eval/tasks/ifeval",
)
LEFT_OUT = "|".join(
    (
        r"/(tests|testing|benchmarks)/",
        r"/huggingface_hub/(cli|inference)/",
        r"/mlflow/(assistant|cli|demo|gateway|genai|langchain|metrics|models|projects|pyfunc|server|transformers)/",
        r"/numpy/(distutils|f2py)/",
        r"/pydantic/v1/",
        r"/sympy/(categories|codegen|combinatorics|parsing|physics|stats|vector)/",
        r"/torch/(_vendor|ao/ns|distributed/(checkpoint|elastic|optim|pipelining)|utils/(benchmark|hipify))/",
        r"/transformers/(exporters|pipelines)/",
        r"/transformers/models/(?!auto/|llama/)\w+/",
    )
)
COMPILE = [
    *(sys.executable, "-W", "ignore::SyntaxWarning", "-m", "compileall"),
    *("-qq", "-j", "0", "-x", LEFT_OUT),
]


def pip_settings(listing: str) -> dict[str, str]:
    """Read the output of `pip config list`; of a key in several sections, the value that counts."""
    values: dict[tuple[str, str], str] = {}
    for line in listing.splitlines():
        name, equals, value = line.partition("=")
        section, dot, key = name.rpartition(".")
        if equals and dot:
            values[section, key] = str(ast.literal_eval(value))
    return {
        key: values[section, key] for section in reversed(SECTIONS) for at, key in values if at == section
    }


def uv_variables(settings: Mapping[str, str]) -> dict[str, str]:
    """Return pip's settings as the variables that uv reads."""
    variables = {
        variable: separator.join(settings[name].split())
        for name, variable, separator in SETTINGS
        if name in settings
    }
    if (
        "UV_INDEX" in variables
    ):  # like pip, look for a version in all indexes and not only in the first with the package
        variables["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    return variables


def install_with_uv() -> bool:
    """Install with uv; return False if uv is not available or fails for another reason than a wrong
    digest."""
    if subprocess.run([*PIP, "install", "--quiet", *CONSTRAINTS, "uv"], check=False).returncode:
        return False
    listing = subprocess.run([*PIP, "config", "list"], capture_output=True, text=True, check=True).stdout
    command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", sys.executable]
    environment = uv_variables(pip_settings(listing)) | os.environ
    done = subprocess.run(
        [*command, *HASHES, *PACKAGES], env=environment, stderr=subprocess.PIPE, text=True, check=False
    )
    sys.stderr.write(done.stderr)
    if "Hash mismatch" in done.stderr:
        raise SystemExit(DIFFERENT)
    return not done.returncode


def note_on_python(version: tuple[int, ...]) -> str:
    """Return a warning if this Python lacks known security fixes; otherwise an empty text."""
    if version >= SAFE_PYTHON:
        return ""
    shown, safe = (".".join(map(str, one)) for one in (version, SAFE_PYTHON))
    return (
        f"note: Python {shown} lacks security fixes for zipfile and tarfile. If you open untrusted archives, "
        f"upgrade to {safe} or later (SECURITY.md)"
    )


def main() -> int:
    """Install everything; return pip's exit code if uv did not install it."""
    if note := note_on_python(tuple(sys.version_info[:3])):
        print(note, file=sys.stderr)
    if install_with_uv():
        return 0
    print(
        "uv could not install the packages; pip installs them now, which takes a few minutes and compares no digests",
        file=sys.stderr,
    )
    return subprocess.run(
        [*PIP, "install", "--quiet", "--no-compile", *CONSTRAINTS, *PACKAGES], check=False
    ).returncode


class Written:
    """How much the programs that install have written so far, as the line that says it."""

    def __init__(self) -> None:
        self.began, self.most = time.monotonic(), 0
        self.others = set(_children())  # what builds the kernels

    def __call__(self) -> str:
        """Return the line."""
        now = sum(_written_bytes(child) for child in _children() if child not in self.others)
        self.most = max(self.most, now)  # another program may have begun
        total = f" of about {INSTALLED_GB}" if self.most < INSTALLED_GB * 1e9 else ""
        done = f"{self.most / 1e9:.1f}{total} GB written, " if self.most else ""
        return f"installing packages … {done}{format_duration(time.monotonic() - self.began)}"


def _children() -> list[str]:
    """Return the ids of this process's children; none where the system does not list them."""
    with suppress(OSError):
        return [
            child
            for task in Path("/proc/self/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    return []


def _written_bytes(process: str) -> int:
    with suppress(OSError, ValueError):
        for line in Path(f"/proc/{process}/io").read_text().splitlines():
            if line.startswith("wchar:"):
                return int(line.split()[1])
    return 0


def create(folder: str) -> None:
    """Create an environment, and continue in its Python."""
    print(f"creating {folder} with {sys.executable}", file=sys.stderr, flush=True)
    with heartbeat.run_heartbeat(), report_step(f"creating {folder}"):
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = str(Path(folder, "bin", "python").absolute())
    os.execv(python, [python, "-m", "tools.install"])


def set_up() -> int:
    """Install everything, build the kernels meanwhile, and compile the packages' files; return the exit code."""
    print(
        f"installing about {INSTALLED_GB} GB of packages into {sys.prefix} and compiling the C kernels",
        file=sys.stderr,
        flush=True,
    )
    with heartbeat.run_heartbeat(), subprocess.Popen(KERNELS) as kernels:
        with report_step(Written()):
            code = main()
        if not code:
            with report_step("compiling the packages' Python files"):
                packages = Path(sysconfig.get_path("purelib"))
                subprocess.run([*COMPILE, *(str(packages / name) for name in COMPILED)], check=False)
        with report_step("building the kernels"):
            kernels.wait()
    return code


def entry(arguments: Sequence[str]) -> int:
    """Create the environment that is named, if one is, and install into it."""
    if arguments:
        create(arguments[0])
    return set_up()


if __name__ == "__main__":
    sys.exit(entry(sys.argv[1:]))
