"""Real files of other tools in tests/data, and changed copies of them."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runner_compare.readers.archive import Archive

DATA = Path(__file__).resolve().parents[1] / "data"
INSPECT = DATA / "inspect_ai"

Members = dict[str, dict[str, Any]]  # the JSON files of an archive, by name


def log_of(name: str) -> Path:
    """Return a real log of inspect_ai."""
    return next((INSPECT / name).iterdir())


def members_of(path: Path) -> Members:
    """Return the header and the samples of a log."""
    with Archive(path) as archive:
        return {
            name: json.loads(archive.read_member(name))
            for name in [*archive.json_names_in_folder("samples/"), "header.json"]
        }


def unequal_questions(here: int, there: int, equal: int) -> str:
    """Return the note of a row whose questions are not those of the baseline."""
    return f"the run has {here} questions, the baseline has {there}, and only {equal} are equal"


def changed_log(path: Path, change: Callable[[Members], None], *, source: str = "none") -> Path:
    """Write a changed copy of a real log, packed with deflate as older versions of inspect_ai
    pack."""
    members = members_of(log_of(source))
    change(members)
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, json.dumps(content))
    return path


VLLM = DATA / "vllm"
LIGHTEVAL = DATA / "lighteval"


def lighteval_copy(folder: Path, name: str = "whole") -> tuple[Path, Path]:
    """Copy real results of lighteval; returns the results file, and the samples of the task
    `sums`."""
    shutil.copytree(LIGHTEVAL / name, folder)
    return next(folder.rglob("results_*.json")), next(folder.rglob("details_sums*.parquet"))


def rewrite_rows(path: Path, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    """Change the rows of a parquet file."""
    import pyarrow
    from pyarrow import parquet

    rows = parquet.read_table(path).to_pylist()
    change(rows)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
