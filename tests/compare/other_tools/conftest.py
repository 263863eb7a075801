"""The command on other tools' files."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from full_table import with_everything

import runner_compare as compare


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run `runner-compare --results`; returns exit code, stdout and stderr."""

    def show(*arguments: object) -> tuple[int, str, str]:
        code = compare.main(["--results", *with_everything(arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return show


@pytest.fixture
def tables(run: Any) -> Callable[..., list[dict[str, Any]]]:
    """Run it for JSON; returns the tables."""

    def show(*arguments: object) -> list[dict[str, Any]]:
        code, out, err = run(*arguments, "--format", "json")
        assert code == 0, err
        found: list[dict[str, Any]] = json.loads(out)["tables"]
        return found

    return show


@pytest.fixture
def rejected(run: Any) -> Callable[..., str]:
    """Run it on what has to be rejected as wrong input; returns the message."""

    def show(*arguments: object) -> str:
        code, out, err = run(*arguments)
        assert (code, out) == (2, ""), err
        assert "Traceback" not in err
        return str(err)

    return show
