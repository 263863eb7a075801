"""Values of environment variables in keys: no traceback, and no secret in a record."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
SECRET = "sk-0123456789abcdef"
STUB = ("model=stub", "task.limit=1", "print=json")


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("key", "needed"),
    [("notes", "a mapping (names with values)"), ("metrics", "a list"), ("task.cluster", None)],
)
def test_one_value_where_several_belong_is_one_message(
    runner: Run, tmp_path: Path, key: str, needed: str | None
) -> None:
    done = runner(*STUB, f"{key}=${{oc.env:PLACE}}", cwd=tmp_path, PLACE="/somewhere")
    assert done.code == 2
    assert "Traceback" not in done.err
    if needed:
        assert f"{key}=/somewhere: must be {needed}, not a single value" in done.err


@pytest.mark.thorough
@pytest.mark.parametrize(
    "keys",
    [
        ("+notes.b=${oc.env:OPENAI_API_KEY}",),
        ("+notes.b={c:[1,'x ${oc.env:OPENAI_API_KEY} y']}",),
        (f"+notes.b={SECRET}",),
        ("tracking.experiment=${oc.env:OPENAI_API_KEY}",),
        ("output_dir=here/${oc.env:OPENAI_API_KEY}",),
        ("model.name=${oc.env:OPENAI_API_KEY}", "model=auto"),
        ("-m", "+notes.b=${oc.env:OPENAI_API_KEY}", "seed=1,2"),
    ],
)
def test_a_secret_is_refused_where_it_would_be_recorded(
    runner: Run, tmp_path: Path, keys: tuple[str, ...]
) -> None:
    done = runner(*STUB, *keys, cwd=tmp_path, database=False, OPENAI_API_KEY=SECRET)
    assert done.code == 2, done.err
    assert (
        "=***: the value of the environment variable OPENAI_API_KEY would be written to the run record"
        in done.err
    )
    assert SECRET not in done.err + done.out
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.thorough
def test_other_values_of_the_environment_are_recorded(runner: Run, tmp_path: Path) -> None:
    done = runner(
        *STUB, "tracking=none", "+notes.b=${oc.env:PLACE}", cwd=tmp_path,
        PLACE="here", OPENAI_API_KEY=SECRET, SHORT_KEY="here",
    )  # fmt: skip
    assert done.code == 0, done.err
