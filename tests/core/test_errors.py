"""Errors that become one message."""

from __future__ import annotations

import os
import pickle
import tempfile
from pathlib import Path

import pytest
from raising import raises

from runner_base.errors import (
    ConfigError,
    JobFailed,
    OutputError,
    check_output_folder,
    memory_errors_as_job_failed,
    run_with_exit_code,
)


def test_memory_that_runs_out_is_said_and_other_errors_are_as_they_were() -> None:
    @memory_errors_as_job_failed()
    def run_out() -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with raises(JobFailed, "too_large"):
        run_out()
    for error in (
        RuntimeError("shapes cannot be multiplied"),
        ConfigError("out of memory is in these words", code="bad_value"),
    ):
        with pytest.raises(type(error)) as raised, memory_errors_as_job_failed():
            raise error
        assert raised.value is error


@pytest.mark.parametrize(
    ("named", "place"),
    [
        ("file", "{here}/file"),
        ("file/x/y", "{here}/file"),
        ("link", "{here}/link"),
        ("link/x", "{here}/link"),
        ("loop", "{here}/loop"),
        ("n" * 300, "{here}/nnn"),
        ("/dev/null/x", "/dev/null"),
    ],
)
def test_what_can_be_no_output_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("gone")
    (tmp_path / "loop").symlink_to("loop")
    for is_written in (True, False):
        with raises(OutputError, "refused", "output_dir") as refused:
            check_output_folder("output_dir", named, is_written)
        assert refused.value.value == named
        assert refused.value.reason.startswith(place.format(here=tmp_path))


def test_a_folder_that_may_not_be_written_will_do_for_a_plan() -> None:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o555)
        before = os.geteuid()
        if before == 0:
            os.seteuid(65534)  # root may write everywhere
        try:
            check_output_folder("output_dir", f"{name}/new", needs_write=False)
            with raises(OutputError, "refused", "output_dir"):
                check_output_folder("output_dir", f"{name}/new")
        finally:
            os.seteuid(before)


def test_a_folder_that_will_be_made_is_no_problem(tmp_path: Path) -> None:
    check_output_folder("output_dir", str(tmp_path / "a" / "b"))
    (tmp_path / "link").symlink_to(tmp_path)
    check_output_folder("output_dir", str(tmp_path / "link" / "c"))
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def failing_cleanup(*of_cleanup: Exception) -> int:
    """Be interrupted, and fail while what was begun is put back."""
    try:
        raise KeyboardInterrupt("21 kept")
    finally:
        for error in of_cleanup:
            raise error


def test_an_error_amid_an_interrupt_is_the_interrupt(capsys: pytest.CaptureFixture[str]) -> None:
    """As of a library that an interrupt left in a state in which its own cleanup fails."""

    def masked_twice() -> int:
        try:
            return failing_cleanup(AttributeError("of a library"))
        except AttributeError as error:
            raise ValueError("about a key") from error

    for work in (lambda: failing_cleanup(AttributeError("of a library")), masked_twice):
        with pytest.raises(KeyboardInterrupt, match="21 kept"):
            run_with_exit_code("error", work, str)
    assert capsys.readouterr().err == ""


def test_what_the_program_itself_says_amid_an_interrupt_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run_with_exit_code(
            "error", lambda: failing_cleanup(OutputError("the disk is full", code="too_large"))
        )
        == OutputError.exit_code
    )
    assert "the disk is full" in capsys.readouterr().err


def test_an_error_from_another_process_reads_as_before() -> None:
    for error in (
        ConfigError("why", key="k", code="damaged"),
        ConfigError("why", key="k", value=None, code="missing"),
    ):
        sent = pickle.loads(pickle.dumps(error))
        assert (str(sent), sent.code) == (str(error), error.code)
