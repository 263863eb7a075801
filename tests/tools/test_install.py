"""tools/install.py: pip's settings reach uv, and pip installs where uv does not."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools import hashes, install

ROOT = Path(__file__).resolve().parents[2]

LISTING = """:env:.find-links='/wheels /more wheels'
global.extra-index-url='file:///one file:///two'
global.find-links='/other'
install.cert='/a.pem'
global.no-cache-dir='true'
"""


def test_of_a_setting_in_several_sections_the_variable_counts() -> None:
    settings = install.pip_settings(LISTING)
    assert settings["find-links"] == "/wheels /more wheels"
    assert install.uv_variables(settings) == {
        "UV_INDEX": "file:///one file:///two",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": "/wheels,/more,wheels",
        "SSL_CERT_FILE": "/a.pem",
    }


def test_without_settings_uv_keeps_its_own_rules() -> None:
    assert install.uv_variables(install.pip_settings("")) == {}


@pytest.mark.parametrize(("failing", "wanted"), [("", ["uv"]), ("pip uv", ["pip"]), ("uv", ["uv", "pip"])])
def test_pip_installs_where_uv_does_not(
    monkeypatch: pytest.MonkeyPatch, failing: str, wanted: list[str]
) -> None:
    """A stand-in for the programs: no test may change the environment that it runs in."""
    installed_with: list[str] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        program = command[2]
        if "-e" in command:
            installed_with.append(program)
        failed = (program == "uv" and failing == "uv") or (
            program == "pip" and "uv" in command and failing == "pip uv"
        )
        return subprocess.CompletedProcess(command, int(failed), stdout="", stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    assert install.main() == 0
    assert installed_with == wanted


def test_pip_does_not_install_what_uv_found_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        changed = command[2] == "uv"
        said = "error: Hash mismatch for `six==1.17.0`" if changed else ""
        return subprocess.CompletedProcess(command, int(changed), stdout="", stderr=said)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(SystemExit, match="nothing was installed"):
        install.main()
    assert commands[-1][2] == "uv"


def test_every_pin_but_torch_has_digests_of_its_version() -> None:
    """After a change of constraints.txt: `make hashes`."""
    pins = {line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")}
    text = hashes.FILE.read_text()
    blocks = [block.split() for block in text.replace("\\\n", " ").splitlines() if not block.startswith("#")]
    assert {normal(block[0]) for block in blocks} == {normal(pin) for pin in pins}
    assert [block[0] for block in blocks if len(block) < 2] == ["torch==2.13.0"]
    assert all(part.startswith("--hash=sha256:") for block in blocks for part in block[1:])
    assert "://" not in text


@pytest.mark.thorough
def test_every_package_that_the_tools_need_is_pinned() -> None:
    """Without a pin, and so without digests, `make install` takes whatever is newest that day."""
    pinned = {
        normal(line).partition("==")[0] for line in hashes.FILE.read_text().splitlines() if "==" in line
    }
    needed, waiting = set(), [Requirement("runner-llm[dev]")]
    while waiting:
        wanted = waiting.pop()
        if (name := canonicalize_name(wanted.name)) in needed and not wanted.extras:
            continue
        needed.add(name)
        for requirement in map(Requirement, distribution(name).requires or []):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in (wanted.extras or {""})):
                waiting.append(requirement)
    # torch's CUDA build brings them; CI has the CPU build
    of_cuda = re.compile("nvidia-|cuda-|triton$")
    unpinned = {name for name in needed - pinned if not of_cuda.match(name)}
    assert unpinned == {"runner-llm", "setuptools"}


def normal(pin: str) -> str:
    name, _, version = pin.partition("==")
    return f"{canonicalize_name(name)}=={version}"


def test_a_python_without_known_fixes_is_named() -> None:
    assert install.note_on_python((3, 11, 14)) == install.note_on_python((3, 11, 15)) == ""
    assert install.note_on_python((3, 11, 7)) == (
        "note: Python 3.11.7 lacks security fixes for zipfile and tarfile. If you open untrusted archives, "
        "upgrade to 3.11.14 or later (SECURITY.md)"
    )


def test_what_the_programs_write_is_said() -> None:
    """A stand-in for uv writes 60 MB and stays until it is told to end."""
    line = install.Written()
    assert "written" not in line()
    code = "import sys; open('/dev/null', 'wb').write(bytes(60_000_000)); print(flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as writer:  # type: ignore[call-overload]
        writer.stdout.readline()
        assert "0.1 of about 2.6 GB written" in line()
        line.most = 4_600_000_000  # torch's CUDA build
        assert "4.6 GB written" in line()
        writer.stdin.close()
