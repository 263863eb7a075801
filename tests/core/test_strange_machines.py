"""Machines that are not like the one at hand: each is imitated around a whole job, which must end
with its answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

JOB = ["task.limit=3", "tracking=none", "print=json"]
ROOT_OF_ITS_OWN = ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "--mount"]
NO_PROC = 'mount -t tmpfs none /proc && exec "$@"'
READ_ONLY_HOME = 'mount -t tmpfs -o ro none "$HOME" && exec "$@"'
# musl gives a thread 128 KiB; glibc gives it the limit of the main thread's stack as it is at the
# start
SMALL_STACKS = """
import resource, runpy
resource.setrlimit(resource.RLIMIT_STACK, (8 << 20, resource.getrlimit(resource.RLIMIT_STACK)[1]))
runpy.run_module("runner", run_name="__main__", alter_sys=True)
"""
FOUR_GIB_OF_ADDRESSES = str(4 << 20)  # in KiB

pytestmark = [pytest.mark.slow, pytest.mark.smoke(3)]


def run(folder: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, with variables added to the environment."""
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env=os.environ | variables, check=False
    )


def metrics_of(done: subprocess.CompletedProcess[str]) -> dict[str, float]:
    """Return the metrics of a job that has ended well."""
    assert done.returncode == 0, done.stderr
    metrics: dict[str, float] = json.loads(done.stdout)["metrics"]
    assert metrics["correct"] == 3
    assert 200 < metrics["peak_rss_mib"] < 4000, "as torch alone takes"
    return metrics


def within(script: str, folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the program in a mount namespace of its own, which the script changes first."""
    if run(folder, *ROOT_OF_ITS_OWN, "true").returncode:
        pytest.skip("no mount namespaces here")
    return run(
        folder,
        *ROOT_OF_ITS_OWN,
        "sh",
        "-c",
        script,
        "sh",
        sys.executable,
        "-m",
        "runner",
        *words,
        **variables,
    )


def test_without_proc_what_is_not_known_is_not_recorded(tmp_path: Path) -> None:
    metrics = metrics_of(within(NO_PROC, tmp_path, *JOB, RUNNER_NATIVE="0"))
    assert "load_rss_mib" not in metrics
    assert metrics["load_peak_rss_mib"] > 200, "the peak is known from getrusage"
    refused = within(NO_PROC, tmp_path, "task=memory", *JOB[1:])
    assert refused.returncode == 2
    assert "error: task=memory: " in refused.stderr
    assert "/proc/self/status" in refused.stderr


@pytest.mark.thorough
def test_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    metrics_of(within(READ_ONLY_HOME, tmp_path, *JOB, HOME=str(home)))


def test_no_compiler(tmp_path: Path) -> None:
    done = run(tmp_path, sys.executable, "-m", "runner", *JOB, CC="/none")
    metrics_of(done)
    result = Path(json.loads(done.stdout)["output_dir"], "result.json").read_text()
    assert "by torch alone" in str(json.loads(result)["result"]["facts"]["decoding"])


def test_one_core(tmp_path: Path) -> None:
    metrics_of(run(tmp_path, "taskset", "--cpu-list", "0", sys.executable, "-m", "runner", *JOB))


def test_threads_with_small_stacks(tmp_path: Path) -> None:
    start = 'ulimit -S -s 128 && exec "$@"'
    metrics_of(run(tmp_path, "sh", "-c", start, "sh", sys.executable, "-c", SMALL_STACKS, *JOB))


def test_four_gib(tmp_path: Path) -> None:
    start = f'ulimit -v {FOUR_GIB_OF_ADDRESSES} && exec "$@"'
    metrics_of(run(tmp_path, "sh", "-c", start, "sh", sys.executable, "-m", "runner", *JOB))


@pytest.mark.parametrize("coerced", ["0", "1"])
def test_a_locale_without_letters_beyond_ascii(tmp_path: Path, coerced: str) -> None:
    plain = {
        "LANG": "C",
        "LC_ALL": "C" if coerced == "0" else "",
        "PYTHONCOERCECLOCALE": coerced,
        "PYTHONUTF8": "0",
    }
    metrics_of(run(tmp_path, sys.executable, "-m", "runner", *JOB, **plain))
    shown = run(tmp_path, sys.executable, "-m", "runner", *JOB[:2], **plain)
    assert shown.returncode == 0, shown.stderr
    assert "accuracy" in shown.stdout


def test_windows_is_told_what_to_do(tmp_path: Path) -> None:
    done = run(tmp_path, sys.executable, "-c", "import os; os.name = 'nt'; import runner.__main__")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: runner does not support Windows. Install WSL2 (wsl --install) and use runner in WSL2\n"
    )
