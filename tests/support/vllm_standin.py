"""An environment with a stand-in for vLLM: it is found and started as vLLM is, and serves or fails
as a test says.

Its server is our own task=serve, which has the same API, or a program that ends as vLLM does.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FAILURES = {  # by what a test asks for: what it writes to its log, and its exit code
    "broken": ("(EngineCore pid=7) ERROR 11-26 22:00:00 [core.py:1] ValueError: the wheels came off\n"
               "(APIServer pid=6) RuntimeError: Engine core initialization failed. See root cause above.", 1),
    "no_memory": ("ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`.", 1),
    "bad_words": ("api_server.py: error: unrecognized arguments: --no-such-word", 2),
    "port_taken": ("OSError: [Errno 98] Address already in use", 1),
}  # fmt: skip
SERVER = """
import json, os, signal, subprocess, sys, time
from pathlib import Path

words = sys.argv[1:]
options = {{word: value for word, value in zip(words, [*words[1:], ""]) if word.startswith("--")}}
folder = Path(__file__).parents[3]
wish = (folder / "wish").read_text()
with (folder / "started").open("a") as started:
    print(json.dumps({{"pid": os.getpid(), "argv": sys.argv[1:]}}), file=started)
if wish in {failures!r}:
    words, code = {failures!r}[wish]
    print(words, file=sys.stderr)
    raise SystemExit(code)
helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)  # as a worker
(folder / "helper").write_text(str(helper.pid))
os.environ["PYTHONPATH"] = {root!r}
os.environ["RUNNER_API_KEY"] = os.environ["VLLM_API_KEY"]
name = options["--served-model-name"]
own = ["model=auto", f"model.name={{options['--model']}}", "model.dtype=float32"]
own = ["model=stub", "model.delay_s=0.2"] if wish == "stub" else own
command = [sys.executable, "-m", "runner", "task=serve", *own, f"task.port={{options['--port']}}"]
command += [f"task.model_name={{options['--served-model-name']}}"]
command += [f"output_dir={{folder / 'server'}}", "tracking=none"]
os.execv(sys.executable, command)
"""


PYTHON = """#!/bin/sh
case " $* " in
  *" -c "*) PYTHONPATH="{site}:{torch}" exec {python} "$@" ;;
esac
PYTHONPATH="{site}" exec {python} "$@"
"""


class VllmStandIn:
    """A folder like an environment's: `python` names its interpreter."""

    def __init__(self, folder: Path, wish: str = "serve", version: str = "0.32.0") -> None:
        self.folder, self.site = folder, folder / "site"
        package = self.site / "vllm"
        entry = package / "entrypoints" / "openai"
        entry.mkdir(parents=True)
        for inner in (package, package / "entrypoints", entry):
            (inner / "__init__.py").touch()
        (package / "_version.py").write_text(f"__version__ = version = '{version}'\n")
        words = package / "model_executor" / "layers" / "quantization" / "__init__.py"
        words.parent.mkdir(parents=True)
        words.write_text('QuantizationMethods = Literal[\n    "awq",\n    "fp8",\n    "mxfp8",\n]\n')
        (entry / "api_server.py").write_text(SERVER.format(failures=FAILURES, root=str(ROOT)))
        self.python = folder / "bin" / "python"
        self.python.parent.mkdir()
        # the probe reads this build, whichever one runs the tests
        cpu_torch = folder / "cpu_torch" / "torch"
        cpu_torch.mkdir(parents=True)
        (cpu_torch / "__init__.py").touch()
        (cpu_torch / "version.py").write_text("cuda: Optional[str] = None\n")
        self.python.write_text(PYTHON.format(site=self.site, torch=cpu_torch.parent, python=sys.executable))
        self.python.chmod(self.python.stat().st_mode | stat.S_IXUSR)
        self.wish(wish)

    def wish(self, wish: str) -> None:
        """Say what its next server does."""
        (self.site / "wish").write_text(wish)

    @property
    def started(self) -> list[str]:
        """One line for each server that was started."""
        file = self.site / "started"
        return file.read_text().splitlines() if file.exists() else []

    def remove(self) -> None:
        """Take vLLM away, and leave the Python."""
        shutil.rmtree(self.site / "vllm")


def is_alive(pid: int) -> bool:
    """Whether a process runs, and is not only waited for."""
    try:
        return os.access(f"/proc/{pid}", os.F_OK) and ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def vllm_keys(standin: VllmStandIn, *more: str) -> tuple[str, ...]:
    return (
        "model=vllm",
        "model.name=embedded",
        "model.dtype=float32",
        f"model.python={standin.python}",
        *more,
    )
