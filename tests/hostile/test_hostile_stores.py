"""Stores with any content that runner-compare reads, and odd paths for --save: checked as the files
of test_hostile.py."""

from __future__ import annotations

import math
import sqlite3
import warnings
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import corpus
import pytest
from arena import Arena
from stores import INT8, NF4, NONE, Store, marks

pytestmark = pytest.mark.smoke(1)
NASTY = "<script>alert(1)</script></pre>\x1b]0;owned\x07\x1b[2J [red]x[/red] | $\\frac$ \u202e {{7*7}}"
BASELINE = ("--baseline", "quantization=none")
HERE = ("--output-dir", ".", "--experiment", "x")
BROKEN = {content for content in (*corpus.JSONS.values(), *corpus.LINES.values()) if content}


@pytest.fixture
def store(arena: Arena, new_database: Callable[[Path], None]) -> Store:
    new_database(arena.folder / "mlflow.db")
    with warnings.catch_warnings():  # SQLAlchemy's, when MLflow first uses it
        warnings.simplefilter("ignore")
        made = Store(arena.folder)
        made.experiment("x")
    return made


def other_schema(file: Path) -> None:
    with closing(sqlite3.connect(file)) as database:
        database.executescript(
            "create table experiments (name int); create table runs (x); insert into runs values (1)"
        )


def later_schema(file: Path) -> None:
    with closing(sqlite3.connect(file)) as database:
        database.executescript(
            "create table alembic_version (version_num); insert into alembic_version values ('zz')"
        )


DATABASES: dict[str, Callable[[Path], object]] = {
    "garbage": lambda file: file.write_bytes(bytes(range(256)) * 50),
    "text": lambda file: file.write_text("hello"),
    "torn": lambda file: file.write_bytes(b"SQLite format 3\x00" + bytes(3000)),
    "a folder": lambda file: file.mkdir(),
    "a loop": lambda file: file.symlink_to(file.name),
    "another schema": other_schema,
    "a later schema": later_schema,
}


@pytest.mark.parametrize("case", DATABASES)
def test_files_that_are_no_database_of_mlflow(arena: Arena, case: str) -> None:
    DATABASES[case](arena.folder / "mlflow.db")
    assert "mlflow.db" in arena.give("--output-dir", ".", module="compare")


@pytest.mark.slow
def test_hostile_texts_in_runs(arena: Arena, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    odd = {"n": math.nan, "correct": math.inf, "accuracy": -1e308, "decode_tok_per_s": -math.inf}
    tags = {
        "task": NASTY,
        "output_dir": NASTY,
        "fact.machine": NASTY,
        "task_version": NASTY,
        "mlflow.runName": NASTY,
    }
    store.job("x", "base", {**NONE, "task.instruction": NASTY}, marks(3, 4), questions=NASTY)
    store.job("x", "int8", {**INT8, "task.instruction": NASTY, "seed": NASTY}, marks(2, 4), questions=NASTY)
    store.job("x", "odd", NF4, marks(2, 4), metrics=odd)
    store.job("x", f"tags {NASTY}".replace("/", "-"), NF4, marks(2, 4), tags=tags)
    commands: tuple[tuple[str, ...], ...] = (
        BASELINE,
        ("--by", "task.instruction"),
        ("--format", "markdown"),
        ("--where", "n > 1"),
        ("--flips", "base", "int8"),
        ("--grid", NASTY),
        ("--runs", NASTY),
    )
    for more in commands:
        arena.give(*HERE, *more, "--save", "saved", module="compare", fails=None)
    printed = capsys.readouterr()
    pages = "".join((arena.folder / "saved" / f"comparison.{end}").read_text() for end in ("html", "md"))
    assert "\x1b" not in printed.out + printed.err + pages
    assert "\x07" not in printed.out + printed.err + pages
    assert "<script>alert" not in (arena.folder / "saved" / "comparison.html").read_text()


@pytest.mark.slow
def test_damaged_samples_repeats_and_plans(arena: Arena, store: Store) -> None:
    grid = store.grid("x", "g", ["base", "nf4"])
    plan = arena.folder / "artifacts" / grid / "artifacts" / "plan.json"
    lines = [{"measure": "decode_tok_per_s", "repeat": number, "value": 1.0} for number in range(3)]
    sweep: dict[str, Any] = {"repeats": lines, "tags": {"task": "sweep"}, "grid": grid}
    bad = [plan]
    for name, config in (("base", NONE), ("int8", INT8), ("nf4", NF4)):
        for job, keys, rest in ((name, {}, {"solved": marks(3, 4), "grid": grid}),
                                (f"s-{name}", {"task.name": "sweep", "task.repeats": "3"}, sweep)):  # fmt: skip
            folder = store.job("x", job, {**config, **keys}, **rest)
            copies = arena.folder / "artifacts" / store.run_ids[-1] / "artifacts"
            bad += [*folder.glob("*.jsonl"), *copies.glob("*.jsonl")] if name == "nf4" else []
    assert len(bad) == 5
    for content in BROKEN:
        for file in bad:
            file.write_bytes(content + b"\n")
        arena.give(*HERE, *BASELINE, "--format", "json", module="compare", fails=False)
        assert "samples.jsonl of nf4 is damaged" in arena.give(
            *HERE, "--flips", "base", "nf4", module="compare"
        )
        assert "plan.json" in arena.give(*HERE, "--grid", "last", module="compare")


def test_odd_paths_to_save(arena: Arena, store: Store) -> None:
    store.job("x", "base", NONE, marks(3, 4))
    (arena.folder / "file").write_text("mine")
    (arena.folder / "loop").symlink_to("loop")
    for place in ("file", "file/below", "/proc/x", "x" * 300, "loop", "mlflow.db"):
        assert arena.give(*HERE, "--save", place, module="compare")
    for place in ("", "deep/" * 30, NASTY.replace("/", "")):
        arena.give(*HERE, "--save", place, module="compare", fails=False)
    assert (arena.folder / "file").read_text() == "mine"
