"""tools/install.py: pip's settings reach uv, and pip installs where uv does not."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from tools import install

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
def test_pip_installs_where_uv_does_not(monkeypatch: pytest.MonkeyPatch, failing: str, wanted: list[str]) -> None:
    """A stand-in for the programs: no test may change the environment that it runs in."""
    installed_with: list[str] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        program = command[2]
        if "-e" in command:
            installed_with.append(program)
        failed = (program == "uv" and failing == "uv") or (program == "pip" and "uv" in command and failing == "pip uv")
        return subprocess.CompletedProcess(command, int(failed), stdout="")

    monkeypatch.setattr(subprocess, "run", run)
    assert install.main() == 0
    assert installed_with == wanted


def test_a_python_without_known_fixes_is_named() -> None:
    assert install.note_on_python((3, 11, 14)) == install.note_on_python((3, 11, 15)) == ""
    assert install.note_on_python((3, 11, 7)).startswith(
        "note: Python 3.11.7 lacks fixes of zipfile and tarfile: 3.11.14"
    )
